use std::mem;

use aico_crypto::{Digest, digest};

use super::UserData;
use super::row::{Content, Found};
use crate::Error;
use crate::store::FileReader;
use aico_policy::{DataPath, Sensitivity};

const WRONG: &str = "it does not have its length and sum";

/// A value being read, in pieces of at most 1 MiB. It goes on when the value is replaced or removed meanwhile.
#[derive(Debug)]
pub(crate) struct ValueReader {
    bytes: u64,
    sum: Digest,
    given: u64,
    /// Bytes that are stored: more than the value has where it is padded.
    stored: u64,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Memory(Vec<u8>),
    File(Box<FileReader>),
    End,
    Failed,
}

impl ValueReader {
    pub(super) fn open(row: Found, data: &UserData, path: &DataPath) -> Result<Self, Error> {
        let key = row.key.as_ref().map(|id| data.keys.get(id)).transpose()?;
        let stored = if row.padded { Sensitivity::Secret.stored_bytes(row.bytes) } else { row.bytes };
        let body = match (row.content, &key) {
            (Content::Inline(bytes), None) => Body::Memory(bytes),
            (Content::Inline(sealed), Some(key)) => {
                let opened = key.values.open_value(&data.place(path), &sealed);
                let mut opened = opened.map_err(|_| Error::damaged("the value", WRONG))?;
                if opened.len() as u64 != stored {
                    return Err(Error::damaged("the value", WRONG));
                }
                cut(&mut opened, row.bytes);
                Body::Memory(opened)
            }
            (Content::File { id, wrapped_key }, key) => {
                let wrap = key.as_ref().map_or(&*data.old_wrap, |key| &key.files);
                Body::File(Box::new(data.files.read(&id, &wrapped_key, stored, wrap)?))
            }
        };
        Ok(Self { bytes: row.bytes, sum: row.sum, given: 0, stored, body })
    }

    /// The value's length.
    #[must_use]
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    #[cfg(test)]
    /// BLAKE2b-256 of the value.
    #[must_use]
    pub(crate) fn sum(&self) -> &Digest {
        &self.sum
    }

    /// Replaces `out` with the next piece; `Ok(false)` and nothing in it at the end. The value is whole only when that
    /// has come.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the piece, or with the last one the value, is not what was stored; `out` is then empty.
    pub(crate) fn next_chunk(&mut self, out: &mut Vec<u8>) -> Result<bool, Error> {
        out.clear();
        let result = self.fill(out);
        if result.is_err() {
            self.body = Body::Failed;
            out.clear();
        }
        result
    }

    fn fill(&mut self, out: &mut Vec<u8>) -> Result<bool, Error> {
        match &mut self.body {
            Body::Memory(bytes) => {
                *out = mem::take(bytes);
                self.body = Body::End;
                // A page that does not authenticate can come as zeros (`docs/spec/vault-stores.md`, A damaged page).
                if digest(out) != self.sum {
                    return Err(Error::damaged("the value", WRONG));
                }
            }
            // No sum: every chunk is authenticated at its place under a key that no other file has.
            Body::File(file) => {
                if self.given == self.bytes && self.stored > self.bytes || !file.read_chunk(out)? {
                    return Ok(false);
                }
                if self.stored > self.bytes {
                    cut(out, self.bytes - self.given);
                }
            }
            Body::End => return Ok(false),
            Body::Failed => return Err(Error::Misuse("a value whose reading failed is read further")),
        }
        self.given = self.given.saturating_add(out.len() as u64);
        let at_end = self.given >= self.bytes || matches!(self.body, Body::End);
        if at_end && self.given != self.bytes {
            return Err(Error::damaged("the value", WRONG));
        }
        Ok(true)
    }
}

/// Leaves what belongs to the value.
fn cut(piece: &mut Vec<u8>, bytes: u64) {
    piece.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
}
