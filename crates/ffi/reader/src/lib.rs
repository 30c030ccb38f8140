//! Lets SQLite read a database through a [`Source`]: bytes that somebody else gives, decrypted on the way, say. It has no way
//! to write: whatever SQLite wants to write fails, and what a database's write-ahead log holds is indexed in memory.
//!
//! A rollback journal that would have to be played back first makes every read fail with
//! `SQLITE_READONLY_ROLLBACK`.
#![expect(unsafe_code, reason = "a leaf crate around SQLite's virtual file system")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::ops::Deref;
use std::ptr;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use rusqlite::{Connection, Error, OpenFlags, ffi};

const VFS: &CStr = c"aico-reader";
const MAX_NAME_BYTES: c_int = 64;
const SECTOR_BYTES: c_int = 4096;

/// A file of a database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The database itself.
    Database,
    /// The rollback journal beside it.
    Journal,
    /// The write-ahead log beside it.
    Wal,
}

/// Where a database's bytes come from.
pub trait Source: Send + Sync {
    /// Fills `out` from `offset` on, as far as there is something; how many bytes there were.
    fn read(&self, part: Part, offset: u64, out: &mut [u8]) -> io::Result<usize>;
    /// How long this part is; none if it is not there.
    fn length(&self, part: Part) -> io::Result<Option<u64>>;
}

/// An open database that reads from a [`Source`].
#[derive(Debug)]
pub struct Database {
    // Dropped in this order.
    connection: Connection,
    _registered: Registered,
}

impl Database {
    /// Opens the database that `source` gives. Nothing of it is read yet.
    pub fn open(source: Arc<dyn Source>) -> Result<Self, Error> {
        VFS_REGISTERED.as_ref().map_err(|code| Error::SqliteFailure(ffi::Error::new(*code), None))?;
        let registered = Registered::new(source);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags_and_vfs(name(registered.0), flags, VFS)?;
        // The index of a write-ahead log is then kept in memory and not in a file.
        connection.pragma_update(None, "locking_mode", "exclusive")?;
        Ok(Self { connection, _registered: registered })
    }
}

impl Deref for Database {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}

/// A source that SQLite finds by its number.
#[derive(Debug)]
struct Registered(u64);

impl Registered {
    fn new(source: Arc<dyn Source>) -> Self {
        let mut sources = sources();
        sources.last += 1;
        let number = sources.last;
        sources.open.insert(number, source);
        Self(number)
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        sources().open.remove(&self.0);
    }
}

#[derive(Default)]
struct Sources {
    last: u64,
    open: BTreeMap<u64, Arc<dyn Source>>,
}

static SOURCES: LazyLock<Mutex<Sources>> = LazyLock::new(Mutex::default);

fn sources() -> MutexGuard<'static, Sources> {
    SOURCES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// By this name, SQLite asks for a source's database; it appends what it calls journal and log.
fn name(number: u64) -> String {
    format!("source-{number}")
}

fn find(asked: &CStr) -> Option<(Arc<dyn Source>, Part)> {
    let asked = asked.to_str().ok()?;
    let sources = sources();
    sources.open.iter().find_map(|(number, source)| {
        let part = match asked.strip_prefix(name(*number).as_str())? {
            "" => Part::Database,
            "-journal" => Part::Journal,
            "-wal" => Part::Wal,
            _ => return None,
        };
        Some((source.clone(), part))
    })
}

/// What SQLite holds as an open file.
#[repr(C)]
struct Handle {
    base: ffi::sqlite3_file,
    // A `Box<Open>` as long as `base.pMethods` is set.
    open: *mut Open,
}

struct Open {
    source: Arc<dyn Source>,
    part: Part,
}

