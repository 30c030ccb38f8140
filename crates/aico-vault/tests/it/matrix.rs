//! Each way in: set up, restarted, lost, and the way back; and what a person is told of each loss.

use std::fs;

use aico_crypto::{OsRandom, Password, RecoveryCode, SlotSecret};
use aico_policy::Action;
use aico_vault::unlock::{KeyFile, Rung, Tpm};
use aico_vault::{Places, Proof, SlotId, SlotKind, VaultId, read_header, survey};

use crate::keyring::{close, key_file, open, open_with, opens, password, permit};
use crate::session::{PASSWORD, Session, log_in};
use crate::tpm::SoftTpm;

/// What opens the vault.
#[derive(Clone, Copy, Debug, PartialEq)]
enum SetUp {
    KeyringAndKeyFile,
    KeyringAndPassword,
    KeyringAndCode,
    KeyFileAndPassword,
    CredentialAndKeyFile,
    CredentialAndPassword,
    TpmAndKeyFile,
    TpmAndPassword,
    TpmAndCode,
}

impl SetUp {
    fn has_tpm(self) -> bool {
        matches!(self, Self::TpmAndKeyFile | Self::TpmAndPassword | Self::TpmAndCode)
    }
}

/// What goes wrong.
#[derive(Clone, Copy, Debug)]
enum Loss {
    KeyFile,
    KeyFolderOpen,
    KeyringLocked,
    KeyringAbsent,
    BusDead,
    NoBus,
    EntryGone,
    EntryOfAnother,
    EntryRubbish,
    OnlyForTheSession,
    CredentialGone,
    CredentialOfAnother,
    CredentialRubbish,
    NoService,
    TpmState,
    TpmCleared,
    TpmGone,
    TpmNotHere,
    TpmOwned,
}

impl Loss {
    /// Which slot it hits.
    fn slot(self) -> SlotKind {
        match self {
            Self::KeyFile | Self::KeyFolderOpen => SlotKind::KeyFile,
            Self::TpmState | Self::TpmCleared | Self::TpmGone | Self::TpmNotHere | Self::TpmOwned => SlotKind::Tpm2,
            Self::CredentialGone | Self::CredentialOfAnother | Self::CredentialRubbish | Self::NoService => {
                SlotKind::SystemdCredential
            }
            _ => SlotKind::SecretService,
        }
    }
}

/// What opens it, what is lost, what opens it then by itself, and what the survey says of the slot that is lost.
const TABLE: &[(SetUp, Loss, Option<&str>, &[&str])] = &{
    use Loss::*;
    use SetUp::*;
    const KEY_FILE: Option<&str> = Some("key-file");
    [
        (KeyringAndKeyFile, KeyFile, Some("secret-service"), &["is not there"]),
        (KeyringAndKeyFile, KeyFolderOpen, Some("secret-service"), &["written to by others", "chmod go-w"]),
        (KeyringAndKeyFile, KeyringLocked, KEY_FILE, &["keyring is locked", "unlock it"]),
        (KeyringAndKeyFile, KeyringAbsent, KEY_FILE, &["no keyring runs", "start it"]),
        (KeyringAndKeyFile, BusDead, KEY_FILE, &["D-Bus does not answer", "log in anew"]),
        (KeyringAndKeyFile, NoBus, KEY_FILE, &["this session has no D-Bus"]),
        (KeyringAndKeyFile, EntryGone, KEY_FILE, &["has no entry for vault-", "emptied or replaced"]),
        (KeyringAndKeyFile, EntryOfAnother, KEY_FILE, &["the secret is not that of slot-2"]),
        (KeyringAndKeyFile, EntryRubbish, KEY_FILE, &["does not hold a key"]),
        (KeyringAndKeyFile, OnlyForTheSession, KEY_FILE, &["forgotten at logout", "lasting one"]),
        (KeyringAndPassword, KeyringLocked, None, &["keyring is locked"]),
        (KeyringAndPassword, KeyringAbsent, None, &["no keyring runs"]),
        (KeyringAndPassword, BusDead, None, &["D-Bus does not answer"]),
        (KeyringAndPassword, EntryRubbish, None, &["does not hold a key"]),
        (KeyringAndCode, KeyringAbsent, None, &["no keyring runs"]),
        (KeyringAndCode, EntryOfAnother, None, &["the secret is not that of slot-2"]),
        (KeyFileAndPassword, KeyFile, None, &["is not there"]),
        (KeyFileAndPassword, KeyFolderOpen, None, &["written to by others"]),
        (CredentialAndKeyFile, KeyFile, Some("systemd-credential"), &["is not there"]),
        (CredentialAndKeyFile, CredentialGone, KEY_FILE, &["`aico-slot` was not given", "LoadCredentialEncrypted="]),
        (CredentialAndKeyFile, CredentialOfAnother, KEY_FILE, &["the secret is not that of slot-3"]),
        (CredentialAndKeyFile, CredentialRubbish, KEY_FILE, &["does not hold a key"]),
        (CredentialAndKeyFile, NoService, KEY_FILE, &["systemd gave this process no credentials"]),
        (CredentialAndPassword, CredentialGone, None, &["`aico-slot` was not given"]),
        (CredentialAndPassword, NoService, None, &["no credentials"]),
        (TpmAndKeyFile, KeyFile, Some("tpm2"), &["is not there"]),
        (TpmAndKeyFile, TpmState, KEY_FILE, &["Secure Boot state (PCR 7)", "make the slot anew"]),
        (TpmAndKeyFile, TpmCleared, KEY_FILE, &["not the TPM that sealed the slot", "cleared"]),
        (TpmAndKeyFile, TpmGone, KEY_FILE, &["does not answer", "still there"]),
        (TpmAndKeyFile, TpmNotHere, KEY_FILE, &["this machine has no TPM 2.0", "tpm-of-another-machine is not there"]),
        (TpmAndKeyFile, TpmOwned, KEY_FILE, &["owner hierarchy has a password"]),
        (TpmAndPassword, TpmState, None, &["Secure Boot state (PCR 7)", "by another way"]),
        (TpmAndPassword, TpmGone, None, &["does not answer"]),
        (TpmAndPassword, TpmNotHere, None, &["this machine has no TPM 2.0"]),
        (TpmAndCode, TpmState, None, &["Secure Boot state (PCR 7)"]),
        (TpmAndCode, TpmCleared, None, &["not the TPM that sealed the slot"]),
    ]
};

