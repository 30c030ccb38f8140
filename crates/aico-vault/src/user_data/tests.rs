use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use aico_crypto::{SpaceKey, digest};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::store::Step;

const MIB: usize = 1024 * 1024;

struct Fixture {
    folder: TempFolder,
    space: SpaceKey,
}

enum TempFolder {
    Owned(TempDir),
    Borrowed(PathBuf),
}

impl TempFolder {
    fn path(&self) -> &Path {
        match self {
            Self::Owned(folder) => folder.path(),
            Self::Borrowed(folder) => folder,
        }
    }
}

impl Fixture {
    fn new() -> (Self, UserData) {
        let fixture = Self { folder: TempFolder::Owned(tempfile::tempdir().unwrap()), space: space() };
        let database = Database::create(&fixture.path(), fixture.space.store_key(), TEST_TABLES).unwrap();
        let data = fixture.user_data(database);
        (fixture, data)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("space.db")
    }

    fn open(&self) -> UserData {
        let database = Database::open(&self.path(), self.space.store_key(), TEST_TABLES).unwrap();
        self.user_data(database)
    }

    fn user_data(&self, database: Database) -> UserData {
        for_tests(database, self.folder.path().join("files"), &self.space).unwrap()
    }

    /// Every chunked file, finished or not.
    fn files(&self) -> Vec<PathBuf> {
        let list = |folder: PathBuf| fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        list(self.folder.path().join("files")).flat_map(list).collect()
    }
}

fn path(text: &str) -> DataPath {
    DataPath::parse(text).unwrap()
}

fn content(bytes: usize, seed: u8) -> Vec<u8> {
    (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8 ^ seed).collect()
}

fn begin(data: &UserData, name: &str, value: &[u8]) -> ValueWriter {
    let mut writer = data.begin_put(&path(name), 7);
    value.chunks(100_000).for_each(|piece| writer.write(piece).unwrap());
    writer
}

fn put(data: &UserData, name: &str, value: &[u8]) -> Stored {
    begin(data, name, value).finish().unwrap()
}

