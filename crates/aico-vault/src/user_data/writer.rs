use std::cell::Cell;
use std::mem;
use std::sync::Arc;

use aico_crypto::{Digest, Hasher, OsRandom};
use rusqlite::Transaction;

use super::row::{self, Content, Found};
use aico_policy::{DataPath, Sensitivity};

use super::{MAX_INLINE_BYTES, MAX_VALUE_BYTES, UserData};
use crate::Error;
use crate::data_keys::OpenKey;
use crate::store::{FileStore, FileWriter, FinishedFile};

/// A value being stored. Dropped before [`ValueWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub(crate) struct ValueWriter {
    data: UserData,
    path: DataPath,
    now_ms: u64,
    /// Its key, from the first piece on that goes to a file.
    key: Option<Arc<OpenKey>>,
    epoch: u32,
    hasher: Hasher,
    pub(super) bytes: u64,
    body: Body,
}

/// A value that is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its length.
    pub bytes: u64,
    /// BLAKE2b-256 of it.
    pub sum: Digest,
    /// Whether it took the place of an older one.
    pub replaced: bool,
}

impl ValueWriter {
    pub(super) fn new(data: UserData, path: DataPath, now_ms: u64) -> Self {
        let (epoch, hasher, body) = (data.epoch(), Hasher::new(), Body::Memory(Vec::new()));
        Self { data, path, now_ms, key: None, epoch, hasher, bytes: 0, body }
    }

    /// Adds bytes: up to 1 MiB stays in memory, more goes to a file as it comes. After an error the value cannot be
    /// finished, and what was written of it is gone.
    pub(crate) fn write(&mut self, piece: &[u8]) -> Result<(), Error> {
        let body = mem::replace(&mut self.body, Body::Failed);
        let bytes = self.bytes.saturating_add(piece.len() as u64);
        if bytes > MAX_VALUE_BYTES {
            return Err(Error::Misuse("a value has at most 2^40 bytes"));
        }
        if bytes > MAX_INLINE_BYTES as u64 && self.key.is_none() {
            self.key = Some(self.data.keys.for_path(&self.path)?);
        }
        self.body = body.and(piece, &self.data.files, self.key.as_deref())?;
        self.hasher.update(piece);
        self.bytes = bytes;
        Ok(())
    }

    #[cfg(test)]
    /// Publishes the value in one step; it is on disk when this returns. On an error an older value is still there.
    pub(crate) fn finish(self) -> Result<Stored, Error> {
        self.finish_with(|_| Ok(()))
    }

    /// Publishes the value and runs `also` in the same transaction: both happen or neither.
    pub(crate) fn finish_with(self, also: impl FnOnce(&Transaction<'_>) -> Result<(), Error>) -> Result<Stored, Error> {
        // From here on it is not forgotten: either it was before, or it will be with everything else.
        let _kept = self.data.keys.hold();
        let key = match self.key {
            // What was written before something was forgotten is sealed under a key that is gone.
            Some(key) => self.data.keys.get(&key.id).map_err(|_| Error::Refused("it was forgotten while it came"))?,
            None => self.data.keys.for_path(&self.path)?,
        };
        let level = self.data.sensitivity(&self.path);
        let (padded, mut body) = (level == Sensitivity::Secret, self.body);
        body.pad(level.stored_bytes(self.bytes).saturating_sub(self.bytes))?;
        let (content, file) = body.finish(&key, &self.data.place(&self.path))?;
        let (bytes, sum, changed_ms) = (self.bytes, self.hasher.finish(), self.now_ms);
        let value = Found { bytes, sum, changed_ms, key: Some(key.id), epoch: self.epoch, padded, content };
        let commits = Cell::new(false);
        let result = self.data.database.write(|tx| {
            let old = row::put(tx, &self.path, &value)?;
            also(tx)?;
            commits.set(true);
            Ok(old)
        });
        if let Some(file) = file
            && may_be_committed(&result, commits.get())
        {
            file.keep();
        }
        let (replaced, old_file) = result?;
        self.data.remove_unused(old_file);
        Ok(Stored { bytes: value.bytes, sum: value.sum, replaced })
    }
}

/// After a failed commit SQLite may still find the transaction in the WAL: its file is then left to the next sweep. With a
/// full disk the commit's last frame is not in the WAL for certain, and space is wanted now.
pub(super) fn may_be_committed<T>(result: &Result<T, Error>, commits: bool) -> bool {
    match result {
        Ok(_) => true,
        Err(Error::Full { .. }) => false,
        Err(_) => commits,
    }
}

/// Adds zeros to a file.
pub(super) fn pad(file: &mut FileWriter, mut bytes: u64) -> Result<(), Error> {
    const ZEROS: &[u8] = &[0; 64 * 1024];
    while let Some(some) =
        ZEROS.get(..usize::try_from(bytes).unwrap_or(usize::MAX).min(ZEROS.len())).filter(|some| !some.is_empty())
    {
        file.write(some)?;
        bytes = bytes.saturating_sub(some.len() as u64);
    }
    Ok(())
}

#[derive(Debug)]
enum Body {
    Memory(Vec<u8>),
    File(Box<FileWriter>),
    Failed,
}

impl Body {
    fn and(self, piece: &[u8], files: &FileStore, key: Option<&OpenKey>) -> Result<Self, Error> {
        match self {
            Self::Memory(mut bytes) if bytes.len().saturating_add(piece.len()) <= MAX_INLINE_BYTES => {
                bytes.extend_from_slice(piece);
                Ok(Self::Memory(bytes))
            }
            Self::Memory(bytes) => {
                let key = key.ok_or(Error::Misuse("a file without a key"))?;
                let mut file = files.create(&key.files)?;
                file.write(&bytes)?;
                file.write(piece)?;
                Ok(Self::File(Box::new(file)))
            }
            Self::File(mut file) => file.write(piece).map(|()| Self::File(file)),
            Self::Failed => Err(Error::Misuse("a value whose writing failed is written further")),
        }
    }

    /// Adds zeros that are not of the value.
    fn pad(&mut self, bytes: u64) -> Result<(), Error> {
        match self {
            Self::Memory(value) => {
                value.resize(value.len().saturating_add(usize::try_from(bytes).unwrap_or_default()), 0);
                Ok(())
            }
            Self::File(file) => pad(file, bytes),
            Self::Failed => Ok(()),
        }
    }

    fn finish(self, key: &OpenKey, place: &[u8]) -> Result<(Content, Option<FinishedFile>), Error> {
        match self {
            Self::Memory(bytes) => Ok((Content::Inline(key.values.seal_value(place, &bytes, &OsRandom)?), None)),
            Self::File(file) => {
                let file = file.finish()?;
                let content = Content::File { id: *file.id(), wrapped_key: file.wrapped_key().to_vec() };
                Ok((content, Some(file)))
            }
            Self::Failed => Err(Error::Misuse("a value whose writing failed is finished")),
        }
    }
}
