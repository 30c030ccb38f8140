//! The Secret Service, by a gnome-keyring of its own in a D-Bus session of its own; never the user's.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use aico_crypto::{ComponentKind, Identity, IdentitySecret, Name, OsRandom, Password, RecoveryCode, SlotSecret};
use aico_policy::{Action, Capability, Circumstances, Grant, Permit, Principal, Resource, decide};
use aico_proto::LocalIdentity;
use aico_vault::unlock::{KeyFile, Rung, SecretService, Tpm};
use aico_vault::{Error, How, Locked, Places, Proof, SlotId, SlotKind, Unlocked, Vault, VaultId};

use crate::session::Session;

impl Session {
    pub(crate) fn path(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn places(&self) -> Places {
        let path = |name: &str| self.path().join(name);
        Places {
            home: path("vault"),
            key_dir: path("keys"),
            bus: Some(self.address().to_owned()),
            tpm: Tpm::none(),
            credentials: None,
        }
    }
}

pub(crate) fn opens(places: &Places) -> Result<String, String> {
    let opened = Vault::<Locked>::at(places).and_then(|vault| vault.unlock(1));
    opened.map(|(_, opening)| opening.unlocked_by).map_err(|error| error.to_string())
}

pub(crate) fn key_file(places: &Places) -> PathBuf {
    let is_key = |path: &PathBuf| path.extension().is_some_and(|e| e == "key");
    fs::read_dir(&places.key_dir).unwrap().map(|e| e.unwrap().path()).find(is_key).unwrap()
}

#[test]
fn it_keeps_a_secret_across_its_own_restart_and_forgets_it() {
    let mut session = Session::new();
    let (vault, slot) = (VaultId::make(&OsRandom).unwrap(), SlotId(2));
    let secret = SlotSecret::make(&OsRandom).unwrap();
    session.rung().store(&vault, slot, &secret).unwrap();
    session.stop_keyring();
    session.start_keyring(Some("the keyring's password"));
    let back = session.rung().load(&vault, slot, &[]).unwrap();
    assert_eq!(back.slot_key(b"").check_value(), secret.slot_key(b"").check_value());
    let other = VaultId::make(&OsRandom).unwrap();
    assert!(session.rung().load(&other, slot, &[]).unwrap_err().to_string().contains("no entry"));
    session.rung().remove(&vault, slot).unwrap();
    assert!(session.rung().load(&vault, slot, &[]).unwrap_err().to_string().contains("no entry"));
}

#[test]
fn a_vault_opens_by_the_keyring_and_by_the_key_file_when_it_is_gone() {
    let mut session = Session::new();
    let places = session.places();
    assert_eq!(opens(&places).unwrap(), "secret-service");
    assert_eq!(opens(&places).unwrap(), "secret-service", "again");

    // Without the key file the keyring alone is enough.
    let file = key_file(&places);
    let aside = file.with_extension("aside");
    fs::rename(&file, &aside).unwrap();
    assert_eq!(opens(&places).unwrap(), "secret-service");
    session.stop_keyring();
    let error = opens(&places).unwrap_err();
    assert!(error.contains("nothing here unlocks") && error.contains("is not there"), "{error}");

    // Without the keyring the key file is.
    fs::rename(&aside, &file).unwrap();
    assert_eq!(opens(&places).unwrap(), "key-file");
}

/// Permission for everything that the owner's tool may do: the decision is not what is tested here.
pub(crate) fn permit(vault: &Vault<Unlocked>, action: Action) -> Permit {
    let secret = IdentitySecret::make(&OsRandom).unwrap();
    let identity = Identity::new(ComponentKind::Cli, *secret.public(), Name::parse("cli").unwrap());
    let me = LocalIdentity::new(secret, identity).unwrap();
    let grants = [Grant::for_enrolment(me.identity(), 0)];
    let (capability, around) = (Capability::new(action, Resource::System), Circumstances::default());
    let decision = decide(&Principal::from_own_identity(&me), &grants, capability, &around);
    decision.record(vault.log()).unwrap().unwrap()
}

pub(crate) fn open(places: &Places) -> Vault<Unlocked> {
    Vault::<Locked>::at(places).unwrap().unlock(1).unwrap().0
}

/// Opens with the owner's word what this machine does not open.
pub(crate) fn open_with(places: &Places, proof: &Proof) -> Result<Vault<Unlocked>, Error> {
    let vault = Vault::<Locked>::at(places)?;
    let found = vault.find(How::ByOwner(proof), 1)?;
    vault.enter(found, 1).map(|(vault, _)| vault)
}

pub(crate) fn password(text: &str) -> Proof {
    Proof::Password(Password::parse(text).unwrap())
}

/// Each rung: set up, restart, lose it, recover.
#[test]
fn the_key_file_is_retired_for_a_password_beside_a_keyring_and_each_loss_is_survived() {
    let mut session = Session::new();
    let places = session.places();
    let vault = open(&places);
    assert!(key_file(&places).exists());
    let words = Password::parse("correct horse").unwrap();
    let change = vault.set_first_password(permit(&vault, Action::SetFirstPassword), &words, 64, 1).unwrap();
    assert!(change.key_file_retired && change.memory_mib == 64);
    assert!(!fs::read_dir(&places.key_dir).unwrap().any(|e| e.unwrap().path().extension().is_some_and(|e| e == "key")));
    drop(vault);
    assert_eq!(opens(&places).unwrap(), "secret-service", "the keyring restarts it");

    // The keyring is lost.
    session.stop_keyring();
    assert!(opens(&places).is_err());
    assert!(matches!(open_with(&places, &password("wrong horse")), Err(Error::WrongPassword)));
    let vault = open_with(&places, &password("correct horse")).unwrap();
    let code = RecoveryCode::make(&OsRandom).unwrap();
    vault.put_recovery(permit(&vault, Action::ManageKeys), &code, 2).unwrap();
    let id = vault.add_slot(permit(&vault, Action::ManageKeys), SlotKind::KeyFile, 2).unwrap();
    let slots = vault.slots(permit(&vault, Action::ReadKeys)).unwrap();
    let trouble: Vec<SlotKind> = slots.iter().filter(|s| s.trouble.is_some()).map(|s| s.kind).collect();
    assert_eq!(trouble, [SlotKind::SecretService]);
    drop(vault);
    assert_eq!(opens(&places).unwrap(), "key-file");

    // A new root key, while the password and the code are not at hand: both still open, and the old header does not.
    let vault = open(&places);
    let header = fs::read(places.home.join("vault.aico")).unwrap();
    let new = Password::parse("another horse").unwrap();
    let both = (&words, &new);
    vault.change_password(permit(&vault, Action::ManageKeys), both, true, 64, 3).unwrap();
    drop(vault);
    assert!(matches!(open_with(&places, &password("correct horse")), Err(Error::WrongPassword)));
    drop(open_with(&places, &password("another horse")).unwrap());
    drop(open_with(&places, &Proof::Recovery(code)).unwrap());
    let vault = open(&places);
    vault.remove_slot(permit(&vault, Action::ManageKeys), id, 4).unwrap();
    drop(vault);
    assert!(opens(&places).is_err(), "what is left is the owner's, and a keyring that is gone");
    let now = fs::read(places.home.join("vault.aico")).unwrap();
    fs::write(places.home.join("vault.aico"), header).unwrap();
    assert!(open_with(&places, &password("correct horse")).is_err(), "the old header has a key that opens nothing");
    fs::write(places.home.join("vault.aico"), now).unwrap();
    drop(open_with(&places, &password("another horse")).unwrap());
}

#[test]
fn a_wrong_entry_is_told_and_the_key_file_opens() {
    let session = Session::new();
    let places = session.places();
    assert_eq!(opens(&places).unwrap(), "secret-service");
    let name = key_file(&places).file_stem().unwrap().to_str().unwrap().to_owned();
    let digits = name.strip_prefix("vault-").unwrap().as_bytes().as_chunks::<2>().0;
    let bytes: Vec<u8> = digits.iter().map(|d| u8::from_str_radix(str::from_utf8(d).unwrap(), 16).unwrap()).collect();
    let vault = VaultId::from_bytes(bytes.try_into().unwrap());
    session.rung().store(&vault, SlotId(2), &SlotSecret::make(&OsRandom).unwrap()).unwrap();
    assert_eq!(opens(&places).unwrap(), "key-file");
}

#[test]
fn a_locked_keyring_a_dead_one_and_a_dead_bus_do_not_hold_up_a_start() {
    let mut session = Session::new();
    let places = session.places();
    assert_eq!(opens(&places).unwrap(), "secret-service");
    session.stop_keyring();
    session.start_keyring(None);
    let begun = Instant::now();
    assert_eq!(opens(&places).unwrap(), "key-file", "locked");
    assert!(begun.elapsed() < Duration::from_secs(8));
    session.stop_keyring();
    assert_eq!(opens(&places).unwrap(), "key-file", "dead");
    let nowhere = SecretService::new(Some(format!("unix:path={}", session.path().join("nowhere").display())));
    assert!(nowhere.available().unwrap_err().to_string().contains("D-Bus does not answer"));
    let deaf = session.path().join("deaf");
    let _listener = std::os::unix::net::UnixListener::bind(&deaf).unwrap();
    let begun = Instant::now();
    let deaf = SecretService::new(Some(format!("unix:path={}", deaf.display())));
    assert!(deaf.available().is_err());
    assert!(begun.elapsed() < Duration::from_secs(5), "a bus that says nothing");
    assert!(SecretService::new(None).available().unwrap_err().to_string().contains("no D-Bus"));
}

#[test]
fn key_files_that_are_not_ones_are_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let (rung, vault) = (KeyFile::new(folder.path().to_owned()), VaultId::make(&OsRandom).unwrap());
    rung.store(&vault, SlotId(1), &SlotSecret::make(&OsRandom).unwrap()).unwrap();
    let path = folder.path().join(format!("{vault}.key"));
    let good = fs::read(&path).unwrap();
    let refused = |why: &str| {
        let found = rung.load(&vault, SlotId(1), &[]).unwrap_err().to_string();
        assert!(found.contains(why), "{found}");
    };
    let write = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        close(&path, 0o600);
    };
    for bad in
        [&b""[..], b"# only a comment\n", b"AICO-SLOT-1-short\n", &[0xff; 64], &[good.clone(), good.clone()].concat()]
    {
        write(bad);
        refused("does not hold a key");
    }
    write(&[b'#'; 5000]);
    refused("too long");
    write(&good);
    close(&path, 0o640);
    refused("read by others");
    fs::rename(&path, folder.path().join("real")).unwrap();
    refused("is not there");
    std::os::unix::fs::symlink(folder.path().join("real"), &path).unwrap();
    refused("is a link");
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    refused("not a plain file");
}

pub(crate) fn close(path: &Path, mode: u32) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
}

/// What a bus at this address answers, within eight seconds; a call that takes longer hangs a start.
fn asked(address: String) -> String {
    let (tell, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(SecretService::new(Some(address)).available()));
    let answer = heard.recv_timeout(Duration::from_secs(8)).unwrap_or_else(|_| panic!("the call hangs"));
    answer.unwrap_err().to_string()
}

#[test]
fn a_bus_that_accepts_nobody_does_not_hold_up_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bus");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    for _ in 0..4 {
        let path = path.clone();
        std::thread::spawn(move || std::os::unix::net::UnixStream::connect(path));
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(asked(format!("unix:path={}", path.display())).contains("does not answer"));
}

#[test]
fn a_bus_address_starts_no_program_and_reaches_no_network() {
    let folder = tempfile::tempdir().unwrap();
    let mark = folder.path().join("started");
    for address in [format!("unixexec:path=touch,argv1={}", mark.display()), "tcp:host=127.0.0.1,port=1".to_owned()] {
        assert!(asked(address).contains("not at a Unix socket"));
    }
    assert!(!mark.exists());
}
