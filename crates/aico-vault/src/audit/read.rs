//! Reading an open log: entries, and proofs about them (`docs/spec/audit-log.md`, Proofs).

use tlog_tiles::{
    HASH_SIZE, Hash, HashReader, Tile, check_record, check_tree, prove_record, prove_tree, record_hash, tree_hash,
};

use super::Head;
use super::edge::{BUNDLE, TILE_WIDTH, tile_index};
use super::entry::{self, MAX_SEALED_BYTES};
use super::layout::Place;
use super::log::AuditLog;
use super::store::Store;
use crate::Error;

/// Most bytes of a bundle.
pub(super) const MAX_BUNDLE_BYTES: usize = TILE_WIDTH * (2 + MAX_SEALED_BYTES);

/// Shows that one entry is in the tree of a head: the RFC 6962 audit path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inclusion {
    /// The entry's place.
    pub index: u64,
    /// The head in whose tree it is.
    pub head: Head,
    /// The hashes beside the way from the leaf to the root, lowest first.
    pub path: Vec<[u8; 32]>,
}

impl Inclusion {
    /// Whether the entry with this leaf hash is at `index` in the tree of `head`. Whether to believe the head is the
    /// caller's to know.
    #[must_use]
    pub fn holds(&self, leaf_hash: &[u8; 32]) -> bool {
        if self.index >= self.head.size || self.path.len() > 64 {
            return false;
        }
        let path = self.path.iter().copied().map(Hash).collect();
        check_record(&path, self.head.size, Hash(self.head.root), self.index, Hash(*leaf_hash)).is_ok()
    }
}

impl AuditLog {
    /// The entries from index `from` up to, not including, `to`, opened, in order. Only what is on disk: behind
    /// [`AuditLog::head`] there is nothing yet.
    ///
    /// # Errors
    /// [`Error::Damaged`] if an entry is missing or does not open; what the disk says.
    pub fn entries(&self, from: u64, to: u64) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let store = self.shared.store();
        let to = to.min(store.signed.head.size);
        let (mut found, mut index) = (Vec::new(), from);
        while index < to {
            let sealed = store.sealed_from(index)?;
            for (index, sealed) in (index..to).zip(&sealed) {
                found.push((index, entry::open(&self.shared.seal_key, store.log_id(), index, sealed)?));
            }
            index += sealed.len() as u64;
        }
        Ok(found)
    }

    /// The last `count` entries, in order.
    ///
    /// # Errors
    /// As [`AuditLog::entries`].
    pub fn tail(&self, count: u64) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let size = self.head().size;
        self.entries(size.saturating_sub(count), size)
    }

    /// The durable head as a C2SP checkpoint, for keeping it elsewhere: on another device, on paper.
    #[must_use]
    pub fn checkpoint(&self) -> String {
        let store = self.shared.store();
        store.names.note(&store.signed)
    }

    /// Whether the log still begins with the entries of `head`.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the tiles are not those of this log.
    pub fn contains(&self, head: &Head) -> Result<bool, Error> {
        let store = self.shared.store();
        match head.size {
            size if size > store.signed.head.size => Ok(false),
            0 => Ok(head.root == tlog_tiles::EMPTY_HASH.0),
            size => Ok(store.root_at(size)? == head.root),
        }
    }

    /// Proves that the entry at `index` is in the log of [`AuditLog::head`].
    ///
    /// # Errors
    /// [`Error::Misuse`] if it is not on disk; [`Error::Damaged`] if the tiles are not those of this log.
    pub fn prove(&self, index: u64) -> Result<Inclusion, Error> {
        let store = self.shared.store();
        let head = store.signed.head;
        if index >= head.size {
            return Err(Error::Misuse("the audit log has no such entry on disk"));
        }
        let leaf = record_hash(store.sealed_from(index)?.first().map_or(&[], Vec::as_slice));
        let path = prove_record(head.size, index, &*store).map_err(not_ours)?;
        check_record(&path, head.size, Hash(head.root), index, leaf).map_err(not_ours)?;
        Ok(Inclusion { index, head, path: path.into_iter().map(|hash| hash.0).collect() })
    }
}

impl Store {
    /// Sealed entries from `index` on, at least one: the rest of its bundle or of the tail.
    fn sealed_from(&self, index: u64) -> Result<Vec<Vec<u8>>, Error> {
        let missing = |detail| Error::damaged("the audit log", format!("entry {index} {detail}"));
        if let Some(at) = index.checked_sub(self.base) {
            let rest = self.entries.get(at as usize..).unwrap_or_default();
            let rest: Vec<_> = rest.iter().map(|entry| entry.bytes.clone()).collect();
            return if rest.is_empty() { Err(missing("is missing")) } else { Ok(rest) };
        }
        let bundle = self.disk.read(Place::Bundle(index / BUNDLE), MAX_BUNDLE_BYTES)?;
        let bundle = bundle.ok_or_else(|| missing("is missing"))?;
        let entries = entry::split(&bundle, TILE_WIDTH).map_err(|_| missing("is in a bundle that is none"))?;
        Ok(entries.into_iter().skip((index % BUNDLE) as usize).map(<[u8]>::to_vec).collect())
    }

    /// The root of the log's first `size` entries, at least one, proved against its head: tiles are read from disk and
    /// not believed.
    fn root_at(&self, size: u64) -> Result<[u8; 32], Error> {
        let head = self.signed.head;
        let root = tree_hash(size, self).map_err(not_ours)?;
        let proof = prove_tree(head.size, size, self).map_err(not_ours)?;
        check_tree(&proof, head.size, Hash(head.root), size, root).map_err(not_ours)?;
        Ok(root.0)
    }

    /// The hashes of a tile: from memory where the tail has them, else from its file.
    fn tile(&self, level: u8, index: u64) -> Option<Vec<u8>> {
        if tile_index(self.edge.size(), level) == index {
            return Some(self.edge.level(level).to_vec());
        }
        match self.tiles.iter().find(|tile| (tile.level, tile.index) == (level, index)) {
            Some(tile) => Some(tile.hashes.clone()),
            None => self.disk.read(Place::Tile { level, index }, TILE_WIDTH * HASH_SIZE).ok().flatten(),
        }
    }
}

impl HashReader for Store {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, tlog_tiles::Error> {
        let (mut hashes, mut last) = (Vec::with_capacity(indexes.len()), None);
        for index in indexes {
            let tile = Tile::from_index(8, *index);
            let at = (tile.level(), tile.level_index());
            let data = match last.take() {
                Some((cached, data)) if cached == at => data,
                _ => self.tile(at.0, at.1).ok_or(tlog_tiles::Error::InvalidTile)?,
            };
            hashes.push(tile.hash_at_index(&data, *index)?);
            last = Some((at, data));
        }
        Ok(hashes)
    }
}

fn not_ours(error: tlog_tiles::Error) -> Error {
    Error::damaged("the audit log", format!("its tiles are not those of its head ({error})"))
}
