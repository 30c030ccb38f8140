//! Somebody who can write the files, and has no key.

use std::fs;
use std::path::Path;

use aico_ffi_rocksdb::{Error, Limits, Memory};

use crate::{Content, KEY, content, copy, files, named, open, small};

/// Opens the store and reads all of it, in every way there is.
fn all_of(folder: &Path, keys: &Content) -> Result<Content, Error> {
    let memory = open(folder)?;
    let all = content(&memory)?;
    for key in keys.keys() {
        assert_eq!(memory.get(key, 0)?.as_ref(), all.get(key));
    }
    memory.verify()?;
    Ok(all)
}

#[derive(Default, Debug)]
struct Seen {
    refused: usize,
    unharmed: usize,
}

/// Whether what the store shows is exactly right, or an error that names a file.
fn judge(seen: &mut Seen, result: Result<Content, Error>, right: &Content, what: &str) {
    match result {
        Ok(all) => {
            assert!(all == *right, "{what}: wrong data");
            seen.unharmed += 1;
        }
        Err(Error::Damaged { .. } | Error::WrongKey) => seen.refused += 1,
        Err(error) => panic!("{what}: {error:?}"),
    }
}

#[test]
fn no_byte_of_any_file_can_be_changed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, right) = small(folder.path());
    let victim = folder.path().join("victim");
    let mut unread = Vec::new();
    copy(&path, &victim);
    assert_eq!(all_of(&victim, &right).unwrap(), right);
    for name in files(&path) {
        let bytes = fs::read(path.join(&name)).unwrap();
        let mut seen = Seen::default();
        for at in (0..bytes.len()).step_by(if name.starts_with("OPTIONS-") { 97 } else { 1 }) {
            copy(&path, &victim);
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            fs::write(victim.join(&name), &changed).unwrap();
            judge(&mut seen, all_of(&victim, &right), &right, &format!("{name}, byte {at}"));
        }
        println!("{name}: {} bytes, {seen:?}", bytes.len());
        if seen.unharmed > 0 {
            unread.push(name);
        }
    }
    // Never read: RocksDB writes its options for people, and a new identity if it does not like the old one.
    assert!(unread.iter().all(|name| name.starts_with("OPTIONS-") || name == "IDENTITY"), "{unread:?}");
}

#[test]
fn a_check_of_every_byte_names_the_damaged_file() {
    let folder = tempfile::tempdir().unwrap();
    let (path, _) = small(folder.path());
    let memory = open(&path).unwrap();
    memory.verify().unwrap();
    for name in files(&path) {
        let bytes = fs::read(path.join(&name)).unwrap();
        for at in [0, bytes.len() / 2, bytes.len() - 1] {
            let mut changed = bytes.clone();
            changed[at] ^= 4;
            fs::write(path.join(&name), &changed).unwrap();
            match memory.verify() {
                Err(Error::Damaged { file }) => assert_eq!(file, name),
                // One byte of the tag in the header cannot be told from another key, but for the check beside it.
                other => panic!("{name}, byte {at}: {other:?}"),
            }
        }
        fs::write(path.join(&name), &bytes).unwrap();
        memory.verify().unwrap();
    }
}

#[test]
fn a_file_that_is_cut_is_refused_or_was_cut_by_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let (path, right) = small(folder.path());
    let victim = folder.path().join("victim");
    for name in files(&path) {
        let bytes = fs::read(path.join(&name)).unwrap();
        let log = name.ends_with(".log");
        let mut seen = Seen::default();
        let mut cut_off = 0;
        for length in (0..bytes.len()).step_by(if name.starts_with("OPTIONS-") { 97 } else { 1 }) {
            copy(&path, &victim);
            fs::write(victim.join(&name), &bytes[..length]).unwrap();
            let result = all_of(&victim, &right);
            let what = format!("{name}, cut to {length} of {}", bytes.len());
            match result {
                // The end of the log is what a crash takes; what is before it stays.
                Ok(all) if log && all != right => {
                    assert!(all.contains_key(b"shared".as_slice()), "{what}");
                    cut_off += 1;
                }
                // The same for the list of tables, as long as what it still lists is all there.
                Ok(all) if name.starts_with("MANIFEST-") && all != right => panic!("{what}: {} keys", all.len()),
                result => judge(&mut seen, result, &right, &what),
            }
        }
        println!("{name}: {} bytes, {seen:?}, {cut_off} like a crash", bytes.len());
    }
}

#[test]
fn a_file_that_is_gone_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let (path, right) = small(folder.path());
    let victim = folder.path().join("victim");
    for name in files(&path) {
        copy(&path, &victim);
        fs::remove_file(victim.join(&name)).unwrap();
        let mut seen = Seen::default();
        judge(&mut seen, all_of(&victim, &right), &right, &name);
        assert_eq!(seen.unharmed == 1, name.starts_with("OPTIONS-") || name == "IDENTITY", "{name}");
    }
}