static VFS_REGISTERED: LazyLock<Result<(), c_int>> = LazyLock::new(|| {
    let vfs = Box::leak(Box::new(ffi::sqlite3_vfs {
        iVersion: 1,
        szOsFile: size_of::<Handle>() as c_int,
        mxPathname: MAX_NAME_BYTES,
        pNext: ptr::null_mut(),
        zName: VFS.as_ptr(),
        pAppData: ptr::null_mut(),
        xOpen: Some(open),
        xDelete: Some(delete),
        xAccess: Some(access),
        xFullPathname: Some(full_name),
        xDlOpen: Some(no_library),
        xDlError: None,
        xDlSym: None,
        xDlClose: None,
        xRandomness: Some(randomness),
        xSleep: Some(sleep),
        xCurrentTime: Some(current_time),
        xGetLastError: Some(last_error),
        xCurrentTimeInt64: None,
        xSetSystemCall: None,
        xGetSystemCall: None,
        xNextSystemCall: None,
    }));
    // SAFETY: `vfs` lives for ever and every function in it is one of those below, which keep SQLite's contract. It does not
    // become the default.
    match unsafe { ffi::sqlite3_vfs_register(vfs, 0) } {
        ffi::SQLITE_OK => Ok(()),
        code => Err(code),
    }
});

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(lock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn open(
    _: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    file: *mut ffi::sqlite3_file,
    _: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: SQLite gives `szOsFile` bytes to be filled, which is a `Handle`; without methods it will not be closed.
    unsafe { (*file).pMethods = ptr::null() };
    // A temporary file has no name. All of them are kept in memory instead.
    if name.is_null() {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: not null, and SQLite's names end with a zero byte.
    let Some((source, part)) = find(unsafe { CStr::from_ptr(name) }) else { return ffi::SQLITE_CANTOPEN };
    let open = Box::into_raw(Box::new(Open { source, part }));
    // SAFETY: as above, and `out_flags` is null or valid.
    unsafe {
        let handle = file.cast::<Handle>();
        (*handle).open = open;
        (*handle).base.pMethods = &METHODS;
        if let Some(flags) = out_flags.as_mut() {
            *flags = ffi::SQLITE_OPEN_READONLY;
        }
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: SQLite closes a file that `open` has filled, once.
    unsafe { drop(Box::from_raw((*file.cast::<Handle>()).open)) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn read(file: *mut ffi::sqlite3_file, out: *mut c_void, bytes: c_int, offset: i64) -> c_int {
    let (Ok(bytes), Ok(offset)) = (usize::try_from(bytes), u64::try_from(offset)) else {
        return ffi::SQLITE_IOERR_READ;
    };
    // SAFETY: `file` was filled by `open` and is not closed; `out` has room for `bytes` bytes that nobody else looks at, which
    // are made bytes of a value here first.
    let (open, out) = unsafe {
        ptr::write_bytes(out.cast::<u8>(), 0, bytes);
        (&*(*file.cast::<Handle>()).open, std::slice::from_raw_parts_mut(out.cast::<u8>(), bytes))
    };
    match open.source.read(open.part, offset, out) {
        Ok(there) if there >= bytes => ffi::SQLITE_OK,
        Ok(there) => {
            out.iter_mut().skip(there).for_each(|byte| *byte = 0);
            ffi::SQLITE_IOERR_SHORT_READ
        }
        Err(_) => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn file_size(file: *mut ffi::sqlite3_file, out: *mut i64) -> c_int {
    // SAFETY: as in `read`.
    let open = unsafe { &*(*file.cast::<Handle>()).open };
    let length = open.source.length(open.part).map(|length| i64::try_from(length.unwrap_or(0)));
    let Ok(Ok(length)) = length else { return ffi::SQLITE_IOERR_FSTAT };
    // SAFETY: SQLite gives a valid place for the answer.
    unsafe { *out = length };
    ffi::SQLITE_OK
}

unsafe extern "C" fn access(_: *mut ffi::sqlite3_vfs, name: *const c_char, _: c_int, out: *mut c_int) -> c_int {
    // SAFETY: SQLite's names end with a zero byte.
    let there = match find(unsafe { CStr::from_ptr(name) }) {
        Some((source, part)) => source.length(part),
        None => Ok(None),
    };
    let Ok(there) = there else { return ffi::SQLITE_IOERR_ACCESS };
    // SAFETY: SQLite gives a valid place for the answer.
    unsafe { *out = there.is_some().into() };
    ffi::SQLITE_OK
}

unsafe extern "C" fn full_name(_: *mut ffi::sqlite3_vfs, name: *const c_char, room: c_int, out: *mut c_char) -> c_int {
    // SAFETY: SQLite's names end with a zero byte, and `out` has room for `room` bytes.
    unsafe {
        let name: CString = CStr::from_ptr(name).to_owned();
        let bytes = name.as_bytes_with_nul();
        if usize::try_from(room).is_ok_and(|room| bytes.len() <= room) {
            ptr::copy_nonoverlapping(bytes.as_ptr().cast(), out, bytes.len());
            return ffi::SQLITE_OK;
        }
    }
    ffi::SQLITE_CANTOPEN
}

unsafe extern "C" fn write(_: *mut ffi::sqlite3_file, _: *const c_void, _: c_int, _: i64) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn truncate(_: *mut ffi::sqlite3_file, _: i64) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn delete(_: *mut ffi::sqlite3_vfs, _: *const c_char, _: c_int) -> c_int {
    ffi::SQLITE_READONLY
}

unsafe extern "C" fn sync(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

/// Locking is the source's own matter.
unsafe extern "C" fn lock(_: *mut ffi::sqlite3_file, _: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn check_reserved_lock(_: *mut ffi::sqlite3_file, out: *mut c_int) -> c_int {
    // SAFETY: SQLite gives a valid place for the answer.
    unsafe { *out = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_control(_: *mut ffi::sqlite3_file, _: c_int, _: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

unsafe extern "C" fn sector_size(_: *mut ffi::sqlite3_file) -> c_int {
    SECTOR_BYTES
}

unsafe extern "C" fn device_characteristics(_: *mut ffi::sqlite3_file) -> c_int {
    0
}

unsafe extern "C" fn no_library(_: *mut ffi::sqlite3_vfs, _: *const c_char) -> *mut c_void {
    ptr::null_mut()
}

/// What is only read needs none; SQLite's own generator asks the default file system.
unsafe extern "C" fn randomness(_: *mut ffi::sqlite3_vfs, _: c_int, _: *mut c_char) -> c_int {
    0
}

unsafe extern "C" fn sleep(_: *mut ffi::sqlite3_vfs, _: c_int) -> c_int {
    0
}

unsafe extern "C" fn current_time(_: *mut ffi::sqlite3_vfs, out: *mut f64) -> c_int {
    // SAFETY: SQLite gives a valid place for the answer.
    unsafe { *out = 0.0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn last_error(_: *mut ffi::sqlite3_vfs, _: c_int, _: *mut c_char) -> c_int {
    0
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use rusqlite::ErrorCode;

    use super::*;

    struct Files(PathBuf);

    impl Files {
        fn part(&self, part: Part) -> PathBuf {
            let end = match part {
                Part::Database => "",
                Part::Journal => "-journal",
                Part::Wal => "-wal",
            };
            PathBuf::from(format!("{}{end}", self.0.display()))
        }
    }

    impl Source for Files {
        fn read(&self, part: Part, offset: u64, out: &mut [u8]) -> io::Result<usize> {
            let bytes = fs::read(self.part(part))?;
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            let there = rest.len().min(out.len());
            out[..there].copy_from_slice(&rest[..there]);
            Ok(there)
        }

        fn length(&self, part: Part) -> io::Result<Option<u64>> {
            Ok(fs::metadata(self.part(part)).ok().map(|found| found.len()))
        }
    }

    fn open(path: &Path) -> Database {
        Database::open(Arc::new(Files(path.to_owned()))).unwrap()
    }

    fn count(database: &Connection) -> Result<i64, Error> {
        database.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
    }

    fn all_bytes(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
        let mut all: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|p| (p.clone(), fs::read(p).unwrap()))
            .collect();
        all.sort();
        all
    }

    /// A writer that stops in the middle: its files as they were then.
    fn left_behind(folder: &Path, mode: &str, then: &str) -> PathBuf {
        let (path, copy) = (folder.join("writer.db"), folder.join("left"));
        fs::create_dir(&copy).unwrap();
        let writer = Connection::open(&path).unwrap();
        writer.pragma_update(None, "journal_mode", mode).unwrap();
        writer.pragma_update(None, "cache_size", 1).unwrap();
        writer.execute_batch("CREATE TABLE t(a, b); INSERT INTO t VALUES(1, zeroblob(9000));").unwrap();
        writer.execute_batch(then).unwrap();
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file()) {
            fs::copy(entry.path(), copy.join(entry.file_name())).unwrap();
        }
        copy.join("writer.db")
    }

    #[test]
    fn rows_come_from_the_database_and_its_log_and_nothing_is_written() {
        for mode in ["delete", "wal", "truncate", "persist"] {
            let folder = tempfile::tempdir().unwrap();
            let path = left_behind(folder.path(), mode, "INSERT INTO t VALUES(2, 2);");
            let before = all_bytes(path.parent().unwrap());
            let database = open(&path);
            assert_eq!(count(&database).unwrap(), 2, "{mode}");
            let refused = database.execute_batch("INSERT INTO t VALUES(3, 3)").unwrap_err();
            assert_eq!(refused.sqlite_error_code(), Some(ErrorCode::ReadOnly), "{mode}");
            drop(database);
            assert!(before == all_bytes(path.parent().unwrap()), "{mode}");
        }
    }

    #[test]
    fn an_unfinished_transaction_is_not_read_over() {
        let folder = tempfile::tempdir().unwrap();
        let path = left_behind(
            folder.path(),
            "delete",
            "BEGIN; WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 200)
             INSERT INTO t SELECT i, zeroblob(5000) FROM n;",
        );
        let before = all_bytes(path.parent().unwrap());
        assert!(before.iter().any(|(path, _)| path.ends_with("writer.db-journal")));
        let error = count(&open(&path)).unwrap_err();
        let Error::SqliteFailure(code, _) = error else { panic!("{error}") };
        assert_eq!(code.extended_code, ffi::SQLITE_READONLY_ROLLBACK);
        assert!(before == all_bytes(path.parent().unwrap()));
    }

    #[test]
    fn what_is_no_database_is_said_to_be_none() {
        let folder = tempfile::tempdir().unwrap();
        for (name, bytes) in [("text", vec![b'x'; 5000]), ("short", vec![0; 10])] {
            let path = folder.path().join(name);
            fs::write(&path, bytes).unwrap();
            assert_eq!(count(&open(&path)).unwrap_err().sqlite_error_code(), Some(ErrorCode::NotADatabase), "{name}");
        }
        assert!(sources().open.is_empty());
    }
}