#[test]
fn every_loss_is_survived_told_and_mended() {
    for (set_up, loss, then, words) in TABLE {
        let row = format!("{set_up:?}, {loss:?}");
        let mut session = Session::new();
        let mut places = session.places();
        let mut tpm = set_up.has_tpm().then(SoftTpm::new);
        if let Some(tpm) = &tpm {
            (places.bus, places.tpm) = (None, tpm.line());
        }
        if matches!(set_up, SetUp::CredentialAndKeyFile | SetUp::CredentialAndPassword) {
            (places.bus, places.credentials) = (None, Some(session.path().to_owned()));
            give(&places, &SlotSecret::make(&OsRandom).unwrap());
            fs::copy(session.path().join("aico-slot"), session.path().join("aside-slot")).unwrap();
        }
        let owner = set_it_up(*set_up, &mut places);
        let before = opens(&places).unwrap();
        assert_eq!(before == "tpm2", tpm.is_some(), "{row}");

        lose(*loss, &mut session, tpm.as_mut(), &mut places);
        // After a new login: the kernel's memory of the old one is another test.
        log_in();
        assert_eq!(opens(&places).ok().as_deref(), *then, "{row}");
        log_in();
        let lost = loss.slot();
        let (slots, _) = survey(&places).unwrap();
        let trouble = slots.iter().find(|slot| slot.kind == lost).unwrap().trouble.clone().unwrap_or_default();
        words.iter().for_each(|word| assert!(trouble.contains(word), "{row}: {trouble}"));
        if then.is_none() {
            let error = opens(&places).unwrap_err();
            assert!(words.iter().all(|word| error.contains(word)), "{row}: {error}");
        }
        if let Some(proof) = &owner {
            drop(open_with(&places, proof).unwrap_or_else(|error| panic!("{row}: {error}")));
            assert!(open_with(&places, &password("wrong horse")).is_err());
        }

        mend(*loss, &mut session, tpm.as_mut(), &mut places, owner.as_ref());
        log_in();
        assert_eq!(opens(&places).unwrap(), before, "{row}: and back");
        assert!(survey(&places).unwrap().0.iter().all(|slot| slot.trouble.is_none()), "{row}: and back");
    }
}

/// What systemd does for its unit.
fn give(places: &Places, secret: &SlotSecret) {
    let path = places.credentials.as_ref().unwrap().join("aico-slot");
    secret.hazmat_to_platform(|text| fs::write(path, text).unwrap());
}

