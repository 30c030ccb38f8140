//! A vault of the first format, made by the program that wrote it, is brought to this one.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::home::Home;

/// A home with the vault of format 1; `fixtures/vault-format-1.tar.xz` was made by the last program that wrote it.
fn old_vault() -> Home {
    let home = Home::new();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/vault-format-1.tar.xz");
    let done = Command::new("tar").arg("-xJf").arg(archive).arg("-C").arg(home.root()).status().unwrap();
    assert!(done.success());
    home
}

fn check(home: &Home) {
    assert_eq!(home.get("notes/a"), b"written by format 1");
    assert_eq!(home.get("notes/b"), [b'x'; 20_000]);
    assert!(home.text(&["audit", "verify", "--require-anchor"]).contains("anchored"));
    home.ok(&["identity", "list"]);
    home.ok(&["config", "show"]);
}

#[test]
fn an_old_vault_opens_with_everything_in_it() {
    let mut home = old_vault();
    let header = home.data().join("vault.aico");
    assert_eq!(std::fs::read(&header).unwrap()[8..10], [0, 1]);
    home.up();
    assert_eq!(std::fs::read(&header).unwrap()[8..10], [0, 2]);
    check(&home);
    home.down();
    home.up();
    check(&home);
}

#[test]
fn a_kill_at_any_step_of_the_migration_is_survived() {
    for delay in (0..60).step_by(3) {
        let mut home = old_vault();
        let mut child = home.command(&["up"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        home.up();
        check(&home);
    }
}

#[test]
fn an_older_program_is_told_which_version_the_vault_needs() {
    let home = old_vault();
    let path = home.data().join("vault.aico");
    let mut bytes = std::fs::read(&path).unwrap();
    // A header of a format that this program does not know, with the version that it needs.
    bytes.splice(8..10, [0, 9, 0, 7, 0, 8, 0, 9]);
    let end = bytes.len() - 64;
    let sum = aico_crypto::digest(&bytes[..end]);
    bytes[end..end + 32].copy_from_slice(&sum);
    std::fs::write(&path, &bytes).unwrap();
    let output = home.up_fails();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(errors.contains("needs aico 7.8.9 or newer"), "{errors}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes, "nothing was changed");
}
