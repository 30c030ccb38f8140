//! `aico security rotate` and `aico forget`, at the real program.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::home::{Home, bytes, files};
use crate::keys::{passwords, protected};

fn stores(home: &Home) -> Vec<String> {
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let mut names: Vec<_> = files(&home.data()).into_iter().map(name).filter(|name| name.ends_with(".db")).collect();
    names.sort();
    names
}

fn epoch(home: &Home) -> u64 {
    let answer: serde_json::Value = serde_json::from_str(&home.text(&["security", "rotate", "--json"])).unwrap();
    assert_eq!(answer["damaged"], 0);
    answer["epoch"].as_u64().unwrap()
}

#[test]
fn a_rotation_is_complete_when_the_command_returns() {
    let mut home = Home::running();
    home.put_ok("notes/small", b"small");
    home.put_ok("notes/large", &bytes(5, 9 << 20));
    assert_eq!(stores(&home), ["store.db", "store.db"]);
    let said = home.text(&["security", "rotate"]);
    assert!(said.contains("every store has a new key, number 1"), "{said}");
    assert_eq!(stores(&home), ["store-1.db", "store-1.db"]);
    assert_eq!(home.get("notes/small"), b"small");
    assert!(home.get("notes/large") == bytes(5, 9 << 20));
    assert_eq!(epoch(&home), 2);
    home.down();
    home.ok(&["vault", "verify"]);
    home.up();
    assert!(home.get("notes/large") == bytes(5, 9 << 20));
    let log = home.text(&["audit", "tail", "-n", "100"]);
    assert!(log.contains("keys.rotated"), "{log}");
    home.down();
    home.ok(&["audit", "verify"]);
}

/// Killed at any moment of a rotation, everything is there afterwards, and the next start finishes it by itself.
#[test]
fn a_killed_rotation_is_finished_by_the_next_start() {
    let mut home = Home::running();
    for at in 0..8 {
        home.put_ok(&format!("notes/{at}"), &bytes(at, (at as usize + 1) << 20));
    }
    for round in 0..6 {
        let mut rotation = home.command(&["security", "rotate"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(3 + 11 * round));
        home.kill();
        let _cut = rotation.wait().unwrap();
        home.up();
        for at in 0..8 {
            assert!(home.get(&format!("notes/{at}")) == bytes(at, (at as usize + 1) << 20), "{round}");
        }
        home.put_ok("notes/after", &[round as u8; 10]);
    }
    let begun = Instant::now();
    let done = |home: &Home| {
        let stores = stores(home);
        stores.len() == 2 && stores[0] == stores[1] && stores[0] != "store.db"
    };
    while !done(&home) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", stores(&home));
        std::thread::sleep(Duration::from_millis(50));
    }
    home.down();
    home.ok(&["vault", "verify"]);
    assert_eq!(stores(&home).len(), 2);
}

#[test]
fn a_conversation_a_category_and_everything_are_forgotten_and_the_keys_follow() {
    let mut home = protected();
    let file = passwords(&home, &[crate::keys::PASSWORD]);
    fn and<'a>(args: &[&'a str], file: &'a str) -> Vec<&'a str> {
        [args, &["--password-file", file]].concat()
    }
    home.put_ok("conversations/7/a", b"one");
    home.put_ok("conversations/7/large", &bytes(1, 2 << 20));
    home.put_ok("conversations/8/a", b"other");
    home.put_ok("notes/a", b"note");
    let refused = home.fails(6, &["forget", "conversation", "7"]);
    assert!(refused.contains("password"), "{refused}");
    let said = home.text(&and(&["forget", "conversation", "7"], &file));
    assert_eq!(said, "the conversation 7 is forgotten: 2 values, and the keys that opened them\n");
    let list = home.text(&and(&["data", "list"], &file));
    assert!(list.contains("conversations/8/a") && !list.contains("conversations/7"), "{list}");
    // Without being asked, so that the names are closed to old copies, too.
    let begun = Instant::now();
    while stores(&home) != ["store-1.db", "store-1.db"] {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", stores(&home));
        std::thread::sleep(Duration::from_millis(50));
    }
    home.ok(&and(&["forget", "category", "conversations"], &file));
    let list = home.text(&and(&["data", "list"], &file));
    assert!(list.contains("notes/a") && !list.contains("conversations"), "{list}");
    for bad in [&["forget", "category", "a/b"][..], &["forget", "conversation", ""], &["forget", "category", ".."]] {
        home.fails(2, &and(bad, &file));
    }
    home.ok(&and(&["forget", "space"], &file));
    assert_eq!(home.text(&and(&["data", "list"], &file)), "");
    home.put_ok("notes/b", b"new");
    home.down();
    home.ok(&["audit", "verify"]);
    home.ok(&["vault", "verify"]);
    home.up();
    assert_eq!(home.ok(&and(&["data", "get", "notes/b"], &file)), b"new");
}
