//! The rows of values (`docs/spec/vault-stores.md`, Values).

use std::collections::HashSet;

use aico_crypto::Digest;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use crate::Error;
use crate::data_keys::KeyId;
use crate::store::FileId;
use aico_policy::DataPath;

pub(super) const TABLES: &str = "
    CREATE TABLE value (
        id INTEGER PRIMARY KEY,
        path TEXT NOT NULL UNIQUE,
        bytes INTEGER NOT NULL,
        sum BLOB NOT NULL,
        created_ms INTEGER NOT NULL,
        changed_ms INTEGER NOT NULL,
        file_id BLOB,
        file_key BLOB,
        CHECK ((file_id IS NULL) = (file_key IS NULL))
    ) STRICT;
    CREATE TABLE inline_value (
        value_id INTEGER PRIMARY KEY REFERENCES value(id) ON DELETE CASCADE,
        content BLOB NOT NULL
    ) STRICT;
";

/// Which key a value is sealed under, and in which epoch its file was. Without a key it is older than data keys are.
pub(super) const KEY_COLUMNS: &str = "
    ALTER TABLE value ADD COLUMN key_id BLOB;
    ALTER TABLE value ADD COLUMN epoch INTEGER NOT NULL DEFAULT 0;
";

/// Whether what is stored of a value is longer than it is (`Sensitivity::stored_bytes`).
pub(super) const PADDED_COLUMN: &str = "ALTER TABLE value ADD COLUMN padded INTEGER NOT NULL DEFAULT 0;";

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the value lies.
    pub path: DataPath,
    /// Its length.
    pub bytes: u64,
    /// When it was stored, in Unix time.
    pub changed_ms: u64,
}

/// What is stored in one category.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Category {
    /// Its name.
    pub name: String,
    /// Number of values.
    pub values: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How many of them lie in files of their own.
    pub files: u64,
}

