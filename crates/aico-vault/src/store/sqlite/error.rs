//! What SQLite says, told apart by fault.

use std::io;
use std::path::Path;

use rusqlite::{ErrorCode, ffi};

use crate::Error;

/// Stands for a database's name until [`named`] knows it.
pub(super) const UNNAMED: &str = "the database";

const FIRST_PAGE: &str = "the key does not fit, or the first page is not what was written there";

/// Whether it is the first page that did not open.
pub(super) fn is_first_page(error: &Error) -> bool {
    matches!(error, Error::Damaged { detail, .. } if detail == FIRST_PAGE)
}

impl From<rusqlite::Error> for Error {
    fn from(source: rusqlite::Error) -> Self {
        // Read first: the cause of a failed write is in the thread's error number until the next system call fails.
        let cause = io::Error::last_os_error();
        match source.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => Self::damaged(UNNAMED, FIRST_PAGE),
            Some(ErrorCode::DatabaseCorrupt) => damaged_page(),
            Some(ErrorCode::DiskFull) => Self::Full { what: UNNAMED.to_owned() },
            Some(ErrorCode::SystemIoFailure) if is_write(&source) && is_for_space(&cause) => {
                Self::Full { what: UNNAMED.to_owned() }
            }
            _ => Self::Sqlite { what: UNNAMED.to_owned(), source },
        }
    }
}

pub(super) fn damaged_page() -> Error {
    Error::damaged(UNNAMED, "a page is not what was written there")
}

/// Puts the database's name into an error that came from it without one.
pub(super) fn named(mut error: Error, path: &Path) -> Error {
    use Error::{Damaged, Full, Newer, Sqlite};
    if let Damaged { what, .. } | Full { what } | Newer { what, .. } | Sqlite { what, .. } = &mut error
        && what == UNNAMED
    {
        *what = path.display().to_string();
    }
    error
}

fn is_write(source: &rusqlite::Error) -> bool {
    source.sqlite_error().is_some_and(|error| error.extended_code == ffi::SQLITE_IOERR_WRITE)
}

/// SQLite says "full" for `ENOSPC` alone.
fn is_for_space(cause: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(cause.kind(), FileTooLarge | QuotaExceeded | StorageFull)
}
