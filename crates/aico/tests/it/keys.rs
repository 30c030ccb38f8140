//! A person's keys: passwords, the recovery code, slots, sessions, and the faults of the older system that must be
//! impossible here (`docs/manual/past-failures.md`).

use std::fs;
use std::path::PathBuf;

use crate::home::{Home, files};
use crate::pty::Terminal;

/// The floor, so that the tests are quick; it is the owner's to set.
const QUICK: &str = "security:\n  vault:\n    stretch_memory: 64\n";

pub(crate) const PASSWORD: &str = "correct horse battery";

/// A home whose password stretching is as cheap as it may be.
pub(crate) fn quick_home() -> Home {
    let home = Home::new();
    fs::create_dir(home.data()).unwrap();
    fs::write(home.data().join("security.yaml"), QUICK).unwrap();
    home
}

/// A file with passwords, one a line.
pub(crate) fn passwords(home: &Home, lines: &[&str]) -> String {
    let path: PathBuf = home.root().join("passwords");
    fs::write(&path, lines.join("\n")).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A running home with a password and a value.
pub(crate) fn protected() -> Home {
    let mut home = quick_home();
    home.up();
    home.put_ok("notes/a", b"kept");
    let file = passwords(&home, &[PASSWORD]);
    home.ok(&["security", "setup", "--password-file", &file]);
    home
}

fn get(home: &Home, lines: &[&str]) -> std::process::Output {
    let file = passwords(home, lines);
    home.run(&["data", "get", "notes/a", "--password-file", &file])
}

#[test]
fn a_wrong_password_is_refused_recorded_and_shown() {
    let home = protected();
    for wrong in ["wrong", "correct horse batterY", "correct horse battery "] {
        let refused = get(&home, &[wrong]);
        assert_eq!(refused.status.code(), Some(6));
        assert_eq!(refused.stdout, b"");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("the password is wrong"));
    }
    assert_eq!(get(&home, &[PASSWORD]).stdout, b"kept");
    assert!(home.text(&["audit", "tail"]).contains("auth.failed"));
    let status = home.text(&["status", "--json"]);
    assert!(status.contains("a wrong password") && status.contains("a first password was set"), "{status}");
    assert!(!home.text(&["status", "--json"]).contains("a first password"), "shown once");
}

#[test]
fn a_wrong_old_password_changes_nothing_and_a_change_opens_everything() {
    let mut home = protected();
    let header = fs::read(home.data().join("vault.aico")).unwrap();
    let passwd = |home: &Home, lines: &[&str], rotate: bool| {
        let file = passwords(home, lines);
        let mut args = vec!["security", "passwd", "--password-file", &file];
        args.extend(rotate.then_some("--rotate"));
        home.run(&args).status.code()
    };
    assert_eq!(passwd(&home, &["wrong", "new password"], false), Some(6));
    assert_eq!(passwd(&home, &[PASSWORD], false), Some(2), "no new one in the file");
    assert_eq!(passwd(&home, &[PASSWORD, "bad\u{1}password"], false), Some(2));
    assert_eq!(fs::read(home.data().join("vault.aico")).unwrap(), header, "not a byte has changed");
    assert_eq!(get(&home, &[PASSWORD]).stdout, b"kept");

    for (old, new, rotate) in [(PASSWORD, "second password", false), ("second password", "third password", true)] {
        assert_eq!(passwd(&home, &[old, new], rotate), Some(0), "{new}");
        assert_eq!(get(&home, &[old]).status.code(), Some(6));
        assert_eq!(get(&home, &[new]).stdout, b"kept");
        home.down();
        home.up();
        assert_eq!(get(&home, &[new]).stdout, b"kept", "and after a restart");
    }
}

#[test]
fn an_old_copy_of_the_header_opens_with_the_old_password_unless_the_root_key_was_renewed() {
    for rotate in [false, true] {
        let mut home = protected();
        let header = home.data().join("vault.aico");
        let old = fs::read(&header).unwrap();
        let file = passwords(&home, &[PASSWORD, "second password"]);
        let mut args = vec!["security", "passwd", "--password-file", &file];
        args.extend(rotate.then_some("--rotate"));
        home.ok(&args);
        home.put_ok("notes/b", b"later");
        home.down();
        fs::remove_dir_all(home.keys()).unwrap();
        fs::write(&header, &old).unwrap();
        let started = {
            let file = passwords(&home, &[PASSWORD]);
            home.up();
            home.run(&["unlock", "--password-file", &file]).status.code()
        };
        assert_eq!(started == Some(0), !rotate, "rotate: {rotate}, {started:?}");
        if !rotate {
            let told = home.text(&["status", "--json"]) + &home.text(&["audit", "tail"]);
            assert!(told.contains("older header was put back"), "{told}");
        }
    }
}

