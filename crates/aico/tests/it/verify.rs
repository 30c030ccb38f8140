//! `aico vault verify`: what is intact, what is damaged, what still opens.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::home::{Home, bytes, files};
use crate::keys::{PASSWORD, passwords, protected};

/// Flips a bit of each of `count` bytes from `at` on.
fn flip(path: &Path, at: u64, count: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    for at in at..at + count {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at).unwrap();
        file.write_all_at(&[byte[0] ^ 1], at).unwrap();
    }
}

/// A stopped vault with values in the database and in files.
fn stopped() -> Home {
    let mut home = Home::running();
    home.put_ok("notes/small", b"small");
    home.put_ok("notes/middle", &bytes(3, 700_000));
    home.put_ok("notes/large", &bytes(5, 3 << 20));
    home.put_ok("diary/large", &bytes(6, 2 << 20));
    home.down();
    home
}

/// The parts that are named as damaged.
fn damaged(home: &Home) -> Vec<String> {
    let output = home.run(&["vault", "verify", "--json"]);
    let lines = String::from_utf8(output.stdout).unwrap();
    let lines = lines.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let named = lines.filter(|line| line["intact"] == false).map(|line| line["part"].as_str().unwrap().to_owned());
    let named: Vec<_> = named.collect();
    assert_eq!(output.status.code(), Some(i32::from(!named.is_empty())), "{}", String::from_utf8_lossy(&output.stderr));
    named
}

fn store(home: &Home, largest: bool) -> PathBuf {
    let mut stores: Vec<_> = files(&home.data()).into_iter().filter(|file| file.ends_with("store.db")).collect();
    stores.sort_by_key(|store| fs::metadata(store).unwrap().len());
    stores.swap_remove(usize::from(largest))
}

fn chunked(home: &Home) -> Vec<PathBuf> {
    let folder = |file: &PathBuf| file.components().any(|part| part.as_os_str() == "files");
    let mut files: Vec<_> = files(&home.data().join("spaces")).into_iter().filter(folder).collect();
    files.sort_by_key(|file| fs::metadata(file).unwrap().len());
    files
}

#[test]
fn an_intact_vault_is_said_to_be_intact_and_is_not_changed() {
    let mut home = stopped();
    let state = |home: &Home| -> Vec<_> {
        let all = files(&home.data()).into_iter().filter(|file| !file.to_str().unwrap().contains("/run/"));
        all.map(|file| (fs::read(&file).unwrap(), file)).collect()
    };
    let before = state(&home);
    let told = home.text(&["vault", "verify"]);
    for words in ["the header: intact", "your space: values: intact, 4 with", "anchored", "everything is intact"] {
        assert!(told.contains(words), "{told}");
    }
    assert_eq!(damaged(&home), Vec::<String>::new());
    assert!(state(&home) == before, "nothing was written");
    home.up();
    let errors = home.fails(8, &["vault", "verify"]);
    assert!(errors.contains("aico down"), "{errors}");
}

#[test]
fn damage_is_named_and_the_rest_still_opens() {
    let home = stopped();
    let [small, large] = [chunked(&home).remove(0), chunked(&home).remove(1)];
    // In the middle of a chunk, in a tag at the end, in the header.
    for at in [1 << 20, fs::metadata(&large).unwrap().len() - 1, 9] {
        flip(&large, at, 1);
        assert_eq!(damaged(&home), ["the value notes/large"], "byte {at}");
        flip(&large, at, 1);
    }
    // Swapped, cut, gone.
    let good = [&small, &large].map(|file| fs::read(file).unwrap());
    fs::write(&large, &good[0]).unwrap();
    assert_eq!(damaged(&home), ["the value notes/large"]);
    fs::write(&large, &good[1][..good[1].len() - 65_552]).unwrap();
    assert_eq!(damaged(&home), ["the value notes/large"]);
    fs::remove_file(&large).unwrap();
    assert_eq!(damaged(&home), ["the value notes/large"]);
    fs::remove_file(&small).unwrap();
    assert_eq!(damaged(&home), ["the value diary/large", "the value notes/large"]);
    [(&small, &good[0]), (&large, &good[1])].into_iter().for_each(|(file, good)| fs::write(file, good).unwrap());
    assert_eq!(damaged(&home), Vec::<String>::new());

    // Pages of the database that hold the middle value: the others are read all the same.
    let database = store(&home, true);
    let middle = fs::metadata(&database).unwrap().len() / 2;
    flip(&database, middle, 1);
    let named = damaged(&home);
    assert_eq!(named, ["your space: database", "the value notes/middle"]);
    flip(&database, middle, 1);

    let tail = home.data().join("audit/tail");
    flip(&tail, fs::metadata(&tail).unwrap().len() - 10, 1);
    assert_eq!(damaged(&home), ["the audit log"]);
    flip(&tail, fs::metadata(&tail).unwrap().len() - 10, 1);
    flip(&home.data().join("locked.log"), 70, 1);
    assert_eq!(damaged(&home), ["the notes of locked times"]);
    flip(&home.data().join("locked.log"), 70, 1);
    assert_eq!(damaged(&home), Vec::<String>::new());
}

#[test]
fn what_cannot_be_reached_behind_damage_is_named_too() {
    let home = stopped();
    let system = store(&home, false);
    flip(&system, 100, 1);
    let named = damaged(&home);
    assert_eq!(named.first().map(String::as_str), Some("the system space"), "{named:?}");
    assert!(!named.contains(&"the audit log".to_owned()), "the log is checked without any key: {named:?}");
    flip(&system, 100, 1);
    let header = home.data().join("vault.aico");
    let good = fs::read(&header).unwrap();
    fs::write(&header, &good[..good.len() - 1]).unwrap();
    assert_eq!(damaged(&home), ["the header", "the spaces"]);
    fs::remove_file(&header).unwrap();
    assert_eq!(damaged(&home), ["the header", "the spaces"]);
    fs::write(&header, &good).unwrap();
    assert_eq!(damaged(&home), Vec::<String>::new());
}

#[test]
fn a_locked_vault_wants_its_password_and_no_vault_is_no_success() {
    let home = Home::new();
    assert!(home.fails(1, &["vault", "verify"]).contains("no vault"));
    assert!(!home.data().join("vault.aico").exists(), "nothing was set up");
    let mut home = protected();
    home.ok(&["lock"]);
    home.kill();
    assert!(home.fails(9, &["vault", "verify"]).contains("locked"));
    home.fails(6, &["--password-file", &passwords(&home, &["wrong horse"]), "vault", "verify"]);
    let file = passwords(&home, &[PASSWORD]);
    assert!(home.text(&["--password-file", &file, "vault", "verify"]).contains("everything is intact"));
}
