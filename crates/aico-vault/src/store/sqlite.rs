//! SQLCipher, opened with a raw key; one connection writes, a few read.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aico_crypto::StoreKey;
use rusqlite::limits::Limit;
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::{Error, durable};

/// Connections that read at the same time.
const READERS: usize = 2;
/// Page cache of each connection, in KiB.
const CACHE_KIB: i32 = 16 * 1024;
/// The largest value that the database takes in one cell, well above what is stored inline.
const MAX_CELL_BYTES: i32 = 4 << 20;

/// An encrypted database.
#[derive(Debug)]
pub(crate) struct Database {
    name: String,
    writer: Mutex<Connection>,
    readers: [Mutex<Connection>; READERS],
}

impl Database {
    /// Makes a new database. A file that is there already is refused, unless it is empty.
    pub(crate) fn create(path: &Path, key: &StoreKey, migrations: &[&str]) -> Result<Self, Error> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let bytes = file.and_then(|file| file.sync_all().and_then(|()| file.metadata())).map(|m| m.len());
        if bytes.map_err(|source| Error::io("making", path, source))? != 0 {
            return Err(Error::Misuse("a database that is there already"));
        }
        durable::sync(path.parent().unwrap_or(path))?;
        Self::connect(path, key, migrations)
    }

    /// Opens a database that must be there; a missing one is [`Error::Damaged`], never made anew.
    pub(crate) fn open(path: &Path, key: &StoreKey, migrations: &[&str]) -> Result<Self, Error> {
        match path.metadata() {
            Ok(metadata) if metadata.len() > 0 => Self::connect(path, key, migrations),
            Ok(_) => Err(Error::damaged(path.display().to_string(), "it is empty")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(Error::damaged(path.display().to_string(), "it is missing"))
            }
            Err(error) => Err(Error::io("opening", path, error)),
        }
    }

    fn connect(path: &Path, key: &StoreKey, migrations: &[&str]) -> Result<Self, Error> {
        let name = path.display().to_string();
        let mut writer = connection(path, key).map_err(|source| error(&name, source))?;
        migrate(&mut writer, &name, migrations)?;
        let reader = || -> Result<_, rusqlite::Error> {
            let reader = connection(path, key)?;
            reader.pragma_update(None, "query_only", true)?;
            Ok(Mutex::new(reader))
        };
        let readers = [reader().map_err(|s| error(&name, s))?, reader().map_err(|s| error(&name, s))?];
        Ok(Self { name, writer: Mutex::new(writer), readers })
    }

    /// Runs one transaction. When this returns with success, it is on disk.
    pub(crate) fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = writer.transaction_with_behavior(TransactionBehavior::Immediate);
        let transaction = begun.map_err(|source| self.error(source))?;
        let done = work(&transaction)?;
        transaction.commit().map_err(|source| self.error(source))?;
        Ok(done)
    }

    /// Reads what has been committed.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>) -> Result<T, Error> {
        work(&self.reader()).map_err(|source| self.error(source))
    }

    fn reader(&self) -> MutexGuard<'_, Connection> {
        let [first, second] = &self.readers;
        match first.try_lock() {
            Ok(reader) => reader,
            Err(_) => second.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    pub(crate) fn error(&self, source: rusqlite::Error) -> Error {
        error(&self.name, source)
    }
}

/// What SQLite's answer means for the database `what`.
pub(crate) fn error(what: &str, source: rusqlite::Error) -> Error {
    match source.sqlite_error_code() {
        Some(ErrorCode::NotADatabase) => Error::damaged(
            what,
            "it does not open with this vault's key: another vault's file, or its start is damaged",
        ),
        Some(ErrorCode::DatabaseCorrupt) => Error::damaged(what, "a page is not what was written there"),
        Some(ErrorCode::DiskFull) => Error::Full { what: format!("writing {what}") },
        _ if is_full(&source) => Error::Full { what: format!("writing {what}") },
        _ => Error::Sqlite { what: what.to_owned(), source },
    }
}

/// A write that failed is nearly always a full disk, or a limit on a file's size; SQLite only says that it failed.
fn is_full(source: &rusqlite::Error) -> bool {
    let code = source.sqlite_error().map(|error| error.extended_code);
    matches!(
        code,
        Some(
            rusqlite::ffi::SQLITE_IOERR_WRITE
                | rusqlite::ffi::SQLITE_IOERR_TRUNCATE
                | rusqlite::ffi::SQLITE_IOERR_SHMSIZE
        )
    )
}

fn connection(path: &Path, key: &StoreKey) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_NOFOLLOW;
    let connection = Connection::open_with_flags(path, flags)?;
    key.hazmat_sqlcipher_literal(|literal| aico_ffi_sqlcipher::set_key(&connection, literal))?;
    // SQLCipher writes to standard error by itself otherwise.
    connection.pragma_update(None, "cipher_log_level", "NONE")?;
    connection.set_limit(Limit::SQLITE_LIMIT_LENGTH, MAX_CELL_BYTES)?;
    // The first read: a wrong key shows here.
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    for (name, value) in [("synchronous", "FULL"), ("secure_delete", "ON"), ("foreign_keys", "ON")] {
        connection.pragma_update(None, name, value)?;
    }
    for (name, value) in [("trusted_schema", "OFF"), ("temp_store", "MEMORY"), ("cell_size_check", "ON")] {
        connection.pragma_update(None, name, value)?;
    }
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.busy_timeout(std::time::Duration::from_secs(10))?;
    Ok(connection)
}

/// Brings the tables up to date, one migration a transaction; the number of the last one is the database's version.
fn migrate(connection: &mut Connection, name: &str, migrations: &[&str]) -> Result<(), Error> {
    let wrap = |source| error(name, source);
    let known = u32::try_from(migrations.len()).unwrap_or(u32::MAX);
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(wrap)?;
    if found > known {
        return Err(Error::Newer { what: name.to_owned(), found, known });
    }
    for (number, sql) in (1..=known).zip(migrations).skip(found as usize) {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(wrap)?;
        transaction.execute_batch(sql).map_err(wrap)?;
        transaction.pragma_update(None, "user_version", number).map_err(wrap)?;
        transaction.commit().map_err(wrap)?;
    }
    Ok(())
}
