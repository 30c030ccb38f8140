//! Identities that are not enrolled, and how they come in.

use std::path::Path;
use std::process::Stdio;

use aico_net::{Client, Dial, Error as NetError, Speaker, read_client_key};
use aico_proto::message::{AuditAnswer, DoneAnswer, FailureCode, ListAnswer, PendingAnswer, Request, StatusAnswer};

use crate::home::Home;
use crate::pty::Terminal;

/// An identity of our own, made by the program, that waits; its fingerprint.
fn waiting(home: &Home, file: &Path, kind: &str) -> (std::process::Child, String) {
    let mut command = home.command(&["identity", "enrol", file.to_str().unwrap(), "--kind", kind, "--name", "visitor"]);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut pending = String::new();
    while pending.is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(10));
        pending = home.text(&["identity", "pending"]);
    }
    (child, pending.split(' ').next().unwrap().to_owned())
}

async fn client(home: &Home, file: &Path) -> Result<Client, NetError> {
    Dial::local(&home.data().join("run"), Speaker::new(read_client_key(file)?)?).connect().await
}

fn denied<T: std::fmt::Debug>(answer: Result<T, NetError>) {
    assert_eq!(answer.unwrap_err().failure_code(), Some(FailureCode::Denied));
}

#[tokio::test(flavor = "multi_thread")]
async fn before_it_is_enrolled_an_identity_may_only_ask() {
    let home = Home::running();
    home.put_ok("notes/a", b"x");
    let file = home.root().join("visitor.key");
    let (mut child, _) = waiting(&home, &file, "cli");
    child.kill().unwrap();
    child.wait().unwrap();
    for request in [
        Request::Status { notices: false },
        Request::DataGet { path: "notes/a".into() },
        Request::DataPut { path: "notes/b".into() },
        Request::DataList { prefix: None, after: None },
        Request::DataRemove { path: "notes/a".into() },
        Request::AuditTail { count: 1 },
        Request::IdentityPending {},
        Request::IdentityApprove { fingerprint: "x".into() },
        Request::SystemStop {},
    ] {
        let mut client = client(&home, &file).await.unwrap();
        denied(client.ask::<serde_json::Value>(&request).await);
        assert!(client.ask::<serde_json::Value>(&Request::Enrol {}).await.is_err(), "and the channel is over");
    }
    assert_eq!(home.get("notes/a"), b"x");
    home.ok(&["status"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owner_lets_a_frontend_in_and_it_may_what_frontends_may() {
    let mut home = Home::running();
    home.put_ok("notes/a", b"x");
    let file = home.root().join("app.key");
    let (child, fingerprint) = waiting(&home, &file, "frontend");
    home.fails(5, &["identity", "approve", "aaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaa"]);
    let mut terminal = Terminal::run(&home, &["identity", "approve", &fingerprint]);
    terminal.answer("Type `approve` to go on: ", "approve");
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for _ in 0..2 {
        let mut client = client(&home, &file).await.unwrap();
        assert_eq!(
            client.ask::<ListAnswer>(&Request::DataList { prefix: None, after: None }).await.unwrap().entries.len(),
            1
        );
        client.ask::<StatusAnswer>(&Request::Status { notices: false }).await.unwrap();
        denied(client.ask::<AuditAnswer>(&Request::AuditTail { count: 1 }).await);
        denied(client.ask::<DoneAnswer>(&Request::SystemStop {}).await);
        denied(client.ask::<PendingAnswer>(&Request::IdentityPending {}).await);
        client.close().await.unwrap();
        home.down();
        home.up();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_owners_no_is_a_no() {
    let home = Home::running();
    let file = home.root().join("app.key");
    let (child, fingerprint) = waiting(&home, &file, "frontend");
    home.ok(&["identity", "deny", &fingerprint]);
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(6), "{}", String::from_utf8_lossy(&output.stderr));
    let mut client = client(&home, &file).await.unwrap();
    denied(client.ask::<StatusAnswer>(&Request::Status { notices: false }).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_can_approve_themselves() {
    let home = Home::running();
    let file = home.root().join("app.key");
    let (mut child, fingerprint) = waiting(&home, &file, "cli");
    let mut second = client(&home, &file).await.unwrap();
    denied(second.ask::<DoneAnswer>(&Request::IdentityApprove { fingerprint }).await);
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_lost_command_line_key_is_replaced_at_a_start_and_the_owner_is_told() {
    let mut home = Home::running();
    let key = home.keys().join("clients/cli.key");
    home.put_ok("notes/a", b"x");
    std::fs::remove_file(&key).unwrap();
    let errors = home.fails(6, &["status"]);
    assert!(errors.contains("cli.key") && errors.contains("hint: "), "{errors}");
    home.kill();
    home.up();
    assert!(home.text(&["status"]).contains("a command line was enrolled at the start"));
    assert!(!home.text(&["status"]).contains("was enrolled"), "it is said once");
    assert_eq!(home.get("notes/a"), b"x");
}
