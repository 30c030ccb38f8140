//! The running process: what its memory gives away, how it was built, and what holds it in.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use argon2::{Algorithm, Argon2, Params, Version};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};

use crate::home::Home;
use crate::keys::{PASSWORD, passwords, protected};

/// A value that nothing else in the world holds.
const CANARY: &[u8] = b"canary 5f1c2a7e: what I told nobody else";

fn is_root() -> bool {
    rustix::process::getuid().is_root()
}

/// Every process of this home's backend: the supervisor and its worker.
pub(crate) fn processes(home: &Home) -> Vec<u32> {
    let supervisor = home.backend_pid();
    let begun = Instant::now();
    loop {
        let threads = fs::read_dir(format!("/proc/{supervisor}/task")).unwrap();
        // Each thread has the children that it started.
        let children =
            threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("children")).unwrap_or_default());
        let children = children.collect::<Vec<_>>().join(" ");
        let all: Vec<u32> =
            std::iter::once(supervisor).chain(children.split_whitespace().map(|pid| pid.parse().unwrap())).collect();
        if all.len() == 2 {
            return all;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "a supervisor and its worker: {all:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

pub(crate) fn status_line(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_default().trim().to_owned()
}

/// A piece of a process's memory.
struct Region {
    name: String,
    dumped: bool,
    bytes: Vec<u8>,
}

/// All memory that the kernel lets root read: more than a core dump has, which leaves out what is marked `dd`.
fn memory(pid: u32) -> Vec<Region> {
    let mem = File::open(format!("/proc/{pid}/mem")).unwrap();
    let maps = fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap();
    let mut regions: Vec<Region> = Vec::new();
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or_default();
        let range = first
            .split_once('-')
            .and_then(|(from, to)| Some((u64::from_str_radix(from, 16).ok()?, u64::from_str_radix(to, 16).ok()?)));
        if let Some((from, to)) = range {
            let name = words.nth(4).unwrap_or("anonymous").to_owned();
            let mut bytes = Vec::new();
            if !name.starts_with("[v") {
                let mut page = vec![0; 4096];
                for at in (from..to).step_by(4096) {
                    // Guard pages and secret memory cannot be read.
                    if mem.read_exact_at(&mut page, at).is_ok() {
                        bytes.extend_from_slice(&page);
                    }
                }
            }
            regions.push(Region { name, dumped: true, bytes });
        } else if let Some(region) = regions.last_mut().filter(|_| first == "VmFlags:") {
            region.dumped = !words.any(|flag| flag == "dd");
        }
    }
    regions
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    let (first, rest) = needle.split_first().unwrap();
    let starts = bytes.iter().enumerate().filter(|(_, byte)| *byte == first);
    starts.into_iter().any(|(at, _)| bytes[at + 1..].starts_with(rest))
}

/// Where `needle` is, raw or as hexadecimal digits.
fn places(regions: &[Region], needle: &[u8]) -> Vec<String> {
    let digits: String = needle.iter().map(|byte| format!("{byte:02x}")).collect();
    let forms = [needle.to_vec(), digits.to_uppercase().into_bytes(), digits.into_bytes()];
    let holds = |region: &&Region| forms.iter().any(|form| contains(&region.bytes, form));
    let place = |region: &Region| format!("{}{}", region.name, if region.dumped { "" } else { " (not dumped)" });
    regions.iter().filter(holds).map(place).collect()
}

fn kdf(key: &[u8], label: &str, context: &[u8], bytes: usize) -> Vec<u8> {
    let message = [&[label.len() as u8], label.as_bytes(), context].concat();
    blake2b_simd::Params::new().hash_length(bytes).key(key).hash(&message).as_bytes().to_vec()
}

fn open(key: &[u8], associated: &[u8], sealed: &[u8]) -> Vec<u8> {
    let cipher = chacha20poly1305::XChaCha20Poly1305::new(key.try_into().unwrap());
    let (nonce, msg) = sealed.split_at(24);
    cipher.decrypt(nonce.try_into().unwrap(), Payload { msg, aad: associated }).unwrap()
}

