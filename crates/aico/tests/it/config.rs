//! `security.yaml`: faults are pointed at, and what weakens waits for the owner.

use std::fs;

use crate::home::Home;
use crate::keys::{PASSWORD, passwords, protected};
use crate::pty::Terminal;

fn write(home: &Home, text: &str) {
    fs::write(home.data().join("security.yaml"), text).unwrap();
}

fn restart(home: &mut Home) -> String {
    home.down();
    home.up()
}

#[test]
fn a_same_user_program_that_edits_the_file_weakens_nothing() {
    let mut home = Home::running();
    write(&home, "security:\n  components:\n    backend:\n      listen_address: 127.0.0.1:0\n");
    let shown = restart(&mut home);
    assert!(!shown.contains("tcp ") && shown.contains("would weaken"), "{shown}");
    assert!(home.text(&["status", "--json"]).contains("\"tcp\":null"));
    let waiting = home.text(&["config", "show"]);
    assert!(waiting.contains("listen_address") && waiting.contains("weakens"), "{waiting}");
    home.fails(6, &["config", "accept"]);
    assert!(restart(&mut home).contains("would weaken"), "until the owner accepts it");
    let mut terminal = Terminal::run(&home, &["config", "accept"]);
    terminal.answer("Type `accept` to go on: ", "accept");
    assert_eq!(terminal.end().0, 0);
    let shown = restart(&mut home);
    assert!(shown.contains("tcp           127.0.0.1:"), "{shown}");
    assert!(home.text(&["audit", "tail", "-n", "60"]).contains("config.accepted"));
}

#[test]
fn an_edit_while_it_runs_is_recorded_and_shown_once() {
    let home = Home::running();
    write(&home, "security:\n  transport:\n    clock_skew: report\n    session_timeout: 7200\n");
    let began = std::time::Instant::now();
    while !home.text(&["audit", "tail"]).contains("config.edited") {
        assert!(began.elapsed() < std::time::Duration::from_secs(20));
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert!(home.text(&["status", "--json"]).contains("would weaken security.transport.session_timeout"));
    std::thread::sleep(std::time::Duration::from_millis(5500));
    assert!(home.text(&["status", "--json"]).contains("\"notices\":[]"), "once");
}

#[test]
fn what_does_not_weaken_is_taken_over_and_shown() {
    let mut home = Home::running();
    write(&home, "security:\n  transport:\n    session_timeout: 600\n");
    assert!(restart(&mut home).contains("is in force"));
    assert!(home.text(&["config", "show"]).contains("session_timeout: 600"));
    write(&home, "");
    assert!(restart(&mut home).contains("would weaken"), "back to the default is weaker than what was accepted");
    assert!(home.text(&["config", "show"]).contains("session_timeout: 600"));
}

#[test]
fn a_fault_is_pointed_at_and_the_accepted_text_stays_in_force() {
    let mut home = Home::running();
    write(&home, "security:\n  transport:\n    sesion_timeout: 600\n");
    let errors = home.fails(2, &["config", "check"]);
    assert!(errors.contains("security.yaml: line 3") && errors.contains("did you mean `session_timeout`?"), "{errors}");
    let shown = restart(&mut home);
    assert!(shown.contains("line 3") && shown.contains("stays in force"), "{shown}");
    home.ok(&["status"]);
    let fresh = Home::new();
    fs::create_dir(fresh.data()).unwrap();
    write(&fresh, "security: 7\n");
    let output = fresh.up_fails();
    assert_eq!(output.status.code(), Some(2), "a first start has nothing to go on with");
}

#[test]
fn only_allowed_components_come_in() {
    let home = protected();
    let file = passwords(&home, &[PASSWORD]);
    let (cli, app) = (home.root().join("cli2.key"), home.root().join("app.key"));
    write(
        &home,
        "security:\n  vault:\n    stretch_memory: 64\n  components:\n    backend:\n      allowed_components: [cli]\n",
    );
    home.ok(&["config", "accept", "--password-file", &file]);
    let export = |path: &std::path::Path, kind: &str| {
        home.run(&["identity", "export", path.to_str().unwrap(), "--kind", kind, "--password-file", &file])
    };
    assert!(export(&cli, "cli").status.success());
    let refused = export(&app, "frontend");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("allowed_components"));
    assert!(!app.exists());
    let output = home.run(&["identity", "enrol", app.to_str().unwrap()]);
    assert!(!output.status.success(), "at the door, too");
}

#[test]
fn the_clients_own_settings_work() {
    let home = protected();
    let file = passwords(&home, &[PASSWORD]);
    let other = home.root().join("other.key");
    home.ok(&["identity", "export", other.to_str().unwrap(), "--kind", "cli", "--password-file", &file]);
    let quick = "security:\n  vault:\n    stretch_memory: 64\n  components:\n    cli:\n";
    write(&home, &format!("{quick}      identity_file: {}\n", other.display()));
    let fingerprint = |text: String| text.split_whitespace().nth(2).unwrap_or_default().to_owned();
    let connections = home.text(&["status", "--connections"]);
    assert_ne!(fingerprint(connections), "", "it speaks as the other identity");
    fs::remove_file(home.keys().join("clients/cli.key")).unwrap();
    home.ok(&["status"]);
    write(&home, &format!("{quick}      identity_file: {}\n      security_level: high\n", other.display()));
    assert!(home.text(&["status", "--connections"]).contains("hybrid"));
    write(&home, &format!("{quick}      identity_file: {}\n  transport:\n    post_quantum: false\n", other.display()));
    assert!(home.text(&["status", "--connections"]).contains("classical"));
}

#[test]
fn a_backend_of_level_high_wants_the_hybrid_exchange() {
    let mut home = Home::running();
    let high = "security:\n  components:\n    backend:\n      security_level: high\n";
    write(&home, high);
    restart(&mut home);
    home.ok(&["status"]);
    write(&home, &format!("{high}  transport:\n    post_quantum: false\n"));
    assert!(!home.run(&["status"]).status.success(), "a client without ML-KEM is refused");
}
