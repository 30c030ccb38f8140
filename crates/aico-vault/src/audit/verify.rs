//! The whole log, byte by byte, with no key but public ones (`docs/spec/audit-log.md`, Verification).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use aico_crypto::{Digest, PublicKey};

use super::note::{Checkpoint, LogId, MAX_NOTE_BYTES, parse_verifier_key};
use super::store::{CHECKPOINT, TAIL, VERIFIER_KEY, read_checkpoint};
use super::tail::MAX_TAIL_BYTES;
use super::tree::{Edge, Head, leaf_hash};
use super::{WIDTH, tail, tiles};
use crate::Error;

/// What somebody knows of the log from elsewhere.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The log's public key.
    pub key: Option<PublicKey>,
    /// A head that the log had.
    pub head: Option<Head>,
    /// The text of a checkpoint that was kept elsewhere.
    pub checkpoint: Option<String>,
}

/// A log that is whole in itself.
#[derive(Clone, Debug)]
pub struct Report {
    /// Which log.
    pub log: LogId,
    /// Its newest state.
    pub head: Head,
    /// Whether a head from elsewhere was found in it.
    pub anchored: bool,
    /// What was seen besides: leftovers of a stop.
    pub notes: Vec<String>,
}

/// Verifies the log in `folder`. The first thing that does not hold is [`Error::Damaged`], with the file and why.
pub fn verify(folder: &Path, expected: &Expected) -> Result<Report, Error> {
    let path = folder.join(VERIFIER_KEY);
    let line = String::from_utf8(tiles::read(&path, MAX_NOTE_BYTES)?).ok();
    let (log, key) = line
        .as_deref()
        .and_then(parse_verifier_key)
        .ok_or_else(|| tiles::damaged(&path, "it is not a verifier key"))?;
    if expected.key.is_some_and(|trusted| trusted != key) {
        return Err(tiles::damaged(&path, "it is not the key that the vault knows"));
    }
    let checkpoint = read_checkpoint(folder, &log, &key)?;
    let mut walk = Walk::new(folder, wanted(expected, &log, &key)?);
    let full = walk.bundles(&checkpoint)?;
    if full != checkpoint.head {
        return Err(tiles::damaged(&folder.join(CHECKPOINT), "the entries do not add up to it"));
    }
    let (head, published) = walk.tail(&log, &key)?;
    walk.files(checkpoint.head.size, published)?;
    match walk.wanted.iter().find(|wanted| !walk.met.contains(&wanted.size)) {
        Some(missing) if missing.size > head.size => {
            let detail = format!("it ends at entry {}, but entry {} is known from elsewhere", head.size, missing.size);
            Err(Error::damaged("the audit log", detail))
        }
        Some(_) => Err(Error::damaged("the audit log", "it is not the log that is known from elsewhere")),
        None => Ok(Report { log, head, anchored: !walk.wanted.is_empty(), notes: walk.notes }),
    }
}

/// The heads that the log must have had.
fn wanted(expected: &Expected, log: &LogId, key: &PublicKey) -> Result<Vec<Head>, Error> {
    let mut wanted: Vec<Head> = expected.head.into_iter().collect();
    if let Some(text) = &expected.checkpoint {
        let given = Checkpoint::parse(text, key).filter(|c| c.log == *log && c.is_signed_by(key));
        let given = given.ok_or_else(|| Error::damaged("the given checkpoint", "this log's key did not sign it"))?;
        wanted.push(given.head);
    }
    Ok(wanted)
}

struct Walk<'a> {
    folder: &'a Path,
    edge: Edge,
    /// Hashes of the tile that is being filled, a level each.
    filling: Vec<Vec<Digest>>,
    seen: BTreeSet<PathBuf>,
    wanted: Vec<Head>,
    met: BTreeSet<u64>,
    notes: Vec<String>,
}

impl<'a> Walk<'a> {
    fn new(folder: &'a Path, wanted: Vec<Head>) -> Self {
        let seen = [VERIFIER_KEY, CHECKPOINT, TAIL].map(PathBuf::from).into();
        let mut this = Self {
            folder,
            edge: Edge::default(),
            filling: Vec::new(),
            seen,
            wanted,
            met: BTreeSet::new(),
            notes: Vec::new(),
        };
        this.meet();
        this
    }

    /// Ticks off the heads that the log has right now.
    fn meet(&mut self) {
        let head = self.edge.head();
        if self.wanted.contains(&head) {
            self.met.insert(head.size);
        }
    }

    /// Whole bundles, with the tiles over them.
    fn bundles(&mut self, checkpoint: &Checkpoint) -> Result<Head, Error> {
        for index in 0..checkpoint.head.size / WIDTH {
            let entries = tiles::read_bundle(self.folder, index)?;
            self.seen.insert(tiles::bundle_path(index));
            let leaves: Vec<Digest> = entries.iter().map(|sealed| leaf_hash(sealed)).collect();
            for leaf in &leaves {
                self.edge.push(0, *leaf);
                if self.wanted.iter().any(|wanted| wanted.size == self.edge.size()) {
                    self.meet();
                }
            }
            self.tile(0, index, &leaves)?;
            self.rise(0, &leaves)?;
        }
        for level in 1..=self.filling.len() {
            let hashes = self.filling.get(level - 1).cloned().unwrap_or_default();
            if !hashes.is_empty() {
                let index = tiles::hashes_at(level as u32, checkpoint.head.size) / WIDTH;
                self.tile(level as u32, index, &hashes)?;
            }
        }
        Ok(self.edge.head())
    }

