//! Why a database's first page does not open: SQLCipher says the same of every reason.

use std::fs;
use std::io::Read;

use rusqlite::OpenFlags;

use super::{At, Mac, PAGE_BYTES, keyed};
use crate::Error;

const PLAIN: &[u8; 16] = b"SQLite format 3\0";

/// What is wrong with a database whose first page does not open, if that can be found out. Reads the whole file.
pub(super) fn first_page(at: &At) -> Option<Error> {
    let mut first = [0; PLAIN.len()];
    fs::File::open(&at.path).and_then(|mut file| file.read_exact(&mut first)).ok()?;
    let pages = fs::metadata(&at.path).ok()?.len() / PAGE_BYTES;
    let detail = if first == *PLAIN {
        "it is a plain SQLite database: something else has written it"
    } else if [1, 3].into_iter().any(|version| is_of_sqlcipher(at, version)) {
        "it is in an older format of SQLCipher, which this program never wrote"
    } else if [Mac::HmacSha256, Mac::HmacSha512].into_iter().any(|mac| damaged_pages(at, mac) < pages) {
        "its first page is not what was written there; others are"
    } else {
        "the key does not fit: no page was written with it"
    };
    Some(Error::damaged(at.path.display().to_string(), detail))
}

/// Whether the key opens it with the settings of an older SQLCipher. With a raw key, 2 and 3 are the same.
fn is_of_sqlcipher(at: &At, version: u8) -> bool {
    let opened = keyed(&at.path, &at.key, OpenFlags::SQLITE_OPEN_READ_ONLY).and_then(|connection| {
        connection.pragma_update(None, "cipher_compatibility", version)?;
        Ok(connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(()))?)
    });
    opened.is_ok()
}

/// How many pages have another authenticator than the key would give them; all, where nothing can be said.
fn damaged_pages(at: &At, mac: Mac) -> u64 {
    let count = || -> Result<u64, Error> {
        let connection = keyed(&at.path, &at.key, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        connection.pragma_update(None, "cipher_hmac_algorithm", mac.name())?;
        let mut findings = connection.prepare("PRAGMA cipher_integrity_check")?;
        let mut rows = findings.query(())?;
        let mut damaged = 0;
        while rows.next()?.is_some() {
            damaged += 1;
        }
        Ok(damaged)
    };
    count().unwrap_or(u64::MAX)
}
