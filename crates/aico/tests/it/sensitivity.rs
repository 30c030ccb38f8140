//! How sensitive categories are, at the real program (`docs/manual/configuration.md`, Data).

use std::collections::BTreeSet;
use std::fs;
use std::time::{Duration, Instant};

use crate::home::{Home, bytes, files};
use crate::keys::{PASSWORD, passwords, protected};

const LEVELS: &str =
    "security:\n  vault:\n    stretch_memory: 64\n  data:\n    ordinary: [weather]\n    secret: [diary]\n";

fn configure(home: &Home, text: &str) {
    fs::write(home.data().join("security.yaml"), text).unwrap();
}

/// A home with a password, where `diary` is secret and `weather` ordinary.
fn with_levels() -> (Home, String) {
    let home = protected();
    for path in ["diary/monday", "weather/today", "notes/x"] {
        home.put_ok(path, b"kept");
    }
    let file = passwords(&home, &[PASSWORD]);
    configure(&home, LEVELS);
    home.ok(&["config", "accept", "--password-file", &file]);
    (home, file)
}

fn settled(home: &Home) {
    let began = Instant::now();
    while home.text(&["status", "--json"]).contains("\"work\":")
        || !home.text(&["audit", "tail", "-n", "100"]).contains("data.padded")
    {
        assert!(began.elapsed() < Duration::from_secs(60), "it is not sealed anew");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn sizes(home: &Home) -> BTreeSet<u64> {
    let chunked = files(&home.data()).into_iter().filter(|file| file.to_str().unwrap().contains("/files/"));
    chunked.map(|file| fs::metadata(file).unwrap().len()).collect()
}

#[test]
fn what_is_asked_of_the_owner_follows_from_the_category() {
    let (home, file) = with_levels();
    let with = |args: &[&str]| home.run(&[args, &["--password-file", &file]].concat());
    assert_eq!(home.get("weather/today"), b"kept");
    assert_eq!(home.text(&["data", "list", "weather/"]).lines().count(), 1);
    for args in [
        &["data", "get", "diary/monday"][..],
        &["data", "list", "diary/"],
        &["data", "list", "dia"],
        &["data", "list"],
        &["data", "rm", "diary/monday"],
        &["data", "get", "notes/x"],
        &["data", "list", "notes/"],
    ] {
        let refused = home.run(args);
        assert!(!refused.status.success() && refused.stdout.is_empty(), "{args:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("password"), "{refused:?}");
    }
    assert_eq!(with(&["data", "get", "diary/monday"]).stdout, b"kept");
    assert_eq!(String::from_utf8_lossy(&with(&["data", "list"]).stdout).lines().count(), 4);
    // Writing asks for nobody, and the working memory keeps no secrets.
    home.put_ok("diary/tuesday", b"new");
    let x = home.root().join("x");
    fs::write(&x, b"x").unwrap();
    let said = String::from_utf8(home.run(&["memory", "put", "diary/x", x.to_str().unwrap()]).stderr).unwrap();
    assert!(said.contains("secret"), "{said}");
    assert!(with(&["data", "rm", "diary/monday"]).status.success());
    assert!(!with(&["data", "get", "diary/monday"]).status.success());
    let inventory = String::from_utf8(with(&["data", "inventory", "--json"]).stdout).unwrap();
    let of = |name: &str| inventory.lines().find(|line| line.contains(name)).unwrap().to_owned();
    assert!(of("diary").contains("; secret: padded") && of("weather").contains("; ordinary"), "{inventory}");
    assert!(!of("notes").contains("; secret") && !of("notes").contains("; ordinary"), "{inventory}");
    // What was given is in the log.
    assert_eq!(with(&["data", "get", "diary/tuesday"]).stdout, b"new");
    let log = home.text(&["audit", "tail", "-n", "20", "--json"]);
    let read = log.lines().rev().find(|line| line.contains("data.read")).unwrap();
    let read: serde_json::Value = serde_json::from_str(read).unwrap();
    let ended = log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    assert!(ended.into_iter().any(|line| line["event"]["of"] == read["index"] && line["event"]["bytes"] == 3), "{log}");
}

#[test]
fn weakening_waits_for_the_owner() {
    let (mut home, file) = with_levels();
    home.down();
    configure(&home, &LEVELS.replace("[diary]", "[]"));
    home.up();
    assert!(!home.run(&["data", "get", "diary/monday", "--password-file", "/dev/null"]).status.success());
    let shown = home.text(&["config", "show"]);
    assert!(shown.contains("security.data.secret: [diary] -> [] (weakens)"), "{shown}");
    assert_eq!(home.ok(&["data", "get", "diary/monday", "--password-file", &file]), b"kept");
    for wrong in ["[a/b]", "[\"\"]", "[..]", "diary", "{a: b}", "[[a]]", "[\"a\\0\"]"] {
        configure(&home, &LEVELS.replace("[diary]", wrong));
        let said = home.fails(2, &["config", "check"]);
        assert!(!said.is_empty(), "{wrong}");
    }
}

#[test]
fn sizes_of_what_is_secret_do_not_show() {
    let mut home = Home::new();
    fs::create_dir(home.data()).unwrap();
    configure(&home, &LEVELS.replace("[diary]", "[]"));
    home.up();
    let lengths = [0, 1, 255, 256, 1000, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 3_000_000, 3_000_001, 3_001_000];
    for (at, length) in lengths.iter().enumerate() {
        home.put_ok(&format!("diary/{at}"), &bytes(at as u64, *length));
    }
    home.put_ok("notes/large", &bytes(9, 5_000_000));
    let before = sizes(&home);
    assert_eq!(before.len(), 5, "each length is another one: {before:?}");
    home.down();
    configure(&home, LEVELS);
    home.up();
    // Stopped in the middle, it goes on.
    for _ in 0..3 {
        home.kill();
        home.up();
    }
    settled(&home);
    let notes = before.iter().max().unwrap();
    let after = sizes(&home);
    assert!(after.contains(notes) && after.len() == 3, "three that are nearly alike look alike: {after:?}");
    // Nobody has set a password: the account is the proof, and a word is asked for on a terminal only.
    configure(&home, &LEVELS.replace("[diary]", "[]"));
    home.down();
    home.up();
    let denied = home.run(&["data", "get", "diary/1"]);
    assert!(!denied.status.success(), "weakening waits");
    let file = passwords(&home, &[PASSWORD]);
    home.ok(&["security", "setup", "--password-file", &file]);
    home.ok(&["config", "accept", "--password-file", &file]);
    for round in 0..2 {
        for (at, length) in lengths.iter().enumerate() {
            let got = home.ok(&["data", "get", &format!("diary/{at}"), "--password-file", &file]);
            assert!(got == bytes(at as u64, *length), "{round}: {length}: {}", got.len());
        }
        home.ok(&["security", "rotate", "--password-file", &file]);
    }
    home.down();
    home.ok(&["vault", "verify"]);
}
