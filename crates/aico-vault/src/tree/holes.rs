//! Ranges of blocks that read as zeros (`docs/spec/tree.md`, Sealed files).

use std::collections::BTreeMap;
use std::ops::Range;

/// Most ranges of a file.
pub(super) const MAX_HOLES: usize = 4096;
/// Bytes of one range in a row.
const RANGE_BYTES: usize = 16;

/// Ascending, not empty, not touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Holes(BTreeMap<u64, u64>);

impl Holes {
    pub(super) fn contains(&self, block: u64) -> bool {
        self.0.range(..=block).next_back().is_some_and(|(_, end)| block < *end)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether there are more than a row may have.
    pub(super) fn are_too_many(&self) -> bool {
        self.0.len() > MAX_HOLES
    }

    /// Blocks in all of them.
    pub(super) fn blocks(&self) -> u64 {
        self.0.iter().map(|(start, end)| end - start).sum()
    }

    pub(super) fn shortest(&self) -> Option<Range<u64>> {
        self.0.iter().map(|(start, end)| *start..*end).min_by_key(|range| range.end - range.start)
    }

    pub(super) fn add(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let Range { mut start, mut end } = range;
        let touching: Vec<_> =
            self.0.range(..=end).rev().take_while(|(_, e)| **e >= start).map(|(s, e)| (*s, *e)).collect();
        for (s, e) in touching {
            self.0.remove(&s);
            (start, end) = (start.min(s), end.max(e));
        }
        self.0.insert(start, end);
    }

    pub(super) fn remove(&mut self, range: Range<u64>) {
        if range.is_empty() || self.0.is_empty() {
            return;
        }
        let Range { start, end } = range;
        let hit: Vec<_> = self.0.range(..end).rev().take_while(|(_, e)| **e > start).map(|(s, e)| (*s, *e)).collect();
        for (s, e) in hit {
            self.0.remove(&s);
            if s < start {
                self.0.insert(s, start);
            }
            if end < e {
                self.0.insert(end, e);
            }
        }
    }

    /// The pieces of `range` that are whole holes, or hold none.
    pub(super) fn runs(&self, range: Range<u64>) -> Vec<(Range<u64>, bool)> {
        let (mut runs, mut at) = (Vec::new(), range.start);
        let before = self.0.range(..=at).next_back().filter(|(_, end)| **end > at);
        let behind = self.0.range(at.saturating_add(1)..range.end.max(at.saturating_add(1)));
        for (start, end) in before.into_iter().chain(behind) {
            let (start, end) = ((*start).max(at), (*end).min(range.end));
            if at < start {
                runs.push((at..start, false));
            }
            if start < end {
                runs.push((start..end, true));
            }
            at = end;
        }
        if at < range.end {
            runs.push((at..range.end, false));
        }
        runs
    }

    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let bytes = |(start, end): (&u64, &u64)| [start.to_be_bytes(), end.to_be_bytes()].concat();
        (!self.is_empty()).then(|| self.0.iter().flat_map(bytes).collect())
    }

    /// Reads what [`Holes::encode`] wrote, for a file of `blocks` blocks.
    pub(super) fn decode(bytes: &[u8], blocks: u64) -> Option<Self> {
        if !bytes.len().is_multiple_of(RANGE_BYTES) || bytes.len() > MAX_HOLES * RANGE_BYTES {
            return None;
        }
        let (mut holes, mut least) = (BTreeMap::new(), 0);
        for range in bytes.chunks_exact(RANGE_BYTES) {
            let (start, end) = (u64::from_be_bytes(*range.first_chunk()?), u64::from_be_bytes(*range.last_chunk()?));
            if start < least || end <= start || end > blocks {
                return None;
            }
            holes.insert(start, end);
            least = end.checked_add(1)?;
        }
        Some(Self(holes))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a set of blocks does.
    fn model(steps: &[(bool, u64, u64)]) -> (Holes, Vec<bool>) {
        let (mut holes, mut blocks) = (Holes::default(), vec![false; 64]);
        for (add, start, length) in steps {
            let range = *start..(start + length).min(64);
            if *add {
                holes.add(range.clone())
            } else {
                holes.remove(range.clone())
            }
            range.for_each(|block| blocks[block as usize] = *add);
        }
        (holes, blocks)
    }

    proptest! {
        #[test]
        fn they_are_a_set_of_blocks(steps in prop::collection::vec((any::<bool>(), 0u64..60, 0u64..20), 0..40),
                                    from in 0u64..64, length in 0u64..64) {
            let (holes, blocks) = model(&steps);
            for block in 0..64 {
                prop_assert_eq!(holes.contains(block), blocks[block as usize]);
            }
            prop_assert_eq!(holes.blocks(), blocks.iter().filter(|hole| **hole).count() as u64);
            let ends: Vec<_> = holes.0.iter().collect();
            prop_assert!(ends.windows(2).all(|pair| pair[0].1 < pair[1].0), "they touch: {:?}", holes);
            let range = from..(from + length).min(64);
            let runs = holes.runs(range.clone());
            let told: Vec<_> = runs.iter().flat_map(|(run, hole)| run.clone().map(|at| (at, *hole))).collect();
            let wanted: Vec<_> = range.map(|at| (at, blocks[at as usize])).collect();
            prop_assert_eq!(told, wanted);
            let bytes = holes.encode().unwrap_or_default();
            prop_assert_eq!(Holes::decode(&bytes, 64), Some(holes));
        }

        #[test]
        fn rubbish_is_refused_or_what_it_says(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            if let Some(holes) = Holes::decode(&bytes, 1 << 28) {
                prop_assert_eq!(holes.encode().unwrap_or_default(), bytes);
            }
        }
    }

    #[test]
    fn ranges_that_cannot_be_are_refused() {
        let encoded = |ranges: &[(u64, u64)]| -> Vec<u8> {
            ranges.iter().flat_map(|(start, end)| [start.to_be_bytes(), end.to_be_bytes()].concat()).collect()
        };
        assert!(Holes::decode(&encoded(&[(1, 2), (3, 10)]), 10).is_some());
        for bad in [&[(1, 1)][..], &[(2, 1)], &[(1, 3), (3, 4)], &[(4, 5), (1, 2)], &[(1, 11)], &[(u64::MAX, 1)]] {
            assert!(Holes::decode(&encoded(bad), 10).is_none(), "{bad:?}");
        }
        assert!(Holes::decode(&[0; 15], 10).is_none());
        let many: Vec<_> = (0..=MAX_HOLES as u64).map(|at| (2 * at, 2 * at + 1)).collect();
        assert!(Holes::decode(&encoded(&many), 1 << 20).is_none());
    }
}
