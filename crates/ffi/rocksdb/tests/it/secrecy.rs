//! Nothing of keys and values is in the files, the folder's names or the messages.

use std::fs;
use std::path::Path;

use base64ct::{Base64, Encoding};

use crate::{KEY, open, small};

const CANARIES: [&[u8]; 2] = [b"canary key: Reykjavik in winter", b"canary value: the dog is called Bjartur"];

/// As bytes, in hexadecimal both ways, and in base64 wherever it begins.
fn shapes(canary: &[u8]) -> Vec<Vec<u8>> {
    let lower: String = canary.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut shapes = vec![canary.to_vec(), lower.to_uppercase().into_bytes(), lower.into_bytes()];
    for skip in 0..3 {
        let whole = (canary.len() - skip) / 3 * 3;
        shapes.push(Base64::encode_string(&canary[skip..skip + whole]).into_bytes());
    }
    shapes
}

fn found(folder: &Path) -> usize {
    let mut found = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let mut bytes = fs::read(entry.path()).unwrap();
        bytes.extend(entry.file_name().as_encoded_bytes());
        for shape in CANARIES.iter().chain([&KEY.as_slice()]).flat_map(|canary| shapes(canary)) {
            found += usize::from(bytes.windows(shape.len()).any(|window| window == shape));
        }
    }
    found
}

#[test]
fn no_file_holds_a_key_or_a_value() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let memory = open(&path).unwrap();
    for round in 0..3 {
        let key = [CANARIES[0], &[round]].concat();
        memory.put(&key, CANARIES[1], None).unwrap();
        assert_eq!(found(&path), 0);
        memory.compact(0).unwrap();
        assert_eq!(found(&path), 0);
    }
    drop(memory);
    let memory = open(&path).unwrap();
    assert_eq!(found(&path), 0);
    assert!(memory.get(&[CANARIES[0], &[1]].concat(), 0).unwrap().is_some());
    drop(memory);
    // The search finds what is there: the same by RocksDB itself.
    let plain = folder.path().join("plain");
    let db = rocksdb::DB::open_default(&plain).unwrap();
    db.put(CANARIES[0], CANARIES[1]).unwrap();
    drop(db);
    assert!(found(&plain) >= 2);
    for shape in shapes(CANARIES[1]) {
        fs::write(path.join("control"), [b"xx", shape.as_slice(), b"yy"].concat()).unwrap();
        assert_eq!(found(&path), 1);
    }
}

#[test]
fn only_sealed_files_are_in_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = small(folder.path());
    let _memory = open(&path).unwrap();
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap();
        let bytes = fs::read(entry.path()).unwrap();
        match entry.file_name().to_str().unwrap() {
            "LOCK" => assert!(bytes.is_empty()),
            "memory.aico" => assert!(bytes.starts_with(b"aicomst\x01")),
            // Made, and not yet written to.
            name if name.ends_with(".log") && bytes.is_empty() => {}
            name => assert!(bytes.starts_with(b"aicomem\x01"), "{name}"),
        }
        let mode = std::os::unix::fs::PermissionsExt::mode(&entry.metadata().unwrap().permissions());
        assert!(mode & 0o077 == 0 || bytes.is_empty(), "{:?} {mode:o}", entry.file_name());
    }
}
