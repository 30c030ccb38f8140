//! Stores on a real disk: kills, flipped bytes, a full disk, memory, and what can be read without the key.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use aico_crypto::{OsRandom, Random, SpaceKey};
use aico_policy::DataPath;

use super::{TEST_TABLES, UserData, ValueReader, for_tests};
use crate::Error;
use crate::store::Database;
use base64ct::{Base64Unpadded, Encoding};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const MIB: usize = 1024 * 1024;
/// Where a child process of a test works; unset in the test itself.
const CHILD_FOLDER: &str = "AICO_TEST_FOLDER";

/// The same key in a test and in its child.
fn space() -> SpaceKey {
    struct Fixed;
    impl Random for Fixed {
        fn fill(&self, out: &mut [u8]) -> Result<(), aico_crypto::Error> {
            out.fill(0x5a);
            Ok(())
        }
    }
    SpaceKey::make(&Fixed).unwrap()
}

fn create(folder: &Path) -> UserData {
    let database = Database::create(&folder.join("space.db"), space().store_key(), TEST_TABLES).unwrap();
    for_tests(database, folder.join("files"), &space()).unwrap()
}

fn open(folder: &Path) -> Result<UserData, Error> {
    let database = Database::open(&folder.join("space.db"), space().store_key(), TEST_TABLES)?;
    for_tests(database, folder.join("files"), &space())
}

fn content(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16) ^ seed ^ (seed >> 8)) as u8).collect()
}

fn put(data: &UserData, path: &str, value: &[u8]) -> Result<(), Error> {
    let mut writer = data.begin_put(&DataPath::parse(path).unwrap(), 7);
    for piece in value.chunks(256 * 1024) {
        writer.write(piece)?;
    }
    writer.finish().map(drop)
}

fn get(data: &UserData, path: &str) -> Result<Vec<u8>, Error> {
    let mut reader = data.get(&DataPath::parse(path).unwrap())?;
    let (mut all, mut piece) = (Vec::new(), Vec::new());
    while reader.next_chunk(&mut piece)? {
        all.extend_from_slice(&piece);
    }
    Ok(all)
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() { files.extend(files_under(&entry)) } else { files.push(entry) }
    }
    files.sort();
    files
}

/// The named test again, in a process of its own that finds `folder` in [`CHILD_FOLDER`].
fn child(test: &str, folder: &Path) -> Command {
    let mut command = Command::new("sh");
    // Without this a write beyond the limit on file sizes ends the process; ignoring it lasts across `exec`.
    command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD_FOLDER, folder);
    command
}

fn child_folder() -> Option<PathBuf> {
    std::env::var_os(CHILD_FOLDER).map(PathBuf::from)
}

