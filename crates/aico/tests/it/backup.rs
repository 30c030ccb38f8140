//! `aico backup copy` and `check`, and a start from what was copied.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::home::{Home, bytes, files};
use crate::keys::{PASSWORD, passwords, protected};

fn copied(home: &Home, name: &str) -> PathBuf {
    let (dir, file) = (home.root().join(name), passwords(home, &[PASSWORD]));
    home.ok(&["backup", "copy", dir.to_str().unwrap(), "--password-file", &file]);
    dir
}

fn check(home: &Home, dir: &Path, code: i32) -> String {
    let file = passwords(home, &[PASSWORD]);
    let output = home.run(&["backup", "check", dir.to_str().unwrap(), "--password-file", &file]);
    let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{text}");
    text
}

/// Ends the other thread, also when this one fails.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_copy_of_a_vault_in_use_is_whole_and_starts_as_another_device() {
    let home = protected();
    for at in 0..30 {
        home.put_ok(&format!("notes/{at}"), &bytes(at, 1 << (at % 22)));
    }
    home.put_ok("conversations/1/a", b"said");
    let (plain, sealed) = (home.root().join("plain"), home.root().join("sealed"));
    fs::write(&plain, "sealed before").unwrap();
    home.ok(&["file", "seal", plain.to_str().unwrap(), "-o", sealed.to_str().unwrap()]);
    let ended = AtomicBool::new(false);
    let dir = std::thread::scope(|threads| {
        threads.spawn(|| {
            // Replaced all the time: their old files go.
            for round in 0_u64.. {
                home.put_ok("busy/large", &bytes(round, 3 << 20));
                home.put_ok("busy/small", &[round as u8; 100]);
                if ended.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let _ended = OnDrop(&ended);
        for name in ["first", "second", "copy"] {
            copied(&home, name);
        }
        home.root().join("copy")
    });
    assert!(!home.data().join("copy.part").exists());
    for name in ["first", "second", "copy"] {
        assert!(check(&home, &home.root().join(name), 0).contains("everything is intact"));
    }

    let mut other = Home::new();
    copy(&dir, &other.data());
    let file = passwords(&other, &[PASSWORD]);
    let with = |args: &[&str]| other_args(args, &file);
    let mut child = other.command(&["up"]);
    other.adopt(child.stdout(std::process::Stdio::piped()).spawn().unwrap());
    let begun = std::time::Instant::now();
    while !other.run(&["status"]).status.success() {
        assert!(begun.elapsed().as_secs() < 60);
    }
    other.ok(&with(&["unlock"]).iter().map(String::as_str).collect::<Vec<_>>());
    let get = |path: &str| {
        let args = with(&["data", "get", path]);
        other.ok(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    for at in 0..30 {
        assert!(get(&format!("notes/{at}")) == bytes(at, 1 << (at % 22)), "{at}");
    }
    assert_eq!(get("conversations/1/a"), b"said");
    let args = with(&["file", "cat", sealed.to_str().unwrap()]);
    assert_eq!(other.ok(&args.iter().map(String::as_str).collect::<Vec<_>>()), b"sealed before");
    let whole = get("busy/large");
    assert!((0..=255).any(|round| whole == bytes(round, 3 << 20)), "one state of it, not a mixture");
    let fingerprint = |home: &Home| {
        let status: serde_json::Value = serde_json::from_str(&home.text(&["status", "--json"])).unwrap();
        status["fingerprint"].as_str().unwrap().to_owned()
    };
    assert_ne!(fingerprint(&home), fingerprint(&other));
    let listed = home.text(&["identity", "list"]);
    let ours = listed.split_whitespace().find(|word| word.len() > 30).unwrap().to_owned();
    assert!(!other.text(&["identity", "list"]).contains(&ours), "nobody of there is enrolled here");
    other.ok(&["audit", "verify"]);
    other.put_ok("notes/new", b"new");
}

fn other_args(args: &[&str], file: &str) -> Vec<String> {
    args.iter().chain(&["--password-file", file]).map(|arg| (*arg).to_owned()).collect()
}

fn copy(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-r").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn nothing_of_this_machine_opens_a_copy() {
    let home = protected();
    home.put_ok("notes/a", b"secret");
    let dir = copied(&home, "copy");
    // The key folder is the same one: its key file is no slot of the copy's.
    let refused = home.run(&["backup", "check", dir.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(6), "{}", String::from_utf8_lossy(&refused.stderr));
    let wrong = passwords(&home, &["not the password"]);
    home.fails(6, &["backup", "check", dir.to_str().unwrap(), "--password-file", &wrong]);
    check(&home, &dir, 0);
    // And the machine's own vault is as it was.
    assert_eq!(home.run(&["status"]).status.code(), Some(0));
}

#[test]
fn a_vault_that_no_person_opens_is_not_copied_and_no_folder_is_overwritten() {
    let home = Home::running();
    let dir = home.root().join("copy");
    let dir = dir.to_str().unwrap();
    assert!(home.fails(6, &["backup", "copy", dir]).contains("password or a recovery code"));
    assert!(!home.data().join("copy.part").exists());
    let home = protected();
    let dir = home.root().join("full");
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("x"), b"x").unwrap();
    assert!(home.fails(2, &["backup", "copy", dir.to_str().unwrap()]).contains("not empty"));
    assert!(check(&home, &dir, 1).contains("no vault"));
}

#[test]
fn damage_of_a_copy_is_found_and_named_and_a_cut_one_is_no_vault() {
    let home = protected();
    home.put_ok("notes/large", &bytes(1, 2 << 20));
    home.put_ok("notes/small", b"small");
    let dir = copied(&home, "copy");
    let whole: Vec<PathBuf> = files(&dir);
    for (at, path) in whole.iter().enumerate() {
        let copy_ = home.root().join(format!("damaged-{at}"));
        copy(&dir, &copy_);
        let path = copy_.join(path.strip_prefix(&dir).unwrap());
        if path.ends_with("security.yaml") || path.ends_with("worker.lock") || path.ends_with("lock") {
            continue;
        }
        let length = fs::metadata(&path).unwrap().len();
        let file = fs::OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let mut byte = [0];
        let middle = if path.ends_with("tail") { 40 } else { length / 2 };
        file.read_exact_at(&mut byte, middle).unwrap();
        file.write_all_at(&[byte[0] ^ 1], middle).unwrap();
        check(&home, &copy_, 1);
        fs::remove_dir_all(&copy_).unwrap();
    }
    fs::remove_file(dir.join("vault.aico")).unwrap();
    check(&home, &dir, 1);
}
