//! The values of a space: small ones in its database, others in chunked files (`docs/spec/vault-stores.md`, Values).

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use aico_crypto::FileWrapKey;
use aico_policy::{DataPath, Sensitivities, Sensitivity};
use rusqlite::Transaction;

use crate::Error;
use crate::audit::Head;
use crate::data_keys::DataKeys;
use crate::store::{Database, FileId, FileStore, Step};
use crate::system::keep_anchor;

mod reader;
mod renew;
mod row;
mod writer;

pub(crate) use reader::ValueReader;
pub(crate) use renew::Renewed;
pub use row::{Category, Entry};
pub use writer::Stored;
pub(crate) use writer::ValueWriter;

/// The tables of user data: one migration of the space's database.
pub(crate) const USER_DATA_TABLES: &str = row::TABLES;
/// What came to them with data keys: the next migration.
pub(crate) const KEY_COLUMNS: &str = row::KEY_COLUMNS;
/// What came to them with levels of sensitivity.
pub(crate) const PADDED_COLUMN: &str = row::PADDED_COLUMN;
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
    keys: Arc<DataKeys>,
    /// Wraps the keys of files that are older than data keys are.
    old_wrap: Arc<FileWrapKey>,
    space: [u8; 16],
    /// In which files are sealed from now on.
    epoch: Arc<AtomicU32>,
    /// Which categories are secret.
    sensitivities: Arc<RwLock<Arc<Sensitivities>>>,
}

/// What the values of a space belong to.
#[derive(Debug)]
pub(crate) struct Owner {
    pub(crate) folder: PathBuf,
    pub(crate) id: [u8; 16],
    pub(crate) epoch: u32,
    pub(crate) old_wrap: FileWrapKey,
}

impl UserData {
    /// Opens the values of a space, finishes forgetting what was being forgotten, and removes what a stop in the middle
    /// may have left in the folder. Nobody else has them open.
    ///
    /// `database` has had [`USER_DATA_TABLES`] and [`KEY_COLUMNS`] among its migrations.
    pub(crate) fn open(database: Arc<Database>, keys: Arc<DataKeys>, space: Owner) -> Result<Self, Error> {
        let files = FileStore::open(&space.folder, space.id)?;
        let data = Self::with(database, keys, files, space);
        for name in data.keys.forgetting()? {
            data.remove_forgotten(&name)?;
        }
        data.sweep()?;
        Ok(data)
    }

    /// The values of a space as they are, to be read: nothing is removed.
    pub(crate) fn to_read(database: Arc<Database>, keys: Arc<DataKeys>, space: Owner) -> Self {
        let files = FileStore::at(&space.folder, space.id);
        Self::with(database, keys, files, space)
    }

    fn with(database: Arc<Database>, keys: Arc<DataKeys>, files: FileStore, space: Owner) -> Self {
        let (files, old_wrap) = (Arc::new(files), Arc::new(space.old_wrap));
        let epoch = Arc::new(AtomicU32::new(space.epoch));
        let sensitivities = Arc::default();
        Self { database, files, keys, old_wrap, space: space.id, epoch, sensitivities }
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
        let _kept = self.keys.hold();
        let mut seen = None;
        loop {
            let row = self.database.read(|db| row::find(db, path))?.ok_or(Error::NotFound)?;
            let file = row.file();
            match ValueReader::open(row, self, path) {
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

    /// Forgets a conversation or a category: destroys its keys, then removes its rows and files. From the first step on,
    /// nothing opens it any more; a stop in between is made good at the next opening. Returns the number of values.
    pub(crate) fn forget(&self, name: &str, head: &Head) -> Result<u64, Error> {
        let _alone = self.keys.stop();
        self.keys.forget(name, |tx| keep_anchor(tx, head))?;
        Step::KeysDestroyed.done();
        self.remove_forgotten(name)
    }

    fn remove_forgotten(&self, name: &str) -> Result<u64, Error> {
        let (values, files) = self.database.write(|tx| row::remove_under(tx, name))?;
        Step::ForgottenRemoved.done();
        files.iter().try_for_each(|file| self.files.remove(file))?;
        // The names of what was removed are not in the log either.
        self.database.settle()?;
        self.keys.forgotten(name)?;
        Ok(values as u64)
    }

    /// Copies the values, as they are at one moment, to a database and a folder that are not there yet, while reads and
    /// writes go on. Their files are the same ones, under a second name.
    pub(crate) fn copy_to(
        &self,
        store: &Path,
        folder: &Path,
        tell: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<(), Error> {
        let files = FileStore::open(folder, self.space)?;
        self.database
            .copy_to(store, tell, |copy| row::files(copy)?.iter().try_for_each(|id| self.files.link(id, &files)))
    }

    /// The database below, for what is kept beside the values.
    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// The same, for whoever goes on with it.
    pub(crate) fn shared_database(&self) -> Arc<Database> {
        self.database.clone()
    }

    /// The keys of the values.
    pub(crate) fn keys(&self) -> &DataKeys {
        &self.keys
    }

    /// Which categories are secret, from now on.
    pub(crate) fn set_sensitivities(&self, sensitivities: Arc<Sensitivities>) {
        *self.sensitivities.write().unwrap_or_else(PoisonError::into_inner) = sensitivities;
    }

    /// The same, to be read.
    pub(crate) fn sensitivities(&self) -> Arc<Sensitivities> {
        self.sensitivities.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn sensitivity(&self, path: &DataPath) -> Sensitivity {
        self.sensitivities().of(path.category())
    }

    fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// To what a sealed value is bound: `space id ‖ path`.
    fn place(&self, path: &DataPath) -> Vec<u8> {
        [self.space.as_slice(), path.as_str().as_bytes()].concat()
    }

    /// The sum of the values' lengths.
    pub(crate) fn total_bytes(&self) -> Result<u64, Error> {
        self.database.read(row::total_bytes)
    }

    /// The sum of the lengths of those that lie in files.
    pub(crate) fn file_bytes(&self) -> Result<u64, Error> {
        self.database.read(row::file_bytes)
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
            Step::OldFileRemoved.done();
        }
    }
}

/// The values of a space that is its own key table, for tests.
#[cfg(test)]
fn for_tests(database: Database, folder: PathBuf, key: &aico_crypto::SpaceKey) -> Result<UserData, Error> {
    use crate::header::{SpaceId, VaultId};
    let (database, id) = (Arc::new(database), [1; 16]);
    let vault = VaultId::from_bytes([2; 16]);
    let keys = DataKeys::new(database.clone(), vault, SpaceId::from_bytes(id), key.duplicate());
    UserData::open(database, Arc::new(keys), Owner { folder, id, epoch: 0, old_wrap: key.file_wrap_key() })
}

#[cfg(test)]
const TEST_TABLES: &[&str] =
    &[USER_DATA_TABLES, crate::system::ANCHOR_TABLE, KEY_COLUMNS, crate::data_keys::KEY_TABLE, PADDED_COLUMN];

#[cfg(test)]
mod forget_tests;
#[cfg(test)]
mod process_tests;
#[cfg(test)]
mod tests;
