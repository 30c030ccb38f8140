//! The values of a space: small ones in its database, others in chunked files (`docs/spec/vault-stores.md`, Values).

use std::path::Path;
use std::sync::Arc;

use aico_crypto::FileWrapKey;
use aico_policy::DataPath;
use rusqlite::Transaction;

use crate::Error;
use crate::store::{Database, FileId, FileStore};

mod reader;
mod row;
mod writer;

pub(crate) use reader::ValueReader;
pub use row::{Category, Entry};
pub use writer::Stored;
pub(crate) use writer::ValueWriter;

/// The tables of user data: one migration of the space's database.
pub(crate) const USER_DATA_TABLES: &str = row::TABLES;
/// Longest value that lies in the database.
pub(crate) const MAX_INLINE_BYTES: usize = 1024 * 1024;
/// Longest value.
pub(crate) const MAX_VALUE_BYTES: u64 = 1 << 40;
/// Most entries of one page of a listing.
pub(crate) const MAX_LIST_ENTRIES: usize = 1000;

/// The values of one space. Clones are handles to the same.
#[derive(Clone, Debug)]
pub(crate) struct UserData {
    database: Arc<Database>,
    files: Arc<FileStore>,
}

impl UserData {
    /// Opens the values of a space and removes what a stop in the middle may have left in `folder`. Nobody else has
    /// them open.
    ///
    /// `database` has had [`USER_DATA_TABLES`] among its migrations; `space` is the space's id.
    pub(crate) fn open(
        database: Arc<Database>,
        folder: &Path,
        space: [u8; 16],
        wrap: FileWrapKey,
    ) -> Result<Self, Error> {
        let files = Arc::new(FileStore::open(folder, space, wrap)?);
        let data = Self { database, files };
        data.sweep()?;
        Ok(data)
    }

    /// The values of a space as they are, to be read: nothing is removed.
    pub(crate) fn to_read(database: Arc<Database>, folder: &Path, space: [u8; 16], wrap: FileWrapKey) -> Self {
        Self { database, files: Arc::new(FileStore::at(folder, space, wrap)) }
    }

    /// Begins to store a value; `now_ms` is Unix time. Nothing is seen of it before [`ValueWriter::finish`].
    #[must_use]
    pub(crate) fn begin_put(&self, path: &DataPath, now_ms: u64) -> ValueWriter {
        ValueWriter::new(self.clone(), path.clone(), now_ms)
    }

    /// Opens a value for reading.
    ///
    /// # Errors
    /// [`Error::NotFound`], or [`Error::Damaged`] when its content is not there.
    pub(crate) fn get(&self, path: &DataPath) -> Result<ValueReader, Error> {
        let mut seen = None;
        loop {
            let row = self.database.read(|db| row::find(db, path))?.ok_or(Error::NotFound)?;
            let file = row.file();
            match ValueReader::open(row, &self.files) {
                // Between row and file another call may have replaced the value and removed its file.
                Err(Error::NotFound) if seen != file => seen = file,
                Err(Error::NotFound) => return Err(Error::damaged("the value", "its file is missing")),
                other => return other,
            }
        }
    }

    /// The values whose path starts with `prefix` and stands behind `after`, in the order of the paths' bytes; at most
    /// `limit` and [`MAX_LIST_ENTRIES`].
    pub(crate) fn list(&self, prefix: Option<&str>, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        let limit = limit.min(MAX_LIST_ENTRIES);
        self.database.read(|db| row::list(db, prefix.unwrap_or(""), after.unwrap_or(""), limit))
    }

    #[cfg(test)]
    /// Removes a value.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub(crate) fn remove(&self, path: &DataPath) -> Result<(), Error> {
        self.remove_with(path, |_| Ok(()))
    }

    /// Removes a value, and runs `also` in the same transaction: both happen or neither.
    ///
    /// # Errors
    /// [`Error::NotFound`], without running `also`.
    pub(crate) fn remove_with(
        &self,
        path: &DataPath,
        also: impl FnOnce(&Transaction<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let file = self.database.write(|tx| {
            let file = row::remove(tx, path)?.ok_or(Error::NotFound)?;
            also(tx)?;
            Ok(file)
        })?;
        self.remove_unused(file);
        Ok(())
    }

    /// The database below, for what is kept beside the values.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// The sum of the values' lengths.
    pub(crate) fn total_bytes(&self) -> Result<u64, Error> {
        self.database.read(row::total_bytes)
    }

    /// What is stored, by category, in the order of their names.
    pub(crate) fn categories(&self) -> Result<Vec<Category>, Error> {
        self.database.read(row::categories)
    }

    /// The number of values.
    pub(crate) fn count(&self) -> Result<u64, Error> {
        self.database.read(row::count)
    }

    fn sweep(&self) -> Result<usize, Error> {
        let known = self.database.read(row::files)?;
        self.files.sweep(&known)
    }

    /// Removes a file that no row refers to any more. Its key is gone with the row; what stays is swept at the next open.
    fn remove_unused(&self, file: Option<FileId>) {
        if let Some(file) = file {
            let _ = self.files.remove(&file);
            crate::store::Step::OldFileRemoved.done();
        }
    }
}

#[cfg(test)]
mod process_tests;
#[cfg(test)]
mod tests;