fn rest(mut reader: ValueReader) -> Result<Vec<u8>, Error> {
    let (mut all, mut piece) = (Vec::new(), Vec::new());
    while reader.next_chunk(&mut piece)? {
        assert!(piece.len() <= MIB);
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

fn get(data: &UserData, name: &str) -> Result<Vec<u8>, Error> {
    rest(data.get(&path(name))?)
}

#[test]
fn every_length_comes_back_and_lies_where_it_should() {
    let (fixture, data) = Fixture::new();
    for bytes in [0, 1, 65_535, 65_536, MIB - 1, MIB, MIB + 1, 17 * 65_536, 3 * MIB + 5] {
        let value = content(bytes, 0);
        let stored = put(&data, "a/b", &value);
        assert_eq!((stored.bytes, stored.sum), (bytes as u64, digest(&value)));
        let reader = data.get(&path("a/b")).unwrap();
        assert_eq!((reader.bytes(), *reader.sum()), (bytes as u64, digest(&value)));
        assert!(rest(reader).unwrap() == value, "{bytes}");
        assert_eq!(fixture.files().len(), usize::from(bytes > MIB), "{bytes}");
    }
    drop(data);
    assert!(get(&fixture.open(), "a/b").unwrap() == content(3 * MIB + 5, 0));
}

#[test]
fn a_value_is_replaced_whatever_its_size() {
    let (fixture, data) = Fixture::new();
    for (round, bytes) in [10, 2 * MIB, 3 * MIB, 10, 0, 2 * MIB].into_iter().enumerate() {
        let value = content(bytes, round as u8);
        assert_eq!(put(&data, "a/b", &value).replaced, round > 0);
        assert!(get(&data, "a/b").unwrap() == value);
        assert_eq!(fixture.files().len(), usize::from(bytes > MIB));
        assert_eq!((data.count().unwrap(), data.total_bytes().unwrap()), (1, bytes as u64));
    }
}

#[test]
fn an_interrupted_put_leaves_nothing() {
    let (fixture, data) = Fixture::new();
    for bytes in [10, 5 * MIB] {
        drop(begin(&data, "a/b", &content(bytes, 0)));
        assert!(matches!(get(&data, "a/b"), Err(Error::NotFound)));
        assert!(fixture.files().is_empty());
    }
}

#[test]
fn what_is_removed_is_gone() {
    let (fixture, data) = Fixture::new();
    for bytes in [10, 2 * MIB] {
        put(&data, "a/b", &content(bytes, 0));
        data.remove(&path("a/b")).unwrap();
        assert!(matches!(get(&data, "a/b"), Err(Error::NotFound)));
        assert!(matches!(data.remove(&path("a/b")), Err(Error::NotFound)));
        assert!(fixture.files().is_empty());
    }
    let left: i64 =
        data.database.read(|db| Ok(db.query_row("SELECT count(*) FROM inline_value", (), |r| r.get(0))?)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn the_callers_part_happens_with_the_value_or_not_at_all() {
    let (fixture, data) = Fixture::new();
    data.database.write(|tx| Ok(tx.execute_batch("CREATE TABLE head (size INTEGER)")?)).unwrap();
    let heads = || data.database.read(|db| Ok(db.query_row("SELECT count(*) FROM head", (), |r| r.get::<_, i64>(0))?));
    let good = |tx: &Transaction<'_>| Ok(tx.execute_batch("INSERT INTO head VALUES (1)")?);
    let bad = |tx: &Transaction<'_>| good(tx).and(Err(Error::Misuse("no")));
    for bytes in [10, 2 * MIB] {
        let before = heads().unwrap();
        assert!(begin(&data, "a/b", &content(bytes, 0)).finish_with(bad).is_err());
        assert!(matches!(get(&data, "a/b"), Err(Error::NotFound)));
        assert!(fixture.files().is_empty());
        begin(&data, "a/b", &content(bytes, 0)).finish_with(good).unwrap();
        assert!(data.remove_with(&path("a/b"), bad).is_err());
        assert!(get(&data, "a/b").unwrap() == content(bytes, 0));
        assert_eq!(heads().unwrap(), before + 1);
        data.remove_with(&path("a/b"), good).unwrap();
        assert!(data.remove_with(&path("a/b"), good).is_err());
        assert_eq!(heads().unwrap(), before + 2);
    }
}

/// "it goes on reading the value it began with when that is replaced or removed"
#[test]
fn a_reader_keeps_its_value() {
    let (_fixture, data) = Fixture::new();
    for bytes in [100_000, 4 * MIB] {
        let old = content(bytes, 1);
        put(&data, "a/b", &old);
        let (mut first, second) = (data.get(&path("a/b")).unwrap(), data.get(&path("a/b")).unwrap());
        let mut piece = Vec::new();
        assert!(first.next_chunk(&mut piece).unwrap());
        put(&data, "a/b", b"new");
        assert!([piece, rest(first).unwrap()].concat() == old);
        data.remove(&path("a/b")).unwrap();
        assert!(rest(second).unwrap() == old);
    }
}

#[test]
fn writers_and_readers_of_one_path_never_see_half() {
    let (fixture, data) = Fixture::new();
    let sizes = [100, 2 * MIB, 70_000, 3 * MIB];
    put(&data, "a/b", &content(sizes[0], 0));
    std::thread::scope(|scope| {
        for (seed, bytes) in (0u8..).zip(sizes) {
            let data = &data;
            scope.spawn(move || (0..10).all(|_| put(data, "a/b", &content(bytes, seed)).replaced));
            scope.spawn(move || {
                for _ in 0..30 {
                    let value = get(data, "a/b").unwrap();
                    let seed = sizes.iter().position(|bytes| *bytes == value.len()).unwrap();
                    assert!(value == content(value.len(), seed as u8));
                }
            });
        }
    });
    assert!(fixture.files().len() <= 1);
}

/// A reader that has seen a row may find its file replaced: it looks again, and does not call that damage.
#[test]
fn a_file_replaced_between_row_and_file_is_no_damage() {
    let (_fixture, data) = Fixture::new();
    put(&data, "a/b", &content(MIB + 1, 0));
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| (0..100).all(|_| put(&data, "a/b", &content(MIB + 1, 0)).replaced));
        while !writer.is_finished() {
            data.get(&path("a/b")).unwrap();
        }
    });
}

#[test]
fn a_missing_or_swapped_file_is_damage() {
    let (fixture, data) = Fixture::new();
    put(&data, "a/one", &content(2 * MIB, 1));
    let one = fixture.files().remove(0);
    put(&data, "a/two", &content(2 * MIB, 2));
    let two = fixture.files().into_iter().find(|path| *path != one).unwrap();
    fs::copy(&two, &one).unwrap();
    assert!(matches!(get(&data, "a/one"), Err(Error::Damaged { .. })));
    assert!(get(&data, "a/two").unwrap() == content(2 * MIB, 2));
    fs::remove_file(&one).unwrap();
    drop(data);
    let data = fixture.open();
    assert!(matches!(get(&data, "a/one"), Err(Error::Damaged { .. })));
    assert_eq!(data.count().unwrap(), 2, "it is reported, not hidden");
    put(&data, "a/one", b"again");
    assert_eq!(get(&data, "a/one").unwrap(), b"again");
}

/// The length of every value, and the sum of those in the database: a chunked file has its own authentication.
#[test]
fn a_wrong_sum_or_length_is_damage() {
    let (_fixture, data) = Fixture::new();
    for bytes in [0, 10, 2 * MIB] {
        put(&data, "a/b", &content(bytes, 0));
        data.database.write(|tx| Ok(tx.execute("UPDATE value SET sum = zeroblob(32)", ())?)).unwrap();
        let (mut reader, mut piece) = (data.get(&path("a/b")).unwrap(), Vec::new());
        let mut given = 0;
        if bytes > MIB {
            data.database.write(|tx| Ok(tx.execute("UPDATE value SET bytes = bytes - 65536", ())?)).unwrap();
            assert!(matches!(get(&data, "a/b"), Err(Error::Damaged { .. })), "one chunk less");
            continue;
        }
        let error = loop {
            match reader.next_chunk(&mut piece) {
                Ok(more) => assert!(more, "the end came"),
                Err(error) => break error,
            }
            given += piece.len();
        };
        assert!(matches!(error, Error::Damaged { .. }));
        assert!(piece.is_empty() && (given < bytes || bytes == 0));
        assert!(reader.next_chunk(&mut piece).is_err(), "no end after an error");
        put(&data, "a/b", &content(bytes, 0));
        data.database.write(|tx| Ok(tx.execute("UPDATE value SET bytes = bytes + 1", ())?)).unwrap();
        assert!(matches!(get(&data, "a/b"), Err(Error::Damaged { .. })));
    }
    put(&data, "a/b", b"x");
    data.database.write(|tx| Ok(tx.execute("DELETE FROM inline_value", ())?)).unwrap();
    assert!(matches!(get(&data, "a/b"), Err(Error::Damaged { .. })));
}

#[test]
fn a_writer_that_failed_does_not_finish() {
    let (fixture, data) = Fixture::new();
    put(&data, "a/b", b"old");
    let files = fixture.folder.path().join("files");
    fs::remove_dir_all(&files).unwrap();
    let mut writer = begin(&data, "a/b", &content(MIB, 0));
    assert!(writer.write(b"more").is_err());
    assert!(writer.write(b"more").is_err());
    assert!(matches!(writer.finish(), Err(Error::Misuse(_))));
    assert_eq!(get(&data, "a/b").unwrap(), b"old");
    let mut writer = begin(&data, "a/b", b"x");
    writer.bytes = MAX_VALUE_BYTES;
    assert!(matches!(writer.write(b"x"), Err(Error::Misuse(_))));
}

#[test]
fn a_listing_is_in_the_order_of_the_paths_bytes() {
    let (_fixture, data) = Fixture::new();
    let mut paths = ["a/x", "a!/x", "a/x/y", "a/é", "ab/x", "b/%", "b/_", "b/x", "b/X", "á/x", "a/\u{10ffff}"];
    assert_eq!(paths.iter().filter(|name| put(&data, name, name.as_bytes()).replaced).count(), 0);
    paths.sort_unstable();
    let names = |prefix: Option<&str>, after: Option<&str>, limit: usize| {
        let entries = data.list(prefix, after, limit).unwrap();
        assert!(entries.iter().all(|e| e.bytes == e.path.as_str().len() as u64 && e.changed_ms == 7));
        entries.into_iter().map(|entry| entry.path.as_str().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(names(None, None, 100), paths);
    assert_eq!(names(Some("a/"), None, 100), ["a/x", "a/x/y", "a/é", "a/\u{10ffff}"]);
    assert_eq!(names(Some("b/_"), None, 100), ["b/_"], "no pattern");
    assert_eq!(names(Some("a/"), Some("a/x"), 2), ["a/x/y", "a/é"]);
    assert_eq!(names(Some("b"), Some("a/x"), 100), ["b/%", "b/X", "b/_", "b/x"]);
    assert_eq!(names(Some("a"), Some("b/x"), 100), [""; 0]);
    let mut paged: Vec<String> = Vec::new();
    loop {
        let page = names(None, paged.last().map(String::as_str), 3);
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, paths);
}

#[test]
fn a_listing_has_a_limit() {
    let (_fixture, data) = Fixture::new();
    let fill = |tx: &Transaction<'_>| {
        Ok(tx.execute_batch(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1500)
             INSERT INTO value SELECT i, 'a/' || i, 1, x'', 1, 1, NULL, NULL, NULL, 0, 0 FROM n",
        )?)
    };
    data.database.write(fill).unwrap();
    assert_eq!(data.list(None, None, usize::MAX).unwrap().len(), MAX_LIST_ENTRIES);
}

#[test]
fn handles_cross_threads() {
    fn crosses<T: Send + 'static>() {}
    crosses::<(UserData, ValueWriter, ValueReader)>();
    fn shared<T: Sync>() {}
    shared::<(UserData, Database)>();
}

/// "A stop between any two steps leaves the old value or the new one, whole, and perhaps a file that no row refers to."
#[test]
fn a_stop_after_any_step_loses_nothing() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return child(folder.into());
    }
    for step in Step::OF_A_VALUE {
        for new_bytes in [3 * MIB, 500] {
            let (fixture, data) = Fixture::new();
            put(&data, "a/kept", &content(2 * MIB, 1));
            put(&data, "a/b", &content(2 * MIB, 2));
            drop(data);
            let in_file = step < Step::RowsWritten;
            let stopped = stopping_child(&fixture, step, new_bytes);
            assert_eq!(stopped, !in_file || new_bytes > MIB, "the child passes {step:?} with {new_bytes} bytes");
            let data = fixture.open();
            let new = step >= Step::Committed || !stopped;
            let wanted = if new { content(new_bytes, 3) } else { content(2 * MIB, 2) };
            assert!(get(&data, "a/b").unwrap() == wanted, "{step:?}");
            assert!(get(&data, "a/kept").unwrap() == content(2 * MIB, 1));
            assert_eq!(fixture.files().len(), 1 + usize::from(wanted.len() > MIB), "{step:?}");
            data.database.check().unwrap();
        }
    }
}

