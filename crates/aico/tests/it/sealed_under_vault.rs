//! `aico file` under the vault: the backend gives the file's key, the content stays with the command line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use aico_net::{Client, Dial, Speaker, read_client_key};
use aico_proto::message::{FailureCode, OpenFileAnswer, Request, SealFileAnswer, StatusAnswer};

use crate::home::{Home, bytes};
use crate::keys::{PASSWORD, passwords, protected};
use crate::pty::Terminal;

/// A folder beside the vault, to work in.
fn work(home: &Home) -> PathBuf {
    let work = home.root().join("work");
    fs::create_dir_all(&work).unwrap();
    work
}

fn run(home: &Home, args: &[&str]) -> Output {
    home.command(&["file"]).args(args).current_dir(work(home)).output().unwrap()
}

fn good(home: &Home, args: &[&str]) -> Vec<u8> {
    let output = run(home, args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Has to fail, and to leave no `out`.
fn refused(home: &Home, args: &[&str]) -> (i32, String) {
    let output = run(home, args);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && output.stdout.is_empty(), "{args:?}: {said}");
    assert!(names(home).iter().all(|name| !name.starts_with("out")), "{:?}", names(home));
    (output.status.code().unwrap(), said)
}

fn names(home: &Home) -> Vec<String> {
    let entries = fs::read_dir(work(home)).unwrap();
    let mut names: Vec<String> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A vault, and a file sealed under it.
fn sealed(content: &[u8]) -> Home {
    let home = Home::running();
    fs::write(work(&home).join("diary.txt"), content).unwrap();
    good(&home, &["seal", "diary.txt", "-o", "sealed"]);
    fs::remove_file(work(&home).join("diary.txt")).unwrap();
    home
}

#[test]
fn what_was_sealed_opens_under_its_vault_whatever_it_is_called() {
    let home = Home::running();
    let at = |name: &str| work(&home).join(name);
    for length in [0, 5, 65_536, 300_000] {
        let content = bytes(9, length);
        fs::write(at("diary.txt"), &content).unwrap();
        good(&home, &["seal", "diary.txt", "-o", "sealed"]);
        fs::rename(at("sealed"), at("renamed")).unwrap();
        let opened = run(&home, &["open", "renamed", "-o", "out"]);
        assert!(opened.status.success());
        assert!(String::from_utf8_lossy(&opened.stderr).contains("sealed as diary.txt"));
        assert!(fs::read(at("out")).unwrap() == content);
        assert!(good(&home, &["cat", "renamed"]) == content);
        assert_eq!(names(&home), ["diary.txt", "out", "renamed"], "nothing is left over");
        ["out", "renamed"].into_iter().for_each(|name| fs::remove_file(at(name)).unwrap());
    }
    let log = home.text(&["audit", "tail", "-n", "100"]);
    assert!(log.contains("files.seal") && log.contains("files.open"), "{log}");
    // Nothing of it went to the backend.
    let status: serde_json::Value = serde_json::from_str(&home.text(&["status", "--json"])).unwrap();
    assert_eq!(status["values"], 0);
}

#[test]
fn no_changed_byte_of_it_is_given_out() {
    let home = sealed(b"dear diary");
    let file = work(&home).join("sealed");
    let whole = fs::read(&file).unwrap();
    let name = "diary.txt".len();
    assert_eq!(whole.len(), 159 + name + 10 + 16);
    for at in 0..whole.len() {
        let mut bad = whole.clone();
        bad[at] ^= 1;
        fs::write(&file, &bad).unwrap();
        let (_, said) = refused(&home, &["open", "sealed", "-o", "out"]);
        if (13..29).contains(&at) {
            assert!(said.contains("another vault, vault-"), "{at}: {said}");
        }
        if at % 10 == 0 {
            fs::write(&file, &whole[..at]).unwrap();
            refused(&home, &["open", "sealed", "-o", "out"]);
        }
    }
    for mode in [0, 1, 3, 255] {
        let mut bad = whole.clone();
        bad[12] = mode;
        fs::write(&file, &bad).unwrap();
        refused(&home, &["cat", "sealed"]);
    }
    // Lengths that a hostile header may claim.
    for length in [[0, 0], [1, 0], [0xff, 0xff]] {
        let mut bad = whole.clone();
        bad[117..119].copy_from_slice(&length);
        fs::write(&file, &bad).unwrap();
        assert_eq!(refused(&home, &["open", "sealed", "-o", "out"]).0, 1);
    }
    fs::write(&file, &whole).unwrap();
    assert_eq!(good(&home, &["cat", "sealed"]), b"dear diary");
}

#[test]
fn parts_of_other_files_do_not_fit() {
    let home = sealed(&bytes(1, 200_000));
    let at = |name: &str| work(&home).join(name);
    let whole = fs::read(at("sealed")).unwrap();
    fs::write(at("other.txt"), bytes(1, 200_000)).unwrap();
    good(&home, &["seal", "other.txt", "-o", "other"]);
    let other = fs::read(at("other")).unwrap();
    let header = 159 + "diary.txt".len();
    let chunk = 65_552;
    let (first, rest) = whole[header..].split_at(chunk);
    let (second, rest) = rest.split_at(chunk);
    for (bad, why) in [
        ([&whole[..header], second, first, rest].concat(), "another order"),
        ([&whole[..header], first, rest].concat(), "one chunk less"),
        ([&whole[..header], first, second].concat(), "without its end"),
        ([&other[..header], &whole[header..]].concat(), "the header of another file"),
        ([&other[..117], &whole[117..]].concat(), "the key of another file"),
        ([&whole[..117], &other[117..header], &whole[header..]].concat(), "the name of another file"),
        ([&whole[..header], &other[header..header + chunk], second, rest].concat(), "a chunk of another file"),
    ] {
        fs::write(at("sealed"), bad).unwrap();
        let (code, said) = refused(&home, &["open", "sealed", "-o", "out"]);
        assert!(code == 1 && said.contains("damaged"), "{why}: {said}");
    }
}

#[test]
fn it_needs_its_own_vault_open() {
    let mut home = sealed(b"content");
    let other = Home::running();
    fs::copy(work(&home).join("sealed"), work(&other).join("sealed")).unwrap();
    let header = fs::read(work(&home).join("sealed")).unwrap();
    let vault: String = header[13..29].iter().map(|byte| format!("{byte:02x}")).collect();
    let (code, said) = refused(&other, &["open", "sealed", "-o", "out"]);
    assert!(code == 6 && said.contains(&format!("another vault, vault-{vault}")), "{said}");

    home.ok(&["lock"]);
    assert_eq!(refused(&home, &["open", "sealed", "-o", "out"]).0, 9);
    assert_eq!(refused(&home, &["seal", "sealed", "-o", "out"]).0, 9);
    home.ok(&["unlock"]);
    home.down();
    let (code, said) = refused(&home, &["open", "sealed", "-o", "out"]);
    assert!(code == 4 && said.contains("aico up"), "{said}");
    assert_eq!(refused(&home, &["seal", "sealed", "-o", "out"]).0, 4);
    home.up();
    assert_eq!(good(&home, &["cat", "sealed"]), b"content");
}

#[test]
fn it_opens_after_a_rotation_and_never_again_after_forgetting_everything() {
    let mut home = protected();
    let file = passwords(&home, &[PASSWORD]);
    fs::write(work(&home).join("plain"), b"content").unwrap();
    good(&home, &["seal", "plain", "-o", "sealed"]);
    let cat = ["cat", "sealed", "--password-file", &file];
    home.ok(&["security", "rotate", "--password-file", &file]);
    assert_eq!(good(&home, &cat), b"content");
    home.down();
    home.up();
    assert_eq!(good(&home, &cat), b"content");
    home.ok(&["forget", "category", "notes", "--password-file", &file]);
    assert_eq!(good(&home, &cat), b"content");
    home.ok(&["forget", "space", "--password-file", &file]);
    let gone = |home: &Home| {
        let (code, said) = refused(home, &cat);
        assert!(code == 5 && said.contains("forgotten"), "{said}");
    };
    gone(&home);
    // With a key of the new space, too.
    good(&home, &["seal", "plain", "-o", "again"]);
    gone(&home);
    assert_eq!(good(&home, &["cat", "again", "--password-file", &file]), b"content");
    home.down();
    home.ok(&["vault", "verify", "--password-file", &file]);
    home.ok(&["audit", "verify"]);
}

#[test]
fn opening_asks_for_the_owner_and_sealing_does_not() {
    let home = protected();
    let at = |name: &str| work(&home).join(name).to_str().unwrap().to_owned();
    fs::write(at("plain"), b"content").unwrap();
    good(&home, &["seal", "plain", "-o", "sealed"]);
    let (code, said) = refused(&home, &["open", "sealed", "-o", "out"]);
    assert!(code == 6 && said.contains("password"), "{said}");
    let wrong = passwords(&home, &["wrong"]);
    assert_eq!(refused(&home, &["open", "sealed", "-o", "out", "--password-file", &wrong]).0, 6);
    let mut terminal = Terminal::run(&home, &["file", "open", &at("sealed"), "-o", &at("out")]);
    terminal.answer("Password: ", PASSWORD);
    assert_eq!(terminal.end().0, 0);
    assert_eq!(fs::read(at("out")).unwrap(), b"content");
}

#[test]
fn nothing_that_is_there_is_overwritten() {
    let home = sealed(b"content");
    fs::write(work(&home).join("kept"), b"kept").unwrap();
    for args in [["seal", "sealed", "-o", "kept"], ["open", "sealed", "-o", "kept"]] {
        assert_eq!(refused(&home, &args).0, 2);
    }
    assert_eq!(fs::read(work(&home).join("kept")).unwrap(), b"kept");
    assert_eq!(names(&home), ["kept", "sealed"]);
    let log = home.text(&["audit", "tail", "-n", "100"]);
    assert!(!log.contains("files.open"), "the key was not asked for: {log}");
}

#[test]
fn any_length_takes_the_same_memory() {
    let home = Home::running();
    let line = "ulimit -v 700000; head -c 900M /dev/zero | \"$0\" file seal - -o sealed \
                && \"$0\" file cat sealed | cmp - <(head -c 900M /dev/zero)";
    let program = home.command(&[]).get_program().to_owned();
    let mut command = Command::new("bash");
    command.arg("-c").arg(line).arg(program).current_dir(work(&home)).stdin(Stdio::null());
    let output = command.env("AICO_HOME", home.data()).env("AICO_KEY_DIR", home.keys()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(fs::metadata(work(&home).join("sealed")).unwrap().len(), (900 << 20) + 14_400 * 16 + 159 + 14);
}

async fn client(home: &Home, file: &Path) -> Client {
    let speaker = Speaker::new(read_client_key(file).unwrap()).unwrap();
    Dial::local(&home.data().join("run"), speaker).connect().await.unwrap()
}

fn code<T: std::fmt::Debug>(answer: Result<T, aico_net::Error>) -> FailureCode {
    answer.unwrap_err().failure_code().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_but_the_command_line_gets_a_key() {
    let home = sealed(b"content");
    let front: String =
        fs::read(work(&home).join("sealed")).unwrap()[..117].iter().map(|b| format!("{b:02x}")).collect();
    let open = Request::FilesOpen { header: front.clone() };
    for kind in ["frontend", "studio", "plugin"] {
        let file = home.root().join(format!("{kind}.key"));
        let args = ["identity", "export", file.to_str().unwrap(), "--kind", kind, "--name", kind];
        let mut terminal = Terminal::run(&home, &args);
        terminal.answer("Type `export` to go on: ", "export");
        let (ended, shown) = terminal.end();
        assert_eq!(ended, 0, "{shown}");
        let mut client = client(&home, &file).await;
        assert_eq!(code(client.ask::<OpenFileAnswer>(&open).await), FailureCode::Denied, "{kind}");
        assert_eq!(code(client.ask::<SealFileAnswer>(&Request::FilesSeal {}).await), FailureCode::Denied, "{kind}");
    }
    let log = home.text(&["audit", "tail", "-n", "100"]);
    assert!(log.contains("files.open") && log.contains("denied"), "{log}");

    // The command line itself, past the program: what is no front, or one of something else.
    let mut client = client(&home, &home.keys().join("clients/cli.key")).await;
    for bad in ["", "00", &front[2..], &format!("{front}00"), &front.to_uppercase(), &"0".repeat(234), &"z".repeat(234)]
    {
        let request = Request::FilesOpen { header: bad.to_owned() };
        assert_eq!(code(client.ask::<OpenFileAnswer>(&request).await), FailureCode::BadRequest, "{bad}");
    }
    // A wrapped key of nothing, under the right names.
    let wrapped_of_nothing = Request::FilesOpen { header: format!("{}{}", &front[..90], "0".repeat(144)) };
    assert_eq!(code(client.ask::<OpenFileAnswer>(&wrapped_of_nothing).await), FailureCode::Damaged);
    let two: Vec<SealFileAnswer> =
        vec![client.ask(&Request::FilesSeal {}).await.unwrap(), client.ask(&Request::FilesSeal {}).await.unwrap()];
    assert!(two[0].key.expose() != two[1].key.expose() && two[0].header != two[1].header, "a key for each file");
    let again: OpenFileAnswer = client.ask(&Request::FilesOpen { header: two[0].header.clone() }).await.unwrap();
    assert_eq!(again.key.expose(), two[0].key.expose());
    assert!(!format!("{again:?}").contains(again.key.expose()), "not in what is printed");
    client.ask::<StatusAnswer>(&Request::Status { notices: false }).await.unwrap();
}
