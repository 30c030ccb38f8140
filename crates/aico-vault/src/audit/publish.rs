//! From the tail to full bundles, tiles and a checkpoint (`docs/spec/audit-log.md`, Order of writes).

use super::Head;
use super::edge::{BUNDLE, LEVELS, TILE_WIDTH, tile_hashes, tile_index, width};
use super::entry::join;
use super::layout::{Place, partial_folder};
use super::store::Store;
use crate::Error;

impl Store {
    /// Whether the tail holds full bundles, or they could not be written before.
    pub(super) fn wants_to_publish(&self) -> bool {
        self.entries.len() >= TILE_WIDTH || self.trouble.is_some()
    }

    /// Writes what the tail holds of full bundles. A failure is kept as [`Store::trouble`]: the tail has every entry.
    pub(super) fn publish_if_due(&mut self) {
        if self.wants_to_publish() {
            self.trouble = self.publish().err().map(|e| e.to_string());
        }
    }

    /// Writes bundles, tiles, checkpoint; removes tiles that a wider one replaces; cuts the tail. In this order, so that
    /// a stop at any place leaves a tail from which the same is written again.
    pub(super) fn publish(&mut self) -> Result<(), Error> {
        let bundles = self.entries.len() / TILE_WIDTH;
        let size = self.base + bundles as u64 * BUNDLE;
        self.write_bundles()?;
        self.write_tiles(size)?;
        self.write_checkpoint(size)?;
        self.remove_replaced_tiles(size)?;
        self.tiles.clear();
        self.entries.drain(..bundles * TILE_WIDTH);
        self.base = size;
        self.replace_tail()
    }

    fn write_bundles(&self) -> Result<(), Error> {
        for (index, entries) in (self.base / BUNDLE..).zip(self.entries.as_chunks::<TILE_WIDTH>().0) {
            self.disk.write(Place::Bundle(index), &join(entries))?;
        }
        Ok(())
    }

    fn write_tiles(&self, size: u64) -> Result<(), Error> {
        for tile in &self.tiles {
            self.disk.write(Place::Tile { level: tile.level, index: tile.index }, &tile.hashes)?;
        }
        for level in self.changed_levels(size) {
            if let Some(place) = Place::tile(level, tile_index(size, level), width(size, level)) {
                self.disk.write(place, self.edge.level(level))?;
            }
        }
        Ok(())
    }

    fn write_checkpoint(&self, size: u64) -> Result<(), Error> {
        let head = Head { size, root: self.edge.root_of_bundles() };
        let signed = self.names.sign(head, &self.key)?;
        self.disk.write(Place::Checkpoint, self.names.note(&signed).as_bytes())?;
        Ok(())
    }

    fn remove_replaced_tiles(&self, size: u64) -> Result<(), Error> {
        for level in self.changed_levels(size) {
            let (old, new) = (tile_index(self.base, level), tile_index(size, level));
            let kept = (width(size, level) > 0).then(|| width(size, level).to_string());
            if old != new {
                self.disk.clear_folder(&partial_folder(level, old), None)?;
            }
            self.disk.clear_folder(&partial_folder(level, new), kept.as_deref())?;
        }
        Ok(())
    }

    /// The levels above the lowest that have more hashes at `size` than at the tail's beginning.
    fn changed_levels(&self, size: u64) -> impl Iterator<Item = u8> {
        let base = self.base;
        (1..LEVELS).filter(move |level| tile_hashes(base, *level) != tile_hashes(size, *level))
    }
}
