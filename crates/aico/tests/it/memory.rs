//! `aico memory`: what is kept for a while, at the real program.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::home::{Home, bytes, files};
use crate::keys::{PASSWORD, passwords, protected};

/// The inner loop leaves RocksDB out.
fn has_engine() -> bool {
    aico_vault::HAS_MEMORY
}

fn keep(home: &Home, path: &str, value: &[u8], more: &[&str]) {
    let args = [&["memory", "put", path, "-"], more].concat();
    let mut child = home.command(&args).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(value).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

fn kept(home: &Home, path: &str) -> Vec<u8> {
    home.ok(&["memory", "get", path])
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

fn folders(home: &Home) -> Vec<PathBuf> {
    let headers = files(&home.data()).into_iter().filter(|file| name(file) == "memory.aico");
    headers.map(|file| file.parent().unwrap().to_owned()).collect()
}

/// What `aico vault verify` says.
fn damage(home: &Home) -> String {
    let found = home.run(&["vault", "verify"]);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    String::from_utf8(found.stdout).unwrap()
}

/// The names of the folders.
fn epochs(home: &Home) -> Vec<String> {
    folders(home).iter().map(|folder| name(folder).to_owned()).collect()
}

#[test]
fn what_is_kept_is_there_until_it_expires_or_is_removed() {
    if !has_engine() {
        return;
    }
    let mut home = Home::running();
    assert!(home.fails(5, &["memory", "get", "talk/topic"]).contains("nothing is stored"));
    assert_eq!(home.text(&["memory", "list"]), "");
    assert!(folders(&home).is_empty(), "reading makes nothing");
    keep(&home, "talk/topic", b"rain", &[]);
    keep(&home, "talk/mood", b"calm", &["--for", "1s"]);
    keep(&home, "talk/empty", b"", &["--for", "1d"]);
    keep(&home, "other/large", &bytes(3, 1 << 20), &["--for", "2h"]);
    assert_eq!((kept(&home, "talk/topic"), kept(&home, "talk/empty")), (b"rain".to_vec(), Vec::new()));
    assert!(kept(&home, "other/large") == bytes(3, 1 << 20));
    std::thread::sleep(Duration::from_millis(1100));
    home.fails(5, &["memory", "get", "talk/mood"]);
    let listed = home.text(&["memory", "list", "--json"]);
    let path = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["path"].clone();
    assert_eq!(listed.lines().map(path).collect::<Vec<_>>(), ["other/large", "talk/empty", "talk/topic"]);
    assert_eq!(home.text(&["memory", "list", "talk/t"]).lines().count(), 1);
    home.ok(&["memory", "rm", "talk/empty"]);
    home.fails(5, &["memory", "rm", "talk/empty"]);
    // Apart from the values, and there after a crash.
    home.fails(5, &["data", "get", "talk/topic"]);
    home.kill();
    home.up();
    assert_eq!(kept(&home, "talk/topic"), b"rain");
    home.down();
    assert!(home.text(&["vault", "verify"]).contains("your space: working memory"));
    home.up();
    assert!(kept(&home, "other/large") == bytes(3, 1 << 20));
}

#[test]
fn what_cannot_be_kept_is_refused_in_words() {
    if !has_engine() {
        return;
    }
    let home = Home::running();
    let large = home.root().join("large");
    fs::write(&large, bytes(1, (1 << 20) + 1)).unwrap();
    let said = home.fails(2, &["memory", "put", "a/b", large.to_str().unwrap()]);
    assert!(said.contains("1 MiB"), "{said}");
    home.fails(5, &["memory", "get", "a/b"]);
    assert!(home.fails(2, &["memory", "put", "nothing", "-"]).contains("category"));
    for time in ["0s", "5", "x", "5y", "99999999999999999999d", "-1s", "é"] {
        let time = format!("--for={time}");
        assert!(home.fails(2, &["memory", "put", "a/b", "-", &time]).contains("20m"), "{time}");
    }
}

#[test]
fn a_rotation_gives_it_a_new_key_while_it_is_written_to() {
    if !has_engine() {
        return;
    }
    let mut home = Home::running();
    (0..40).for_each(|at| keep(&home, &format!("a/{at}"), &bytes(at, 100_000), &[]));
    assert_eq!(epochs(&home), ["memory-0"]);
    let over = AtomicBool::new(false);
    let written = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut at = 0_u64;
            while !over.load(Ordering::Relaxed) {
                keep(&home, &format!("b/{}", at % 7), &bytes(at, 3000), &[]);
                keep(&home, &format!("a/{}", at % 40), &bytes(at % 40, 100_000), &[]);
                at += 1;
            }
            at
        });
        for _ in 0..3 {
            home.ok(&["security", "rotate"]);
        }
        over.store(true, Ordering::Relaxed);
        writer.join().unwrap()
    });
    assert_eq!(epochs(&home), ["memory-3"]);
    for round in 0..2 {
        (0..40).for_each(|at| assert!(kept(&home, &format!("a/{at}")) == bytes(at, 100_000), "{round}: {at}"));
        let last = written - 1;
        assert!(kept(&home, &format!("b/{}", last % 7)) == bytes(last, 3000), "{round}");
        home.kill();
        home.up();
    }
}

