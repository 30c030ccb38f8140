//! What `rusqlite` does not wrap of SQLCipher: the key call, aws-lc below it, and a backup that goes on while its source is
//! written to.
#![expect(unsafe_code, reason = "a leaf crate around a few C functions")]

mod provider;
mod rekey;

use std::ffi::c_int;

use rusqlite::{Connection, Error, ffi};

pub use rekey::Copying;

/// Gives `connection` its key, before any other use of it: `literal` is `x'` and 64 hexadecimal digits and `'`.
///
/// SQLCipher copies the bytes; the caller wipes its own. A wrong key shows at the first read, as
/// [`rusqlite::ErrorCode::NotADatabase`].
pub fn set_key(connection: &Connection, literal: &[u8]) -> Result<(), Error> {
    provider::install();
    let bytes = c_int::try_from(literal.len()).map_err(|_| Error::InvalidQuery)?;
    // SAFETY: the handle is live for as long as `connection` is borrowed; `literal` is valid for `bytes` bytes, which
    // sqlite3_key only reads and copies.
    let code = unsafe { ffi::sqlite3_key(connection.handle(), literal.as_ptr().cast(), bytes) };
    checked(code)
}

fn checked(code: c_int) -> Result<(), Error> {
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}
