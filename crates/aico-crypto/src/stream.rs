//! Files in authenticated chunks: AES-256-GCM, each chunk bound to its place and to whether it is the last
//! (`docs/spec/vault.md`, Chunked files). The construction is STREAM (Hoang, Reyhanitabar, Rogaway, Vizár 2015).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};

use crate::{Error, FileKey, TAG_BYTES};

/// Plaintext bytes of every chunk but the last, which has 0 to this many.
pub const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes of a full chunk on disk.
pub const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;

/// Seals and opens the chunks of one file.
pub struct ChunkCipher {
    key: LessSafeKey,
    associated: Vec<u8>,
}

impl std::fmt::Debug for ChunkCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ChunkCipher(..)")
    }
}

impl FileKey {
    /// A cipher for one file. `associated` is bound into every chunk: the file's header.
    pub fn chunk_cipher(&self, associated: &[u8]) -> Result<ChunkCipher, Error> {
        let unbound = UnboundKey::new(&AES_256_GCM, self.0.bytes()).map_err(|_| Error::Failed)?;
        Ok(ChunkCipher { key: LessSafeKey::new(unbound), associated: associated.to_vec() })
    }
}

impl ChunkCipher {
    /// Encrypts `chunk` in place and appends the tag. An index is sealed once in the life of a file key.
    pub fn seal(&self, index: u64, last: bool, chunk: &mut Vec<u8>) -> Result<(), Error> {
        if chunk.len() > CHUNK_BYTES || (!last && chunk.len() != CHUNK_BYTES) {
            return Err(Error::Failed);
        }
        let aad = Aad::from(&self.associated);
        self.key.seal_in_place_append_tag(nonce(index, last), aad, chunk).map_err(|_| Error::Failed)
    }

    /// Decrypts `sealed` in place; it is left without its tag.
    pub fn open(&self, index: u64, last: bool, sealed: &mut Vec<u8>) -> Result<(), Error> {
        let aad = Aad::from(&self.associated);
        let plaintext = self.key.open_in_place(nonce(index, last), aad, sealed).map_err(|_| Error::Failed)?;
        let bytes = plaintext.len();
        sealed.truncate(bytes);
        Ok(())
    }
}

/// `0(3) ‖ last(1) ‖ index(8)`.
fn nonce(index: u64, last: bool) -> Nonce {
    let mut bytes = [0; 12];
    let (front, back) = bytes.split_at_mut(4);
    front.copy_from_slice(&[0, 0, 0, u8::from(last)]);
    back.copy_from_slice(&index.to_be_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsRandom;

    #[test]
    fn place_end_and_header_are_bound() {
        let key = FileKey::make(&OsRandom).unwrap();
        let cipher = key.chunk_cipher(b"header").unwrap();
        let mut sealed = vec![1; CHUNK_BYTES];
        cipher.seal(3, false, &mut sealed).unwrap();
        assert_eq!(sealed.len(), SEALED_CHUNK_BYTES);
        let opens = |c: &ChunkCipher, index, last, bytes: &[u8]| c.open(index, last, &mut bytes.to_vec()).is_ok();
        assert!(opens(&cipher, 3, false, &sealed));
        assert!(!opens(&cipher, 4, false, &sealed), "another place");
        assert!(!opens(&cipher, 3, true, &sealed), "cut to here");
        assert!(!opens(&key.chunk_cipher(b"other").unwrap(), 3, false, &sealed), "another file");
        assert!(!opens(&FileKey::make(&OsRandom).unwrap().chunk_cipher(b"header").unwrap(), 3, false, &sealed));
        sealed[7] ^= 1;
        assert!(!opens(&cipher, 3, false, &sealed), "a flipped bit");
    }

    #[test]
    fn sizes_are_held() {
        let cipher = FileKey::make(&OsRandom).unwrap().chunk_cipher(b"").unwrap();
        assert!(cipher.seal(0, false, &mut vec![0; 5]).is_err());
        assert!(cipher.seal(0, true, &mut vec![0; CHUNK_BYTES + 1]).is_err());
        assert!(cipher.open(0, true, &mut vec![0; 15]).is_err());
    }
}