/// Sets the vault up; what its owner has.
fn set_it_up(set_up: SetUp, places: &mut Places) -> Option<Proof> {
    if set_up == SetUp::KeyFileAndPassword {
        places.bus = None;
    }
    let vault = open(places);
    match set_up {
        SetUp::KeyringAndKeyFile | SetUp::CredentialAndKeyFile | SetUp::TpmAndKeyFile => None,
        SetUp::KeyringAndPassword
        | SetUp::KeyFileAndPassword
        | SetUp::CredentialAndPassword
        | SetUp::TpmAndPassword => {
            let words = Password::parse("correct horse").unwrap();
            let permit = permit(&vault, Action::SetFirstPassword);
            let change = vault.set_first_password(permit, &words, 64, 1).unwrap();
            assert_eq!(change.key_file_retired, set_up != SetUp::KeyFileAndPassword);
            Some(password("correct horse"))
        }
        SetUp::KeyringAndCode | SetUp::TpmAndCode => {
            let code = RecoveryCode::make(&OsRandom).unwrap();
            let change = vault.put_recovery(permit(&vault, Action::ManageKeys), &code, 2).unwrap();
            assert!(change.key_file_retired);
            Some(Proof::Recovery(code))
        }
    }
}

fn vault_id(places: &Places) -> VaultId {
    read_header(&places.home).unwrap().vault()
}

fn lose(loss: Loss, session: &mut Session, tpm: Option<&mut SoftTpm>, places: &mut Places) {
    let vault = vault_id(places);
    if let Some(tpm) = tpm {
        // This simulator speaks to one at a time.
        places.tpm = Tpm::none();
        match loss {
            Loss::TpmState => tpm.change_secure_boot(),
            Loss::TpmCleared => tpm.run("tpm2_clear", &["-c", "p"]),
            Loss::TpmGone => tpm.stop(),
            Loss::TpmOwned => tpm.run("tpm2_changeauth", &["-c", "owner", "secret"]),
            _ => {}
        }
        places.tpm = tpm.line();
    }
    match loss {
        Loss::KeyFile => fs::rename(key_file(places), places.home.join("aside")).unwrap(),
        Loss::KeyFolderOpen => close(&places.key_dir, 0o770),
        Loss::KeyringLocked => {
            session.stop_keyring();
            session.start_keyring(None);
        }
        Loss::KeyringAbsent => session.stop_keyring(),
        Loss::BusDead => session.stop_bus(),
        Loss::NoBus => places.bus = None,
        Loss::EntryGone => session.rung().remove(&vault, SlotId(2)).unwrap(),
        Loss::EntryOfAnother => {
            session.rung().store(&vault, SlotId(2), &SlotSecret::make(&OsRandom).unwrap()).unwrap();
        }
        Loss::EntryRubbish => session.write_entry(&vault.to_string(), "2", b"rubbish"),
        Loss::OnlyForTheSession => session.default_to("session"),
        Loss::CredentialGone => fs::remove_file(session.path().join("aico-slot")).unwrap(),
        Loss::CredentialOfAnother => give(places, &SlotSecret::make(&OsRandom).unwrap()),
        Loss::CredentialRubbish => fs::write(session.path().join("aico-slot"), [0xff; 300]).unwrap(),
        Loss::NoService => places.credentials = None,
        Loss::TpmNotHere => places.tpm = Tpm::at(Some("device:/dev/tpm-of-another-machine")),
        Loss::TpmState | Loss::TpmCleared | Loss::TpmGone | Loss::TpmOwned => {}
    }
}

