//! The kernel's memory of what the keyring gave, in session keyrings of the tests' own.

use std::fs;
use std::time::Duration;

use aico_crypto::{OsRandom, Password, SlotSecret};
use aico_policy::Action;
use aico_vault::unlock::{Rung, SecretService, kernel_remembers};
use aico_vault::{Locked, Opening, Places, Vault, VaultId, read_header};
use linux_keyutils::{Key, KeyRing, KeyRingIdentifier};

use crate::keyring::{open, opens, permit};
use crate::session::{Session, log_in};

fn opening(places: &Places) -> Opening {
    Vault::<Locked>::at(places).unwrap().unlock(1).unwrap().1
}

/// Whether the secret came from the kernel; by the keyring's slot in any case.
fn is_remembered(places: &Places) -> bool {
    let opening = opening(places);
    assert_eq!(opening.unlocked_by, "secret-service");
    opening.remembered
}

fn vault_id(places: &Places) -> VaultId {
    read_header(&places.home).unwrap().vault()
}

fn plant(vault: &VaultId, content: &[u8]) -> Key {
    let ring = KeyRing::from_special_id(KeyRingIdentifier::Session, false).unwrap();
    ring.add_key(&format!("aico:{vault}"), content).unwrap()
}

#[test]
fn the_next_start_of_a_login_session_needs_no_keyring_and_that_of_another_does() {
    let session = Session::new();
    let places = session.places();
    assert!(!is_remembered(&places) && kernel_remembers(&vault_id(&places)).unwrap());
    let without = Places { bus: None, ..places.clone() };
    assert!(is_remembered(&places) && is_remembered(&without));
    // It goes by itself.
    let keys = fs::read_to_string("/proc/keys").unwrap();
    let line = keys.lines().find(|line| line.contains(&format!("aico:{}", vault_id(&places)))).unwrap();
    let life = line.split_whitespace().nth(3).unwrap();
    assert!(["12h", "11h"].contains(&life), "{line}");

    log_in();
    assert!(!kernel_remembers(&vault_id(&places)).unwrap());
    assert_eq!(opens(&without).unwrap(), "key-file");
    assert!(!kernel_remembers(&vault_id(&places)).unwrap(), "a key file is not remembered");
}

#[test]
fn wrong_content_is_passed_over_and_replaced() {
    let session = Session::new();
    let places = session.places();
    drop(open(&places));
    let vault = vault_id(&places);
    let other = Session::new();
    drop(open(&other.places()));
    // A good secret, of another vault, in the form in which it is kept.
    let foreign = fs::read_to_string(crate::keyring::key_file(&other.places())).unwrap();
    let foreign = foreign.lines().last().unwrap().as_bytes().to_vec();
    for content in [&b"rubbish"[..], &[0xff; 40], &[b'A'; 5000], &foreign, b"AICO-SLOT-1-"] {
        plant(&vault, content);
        assert!(kernel_remembers(&vault).unwrap());
        assert!(!is_remembered(&places), "{content:?}");
        assert!(is_remembered(&places), "and the right one is in its place");
    }
}

#[test]
fn what_is_remembered_for_one_vault_opens_no_other() {
    let session = Session::new();
    let (first, second) = (session.places(), Places { home: session.path().join("second"), ..session.places() });
    assert!(!is_remembered(&first) && !is_remembered(&second));
    let ring = KeyRing::from_special_id(KeyRingIdentifier::Session, false).unwrap();
    let mut secret = [0; 256];
    let length = ring.search(&format!("aico:{}", vault_id(&first))).unwrap().read(&mut secret).unwrap();
    plant(&vault_id(&second), &secret[..length]);
    assert!(!is_remembered(&second) && is_remembered(&first) && is_remembered(&second));
}

#[test]
fn what_has_expired_is_asked_for_anew() {
    let session = Session::new();
    let places = session.places();
    drop(open(&places));
    let ring = KeyRing::from_special_id(KeyRingIdentifier::Session, false).unwrap();
    ring.search(&format!("aico:{}", vault_id(&places))).unwrap().set_timeout(1).unwrap();
    std::thread::sleep(Duration::from_millis(2100));
    assert!(!kernel_remembers(&vault_id(&places)).unwrap());
    assert!(!is_remembered(&places) && is_remembered(&places));
}

#[test]
fn a_lock_and_the_clearing_of_stored_keys_make_it_forget() {
    let session = Session::new();
    let places = session.places();
    let vault = open(&places);
    let id = vault_id(&places);
    assert!(kernel_remembers(&id).unwrap());
    vault.lock_itself().unwrap();
    assert!(!kernel_remembers(&id).unwrap());
    drop(vault);
    assert!(opens(&places).is_err(), "it is locked");
    assert!(!kernel_remembers(&id).unwrap());

    let places = Places { home: session.path().join("second"), ..places };
    let vault = open(&places);
    let id = vault_id(&places);
    let words = Password::parse("correct horse").unwrap();
    vault.set_first_password(permit(&vault, Action::SetFirstPassword), &words, 64, 1).unwrap();
    assert!(kernel_remembers(&id).unwrap());
    vault.clear_stored_keys(permit(&vault, Action::ManageKeys), 2).unwrap();
    assert!(!kernel_remembers(&id).unwrap());
}

#[test]
fn a_kernel_keyring_that_cannot_be_used_harms_nothing_and_is_told() {
    let session = Session::new();
    let places = session.places();
    drop(open(&places));
    keyutils::Keyring::attach(keyutils::SpecialKeyring::Session).unwrap().revoke().unwrap();
    let why = kernel_remembers(&vault_id(&places)).unwrap_err().to_string();
    assert!(why.contains("log in anew"), "{why}");
    assert!(!is_remembered(&places) && !is_remembered(&places));
    let vault = open(&places);
    vault.lock_itself().unwrap();

    // One that nobody may write to.
    log_in();
    let permissions = keyutils::Permission::POSSESSOR_VIEW | keyutils::Permission::POSSESSOR_SEARCH;
    let mut ring = keyutils::Keyring::attach(keyutils::SpecialKeyring::Session).unwrap();
    ring.set_permissions(permissions).unwrap();
    let (rung, secret) = (SecretService::new(None), SlotSecret::make(&OsRandom).unwrap());
    let why = rung.remember(&vault_id(&places), &secret).unwrap_err().to_string();
    assert!(why.contains("may not use the kernel's keyring"), "{why}");
}