/// Values and bytes of every category, in the order of their names.
pub(super) fn categories(db: &Connection) -> Result<Vec<Category>, Error> {
    let mut statement = db.prepare_cached(
        "SELECT substr(path, 1, instr(path, '/') - 1) AS category, count(*), sum(bytes), count(file_id)
         FROM value GROUP BY category ORDER BY category",
    )?;
    let rows = statement.query_map([], |row| {
        let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
        Ok(Category { name: row.get(0)?, values: number(1)?, bytes: number(2)?, files: number(3)? })
    })?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// A value as its rows tell it.
#[derive(Clone)]
pub(super) struct Found {
    pub(super) bytes: u64,
    pub(super) sum: Digest,
    pub(super) changed_ms: u64,
    pub(super) key: Option<KeyId>,
    pub(super) epoch: u32,
    pub(super) padded: bool,
    /// Sealed, if there is a key.
    pub(super) content: Content,
}

/// Where a value's bytes are.
#[derive(Clone)]
pub(super) enum Content {
    Inline(Vec<u8>),
    File { id: FileId, wrapped_key: Vec<u8> },
}

impl Found {
    pub(super) fn file(&self) -> Option<FileId> {
        match &self.content {
            Content::Inline(_) => None,
            Content::File { id, .. } => Some(*id),
        }
    }
}

/// Writes a value's rows in the place of older ones. Returns whether there were any, and their file.
pub(super) fn put(tx: &Transaction<'_>, path: &DataPath, value: &Found) -> Result<(bool, Option<FileId>), Error> {
    let old = tx
        .prepare_cached("SELECT file_id FROM value WHERE path = ?1")?
        .query_row([path.as_str()], |row| file_id(row, 0))
        .optional()?;
    let (file, key) = match &value.content {
        Content::Inline(_) => (None, None),
        Content::File { id, wrapped_key } => (Some(id.as_bytes()), Some(wrapped_key)),
    };
    let id: i64 = tx
        .prepare_cached(
            "INSERT INTO value (path, bytes, sum, created_ms, changed_ms, file_id, file_key, key_id, epoch, padded)
             VALUES (?1, ?2, ?3, ?4, ?4, ?5, ?6, ?7, ?8, ?9)
             ON CONFLICT (path) DO UPDATE SET bytes = excluded.bytes, sum = excluded.sum,
                 changed_ms = excluded.changed_ms, file_id = excluded.file_id, file_key = excluded.file_key,
                 key_id = excluded.key_id, epoch = excluded.epoch, padded = excluded.padded
             RETURNING id",
        )?
        .query_row(
            params![
                path.as_str(),
                stored(value.bytes)?,
                value.sum,
                stored(value.changed_ms)?,
                file,
                key,
                value.key.as_ref().map(KeyId::as_bytes),
                value.epoch,
                value.padded
            ],
            |row| row.get(0),
        )?;
    put_inline(tx, id, &value.content)?;
    Ok((old.is_some(), old.flatten()))
}

fn put_inline(tx: &Transaction<'_>, id: i64, content: &Content) -> Result<(), Error> {
    match content {
        Content::Inline(bytes) => {
            tx.prepare_cached("INSERT OR REPLACE INTO inline_value (value_id, content) VALUES (?1, ?2)")?
                .execute((id, bytes))?;
        }
        Content::File { .. } => {
            tx.prepare_cached("DELETE FROM inline_value WHERE value_id = ?1")?.execute([id])?;
        }
    }
    Ok(())
}

/// Removes a value's rows. `None` when there are none, otherwise their file.
pub(super) fn remove(tx: &Transaction<'_>, path: &DataPath) -> Result<Option<Option<FileId>>, Error> {
    Ok(tx
        .prepare_cached("DELETE FROM value WHERE path = ?1 RETURNING file_id")?
        .query_row([path.as_str()], |row| file_id(row, 0))
        .optional()?)
}

pub(super) fn find(db: &Connection, path: &DataPath) -> Result<Option<Found>, Error> {
    let found = db
        .prepare_cached(
            "SELECT bytes, sum, changed_ms, file_id, file_key, content, key_id, epoch, padded
             FROM value LEFT JOIN inline_value ON value_id = id WHERE path = ?1",
        )?
        .query_row([path.as_str()], |row| {
            let key = row.get::<_, Option<_>>(6)?.map(KeyId::from_bytes);
            Ok(((row.get(0)?, row.get(1)?, row.get(2)?), key, (row.get(7)?, row.get(8)?), content(row)?))
        })
        .optional()?;
    let Some(((bytes, sum, changed_ms), key, (epoch, padded), content)) = found else { return Ok(None) };
    let content = content.ok_or_else(|| Error::damaged("the value", "its content is missing"))?;
    Ok(Some(Found { bytes: loaded(bytes), sum, changed_ms: loaded(changed_ms), key, epoch, padded, content }))
}

/// A value whose file was not sealed in `epoch`, or that has no key: the next one behind the row `after`.
pub(super) fn next_old(db: &Connection, epoch: u32, after: i64) -> Result<Option<(i64, DataPath)>, Error> {
    let sql = "SELECT id, path FROM value WHERE id > ?1 AND (key_id IS NULL OR (file_id IS NOT NULL AND epoch < ?2))
               ORDER BY id LIMIT 1";
    next(db, sql, (after, epoch))
}

/// A value of a category that is not padded: the next one behind the row `after`.
pub(super) fn next_bare(db: &Connection, category: &str, after: i64) -> Result<Option<(i64, DataPath)>, Error> {
    let sql = "SELECT id, path FROM value
               WHERE id > ?1 AND padded = 0 AND path > ?2 || '/' AND path < ?2 || '0' ORDER BY id LIMIT 1";
    next(db, sql, (after, category))
}

/// Bytes of a category's values that are not padded; none if there is no such value.
pub(super) fn bare_bytes(db: &Connection, category: &str) -> Result<Option<u64>, Error> {
    let sql = "SELECT sum(bytes) FROM value WHERE padded = 0 AND path > ?1 || '/' AND path < ?1 || '0'";
    Ok(db.prepare_cached(sql)?.query_row([category], |row| row.get::<_, Option<i64>>(0))?.map(loaded))
}

fn next(db: &Connection, sql: &str, with: impl rusqlite::Params) -> Result<Option<(i64, DataPath)>, Error> {
    let found =
        db.prepare_cached(sql)?.query_row(with, |row| Ok((row.get(0)?, row.get::<_, String>(1)?))).optional()?;
    let Some((id, path)) = found else { return Ok(None) };
    Ok(Some((id, DataPath::parse(&path).map_err(|_| Error::damaged("the value", "its path is not valid"))?)))
}

/// Puts the same value in another sealing in its place, unless it was changed since `old` was read.
pub(super) fn replace(tx: &Transaction<'_>, id: i64, old: &Found, new: &Found) -> Result<bool, Error> {
    let (file, file_key) = match &new.content {
        Content::Inline(_) => (None, None),
        Content::File { id, wrapped_key } => (Some(id.as_bytes()), Some(wrapped_key)),
    };
    let old_file = old.file();
    let changed = tx
        .prepare_cached(
            "UPDATE value SET file_id = ?2, file_key = ?3, key_id = ?4, epoch = ?5, padded = ?10
             WHERE id = ?1 AND sum = ?6 AND changed_ms = ?7 AND key_id IS ?8 AND file_id IS ?9",
        )?
        .execute(params![
            id,
            file,
            file_key,
            new.key.as_ref().map(KeyId::as_bytes),
            new.epoch,
            old.sum,
            stored(old.changed_ms)?,
            old.key.as_ref().map(KeyId::as_bytes),
            old_file.as_ref().map(FileId::as_bytes),
            new.padded,
        ])?;
    if changed > 0 {
        put_inline(tx, id, &new.content)?;
    }
    Ok(changed > 0)
}

/// Removes everything under a name; the files that belonged to it.
pub(super) fn remove_under(tx: &Transaction<'_>, name: &str) -> Result<(usize, Vec<FileId>), Error> {
    let mut statement = tx.prepare(
        "DELETE FROM value WHERE path = ?1 OR substr(path, 1, length(?1) + 1) = ?1 || '/' RETURNING file_id",
    )?;
    let rows = statement.query_map([name], |row| file_id(row, 0))?.collect::<Result<Vec<_>, _>>()?;
    Ok((rows.len(), rows.into_iter().flatten().collect()))
}

fn content(row: &Row<'_>) -> rusqlite::Result<Option<Content>> {
    match file_id(row, 3)? {
        Some(id) => Ok(Some(Content::File { id, wrapped_key: row.get(4)? })),
        None => Ok(row.get::<_, Option<_>>(5)?.map(Content::Inline)),
    }
}

pub(super) fn list(db: &Connection, prefix: &str, after: &str, limit: usize) -> Result<Vec<Entry>, Error> {
    // Whichever is behind the other begins the range; paths that start with the prefix lie together.
    let mut statement = db.prepare_cached(
        "SELECT path, bytes, changed_ms FROM value WHERE path >= ?1 AND path <> ?2 ORDER BY path LIMIT ?3",
    )?;
    let mut rows = statement.query((prefix.max(after), after, limit as i64))?;
    let mut entries = Vec::new();
    while let Some(row) = rows.next()? {
        let path: String = row.get(0)?;
        if !path.starts_with(prefix) {
            break;
        }
        let path = DataPath::parse(&path).map_err(|_| Error::damaged("the value", "its path is not valid"))?;
        entries.push(Entry { path, bytes: loaded(row.get(1)?), changed_ms: loaded(row.get(2)?) });
    }
    Ok(entries)
}

pub(super) fn files(db: &Connection) -> Result<HashSet<FileId>, Error> {
    let mut statement = db.prepare("SELECT file_id FROM value WHERE file_id IS NOT NULL")?;
    let ids = statement.query_map((), |row| row.get(0))?;
    Ok(ids.map(|id| id.map(FileId::from_bytes)).collect::<Result<_, _>>()?)
}

pub(super) fn total_bytes(db: &Connection) -> Result<u64, Error> {
    Ok(db.query_row("SELECT coalesce(sum(bytes), 0) FROM value", (), |row| row.get(0)).map(loaded)?)
}

pub(super) fn file_bytes(db: &Connection) -> Result<u64, Error> {
    let sql = "SELECT coalesce(sum(bytes), 0) FROM value WHERE file_id IS NOT NULL";
    Ok(db.query_row(sql, (), |row| row.get(0)).map(loaded)?)
}

pub(super) fn count(db: &Connection) -> Result<u64, Error> {
    Ok(db.query_row("SELECT count(*) FROM value", (), |row| row.get(0)).map(loaded)?)
}

fn file_id(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<FileId>> {
    Ok(row.get::<_, Option<_>>(column)?.map(FileId::from_bytes))
}

/// SQLite's integers are signed.
fn stored(number: u64) -> Result<i64, Error> {
    i64::try_from(number).map_err(|_| Error::Misuse("a number above 2^63 is stored"))
}

fn loaded(number: i64) -> u64 {
    number.unsigned_abs()
}