#[test]
fn a_lost_key_is_survived_with_the_password() {
    let mut home = protected();
    home.down();
    fs::remove_dir_all(home.keys()).unwrap();
    let shown = home.up();
    assert!(shown.contains("is locked") && shown.contains("key-file") || shown.contains("key file"), "{shown}");
    home.fails(9, &["data", "get", "notes/a"]);
    let file = passwords(&home, &["wrong"]);
    home.fails(6, &["unlock", "--password-file", &file]);
    let file = passwords(&home, &[PASSWORD]);
    home.ok(&["unlock", "--password-file", &file]);
    assert_eq!(get(&home, &[PASSWORD]).stdout, b"kept");
    let doctor = String::from_utf8(home.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("PROBLEM") && doctor.contains("aico security slots"), "{doctor}");
}

/// Makes a recovery code at a terminal; its words.
fn make_recovery_code(home: &Home, protected: bool) -> Vec<String> {
    let proof = if protected { ("Password: ", PASSWORD) } else { ("Type `recovery` to go on: ", "recovery") };
    make_recovery_code_by(home, &["security", "recovery"], Some(proof))
}

/// The same, with `args`; `proof` is asked for at the end, and its answer.
fn make_recovery_code_by(home: &Home, args: &[&str], proof: Option<(&str, &str)>) -> Vec<String> {
    let mut terminal = Terminal::run(home, args);
    let sheet = terminal.expect("Type word ");
    let words: Vec<String> = sheet
        .split_whitespace()
        .collect::<Vec<_>>()
        .windows(2)
        .filter(|pair| pair[0].trim_end_matches('.').parse::<usize>().is_ok() && pair[0].ends_with('.'))
        .map(|pair| pair[1].to_owned())
        .collect();
    assert_eq!(words.len(), 15, "{sheet}");
    for again in [true, false] {
        let place = terminal.expect(" of it: ");
        let place: usize = place.split_whitespace().next().unwrap().parse().unwrap();
        terminal.say(&words[place - 1]);
        if again {
            terminal.expect("Type word ");
        }
    }
    if let Some((prompt, answer)) = proof {
        terminal.answer(prompt, answer);
    }
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    assert!(shown.contains("in force") && shown.contains("note: a recovery code was made"), "{shown}");
    words
}

#[test]
fn a_password_file_serves_at_a_terminal_too() {
    let home = protected();
    let file = passwords(&home, &[PASSWORD]);
    make_recovery_code_by(&home, &["--password-file", &file, "security", "recovery"], None);
}

#[test]
fn the_recovery_code_opens_a_vault_that_lost_everything_else() {
    let mut home = protected();
    let words = make_recovery_code(&home, true);
    let status = home.text(&["status", "--json"]);
    assert!(status.contains("\"recovery_code\":true"), "{status}");
    home.down();
    fs::remove_dir_all(home.keys()).unwrap();
    home.up();
    let mut wrong = words.clone();
    wrong[6] = if words[6] == "zoo" { "zebra" } else { "zoo" }.to_owned();
    let file = passwords(&home, &[&wrong.join(" "), "a new password"]);
    let errors = home.fails(6, &["security", "recover", "--password-file", &file]);
    assert!(errors.contains("word 7"), "{errors}");
    let mut misspelt = words.clone();
    misspelt[2] = "zooo".to_owned();
    let file = passwords(&home, &[&misspelt.join(" "), "a new password"]);
    let errors = home.fails(6, &["security", "recover", "--password-file", &file]);
    assert!(errors.contains("word 3") && errors.contains("zoo"), "{errors}");
    let file = passwords(&home, &[&words.join(" "), "a new password"]);
    home.ok(&["security", "recover", "--password-file", &file]);
    assert_eq!(get(&home, &["a new password"]).stdout, b"kept");
    assert_eq!(get(&home, &[PASSWORD]).status.code(), Some(6), "the forgotten one is gone");
}

#[test]
fn a_code_that_was_not_written_down_is_not_made() {
    let home = protected();
    let mut terminal = Terminal::run(&home, &["security", "recovery"]);
    terminal.expect("Type word ");
    terminal.expect(" of it: ");
    terminal.say("notaword");
    let (code, shown) = terminal.end();
    assert_eq!(code, 2, "{shown}");
    assert!(home.text(&["status", "--json"]).contains("\"recovery_code\":false"));
    // And never into a pipe, a file or a log.
    let errors = home.fails(6, &["security", "recovery"]);
    assert!(errors.contains("terminal"), "{errors}");
}

