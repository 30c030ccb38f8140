//! The right edge of the tree: the hashes of every level's unfinished tile, enough to append and to know the root
//! (`docs/spec/audit-log.md`, The tree).

use tlog_tiles::{EMPTY_HASH, HASH_SIZE, Hash, Tile, node_hash};

/// Hashes in a full tile, and entries in a bundle.
pub(super) const TILE_WIDTH: usize = 256;
pub(super) const BUNDLE: u64 = TILE_WIDTH as u64;
/// Levels of tiles that a 64-bit size can have.
pub(super) const LEVELS: u8 = 8;

/// A tile whose 256 hashes are known.
#[derive(Debug)]
pub(super) struct FullTile {
    pub(super) level: u8,
    pub(super) index: u64,
    pub(super) hashes: Vec<u8>,
}

/// The unfinished tiles of a tree of `size` leaves.
#[derive(Clone, Debug, Default)]
pub(super) struct Edge {
    size: u64,
    /// INVARIANT: level `l` holds `width(size, l)` hashes, one after the other.
    levels: [Vec<u8>; LEVELS as usize],
}

impl Edge {
    /// The edge of a tree of `size` leaves from its levels, lowest first; `None` if the widths are not those of `size`.
    pub(super) fn from_levels(size: u64, levels: [Vec<u8>; LEVELS as usize]) -> Option<Self> {
        let fits = |(level, hashes): (u8, &Vec<u8>)| hashes.len() == width(size, level) * HASH_SIZE;
        (0..LEVELS).zip(&levels).all(fits).then_some(Self { size, levels })
    }

    /// Number of leaves.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// The hashes of the unfinished tile of a level.
    pub(super) fn level(&self, level: u8) -> &[u8] {
        self.levels.get(usize::from(level)).map_or(&[], Vec::as_slice)
    }

    /// Appends a leaf; returns the tiles that it completed, lowest first.
    pub(super) fn push(&mut self, leaf: Hash) -> Vec<FullTile> {
        let (mut full, mut hash) = (Vec::new(), leaf);
        self.size += 1;
        for (level, hashes) in (0..LEVELS).zip(&mut self.levels) {
            let index = tile_hashes(self.size, level).saturating_sub(1) / BUNDLE;
            hashes.extend_from_slice(&hash.0);
            if hashes.len() < TILE_WIDTH * HASH_SIZE {
                break;
            }
            hash = Tile::subtree_hash(hashes);
            full.push(FullTile { level, index, hashes: std::mem::take(hashes) });
        }
        full
    }

    /// The root of the tree.
    pub(super) fn root(&self) -> [u8; 32] {
        fold(&self.levels)
    }

    /// The root of the tree without the leaves behind its last full bundle.
    pub(super) fn root_of_bundles(&self) -> [u8; 32] {
        fold(self.levels.get(1..).unwrap_or_default())
    }
}

/// Hashes that a tree of `size` leaves has at a tile level.
pub(super) fn tile_hashes(size: u64, level: u8) -> u64 {
    size.checked_shr(8 * u32::from(level)).unwrap_or(0)
}

/// Hashes in the unfinished tile of a level.
pub(super) fn width(size: u64, level: u8) -> usize {
    (tile_hashes(size, level) % BUNDLE) as usize
}

/// Index of the unfinished tile of a level.
pub(super) fn tile_index(size: u64, level: u8) -> u64 {
    tile_hashes(size, level) / BUNDLE
}

/// Folds the peaks of the tree from the right, as RFC 6962 splits it: the left part is the largest power of two.
fn fold(levels: &[Vec<u8>]) -> [u8; 32] {
    let peaks = levels.iter().flat_map(|hashes| peaks(hashes).into_iter().rev());
    peaks.reduce(|right, peak| node_hash(peak, right)).unwrap_or(EMPTY_HASH).0
}

/// The roots of the full binary trees over a level's hashes, largest and leftmost first.
fn peaks(mut hashes: &[u8]) -> Vec<Hash> {
    let mut peaks = Vec::new();
    while let Some(height) = (hashes.len() / HASH_SIZE).checked_ilog2() {
        let (left, right) = hashes.split_at(HASH_SIZE << height);
        peaks.push(Tile::subtree_hash(left));
        hashes = right;
    }
    peaks
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tlog_tiles::{Error, HashReader, record_hash, stored_hashes, tree_hash};

    use super::*;

    struct Stored(Vec<Hash>);

    impl HashReader for Stored {
        fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<Hash>, Error> {
            Ok(indexes.iter().map(|index| self.0[*index as usize]).collect())
        }
    }

    #[test]
    fn roots_and_tiles_are_those_of_tlog_tiles() {
        let (mut edge, mut stored, mut tiles) = (Edge::default(), Stored(Vec::new()), HashMap::new());
        assert_eq!(edge.root(), EMPTY_HASH.0);
        for index in 0..66_000u64 {
            let leaf = index.to_be_bytes();
            let hashes = stored_hashes(index, &leaf, &stored).unwrap();
            stored.0.extend(hashes);
            tiles.extend(edge.push(record_hash(&leaf)).into_iter().map(|t| ((t.level, t.index), t.hashes)));
            let size = index + 1;
            if size < 600 || size % 251 == 0 || size > 65_500 && size < 65_600 {
                assert_eq!(edge.root(), tree_hash(size, &stored).unwrap().0, "{size}");
                let bundles = size / BUNDLE * BUNDLE;
                assert_eq!(edge.root_of_bundles(), tree_hash(bundles, &stored).unwrap().0, "{size}");
            }
        }
        assert_eq!(tiles.len(), 257 + 1);
        for ((level, index), hashes) in tiles {
            assert_eq!(Tile::new(8, level, index, 256, false).read_data(&stored).unwrap(), hashes);
        }
    }

    #[test]
    fn an_edge_with_wrong_widths_is_refused() {
        let mut levels: [Vec<u8>; LEVELS as usize] = Default::default();
        assert!(Edge::from_levels(0, levels.clone()).is_some());
        assert!(Edge::from_levels(256, levels.clone()).is_none());
        levels[1] = vec![0; 32];
        assert!(Edge::from_levels(256, levels.clone()).is_some());
        assert!(Edge::from_levels(512, levels).is_none());
    }
}
