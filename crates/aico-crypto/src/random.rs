use crate::Error;

/// A source of randomness, passed in wherever something is *made*.
pub trait Random {
    /// Fills `out`, or fails with [`Error::Random`]; never a partial fill with success.
    fn fill(&self, out: &mut [u8]) -> Result<(), Error>;
}

/// The operating system's generator, behind aws-lc's DRBG.
#[derive(Clone, Copy, Debug, Default)]
pub struct OsRandom;

impl Random for OsRandom {
    fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
        aws_lc_rs::rand::fill(out).map_err(|_| Error::Random)
    }
}
