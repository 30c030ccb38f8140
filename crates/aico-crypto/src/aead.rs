//! XChaCha20-Poly1305: HChaCha20 by RustCrypto, ChaCha20-Poly1305 by aws-lc; byte-equal to libsodium's.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use chacha20::{R20, hchacha};

use crate::{ChannelKey, Error, Random, Secret};

/// Bytes of the authentication tag.
pub const TAG_BYTES: usize = 16;
/// Bytes of an XChaCha20 nonce.
pub const NONCE_BYTES: usize = 24;

/// The key of one direction of a channel in one generation.
#[derive(Debug)]
pub struct TrafficKey(pub(crate) Secret<32>);

impl TrafficKey {
    /// The key for records whose nonce starts with `prefix`: the HChaCha20 step, done once for all of them.
    pub fn record_key(&self, prefix: &[u8; 16]) -> Result<RecordKey, Error> {
        RecordKey::new(&self.0, prefix)
    }
}

/// A traffic key bound to a nonce prefix; a record differs by its 8-byte counter.
pub struct RecordKey(LessSafeKey);

impl std::fmt::Debug for RecordKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordKey(..)")
    }
}

impl RecordKey {
    fn new(key: &Secret<32>, prefix: &[u8; 16]) -> Result<Self, Error> {
        let mut derived = hchacha::<R20>(key.bytes().into(), prefix.into());
        let subkey = Secret::copy_of(&derived.0);
        zeroize::Zeroize::zeroize(&mut derived.0);
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, subkey.bytes()).map_err(|_| Error::Failed)?;
        Ok(Self(LessSafeKey::new(unbound)))
    }

    /// Encrypts `buffer[start..]` in place and appends the tag. `counter` must never repeat under this key.
    pub fn seal(&self, counter: u64, associated: &[u8], buffer: &mut Vec<u8>, start: usize) -> Result<(), Error> {
        let plaintext = buffer.get_mut(start..).ok_or(Error::Failed)?;
        let tag = self
            .0
            .seal_in_place_separate_tag(nonce(counter), Aad::from(associated), plaintext)
            .map_err(|_| Error::Failed)?;
        buffer.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// Decrypts `sealed` in place and returns the plaintext, its front part.
    pub fn open<'a>(&self, counter: u64, associated: &[u8], sealed: &'a mut [u8]) -> Result<&'a mut [u8], Error> {
        self.0.open_in_place(nonce(counter), Aad::from(associated), sealed).map_err(|_| Error::Failed)
    }
}

/// The last 8 bytes of the 24-byte nonce, as RFC 8439 wants them: 4 zero bytes in front.
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    let (_, tail) = bytes.split_at_mut(4);
    tail.copy_from_slice(&counter.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl ChannelKey {
    /// Seals one handshake part under nonce 0; the key is used up.
    pub fn seal_once(self, associated: &[u8], plaintext: &[u8]) -> Result<Vec<u8>, Error> {
        seal_with(&self.0, &[0; NONCE_BYTES], associated, plaintext)
    }

    /// Opens one handshake part; the key is used up.
    pub fn open_once(self, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
        open_with(&self.0, &[0; NONCE_BYTES], associated, sealed)
    }
}

/// XChaCha20-Poly1305 with a whole nonce.
pub(crate) fn seal_with(
    key: &Secret<32>,
    nonce: &[u8; NONCE_BYTES],
    associated: &[u8],
    plaintext: &[u8],
) -> Result<Vec<u8>, Error> {
    let (prefix, counter) = split(nonce);
    let mut buffer = Vec::with_capacity(plaintext.len() + TAG_BYTES);
    buffer.extend_from_slice(plaintext);
    RecordKey::new(key, &prefix)?.seal(counter, associated, &mut buffer, 0)?;
    Ok(buffer)
}

/// Opens what [`seal_with`] sealed.
pub(crate) fn open_with(
    key: &Secret<32>,
    nonce: &[u8; NONCE_BYTES],
    associated: &[u8],
    sealed: &[u8],
) -> Result<Vec<u8>, Error> {
    let (prefix, counter) = split(nonce);
    let mut buffer = sealed.to_vec();
    let bytes = RecordKey::new(key, &prefix)?.open(counter, associated, &mut buffer)?.len();
    buffer.truncate(bytes);
    Ok(buffer)
}

/// Seals under a fresh random nonce: `nonce(24) ‖ ciphertext ‖ tag(16)`.
pub(crate) fn seal_random(
    key: &Secret<32>,
    associated: &[u8],
    plaintext: &[u8],
    random: &dyn Random,
) -> Result<Vec<u8>, Error> {
    let mut nonce = [0; NONCE_BYTES];
    random.fill(&mut nonce)?;
    let mut out = nonce.to_vec();
    out.extend_from_slice(&seal_with(key, &nonce, associated, plaintext)?);
    Ok(out)
}

/// Opens what [`seal_random`] sealed.
pub(crate) fn open_random(key: &Secret<32>, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, Error> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE_BYTES>().ok_or(Error::Failed)?;
    open_with(key, nonce, associated, rest)
}

fn split(nonce: &[u8; NONCE_BYTES]) -> ([u8; 16], u64) {
    let (mut prefix, mut counter) = ([0; 16], [0; 8]);
    let (front, back) = nonce.split_at(16);
    prefix.copy_from_slice(front);
    counter.copy_from_slice(back);
    (prefix, u64::from_be_bytes(counter))
}

#[cfg(test)]
mod tests {
    use chacha20poly1305::aead::{Aead, KeyInit, Payload};
    use proptest::prelude::*;

    use super::*;
    use crate::OsRandom;

    proptest! {
        #[test]
        fn equals_rustcrypto(key: [u8; 32], nonce: [u8; 24], ad in prop::collection::vec(any::<u8>(), 0..80),
                             text in prop::collection::vec(any::<u8>(), 0..4096)) {
            let ours = seal_with(&Secret::copy_of(&key), &nonce, &ad, &text).unwrap();
            let theirs = chacha20poly1305::XChaCha20Poly1305::new(&key.into())
                .encrypt(&nonce.into(), Payload { msg: &text, aad: &ad }).unwrap();
            prop_assert_eq!(&ours, &theirs);
            prop_assert_eq!(open_with(&Secret::copy_of(&key), &nonce, &ad, &theirs).unwrap(), text);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = Secret::make(&OsRandom).unwrap();
        let sealed = seal_random(&key, b"ad", b"a secret", &OsRandom).unwrap();
        assert_eq!(open_random(&key, b"ad", &sealed).unwrap(), b"a secret");
        for bit in 0..sealed.len() * 8 {
            let mut bad = sealed.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open_random(&key, b"ad", &bad), Err(Error::Failed));
        }
        assert!(open_random(&key, b"other", &sealed).is_err());
        for cut in 0..sealed.len() {
            assert!(open_random(&key, b"ad", &sealed[..cut]).is_err());
        }
    }
}