#[test]
fn a_killed_rotation_loses_none_of_it() {
    if !has_engine() {
        return;
    }
    let mut home = Home::running();
    (0..30).for_each(|at| keep(&home, &format!("a/{at}"), &bytes(at, 300_000), &[]));
    for round in 0..6 {
        let mut rotation = home.command(&["security", "rotate"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(10 + 25 * round));
        home.kill();
        let _cut = rotation.wait().unwrap();
        home.up();
        (0..30).for_each(|at| assert!(kept(&home, &format!("a/{at}")) == bytes(at, 300_000), "{round}: {at}"));
    }
    home.ok(&["security", "rotate"]);
    assert_eq!(folders(&home).len(), 1);
    home.down();
    home.ok(&["vault", "verify"]);
}

#[test]
fn forgetting_reaches_it() {
    if !has_engine() {
        return;
    }
    let home = protected();
    let file = passwords(&home, &[PASSWORD]);
    keep(&home, "conversations/7/last", b"a", &[]);
    keep(&home, "conversations/7", b"b", &[]);
    keep(&home, "conversations/77/last", b"c", &[]);
    keep(&home, "mood/today", b"d", &[]);
    home.ok(&["forget", "conversation", "7", "--password-file", &file]);
    let left = || home.text(&["memory", "list", "--json", "--password-file", &file]);
    assert!(!left().contains("conversations/7/") && !left().contains("conversations/7\""), "{}", left());
    assert!(left().contains("conversations/77/last") && left().contains("mood/today"));
    home.ok(&["forget", "category", "mood", "--password-file", &file]);
    assert!(!left().contains("mood"));
    home.ok(&["forget", "space", "--password-file", &file]);
    assert_eq!(left(), "");
    let begun = Instant::now();
    while !folders(&home).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
    keep(&home, "mood/today", b"new", &[]);
    assert_eq!(folders(&home).len(), 1);
    assert_eq!(home.ok(&["memory", "get", "mood/today", "--password-file", &file]), b"new");
}

#[test]
fn a_copy_has_it() {
    if !has_engine() {
        return;
    }
    let home = protected();
    let file = passwords(&home, &[PASSWORD]);
    (0..20).for_each(|at| keep(&home, &format!("mood/{at}"), &bytes(at, 90_000), &[]));
    let mut other = Home::new();
    let to = other.data();
    home.ok(&["backup", "copy", to.to_str().unwrap(), "--password-file", &file]);
    let said = home.text(&["backup", "check", to.to_str().unwrap(), "--password-file", &file]);
    assert!(said.contains("your space: working memory"), "{said}");
    let file = passwords(&other, &[PASSWORD]);
    let child = other.command(&["up"]).stdout(Stdio::piped()).spawn().unwrap();
    other.adopt(child);
    let begun = Instant::now();
    while !other.run(&["status"]).status.success() {
        assert!(begun.elapsed().as_secs() < 60);
    }
    other.ok(&["unlock", "--password-file", &file]);
    let got = |at: u64| other.ok(&["memory", "get", &format!("mood/{at}"), "--password-file", &file]);
    (0..20).for_each(|at| assert!(got(at) == bytes(at, 90_000), "{at}"));
}

/// Each file in turn flipped in its middle and removed, and then all of it.
#[test]
fn damage_is_named_and_nothing_is_lost_silently() {
    if !has_engine() {
        return;
    }
    let mut home = Home::running();
    (0..30).for_each(|at| keep(&home, &format!("a/{at}"), &bytes(at, 300_000), &[]));
    home.down();
    home.ok(&["vault", "verify"]);
    let folder = folders(&home).remove(0);
    // The rest holds nothing, and is made anew (`docs/spec/memory-store.md`).
    let holds = |file: &PathBuf| {
        let (name, bytes) = (name(file), fs::metadata(file).unwrap().len());
        bytes > 40 && name != "IDENTITY" && !name.starts_with("OPTIONS")
    };
    let all: Vec<PathBuf> = files(&folder).into_iter().filter(holds).collect();
    assert!(all.iter().any(|file| name(file).ends_with(".sst")) && all.len() >= 4, "{all:?}");
    let away = home.root().join("away");
    let copy = || {
        let _none = fs::remove_dir_all(&away);
        assert!(std::process::Command::new("cp").arg("-a").args([&folder, &away]).status().unwrap().success());
    };
    copy();
    for file in &all {
        for remove in [false, true] {
            if remove {
                fs::remove_file(file).unwrap();
            } else {
                let mut flipped = fs::read(file).unwrap();
                let middle = flipped.len() / 2;
                flipped[middle] ^= 1;
                fs::write(file, &flipped).unwrap();
            }
            let said = damage(&home);
            assert!(said.contains("working memory"), "{}, {remove}: {said}", file.display());
            fs::remove_dir_all(&folder).unwrap();
            fs::rename(&away, &folder).unwrap();
            copy();
        }
    }
    home.ok(&["vault", "verify"]);
    fs::remove_dir_all(&folder).unwrap();
    assert!(damage(&home).contains("it is missing"));
    home.up();
    for asked in [&["memory", "get", "a/1"][..], &["memory", "list"]] {
        let said = home.run(asked);
        assert!(!said.status.success() && String::from_utf8_lossy(&said.stderr).contains("is missing"), "{said:?}");
    }
    home.put_ok("a/value", b"the rest goes on");
    home.down();
    fs::rename(&away, &folder).unwrap();
    home.up();
    assert!(kept(&home, "a/1") == bytes(1, 300_000));
}
