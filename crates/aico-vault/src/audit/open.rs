//! Making a log, and opening one for writing: what a stop left undone is finished (`docs/spec/audit-log.md`, Opening).

use aico_crypto::LogKey;
use tlog_tiles::{EMPTY_HASH, HASH_SIZE};

use super::disk::Disk;
use super::edge::{Edge, LEVELS, TILE_WIDTH, tile_index, width};
use super::layout::Place;
use super::names::{MAX_NOTE_BYTES, Names, SignedHead};
use super::store::{Opened, Store, TailFile, write_tail};
use super::tail::{self, MAX_TAIL_BYTES, Replay};
use super::torn::is_torn;
use super::{Head, LogId};
use crate::Error;

/// Makes an empty log. May be repeated when it was stopped: the tail comes last.
pub(super) fn create(disk: Disk, key: LogKey, log_id: LogId) -> Result<Store, Error> {
    disk.make_root()?;
    let held = disk.hold()?;
    let names = Names::new(log_id, key.public()?);
    refuse_to_replace(&disk)?;
    let signed = names.sign(Head { size: 0, root: EMPTY_HASH.0 }, &key)?;
    disk.write(Place::Vkey, names.vkey().as_bytes())?;
    disk.write(Place::Checkpoint, names.note(&signed).as_bytes())?;
    let tail = write_tail(&disk, log_id, 0, &[], &signed)?;
    let mut store = Store::new(Opened { disk, key, names, signed, base: 0, replay: Replay::default(), tail, held });
    store.reserve(0);
    Ok(store)
}

/// An empty log has no tile, and its tail is the last file to come.
fn refuse_to_replace(disk: &Disk) -> Result<(), Error> {
    if disk.read(Place::Tail, MAX_TAIL_BYTES)?.is_some() || disk.root().join("tile").exists() {
        return Err(Error::Misuse("there is an audit log already"));
    }
    Ok(())
}

/// Opens a log for writing.
pub(super) fn open(disk: Disk, key: LogKey, log_id: LogId) -> Result<Store, Error> {
    let held = disk.hold()?;
    let names = Names::new(log_id, key.public()?);
    let checkpoint = read_names_and_checkpoint(&disk, &names)?;
    let bytes = need(&disk, Place::Tail, MAX_TAIL_BYTES)?;
    let base = read_header(&bytes, log_id)?;
    let replay = read_tail(&disk, &bytes, base, &names, &checkpoint)?;
    let signed = replay.signed.unwrap_or(checkpoint);
    let tail = settle_tail(&disk, log_id, base, &replay, &signed, bytes.len())?;
    for place in [Place::Vkey, Place::Checkpoint, Place::Tail] {
        disk.remove_unfinished(place)?;
    }
    let mut store = Store::new(Opened { disk, key, names, signed, base, replay, tail, held });
    store.reserve(0);
    store.publish_if_due();
    Ok(store)
}

/// Puts on disk for certain what was read, without a torn batch: as a new file, because a stopped writer may have seen
/// the sync of the old one fail. On a full disk the old one has to do.
fn settle_tail(
    disk: &Disk,
    log: LogId,
    base: u64,
    replay: &Replay,
    signed: &SignedHead,
    len: usize,
) -> Result<TailFile, Error> {
    match write_tail(disk, log, base, &replay.entries, signed) {
        Err(Error::Full { .. }) => {
            let len = replay.flaw.map_or(len, |flaw| flaw.batch_at) as u64;
            Ok(TailFile::new(disk.keep_tail(len)?, len))
        }
        written => written,
    }
}

fn read_names_and_checkpoint(disk: &Disk, names: &Names) -> Result<SignedHead, Error> {
    if need(disk, Place::Vkey, MAX_NOTE_BYTES)? != names.vkey().as_bytes() {
        return Err(damaged(Place::Vkey, "it is not the key of this log"));
    }
    let note = String::from_utf8(need(disk, Place::Checkpoint, MAX_NOTE_BYTES)?);
    let note = note.map_err(|_| damaged(Place::Checkpoint, "it is not text"))?;
    names.parse_note(&note).map_err(|what| damaged(Place::Checkpoint, &format!("it {what}")))
}

fn read_header(bytes: &[u8], log_id: LogId) -> Result<u64, Error> {
    const KNOWN: u8 = 1;
    match tail::format_of(bytes) {
        Some(found) if found > KNOWN => Err(Error::Newer {
            what: "the audit log's tail".into(),
            found: found.into(),
            known: KNOWN.into(),
            needs: None,
        }),
        _ => tail::parse_header(bytes, log_id).map_err(|what| damaged(Place::Tail, &format!("it {what}"))),
    }
}

fn read_tail(disk: &Disk, bytes: &[u8], base: u64, names: &Names, checkpoint: &SignedHead) -> Result<Replay, Error> {
    let head = checkpoint.head;
    if base > head.size {
        return Err(damaged(Place::Checkpoint, "it is older than the tail"));
    }
    let edge = read_edge(disk, base, head.size)?;
    let mut root = (base == head.size).then(|| edge.root());
    let mut seen = |edge: &Edge| root = if edge.size() == head.size { Some(edge.root()) } else { root };
    let replay = tail::replay(bytes, edge, names, &mut seen);
    if let Some(flaw) = replay.flaw.filter(|flaw| !is_torn(bytes, flaw.batch_at, replay.edge.size())) {
        return Err(damaged(Place::Tail, &format!("byte {}: it {}", flaw.at, flaw.what)));
    }
    match root {
        _ if replay.edge.size() < head.size => Err(damaged(Place::Tail, "it is older than the checkpoint")),
        Some(root) if root == head.root => Ok(replay),
        _ => Err(damaged(Place::Checkpoint, "its root is not that of the tiles and the tail")),
    }
}

/// The tree of `base` leaves, from the tiles at its right edge. After a stop they may be those of the newer `size`.
fn read_edge(disk: &Disk, base: u64, size: u64) -> Result<Edge, Error> {
    let mut levels: [Vec<u8>; LEVELS as usize] = Default::default();
    for (level, hashes) in (1..LEVELS).zip(levels.iter_mut().skip(1)) {
        *hashes = read_edge_tile(disk, level, base, size)?;
    }
    Edge::from_levels(base, levels).ok_or_else(|| damaged(Place::Tail, "it does not start at a full bundle"))
}

fn read_edge_tile(disk: &Disk, level: u8, base: u64, size: u64) -> Result<Vec<u8>, Error> {
    let (index, wanted) = (tile_index(base, level), width(base, level));
    if wanted == 0 {
        return Ok(Vec::new());
    }
    let newer = if tile_index(size, level) == index { width(size, level) } else { TILE_WIDTH };
    for width in [wanted, newer] {
        let Some(place) = Place::tile(level, index, width) else { continue };
        let Some(mut hashes) = disk.read(place, TILE_WIDTH * HASH_SIZE)? else { continue };
        if hashes.len() != width * HASH_SIZE {
            return Err(damaged(place, "it does not have the right size"));
        }
        hashes.truncate(wanted * HASH_SIZE);
        return Ok(hashes);
    }
    Err(Error::damaged("the audit log", format!("tile {index} of level {level} is missing")))
}

fn need(disk: &Disk, place: Place, limit: usize) -> Result<Vec<u8>, Error> {
    disk.read(place, limit)?.ok_or_else(|| damaged(place, "it is missing"))
}

fn damaged(place: Place, detail: &str) -> Error {
    Error::damaged(format!("`{}` of the audit log", place.path()), detail)
}
