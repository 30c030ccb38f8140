//! What is complete: bundles of 256 entries and tiles of 256 hashes, in C2SP's layout (c2sp.org/tlog-tiles).

use std::io;
use std::path::{Path, PathBuf};

use aico_crypto::Digest;

use super::WIDTH;
use super::tail::split_entry;
use super::tree::{Edge, leaf_hash};
use crate::{Error, durable};

/// A bundle of the longest entries.
pub(super) const MAX_BUNDLE_BYTES: usize = 2 << 20;
const TILE_BYTES: usize = 32 * WIDTH as usize;
/// Levels of tiles that 2^64 entries have.
pub(super) const LEVELS: u32 = 8;

/// `012`, `x001/234`, … (c2sp.org/tlog-tiles, Parameters).
fn number(index: u64) -> String {
    let mut text = format!("{:03}", index % 1000);
    let mut rest = index / 1000;
    while rest > 0 {
        text = format!("x{:03}/{text}", rest % 1000);
        rest /= 1000;
    }
    text
}

/// Where bundle `index` lies, relative to the log's folder.
pub(super) fn bundle_path(index: u64) -> PathBuf {
    PathBuf::from(format!("tile/entries/{}", number(index)))
}

/// Where a tile of `width` hashes lies, relative to the log's folder.
pub(super) fn tile_path(level: u32, index: u64, width: u64) -> PathBuf {
    let partial = if width == WIDTH { String::new() } else { format!(".p/{width}") };
    PathBuf::from(format!("tile/{level}/{}{partial}", number(index)))
}

/// Complete hashes at a level of tiles in a log of `size` entries.
pub(super) fn hashes_at(level: u32, size: u64) -> u64 {
    size.checked_shr(8 * level).unwrap_or(0)
}

/// The root of a full tile.
pub(super) fn tile_root(hashes: &[Digest]) -> Digest {
    let mut edge = Edge::default();
    hashes.iter().for_each(|hash| edge.push(0, *hash));
    edge.head().root
}

/// The entries of a bundle, still sealed; none where it does not have exactly 256.
pub(super) fn split_bundle(mut bytes: &[u8]) -> Option<Vec<&[u8]>> {
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        let (sealed, rest) = split_entry(bytes)?;
        entries.push(sealed);
        bytes = rest;
    }
    (entries.len() as u64 == WIDTH).then_some(entries)
}

/// Reads a tile of at least `width` hashes from the newest file that may hold it.
pub(super) fn read_tile(folder: &Path, level: u32, index: u64, size: u64, width: u64) -> Result<Vec<Digest>, Error> {
    let there = (hashes_at(level, size) - index * WIDTH).min(WIDTH);
    let path = folder.join(tile_path(level, index, there));
    let bytes = read(&path, TILE_BYTES)?;
    let (hashes, rest) = bytes.as_chunks::<32>();
    if hashes.len() as u64 != there || !rest.is_empty() {
        return Err(damaged(&path, "its length is wrong"));
    }
    Ok(hashes.iter().take(width as usize).copied().collect())
}

/// Reads bundle `index`.
pub(super) fn read_bundle(folder: &Path, index: u64) -> Result<Vec<Vec<u8>>, Error> {
    let path = folder.join(bundle_path(index));
    let bytes = read(&path, MAX_BUNDLE_BYTES)?;
    let entries = split_bundle(&bytes).ok_or_else(|| damaged(&path, "it does not hold 256 entries"))?;
    Ok(entries.into_iter().map(<[u8]>::to_vec).collect())
}

/// The edge of the tree of the first `wanted` entries, a multiple of 256, in a log that has published `size`.
pub(super) fn edge(folder: &Path, size: u64, wanted: u64) -> Result<Edge, Error> {
    let mut edge = Edge::default();
    for level in (1..LEVELS).rev() {
        let there = hashes_at(level, wanted);
        let width = there % WIDTH;
        if width > 0 {
            let hashes = read_tile(folder, level, there / WIDTH, size, width)?;
            hashes.into_iter().for_each(|hash| edge.push(8 * level, hash));
        }
    }
    Ok(edge)
}

/// Publishes the bundle behind a log of `size` entries: bundle, tiles, and no older partial tile. Done twice, it is
/// the same.
pub(super) fn publish(folder: &Path, size: u64, entries: &[Vec<u8>]) -> Result<(), Error> {
    let bundle: Vec<u8> =
        entries.iter().flat_map(|e| (e.len() as u16).to_be_bytes().into_iter().chain(e.iter().copied())).collect();
    write(&folder.join(bundle_path(size / WIDTH)), &bundle)?;
    let mut hashes: Vec<Digest> = entries.iter().map(|sealed| leaf_hash(sealed)).collect();
    let grown = size + WIDTH;
    for level in 0..LEVELS {
        let there = hashes_at(level, grown);
        let index = (there - 1) / WIDTH;
        write(&folder.join(tile_path(level, index, there - index * WIDTH)), hashes.as_flattened())?;
        if !there.is_multiple_of(WIDTH) || level + 1 == LEVELS {
            break;
        }
        let (root, above) = (tile_root(&hashes), hashes_at(level + 1, grown) - 1);
        let before = above % WIDTH;
        hashes = if before == 0 { Vec::new() } else { read_tile(folder, level + 1, above / WIDTH, size, before)? };
        hashes.push(root);
    }
    Ok(())
}

/// Removes the partial tiles of a log of `size` entries that a log of `size` + 256 no longer needs.
pub(super) fn remove_older_partials(folder: &Path, size: u64) -> Result<(), Error> {
    for level in 1..LEVELS {
        let there = hashes_at(level, size);
        let width = there % WIDTH;
        if width > 0 && hashes_at(level, size + WIDTH) > there {
            let path = folder.join(tile_path(level, there / WIDTH, width));
            durable::remove(&path)?;
            // The last partial tile leaves its folder behind.
            if width + 1 == WIDTH {
                let _not_empty = path.parent().map(std::fs::remove_dir);
            }
        }
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut missing = Vec::new();
    let mut folder = path.parent();
    while let Some(parent) = folder.filter(|parent| !parent.exists()) {
        missing.push(parent);
        folder = parent.parent();
    }
    missing.into_iter().rev().try_for_each(durable::create_folder)?;
    durable::replace(path, bytes, 0o600)
}

pub(super) fn read(path: &Path, limit: usize) -> Result<Vec<u8>, Error> {
    let file = durable::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => damaged(path, "it is missing"),
        _ => Error::io("opening", path, source),
    })?;
    match durable::read_at_most(&file, limit) {
        Ok(bytes) if bytes.len() > limit => Err(damaged(path, "it is too long")),
        Ok(bytes) => Ok(bytes.to_vec()),
        Err(source) => Err(Error::io("reading", path, source)),
    }
}

pub(super) fn damaged(path: &Path, detail: &str) -> Error {
    Error::damaged(path.display().to_string(), detail)
}
