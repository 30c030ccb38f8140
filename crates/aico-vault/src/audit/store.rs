//! The log on disk and what is known of it in memory: appending batches (`docs/spec/audit-log.md`, Order of writes).

use std::fs::File;

use aico_crypto::LogKey;

use super::disk::Disk;
use super::edge::{Edge, FullTile};
use super::entry::Sealed;
use super::layout::Place;
use super::names::{Names, SignedHead};
use super::tail::{self, MAX_TAIL_ENTRIES};
use super::{Head, LogId};
use crate::Error;

/// Disk space that is kept behind the end of the tail, so that a full disk still takes some records.
pub(super) const RESERVE_BYTES: u64 = 256 * 1024;

/// One log, open for writing.
pub(super) struct Store {
    pub(super) disk: Disk,
    pub(super) key: LogKey,
    pub(super) names: Names,
    /// The head of everything that is on disk.
    pub(super) signed: SignedHead,
    /// The tree of everything that is on disk.
    pub(super) edge: Edge,
    /// The first entry of the tail: what is in front of it stands in full bundles.
    pub(super) base: u64,
    /// The entries of the tail.
    pub(super) entries: Vec<Sealed>,
    /// Tiles that the tail's entries completed and that have no file yet.
    pub(super) tiles: Vec<FullTile>,
    pub(super) tail: TailFile,
    /// Why full bundles could not be written; the tail grows meanwhile.
    pub(super) trouble: Option<String>,
    /// Entries that have their index and are not on disk.
    unwritten: Vec<Sealed>,
    _held: File,
}

/// The tail's file.
pub(super) struct TailFile {
    file: File,
    len: u64,
    reserved: u64,
    /// A write or sync failed, or a replacement did not finish: what the kernel says of the file is not to be trusted.
    suspect: bool,
}

impl TailFile {
    pub(super) fn new(file: File, len: u64) -> Self {
        Self { file, len, reserved: 0, suspect: false }
    }
}

/// What [`super::open`] has read and checked.
pub(super) struct Opened {
    pub(super) disk: Disk,
    pub(super) key: LogKey,
    pub(super) names: Names,
    pub(super) signed: SignedHead,
    pub(super) base: u64,
    pub(super) replay: tail::Replay,
    pub(super) tail: TailFile,
    pub(super) held: File,
}

impl Store {
    pub(super) fn new(opened: Opened) -> Self {
        let Opened { disk, key, names, signed, base, replay, tail, held } = opened;
        let tail::Replay { edge, entries, tiles, .. } = replay;
        let (trouble, unwritten) = (None, Vec::new());
        Self { disk, key, names, signed, edge, base, entries, tiles, tail, trouble, unwritten, _held: held }
    }

    pub(super) fn log_id(&self) -> LogId {
        self.names.log_id()
    }

    /// Puts `new` and everything that is still unwritten behind the log, on disk when this returns: one write, one sync.
    ///
    /// After an error the entries stay unwritten, in their places, for the next call.
    pub(super) fn append(&mut self, new: Vec<Sealed>) -> Result<Head, Error> {
        self.unwritten.extend(new);
        if self.unwritten.is_empty() {
            return Ok(self.signed.head);
        }
        if self.entries.len() + self.unwritten.len() > MAX_TAIL_ENTRIES {
            self.publish()?;
        }
        if self.tail.suspect {
            self.replace_tail()?;
        }
        let (edge, tiles) = self.grown();
        let head = Head { size: edge.size(), root: edge.root() };
        let signed = self.names.sign(head, &self.key)?;
        self.append_to_tail(&tail::batch(self.edge.size(), self.unwritten.iter(), &signed))?;
        (self.edge, self.signed) = (edge, signed);
        self.tiles.extend(tiles);
        self.entries.append(&mut self.unwritten);
        Ok(head)
    }

    /// Writes the tail anew, with what is on disk already and from index `self.base` on, as one batch.
    pub(super) fn replace_tail(&mut self) -> Result<(), Error> {
        self.tail.suspect = true;
        self.tail = write_tail(&self.disk, self.log_id(), self.base, &self.entries, &self.signed)?;
        self.reserve(0);
        Ok(())
    }

    /// Keeps [`RESERVE_BYTES`] of disk space behind the next `bytes` of the tail, if the disk has them.
    pub(super) fn reserve(&mut self, bytes: usize) {
        let end = self.tail.len + bytes as u64;
        let wanted = end + RESERVE_BYTES;
        if self.tail.reserved < end + RESERVE_BYTES / 2 && self.disk.reserve(&self.tail.file, wanted) {
            self.tail.reserved = wanted;
        }
    }

    /// The tree with the unwritten entries, and the tiles that they complete.
    fn grown(&self) -> (Edge, Vec<FullTile>) {
        let mut edge = self.edge.clone();
        let tiles = self.unwritten.iter().flat_map(|entry| edge.push(entry.leaf)).collect();
        (edge, tiles)
    }

    fn append_to_tail(&mut self, batch: &[u8]) -> Result<(), Error> {
        self.reserve(batch.len());
        self.tail.suspect = true;
        self.disk.append(&self.tail.file, self.tail.len, batch)?;
        self.disk.sync_tail(&self.tail.file)?;
        self.tail.suspect = false;
        self.tail.len += batch.len() as u64;
        Ok(())
    }
}

/// Writes a new tail; `entries` become one batch under `signed`.
///
/// The kernel drops what it could not write, and says so once: a file with a failed sync is neither read nor written
/// again, but replaced by this one.
pub(super) fn write_tail(
    disk: &Disk,
    log: LogId,
    base: u64,
    entries: &[Sealed],
    signed: &SignedHead,
) -> Result<TailFile, Error> {
    let mut bytes = tail::header(log, base);
    if !entries.is_empty() {
        bytes.extend(tail::batch(base, entries.iter(), signed));
    }
    Ok(TailFile::new(disk.write(Place::Tail, &bytes)?, bytes.len() as u64))
}
