//! The keys and formats of a Python AICO, to read what it has left behind (`docs/spec/python-aico.md`). Nothing is made in
//! them: its databases are encrypted without authentication.

use std::num::NonZeroU32;

use aes::Aes256;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::pbkdf2::{PBKDF2_HMAC_SHA256, derive};
use cbc::cipher::block_padding::NoPadding;
use cbc::cipher::{BlockModeDecrypt, KeyIvInit};
use md5::{Digest, Md5};
use zeroize::Zeroizing;

use crate::secret::wipe_stack;
use crate::stretch::stretch;
use crate::tree::from_hex;
use crate::{Error, SALT_BYTES, Secret, StretchCost, sha256};

const DATABASE_ROUNDS: NonZeroU32 = NonZeroU32::new(100_000).unwrap();
/// Of SQLite3MultipleCiphers' `aes256cbc`.
const KEY_ROUNDS: u32 = 4001;
const SQLITE_MAGIC: [u8; 16] = *b"SQLite format 3\0";
const FILE_MAGIC: &[u8] = b"AICO";
/// Magic, salt, nonce.
const FILE_HEAD_BYTES: usize = 32;
const FILE_COST: StretchCost = StretchCost::FILE;

/// What a Python AICO's files may be for: its key is another one for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PythonPurpose {
    /// Configuration.
    Config,
    /// Logs.
    Logs,
    /// The vector store.
    Chroma,
    /// Caches.
    Cache,
}

impl PythonPurpose {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Config, Self::Logs, Self::Chroma, Self::Cache];

    fn name(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Logs => "logs",
            Self::Chroma => "chroma",
            Self::Cache => "cache",
        }
    }
}

/// A Python AICO's master key.
#[derive(Debug)]
pub struct PythonMaster(Secret<32>);

/// What its database's pages are decrypted with.
#[derive(Debug)]
pub struct PythonPages(Secret<32>);

/// What its files of one purpose are decrypted with.
pub struct PythonFiles(LessSafeKey);

impl std::fmt::Debug for PythonFiles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PythonFiles(..)")
    }
}

impl PythonMaster {
    /// Reads the 64 hexadecimal digits that it keeps in the keyring.
    pub fn hazmat_from_keyring(digits: &str) -> Result<Self, Error> {
        from_hex(digits.trim()).map(Self).map_err(|_| Error::Text("master key (64 hexadecimal digits)"))
    }

    /// Stretches its password as it was typed: 1 GiB and some seconds.
    pub fn stretch(password: &str, salt: &[u8; SALT_BYTES]) -> Result<Self, Error> {
        stretch(password.as_bytes(), salt, StretchCost::MASTER).map(Self)
    }

    /// The key of the pages of the database with this salt.
    #[must_use]
    pub fn pages(&self, salt: &[u8; SALT_BYTES]) -> PythonPages {
        let secret = self.with(b"aico-db-libsql");
        let mut key = Secret::<32>::zero();
        derive(PBKDF2_HMAC_SHA256, DATABASE_ROUNDS, salt, &secret, key.bytes_mut());
        // The passphrase is `x"<64 digits>"`, of which 32 bytes count.
        let mut passphrase = Zeroizing::new([0u8; 32]);
        let (front, digits) = passphrase.split_at_mut(2);
        front.copy_from_slice(b"x\"");
        for (pair, byte) in digits.chunks_mut(2).zip(key.bytes()) {
            let nibbles = [byte >> 4, byte & 15].map(|nibble| nibble + if nibble < 10 { b'0' } else { b'a' - 10 });
            pair.copy_from_slice(&nibbles);
        }
        let pages = PythonPages::of(&passphrase);
        wipe_stack();
        pages
    }

    /// The key of the files of one purpose: 128 MiB and a moment.
    pub fn files(&self, purpose: PythonPurpose) -> Result<PythonFiles, Error> {
        let salt = sha256(&[b"aico-file-salt-", purpose.name().as_bytes()]);
        let salt = salt.first_chunk::<SALT_BYTES>().ok_or(Error::Failed)?;
        let secret = self.with(&[b"aico-file-", purpose.name().as_bytes()].concat());
        let key = stretch(&secret, salt, FILE_COST)?;
        let unbound = UnboundKey::new(&AES_256_GCM, key.bytes()).map_err(|_| Error::Failed)?;
        Ok(PythonFiles(LessSafeKey::new(unbound)))
    }

