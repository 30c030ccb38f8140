//! Every file's and folder's right to be there.

use std::fs::{self, DirEntry};
use std::io;

use tlog_tiles::HASH_SIZE;

use super::check::{Check, Extent};
use super::readable;
use crate::Error;
use crate::audit::edge::{BUNDLE, LEVELS, TILE_WIDTH, tile_hashes, tile_index};
use crate::audit::layout::{Place, UNFINISHED};
use crate::audit::tail::Replay;

/// Of a file that no log of this extent has.
pub(super) const STRANGE: &str = "does not belong here";
/// Of a folder with no file of the log.
pub(super) const EMPTY_FOLDER: &str = "is a folder that does not belong here";

impl Check<'_> {
    /// Looks at all names in the log's folder.
    pub(super) fn walk(&mut self, replay: &Replay, extent: Extent) -> Result<(), Error> {
        self.walk_folder("", replay, extent).map(|_| ())
    }

    /// Looks at one folder and those in it; whether a file of the log is there.
    fn walk_folder(&mut self, folder: &str, replay: &Replay, extent: Extent) -> Result<bool, Error> {
        let path = self.disk.root().join(folder);
        let failed = |e| Error::io("listing", &path, e);
        let mut used = false;
        let items = match fs::read_dir(&path) {
            // A log that grows removes partial tiles with their folder.
            Err(e) if e.kind() == io::ErrorKind::NotFound && !folder.is_empty() => return Ok(false),
            items => items.map_err(failed)?,
        };
        for item in items {
            if self.is_full() {
                break;
            }
            let item = item.map_err(failed)?;
            used |= self.walk_item(folder, &item, replay, extent)?;
        }
        Ok(used)
    }

    fn walk_item(&mut self, folder: &str, item: &DirEntry, replay: &Replay, extent: Extent) -> Result<bool, Error> {
        let name = item.file_name();
        let path = if folder.is_empty() { name.display().to_string() } else { format!("{folder}/{}", name.display()) };
        let kind = item.file_type().map_err(|e| Error::io("looking at", &item.path(), e))?;
        if kind.is_dir() && name.to_str().is_some() && is_folder(&path) {
            let used = self.walk_folder(&path, replay, extent)?;
            if !used && extent.base == extent.bundles {
                self.find_at(path, "", EMPTY_FOLDER);
            }
            return Ok(used);
        }
        let place = Place::parse(&path).filter(|_| kind.is_file() && name.to_str().is_some());
        match place {
            Some(place) if self.belongs(place, replay, extent)? => return Ok(true),
            None if kind.is_file() && is_unfinished(&path) => {
                self.notes.push(format!("`{path}` is left over from an interrupted write"));
            }
            _ => self.find_at(path, "", STRANGE),
        }
        Ok(false)
    }

    /// Whether a log of this extent has the file. What is in it was compared already, but for tiles on the way.
    fn belongs(&mut self, place: Place, replay: &Replay, extent: Extent) -> Result<bool, Error> {
        match place {
            Place::Vkey | Place::Checkpoint | Place::Tail => Ok(true),
            Place::Bundle(index) => Ok(index < extent.bundles / BUNDLE),
            Place::Tile { level, index } => Ok(index < tile_index(extent.bundles, level)),
            Place::Partial { level, index, width } => {
                let hashes = index * BUNDLE + u64::from(width);
                if level > 0 && hashes == tile_hashes(extent.checkpoint, level) {
                    return Ok(true);
                }
                let passed = tile_hashes(extent.base, level)..=tile_hashes(extent.bundles, level);
                if level == 0 || !passed.contains(&hashes) {
                    return Ok(false);
                }
                self.is_front_of_tile(place, level, index, usize::from(width) * HASH_SIZE, replay)
            }
        }
    }

    /// Whether a partial tile from the middle of an interrupted write holds the first `bytes` of its tile.
    fn is_front_of_tile(
        &self,
        place: Place,
        level: u8,
        index: u64,
        bytes: usize,
        replay: &Replay,
    ) -> Result<bool, Error> {
        let full = replay.tiles.iter().find(|tile| (tile.level, tile.index) == (level, index));
        let known = full.map_or(replay.edge.level(level), |tile| &tile.hashes);
        let found = readable(self.disk, place, TILE_WIDTH * HASH_SIZE)?;
        Ok(self.broken || found.as_deref().is_some_and(|found| Some(found) == known.get(..bytes)))
    }
}

/// Whether a log has folders of this name.
pub(super) fn is_folder(path: &str) -> bool {
    let mut parts = path.split('/');
    let tile = parts.next() == Some("tile");
    let level = |part: &str| part == "entries" || part.parse().is_ok_and(|level: u8| level < LEVELS && part.len() == 1);
    let group = |part: &str| match part.strip_prefix('x').or_else(|| part.strip_suffix(".p")) {
        Some(digits) => digits.len() == 3 && digits.bytes().all(|digit| digit.is_ascii_digit()),
        None => false,
    };
    tile && parts.next().is_none_or(level) && parts.all(group)
}

fn is_unfinished(path: &str) -> bool {
    path.strip_suffix(UNFINISHED).and_then(Place::parse).is_some()
}
