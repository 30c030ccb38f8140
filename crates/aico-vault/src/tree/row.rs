//! The rows of nodes (`docs/spec/tree.md`, Nodes).

use std::collections::{BTreeSet, HashSet};

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::contents::{Content, MAX_FILE_BYTES, SealedFile};
use super::holes::Holes;
use crate::Error;
use crate::store::FileId;

/// The root folder.
pub(crate) const ROOT: u64 = 1;
/// Longest name.
pub(super) const MAX_NAME_BYTES: usize = 255;
/// Longest target of a symbolic link.
pub(super) const MAX_TARGET_BYTES: usize = 4095;

pub(super) const TABLES: &str = "
    CREATE TABLE node (
        id INTEGER PRIMARY KEY,
        parent INTEGER NOT NULL,
        name BLOB NOT NULL,
        kind INTEGER NOT NULL,
        mode INTEGER NOT NULL,
        atime_ns INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        ctime_ns INTEGER NOT NULL,
        size INTEGER NOT NULL,
        target BLOB,
        file_id BLOB,
        file_key BLOB,
        epoch INTEGER NOT NULL,
        sealed INTEGER NOT NULL,
        holes BLOB,
        UNIQUE (parent, name),
        CHECK ((file_id IS NULL) = (file_key IS NULL))
    ) STRICT;
";

const COLUMNS: &str =
    "id, parent, name, kind, mode, atime_ns, mtime_ns, ctime_ns, size, target, file_id, file_key, epoch, sealed, holes";

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    File(Content),
    Folder,
    /// A symbolic link, and its target.
    Link(Vec<u8>),
}

/// Nanoseconds since 1970.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) accessed: i64,
    pub(crate) modified: i64,
    pub(crate) changed: i64,
}

/// A node as its row tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NodeRow {
    pub(super) id: u64,
    pub(super) parent: u64,
    pub(super) name: Vec<u8>,
    pub(super) kind: Kind,
    pub(super) mode: u32,
    pub(super) times: Times,
}

/// Whether a folder can have something of this name.
pub(super) fn is_name(name: &[u8]) -> bool {
    let bad = name.is_empty() || name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0);
    !bad && name.len() <= MAX_NAME_BYTES
}

