//! Files whose blocks are written anew in any order: AES-256-GCM, each write of a block under a fresh random nonce
//! (`docs/spec/tree.md`, Sealed files).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::{Error, FileKey, Random, TAG_BYTES};

/// Plaintext bytes of every block.
pub const BLOCK_BYTES: usize = 4096;
/// Bytes of a block on disk: `nonce(12) ‖ ciphertext ‖ tag(16)`.
pub const SEALED_BLOCK_BYTES: usize = NONCE_LEN + BLOCK_BYTES + TAG_BYTES;

/// Nonces that are drawn at a time.
const DRAWN: usize = 64;

/// Seals and opens the blocks of one file.
pub struct BlockCipher {
    key: LessSafeKey,
    associated: Vec<u8>,
}

impl std::fmt::Debug for BlockCipher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BlockCipher(..)")
    }
}

impl FileKey {
    /// A cipher for one file. `associated` is bound into every block: the file's header.
    ///
    /// The nonces are random: a key seals at most 2^32 blocks, which the caller counts.
    pub fn block_cipher(&self, associated: &[u8]) -> Result<BlockCipher, Error> {
        let unbound = UnboundKey::new(&AES_256_GCM, self.0.bytes()).map_err(|_| Error::Failed)?;
        Ok(BlockCipher { key: LessSafeKey::new(unbound), associated: associated.to_vec() })
    }
}

impl BlockCipher {
    /// Seals whole blocks, the first of which stands at `index`, into `out`, which has their room exactly.
    pub fn seal(&self, index: u64, blocks: &[u8], out: &mut [u8], random: &dyn Random) -> Result<(), Error> {
        check_lengths(blocks, out)?;
        let mut nonces = [0; DRAWN * NONCE_LEN];
        let mut index = index;
        let pieces = blocks.chunks(DRAWN * BLOCK_BYTES).zip(out.chunks_mut(DRAWN * SEALED_BLOCK_BYTES));
        for (blocks, out) in pieces {
            let wanted = blocks.len() / BLOCK_BYTES * NONCE_LEN;
            let drawn = nonces.get_mut(..wanted).ok_or(Error::Failed)?;
            random.fill(drawn)?;
            let each = blocks.chunks_exact(BLOCK_BYTES).zip(out.chunks_exact_mut(SEALED_BLOCK_BYTES));
            for ((block, out), nonce) in each.zip(drawn.chunks_exact(NONCE_LEN)) {
                let (front, rest) = out.split_at_mut(NONCE_LEN);
                let (ciphertext, tag) = rest.split_at_mut(BLOCK_BYTES);
                front.copy_from_slice(nonce);
                let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Failed)?;
                let sealed = self.key.seal_out_of_place_scatter(nonce, self.aad(index), block, ciphertext, &[], tag);
                sealed.map_err(|_| Error::Failed)?;
                index = index.checked_add(1).ok_or(Error::Failed)?;
            }
        }
        Ok(())
    }

    /// Opens whole sealed blocks, the first of which stands at `index`, into `out`, which has their room exactly. After an
    /// error, what is in `out` counts for nothing.
    pub fn open(&self, index: u64, sealed: &[u8], out: &mut [u8]) -> Result<(), Error> {
        check_lengths(out, sealed)?;
        let each = sealed.chunks_exact(SEALED_BLOCK_BYTES).zip(out.chunks_exact_mut(BLOCK_BYTES));
        for ((sealed, out), index) in each.zip(index..) {
            let (nonce, rest) = sealed.split_at(NONCE_LEN);
            let (ciphertext, tag) = rest.split_at(BLOCK_BYTES);
            let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| Error::Failed)?;
            let opened = self.key.open_separate_gather(nonce, self.aad(index), ciphertext, tag, out);
            opened.map_err(|_| Error::Failed)?;
        }
        Ok(())
    }

    /// `associated ‖ index(8)`.
    fn aad(&self, index: u64) -> Aad<Vec<u8>> {
        let mut bytes = Vec::with_capacity(self.associated.len() + 8);
        bytes.extend_from_slice(&self.associated);
        bytes.extend_from_slice(&index.to_be_bytes());
        Aad::from(bytes)
    }
}

