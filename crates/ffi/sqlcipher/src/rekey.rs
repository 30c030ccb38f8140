use std::ffi::c_int;
use std::ptr::NonNull;

use rusqlite::{Connection, Error, ffi};

use crate::checked;

/// A database that is being copied, page by page, into another one with a key of its own.
///
/// What is written through [`Copying::source`] meanwhile reaches the copy too (SQLite, `backup.html`): so the copy is
/// equal to its source once [`Copying::step`] has said so, however long that took. Nothing else may write to the source, and
/// from then on nobody: SQLite carries nothing over any more.
#[derive(Debug)]
pub struct Copying {
    // Before the connections, which may not be closed under it.
    backup: Backup,
    source: Connection,
    copy: Connection,
}

#[derive(Debug)]
struct Backup(Option<NonNull<ffi::sqlite3_backup>>);

// SAFETY: the backup object belongs to two connections that move with it and are `Send`; SQLite ties neither to a thread
// (it is built with SQLITE_THREADSAFE=1), and `Copying` gives out no reference to it.
unsafe impl Send for Backup {}

impl Copying {
    /// Begins to copy `source` into `copy`, an empty database that has its key. Gives `source` back when that fails.
    pub fn begin(source: Connection, copy: Connection) -> Result<Self, (Box<Connection>, Error)> {
        // SAFETY: both handles are live, the names are NUL-terminated. The result is checked for null.
        let backup =
            unsafe { ffi::sqlite3_backup_init(copy.handle(), c"main".as_ptr(), source.handle(), c"main".as_ptr()) };
        match NonNull::new(backup) {
            Some(backup) => Ok(Self { backup: Backup(Some(backup)), source, copy }),
            None => {
                // SAFETY: the handle is live; SQLite leaves the reason with the destination.
                let code = unsafe { ffi::sqlite3_errcode(copy.handle()) };
                Err((Box::new(source), Error::SqliteFailure(ffi::Error::new(code), None)))
            }
        }
    }

    /// The database that is copied: to be written to through this alone.
    #[must_use]
    pub fn source(&self) -> &Connection {
        &self.source
    }

    /// Copies up to `pages` pages; true when the copy is equal to the source.
    pub fn step(&mut self, pages: u16) -> Result<bool, Error> {
        let Some(backup) = self.backup.0 else { return Err(Error::InvalidQuery) };
        // SAFETY: the object is live until it is finished, which takes it out of `backup`; both connections are.
        match unsafe { ffi::sqlite3_backup_step(backup.as_ptr(), c_int::from(pages)) } {
            ffi::SQLITE_DONE => Ok(true),
            ffi::SQLITE_OK => Ok(false),
            code => Err(Error::SqliteFailure(ffi::Error::new(code), None)),
        }
    }

    /// Pages that are still to be copied, and all of them; as of the last step.
    #[must_use]
    pub fn progress(&self) -> (u64, u64) {
        let Some(backup) = self.backup.0 else { return (0, 0) };
        // SAFETY: as in `step`; both functions only read.
        let (left, all) =
            unsafe { (ffi::sqlite3_backup_remaining(backup.as_ptr()), ffi::sqlite3_backup_pagecount(backup.as_ptr())) };
        let number = |pages: c_int| u64::try_from(pages).unwrap_or(0);
        (number(left), number(all))
    }

    /// Ends the copying after [`Copying::step`] has said that the copy is equal, and gives back source and copy. From
    /// here on they are two.
    pub fn finish(mut self) -> (Connection, Result<Connection, Error>) {
        let finished = self.backup.finish();
        let Self { source, copy, .. } = self;
        (source, finished.map(|()| copy))
    }

    /// Ends the copying and gives the source back; the copy is worth nothing.
    #[must_use]
    pub fn abandon(self) -> Connection {
        self.finish().0
    }
}

impl Backup {
    fn finish(&mut self) -> Result<(), Error> {
        match self.0.take() {
            // SAFETY: the object is live and taken out here: it is finished once. Its connections are still open.
            Some(backup) => checked(unsafe { ffi::sqlite3_backup_finish(backup.as_ptr()) }),
            None => Ok(()),
        }
    }
}

impl Drop for Backup {
    fn drop(&mut self) {
        let _worth_nothing = self.finish();
    }
}
