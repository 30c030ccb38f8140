//! Whether a flaw in the tail is what a stop in the middle of a write leaves, or damage (`docs/spec/audit-log.md`, Torn
//! batches).

use super::tail::{BATCH_HEADER_BYTES, BATCH_MAGIC, BatchHeader};

/// The unit in which a disk writes all or nothing.
const SECTOR_BYTES: usize = 512;

/// Whether the batch at offset `at`, which should start with entry `first`, is the last one and was not written whole.
///
/// A write that was cut leaves a shorter file, or whole sectors of zeros in it. Everything else was on disk once.
pub(super) fn is_torn(bytes: &[u8], at: usize, first: u64) -> bool {
    let rest = bytes.get(at..).unwrap_or_default();
    match BatchHeader::parse(rest) {
        Some(header) if header.first != first => false,
        Some(header) if rest.len() != header.batch_bytes() => rest.len() < header.batch_bytes(),
        Some(_) => has_empty_sector(rest, at),
        None if rest.len() < BATCH_HEADER_BYTES => is_front_of_header(rest, first) || has_empty_sector(rest, at),
        None => has_empty_sector(rest, at) && !holds_a_batch(rest),
    }
}

fn is_front_of_header(rest: &[u8], first: u64) -> bool {
    let header = [BATCH_MAGIC.as_slice(), &first.to_be_bytes()].concat();
    rest.iter().zip(&header).all(|(found, wanted)| found == wanted)
}

/// Whether some sector's part of `rest`, which starts at offset `at` of the file, is all zeros.
fn has_empty_sector(rest: &[u8], at: usize) -> bool {
    let (front, sectors) = rest.split_at(rest.len().min(at.next_multiple_of(SECTOR_BYTES) - at));
    let empty = |part: &[u8]| !part.is_empty() && part.iter().all(|byte| *byte == 0);
    empty(front) || sectors.chunks(SECTOR_BYTES).any(empty)
}

/// Whether a batch starts further behind: then the flawed one was on disk before it.
fn holds_a_batch(rest: &[u8]) -> bool {
    rest.windows(BATCH_MAGIC.len()).skip(1).any(|window| window == BATCH_MAGIC)
}

#[cfg(test)]
mod tests {
    use aico_crypto::{LogKey, OsRandom};
    use proptest::prelude::*;

    use super::*;
    use crate::audit::edge::Edge;
    use crate::audit::entry::Sealed;
    use crate::audit::names::Names;
    use crate::audit::tail::{HEADER_BYTES, Replay, batch, header, replay};
    use crate::audit::{Head, LogId};

    const LOG: LogId = LogId([3; 16]);

    /// A tail of three batches of 4 entries, the offsets of the batches, and who signed it.
    fn three_batches() -> (Vec<u8>, [usize; 3], Names) {
        let key = LogKey::make(&OsRandom).unwrap();
        let names = Names::new(LOG, key.public().unwrap());
        let (mut bytes, mut edge, mut starts) = (header(LOG, 0), Edge::default(), [0; 3]);
        for (number, start) in (0..).zip(&mut starts) {
            let entries: Vec<Sealed> = (0..4)
                .map(|i| Sealed::seal(&key.seal_key(), LOG, number * 4 + i, &[0; 200], &OsRandom).unwrap())
                .collect();
            entries.iter().for_each(|entry| drop(edge.push(entry.leaf)));
            let signed = names.sign(Head { size: edge.size(), root: edge.root() }, &key).unwrap();
            *start = bytes.len();
            bytes.extend(batch(number * 4, entries.iter(), &signed));
        }
        (bytes, starts, names)
    }

    fn read(bytes: &[u8], names: &Names) -> (Replay, bool) {
        let replay = replay(bytes, Edge::default(), names, &mut |_| {});
        let torn = replay.flaw.is_some_and(|flaw| is_torn(bytes, flaw.batch_at, replay.edge.size()));
        (replay, torn)
    }

    #[test]
    fn a_batch_cut_anywhere_is_torn_and_the_others_are_read() {
        let (bytes, starts, names) = three_batches();
        assert_eq!(read(&bytes, &names).0.entries.len(), 12);
        for cut in starts[2] + 1..bytes.len() {
            let (replay, torn) = read(&bytes[..cut], &names);
            assert_eq!((replay.entries.len(), torn), (8, true), "{cut}");
        }
    }

    #[test]
    fn sectors_of_the_last_batch_that_were_not_written_are_torn() {
        let (bytes, starts, names) = three_batches();
        let sectors = starts[2] / SECTOR_BYTES..bytes.len().div_ceil(SECTOR_BYTES);
        for missing in 1u32..1 << sectors.len() {
            let mut bad = bytes.clone();
            for sector in sectors.clone().filter(|s| missing >> (s - sectors.start) & 1 == 1) {
                let end = bytes.len().min((sector + 1) * SECTOR_BYTES);
                bad[starts[2].max(sector * SECTOR_BYTES)..end].fill(0);
            }
            let (replay, torn) = read(&bad, &names);
            assert_eq!((replay.entries.len(), torn), (8, true), "{missing:b}");
        }
    }

    #[test]
    fn a_flipped_byte_is_damage_and_never_torn() {
        let (bytes, starts, names) = three_batches();
        for at in starts[0]..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x41;
            let (replay, torn) = read(&bad, &names);
            assert!(replay.flaw.is_some() && !torn, "{at}");
        }
    }

    #[test]
    fn what_stands_in_front_of_a_durable_batch_is_never_torn() {
        let (bytes, starts, names) = three_batches();
        for (from, to) in [(starts[0], starts[1]), (starts[1], starts[2]), (starts[1], starts[1] + 600)] {
            let mut bad = bytes.clone();
            bad[from..to].fill(0);
            assert!(!read(&bad, &names).1);
        }
    }

    #[test]
    fn rubbish_behind_the_end_is_damage() {
        let (bytes, _, names) = three_batches();
        for rubbish in [b"x".as_slice(), b"rubbish", &[7; 100], &[7; 5000]] {
            let (replay, torn) = read(&[&bytes, rubbish].concat(), &names);
            assert_eq!((replay.entries.len(), torn), (12, false));
        }
    }

    proptest! {
        #[test]
        fn rubbish_is_never_more_than_a_flaw(rubbish in prop::collection::vec(any::<u8>(), 0..2000), at in 0..2000usize) {
            let (bytes, _, names) = three_batches();
            let at = HEADER_BYTES + at.min(bytes.len() - HEADER_BYTES);
            let bad = [&bytes[..at], &rubbish].concat();
            prop_assert!(read(&bad, &names).0.entries.len() <= 12);
        }
    }
}