fn check_lengths(blocks: &[u8], sealed: &[u8]) -> Result<(), Error> {
    let count = blocks.len() / BLOCK_BYTES;
    let whole = blocks.len() == count * BLOCK_BYTES && sealed.len() == count * SEALED_BLOCK_BYTES;
    if whole { Ok(()) } else { Err(Error::Failed) }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::OsRandom;

    fn sealed(cipher: &BlockCipher, index: u64, blocks: &[u8]) -> Vec<u8> {
        let mut out = vec![0; blocks.len() / BLOCK_BYTES * SEALED_BLOCK_BYTES];
        cipher.seal(index, blocks, &mut out, &OsRandom).unwrap();
        out
    }

    fn opens(cipher: &BlockCipher, index: u64, bytes: &[u8]) -> bool {
        let mut out = vec![0; bytes.len() / SEALED_BLOCK_BYTES * BLOCK_BYTES];
        cipher.open(index, bytes, &mut out).is_ok()
    }

    #[test]
    fn what_was_sealed_opens_and_no_nonce_comes_twice() {
        let cipher = FileKey::make(&OsRandom).unwrap().block_cipher(b"header").unwrap();
        let count = 3 * DRAWN + 5;
        let blocks: Vec<u8> = (0..count * BLOCK_BYTES).map(|at| (at / 7) as u8).collect();
        let bytes = sealed(&cipher, 9, &blocks);
        let mut out = vec![0; blocks.len()];
        cipher.open(9, &bytes, &mut out).unwrap();
        assert!(out == blocks);
        let again = sealed(&cipher, 9, &blocks);
        let nonces = bytes.chunks(SEALED_BLOCK_BYTES).chain(again.chunks(SEALED_BLOCK_BYTES)).map(|b| &b[..NONCE_LEN]);
        assert_eq!(nonces.collect::<HashSet<_>>().len(), 2 * count);
    }

    #[test]
    fn place_header_and_key_are_bound_and_every_byte_is_authenticated() {
        let key = FileKey::make(&OsRandom).unwrap();
        let cipher = key.block_cipher(b"header").unwrap();
        let bytes = sealed(&cipher, 3, &[7; BLOCK_BYTES]);
        assert!(opens(&cipher, 3, &bytes));
        assert!(!opens(&cipher, 4, &bytes), "another place");
        assert!(!opens(&key.block_cipher(b"other").unwrap(), 3, &bytes), "another file");
        assert!(!opens(&FileKey::make(&OsRandom).unwrap().block_cipher(b"header").unwrap(), 3, &bytes));
        assert!(!opens(&cipher, 3, &[0; SEALED_BLOCK_BYTES]), "zeros are not a hole");
        for at in 0..SEALED_BLOCK_BYTES {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            assert!(!opens(&cipher, 3, &flipped), "byte {at}");
        }
    }

    #[test]
    fn sizes_are_held() {
        let cipher = FileKey::make(&OsRandom).unwrap().block_cipher(b"").unwrap();
        assert!(cipher.seal(0, &[0; BLOCK_BYTES], &mut [0; SEALED_BLOCK_BYTES + 1], &OsRandom).is_err());
        assert!(cipher.seal(0, &[0; BLOCK_BYTES - 1], &mut [0; SEALED_BLOCK_BYTES], &OsRandom).is_err());
        assert!(cipher.open(0, &[0; SEALED_BLOCK_BYTES - 1], &mut [0; BLOCK_BYTES]).is_err());
        assert!(cipher.seal(u64::MAX, &[0; 2 * BLOCK_BYTES], &mut [0; 2 * SEALED_BLOCK_BYTES], &OsRandom).is_err());
    }
}
