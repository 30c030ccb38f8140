use aico_crypto::{FileKey, Hasher, OsRandom, Random};
use aico_policy::DataPath;
use rusqlite::{Transaction, params};

use super::{MAX_INLINE_BYTES, UserData};
use crate::Error;
use crate::store::file::{FileId, FileWriter};

/// A value that was stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its bytes.
    pub bytes: u64,
    /// BLAKE2b-256 of its plaintext.
    pub sum: [u8; 32],
    /// Whether it took an older one's place.
    pub replaced: bool,
}

/// A value on its way in: in memory up to 1 MiB, in a file that nobody sees beyond.
#[derive(Debug)]
pub(crate) struct ValueWriter<'a> {
    data: &'a UserData,
    path: DataPath,
    now_ms: u64,
    hasher: Hasher,
    bytes: u64,
    inline: Vec<u8>,
    spilled: Option<Spilled>,
}

#[derive(Debug)]
struct Spilled {
    id: FileId,
    wrapped_key: [u8; aico_crypto::WRAPPED_BYTES],
    file: FileWriter,
}

impl<'a> ValueWriter<'a> {
    pub(super) fn new(data: &'a UserData, path: DataPath, now_ms: u64) -> Self {
        Self { data, path, now_ms, hasher: Hasher::new(), bytes: 0, inline: Vec::new(), spilled: None }
    }

    /// Takes more of the value.
    pub(crate) fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        self.hasher.update(data);
        self.bytes += data.len() as u64;
        if self.spilled.is_none() && self.inline.len() + data.len() <= MAX_INLINE_BYTES {
            self.inline.extend_from_slice(data);
            return Ok(());
        }
        if self.spilled.is_none() {
            let mut spilled = self.spill()?;
            spilled.file.write(&std::mem::take(&mut self.inline))?;
            self.spilled = Some(spilled);
        }
        self.spilled.as_mut().map_or(Ok(()), |spilled| spilled.file.write(data))
    }

    /// Publishes the value in one transaction, in which `with` runs too; then the value that it replaced is removed.
    pub(crate) fn finish(mut self, with: impl FnOnce(&Transaction<'_>) -> Result<(), Error>) -> Result<Stored, Error> {
        let (data, sum, bytes) = (self.data, self.hasher.finish(), self.bytes);
        let file = match self.spilled.take() {
            Some(Spilled { id, wrapped_key, file }) => {
                file.finish()?;
                Some((id, wrapped_key))
            }
            None => None,
        };
        let published = data.database.write(|tx| {
            let old = data.delete(tx, &self.path)?;
            self.insert(tx, &sum, file.as_ref())?;
            with(tx)?;
            Ok(old)
        });
        match published {
            Ok(old) => {
                data.remove_file(old.flatten());
                Ok(Stored { bytes, sum, replaced: old.is_some() })
            }
            Err(error) => {
                data.remove_file(file.map(|(id, _)| id));
                Err(error)
            }
        }
    }

    fn spill(&self) -> Result<Spilled, Error> {
        let mut id = FileId::default();
        OsRandom.fill(&mut id)?;
        let key = FileKey::make(&OsRandom)?;
        let wrapped_key = self.data.wrap.wrap_file(&key, &id, &OsRandom)?;
        let file = FileWriter::create(&self.data.files, &id, &self.data.space, &key)?;
        Ok(Spilled { id, wrapped_key, file })
    }

    fn insert(
        &self,
        tx: &Transaction<'_>,
        sum: &[u8; 32],
        file: Option<&(FileId, [u8; aico_crypto::WRAPPED_BYTES])>,
    ) -> Result<(), Error> {
        let wrap = |source| self.data.database.error(source);
        let (file_id, file_key) = (file.map(|(id, _)| id), file.map(|(_, key)| key));
        let (bytes, now) = (self.bytes.cast_signed(), self.now_ms.cast_signed());
        let sql = "INSERT INTO value (path, bytes, sum, changed_ms, file_id, file_key) VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        tx.prepare_cached(sql)
            .and_then(|mut insert| insert.insert(params![self.path.as_str(), bytes, sum, now, file_id, file_key]))
            .and_then(|row| match file {
                Some(_) => Ok(0),
                None => {
                    tx.prepare_cached("INSERT INTO inline_value VALUES (?1, ?2)")?.execute(params![row, self.inline])
                }
            })
            .map(drop)
            .map_err(wrap)
    }
}
