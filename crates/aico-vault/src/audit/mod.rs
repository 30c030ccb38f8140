//! The audit log: append-only, Merkle-hashed, every durable state signed (`docs/spec/audit-log.md`).
//!
//! Entries are sealed; leaves hash what is sealed. An entry has its place at once; it is on disk within 50 ms, or when
//! somebody waits for it. What was on disk once cannot be changed, removed, cut or reordered unnoticed; a roll-back of
//! the whole log to an older state is noticed by whoever remembers a newer head.

mod note;
mod store;
mod tail;
mod tiles;
mod tree;
mod verify;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use aico_crypto::{LogKey, PublicKey};

use crate::Error;

pub use note::{Checkpoint, LogId};
pub use tree::{EMPTY_HEAD, Head};
pub use verify::{Expected, Report, verify};

/// Longest entry before it is sealed.
pub const MAX_ENTRY_BYTES: usize = 4096;
/// Entries in a bundle, hashes in a tile.
const WIDTH: u64 = 256;

/// Proof that the log took an entry in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    index: u64,
    leaf: [u8; 32],
}

impl Taken {
    /// The entry's place.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// The hash of the entry's leaf.
    #[must_use]
    pub fn leaf_hash(&self) -> [u8; 32] {
        self.leaf
    }
}

/// Whether there is a log in `folder`, whole or not.
#[must_use]
pub fn exists(folder: &Path) -> bool {
    folder.join("tail").exists()
}

/// An open log.
#[derive(Debug)]
pub struct AuditLog {
    id: LogId,
    public: PublicKey,
    shared: Arc<writer::Shared>,
    thread: Option<JoinHandle<()>>,
}

impl AuditLog {
    /// Makes a new, empty log in `folder`.
    pub fn create(folder: &Path, key: LogKey, id: LogId) -> Result<Self, Error> {
        store::Store::create(folder, &key, id)?;
        Self::open(folder, key, id)
    }

    /// Opens a log: finishes what a stop left half done, and drops a batch that was never whole.
    pub fn open(folder: &Path, key: LogKey, id: LogId) -> Result<Self, Error> {
        let public = key.public()?;
        let store = store::Store::open(folder, &key, id)?;
        let (shared, thread) = writer::start(store, key)?;
        Ok(Self { id, public, shared, thread: Some(thread) })
    }

    /// The log's identifier.
    #[must_use]
    pub fn id(&self) -> LogId {
        self.id
    }

    /// The log's public key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        self.public
    }

    /// Takes an entry in. It is on disk within 50 ms, unless the disk fails: then nothing is acknowledged until it works
    /// again.
    pub fn record(&self, entry: &[u8]) -> Result<Taken, Error> {
        self.shared.record(entry)
    }

    /// Returns once the entry at `index` is on disk; whoever waits at the same time shares the write.
    pub fn wait_durable(&self, index: u64) -> Result<(), Error> {
        self.shared.wait_durable(index)
    }

    /// Puts everything on disk.
    pub fn flush(&self) -> Result<(), Error> {
        self.shared.flush()
    }

    /// The newest head that is on disk.
    #[must_use]
    pub fn head(&self) -> Head {
        self.shared.head()
    }

    /// The newest `count` entries that are on disk, oldest first, opened.
    pub fn tail(&self, count: u64) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        self.shared.tail(count)
    }

    /// Whether an older head is one of this log's: nothing under it was changed since.
    pub fn contains(&self, older: &Head) -> Result<bool, Error> {
        self.shared.contains(older)
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.shared.close();
        if let Some(thread) = self.thread.take() {
            let _crashed = thread.join();
        }
    }
}