#[test]
fn files_and_their_parts_cannot_change_places() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let limits = Limits { write_buffer_bytes: 64 << 10, ..Limits::default() };
    let memory = Memory::open(&path, &KEY, &limits).unwrap();
    for number in 0..300_u32 {
        memory.put(&number.to_be_bytes(), &[number as u8; 1000], None).unwrap();
    }
    let right = content(&memory).unwrap();
    drop(memory);
    drop(open(&path).unwrap());
    let tables = named(&path, ".sst");
    let [first, second, ..] = tables.as_slice() else { panic!("{tables:?}") };
    let victim = folder.path().join("victim");
    let refused = |what: &str| {
        let mut seen = Seen::default();
        judge(&mut seen, all_of(&victim, &right), &right, what);
        assert_eq!(seen.refused, 1, "{what}");
    };

    copy(&path, &victim);
    fs::copy(path.join(first), victim.join(second)).unwrap();
    fs::copy(path.join(second), victim.join(first)).unwrap();
    refused("two tables");

    let bytes = fs::read(path.join(first)).unwrap();
    let (header, block) = (40, 4096 + 16);
    let part = |number: usize| header + number * block..header + (number + 1) * block;
    copy(&path, &victim);
    let mut changed = bytes.clone();
    changed[part(0)].copy_from_slice(&bytes[part(1)]);
    changed[part(1)].copy_from_slice(&bytes[part(0)]);
    fs::write(victim.join(first), &changed).unwrap();
    refused("two blocks");

    copy(&path, &victim);
    fs::write(victim.join(first), [&bytes[..part(1).start], &bytes[part(2).start..]].concat()).unwrap();
    refused("a block less");

    copy(&path, &victim);
    fs::copy(path.join("CURRENT"), victim.join("IDENTITY")).unwrap();
    fs::copy(path.join("IDENTITY"), victim.join("CURRENT")).unwrap();
    refused("CURRENT and IDENTITY");
}

#[test]
fn frames_of_a_log_cannot_change_places_or_be_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let memory = open(&path).unwrap();
    // A first one for RocksDB's own records at the beginning, then frames of one length.
    let put = |n: u8| {
        memory.put(&[n], &[n; 50], None).unwrap();
        fs::metadata(path.join(&named(&path, ".log")[0])).unwrap().len() as usize
    };
    let ends: Vec<usize> = (0..6).map(put).collect();
    let right = content(&memory).unwrap();
    drop(memory);
    let log = named(&path, ".log")[0].clone();
    let bytes = fs::read(path.join(&log)).unwrap();
    let frame = |n: usize| &bytes[ends[n - 1]..ends[n]];
    assert_eq!(frame(2).len(), frame(3).len());
    let swapped = [&bytes[..ends[1]], frame(3), frame(2), &bytes[ends[3]..]].concat();
    let less = [&bytes[..ends[1]], &bytes[ends[2]..]].concat();
    let twice = [&bytes[..ends[2]], &bytes[ends[1]..]].concat();
    let more = [bytes.as_slice(), frame(5)].concat();
    let zeros = [&bytes[..ends[1]], &vec![0; ends[2] - ends[1]], &bytes[ends[2]..]].concat();
    for (what, changed) in [("swapped", swapped), ("less", less), ("twice", twice), ("more", more), ("zeros", zeros)] {
        let victim = folder.path().join(what);
        copy(&path, &victim);
        fs::write(victim.join(&log), changed).unwrap();
        let mut seen = Seen::default();
        judge(&mut seen, all_of(&victim, &right), &right, what);
        assert_eq!(seen.refused, 1, "{what}");
    }
    // Room that was made and never written to, after a loss of power.
    let victim = folder.path().join("room");
    copy(&path, &victim);
    fs::write(victim.join(&log), [bytes.as_slice(), &[0; 5000]].concat()).unwrap();
    assert!(content(&open(&victim).unwrap()).unwrap() == right);
}

#[test]
fn a_log_of_another_store_with_the_same_key_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let [mine, others] = ["mine", "others"].map(|name| folder.path().join(name));
    for (path, value) in [(&mine, b"mine"), (&others, b"else")] {
        open(path).unwrap().put(b"a", value, None).unwrap();
    }
    let log = named(&mine, ".log")[0].clone();
    assert_eq!(named(&others, ".log"), named(&mine, ".log"));
    fs::copy(others.join(&log), mine.join(&log)).unwrap();
    assert!(matches!(open(&mine).err(), Some(Error::Damaged { file }) if file == log));
    // Nor is anything removed or written after that.
    assert_eq!(named(&mine, ".log"), [log]);
}

#[test]
fn a_wrong_key_is_a_wrong_key_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (path, right) = small(folder.path());
    for bit in [0, 255] {
        let mut key = KEY;
        key[bit / 8] ^= 1 << (bit % 8);
        assert!(matches!(Memory::open(&path, &key, &Limits::default()).err(), Some(Error::WrongKey)));
    }
    assert_eq!(content(&open(&path).unwrap()).unwrap(), right);
}

#[test]
fn a_damaged_store_writes_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store");
    let memory = open(&path).unwrap();
    memory.put(b"a", &[1; 20_000], None).unwrap();
    memory.compact(0).unwrap();
    drop(memory);
    let table = named(&path, ".sst")[0].clone();
    let mut bytes = fs::read(path.join(&table)).unwrap();
    bytes[5000] ^= 1;
    fs::write(path.join(&table), &bytes).unwrap();
    let memory = open(&path).unwrap();
    assert!(matches!(memory.get(b"a", 0), Err(Error::Damaged { file }) if file == table));
    for result in [memory.put(b"b", b"", None), memory.compact(0), memory.verify()] {
        assert!(matches!(result, Err(Error::Damaged { file }) if file == table));
    }
}
