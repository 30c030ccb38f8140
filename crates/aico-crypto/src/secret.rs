use std::fmt;

use aico_ffi_memory::Slot;
use zeroize::Zeroize;

use crate::{Error, Random};

/// `N` secret bytes (at most 64) in memory that is neither swapped nor dumped; moving them leaves no copy behind; wiped
/// when dropped; never printed, compared with `==`, or cloned.
///
/// Outside this crate a `Secret` can be made and passed on, not looked into.
pub struct Secret<const N: usize>(Slot);

impl<const N: usize> Secret<N> {
    /// Makes a random secret.
    pub fn make(random: &dyn Random) -> Result<Self, Error> {
        let mut secret = Self::zero();
        random.fill(secret.bytes_mut())?;
        Ok(secret)
    }

    pub(crate) fn zero() -> Self {
        Self(Slot::take())
    }

    /// Copies `bytes`; the caller wipes its own copy.
    pub(crate) fn copy_of(bytes: &[u8; N]) -> Self {
        let mut secret = Self::zero();
        secret.bytes_mut().copy_from_slice(bytes);
        secret
    }

    /// Copies a slice of exactly `N` bytes, or fails.
    pub(crate) fn copy_of_slice(bytes: &[u8]) -> Result<Self, Error> {
        let mut secret = Self::zero();
        if bytes.len() != N {
            return Err(Error::Failed);
        }
        secret.bytes_mut().copy_from_slice(bytes);
        Ok(secret)
    }

    pub(crate) fn bytes(&self) -> &[u8; N] {
        self.0.bytes()
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8; N] {
        self.0.bytes_mut()
    }

    #[cfg(test)]
    pub(crate) fn same_as(&self, other: &Self) -> bool {
        crate::same_bytes(self.bytes(), other.bytes())
    }
}

/// Overwrites what the calls before this one left on the stack below here: libraries do not wipe their own variables.
#[inline(never)]
pub(crate) fn wipe_stack() {
    let mut left = [0u8; 32 * 1024];
    left.zeroize();
    std::hint::black_box(&left);
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret<{N}>(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsRandom;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::<4>::copy_of(&[1, 2, 3, 4]);
        assert_eq!(format!("{secret:?}"), "Secret<4>(..)");
    }

    #[test]
    fn made_secrets_differ() {
        let (a, b) = (Secret::<32>::make(&OsRandom).unwrap(), Secret::<32>::make(&OsRandom).unwrap());
        assert!(!a.same_as(&b));
        assert!(a.same_as(&Secret::copy_of(a.bytes())));
    }
}