fn role(role: &str, context: &[&[u8]]) -> Vec<u8> {
    [&[role.len() as u8], role.as_bytes(), &context.concat()].concat()
}

/// The vault's keys, computed from its files and its password as `docs/spec/vault.md` says.
fn keys(home: &Home) -> BTreeMap<String, Vec<u8>> {
    let header = fs::read(home.data().join("vault.aico")).unwrap();
    let vault_id = &header[20..36];
    let mut keys = BTreeMap::new();
    let (mut at, mut root) = (146, Vec::new());
    for _ in 0..header[145] {
        let slot = &header[at..];
        let length = usize::from(u16::from_be_bytes([slot[11], slot[12]]));
        let (parameters, rest) = slot[13..].split_at(length);
        at += 13 + length + 16 + 32 + [72, 104, 144, 176][usize::from(slot[2])];
        if slot[0] != 3 {
            continue;
        }
        let number = |at: usize| u32::from_be_bytes(parameters[at..at + 4].try_into().unwrap());
        let cost = Params::new(number(0) * 1024, number(4), number(8), Some(32)).unwrap();
        let mut secret = vec![0; 32];
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, cost);
        argon2.hash_password_into(PASSWORD.as_bytes(), &parameters[12..28], &mut secret).unwrap();
        let place = [vault_id, &[slot[1], slot[0]], parameters].concat();
        let slot_key = kdf(&secret, "slot key", &place, 32);
        root = open(&slot_key, &role("slot root", &[&place]), &rest[48..120]);
        keys.insert("slot secret".to_owned(), secret);
        keys.insert("slot key".to_owned(), slot_key);
    }
    let system = &header[53..69];
    let space = open(&root, &role("root space", &[vault_id, system, &header[69..73]]), &header[73..145]);
    let store = kdf(&space, "store sqlcipher", b"", 32);
    keys.insert("key of the access history (DuckDB)".to_owned(), kdf(&space, "store duckdb", b"", 32));
    let digits = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();

    // A copy, so that the running program's database is left alone.
    let original = home.data().join("spaces").join(format!("space-{}", digits(system))).join("store.db");
    let copy = home.root().join("copy.db");
    fs::copy(&original, &copy).unwrap();
    fs::copy(original.with_extension("db-wal"), copy.with_extension("db-wal")).unwrap();
    let database = rusqlite::Connection::open(&copy).unwrap();
    database.pragma_update(None, "key", format!("x'{}'", digits(&store))).unwrap();
    database.pragma_update(None, "cipher_hmac_algorithm", "HMAC_SHA256").unwrap();
    let mut spaces = database.prepare("SELECT id, epoch, wrapped FROM space").unwrap();
    let mut rows = spaces.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let (id, epoch, wrapped): (Vec<u8>, u32, Vec<u8>) =
            (row.get(0).unwrap(), row.get(1).unwrap(), row.get(2).unwrap());
        let owners = open(&root, &role("root space", &[vault_id, &id, &epoch.to_be_bytes()]), &wrapped);
        keys.insert("store key of the owner's space (SQLCipher)".to_owned(), kdf(&owners, "store sqlcipher", b"", 32));
        let mut of_data = database.prepare("SELECT id, wrapped FROM data_key WHERE space = ?1").unwrap();
        let mut data_keys = of_data.query([&id]).unwrap();
        while let Some(row) = data_keys.next().unwrap() {
            let (key_id, wrapped): (Vec<u8>, Vec<u8>) = (row.get(0).unwrap(), row.get(1).unwrap());
            let data = open(&owners, &role("space data", &[vault_id, &id, &key_id]), &wrapped);
            keys.insert("file wrapping key".to_owned(), kdf(&data, "data file wrap", b"", 32));
            keys.insert("key of values in the database".to_owned(), kdf(&data, "data value", b"", 32));
            keys.insert("data key".to_owned(), data);
        }
        keys.insert("owner's space key".to_owned(), owners);
    }
    let mut secrets = database.prepare("SELECT name, wrapped FROM secret").unwrap();
    let mut rows = secrets.query([]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        let (name, wrapped): (String, Vec<u8>) = (row.get(0).unwrap(), row.get(1).unwrap());
        if name == "device" {
            let seal = kdf(&root, "identity seal", b"", 32);
            keys.insert("device identity".to_owned(), open(&seal, b"device identity", &wrapped));
            continue;
        }
        let key = open(&space, &role(&format!("space {name}"), &[vault_id, name.as_bytes()]), &wrapped);
        if name == "log" {
            keys.insert("log signing key".to_owned(), kdf(&key, "log signer", b"", 32));
            keys.insert("log sealing key".to_owned(), kdf(&key, "log seal", b"", 32));
        }
        keys.insert(format!("{name} key"), key);
    }
    keys.insert("header key".to_owned(), kdf(&root, "vault header", b"", 32));
    keys.insert("store key of the system space (SQLCipher)".to_owned(), store);
    keys.insert("system space key".to_owned(), space);
    keys.insert("root key".to_owned(), root);
    assert!(keys.contains_key("device identity") && keys.contains_key("owner's space key"), "{:?}", keys.keys());
    keys
}

