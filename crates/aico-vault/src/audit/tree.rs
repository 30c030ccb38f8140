//! The Merkle tree of RFC 6962, as far as appending needs it.

use aico_crypto::{Digest, sha256};

/// The root of an empty tree: SHA-256 of nothing.
const EMPTY_ROOT: Digest = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27, 0xae, 0x41,
    0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// A state of the log: how many entries, and the hash over all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Entries.
    pub size: u64,
    /// The tree's root.
    pub root: Digest,
}

/// The head of an empty log.
pub const EMPTY_HEAD: Head = Head { size: 0, root: EMPTY_ROOT };

/// The hash of a leaf.
pub(super) fn leaf_hash(sealed: &[u8]) -> Digest {
    sha256(&[&[0], sealed])
}

/// The right edge of a tree: the roots of its complete subtrees, largest first.
#[derive(Clone, Debug, Default)]
pub(super) struct Edge {
    size: u64,
    /// Height and root.
    peaks: Vec<(u32, Digest)>,
}

impl Edge {
    /// Appends a complete subtree of 2^`height` leaves; taller ones come before shorter ones.
    pub(super) fn push(&mut self, height: u32, root: Digest) {
        self.size += 1 << height;
        let (mut height, mut root) = (height, root);
        while let Some((_, left)) = self.peaks.pop_if(|(h, _)| *h == height) {
            root = sha256(&[&[1], &left, &root]);
            height += 1;
        }
        self.peaks.push((height, root));
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn head(&self) -> Head {
        let roots = self.peaks.iter().rev().map(|(_, root)| *root);
        let root = roots.reduce(|right, left| sha256(&[&[1], &left, &right])).unwrap_or(EMPTY_ROOT);
        Head { size: self.size, root }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_equal_tlog_tiles() {
        struct Stored(Vec<tlog_tiles::Hash>);
        impl tlog_tiles::HashReader for Stored {
            fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog_tiles::Hash>, tlog_tiles::Error> {
                Ok(indexes.iter().map(|i| self.0[*i as usize]).collect())
            }
        }
        let (mut edge, mut stored) = (Edge::default(), Stored(Vec::new()));
        assert_eq!(edge.head().root, EMPTY_ROOT);
        for n in 0..600u64 {
            let leaf = n.to_be_bytes();
            let hashes = tlog_tiles::stored_hashes(n, &leaf, &stored).unwrap();
            stored.0.extend(hashes);
            edge.push(0, leaf_hash(&leaf));
            let theirs = tlog_tiles::tree_hash(n + 1, &stored).unwrap();
            assert_eq!((edge.head().root, edge.size()), (theirs.0, n + 1));
        }
    }
}
