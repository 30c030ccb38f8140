//! Questions over the audit log: an encrypted DuckDB file that follows it (`docs/spec/history.md`).
//!
//! What is in the file is derived: one that is damaged, older or gone is made anew from the log. It is open while a question
//! is answered, and at no other time.

use std::fs::{self, DirBuilder, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use aico_crypto::{Hasher, HistoryKey};
use aico_ffi_duckdb::{Answer, Cell, Error as DuckError, Limits, Reader, Writer};
use serde_json::Value;

use crate::audit::AuditLog;
use crate::{Error, durable};

/// What a question may take.
const LIMITS: Limits = Limits {
    time: Duration::from_secs(20),
    rows: 10_000,
    bytes: 4 << 20,
    memory_bytes: 256 << 20,
    temporary_bytes: 1 << 30,
    threads: 2,
};
/// Entries that are taken in at a time.
const PIECE: u64 = 8192;
/// Of the tables below; another one is made anew.
const VERSION: u8 = 1;
const COLUMNS: usize = 13;
const TABLES: &str = "
    CREATE TABLE event (index BIGINT, time TIMESTAMP, what VARCHAR, verdict VARCHAR, kind VARCHAR, key VARCHAR,
        category VARCHAR, value VARCHAR, component VARCHAR, reason VARCHAR, of BIGINT, bytes BIGINT, detail VARCHAR);
    CREATE VIEW access AS
        SELECT asked.index, asked.time, asked.kind AS who, asked.key, asked.what AS action, asked.category, asked.value,
            asked.component, asked.verdict,
            CASE WHEN ended.index IS NOT NULL THEN CASE WHEN ended.reason IS NULL THEN 'done' ELSE 'failed' END END AS outcome,
            coalesce(asked.reason, ended.reason) AS reason, ended.bytes
        FROM event AS asked LEFT JOIN event AS ended ON ended.of = asked.index AND ended.what = 'outcome'
        WHERE asked.verdict IS NOT NULL;";

/// Where the file of an epoch lies, and what is remembered of it.
#[derive(Debug)]
pub(crate) struct History {
    folder: PathBuf,
    epoch: u32,
}

impl History {
    pub(crate) fn new(folder: PathBuf, epoch: u32) -> Self {
        Self { folder, epoch }
    }

    fn file(&self) -> PathBuf {
        self.folder.join(format!("history-{}.duckdb", self.epoch))
    }

    /// What the file is like now, to be compared before it is opened the next time.
    fn state(&self) -> Result<Vec<u8>, Error> {
        let path = self.file();
        let read = || {
            let (mut file, mut hasher, mut piece) = (durable::open(&path)?, Hasher::new(), vec![0; 256 * 1024]);
            loop {
                match file.read(&mut piece)? {
                    0 => return Ok(hasher.finish()),
                    length => hasher.update(piece.get(..length).unwrap_or_default()),
                }
            }
        };
        let sum = read().map_err(|source| Error::io("reading", &path, source))?;
        Ok([&[VERSION], self.epoch.to_be_bytes().as_slice(), &sum].concat())
    }

    /// Brings the file up to date with the log. `remembered` is what this gave the last time.
    pub(crate) fn follow(&self, key: &HistoryKey, log: &AuditLog, remembered: Option<&[u8]>) -> Result<Vec<u8>, Error> {
        let is_ours = remembered.is_some_and(|state| self.state().is_ok_and(|now| now == state));
        if is_ours && self.take_in(key, log).is_ok() {
            return self.state();
        }
        self.remove()?;
        self.take_in(key, log)?;
        self.state()
    }

    fn take_in(&self, key: &HistoryKey, log: &AuditLog) -> Result<(), Error> {
        let file = self.file();
        let is_new = !file.exists();
        key.hazmat_lent_to_duckdb(|key| {
            let mut writer = Writer::open(&file, key, LIMITS.memory_bytes).map_err(|error| self.failed(error))?;
            let failed = |source| Error::io("protecting", &file, source);
            fs::set_permissions(&file, Permissions::from_mode(0o600)).map_err(failed)?;
            let filled = self.fill(&mut writer, is_new, log);
            filled.and_then(|()| writer.close().map_err(|error| self.failed(error)))
        })
    }

    fn fill(&self, writer: &mut Writer<'_>, is_new: bool, log: &AuditLog) -> Result<(), Error> {
        let failed = |error| self.failed(error);
        if is_new {
            writer.run(TABLES).map_err(failed)?;
        }
        let count = writer.ask("SELECT count(*), count(DISTINCT index), max(index) + 1 FROM event", &LIMITS);
        let count = count.map_err(failed)?;
        let number = |column: usize| count.rows.first()?.get(column)?.as_ref()?.parse::<u64>().ok();
        let next = number(2).unwrap_or_default();
        if number(0) != Some(next) || number(1) != Some(next) {
            return Err(Error::damaged("the access history", "entries are missing"));
        }
        for from in (next..log.head().size).step_by(usize::try_from(PIECE).unwrap_or(usize::MAX)) {
            let entries = log.entries(from, from.saturating_add(PIECE))?;
            let events: Vec<(u64, Value)> = entries
                .into_iter()
                .map(|(index, json)| (index, serde_json::from_slice(&json).unwrap_or(Value::Null)))
                .collect();
            let cells: Vec<Cell<'_>> = events.iter().flat_map(|(index, event)| row(*index, event)).collect();
            writer.append("event", COLUMNS, &cells).map_err(failed)?;
        }
        Ok(())
    }

    /// Answers a question from the file as it is.
    pub(crate) fn ask(&self, key: &HistoryKey, sql: &str) -> Result<Answer, Error> {
        let temporary = self.folder.join("history.tmp");
        make_empty(&temporary)?;
        let answer = key.hazmat_lent_to_duckdb(|key| {
            let mut reader = Reader::open(&self.file(), key, &temporary, LIMITS).map_err(|error| self.failed(error))?;
            let answer = reader.ask(sql).map_err(|error| Error::Question(self.without_paths(&error)));
            drop(reader);
            answer
        });
        remove_folder(&temporary)?;
        answer
    }

    /// Removes the file and what goes with it.
    fn remove(&self) -> Result<(), Error> {
        let file = self.file();
        let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for rest in ["", ".wal", ".wal.checkpoint", ".wal.recovery"] {
            durable::remove(&file.with_file_name(format!("{name}{rest}")))?;
        }
        Ok(())
    }

    fn failed(&self, error: DuckError) -> Error {
        let text = error.to_string();
        if ["No space left", "Disk quota exceeded"].iter().any(|full| text.contains(full)) {
            return Error::Full { what: "the access history".to_owned() };
        }
        Error::damaged("the access history", self.without_paths(&error))
    }

    /// Without the picture of the place in the question, which takes lines of its own.
    fn without_paths(&self, error: &DuckError) -> String {
        let text = error.to_string();
        let (text, _picture) = text.split_once("\n\nLINE ").unwrap_or((&text, ""));
        let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines.join(" ").replace(&*self.folder.to_string_lossy(), "…")
    }
}

/// Removes the histories of other epochs, and what a question left behind that was stopped.
pub(crate) fn sweep(folder: &Path, epoch: u32) -> Result<(), Error> {
    let failed = |source| Error::io("listing", folder, source);
    remove_folder(&folder.join("history.tmp"))?;
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if epoch_of(&path).is_some_and(|found| found != epoch) {
            durable::remove(&path)?;
        }
    }
    Ok(())
}