/// What the person does about it: undoes it, or makes the slot anew.
fn mend(loss: Loss, session: &mut Session, tpm: Option<&mut SoftTpm>, places: &mut Places, owner: Option<&Proof>) {
    if let Some(tpm) = tpm {
        places.tpm = Tpm::none();
        match loss {
            Loss::TpmGone => tpm.start(),
            Loss::TpmOwned => tpm.run("tpm2_changeauth", &["-c", "owner", "-p", "secret"]),
            _ => {}
        }
        places.tpm = tpm.line();
    }
    match loss {
        Loss::KeyFile => {
            let name = format!("{}.key", vault_id(places));
            fs::rename(places.home.join("aside"), places.key_dir.join(name)).unwrap();
        }
        Loss::KeyFolderOpen => close(&places.key_dir, 0o700),
        Loss::KeyringLocked => {
            session.stop_keyring();
            session.start_keyring(Some(PASSWORD));
        }
        Loss::KeyringAbsent => session.start_keyring(Some(PASSWORD)),
        Loss::BusDead => {
            session.start_bus();
            places.bus = Some(session.address().to_owned());
        }
        Loss::NoBus => places.bus = Some(session.address().to_owned()),
        Loss::OnlyForTheSession => session.default_to("login"),
        Loss::TpmGone | Loss::TpmNotHere | Loss::TpmOwned => {}
        Loss::CredentialGone | Loss::CredentialOfAnother | Loss::CredentialRubbish | Loss::NoService => {
            fs::copy(session.path().join("aside-slot"), session.path().join("aico-slot")).unwrap();
            places.credentials = Some(session.path().to_owned());
        }
        Loss::EntryGone | Loss::EntryOfAnother | Loss::EntryRubbish | Loss::TpmState | Loss::TpmCleared => {
            let vault = owner.map_or_else(|| open(places), |proof| open_with(places, proof).unwrap());
            let slots = vault.slots(permit(&vault, Action::ReadKeys)).unwrap();
            let lost = loss.slot();
            let id = slots.iter().find(|slot| slot.kind == lost).unwrap().id;
            vault.remove_slot(permit(&vault, Action::ManageKeys), id, 5).unwrap();
            vault.add_slot(permit(&vault, Action::ManageKeys), lost, 6).unwrap();
        }
    }
}

#[test]
fn a_keyring_that_forgets_at_logout_does_not_retire_the_key_file() {
    let session = Session::new();
    let places = session.places();
    let vault = open(&places);
    session.default_to("session");
    let words = Password::parse("correct horse").unwrap();
    let change = vault.set_first_password(permit(&vault, Action::SetFirstPassword), &words, 64, 1).unwrap();
    assert!(!change.key_file_retired && key_file(&places).exists());
    drop(vault);
    // And a new vault makes no slot there.
    let places = Places { home: session.path().join("other"), key_dir: session.path().join("other keys"), ..places };
    drop(open(&places));
    let kinds: Vec<SlotKind> = survey(&places).unwrap().0.iter().map(|slot| slot.kind).collect();
    assert_eq!(kinds, [SlotKind::KeyFile]);
}

#[test]
fn a_key_file_that_is_there_is_never_lost_to_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (rung, vault) = (KeyFile::new(folder.path().to_owned()), VaultId::make(&OsRandom).unwrap());
    let path = folder.path().join(format!("{vault}.key"));
    let mut old = Vec::new();
    for _ in 0..3 {
        rung.store(&vault, SlotId(1), &SlotSecret::make(&OsRandom).unwrap()).unwrap();
        old.push(fs::read(&path).unwrap());
    }
    for (number, content) in [(1, &old[0]), (2, &old[1])] {
        assert_eq!(fs::read(folder.path().join(format!("{vault}.key.old-{number}"))).unwrap(), *content);
    }
    for _ in 0..14 {
        rung.store(&vault, SlotId(1), &SlotSecret::make(&OsRandom).unwrap()).unwrap();
    }
    let last = fs::read(&path).unwrap();
    let refused = rung.store(&vault, SlotId(1), &SlotSecret::make(&OsRandom).unwrap()).unwrap_err().to_string();
    assert!(refused.contains("too many older ones"), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), last);
}

#[test]
fn a_key_folder_that_others_may_write_to_is_refused_with_the_reason() {
    let root = tempfile::tempdir().unwrap();
    let (folder, vault) = (root.path().join("keys"), VaultId::make(&OsRandom).unwrap());
    let rung = KeyFile::new(folder.clone());
    let secret = SlotSecret::make(&OsRandom).unwrap();
    rung.store(&vault, SlotId(1), &secret).unwrap();
    for mode in [0o720, 0o702, 0o777, 0o1777] {
        close(&folder, mode);
        let refusals = [
            rung.load(&vault, SlotId(1), &[]).map(drop),
            rung.store(&vault, SlotId(1), &secret).map(drop),
            rung.available(),
        ];
        for refused in refusals {
            let why = refused.unwrap_err().to_string();
            assert!(why.contains("can be written to by others") && why.contains("chmod go-w"), "{mode:o}: {why}");
        }
    }
    close(&folder, 0o755);
    rung.load(&vault, SlotId(1), &[]).unwrap();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1, "nothing was written");
}