    /// Puts the root of a full tile into the one above, and checks that one once it is full.
    fn rise(&mut self, level: u32, full: &[Digest]) -> Result<(), Error> {
        let above = level as usize;
        if self.filling.len() <= above {
            self.filling.push(Vec::new());
        }
        let Some(filling) = self.filling.get_mut(above) else { return Ok(()) };
        filling.push(tiles::tile_root(full));
        if filling.len() as u64 == WIDTH {
            let hashes = std::mem::take(filling);
            let index = tiles::hashes_at(level + 1, self.edge.size()) / WIDTH - 1;
            self.tile(level + 1, index, &hashes)?;
            self.rise(level + 1, &hashes)?;
        }
        Ok(())
    }

    fn tile(&mut self, level: u32, index: u64, hashes: &[Digest]) -> Result<(), Error> {
        let path = tiles::tile_path(level, index, hashes.len() as u64);
        if tiles::read(&self.folder.join(&path), hashes.as_flattened().len())? != hashes.as_flattened() {
            return Err(tiles::damaged(&self.folder.join(&path), "it does not hold the hashes of the entries"));
        }
        self.seen.insert(path);
        Ok(())
    }

    /// The tail; the head behind it, and whether its bundle may be published already.
    fn tail(&mut self, log: &LogId, key: &PublicKey) -> Result<(Head, bool), Error> {
        let path = self.folder.join(TAIL);
        let bytes = tiles::read(&path, MAX_TAIL_BYTES)?;
        let size = self.edge.size();
        if size >= WIDTH && bytes.starts_with(&tail::header(log, size - WIDTH)) {
            self.notes.push("the tail is one bundle old: the log was stopped while it made room".to_owned());
            return self.old_tail(&bytes, log, key).map(|head| (head, false));
        }
        let mut edge = self.edge.clone();
        let read = tail::read(&bytes, log, key, &mut edge).map_err(|fault| tiles::damaged(&path, fault))?;
        if read.torn {
            let detail = "it ends in a batch that was never whole; a start of the backend mends that";
            return Err(tiles::damaged(&path, detail));
        }
        for sealed in &read.entries {
            self.edge.push(0, leaf_hash(sealed));
            self.meet();
        }
        Ok((self.edge.head(), read.entries.len() as u64 == WIDTH))
    }

    /// A tail whose entries are published must be exactly those.
    fn old_tail(&self, bytes: &[u8], log: &LogId, key: &PublicKey) -> Result<Head, Error> {
        let path = self.folder.join(TAIL);
        let size = self.edge.size();
        let mut edge = tiles::edge(self.folder, size, size - WIDTH)?;
        let read = tail::read(bytes, log, key, &mut edge).map_err(|fault| tiles::damaged(&path, fault))?;
        if read.torn || edge.head() != self.edge.head() {
            return Err(tiles::damaged(&path, "it does not end where the checkpoint is"));
        }
        Ok(edge.head())
    }

    /// Every file is one that has been checked, or a leftover of a stop.
    fn files(&mut self, size: u64, publishing: bool) -> Result<(), Error> {
        let mut folders = vec![self.folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let wrap = |source| Error::io("listing", &folder, source);
            for entry in std::fs::read_dir(&folder).map_err(wrap)? {
                let path = entry.map_err(wrap)?.path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else {
                    self.file(&path, size, publishing)?;
                }
            }
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, size: u64, publishing: bool) -> Result<(), Error> {
        let relative = path.strip_prefix(self.folder).unwrap_or(path).to_owned();
        if self.seen.contains(&relative) {
            return Ok(());
        }
        let name = relative.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let unfinished = name.starts_with('.') && name.ends_with(".new");
        if unfinished || self.is_leftover(&relative, size, publishing) {
            self.notes.push(format!("a leftover of a stop: {}", relative.display()));
            return Ok(());
        }
        Err(tiles::damaged(path, "the log has no such file"))
    }

    /// The bundle and tiles of the tail before their checkpoint, and partial tiles that were outgrown last.
    fn is_leftover(&self, relative: &Path, size: u64, publishing: bool) -> bool {
        let grown = size + WIDTH;
        let coming = |level| {
            let there = tiles::hashes_at(level, grown);
            there > 0 && relative == tiles::tile_path(level, (there - 1) / WIDTH, there - (there - 1) / WIDTH * WIDTH)
        };
        let outgrown = |level| {
            let there = tiles::hashes_at(level, size.saturating_sub(WIDTH));
            let width = there % WIDTH;
            width > 0 && relative == tiles::tile_path(level, there / WIDTH, width)
        };
        let next = relative == tiles::bundle_path(size / WIDTH) || (0..tiles::LEVELS).any(coming);
        (publishing && next) || (1..tiles::LEVELS).any(outgrown)
    }
}
