//! Proofs by the log, and by another implementation from the log's files.

use tlog_tiles::{
    Checkpoint, Error as TileError, Hash, HashReader, Tile, TileHashReader, TileReader, check_record, prove_record,
    record_hash, stored_hash_index,
};

use super::*;
use crate::audit::entry::split;

fn log_of(count: u64) -> (Place, AuditLog, Vec<Head>, Vec<[u8; 32]>) {
    let place = Place::new();
    let log = AuditLog::create(&place.path, place.keys.log(), LOG).unwrap();
    let (mut heads, mut leaves) = (vec![log.head()], Vec::new());
    for index in 0..count {
        let receipt = log.record(&text(index)).unwrap();
        leaves.push(*receipt.leaf_hash());
        if index % 50 == 49 || index + 1 == count {
            log.wait_durable(index).unwrap();
            heads.push(log.head());
        }
    }
    (place, log, heads, leaves)
}

#[test]
fn every_entry_is_proved_and_every_head_is_contained() {
    let (place, log, heads, leaves) = log_of(700);
    for (index, leaf) in (0..).zip(&leaves) {
        let proof = log.prove(index).unwrap();
        assert_eq!(proof.head, log.head());
        assert!(proof.holds(leaf), "{index}");
        assert!(!proof.holds(&leaves[(index as usize + 1) % 700]), "{index}");
        for at in 0..proof.path.len() {
            let mut bad = proof.clone();
            bad.path[at][0] ^= 1;
            assert!(!bad.holds(leaf));
        }
        assert!(!Inclusion { index: index + 700, ..proof.clone() }.holds(leaf));
        assert!(!Inclusion { path: vec![[0; 32]; 65], ..proof }.holds(leaf));
    }
    for head in heads {
        assert!(log.contains(&head).unwrap(), "{head:?}");
        assert!(!log.contains(&Head { root: [1; 32], ..head }).unwrap());
        assert!(!log.contains(&Head { size: head.size + 1, ..head }).unwrap());
    }
    assert_eq!(log.tail(2).unwrap(), [(698, text(698)), (699, text(699))]);
    assert_eq!(log.entries(255, 257).unwrap(), [(255, text(255)), (256, text(256))]);
    assert_eq!(log.entries(900, 950).unwrap(), []);

    let tile = place.path.join("tile/0/001");
    let mut bad = std::fs::read(&tile).unwrap();
    bad[0] ^= 1;
    std::fs::write(tile, bad).unwrap();
    assert!(matches!(log.prove(300), Err(Error::Damaged { .. })), "a tile is believed only if it fits the head");
    assert!(log.contains(&Head { size: 300, root: [1; 32] }).is_err());
    assert!(log.prove(10).unwrap().holds(&leaves[10]));
}

/// Reads tiles by nothing but the C2SP layout.
struct Files<'a>(&'a Path);

impl TileReader for Files<'_> {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, TileError> {
        let path = |tile: &Tile| self.0.join(tile.path().replacen("tile/8/", "tile/", 1));
        Ok(tiles.iter().map(|tile| std::fs::read(path(tile)).unwrap()).collect())
    }

    fn save_tiles(&self, _tiles: &[Tile], _data: &[Vec<u8>]) {}
}

#[test]
fn tlog_tiles_proves_an_inclusion_from_our_files() {
    let (place, log, _, leaves) = log_of(600);
    drop(log);
    let note = std::fs::read_to_string(place.path.join("checkpoint")).unwrap();
    let (text, _) = note.split_once("\n\n").unwrap();
    let checkpoint = Checkpoint::from_bytes(format!("{text}\n").as_bytes()).unwrap();
    assert_eq!(checkpoint.size(), 512);
    let files = Files(&place.path);
    let reader = TileHashReader::new(512, *checkpoint.hash(), &files);
    let bundle = std::fs::read(place.path.join("tile/entries/001")).unwrap();
    for (index, entry) in (256..).zip(split(&bundle, 256).unwrap()) {
        let leaf = record_hash(entry);
        assert_eq!(leaf.0, leaves[index as usize]);
        assert_eq!(reader.read_hashes(&[stored_hash_index(0, index)]).unwrap()[0].0, leaf.0);
        let proof = prove_record(512, index, &reader).unwrap();
        check_record(&proof, 512, *checkpoint.hash(), index, Hash(leaf.0)).unwrap();
    }
}

#[test]
fn a_log_of_a_hundred_thousand_entries_opens_and_proves() {
    let place = Place::new();
    let log = AuditLog::create(&place.path, place.keys.log(), LOG).unwrap();
    let mut head = log.head();
    for index in 0..100_000 {
        drop(log.record(&text(index)).unwrap());
        if index == 65_535 || index == 70_000 {
            log.wait_durable(index).unwrap();
            head = log.head();
        }
    }
    log.close().unwrap();
    let log = place.reopen();
    assert!(log.contains(&head).unwrap());
    assert_eq!(log.tail(1).unwrap(), [(99_999, text(99_999))]);
    for index in [0, 255, 256, 65_535, 65_536, 99_840, 99_999] {
        let sealed = log.prove(index).unwrap();
        assert_eq!(sealed.head.size, 100_000);
    }
    assert_eq!(place.verify().size, 100_000);
    assert!(place.path.join("tile/1/000").exists() && place.path.join("tile/2/000.p/1").exists());
}