    fn with(&self, context: &[u8]) -> Zeroizing<Vec<u8>> {
        let mut secret = Zeroizing::new(Vec::with_capacity(32 + context.len()));
        secret.extend_from_slice(self.0.bytes());
        secret.extend_from_slice(context);
        secret
    }
}

impl PythonPages {
    fn of(passphrase: &[u8; 32]) -> Self {
        let mut digest = Zeroizing::new(sha256(&[passphrase]));
        for _ in 0..KEY_ROUNDS {
            *digest = sha256(&[&*digest]);
        }
        Self(Secret::copy_of(&digest))
    }

    /// Decrypts the page of this number, from 1, in place. Page 1 shows a wrong key; the others, and damage, show nothing.
    pub fn open(&self, number: u32, page: &mut [u8]) -> Result<(), Error> {
        if number != 1 {
            return self.decrypt(number, page);
        }
        // Bytes 16 to 23 stand in the clear, and their ciphertext in bytes 8 to 15.
        let Some((front, _)) = page.split_at_mut_checked(24) else { return Err(Error::Failed) };
        let known = *front.last_chunk::<8>().ok_or(Error::Failed)?;
        front.copy_within(8..16, 16);
        let (magic, rest) = page.split_at_mut(16);
        self.decrypt(1, rest)?;
        if rest.first_chunk::<8>() != Some(&known) {
            return Err(Error::Failed);
        }
        magic.copy_from_slice(&SQLITE_MAGIC);
        Ok(())
    }

    fn decrypt(&self, number: u32, bytes: &mut [u8]) -> Result<(), Error> {
        let key = Zeroizing::new(sha256(&[self.0.bytes(), &number.to_le_bytes(), b"sAlT"]));
        let cipher = cbc::Decryptor::<Aes256>::new((&*key).into(), &initial_vector(number).into());
        cipher.decrypt_padded::<NoPadding>(bytes).map(drop).map_err(|_| Error::Failed)
    }
}

/// MD5 of four numbers of a generator that the page's number seeds.
fn initial_vector(number: u32) -> [u8; 16] {
    let mut state = i64::from(number) + 1;
    let mut md5 = Md5::new();
    for _ in 0..4 {
        let quotient = state / 52_774;
        state = 40_692 * (state - 52_774 * quotient) - 3791 * quotient;
        if state < 0 {
            state += 2_147_483_399;
        }
        md5.update((state as u32).to_le_bytes());
    }
    md5.finalize().into()
}

impl PythonFiles {
    /// Whether these bytes may be such a file.
    #[must_use]
    pub fn is_one(bytes: &[u8]) -> bool {
        bytes.starts_with(FILE_MAGIC)
    }

    /// The content of a file; fails if it is of another purpose or not what was written.
    pub fn open(&self, file: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
        let Some((head, sealed)) = file.split_at_checked(FILE_HEAD_BYTES) else { return Err(Error::Failed) };
        if !Self::is_one(head) {
            return Err(Error::Failed);
        }
        let nonce = head.last_chunk::<12>().ok_or(Error::Failed)?;
        let mut content = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(head), &mut content).map_err(|_| Error::Failed)?;
        let length = opened.len();
        content.truncate(length);
        Ok(content)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole databases that the library itself wrote are in the command line's tests.
    #[test]
    fn every_page_has_a_vector_of_its_own() {
        let all: std::collections::BTreeSet<[u8; 16]> = (1..5000).map(initial_vector).collect();
        assert_eq!(all.len(), 4999);
        initial_vector(u32::MAX);
    }

    #[test]
    fn a_page_of_an_impossible_length_is_refused() {
        let pages = PythonPages(Secret::zero());
        for length in [0, 1, 15, 16, 23, 24, 25, 39] {
            assert!(pages.open(1, &mut vec![0; length]).is_err(), "{length}");
        }
        for length in [1, 15, 17, 4095] {
            assert!(pages.open(2, &mut vec![0; length]).is_err(), "{length}");
        }
        assert!(pages.open(1, &mut vec![0; 4096]).is_err(), "a wrong key");
        assert!(pages.open(2, &mut vec![0; 4096]).is_ok());
    }
}
