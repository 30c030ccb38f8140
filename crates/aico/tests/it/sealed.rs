//! `aico file`: single files under a passphrase, without a vault.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use crate::home::{Home, bytes};
use crate::pty::Terminal;

const PASSPHRASE: &str = "a passphrase for a friend";

/// A folder with a passphrase in it, and no vault.
fn here() -> Home {
    let home = Home::new();
    fs::write(home.root().join("right"), PASSPHRASE).unwrap();
    fs::write(home.root().join("wrong"), "another passphrase").unwrap();
    home
}

fn at(home: &Home, name: &str) -> PathBuf {
    home.root().join(name)
}

fn run(home: &Home, passphrase: &str, args: &[&str]) -> Output {
    let mut command = home.command(&["--password-file", passphrase, "file"]);
    command.args(args).current_dir(home.root()).output().unwrap()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// Every name in the folder.
fn names(home: &Home) -> Vec<String> {
    let names = fs::read_dir(home.root()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

#[test]
fn what_was_sealed_is_opened_by_its_passphrase_alone() {
    let home = here();
    for length in [0, 5, 65_536, 200_000] {
        let content = bytes(9, length);
        fs::write(at(&home, "diary.txt"), &content).unwrap();
        assert_eq!(code(&run(&home, "right", &["seal", "diary.txt", "-o", "sealed"])), Some(0));
        let wrong = run(&home, "wrong", &["open", "sealed", "-o", "opened"]);
        assert_eq!(code(&wrong), Some(6), "{}", String::from_utf8_lossy(&wrong.stderr));
        assert!(!at(&home, "opened").exists());
        let opened = run(&home, "right", &["open", "sealed", "-o", "opened"]);
        assert!(String::from_utf8_lossy(&opened.stderr).contains("sealed as diary.txt"));
        assert!(fs::read(at(&home, "opened")).unwrap() == content);
        assert!(run(&home, "right", &["cat", "sealed"]).stdout == content);
        assert_eq!(names(&home), ["diary.txt", "opened", "right", "sealed", "wrong"], "no vault, nothing left over");
        ["opened", "sealed"].into_iter().for_each(|name| fs::remove_file(at(&home, name)).unwrap());
    }
}

#[test]
fn a_passphrase_is_asked_for_by_name_and_twice() {
    let home = here();
    fs::write(at(&home, "plain"), b"content").unwrap();
    // Without the word it is the vault that is asked for, and there is none.
    let (file, out) = (at(&home, "plain"), at(&home, "sealed"));
    let said = home.fails(4, &["file", "seal", file.to_str().unwrap(), "-o", out.to_str().unwrap()]);
    assert!(said.contains("aico up"), "{said}");
    let (plain, sealed) = (at(&home, "plain"), at(&home, "sealed"));
    let args = ["file", "seal", "--passphrase", plain.to_str().unwrap(), "-o", sealed.to_str().unwrap()];
    assert!(home.fails(6, &args).contains("terminal"));
    let mut terminal = Terminal::run(&home, &args);
    terminal.answer("New password: ", PASSPHRASE);
    terminal.answer("The same again: ", "something else");
    assert_eq!(terminal.end().0, 2);
    assert_eq!(names(&home), ["plain", "right", "wrong"]);
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let home = here();
    fs::write(at(&home, "plain"), b"content").unwrap();
    run(&home, "right", &["seal", "plain", "-o", "sealed"]);
    fs::write(at(&home, "kept"), b"kept").unwrap();
    std::os::unix::fs::symlink("nowhere", at(&home, "link")).unwrap();
    for args in [["seal", "plain", "-o", "kept"], ["open", "sealed", "-o", "kept"], ["open", "sealed", "-o", "link"]] {
        let output = run(&home, "right", &args);
        assert_eq!(code(&output), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(fs::read(at(&home, "kept")).unwrap(), b"kept");
    assert_eq!(names(&home), ["kept", "link", "plain", "right", "sealed", "wrong"]);
}

#[test]
fn what_does_not_authenticate_never_becomes_a_file() {
    let home = here();
    fs::write(at(&home, "plain"), bytes(4, 300_000)).unwrap();
    run(&home, "right", &["seal", "plain", "-o", "sealed"]);
    let good = fs::read(at(&home, "sealed")).unwrap();
    let flipped = |at: usize| {
        let mut file = good.clone();
        file[at] ^= 1;
        file
    };
    let mut bad: Vec<Vec<u8>> = [0, 8, 12, 60, 140, 1000, 150_000, good.len() - 1].map(flipped).to_vec();
    bad.extend([0, 7, 100, 131, 70_000, good.len() - 1].map(|cut| good[..cut].to_vec()));
    bad.push([good.as_slice(), b"more"].concat());
    for (number, file) in bad.iter().enumerate() {
        fs::write(at(&home, "sealed"), file).unwrap();
        let output = run(&home, "right", &["open", "sealed", "-o", "opened"]);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(code(&output), Some(1), "{number}: {errors}");
        assert!(errors.contains("sealed file"), "{number}: {errors}");
        assert_eq!(names(&home), ["plain", "right", "sealed", "wrong"]);
        assert_ne!(code(&run(&home, "right", &["cat", "sealed"])), Some(0), "{number}");
    }
}

#[test]
fn a_stopped_or_full_attempt_leaves_no_file_of_that_name() {
    let home = here();
    let mut command = home.command(&["--password-file", "right", "file", "seal", "-", "-o", "sealed"]);
    let mut child = command.current_dir(home.root()).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.as_mut().unwrap().write_all(&bytes(1, 400_000)).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!at(&home, "sealed").exists());
    // A limit on files stands for a full disk.
    fs::write(at(&home, "plain"), bytes(2, 400_000)).unwrap();
    assert_eq!(code(&run(&home, "right", &["seal", "plain", "-o", "good"])), Some(0));
    for words in ["seal plain -o sealed", "open good -o sealed"] {
        let line = format!("ulimit -f 100; trap '' XFSZ; exec \"$0\" --password-file right file {words}");
        let program = home.command(&[]).get_program().to_owned();
        let mut limited = std::process::Command::new("bash");
        let output = limited.arg("-c").arg(line).arg(program).current_dir(home.root()).output().unwrap();
        assert_eq!(code(&output), Some(7), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!at(&home, "sealed").exists(), "{words}");
    }
}

#[test]
fn any_length_takes_the_same_memory() {
    let home = here();
    // More content than the program may have memory.
    let line = "ulimit -v 700000; head -c 900M /dev/zero | \"$0\" --password-file right file seal - -o sealed \
                && \"$0\" --password-file right file cat sealed | cmp - <(head -c 900M /dev/zero)";
    let program = home.command(&[]).get_program().to_owned();
    let output =
        std::process::Command::new("bash").arg("-c").arg(line).arg(program).current_dir(home.root()).output().unwrap();
    assert_eq!(code(&output), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::metadata(at(&home, "sealed")).unwrap().len(), (900 << 20) + 14_400 * 16 + 171 + 14);
}
