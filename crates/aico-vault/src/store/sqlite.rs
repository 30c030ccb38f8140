//! SQLCipher databases (`docs/spec/vault-stores.md`, The database).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aico_crypto::StoreKey;
use aico_ffi_sqlcipher::Copying;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use rustix::fs::OFlags;

use super::Step;
use crate::Error;

mod cache;
mod error;
mod pool;
mod rekey;
mod why;

use error::{damaged_page, is_first_page, named};
use pool::Pool;
pub(crate) use rekey::{Commit, UNCLEAR};

/// SQLCipher 4's page, which it does not write into the file.
const PAGE_BYTES: u64 = 4096;

/// An open database: one connection that writes, a few that read.
pub(crate) struct Database {
    at: Mutex<Arc<At>>,
    // Before the writer: the last connection to close merges the WAL, and these may not.
    readers: Pool,
    writer: Mutex<Writer>,
    /// Calls of [`Database::write`] that wait for the writer.
    waiting: AtomicUsize,
}

/// Which file, and its key: others after a [`Database::rekey`].
struct At {
    path: PathBuf,
    key: StoreKey,
    mac: Mac,
}

/// What authenticates the pages. It decides how much room each has, so that a copy keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mac {
    HmacSha256,
    /// In databases of older programs.
    HmacSha512,
}

impl Mac {
    fn name(self) -> &'static str {
        match self {
            Self::HmacSha256 => "HMAC_SHA256",
            Self::HmacSha512 => "HMAC_SHA512",
        }
    }
}

/// The connection that writes.
enum Writer {
    /// None is open.
    None,
    Alone(Connection),
    /// What it writes goes into a copy as well.
    Copied(Box<Copying>),
    /// Nothing is written any more, for this reason.
    Ended(&'static str),
}

impl Writer {
    fn connection(&self) -> Result<&Connection, Error> {
        match self {
            Self::Alone(connection) => Ok(connection),
            Self::Copied(copying) => Ok(copying.source()),
            Self::None => Err(Error::Misuse("no connection")),
            Self::Ended(why) => Err(Error::Misuse(why)),
        }
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").field("path", &self.at().path).finish_non_exhaustive()
    }
}

impl Database {
    /// Makes a database and brings it to the newest version; it appears under `path` when it is whole and on disk.
    ///
    /// # Errors
    /// [`Error::Misuse`] when `path` holds a file that is not empty; its bytes are not touched.
    pub(crate) fn create(path: &Path, key: StoreKey, migrations: &[&str]) -> Result<Self, Error> {
        let path = real_path(path)?;
        match fs::symlink_metadata(&path) {
            Ok(found) if found.len() > 0 || !found.is_file() => {
                return Err(Error::Misuse("a database is already there"));
            }
            Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(Error::io("opening", &path, source)),
            _ => {}
        }
        let new = with_suffix(&path, ".new");
        build(&new, &key, migrations).map_err(|error| named(error, &new))?;
        // A WAL of another database would be played into this one.
        remove_with_companions(&path)?;
        fs::rename(&new, &path).map_err(|source| Error::io("creating", &path, source))?;
        sync_folder_of(&path)?;
        Self::open(&path, key, migrations)
    }

    /// Opens a database and brings it to the newest version.
    ///
    /// # Errors
    /// [`Error::Io`] when there is none; [`Error::Damaged`] when it is cut, its first page is damaged, `key` is not its
    /// key, or another program wrote it, and its text says which; [`Error::Newer`] when a newer program has written it.
    pub(crate) fn open(path: &Path, key: StoreKey, migrations: &[&str]) -> Result<Self, Error> {
        let path = real_path(path)?;
        let failed = |source| Error::io("opening", &path, source);
        let file = OpenOptions::new().read(true).custom_flags(no_follow()).open(&path).map_err(failed)?;
        if file.metadata().map_err(failed)?.len() < PAGE_BYTES {
            return Err(Error::damaged(path.display().to_string(), "it is shorter than a page"));
        }
        let mut at = At { path, key, mac: Mac::HmacSha256 };
        let writer = match connect(&at, Access::Write) {
            Err(first) if is_first_page(&first) => {
                at.mac = Mac::HmacSha512;
                connect(&at, Access::Write).map_err(|_| why::first_page(&at).unwrap_or(first))?
            }
            other => other?,
        };
        migrate(&writer, migrations).map_err(|error| named(error, &at.path))?;
        Ok(Self {
            at: Mutex::new(Arc::new(at)),
            readers: Pool::default(),
            writer: Mutex::new(Writer::Alone(writer)),
            waiting: AtomicUsize::new(0),
        })
    }