fn passes(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
    assert!(text(&output.stdout).contains("1 passed"), "{}", text(&output.stdout));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

// ---- kills ----

const SIZES: [usize; 4] = [10, 3 * MIB / 2, 300_000, 2 * MIB + 1];
const PATHS: usize = 5;

fn stored_by(turn: usize) -> (String, Vec<u8>) {
    (format!("a/{}", turn % PATHS), content(SIZES[turn % SIZES.len()], turn))
}

#[test]
fn a_killed_process_loses_nothing_that_it_acknowledged() {
    if let Some(folder) = child_folder() {
        return store_until_killed(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    drop(create(folder.path()));
    let mut next = 0;
    for round in 0..8u64 {
        let mut command =
            child("user_data::process_tests::a_killed_process_loses_nothing_that_it_acknowledged", folder.path());
        let mut child = command.env("AICO_TEST_NEXT", next.to_string()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let first = lines.by_ref().find_map(|line| turn_of(&line)).unwrap();
        assert_eq!(first, next);
        std::thread::sleep(Duration::from_micros(4_000 + round * 7_919 % 23_000));
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        let last = lines.filter_map(|line| turn_of(&line)).last().unwrap_or(first);
        next = check_after(folder.path(), last);
    }
}

fn turn_of(line: &str) -> Option<usize> {
    line.split_once("stored ")?.1.parse().ok()
}

fn store_until_killed(folder: &Path) {
    let data = open(folder).unwrap();
    for turn in std::env::var("AICO_TEST_NEXT").unwrap().parse().unwrap().. {
        let (path, value) = stored_by(turn);
        put(&data, &path, &value).unwrap();
        println!("stored {turn}");
    }
}

/// Every path has what was acknowledged last, or what the turn after `last` stores; returns the turn to go on with.
fn check_after(folder: &Path, last: usize) -> usize {
    let data = open(folder).unwrap();
    let mut acknowledged: BTreeMap<_, _> = ((last + 1).saturating_sub(PATHS)..=last).map(stored_by).collect();
    let (path, unacknowledged) = stored_by(last + 1);
    let finished = get(&data, &path).is_ok_and(|found| found == unacknowledged);
    if finished {
        acknowledged.insert(path, unacknowledged);
    }
    for (path, value) in &acknowledged {
        assert!(get(&data, path).unwrap() == *value, "{path} after {last}");
    }
    assert_eq!(data.count().unwrap(), acknowledged.len() as u64);
    let in_files = acknowledged.values().filter(|value| value.len() > MIB).count();
    assert_eq!(files_under(&folder.join("files")).len(), in_files, "nothing is left over");
    last + 1 + usize::from(finished)
}

// ---- flipped bytes ----

/// What `value` may be when the bytes on disk are not what was written.
fn flip_everywhere(
    folder: &Path,
    samples: usize,
    allowed: impl Fn(&Path, &str, Result<Vec<u8>, Error>) -> bool,
) -> usize {
    let mut noticed = 0;
    for file in files_under(folder) {
        let name = file.strip_prefix(folder).unwrap();
        let bytes = fs::metadata(&file).unwrap().len() as usize;
        for at in (0..samples).map(|n| n * bytes / samples + n * 13 % (bytes / samples)) {
            let copy = copy_of(folder);
            let mut content = fs::read(&file).unwrap();
            content[at] ^= 1 << (at % 8);
            fs::write(copy.path().join(name), content).unwrap();
            let Ok(data) = open(copy.path()) else {
                noticed += 1;
                continue;
            };
            for path in ["a/small", "a/middle", "a/large"] {
                let found = get(&data, path);
                noticed += usize::from(matches!(found, Err(Error::Damaged { .. })));
                assert!(allowed(name, path, found), "{path} with byte {at} of {} flipped", name.display());
            }
        }
    }
    noticed
}

fn copy_of(folder: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for file in files_under(folder) {
        let to = copy.path().join(file.strip_prefix(folder).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&file, to).unwrap();
    }
    copy
}

fn versions() -> [BTreeMap<&'static str, Vec<u8>>; 2] {
    [1, 2].map(|seed| {
        [("a/small", 100), ("a/middle", 60_000), ("a/large", MIB + 70_000)]
            .map(|(path, bytes)| (path, content(bytes, seed)))
            .into()
    })
}

#[test]
fn a_flipped_byte_gives_an_error_or_the_value_never_wrong_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let data = create(folder.path());
    let [old, new] = versions();
    old.iter().for_each(|(path, value)| put(&data, path, value).unwrap());
    drop(data);
    let noticed = flip_everywhere(folder.path(), 60, |_, path, found| match found {
        Ok(found) => found == old[path],
        Err(error) => matches!(error, Error::Damaged { .. }),
    });
    assert!(noticed > 60, "{noticed}");

    // The same with a WAL. A flip in it may take the database back to an earlier commit, and to nothing else.
    let data = open(folder.path()).unwrap();
    new.iter().for_each(|(path, value)| put(&data, path, value).unwrap());
    let live = copy_of(folder.path());
    assert!(live.path().join("space.db-wal").exists());
    drop(data);
    flip_everywhere(live.path(), 60, |file, path, found| match found {
        Ok(found) => found == new[path] || (file == Path::new("space.db-wal") && found == old[path]),
        Err(error) => matches!(error, Error::Damaged { .. }),
    });
}

#[test]
fn the_wrong_key_opens_nothing() {
    let folder = tempfile::tempdir().unwrap();
    drop(create(folder.path()));
    let other = SpaceKey::make(&OsRandom).unwrap().store_key();
    let error = Database::open(&folder.path().join("space.db"), other, TEST_TABLES).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }) && error.to_string().contains("key"), "{error}");
    open(folder.path()).unwrap();
}

