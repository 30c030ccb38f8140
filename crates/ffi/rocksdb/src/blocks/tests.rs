use std::io::Write;

use proptest::prelude::*;

use super::*;
use crate::key::StoreKey;
use crate::name::{Kind, Name};

fn key() -> FileKey {
    let store = StoreKey::derive(&[1; 32], &[2; 16]).unwrap();
    store.file(&[3; 16], Name { kind: Kind::Table, number: 4 }).unwrap()
}

fn plain(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at * 31 % 251) as u8).collect()
}

/// A file whose header is not looked at here.
fn sealed(plain: &[u8], step: usize) -> Vec<u8> {
    let mut out = vec![0; HEADER_BYTES];
    let mut writer = BlockWriter::new(key());
    plain.chunks(step).for_each(|piece| writer.append(piece, &mut out).unwrap());
    writer.finish(&mut out).unwrap();
    out
}

fn open(bytes: &[u8]) -> Result<BlockReader, Fault> {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    BlockReader::new(file, bytes.len() as u64, key())
}

fn all(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
    let mut out = vec![0; bytes.len() + 10];
    let length = open(bytes)?.read(0, &mut out)?;
    out.truncate(length);
    Ok(out)
}

fn lengths() -> impl Strategy<Value = usize> {
    prop_oneof![
        0..10_usize,
        BLOCK_BYTES - 3..BLOCK_BYTES + 3,
        3 * BLOCK_BYTES - 1..3 * BLOCK_BYTES + 2,
        0..20_000_usize
    ]
}

proptest! {
    #[test]
    fn every_part_can_be_read_alone(length in lengths(), step in 1..9000_usize, from in 0..21_000_usize, count in 0..9000_usize) {
        let plain = plain(length);
        let bytes = sealed(&plain, step);
        prop_assert_eq!(plain_length(bytes.len() as u64).unwrap(), length as u64);
        let mut out = vec![0; count];
        let read = open(&bytes).unwrap().read(from as u64, &mut out).unwrap();
        let wanted = &plain[from.min(length)..(from + count).min(length)];
        prop_assert_eq!(&out[..read], wanted);
    }

    #[test]
    fn a_changed_byte_is_damage(length in lengths(), at in any::<prop::sample::Index>(), bit in 0..8) {
        let mut bytes = sealed(&plain(length), 1000);
        let at = HEADER_BYTES + at.index(bytes.len() - HEADER_BYTES);
        bytes[at] ^= 1_u8 << bit;
        prop_assert!(matches!(all(&bytes), Err(Fault::Damaged)));
    }

    #[test]
    fn a_cut_anywhere_is_damage(length in lengths(), at in any::<prop::sample::Index>()) {
        let bytes = sealed(&plain(length), 1000);
        prop_assert!(matches!(all(&bytes[..at.index(bytes.len())]), Err(Fault::Damaged)));
    }

    #[test]
    fn more_at_the_end_is_damage(length in lengths(), more in 1..9000_usize) {
        let mut bytes = sealed(&plain(length), 1000);
        bytes.resize(bytes.len() + more, 0);
        prop_assert!(matches!(all(&bytes), Err(Fault::Damaged)));
    }

    #[test]
    fn any_length_is_damage_or_within_the_file(bytes in any::<u64>()) {
        if let Ok(length) = plain_length(bytes) {
            prop_assert!(length < bytes);
        }
    }
}

#[test]
fn no_offset_is_too_far() {
    let bytes = sealed(&plain(5000), 1000);
    let reader = open(&bytes).unwrap();
    for offset in [5000, 8192, u64::MAX - 1, u64::MAX] {
        assert_eq!(reader.read(offset, &mut [0; 10]).unwrap(), 0);
    }
}

#[test]
fn a_cut_at_the_border_of_blocks_is_damage() {
    let bytes = sealed(&plain(3 * BLOCK_BYTES), 1000);
    for blocks in 0..3 {
        assert!(matches!(all(&bytes[..HEADER_BYTES + blocks * SEALED_BYTES]), Err(Fault::Damaged)), "{blocks}");
    }
}
