//! What people keep: values by path, small ones in the database, large ones in chunked files
//! (`docs/spec/vault-stores.md`, Values).

mod reader;
mod writer;

use std::fs;
use std::path::{Path, PathBuf};

use aico_crypto::{FileWrapKey, SpaceKey};
use aico_policy::DataPath;
use rusqlite::{OptionalExtension, Transaction, params};

use crate::header::SpaceId;
use crate::store::file::{self, FileId};
use crate::store::sqlite::Database;
use crate::{Error, durable};

pub(crate) use reader::ValueReader;
pub use writer::Stored;
pub(crate) use writer::ValueWriter;

/// Values up to this many bytes lie in the database.
pub const MAX_INLINE_BYTES: usize = 1 << 20;

const MIGRATIONS: &[&str] = &["
    CREATE TABLE value (
        id INTEGER PRIMARY KEY,
        path TEXT NOT NULL UNIQUE,
        bytes INTEGER NOT NULL,
        sum BLOB NOT NULL,
        changed_ms INTEGER NOT NULL,
        file_id BLOB,
        file_key BLOB,
        CHECK ((file_id IS NULL) = (file_key IS NULL))
    ) STRICT;
    CREATE INDEX value_bytes ON value (bytes);
    CREATE TABLE inline_value (
        value INTEGER PRIMARY KEY REFERENCES value (id) ON DELETE CASCADE, content BLOB NOT NULL
    ) STRICT;
    CREATE TABLE anchor (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL, root BLOB NOT NULL) STRICT;
"];

/// The values of one space.
#[derive(Debug)]
pub(crate) struct UserData {
    database: Database,
    files: PathBuf,
    space: SpaceId,
    wrap: FileWrapKey,
}

/// One value in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it lies.
    pub path: DataPath,
    /// Its bytes.
    pub bytes: u64,
    /// When it was stored last, in milliseconds since 1970.
    pub changed_ms: u64,
}

impl UserData {
    /// Opens the values in `folder`, or, with `set_up`, makes what is missing. Leftovers of stores that were stopped
    /// in the middle are removed.
    pub(crate) fn open(folder: &Path, space: SpaceId, key: &SpaceKey, set_up: bool) -> Result<Self, Error> {
        let path = folder.join("store.db");
        let database = crate::vault::open_database(&path, key, MIGRATIONS, set_up)?;
        let files = folder.join("files");
        durable::create_folder(&files)?;
        let this = Self { database, files, space, wrap: key.file_wrap_key() };
        this.sweep()?;
        Ok(this)
    }

    /// Starts to store a value. Nothing of it can be seen before [`ValueWriter::finish`].
    pub(crate) fn begin_put(&self, path: &DataPath, now_ms: u64) -> Result<ValueWriter<'_>, Error> {
        Ok(ValueWriter::new(self, path.clone(), now_ms))
    }

    /// Opens a value. The reader goes on with this very value when it is replaced or removed meanwhile.
    pub(crate) fn get(&self, path: &DataPath) -> Result<ValueReader, Error> {
        ValueReader::open(self, path)
    }

    /// Values in the order of their paths' bytes: only those that start with `prefix` and stand behind `after`.
    pub(crate) fn list(&self, prefix: Option<&str>, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        let prefix = prefix.unwrap_or_default();
        let from = after.filter(|after| *after >= prefix);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = self.database.read(|connection| {
            // Paths are compared byte by byte, so those with a prefix stand together, from the prefix itself on.
            let sql = "SELECT path, bytes, changed_ms FROM value
                       WHERE path >= ?1 AND (?2 IS NULL OR path > ?2) AND substr(path, 1, length(?1)) = ?1
                       ORDER BY path LIMIT ?3";
            let mut statement = connection.prepare_cached(sql)?;
            let rows = statement.query_map(params![prefix, from, limit], |row| {
                Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })?;
            rows.collect::<Result<Vec<_>, _>>()
        })?;
        let entry = |(path, bytes, changed): (String, i64, i64)| {
            let path =
                DataPath::parse(&path).map_err(|_| Error::damaged("a list of values", "a path does not parse"))?;
            Ok(Entry { path, bytes: bytes.cast_unsigned(), changed_ms: changed.cast_unsigned() })
        };
        rows.into_iter().map(entry).collect()
    }

    /// Removes a value; `with` runs in the same transaction.
    pub(crate) fn remove(
        &self,
        path: &DataPath,
        with: impl FnOnce(&Transaction<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let old = self.database.write(|tx| {
            let old = self.delete(tx, path)?.ok_or(Error::NotFound)?;
            with(tx)?;
            Ok(old)
        })?;
        self.remove_file(old);
        Ok(())
    }

    /// Bytes of all values.
    pub(crate) fn total_bytes(&self) -> Result<u64, Error> {
        self.number("SELECT coalesce(sum(bytes), 0) FROM value")
    }

    /// Number of values.
    pub(crate) fn count(&self) -> Result<u64, Error> {
        self.number("SELECT count(*) FROM value")
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    fn number(&self, sql: &str) -> Result<u64, Error> {
        self.database
            .read(|connection| connection.query_row(sql, [], |row| row.get::<_, i64>(0)))
            .map(i64::cast_unsigned)
    }

    /// Deletes the row at `path`, if there is one; gives the file that it named.
    fn delete(&self, tx: &Transaction<'_>, path: &DataPath) -> Result<Option<Option<FileId>>, Error> {
        let sql = "DELETE FROM value WHERE path = ?1 RETURNING file_id";
        let deleted = tx.query_row(sql, [path.as_str()], |row| row.get(0)).optional();
        deleted.map_err(|source| self.database.error(source))
    }

    /// Removes a file that no row names any more. What cannot be removed now is swept at the next start; its key is
    /// gone already.
    fn remove_file(&self, id: Option<FileId>) {
        if let Some(id) = id {
            let _swept_later = fs::remove_file(file::path(&self.files, &id));
        }
    }

    fn sweep(&self) -> Result<(), Error> {
        let named: std::collections::HashSet<FileId> = self.database.read(|connection| {
            let mut statement = connection.prepare("SELECT file_id FROM value WHERE file_id IS NOT NULL")?;
            let ids = statement.query_map([], |row| row.get(0))?;
            ids.collect()
        })?;
        file::sweep(&self.files, |id| named.contains(id)).map(drop)
    }
}
