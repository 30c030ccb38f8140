//! `aico import aico`: folders that a Python AICO's own library wrote (`tests/python-aico/make.py`).

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::home::{Home, copy, files};
use crate::keys::passwords;
use crate::session::Session;

const PASSWORD: &str = "Correct-Horse-7-é";
const SALT: &str = "00112233445566778899aabbccddeeff";

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python-aico").join(name)
}

/// A copy of a folder beside the vault.
fn old_home(home: &Home, name: &str) -> PathBuf {
    let folder = home.root().join(name);
    copy(&fixture(name), &folder);
    folder
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn rows(home: &Home, value: &str) -> Vec<Value> {
    let text = String::from_utf8(home.get(value)).unwrap();
    text.lines().skip(1).map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files(folder).into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

/// A session whose keyring holds this master key, and a home in it.
fn with_keyring(master: Option<&str>) -> (Session, Home) {
    let session = Session::new();
    if let Some(master) = master {
        // As Python's `keyring` writes it.
        let attributes = [("application", "Python keyring library"), ("service", "AICO"), ("username", "master_key")];
        session.write(&attributes, master.as_bytes());
    }
    let mut home = Home::new();
    home.set("DBUS_SESSION_BUS_ADDRESS", session.address());
    let temporary = home.root().join("temporary");
    fs::create_dir(&temporary).unwrap();
    home.set("TMPDIR", path(&temporary));
    home.set("SQLITE_TMPDIR", path(&temporary));
    home.up();
    (session, home)
}

fn master() -> String {
    fs::read_to_string(fixture("master_key")).unwrap().trim().to_owned()
}

#[test]
fn rows_and_files_come_over_by_the_keyring_and_nothing_touches_the_disk_in_the_clear() {
    let (_session, home) = with_keyring(Some(&master()));
    let old = old_home(&home, "merged");
    let before = contents(&old);
    let done = home.run(&["import", "aico", path(&old)]);
    let (out, errors) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{errors}");
    assert!(
        out.contains("logs: 100 rows imported and verified") && out.contains("2 encrypted files imported"),
        "{out}"
    );
    assert!(out.contains("1 other files") && errors.contains("under its old key"), "{out}{errors}");
    assert!(contents(&old) == before);

    let users = rows(&home, "aico/users.jsonl");
    assert_eq!(users, [json!([1, "86604b81-ae1f-8fbb-01f4-f693a20b3f57", "Ada Lovelace", 1, "2026-01-02 03:04:05"])]);
    assert_eq!(rows(&home, "aico/devices.jsonl")[0][3], json!(0.1));
    let logs = rows(&home, "aico/logs.jsonl");
    assert_eq!(logs[99], json!([100, 100, "INFO", format!("line 99 {}", "x".repeat(60)), {"blob":"Yw=="}]));
    assert_eq!(home.get("aico/files/config.enc"), b"greeting: hello\n");
    assert_eq!(home.get("aico/files/cache/session.enc"), br#"{"session": "over"}"#);

    let secret = b"Ada Lovelace";
    for file in files(home.root()) {
        let bytes = fs::read(&file).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", file.display());
    }
    assert!(files(&home.root().join("temporary")).is_empty());

    home.ok(&["import", "aico", path(&old), "--under", "again", "--remove-source"]);
    assert_eq!(files(&old), [old.join("readme.txt")]);
    assert_eq!(home.get("again/users.jsonl"), home.get("aico/users.jsonl"));
}

#[test]
fn a_crashed_one_comes_over_by_its_password_with_what_its_log_holds() {
    let home = Home::running();
    let old = old_home(&home, "crashed");
    let before = contents(&old);
    let file = passwords(&home, &["Correct-Horse-7-e"]);
    let said = home.fails(1, &["import", "aico", path(&old), "--salt", SALT, "--password-file", &file]);
    assert!(said.contains("the key does not open"), "{said}");
    let file = passwords(&home, &[PASSWORD]);
    home.ok(&["import", "aico", path(&old), "--salt", SALT, "--password-file", &file]);
    let users = rows(&home, "aico/users.jsonl");
    assert_eq!(users[1], json!([2, "later", "Grace Hopper", 0, null]));
    assert_eq!(rows(&home, "aico/logs.jsonl").len(), 100);
    assert!(contents(&old) == before);
    for salt in ["", "00", "zz112233445566778899aabbccddeeff", "+0112233445566778899aabbccddeeff"] {
        home.fails(2, &["import", "aico", path(&old), &format!("--salt={salt}"), "--password-file", &file]);
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let (session, home) = with_keyring(None);
    let old = old_home(&home, "merged");
    let fails = |why: &str| {
        let before = contents(&old);
        let said = home.fails(1, &["import", "aico", path(&old), "--remove-source"]);
        assert!(said.contains(why) && said.contains("hint:"), "{said}");
        assert!(contents(&old) == before, "{why}");
    };
    fails("neither a `master_key` nor a `salt`");
    let write = |text: &str| session.write(&[("service", "AICO"), ("username", "master_key")], text.as_bytes());
    write("not a key");
    fails("64 hexadecimal digits");
    write(&"0f".repeat(32));
    fails("the key does not open");
    write(&master());

    let salt = old.join("data/aico.db.salt");
    let good = fs::read(&salt).unwrap();
    fs::write(&salt, &good[1..]).unwrap();
    fails("16 bytes");
    fs::remove_file(&salt).unwrap();
    fails("16 bytes");
    fs::write(&salt, &good).unwrap();

    // An encrypted file that was changed, and one that only looks like one.
    let config = old.join("config.enc");
    let whole = fs::read(&config).unwrap();
    for (at, bytes) in [(20, whole.clone()), (40, whole.clone()), (0, b"AICO".to_vec())] {
        let mut bytes = bytes;
        if at > 0 {
            bytes[at] ^= 1;
        }
        fs::write(&config, bytes).unwrap();
        fails("not what a Python AICO wrote");
    }
    fs::write(&config, whole).unwrap();

    let path_of = old.join("data/aico.db");
    let database = fs::read(&path_of).unwrap();
    let damaged = |at: usize| {
        let mut bytes = database.clone();
        bytes[at] ^= 0x40;
        bytes
    };
    for (at, why) in [(8, "does not open"), (20, "does not open")] {
        fs::write(&path_of, damaged(at)).unwrap();
        fails(why);
    }
    for page in 1..database.len() / 4096 {
        fs::write(&path_of, damaged(page * 4096)).unwrap();
        let ended = home.run(&["import", "aico", path(&old)]);
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.code() == Some(1) && said.contains("is damaged"), "page {page}: {said}");
    }
    fs::write(&path_of, &database[..10]).unwrap();
    fails("no SQLite database");
    fs::remove_file(&path_of).unwrap();
    home.fails(2, &["import", "aico", path(&old)]);
    let bare = Home::running();
    let old = old_home(&bare, "merged");
    let said = bare.fails(1, &["import", "aico", path(&old)]);
    assert!(said.contains("no D-Bus") && said.contains("--salt"), "{said}");
}
