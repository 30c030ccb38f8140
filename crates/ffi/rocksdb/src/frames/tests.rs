use std::io::Cursor;

use proptest::prelude::*;

use super::*;
use crate::key::StoreKey;
use crate::name::{Kind, Name};

fn key() -> FileKey {
    let store = StoreKey::derive(&[1; 32], &[2; 16]).unwrap();
    store.file(&[3; 16], Name { kind: Kind::Log, number: 4 }).unwrap()
}

/// The file of `pieces`, and where each frame ends.
fn file(pieces: &[Vec<u8>]) -> (Vec<u8>, Vec<usize>) {
    let mut writer = FrameWriter::new(key());
    let mut out = Vec::new();
    let seal = |piece: &Vec<u8>| {
        writer.seal(piece, &mut out).unwrap();
        out.len()
    };
    let ends = pieces.iter().map(seal).collect();
    (out, ends)
}

fn read(bytes: &[u8], step: usize) -> Result<Vec<u8>, Fault> {
    let mut reader = FrameReader::new(Cursor::new(bytes), Some(key()));
    let mut all = Vec::new();
    let mut buffer = vec![0; step];
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(all),
            length => all.extend_from_slice(&buffer[..length]),
        }
    }
}

fn pieces() -> impl Strategy<Value = Vec<Vec<u8>>> {
    proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..200), 0..6)
}

proptest! {
    #[test]
    fn what_is_sealed_is_read(pieces in pieces(), step in 1..300_usize) {
        let (bytes, _) = file(&pieces);
        prop_assert_eq!(read(&bytes, step).unwrap(), pieces.concat());
    }

    #[test]
    fn a_cut_leaves_the_whole_frames(pieces in pieces(), at in any::<prop::sample::Index>()) {
        let (bytes, ends) = file(&pieces);
        let at = at.index(bytes.len() + 1);
        let whole = ends.iter().filter(|end| **end <= at).count();
        prop_assert_eq!(read(&bytes[..at], 64).unwrap(), pieces[..whole].concat());
    }

    /// Nor does it matter whether the file goes on behind it.
    #[test]
    fn a_changed_byte_is_damage(pieces in pieces(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let (mut bytes, _) = file(&pieces);
        prop_assume!(!bytes.is_empty());
        let at = at.index(bytes.len());
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(matches!(read(&bytes, 64), Err(Fault::Damaged)));
    }

    #[test]
    fn zeros_at_the_end_are_room_that_was_never_written(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..2000), 1..4),
        more in 4..5000_usize,
        sector in any::<Option<prop::sample::Index>>(),
    ) {
        let (mut bytes, ends) = file(&pieces);
        let start = ends.iter().rev().nth(1).copied().unwrap_or(0);
        let sectors: Vec<usize> = (start..bytes.len()).filter(|at| (at + HEADER_BYTES).is_multiple_of(SECTOR_BYTES)).collect();
        let from = sector.filter(|_| !sectors.is_empty()).map_or(start, |sector| sectors[sector.index(sectors.len())]);
        bytes[from..].fill(0);
        bytes.resize(bytes.len() + more, 0);
        prop_assert_eq!(read(&bytes, 64).unwrap(), pieces[..pieces.len() - 1].concat());
    }

    /// Of what was not synced, any sectors may be missing.
    #[test]
    fn sectors_that_were_never_written_end_the_file(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..2000), 2..6),
        synced in any::<prop::sample::Index>(),
        missing in any::<u64>(),
    ) {
        let (mut bytes, ends) = file(&pieces);
        let synced = synced.index(pieces.len());
        let from = synced.checked_sub(1).map_or(0, |last| ends[last]);
        for (at, byte) in bytes.iter_mut().enumerate().skip(from) {
            if missing >> ((at + HEADER_BYTES) / SECTOR_BYTES % 64) & 1 == 1 {
                *byte = 0;
            }
        }
        // Where so few bytes of a length, or of a frame, were to stand in a sector, nobody can tell.
        let few = |start: usize| SECTOR_BYTES - (start + HEADER_BYTES) % SECTOR_BYTES < LEAST_ZEROS;
        let starts = std::iter::once(0).chain(ends.iter().copied()).flat_map(|start| [start, start + SEALED_LENGTH_BYTES]);
        prop_assume!(!starts.into_iter().any(few));
        prop_assume!(!(1..LEAST_ZEROS).contains(&((bytes.len() + HEADER_BYTES) % SECTOR_BYTES)));
        let found = read(&bytes, 64).unwrap();
        prop_assert!((synced..=pieces.len()).any(|whole| found == pieces[..whole].concat()));
    }

    #[test]
    fn zeros_that_are_no_sector_are_damage(
        pieces in pieces(), from in any::<prop::sample::Index>(), length in 1..SECTOR_BYTES,
    ) {
        prop_assume!(!pieces.is_empty());
        let (mut bytes, _) = file(&pieces);
        let from = from.index(bytes.len());
        // The last byte of the sector, or of the file, stays.
        let border = ((from + HEADER_BYTES) / SECTOR_BYTES + 1) * SECTOR_BYTES - HEADER_BYTES;
        let to = (from + length).min(border.min(bytes.len()) - 1);
        prop_assume!(from < to && bytes[from..to].iter().any(|byte| *byte != 0) && bytes[to] != 0);
        bytes[from..to].fill(0);
        prop_assert!(matches!(read(&bytes, 64), Err(Fault::Damaged)));
    }

    #[test]
    fn other_bytes_are_damage_or_a_cut_and_take_no_memory(bytes in proptest::collection::vec(any::<u8>(), 0..4096)) {
        let result = read(&bytes, 64);
        if bytes.len() < SEALED_LENGTH_BYTES {
            prop_assert_eq!(result.unwrap(), []);
        } else {
            prop_assert!(matches!(result, Err(Fault::Damaged)));
        }
    }
}

#[test]
fn long_writes_take_several_frames() {
    let long = vec![5; MAX_FRAME_BYTES * 2 + 1];
    let (bytes, _) = file(std::slice::from_ref(&long));
    assert_eq!(bytes.len(), long.len() + 3 * (SEALED_LENGTH_BYTES + TAG_BYTES));
    assert_eq!(read(&bytes, 1000).unwrap(), long);
}

/// Whoever has the key could write them; a reader trusts no length all the same.
#[test]
fn a_sealed_length_has_limits() {
    for length in [0, MAX_FRAME_BYTES as u32 + 1, u32::MAX] {
        let mut bytes = Vec::new();
        key().seal(Part::Length, 0, &[], &length.to_le_bytes(), &mut bytes).unwrap();
        bytes.extend([0; 64]);
        assert!(matches!(read(&bytes, 64), Err(Fault::Damaged)), "{length}");
    }
}