// ---- a full disk ----

#[test]
fn a_full_disk_is_told_and_costs_nothing() {
    if let Some(folder) = child_folder() {
        return fill_the_disk(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    passes(child("user_data::process_tests::a_full_disk_is_told_and_costs_nothing", folder.path()));
}

fn limit_file_size(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).unwrap();
}

fn fill_the_disk(folder: &Path) {
    let data = create(folder);
    put(&data, "a/small", b"old").unwrap();
    put(&data, "a/large", &content(2 * MIB, 1)).unwrap();
    limit_file_size(Some(3 * MIB as u64));
    let is_full = |result| matches!(result, Err(Error::Full { .. }));
    for path in ["a/small", "a/large", "a/new"] {
        assert!(is_full(put(&data, path, &content(5 * MIB, 2))), "a chunked file");
    }
    assert_eq!(files_under(&folder.join("files")).len(), 1);
    let results: Vec<_> = (0..9).map(|n| put(&data, &format!("a/{n}"), &content(700_000, n))).collect();
    let stored = results.iter().take_while(|result| result.is_ok()).count();
    assert!(stored > 0 && results.into_iter().skip(stored).all(is_full) && stored < 9, "the WAL; {stored} stored");
    let intact = |data: &UserData| {
        assert_eq!(get(data, "a/small").unwrap(), b"old");
        assert!(get(data, "a/large").unwrap() == content(2 * MIB, 1));
        (0..stored).for_each(|n| assert!(get(data, &format!("a/{n}")).unwrap() == content(700_000, n)));
        assert_eq!(data.count().unwrap(), 2 + stored as u64);
    };
    intact(&data);
    limit_file_size(None);
    put(&data, "a/new", &content(5 * MIB, 2)).unwrap();
    data.remove(&DataPath::parse("a/new").unwrap()).unwrap();
    drop(data);
    intact(&open(folder).unwrap());
}

// ---- memory ----

#[test]
fn memory_does_not_grow_with_a_value() {
    if let Some(folder) = child_folder() {
        return stream_and_measure(&folder);
    }
    let folder = tempfile::tempdir().unwrap();
    passes(child("user_data::process_tests::memory_does_not_grow_with_a_value", folder.path()));
}

fn stream_and_measure(folder: &Path) {
    let data = create(folder);
    stream(&data, 3, &mut || {});
    let (before, mut most) = (resident_bytes(), 0);
    stream(&data, 300, &mut || most = most.max(resident_bytes()));
    assert!(most.saturating_sub(before) < 32 * MIB, "grew by {} bytes", most - before);
}

/// Stores a value of `mib` MiB and reads it.
fn stream(data: &UserData, mib: usize, measure: &mut dyn FnMut()) {
    let path = DataPath::parse("a/stream").unwrap();
    let piece = content(MIB, mib);
    let mut writer = data.begin_put(&path, 7);
    for _ in 0..mib {
        writer.write(&piece).unwrap();
        measure();
    }
    writer.finish().unwrap();
    let mut reader: ValueReader = data.get(&path).unwrap();
    let (mut bytes, mut out) = (0, Vec::new());
    while reader.next_chunk(&mut out).unwrap() {
        bytes += out.len();
        measure();
    }
    assert_eq!(bytes, mib * MIB);
}

fn resident_bytes() -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB")).unwrap();
    kib.trim().parse::<usize>().unwrap() * 1024
}

// ---- without the key ----

const CANARY: &[u8] = b"the canary sings at dawn";
const NAME: &[u8] = b"canary-in-a-file-name";