/// Everything in a folder.
pub(super) fn children(db: &Connection, folder: u64) -> Result<Vec<NodeRow>, Error> {
    let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM node WHERE parent = ?1"))?;
    let mut rows = statement.query([folder.cast_signed()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(decode(row)?);
    }
    Ok(found)
}

pub(super) fn find(db: &Connection, id: u64) -> Result<Option<NodeRow>, Error> {
    let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM node WHERE id = ?1"))?;
    let mut rows = statement.query([id.cast_signed()])?;
    rows.next()?.map(decode).transpose()
}

/// The next node behind `after` whose content lies in a sealed file that was begun before `epoch`.
pub(super) fn next_with_file(db: &Connection, after: u64, epoch: u32) -> Result<Option<u64>, Error> {
    let sql = "SELECT id FROM node WHERE id > ?1 AND file_id IS NOT NULL AND epoch < ?2 ORDER BY id LIMIT 1";
    let found =
        db.prepare_cached(sql)?.query_row((after.cast_signed(), epoch), |row| row.get::<_, i64>(0)).optional()?;
    Ok(found.map(i64::cast_unsigned))
}

/// The next node behind `after`.
pub(super) fn next(db: &Connection, after: u64) -> Result<Option<NodeRow>, Error> {
    let mut statement = db.prepare_cached(&format!("SELECT {COLUMNS} FROM node WHERE id > ?1 ORDER BY id LIMIT 1"))?;
    let mut rows = statement.query([after.cast_signed()])?;
    rows.next()?.map(decode).transpose()
}

/// The highest number of a node.
pub(super) fn last(db: &Connection) -> Result<u64, Error> {
    let last: i64 = db.query_row("SELECT coalesce(max(id), 0) FROM node", (), |row| row.get(0))?;
    Ok(last.cast_unsigned())
}

/// Whether there is anything that has content.
pub(crate) fn has_files(database: &crate::store::Database) -> Result<bool, Error> {
    let sql = "SELECT EXISTS (SELECT 1 FROM node WHERE file_id IS NOT NULL)";
    database.read(|db| Ok(db.query_row(sql, (), |row| row.get(0))?))
}

/// Bytes of all files that lie in sealed files.
pub(super) fn file_bytes(db: &Connection) -> Result<u64, Error> {
    let sql = "SELECT coalesce(sum(size), 0) FROM node WHERE file_id IS NOT NULL";
    Ok(db.query_row(sql, (), |row| row.get::<_, i64>(0))?.cast_unsigned())
}

/// Every sealed file that a row speaks of.
pub(super) fn files(db: &Connection) -> Result<HashSet<FileId>, Error> {
    let mut statement = db.prepare("SELECT file_id FROM node WHERE file_id IS NOT NULL")?;
    let ids = statement.query_map((), |row| row.get(0))?;
    Ok(ids.map(|id| id.map(FileId::from_bytes)).collect::<Result<_, _>>()?)
}

/// Takes nodes out and writes others in the place of what they were. Out first: names may have changed hands.
pub(super) fn put(tx: &Transaction<'_>, removed: &BTreeSet<u64>, rows: &[NodeRow]) -> Result<(), Error> {
    let mut remove = tx.prepare_cached("DELETE FROM node WHERE id = ?1")?;
    for id in removed.iter().copied().chain(rows.iter().map(|row| row.id)) {
        remove.execute([id.cast_signed()])?;
    }
    let sql = format!("INSERT INTO node ({COLUMNS}) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)");
    let mut insert = tx.prepare_cached(&sql)?;
    let none = Content::default();
    for NodeRow { id, parent, name, kind, mode, times } in rows {
        let (kind, content, target) = match kind {
            Kind::File(content) => (1, content, None),
            Kind::Folder => (2, &none, None),
            Kind::Link(target) => (3, &none, Some(target)),
        };
        let file = content.file.as_ref();
        insert.execute(params![
            id.cast_signed(),
            parent.cast_signed(),
            name,
            kind,
            mode,
            times.accessed,
            times.modified,
            times.changed,
            content.size.cast_signed(),
            target,
            file.map(|file| *file.id.as_bytes()),
            file.map(|file| &file.wrapped_key),
            file.map_or(0, |file| file.epoch),
            content.sealed.cast_signed(),
            content.holes.encode(),
        ])?;
    }
    Ok(())
}

fn decode(row: &Row<'_>) -> Result<NodeRow, Error> {
    const DAMAGED: &str = "a node of the tree";
    let number = |at| row.get::<_, i64>(at).map(i64::cast_unsigned);
    let (id, parent, name, size) = (number(0)?, number(1)?, row.get::<_, Vec<u8>>(2)?, number(8)?);
    let kind = match row.get::<_, i64>(3)? {
        1 => {
            let file = row.get::<_, Option<_>>(10)?.map(FileId::from_bytes);
            let (wrapped_key, epoch) = (row.get::<_, Option<Vec<u8>>>(11)?, row.get(12)?);
            let file = file.zip(wrapped_key).map(|(id, wrapped_key)| SealedFile { id, wrapped_key, epoch });
            let blocks = size.div_ceil(aico_crypto::BLOCK_BYTES as u64);
            let holes = Holes::decode(&row.get::<_, Option<Vec<u8>>>(14)?.unwrap_or_default(), blocks);
            let holes = holes.filter(|_| size <= MAX_FILE_BYTES).ok_or_else(|| Error::damaged(DAMAGED, "its size"))?;
            Kind::File(Content { size, holes, file, sealed: number(13)? })
        }
        2 => Kind::Folder,
        3 => Kind::Link(row.get::<_, Option<Vec<u8>>>(9)?.unwrap_or_default()),
        _ => return Err(Error::damaged(DAMAGED, "its kind")),
    };
    if id == 0 || !(is_name(&name) || (id == ROOT && parent == 0 && name.is_empty())) {
        return Err(Error::damaged(DAMAGED, "its name"));
    }
    let times = Times { accessed: row.get(5)?, modified: row.get(6)?, changed: row.get(7)? };
    Ok(NodeRow { id, parent, name, kind, mode: row.get::<_, u32>(4)? & 0o7777, times })
}

/// A node's row, before anybody has looked at it.
#[derive(Clone, Debug)]
pub struct RawNode {
    /// `id`, `parent`, `kind`, `mode`, `atime_ns`, `mtime_ns`, `ctime_ns`, `size`, `epoch`, `sealed`.
    pub numbers: [i64; 10],
    /// Its name.
    pub name: Vec<u8>,
    /// `target`, `file_id`, `file_key`, `holes`.
    pub texts: [Option<Vec<u8>>; 4],
}

/// Writes a row as it is and reads it: whether it is the same when it is written and read once more; for the fuzzer.
///
/// # Errors
/// Where the row is refused.
pub fn node(raw: &RawNode) -> Result<bool, Error> {
    let mut db = Connection::open_in_memory()?;
    db.execute_batch(TABLES)?;
    let [id, parent, kind, mode, accessed, modified, changed, size, epoch, sealed] = raw.numbers;
    let [target, file_id, file_key, holes] = &raw.texts;
    let sql = format!("INSERT INTO node ({COLUMNS}) VALUES (?1,?2,?3,?4,?5,?6,?7,?8,?9,?10,?11,?12,?13,?14,?15)");
    let values = params![
        id, parent, raw.name, kind, mode, accessed, modified, changed, size, target, file_id, file_key, epoch, sealed,
        holes
    ];
    db.execute(&sql, values)?;
    let read = |db: &Connection| children(db, parent.cast_unsigned());
    let first = read(&db)?;
    let mut again = || {
        let tx = db.transaction()?;
        put(&tx, &BTreeSet::new(), &first)?;
        tx.commit()?;
        read(&db)
    };
    Ok(again().is_ok_and(|again| again == first))
}
