//! Locking: the process with the keys ends, the socket stays, and what is tried is written down.

use std::fs;
use std::time::{Duration, Instant};

use aico_net::{Dial, Speaker, read_client_key};
use aico_proto::message::{DoneAnswer, FailureCode, ListAnswer, PutAnswer, Request, StatusAnswer};

use crate::home::Home;
use crate::keys::{PASSWORD, passwords, protected};
use crate::pty::Terminal;

fn dial(home: &Home) -> Dial {
    let key = read_client_key(&home.keys().join("clients/cli.key")).unwrap();
    Dial::local(&home.data().join("run"), Speaker::new(key).unwrap())
}

fn worker_of(home: &Home) -> u32 {
    let text = fs::read_to_string(home.data().join("run/worker.lock")).unwrap();
    text.trim().strip_prefix("process ").unwrap().parse().unwrap()
}

#[test]
fn a_locked_backend_answers_status_and_unlocking_and_nothing_else() {
    let home = protected();
    let before = worker_of(&home);
    home.ok(&["lock"]);
    assert!(!std::path::Path::new(&format!("/proc/{before}")).exists(), "the old process is gone");
    assert_ne!(worker_of(&home), before);
    let status: serde_json::Value = serde_json::from_str(&home.text(&["status", "--json"])).unwrap();
    assert_eq!((&status["locked"], &status["values"]), (&true.into(), &0.into()));
    let path = home.root().join("out");
    for args in [
        &["data", "get", "notes/a"][..],
        &["data", "list"],
        &["data", "rm", "notes/a"],
        &["data", "export", path.to_str().unwrap()],
        &["audit", "tail"],
        &["identity", "pending"],
        &["identity", "list"],
        &["security", "slots", "list"],
        &["config", "show"],
        &["down"],
    ] {
        home.fails(9, args);
    }
    assert_eq!(home.put("notes/b", b"x").status.code(), Some(9));
    let wrong = passwords(&home, &["wrong"]);
    home.fails(6, &["unlock", "--password-file", &wrong]);
    home.fails(6, &["unlock"]);
    let right = passwords(&home, &[PASSWORD]);
    home.ok(&["unlock", "--password-file", &right]);
    assert_eq!(home.ok(&["data", "get", "notes/a", "--password-file", &right]), b"kept");
    let log = home.text(&["audit", "tail", "-n", "40"]);
    for happened in ["system.lock", "locked.start", "request.refused", "unlock.failed: a wrong password"] {
        assert!(log.contains(happened), "{happened} in {log}");
    }
    assert!(home.text(&["audit", "verify", "--require-anchor"]).contains("anchored"));
}

#[test]
fn a_lock_survives_restarts_until_its_owner_comes() {
    let mut home = protected();
    home.ok(&["lock"]);
    let right = passwords(&home, &[PASSWORD]);
    for _ in 0..2 {
        home.kill();
        assert!(home.up().contains("is locked"), "though the key file is there");
    }
    home.fails(6, &["unlock"]);
    home.ok(&["unlock", "--password-file", &right]);
    home.down();
    assert!(home.up().contains("is open"), "and then it opens by itself again");
}

#[test]
fn where_no_password_was_ever_set_any_rung_unlocks() {
    let mut home = Home::running();
    home.put_ok("notes/a", b"kept");
    home.ok(&["lock"]);
    home.fails(9, &["data", "get", "notes/a"]);
    home.kill();
    assert!(home.up().contains("is locked"));
    home.ok(&["unlock"]);
    assert_eq!(home.get("notes/a"), b"kept");
}

#[test]
fn an_edit_of_the_header_does_not_undo_a_lock() {
    let mut home = protected();
    home.ok(&["lock"]);
    home.kill();
    let path = home.data().join("vault.aico");
    let mut bytes = fs::read(&path).unwrap();
    assert_eq!(bytes[44], 2, "the flag");
    bytes[44] = 0;
    let end = bytes.len() - 64;
    let sum = aico_crypto::digest(&bytes[..end]);
    bytes[end..end + 32].copy_from_slice(&sum);
    fs::write(&path, bytes).unwrap();
    let output = home.up_fails();
    assert!(String::from_utf8_lossy(&output.stderr).contains("damaged"));
}

#[test]
fn the_record_of_a_locked_time_cannot_be_changed_unnoticed() {
    let mut home = protected();
    home.ok(&["lock"]);
    let wrong = passwords(&home, &["wrong"]);
    home.fails(6, &["unlock", "--password-file", &wrong]);
    home.kill();
    let path = home.data().join("locked.log");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("a wrong password", "a right password")).unwrap();
    home.up();
    let right = passwords(&home, &[PASSWORD]);
    home.ok(&["unlock", "--password-file", &right]);
    assert!(home.text(&["status", "--json"]).contains("was changed or removed"));
}

