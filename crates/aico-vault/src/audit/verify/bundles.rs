//! Bundle by bundle: entries against leaf hashes, and which of the two is at fault.

use tlog_tiles::{HASH_SIZE, Hash, Tile, record_hash};

use super::anchor::Witness;
use super::check::Check;
use super::readable;
use crate::Error;
use crate::audit::edge::{BUNDLE, Edge, TILE_WIDTH, width};
use crate::audit::entry;
use crate::audit::layout::Place;
use crate::audit::read::MAX_BUNDLE_BYTES;

impl Check<'_> {
    /// Reads the full bundles before `base` and compares the tiles with them. Stops where neither entries nor their hashes
    /// are left.
    pub(super) fn bundles(
        &mut self,
        base: u64,
        checkpoint: u64,
        edge: &mut Edge,
        witness: &mut Witness<'_>,
    ) -> Result<(), Error> {
        for index in 0..base / BUNDLE {
            let leaves = if self.is_full() { None } else { self.leaves(index, checkpoint)? };
            let Some(leaves) = leaves else {
                self.broken = true;
                return Ok(());
            };
            for leaf in leaves.as_chunks::<HASH_SIZE>().0 {
                let full = edge.push(Hash(*leaf));
                witness.see(edge);
                for tile in full.iter().filter(|tile| tile.level > 0 && !self.broken).collect::<Vec<_>>() {
                    self.compare_tile(tile, true)?;
                }
            }
        }
        Ok(())
    }

    /// The 256 leaf hashes of a bundle, by the best account there is.
    fn leaves(&mut self, index: u64, checkpoint: u64) -> Result<Option<Vec<u8>>, Error> {
        let hashed = self.hashed_entries(index)?;
        let place = Place::Tile { level: 0, index };
        let stored = self.need(place, TILE_WIDTH * HASH_SIZE)?.filter(|hashes| {
            let whole = hashes.len() == TILE_WIDTH * HASH_SIZE;
            if !whole {
                self.find(place, &format!("byte {}", hashes.len()), "is cut");
            }
            whole
        });
        match (hashed, stored) {
            (Some(hashed), Some(stored)) if hashed != stored => self.blame(index, checkpoint, hashed, stored).map(Some),
            (hashed, stored) => Ok(hashed.or(stored)),
        }
    }

    /// The leaf hashes of the entries in a bundle, if it is a list of 256 entries.
    fn hashed_entries(&mut self, index: u64) -> Result<Option<Vec<u8>>, Error> {
        let place = Place::Bundle(index);
        let Some(bytes) = self.need(place, MAX_BUNDLE_BYTES)? else { return Ok(None) };
        match entry::split(&bytes, TILE_WIDTH) {
            Ok(entries) => Ok(Some(entries.into_iter().flat_map(|entry| record_hash(entry).0).collect())),
            Err(at) => {
                self.find(place, &format!("byte {at}"), "is not a list of 256 entries");
                Ok(None)
            }
        }
    }

    /// Entries and leaf hashes differ; the hash one level up knows which of them is right.
    fn blame(&mut self, index: u64, checkpoint: u64, hashed: Vec<u8>, stored: Vec<u8>) -> Result<Vec<u8>, Error> {
        let parent = self.parent(index, checkpoint)?;
        let at = hashed.chunks(HASH_SIZE).zip(stored.chunks(HASH_SIZE)).take_while(|(a, b)| a == b).count();
        let entry = format!("entry {}", index * BUNDLE + at as u64);
        if parent == Some(Tile::subtree_hash(&stored)) {
            self.find(Place::Bundle(index), &entry, "is not the entry that was recorded");
            return Ok(stored);
        }
        let tile = Place::Tile { level: 0, index };
        self.find(tile, &format!("byte {}", at * HASH_SIZE), "is not the hash of the entry");
        if parent != Some(Tile::subtree_hash(&hashed)) {
            self.find(Place::Bundle(index), &entry, "does not fit the tiles above it either");
            self.broken = true;
        }
        Ok(hashed)
    }

    /// The hash over a bundle as the level above has it.
    fn parent(&self, index: u64, checkpoint: u64) -> Result<Option<Hash>, Error> {
        let (tile, at) = (index / BUNDLE, (index % BUNDLE) as usize);
        let full = Some(Place::Tile { level: 1, index: tile });
        for place in [full, Place::tile(1, tile, width(checkpoint, 1))].into_iter().flatten() {
            if let Some(hashes) = readable(self.disk, place, TILE_WIDTH * HASH_SIZE)? {
                return Ok(hashes.as_chunks::<HASH_SIZE>().0.get(at).copied().map(Hash));
            }
        }
        Ok(None)
    }
}
