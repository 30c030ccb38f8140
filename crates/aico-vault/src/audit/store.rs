//! The log's files, and the order in which they are written (`docs/spec/audit-log.md`, Order of writes).

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use aico_crypto::{LogKey, LogSealKey, PublicKey};
use rustix::fs::{FallocateFlags, fallocate};

use super::note::{self, Checkpoint, LogId, MAX_NOTE_BYTES};
use super::tail::{self, HEADER_BYTES, MAX_TAIL_BYTES, Tail};
use super::tree::{Edge, Head};
use super::{WIDTH, tiles};
use crate::{Error, durable};

pub(super) const VERIFIER_KEY: &str = "vkey";
pub(super) const CHECKPOINT: &str = "checkpoint";
pub(super) const TAIL: &str = "tail";
/// Room kept for the tail, so that a full disk still takes what must be recorded.
const RESERVED_BYTES: u64 = 256 * 1024;

/// What is on disk.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    pub(super) id: LogId,
    pub(super) seal: LogSealKey,
    public: PublicKey,
    /// Entries in whole bundles.
    published: u64,
    /// Entries behind them, sealed.
    entries: Vec<Vec<u8>>,
    /// The tree of all of them.
    edge: Edge,
    file: File,
    /// The tail as it should be.
    bytes: Vec<u8>,
    /// The file may be something else, and is written anew before the next batch.
    broken: bool,
}

impl Store {
    pub(super) fn create(folder: &Path, key: &LogKey, id: LogId) -> Result<(), Error> {
        durable::create_folder(folder)?;
        let public = key.public()?;
        durable::replace(&folder.join(VERIFIER_KEY), note::verifier_key(&id, &public).as_bytes(), 0o600)?;
        let empty = Checkpoint::sign(key, id, Edge::default().head())?;
        durable::replace(&folder.join(CHECKPOINT), empty.encode(&public).as_bytes(), 0o600)?;
        durable::replace(&folder.join(TAIL), &tail::header(&id, 0), 0o600)
    }

    pub(super) fn open(folder: &Path, key: &LogKey, id: LogId) -> Result<Self, Error> {
        let public = key.public()?;
        check_verifier_key(folder, &id, &public)?;
        let checkpoint = read_checkpoint(folder, &id, &public)?;
        let path = folder.join(TAIL);
        let mut bytes = tiles::read(&path, MAX_TAIL_BYTES)?;
        let size = checkpoint.head.size;
        let first = first_index(&bytes).ok_or_else(|| tiles::damaged(&path, "its header is cut"))?;
        // A stop between the new checkpoint and the new tail left the old tail, whose entries are published.
        let stale = size >= WIDTH && first == size - WIDTH;
        let start = if stale { first } else { size };
        let mut edge = tiles::edge(folder, size, start)?;
        if !stale && edge.head() != checkpoint.head {
            return Err(tiles::damaged(&folder.join(CHECKPOINT), "the tiles do not add up to it"));
        }
        let read = tail::read(&bytes, &id, &public, &mut edge).map_err(|fault| tiles::damaged(&path, fault))?;
        let Tail { entries, whole_bytes, torn } = read;
        if stale && edge.head() != checkpoint.head {
            return Err(tiles::damaged(&path, "it does not end where the checkpoint is"));
        }
        bytes.truncate(whole_bytes);
        let file = open_tail(&path)?;
        let mut this = Self {
            folder: folder.to_owned(),
            id,
            seal: key.seal_key(),
            public,
            published: start,
            entries,
            edge,
            file,
            bytes,
            broken: torn,
        };
        if stale {
            this.start_tail(size)?;
        } else if this.entries.len() as u64 == WIDTH {
            this.publish(key)?;
        }
        this.mend()?;
        Ok(this)
    }

    /// The head of everything on disk.
    pub(super) fn head(&self) -> Head {
        self.edge.head()
    }

    pub(super) fn edge(&self) -> &Edge {
        &self.edge
    }

    /// Entries that fit before the bundle is full.
    pub(super) fn room(&self) -> usize {
        WIDTH as usize - self.entries.len()
    }

    /// Appends one batch, durably, and publishes the bundle that it completes. On an error nothing of it counts, and
    /// the next attempt starts from what did.
    pub(super) fn append(&mut self, key: &LogKey, entries: &[Vec<u8>]) -> Result<(), Error> {
        self.mend()?;
        let mut edge = self.edge.clone();
        let batch = tail::batch(key, self.id, &mut edge, entries)?;
        self.broken = true;
        let path = self.folder.join(TAIL);
        let written = self.file.write_all(&batch).and_then(|()| self.file.sync_data());
        written.map_err(|source| Error::io("writing", &path, source))?;
        self.broken = false;
        self.bytes.extend_from_slice(&batch);
        self.edge = edge;
        self.entries.extend_from_slice(entries);
        // What is in the tail is durable already: a bundle that cannot be published now is at the next batch or start.
        if self.room() == 0 {
            self.publish(key)?;
        }
        Ok(())
    }