/// The key file is there, and a program of the owner's user speaks for itself, past the command line.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_machine_keeps_does_not_undo_the_lock_of_somebody_with_a_password() {
    let home = protected();
    home.ok(&["lock"]);
    let mut client = dial(&home).connect().await.unwrap();
    let refused = client.ask::<DoneAnswer>(&Request::Unlock { proof: None }).await.unwrap_err();
    assert_eq!(refused.failure_code(), Some(FailureCode::Locked));
    home.fails(9, &["data", "list"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_connections_end_when_it_is_locked() {
    let home = protected();
    let mut idle = dial(&home).connect().await.unwrap();
    idle.ask::<StatusAnswer>(&Request::Status { notices: false }).await.unwrap();
    let mut busy = dial(&home).connect().await.unwrap();
    let (mut feeder, mut source) = tokio::io::duplex(1024);
    let put = tokio::spawn(async move { busy.put("notes/big", &mut source).await });
    tokio::io::AsyncWriteExt::write_all(&mut feeder, &[7; 512]).await.unwrap();
    let began = Instant::now();
    home.ok(&["lock"]);
    assert!(began.elapsed() < Duration::from_secs(5));
    assert!(idle.ask::<StatusAnswer>(&Request::Status { notices: false }).await.is_err());
    let cut: Result<PutAnswer, _> = put.await.unwrap();
    assert!(cut.is_err(), "what was not acknowledged is not stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_identity_is_cut_within_a_second_in_the_middle_of_a_transfer() {
    let home = Home::running();
    let file = home.root().join("app.key");
    let mut terminal = Terminal::run(&home, &["identity", "export", file.to_str().unwrap(), "--name", "app"]);
    terminal.answer("Type `export` to go on: ", "export");
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    let key = || aico_net::read_component_file(&file).unwrap().0;
    let app = Dial::local(&home.data().join("run"), Speaker::new(key()).unwrap());
    let mut idle = app.connect().await.unwrap();
    idle.ask::<ListAnswer>(&Request::DataList { prefix: None, after: None }).await.unwrap();
    let mut busy = app.connect().await.unwrap();
    let (mut feeder, mut source) = tokio::io::duplex(1024);
    let put = tokio::spawn(async move {
        let stored: Result<PutAnswer, _> = busy.put("notes/big", &mut source).await;
        (stored, Instant::now())
    });
    tokio::io::AsyncWriteExt::write_all(&mut feeder, &[7; 512]).await.unwrap();
    let fingerprint = key().identity().fingerprint().to_string();
    home.ok(&["identity", "rename", &fingerprint, "my phone"]);
    assert!(home.text(&["identity", "list"]).contains("my phone"));
    let began = Instant::now();
    home.ok(&["identity", "revoke", &fingerprint]);
    let (stored, ended) = put.await.unwrap();
    assert!(stored.is_err() && ended.duration_since(began) < Duration::from_secs(1), "{stored:?}");
    assert!(idle.ask::<StatusAnswer>(&Request::Status { notices: false }).await.is_err());
    let mut again = app.connect().await;
    if let Ok(client) = &mut again {
        assert!(client.ask::<StatusAnswer>(&Request::Status { notices: false }).await.is_err(), "it is refused");
    }
    assert!(home.text(&["identity", "list", "--json"]).contains("\"revoked\""));
    assert!(!home.text(&["data", "list"]).contains("big"));
    home.fails(5, &["identity", "revoke", &fingerprint]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_identity_of_the_command_line_revokes_the_old_one() {
    let home = Home::running();
    home.put_ok("notes/a", b"kept");
    let old = dial(&home);
    let mut terminal = Terminal::run(&home, &["identity", "regenerate"]);
    terminal.answer("Type `regenerate` to go on: ", "regenerate");
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    assert_eq!(home.get("notes/a"), b"kept");
    if let Ok(mut client) = old.connect().await {
        let refused = client.ask::<DoneAnswer>(&Request::SystemStop {}).await.unwrap_err();
        assert_ne!(refused.failure_code(), Some(FailureCode::BadRequest));
    }
    home.ok(&["status"]);
}

#[test]
fn a_lost_identity_of_the_command_line_is_led_through() {
    let mut home = protected();
    fs::remove_file(home.keys().join("clients/cli.key")).unwrap();
    let doctor = String::from_utf8(home.run(&["doctor"]).stdout).unwrap();
    assert!(doctor.contains("PROBLEM") && doctor.contains("`aico up` again"), "{doctor}");
    home.fails(6, &["status"]);
    let pid = home.backend_pid().to_string();
    std::process::Command::new("kill").args(["-s", "TERM", &pid]).status().unwrap();
    home.wait();
    home.up();
    let file = passwords(&home, &[PASSWORD]);
    assert_eq!(home.ok(&["data", "get", "notes/a", "--password-file", &file]), b"kept");
}