/// The epoch of a history, or of a file that goes with it.
fn epoch_of(path: &Path) -> Option<u32> {
    let (digits, rest) = path.file_name()?.to_str()?.strip_prefix("history-")?.split_once(".duckdb")?;
    let ours = ["", ".wal", ".wal.checkpoint", ".wal.recovery"].contains(&rest);
    digits.parse().ok().filter(|epoch: &u32| ours && epoch.to_string() == digits)
}

fn make_empty(folder: &Path) -> Result<(), Error> {
    remove_folder(folder)?;
    DirBuilder::new().mode(0o700).create(folder).map_err(|source| Error::io("creating", folder, source))
}

fn remove_folder(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", folder, source)),
        _ => Ok(()),
    }
}

/// An entry's row, in the order of the table's columns.
fn row(index: u64, event: &Value) -> [Cell<'_>; COLUMNS] {
    let text = |pointer: &str| event.pointer(pointer).and_then(Value::as_str).map_or(Cell::Null, Cell::Text);
    let number = |name: &str| event.get(name).and_then(Value::as_i64).map_or(Cell::Null, Cell::Number);
    let reason = if event.get("reason").is_some() { text("/reason") } else { text("/failed") };
    [
        Cell::Number(index.cast_signed()),
        event.get("at_ms").and_then(Value::as_i64).map_or(Cell::Null, Cell::Time),
        text("/what"),
        text("/verdict"),
        text("/who/kind"),
        text("/who/key"),
        text("/category"),
        text("/value"),
        text("/component"),
        reason,
        number("of"),
        number("bytes"),
        text("/detail"),
    ]
}