    /// After a write or sync that failed nobody knows what the file holds: it is made anew from what counts.
    fn mend(&mut self) -> Result<(), Error> {
        if self.broken {
            let path = self.folder.join(TAIL);
            durable::replace(&path, &self.bytes, 0o600)?;
            self.file = open_tail(&path)?;
            self.broken = false;
        }
        Ok(())
    }

    fn publish(&mut self, key: &LogKey) -> Result<(), Error> {
        tiles::publish(&self.folder, self.published, &self.entries)?;
        let checkpoint = Checkpoint::sign(key, self.id, self.edge.head())?;
        durable::replace(&self.folder.join(CHECKPOINT), checkpoint.encode(&self.public).as_bytes(), 0o600)?;
        self.start_tail(self.published + WIDTH)
    }

    fn start_tail(&mut self, first: u64) -> Result<(), Error> {
        let path = self.folder.join(TAIL);
        let header = tail::header(&self.id, first);
        durable::replace(&path, &header, 0o600)?;
        self.file = open_tail(&path)?;
        tiles::remove_older_partials(&self.folder, self.published)?;
        (self.bytes, self.published) = (header, first);
        self.entries.clear();
        Ok(())
    }

    /// The sealed entries from `from` up to what is on disk.
    pub(super) fn sealed_from(&self, from: u64) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let mut found = Vec::new();
        for bundle in from / WIDTH..self.published / WIDTH {
            let entries = tiles::read_bundle(&self.folder, bundle)?;
            found.extend((bundle * WIDTH..).zip(entries));
        }
        found.extend((self.published..).zip(self.entries.iter().cloned()));
        found.retain(|(index, _)| *index >= from);
        Ok(found)
    }

    /// The head that the log had at `size` entries.
    pub(super) fn head_at(&self, size: u64) -> Result<Option<Head>, Error> {
        if size > self.edge.size() {
            return Ok(None);
        }
        let whole = size - size % WIDTH;
        let mut edge = tiles::edge(&self.folder, self.published, whole.min(self.published))?;
        let leaves = if whole < self.published {
            tiles::read_tile(&self.folder, 0, whole / WIDTH, self.published, size - whole)?
        } else {
            self.entries.iter().take((size - self.published) as usize).map(|e| super::tree::leaf_hash(e)).collect()
        };
        leaves.into_iter().for_each(|leaf| edge.push(0, leaf));
        Ok(Some(edge.head()))
    }
}

/// Appends only, and has room that nobody else can take.
fn open_tail(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new().append(true).open(path);
    let file = file.map_err(|source| Error::io("opening", path, source))?;
    // Not every file system can; then a full disk is noticed at the write.
    let _best_effort = fallocate(&file, FallocateFlags::KEEP_SIZE, 0, RESERVED_BYTES);
    Ok(file)
}

fn first_index(tail: &[u8]) -> Option<u64> {
    let (header, _) = tail.split_first_chunk::<HEADER_BYTES>()?;
    header.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

fn check_verifier_key(folder: &Path, id: &LogId, public: &PublicKey) -> Result<(), Error> {
    let path = folder.join(VERIFIER_KEY);
    if tiles::read(&path, MAX_NOTE_BYTES)? == note::verifier_key(id, public).as_bytes() {
        return Ok(());
    }
    Err(tiles::damaged(&path, "it is not this log's key"))
}

/// Reads the log's checkpoint and checks its signature.
pub(super) fn read_checkpoint(folder: &Path, id: &LogId, public: &PublicKey) -> Result<Checkpoint, Error> {
    let path = folder.join(CHECKPOINT);
    let note = String::from_utf8(tiles::read(&path, MAX_NOTE_BYTES)?);
    let checkpoint = note.ok().and_then(|note| Checkpoint::parse(&note, public));
    match checkpoint {
        Some(checkpoint) if checkpoint.log == *id && checkpoint.is_signed_by(public) => {
            if checkpoint.head.size % WIDTH == 0 {
                return Ok(checkpoint);
            }
            Err(tiles::damaged(&path, "its size is not one of whole bundles"))
        }
        _ => Err(tiles::damaged(&path, "its signature does not hold")),
    }
}