    /// Runs `f` in one transaction. When this returns `Ok`, what `f` did is on disk; otherwise none of it happened.
    ///
    /// `f` has the database's only writer: it does not call `write` again, but uses its argument.
    ///
    /// A failed disk can leave open which of the two it is; the error is then [`Error::Sqlite`], never [`Error::Full`].
    pub(crate) fn write<T>(&self, f: impl FnOnce(&Transaction<'_>) -> Result<T, Error>) -> Result<T, Error> {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let mut writer = self.lock_writer();
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let at = self.at();
        if let Writer::None = *writer {
            *writer = Writer::Alone(connect(&at, Access::Write)?);
        }
        let connection = writer.connection()?;
        let result = transact(connection, f).map_err(|error| named(error, &at.path));
        if !is_sound(connection) {
            *writer = Writer::None;
        }
        result
    }

    /// Runs `f` on one snapshot of the database. `f` uses its argument: reads are few at a time, and one within another
    /// could wait for itself.
    pub(crate) fn read<T>(&self, f: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
        let mut place = self.readers.wait();
        let at = self.at();
        let reader = match place.take() {
            Some(reader) => reader,
            None => connect(&at, Access::Read)?,
        };
        let result = snapshot(&reader, f).map_err(|error| named(error, &at.path));
        if is_sound(&reader) {
            place.keep(reader);
        }
        result
    }

    /// Moves what the write-ahead log holds into the database, and empties it: what was overwritten is gone from both.
    pub(crate) fn settle(&self) -> Result<(), Error> {
        let mut writer = self.lock_writer();
        let at = self.at();
        if let Writer::None = *writer {
            *writer = Writer::Alone(connect(&at, Access::Write)?);
        }
        let connection = writer.connection()?;
        let truncated = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |row| row.get::<_, i64>(0));
        match truncated.map_err(|error| named(error.into(), &at.path))? {
            0 => Ok(()),
            _ => Err(Error::Misuse("a reader is in the way")),
        }
    }

    /// Reads and authenticates every page, and checks that they form a database.
    ///
    /// # Errors
    /// [`Error::Damaged`] with the first finding.
    pub(crate) fn check(&self) -> Result<(), Error> {
        // No page moves from the WAL to the file while the file is read. A new connection has nothing in its cache.
        let _writer = self.lock_writer();
        let at = self.at();
        let fresh = connect(&at, Access::Read)?;
        let finding = first_finding(&fresh).map_err(|error| named(error, &at.path))?;
        match finding {
            None => Ok(()),
            Some(finding) => Err(Error::damaged(at.path.display().to_string(), finding)),
        }
    }

    /// Writes nothing any more: the database is gone, or only a new start finds out whether it is.
    pub(crate) fn end_writing(&self, why: &'static str) {
        *self.lock_writer() = Writer::Ended(why);
    }