const FOLDER: &str = "AICO_TEST_FOLDER";
const BYTES: &str = "AICO_TEST_BYTES";

/// Runs the test that calls this in a process of its own, which stores a value and ends after `step`. Returns whether it did.
fn stopping_child(fixture: &Fixture, step: Step, bytes: usize) -> bool {
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "user_data::tests::a_stop_after_any_step_loses_nothing", "--nocapture"])
        .env(FOLDER, fixture.folder.path())
        .env(BYTES, bytes.to_string())
        .env(Step::STOP_AFTER, format!("{step:?}"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(child.status.success() == text.contains(STORED), "{text}");
    !child.status.success()
}

const STORED: &str = "the value is stored";

fn child(folder: PathBuf) {
    let fixture = Fixture { folder: TempFolder::Borrowed(folder), space: space() };
    let bytes = std::env::var(BYTES).unwrap().parse().unwrap();
    let writer = begin(&fixture.open(), "a/b", &content(bytes, 3));
    writer.finish().unwrap();
    println!("{STORED}");
}

/// The same key in a test and in its child.
fn space() -> SpaceKey {
    struct Fixed;
    impl aico_crypto::Random for Fixed {
        fn fill(&self, out: &mut [u8]) -> Result<(), aico_crypto::Error> {
            out.fill(0x5a);
            Ok(())
        }
    }
    SpaceKey::make(&Fixed).unwrap()
}

/// "A value of at most 1,048,576 bytes MUST lie in `inline_value`, a longer one in a chunked file."
#[test]
fn pieces_of_any_size_make_the_same_value() {
    let (fixture, data) = Fixture::new();
    proptest!(ProptestConfig::with_cases(24), |(sizes in prop::collection::vec(0..400_000usize, 0..8))| {
        let value = content(sizes.iter().sum(), 9);
        let mut writer = data.begin_put(&path("a/b"), 7);
        let mut left = &value[..];
        for size in &sizes {
            let (piece, rest) = left.split_at(*size);
            writer.write(piece).unwrap();
            left = rest;
        }
        prop_assert_eq!(writer.finish().unwrap().sum, digest(&value));
        prop_assert!(get(&data, "a/b").unwrap() == value);
        prop_assert_eq!(fixture.files().len(), usize::from(value.len() > MIB));
    });
}
