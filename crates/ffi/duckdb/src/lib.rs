//! DuckDB on one encrypted file: rows go in, questions are answered, and nothing else.
//!
//! The library is the prebuilt one that `./dev` fetches. Its own cipher refuses to write, so AES-256-GCM comes from OpenSSL,
//! through a shim that is installed before the file is attached (`docs/spec/history.md`). The key stays with the caller: the
//! shim keeps a pointer to it, and DuckDB is given a word that is no secret.
//!
//! A [`Reader`] can read its file and spill into its temporary folder, encrypted. It reads no other file, loads no extension,
//! and its configuration is locked.
#![expect(unsafe_code, reason = "a leaf crate around a C++ library")]

mod raw;

#[cfg(test)]
mod tests;

use std::marker::PhantomData;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

/// Stack of the thread that parses and plans a question: its nesting is the asker's.
const STACK_BYTES: usize = 32 * 1024 * 1024;

/// DuckDB's refusal, in its own words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// What DuckDB said.
    #[error("{0}")]
    Duckdb(String),
    /// The question took longer than it may.
    #[error("the question took longer than {} s", .0.as_secs())]
    TooLong(Duration),
    /// No thread for the question.
    #[error("starting a thread failed")]
    Thread(#[from] std::io::Error),
}

/// What a question may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long it may take.
    pub time: Duration,
    /// Rows of the answer.
    pub rows: usize,
    /// Bytes of all texts of the answer.
    pub bytes: usize,
    /// Bytes of memory for DuckDB's buffers.
    pub memory_bytes: u64,
    /// Bytes of its temporary files.
    pub temporary_bytes: u64,
    /// Threads that work at it.
    pub threads: u64,
}

/// How a column's values are best shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As text.
    Text,
    /// `true` or `false`.
    Boolean,
    /// A whole number, perhaps of 128 bits.
    Integer,
    /// A number with a fraction.
    Fraction,
}

/// A column of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// DuckDB's name of its type.
    pub of_type: String,
    /// How its values are best shown.
    pub kind: Kind,
}

/// An answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// Its columns.
    pub columns: Vec<Column>,
    /// Its rows: a text for each column, none for NULL.
    pub rows: Vec<Vec<Option<String>>>,
    /// Whether a limit cut rows off.
    pub more: bool,
}

/// One value of a row to append.
#[derive(Clone, Copy, Debug)]
pub enum Cell<'a> {
    /// NULL.
    Null,
    /// VARCHAR.
    Text(&'a str),
    /// BIGINT.
    Number(i64),
    /// TIMESTAMP, in milliseconds since 1970.
    Time(i64),
}

/// A database that is being written; closed, with everything in its one file, by [`Writer::close`].
#[derive(Debug)]
pub struct Writer<'key> {
    handle: raw::Handle,
    key: PhantomData<&'key [u8; 32]>,
}

impl<'key> Writer<'key> {
    /// Opens `file`, or makes it.
    pub fn open(file: &Path, key: &'key [u8; 32], memory_bytes: u64) -> Result<Self, Error> {
        let setup = raw::Setup { key: Some(key), memory_bytes, ..raw::Setup::of(file) };
        Ok(Self { handle: raw::Handle::open(&setup)?, key: PhantomData })
    }

    /// Runs a statement of ours.
    pub fn run(&mut self, sql: &'static str) -> Result<(), Error> {
        self.handle.run(sql)
    }

    /// Appends rows of `columns` cells each, in one transaction.
    pub fn append(&mut self, table: &'static str, columns: usize, cells: &[Cell<'_>]) -> Result<(), Error> {
        self.handle.append(table, columns, cells)
    }

    /// Answers a question of ours.
    pub fn ask(&mut self, sql: &'static str, limits: &Limits) -> Result<Answer, Error> {
        self.handle.ask(sql, limits)
    }

    /// Writes everything into the one file, and closes it.
    pub fn close(mut self) -> Result<(), Error> {
        self.handle.run("CHECKPOINT history")?;
        self.handle.close()
    }
}

/// A database for questions.
#[derive(Debug)]
pub struct Reader<'key> {
    handle: raw::Handle,
    key: PhantomData<&'key [u8; 32]>,
    limits: Limits,
}

impl<'key> Reader<'key> {
    /// Opens `file`, which cannot be changed through it. What does not fit into memory goes to `temporary`, encrypted under
    /// a key of its own.
    pub fn open(file: &Path, key: &'key [u8; 32], temporary: &Path, limits: Limits) -> Result<Self, Error> {
        let setup = raw::Setup {
            key: Some(key),
            temporary: Some(temporary),
            memory_bytes: limits.memory_bytes,
            temporary_bytes: limits.temporary_bytes,
            threads: limits.threads,
            read_only: true,
            ..raw::Setup::of(file)
        };
        Ok(Self { handle: raw::Handle::open(&setup)?, key: PhantomData, limits })
    }

    /// Answers one question: a single statement that DuckDB itself takes for a SELECT.
    pub fn ask(&mut self, sql: &str) -> Result<Answer, Error> {
        self.handle.ask(sql, &self.limits)
    }

    /// Closes it; its temporary files are gone then.
    pub fn close(mut self) -> Result<(), Error> {
        self.handle.close()
    }
}

impl raw::Handle {
    /// Asks on a thread of its own, and interrupts it when its time is over.
    fn ask(&mut self, sql: &str, limits: &Limits) -> Result<Answer, Error> {
        let handle = &*self;
        let (done, ended) = mpsc::channel::<()>();
        thread::scope(|scope| {
            let asking = thread::Builder::new().name("question".to_owned()).stack_size(STACK_BYTES);
            let asking = asking.spawn_scoped(scope, move || {
                let _told_when_dropped = done;
                handle.answer(sql, limits)
            })?;
            let mut late = false;
            let mut patience = limits.time;
            while let Err(mpsc::RecvTimeoutError::Timeout) = ended.recv_timeout(patience) {
                // Once more, should it not have begun to listen.
                (late, patience) = (true, Duration::from_millis(50));
                handle.interrupt();
            }
            match asking.join() {
                Ok(Err(_)) if late => Err(Error::TooLong(limits.time)),
                Ok(answer) => answer,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }
}