/// The ways in which plaintext could show.
fn shapes(canary: &[u8]) -> Vec<Vec<u8>> {
    let hex = |upper: bool| -> Vec<u8> {
        let digits = canary.iter().map(|byte| if upper { format!("{byte:02X}") } else { format!("{byte:02x}") });
        digits.collect::<String>().into_bytes()
    };
    let utf16 = canary.iter().flat_map(|byte| [*byte, 0]).collect();
    let mut shapes = vec![canary.to_vec(), hex(false), hex(true), utf16];
    for before in 0..3 {
        let text = Base64Unpadded::encode_string(&[&vec![0; before][..], canary].concat());
        // The first and last characters depend on the neighbours.
        shapes.push(text.as_bytes()[(before * 8).div_ceil(6)..text.len() - 2].to_vec());
    }
    shapes
}

fn shows_in(folder: &Path) -> Option<PathBuf> {
    let shapes = [shapes(CANARY), shapes(NAME)].concat();
    let shows = |file: &PathBuf| {
        let mut bytes = fs::read(file).unwrap();
        bytes.extend_from_slice(file.as_os_str().as_encoded_bytes());
        shapes.iter().any(|shape| bytes.windows(shape.len()).any(|window| window == shape))
    };
    files_under(folder).into_iter().find(shows)
}

#[test]
fn nothing_can_be_read_without_the_key() {
    let folder = tempfile::tempdir().unwrap();
    let data = create(folder.path());
    let name = format!("notes/{}", text(NAME));
    for (path, bytes) in [(format!("{name}/small"), 100), (format!("{name}/large"), MIB + 100_000)] {
        put(&data, &path, &CANARY.repeat(bytes / CANARY.len())).unwrap();
        put(&data, &path, &CANARY.repeat(bytes / CANARY.len())).unwrap();
    }
    assert_eq!(data.list(Some("notes/"), None, 10).unwrap().len(), 2);
    assert!(files_under(folder.path()).len() >= 4, "database, WAL, its index, a file");
    assert_eq!(shows_in(folder.path()), None, "while it is open");
    drop(data);
    assert_eq!(shows_in(folder.path()), None, "closed");
    for shape in [shapes(CANARY), shapes(NAME)].concat() {
        let control = folder.path().join("control");
        fs::write(&control, [&[1; 1000][..], &shape, &[2; 1000]].concat()).unwrap();
        assert_eq!(shows_in(folder.path()), Some(control), "the search finds what is there");
    }
    let encoded = Base64Unpadded::encode_string(&[b"xy", CANARY, b"z"].concat());
    fs::write(folder.path().join("control"), encoded).unwrap();
    assert!(shows_in(folder.path()).is_some());
}

// ---- standard error ----

/// "SQLCipher writes its own lines to standard error otherwise"
#[test]
fn damage_writes_nothing_to_standard_error() {
    const TEST: &str = "user_data::process_tests::damage_writes_nothing_to_standard_error";
    if let Some(folder) = child_folder() {
        return meet_damage(&folder, std::env::var_os("AICO_TEST_CONTROL").is_some());
    }
    let folder = tempfile::tempdir().unwrap();
    let data = create(folder.path());
    put(&data, "a/b", &content(100_000, 1)).unwrap();
    drop(data);
    let output = child(TEST, folder.path()).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stdout));
    assert_eq!(text(&output.stderr), "");
    let control = child(TEST, folder.path()).env("AICO_TEST_CONTROL", "1").output().unwrap();
    assert!(text(&control.stderr).contains("sqlcipher"), "without the setting there are lines");
}

fn meet_damage(folder: &Path, control: bool) {
    let path = folder.join("space.db");
    let wrong = SpaceKey::make(&OsRandom).unwrap().store_key();
    if control {
        let connection = rusqlite::Connection::open(&path).unwrap();
        wrong.hazmat_sqlcipher_literal(|literal| aico_ffi_sqlcipher::set_key(&connection, literal)).unwrap();
        connection.query_row("SELECT count(*) FROM sqlite_schema", (), |_| Ok(())).unwrap_err();
        return;
    }
    Database::open(&path, wrong, TEST_TABLES).unwrap_err();
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    get(&open(folder).unwrap(), "a/b").unwrap_err();
}
