//! SQLCipher's key call, which `rusqlite` does not wrap: the key goes in through `sqlite3_key`, never as SQL text.
#![expect(unsafe_code, reason = "a leaf crate around one C function")]

use std::ffi::c_int;

use rusqlite::{Connection, Error, ffi};

/// Gives `connection` its key, before any other use of it: `literal` is `x'` and 64 hexadecimal digits and `'`.
///
/// SQLCipher copies the bytes; the caller wipes its own. A wrong key shows at the first read, as
/// [`rusqlite::ErrorCode::NotADatabase`].
pub fn set_key(connection: &Connection, literal: &[u8]) -> Result<(), Error> {
    let bytes = c_int::try_from(literal.len()).map_err(|_| Error::InvalidQuery)?;
    // SAFETY: the handle is live for as long as `connection` is borrowed; `literal` is valid for `bytes` bytes, which
    // sqlite3_key only reads and copies.
    let code = unsafe { ffi::sqlite3_key(connection.handle(), literal.as_ptr().cast(), bytes) };
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(Error::SqliteFailure(ffi::Error::new(code), None)),
    }
}
