//! A store against crashes, full disks and whoever can write its files.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod attacks;
mod crash;
mod everyday;
mod full;
mod secrecy;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use aico_ffi_rocksdb::{Entry, Error, Limits, Memory};

const KEY: [u8; 32] = [7; 32];

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn open(folder: &Path) -> Result<Memory, Error> {
    Memory::open(folder, &KEY, &Limits::default())
}

fn content(memory: &Memory) -> Result<Content, Error> {
    let mut all = Content::new();
    memory.for_each(0, |entry| {
        all.insert(entry.key, entry.value);
        Ok::<_, Error>(())
    })?;
    Ok(all)
}

/// The names of the files in `folder` that hold bytes.
fn files(folder: &Path) -> Vec<String> {
    let all = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let held = all.filter(|entry| entry.metadata().unwrap().len() > 0);
    let mut names: Vec<String> = held.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn named(folder: &Path, suffix: &str) -> Vec<String> {
    files(folder).into_iter().filter(|name| name.ends_with(suffix)).collect()
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to).unwrap();
    for name in files(from) {
        fs::copy(from.join(&name), to.join(&name)).unwrap();
    }
}

/// A closed store with two tables, and a log of writes that are in no table yet.
fn small(folder: &Path) -> (PathBuf, Content) {
    let path = folder.join("small");
    for (round, value) in ["first", "second", "third"].iter().enumerate() {
        // What a log holds becomes a table when it is opened again.
        let memory = open(&path).unwrap();
        for number in 0..4 {
            memory
                .put(format!("key {round} {number}").as_bytes(), format!("{value} {number}").as_bytes(), None)
                .unwrap();
        }
        memory.put(b"shared", value.as_bytes(), None).unwrap();
    }
    let memory = open(&path).unwrap();
    let all = content(&memory).unwrap();
    drop(memory);
    assert_eq!(all.len(), 13);
    let memory = open(&path).unwrap();
    let entry = |n: u8| Entry { key: vec![b'l', n], value: vec![n; 40], expires_ms: None };
    memory.put_all(&[entry(1), entry(2)]).unwrap();
    memory.put(b"last", b"acknowledged", None).unwrap();
    memory.remove(b"key 0 0").unwrap();
    let all = content(&memory).unwrap();
    assert_eq!(all.len(), 15);
    (path, all)
}
