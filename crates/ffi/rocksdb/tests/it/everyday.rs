//! What the store is for.

use aico_ffi_rocksdb::{Entry, Error, Limits, MAX_KEY_BYTES, MAX_VALUE_BYTES, Memory};
use proptest::prelude::*;
use std::collections::BTreeMap;

use crate::{KEY, content, open};

#[test]
fn what_is_put_is_there_until_it_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let memory = open(folder.path()).unwrap();
    memory.put(b"a", b"1", None).unwrap();
    memory.put(b"b", b"", None).unwrap();
    assert_eq!(memory.get(b"a", 0).unwrap().as_deref(), Some(b"1".as_slice()));
    assert_eq!(memory.get(b"b", u64::MAX - 1).unwrap().as_deref(), Some(b"".as_slice()));
    memory.remove(b"a").unwrap();
    assert_eq!(memory.get(b"a", 0).unwrap(), None);
    drop(memory);
    let memory = open(folder.path()).unwrap();
    assert_eq!(memory.get(b"a", 0).unwrap(), None);
    assert_eq!(memory.get(b"b", 0).unwrap().as_deref(), Some(b"".as_slice()));
    memory.verify().unwrap();
}

#[test]
fn what_has_expired_is_gone_at_once_and_from_the_files_later() {
    let folder = tempfile::tempdir().unwrap();
    let memory = open(folder.path()).unwrap();
    let value = vec![9; 100_000];
    for number in 0..50_u8 {
        memory.put(&[number], &value, Some(1000)).unwrap();
    }
    memory.put(b"kept", b"yes", Some(2000)).unwrap();
    assert!(memory.get(&[3], 999).unwrap().is_some());
    assert!(memory.get(&[3], 1000).unwrap().is_none());
    assert_eq!(memory.list(&[], None, 100, 999).unwrap().len(), 51);
    assert_eq!(memory.list(&[], None, 100, 1000).unwrap().len(), 1);
    memory.compact(999).unwrap();
    assert!(bytes(folder.path()) > 5_000_000);
    // A table that nobody has looked at for long is rewritten as well.
    memory.compact(1000).unwrap();
    assert!(bytes(folder.path()) < 200_000, "{}", bytes(folder.path()));
    assert_eq!(content(&memory).unwrap().len(), 1);
    memory.verify().unwrap();
}

fn bytes(folder: &std::path::Path) -> u64 {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum()
}

#[test]
fn a_list_goes_on_where_the_last_one_ended() {
    let folder = tempfile::tempdir().unwrap();
    let memory = open(folder.path()).unwrap();
    for key in ["a/1", "a/2", "a/3", "b/1"] {
        memory.put(key.as_bytes(), b"", None).unwrap();
    }
    let list = |prefix: &str, after: Option<&str>, limit| -> Vec<String> {
        let entries = memory.list(prefix.as_bytes(), after.map(str::as_bytes), limit, 0).unwrap();
        entries.into_iter().map(|entry| String::from_utf8(entry.key).unwrap()).collect()
    };
    assert_eq!(list("a/", None, 2), ["a/1", "a/2"]);
    assert_eq!(list("a/", Some("a/2"), 2), ["a/3"]);
    assert_eq!(list("a/", Some("a/3"), 2), [""; 0]);
    assert_eq!(list("", Some("a/25"), 9), ["a/3", "b/1"]);
    assert_eq!(list("b", Some("a/1"), 9), ["b/1"]);
    assert_eq!(list("a", Some("b"), 9), [""; 0]);
    assert_eq!(list("a/", None, 0), [""; 0]);
}

#[test]
fn too_long_is_refused_and_nothing_of_it_kept() {
    let folder = tempfile::tempdir().unwrap();
    let memory = open(folder.path()).unwrap();
    let long = vec![1; MAX_VALUE_BYTES + 1];
    assert!(matches!(memory.put(b"k", &long, None), Err(Error::TooLong)));
    assert!(matches!(memory.put(&long[..=MAX_KEY_BYTES], b"", None), Err(Error::TooLong)));
    let half = Entry { key: b"h".to_vec(), value: long[..MAX_VALUE_BYTES / 2].to_vec(), expires_ms: None };
    assert!(matches!(memory.put_all(&[half.clone(), half.clone(), half]), Err(Error::TooLong)));
    assert!(content(&memory).unwrap().is_empty());
    memory.put(&long[..MAX_KEY_BYTES], &long[..MAX_VALUE_BYTES], None).unwrap();
    drop(memory);
    let memory = open(folder.path()).unwrap();
    assert_eq!(memory.get(&long[..MAX_KEY_BYTES], 0).unwrap().unwrap(), long[..MAX_VALUE_BYTES]);
}