    fn at(&self) -> Arc<At> {
        self.at.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    // A panic in a closure rolled its transaction back: what the lock holds is good.
    fn lock_writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(at: &At, access: Access) -> Result<Connection, Error> {
    let open = || {
        let connection = unlocked(&at.path, &at.key, at.mac)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "query_only", access == Access::Read)?;
        Ok(connection)
    };
    open().map_err(|error: Error| named(error, &at.path))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// A connection with its key and settings, on a file that exists.
fn unlocked(path: &Path, key: &StoreKey, mac: Mac) -> Result<Connection, Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_NOFOLLOW
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = keyed(path, key, flags)?;
    connection.pragma_update(None, "cipher_hmac_algorithm", mac.name())?;
    // The first read: a key that does not fit shows here.
    connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    connection.pragma_update(None, "trusted_schema", false)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    cache::bound(&connection)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.pragma_update(None, "mmap_size", 0)?;
    Ok(connection)
}

fn keyed(path: &Path, key: &StoreKey, flags: OpenFlags) -> Result<Connection, Error> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "cipher_log_level", "NONE")?;
    key.hazmat_sqlcipher_literal(|literal| aico_ffi_sqlcipher::set_key(&connection, literal))?;
    Ok(connection)
}

/// Makes a whole database at `path`, in the place of what a stopped attempt left there.
fn build(path: &Path, key: &StoreKey, migrations: &[&str]) -> Result<(), Error> {
    remove_with_companions(path)?;
    let failed = |source| Error::io("creating", path, source);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let connection = unlocked(path, key, Mac::HmacSha256)?;
    migrate(&connection, migrations)?;
    connection.close().map_err(|(_, source)| source)?;
    file.sync_all().map_err(failed)
}

fn migrate(connection: &Connection, migrations: &[&str]) -> Result<(), Error> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let known = migrations.len() as u32;
    if found > known {
        return Err(Error::Newer { what: error::UNNAMED.to_owned(), found, known, needs: None });
    }
    for (number, sql) in (1..=known).zip(migrations).skip(found as usize) {
        transact(connection, |tx| {
            tx.execute_batch(sql)?;
            Ok(tx.pragma_update(None, "user_version", number)?)
        })?;
    }
    Ok(())
}

fn transact<T>(writer: &Connection, f: impl FnOnce(&Transaction<'_>) -> Result<T, Error>) -> Result<T, Error> {
    let tx = Transaction::new_unchecked(writer, TransactionBehavior::Immediate)?;
    let result = f(&tx);
    if !is_sound(&tx) {
        return Err(damaged_page());
    }
    let value = result?;
    Step::RowsWritten.done();
    tx.commit()?;
    Step::Committed.done();
    Ok(value)
}

fn snapshot<T>(reader: &Connection, f: impl FnOnce(&Connection) -> Result<T, Error>) -> Result<T, Error> {
    let tx = Transaction::new_unchecked(reader, TransactionBehavior::Deferred)?;
    let result = f(&tx);
    if is_sound(&tx) { result } else { Err(damaged_page()) }
}

/// Whether no page failed its HMAC on this connection. SQLCipher puts zeros in the place of such a page and goes on.
fn is_sound(connection: &Connection) -> bool {
    // The answer is fixed when the statement is prepared: this one must not come from a cache.
    let status = connection.query_row("PRAGMA cipher_status", (), |row| row.get::<_, String>(0));
    status.is_ok_and(|status| status == "1")
}

fn first_finding(connection: &Connection) -> Result<Option<String>, Error> {
    let mut pages = connection.prepare("PRAGMA cipher_integrity_check")?;
    if let Some(finding) = pages.query_map((), |row| row.get(0))?.next() {
        return Ok(Some(finding?));
    }
    let answer: String = connection.query_row("PRAGMA quick_check(1)", (), |row| row.get(0))?;
    Ok((answer != "ok").then_some(answer))
}

/// `path` with its folder resolved: SQLite's no-follow rule speaks of every part, ours of the file alone.
fn real_path(path: &Path) -> Result<PathBuf, Error> {
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::Misuse("the path of a database names no file"));
    };
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let folder = folder.canonicalize().map_err(|source| Error::io("opening", folder, source))?;
    Ok(folder.join(name))
}

fn remove_with_companions(path: &Path) -> Result<(), Error> {
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let path = with_suffix(path, suffix);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("removing", &path, source));
            }
            _ => {}
        }
    }
    Ok(())
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

fn sync_folder_of(path: &Path) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| Error::io("syncing", folder, source))
}

fn no_follow() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

#[cfg(test)]
mod rekey_tests;
#[cfg(test)]
mod tests;
