//! `aico doctor`, and what it says of each loss: words that a person can act on.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use crate::home::{Home, files};
use crate::session::{PASSWORD, Session, log_in};

/// A home whose vault opens by the keyring and by the key file; its backend is stopped.
fn with_keyring() -> (Home, Session) {
    let session = Session::new();
    let mut home = Home::new();
    home.set("DBUS_SESSION_BUS_ADDRESS", session.address());
    let shown = home.up();
    assert!(shown.contains("unlocked by   secret-service\n"), "{shown}");
    home.put_ok("notes/a", b"kept");
    home.down();
    (home, session)
}

fn doctor(home: &Home) -> String {
    String::from_utf8(home.run(&["doctor"]).stdout).unwrap()
}

/// Each word stands in what it says, and the vault opens by the other way meanwhile.
fn says(home: &mut Home, words: &[&str], by: &str) {
    let told = doctor(home);
    words.iter().for_each(|word| assert!(told.contains(word), "{word}: {told}"));
    assert!(told.contains("PROBLEM") && told.contains("another slot opens the vault until then"), "{told}");
    assert!(told.contains("aico security slots remove") && told.contains("aico security slots add"), "{told}");
    let shown = home.up();
    assert!(shown.contains(&format!("unlocked by   {by}\n")), "{shown}");
    assert_eq!(home.get("notes/a"), b"kept");
    home.down();
}

#[test]
fn it_explains_each_loss_and_another_way_opens_the_vault_meanwhile() {
    let (mut home, mut session) = with_keyring();
    let told = doctor(&home);
    assert!(told.contains("the session's keyring opens the vault") && !told.contains("PROBLEM"), "{told}");

    session.stop_keyring();
    session.start_keyring(None);
    says(&mut home, &["Secret Service, does not open the vault now", "the keyring is locked", "unlock it"], "key-file");
    session.stop_keyring();
    says(&mut home, &["no keyring runs in this session", "start it"], "key-file");
    session.start_keyring(Some(PASSWORD));
    session.default_to("session");
    says(&mut home, &["`session`, which is forgotten at logout", "make a lasting one the default"], "key-file");
    session.default_to("login");
    session.stop_bus();
    says(&mut home, &["the session's D-Bus does not answer", "log in anew, or start the bus"], "key-file");
    home.set("DBUS_SESSION_BUS_ADDRESS", "");
    says(&mut home, &["this session has no D-Bus"], "key-file");
    session.start_bus();
    home.set("DBUS_SESSION_BUS_ADDRESS", session.address());
    let vault = vault_name(&home);
    session.write_entry(&vault, "2", b"rubbish");
    says(&mut home, &["the keyring's entry for vault-", "does not hold a key"], "key-file");
}

#[test]
fn it_explains_a_lost_key_file_and_an_open_key_folder() {
    let (mut home, _session) = with_keyring();
    fs::set_permissions(home.keys(), Permissions::from_mode(0o770)).unwrap();
    log_in();
    let words = ["key file, does not open the vault now", "can be written to by others", "`chmod go-w` closes it"];
    says(&mut home, &words, "secret-service");
    fs::set_permissions(home.keys(), Permissions::from_mode(0o700)).unwrap();
    let key = files(&home.keys()).into_iter().find(|path| path.to_str().unwrap().contains("vault-")).unwrap();
    fs::rename(&key, home.root().join("aside")).unwrap();
    log_in();
    says(&mut home, &["key file, does not open the vault now", "is not there"], "secret-service");
    // Without any of them it says so, and what is left to do.
    home.set("DBUS_SESSION_BUS_ADDRESS", "");
    log_in();
    let told = doctor(&home);
    assert!(told.contains("put the key file back") && told.contains("nothing else opens the vault"), "{told}");
    let refused = home.up_fails();
    let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(errors.contains("nothing here unlocks the vault") && errors.contains("is not there"), "{errors}");
}

/// The kernel spares a login session the keyring, and neither a lock nor another login.
#[test]
fn it_tells_what_the_kernel_remembers_and_a_lock_makes_it_forget() {
    let (mut home, _session) = with_keyring();
    home.set("DBUS_SESSION_BUS_ADDRESS", "");
    let told = doctor(&home);
    assert!(told.contains("it remembers the keyring's secret for this login session"), "{told}");
    let shown = home.up();
    assert!(shown.contains("unlocked by   secret-service, which the kernel still remembered"), "{shown}");
    assert_eq!(home.get("notes/a"), b"kept");
    home.ok(&["lock"]);
    let told = doctor(&home);
    assert!(told.contains("it remembers nothing of this vault"), "{told}");
    home.kill();
    log_in();
    keyutils::Keyring::attach(keyutils::SpecialKeyring::Session).unwrap().revoke().unwrap();
    let told = doctor(&home);
    assert!(told.contains("not used, every start asks the keyring: this login session's keyring is gone"), "{told}");
}

fn vault_name(home: &Home) -> String {
    let key = files(&home.keys()).into_iter().find_map(|path| {
        let name = path.file_name()?.to_str()?.strip_suffix(".key")?.to_owned();
        name.starts_with("vault-").then_some(name)
    });
    key.unwrap()
}
