//! The tree of keys: one for the store, one for each file; and how a piece of a file is sealed.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

use crate::name::Name;

pub(crate) const KEY_BYTES: usize = 32;
pub(crate) const ID_BYTES: usize = 16;
pub(crate) const TAG_BYTES: usize = 16;

const STORE: &[u8] = b"aico memory store v1";
const FILE: &[u8] = b"aico memory file v1";

/// What a sealed piece is: the first four bytes of its nonce.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Header = 0,
    Length = 1,
    Frame = 2,
    Block = 3,
    LastBlock = 4,
}

/// The key that the keys of all files come from.
pub(crate) struct StoreKey(Zeroizing<[u8; KEY_BYTES]>);

impl StoreKey {
    pub(crate) fn derive(key: &[u8; KEY_BYTES], store: &[u8; ID_BYTES]) -> Result<Self, Unspecified> {
        expand(key, store, &[STORE]).map(Self)
    }

    /// Seals nothing but the header of the store itself.
    pub(crate) fn own(&self) -> Result<FileKey, Unspecified> {
        FileKey::new(&self.0)
    }

    pub(crate) fn file(&self, id: &[u8; ID_BYTES], name: Name) -> Result<FileKey, Unspecified> {
        FileKey::new(&*expand(&self.0, id, &[FILE, &[name.kind as u8], &name.number.to_le_bytes()])?)
    }
}

fn expand(key: &[u8; KEY_BYTES], salt: &[u8], info: &[&[u8]]) -> Result<Zeroizing<[u8; KEY_BYTES]>, Unspecified> {
    let mut out = Zeroizing::new([0; KEY_BYTES]);
    Salt::new(HKDF_SHA256, salt).extract(key).expand(info, HKDF_SHA256)?.fill(&mut *out)?;
    Ok(out)
}

/// A key that is used with each pair of part and number once: a file is written by one writer, and never again.
pub(crate) struct FileKey(LessSafeKey);

impl FileKey {
    fn new(key: &[u8; KEY_BYTES]) -> Result<Self, Unspecified> {
        Ok(Self(LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key)?)))
    }

    /// Adds the sealed form of `plain` to `out`: as long, and a tag.
    pub(crate) fn seal(
        &self,
        part: Part,
        number: u64,
        aad: &[u8],
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), Unspecified> {
        let start = out.len();
        out.extend_from_slice(plain);
        let place = out.get_mut(start..).ok_or(Unspecified)?;
        let tag = self.0.seal_in_place_separate_tag(nonce(part, number), Aad::from(aad), place)?;
        out.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// The plaintext stands at the beginning of `sealed`.
    pub(crate) fn open<'a>(
        &self,
        part: Part,
        number: u64,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Result<&'a [u8], Unspecified> {
        Ok(self.0.open_in_place(nonce(part, number), Aad::from(aad), sealed)?)
    }
}

fn nonce(part: Part, number: u64) -> Nonce {
    let [a, b, c, d] = (part as u32).to_le_bytes();
    let [e, f, g, h, i, j, k, l] = number.to_le_bytes();
    Nonce::assume_unique_for_key([a, b, c, d, e, f, g, h, i, j, k, l])
}