#[test]
fn the_last_ways_in_stay() {
    let home = quick_home();
    let mut home = home;
    home.up();
    let mut terminal = Terminal::run(&home, &["security", "slots", "remove", "1"]);
    terminal.answer("Type `remove` to go on: ", "remove");
    let (code, shown) = terminal.end();
    assert_eq!(code, 6, "{shown}");
    assert!(shown.contains("cannot be removed"), "{shown}");
    home.fails(6, &["security", "clear", "--stored-keys"]);
    let file = passwords(&home, &[PASSWORD]);
    home.ok(&["security", "setup", "--password-file", &file]);
    home.fails(6, &["security", "slots", "remove", "1"]);
    home.fails(2, &["security", "setup", "--password-file", &file]);
    home.ok(&["security", "clear", "--stored-keys", "--password-file", &file]);
    assert!(files(&home.keys()).iter().all(|path| path.ends_with("clients/cli.key")), "the key file is gone");
    home.fails(6, &["security", "slots", "remove", "2", "--password-file", &file]);
    home.down();
    assert!(home.up().contains("is locked"), "only the owner opens it now");
    home.ok(&["unlock", "--password-file", &file]);
    home.ok(&["security", "slots", "add", "key-file", "--password-file", &file]);
    home.down();
    assert!(home.up().contains("unlocked by   key-file"));
    assert!(home.text(&["status", "--json"]).contains("a key slot was added"));
}

#[test]
fn sensitive_commands_ask_anew_and_others_use_the_session() {
    let home = protected();
    let mut shell = Terminal::shell(&home);
    let target = home.root().join("out");
    shell.say("aico data get notes/a");
    shell.answer("Password: ", "wrong");
    shell.answer("Password: ", PASSWORD);
    shell.expect("kept");
    assert_eq!(shell.code("aico data get notes/a"), 0, "the session is open");
    shell.say("aico security session");
    shell.expect("a session is open for");
    shell.say(&format!("aico data export {}", target.display()));
    shell.answer("Password: ", PASSWORD);
    shell.expect("1 of 1 values written");
    assert_eq!(shell.code("aico data get notes/a </dev/null"), 0, "the terminal is what counts");
    // Another terminal, and none, have no session.
    let mut other = Terminal::shell(&home);
    other.say("aico security session");
    other.expect("no session");
    home.fails(6, &["data", "get", "notes/a"]);
    // Its end is its end.
    assert_eq!(shell.code("aico security clear"), 0);
    assert_eq!(shell.code("aico data get notes/a </dev/null"), 6);
    // A password file opens no session.
    let file = passwords(&home, &[PASSWORD]);
    assert_eq!(other.code(&format!("aico data get notes/a --password-file {file}")), 0);
    assert_eq!(other.code("aico data get notes/a </dev/null"), 6);
}

#[test]
fn before_a_password_sensitive_commands_want_a_typed_word() {
    let home = Home::running();
    home.put_ok("notes/a", b"kept");
    let target = home.root().join("out");
    let args = ["data", "export", target.to_str().unwrap()];
    let errors = home.fails(6, &args);
    assert!(errors.contains("terminal"), "{errors}");
    assert!(!target.join("notes").exists());
    let mut terminal = Terminal::run(&home, &args);
    terminal.answer("Type `export` to go on: ", "exprot");
    assert_eq!(terminal.end().0, 2);
    let mut terminal = Terminal::run(&home, &args);
    terminal.answer("Type `export` to go on: ", "export");
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    assert_eq!(fs::read(target.join("notes/a")).unwrap(), b"kept");
}

#[test]
fn nothing_of_a_session_or_password_is_in_a_file() {
    let home = protected();
    let mut shell = Terminal::shell(&home);
    shell.say("aico data get notes/a");
    shell.answer("Password: ", PASSWORD);
    shell.expect("kept");
    let before: Vec<PathBuf> = files(home.root());
    shell.say("aico security session");
    shell.expect("a session is open");
    let known =
        ["vault.aico", "store.db", "tail", "checkpoint", "vkey", "backend.id", "lock", "security.yaml", "locked.log"];
    for path in before.iter().filter(|path| !path.ends_with("passwords")) {
        let bytes = fs::read(path).unwrap();
        let secret = PASSWORD.as_bytes();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", path.display());
        let name = path.file_name().unwrap().to_str().unwrap();
        let expected = known.iter().any(|known| name.contains(known)) || name.ends_with(".key");
        assert!(expected, "what is {}?", path.display());
    }
}

#[test]
fn a_password_on_standard_input_is_refused_where_that_is_the_data() {
    let home = protected();
    let errors = home.fails(2, &["data", "put", "notes/b", "-", "--password-file", "-"]);
    assert!(errors.contains("--password-file FILE"), "{errors}");
    home.fails(1, &["data", "get", "notes/a", "--password-file", "/no/such/file"]);
    home.fails(2, &["data", "get", "notes/a", "--password-file", "/dev/null"]);
}