/// Works with the vault as its owner does, so that keys and passwords go through every path.
fn work(home: &Home) {
    let file = home.root().join("canary.txt");
    fs::write(&file, CANARY).unwrap();
    let password = passwords(home, &[PASSWORD]);
    home.ok(&["data", "put", "notes/canary", file.to_str().unwrap()]);
    assert_eq!(home.ok(&["data", "get", "notes/canary", "--password-file", &password]), CANARY);
    home.ok(&["status"]);
}

#[test]
fn the_memory_of_an_unlocked_vault_holds_no_key_and_no_password() {
    if !is_root() {
        // The kernel keeps everybody else out, which is the point of another test.
        return;
    }
    let mut home = protected();
    home.set("AICO_PLANTED", "planted 0c9d1e4b");
    home.down();
    home.up();
    work(&home);
    home.ok(&["query", "SELECT count(*) FROM access"]);
    let keys = keys(&home);
    let (mut engines, mut leaks) = (BTreeMap::new(), Vec::new());
    for pid in processes(&home) {
        let regions = memory(pid);
        assert!(!places(&regions, b"planted 0c9d1e4b").is_empty(), "the scan finds what is there");
        assert!(
            places(&regions, PASSWORD.as_bytes()).is_empty(),
            "the password is in {:?}",
            places(&regions, PASSWORD.as_bytes())
        );
        for (name, key) in &keys {
            let found = places(&regions, key);
            if name.contains("SQLCipher") {
                engines.insert(name.clone(), found.len());
                continue;
            }
            leaks.extend(found.into_iter().map(|place| format!("the {name} is in {place} of process {pid}")));
        }
    }
    assert!(leaks.is_empty(), "{leaks:#?}");
    // SQLCipher keeps its raw key on its own heap, in the worker. The docs say so.
    assert_eq!(engines.len(), 2, "{engines:?}");
}

#[test]
fn after_a_lock_the_memory_holds_no_key_no_password_and_no_data() {
    if !is_root() {
        return;
    }
    let mut home = protected();
    home.set("AICO_PLANTED", "planted 0c9d1e4b");
    home.down();
    home.up();
    work(&home);
    let keys = keys(&home);
    home.ok(&["lock"]);
    let all = processes(&home);
    for pid in all {
        let regions = memory(pid);
        assert!(!places(&regions, b"planted 0c9d1e4b").is_empty(), "the scan finds what is there");
        for (name, key) in &keys {
            assert!(places(&regions, key).is_empty(), "the {name} is in {:?}", places(&regions, key));
        }
        for what in [PASSWORD.as_bytes(), CANARY] {
            assert!(places(&regions, what).is_empty(), "{:?} is there", String::from_utf8_lossy(what));
        }
    }
}