#[test]
fn a_second_one_in_the_same_folder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let memory = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(Error::Io(_))));
    memory.put(b"a", b"1", None).unwrap();
}

#[test]
fn a_copy_under_another_key_is_made_while_others_write() {
    let from = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    let old = open(from.path()).unwrap();
    let new = Memory::open(to.path(), &[8; 32], &Limits::default()).unwrap();
    for number in 0..100_u8 {
        old.put(&[number], &[number; 10], Some(u64::from(number))).unwrap();
    }
    old.for_each(50, |entry| {
        // Not seen: the copy is of the moment when it began.
        old.put(b"later", b"", None)?;
        new.put_all(&[entry])
    })
    .unwrap();
    drop(new);
    let new = Memory::open(to.path(), &[8; 32], &Limits::default()).unwrap();
    assert_eq!(content(&new).unwrap().len(), 49);
    assert!(new.get(&[60], 60).unwrap().is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, Vec<u8>, Option<u64>),
    Remove(u8),
    Get(u8),
    List(u8, usize),
    /// Time goes on.
    Wait(u64),
    Compact,
    Reopen,
    Verify,
}

fn step() -> impl Strategy<Value = Step> {
    let value = || (any::<u8>(), prop_oneof![0..100_usize, 60_000..70_000_usize]).prop_map(|(byte, n)| vec![byte; n]);
    prop_oneof![
        8 => (0..20_u8, value(), proptest::option::of(0..100_u64)).prop_map(|(k, v, e)| Step::Put(k, v, e)),
        3 => (0..20_u8).prop_map(Step::Remove),
        4 => (0..20_u8).prop_map(Step::Get),
        2 => (0..20_u8, 0..10_usize).prop_map(|(after, limit)| Step::List(after, limit)),
        2 => (0..10_u64).prop_map(Step::Wait),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
        1 => Just(Step::Verify),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn it_is_a_map_whose_entries_expire(steps in proptest::collection::vec(step(), 1..60)) {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { write_buffer_bytes: 128 << 10, ..Limits::default() };
        let again = || Memory::open(folder.path(), &KEY, &limits);
        let mut memory = Some(again().unwrap());
        let mut model: BTreeMap<u8, (Vec<u8>, Option<u64>)> = BTreeMap::new();
        let mut now = 0;
        for step in steps {
            let store = memory.as_ref().unwrap();
            let live = |key: &u8| model.get(key).filter(|(_, e)| e.is_none_or(|e| e > now)).map(|(v, _)| v.clone());
            match step {
                Step::Put(key, value, expires) => {
                    store.put(&[key], &value, expires).unwrap();
                    model.insert(key, (value, expires));
                }
                Step::Remove(key) => {
                    store.remove(&[key]).unwrap();
                    model.remove(&key);
                }
                Step::Get(key) => prop_assert_eq!(store.get(&[key], now).unwrap(), live(&key)),
                Step::List(after, limit) => {
                    let wanted = model.keys().filter(|k| **k > after).filter_map(|k| Some((vec![*k], live(k)?)));
                    let wanted: Vec<_> = wanted.take(limit).collect();
                    let got = store.list(&[], Some(&[after]), limit, now).unwrap();
                    prop_assert_eq!(got.into_iter().map(|e| (e.key, e.value)).collect::<Vec<_>>(), wanted);
                }
                Step::Wait(time) => now += time,
                Step::Compact => store.compact(now).unwrap(),
                Step::Reopen => {
                    drop(memory.take());
                    memory = Some(again().unwrap());
                }
                Step::Verify => store.verify().unwrap(),
            }
        }
        let store = memory.as_ref().unwrap();
        for key in 0..20_u8 {
            let wanted = model.get(&key).filter(|(_, e)| e.is_none_or(|e| e > now)).map(|(v, _)| v.clone());
            prop_assert_eq!(store.get(&[key], now).unwrap(), wanted);
        }
    }
}