#[test]
fn the_worker_is_confined_and_cannot_be_dumped_or_traced() {
    let mut home = Home::new();
    home.up();
    let all = processes(&home);
    for pid in &all {
        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert_eq!(core.split_whitespace().collect::<Vec<_>>()[4..6], ["0", "0"], "{core}");
        // A process that may be dumped belongs to its user; one that may not, to root.
        assert_eq!(fs::metadata(format!("/proc/{pid}/mem")).unwrap().uid(), 0);
    }
    let worker = *all.last().unwrap();
    assert_eq!(status_line(worker, "NoNewPrivs"), "1");
    assert_eq!(status_line(worker, "Seccomp"), "2");
    let status: serde_json::Value = serde_json::from_slice(&home.ok(&["status", "--json"])).unwrap();
    assert_eq!(status["confined_by"], serde_json::json!(["landlock", "seccomp"]));
    assert!(["secret", "locked"].contains(&status["memory"].as_str().unwrap()), "{status}");
}

#[test]
fn another_program_of_the_same_user_cannot_read_the_workers_memory() {
    if !is_root() {
        return;
    }
    // The backend and the other program run as one ordinary user.
    let mut home = Home::new();
    home.belongs_to(65534);
    home.up();
    let worker = *processes(&home).last().unwrap();
    let as_user = |command: &str| {
        let mut setpriv = Command::new("setpriv");
        setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", command]);
        setpriv.output().unwrap()
    };
    assert!(as_user(&format!("head -c1 /proc/{worker}/status")).status.success(), "the control works");
    for file in ["mem", "environ", "maps", "fd/0", "syscall"] {
        let output = as_user(&format!("head -c1 /proc/{worker}/{file}"));
        assert!(!output.status.success(), "{file}");
    }
}

#[test]
fn the_program_is_built_for_aslr_and_dep() {
    let program = Path::new(env!("CARGO_BIN_EXE_aico"));
    let read = |flags| {
        let output = Command::new("readelf").args([flags, program.to_str().unwrap()]).output().unwrap();
        assert!(output.status.success(), "readelf is part of binutils, which gcc needs");
        String::from_utf8(output.stdout).unwrap()
    };
    let (segments, dynamic) = (read("-Wl"), read("-Wd"));
    assert!(segments.contains("DYN (Position-Independent Executable file)"), "{segments}");
    assert!(segments.contains("GNU_RELRO"), "{segments}");
    let stack = segments.lines().find(|line| line.contains("GNU_STACK")).unwrap();
    assert!(stack.contains(" RW ") && !stack.contains("RWE"), "{stack}");
    assert!(!segments.lines().any(|line| line.contains("LOAD") && line.contains("RWE")), "{segments}");
    assert!(
        dynamic.contains("BIND_NOW") || dynamic.contains("NOW"),
        "every symbol is bound before the first line runs"
    );
    assert!(!dynamic.contains("TEXTREL") && !dynamic.contains("(RPATH)"), "{dynamic}");
    // Libraries are looked for in two folders besides the system's: the program's own, and DuckDB's, which nobody else can
    // write to.
    let folders = |line: &str| Some(line.split_once("runpath: [")?.1.split_once(']')?.0.to_owned());
    let folders: Vec<String> = dynamic.lines().filter_map(folders).collect();
    let [folders] = folders.as_slice() else { panic!("{dynamic}") };
    let duckdb = folders.strip_prefix("$ORIGIN:/").unwrap();
    assert!(!duckdb.contains([':', '$']), "{folders}");
    assert_eq!(fs::metadata(format!("/{duckdb}")).unwrap().permissions().mode() & 0o022, 0, "{folders}");
}
