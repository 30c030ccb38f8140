//! Rotation and forgetting on a whole vault: what is kept, what opens nothing any more, and copies of the past.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use aico_crypto::{ComponentKind, Identity, IdentitySecret, Name, OsRandom, Password};
use aico_policy::{
    Action, Capability, Circumstances, DataPath, Event, Grant, Permit, Principal, Resource, What, decide,
};
use aico_proto::LocalIdentity;
use aico_vault::unlock::Tpm;
use aico_vault::{Error, How, Locked, Places, Unlocked, Vault};

const LARGE: usize = 1_500_000;

pub(crate) struct Home(tempfile::TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn places(&self) -> Places {
        Places {
            home: self.0.path().join("data"),
            key_dir: self.0.path().join("keys"),
            bus: None,
            tpm: Tpm::none(),
            credentials: None,
        }
    }

    pub(crate) fn open(&self) -> Vault<Unlocked> {
        Vault::<Locked>::at(&self.places()).unwrap().unlock(1).unwrap().0
    }

    fn stores(&self) -> Vec<String> {
        let mut names: Vec<String> = files(&self.places().home.join("spaces"))
            .into_iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .filter(|name| name.contains(".db") && !name.ends_with("-wal") && !name.ends_with("-shm"))
            .collect();
        names.sort();
        names
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let to = to.join(path.file_name().unwrap());
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(&path, to).unwrap();
        }
    }
}

pub(crate) fn permit(vault: &Vault<Unlocked>, action: Action, resource: Resource) -> Permit {
    let secret = IdentitySecret::make(&OsRandom).unwrap();
    let identity = Identity::new(ComponentKind::Cli, *secret.public(), Name::parse("cli").unwrap());
    let me = LocalIdentity::new(secret, identity).unwrap();
    let grants = [Grant::for_enrolment(me.identity(), 0)];
    let now = Circumstances::default();
    let capability = Capability::new(action, resource);
    let decision = decide(&Principal::from_own_identity(&me), &grants, capability, &now);
    decision.record(vault.log()).unwrap().unwrap()
}

fn value(path: &str) -> Resource {
    Resource::Value(DataPath::parse(path).unwrap())
}

pub(crate) fn put(vault: &Vault<Unlocked>, path: &str, bytes: &[u8]) {
    let mut put = vault.begin_put(permit(vault, Action::WriteData, value(path)), 2).unwrap();
    bytes.chunks(100_000).for_each(|chunk| put.write(chunk).unwrap());
    put.finish().unwrap();
}

pub(crate) fn get(vault: &Vault<Unlocked>, path: &str) -> Result<Vec<u8>, Error> {
    let mut get = vault.get(permit(vault, Action::ReadData, value(path)))?;
    let (mut all, mut chunk) = (Vec::new(), Vec::new());
    while get.next_chunk(&mut chunk)? {
        all.extend_from_slice(&chunk);
    }
    Ok(all)
}

fn rotate(vault: &Vault<Unlocked>) -> aico_vault::Rotated {
    vault.rotate(permit(vault, Action::RotateKeys, Resource::System), 9, &mut |_| true).unwrap()
}

fn close(vault: Vault<Unlocked>) {
    vault
        .close(&Event { at_ms: 9, who: None, what: What::System { word: "backend.stop", detail: String::new() } })
        .unwrap();
}

fn intact(home: &Home) {
    let mut wrong = Vec::new();
    let vault = Vault::<Locked>::at(&home.places()).unwrap();
    vault.verify(How::AtStart, &mut |checked| wrong.extend(checked.state.err())).unwrap();
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn a_rotation_keeps_everything_and_leaves_no_old_store() {
    let home = Home::new();
    let vault = home.open();
    let all: BTreeMap<String, Vec<u8>> = (0..40_usize)
        .map(|at| (format!("notes/{at}"), vec![at as u8; if at % 10 == 0 { LARGE + at } else { at * 100 }]))
        .collect();
    all.iter().for_each(|(path, bytes)| put(&vault, path, bytes));
    let before: Vec<PathBuf> = files(&home.places().home.join("spaces"));
    let mut parts = Vec::new();
    let mut tell = |progress: aico_vault::Progress| {
        parts.push(progress.part);
        true
    };
    let rotated = vault.rotate(permit(&vault, Action::RotateKeys, Resource::System), 9, &mut tell).unwrap();
    parts.dedup();
    assert_eq!(parts, ["files", "database", "keys"]);
    assert_eq!((rotated.epoch, rotated.damaged, rotated.bytes > 4 * LARGE as u64), (1, 0, true));
    assert_eq!(vault.rotated_ms().unwrap(), 9);
    assert!(!vault.is_rotation_under_way().unwrap());
    all.iter().for_each(|(path, bytes)| assert!(get(&vault, path).unwrap() == *bytes, "{path}"));
    put(&vault, "notes/after", b"after");
    assert_eq!(home.stores(), ["store-1.db", "store-1.db"]);
    assert!(before.iter().all(|path| !path.exists()), "every file of every store is another one");
    close(vault);
    intact(&home);
    let vault = home.open();
    all.iter().for_each(|(path, bytes)| assert!(get(&vault, path).unwrap() == *bytes, "{path}"));
    assert_eq!(rotate(&vault).epoch, 2);
    assert_eq!(get(&vault, "notes/after").unwrap(), b"after");
    close(vault);
    assert_eq!(home.stores(), ["store-2.db", "store-2.db"]);
    intact(&home);
}

#[test]
fn reads_and_writes_go_on_and_none_is_lost() {
    let home = Home::new();
    let vault = home.open();
    for at in 0..60 {
        put(&vault, &format!("notes/{at}"), &vec![at; 200_000]);
    }
    put(&vault, "notes/large", &vec![1; 20 * LARGE]);
    let ended = AtomicBool::new(false);
    let written = std::thread::scope(|threads| {
        let writers: Vec<_> = (0..2_usize)
            .map(|thread| {
                let (vault, ended) = (&vault, &ended);
                threads.spawn(move || {
                    let mut written = Vec::new();
                    while !ended.load(Ordering::Relaxed) {
                        let at = written.len();
                        let path = format!("conversations/{thread}-{}/{at}", at % 5);
                        put(vault, &path, &vec![at as u8; if at % 20 == 7 { LARGE } else { 500 }]);
                        assert_eq!(get(vault, &path).unwrap()[0], at as u8);
                        written.push(path);
                    }
                    written
                })
            })
            .collect();
        rotate(&vault);
        rotate(&vault);
        ended.store(true, Ordering::Relaxed);
        writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect::<Vec<_>>()
    });
    assert!(written.len() > 10, "{}", written.len());
    let check = |vault: &Vault<Unlocked>| {
        written.iter().for_each(|path| assert!(!get(vault, path).unwrap().is_empty(), "{path}"));
        assert_eq!(get(vault, "notes/large").unwrap().len(), 20 * LARGE);
    };
    check(&vault);
    close(vault);
    intact(&home);
    check(&home.open());
}

/// So much that two threads seal: what stops one of them stops both, and what is damaged in one harms nothing else.
#[test]
fn a_rotation_on_two_threads_stops_and_goes_on_and_tells_of_damage() {
    let home = Home::new();
    let vault = home.open();
    let all: Vec<(String, Vec<u8>)> =
        (0..12_usize).map(|at| (format!("notes/{at}"), vec![at as u8; LARGE + at])).collect();
    all.iter().for_each(|(path, bytes)| put(&vault, path, bytes));
    let large: Vec<PathBuf> = files(&home.places().home.join("spaces"))
        .into_iter()
        .filter(|path| path.metadata().unwrap().len() > 1_000_000)
        .collect();
    assert_eq!(large.len(), all.len());
    let mut bytes = fs::read(&large[5]).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&large[5], bytes).unwrap();
    let broken: Vec<&str> =
        all.iter().map(|(path, _)| path.as_str()).filter(|path| get(&vault, path).is_err()).collect();
    assert_eq!(broken.len(), 1);
    let intact = |vault: &Vault<Unlocked>| {
        for (path, bytes) in all.iter().filter(|(path, _)| path != broken[0]) {
            assert!(get(vault, path).unwrap() == *bytes, "{path}");
        }
        assert!(matches!(get(vault, broken[0]), Err(Error::Damaged { .. })));
    };

    let (mut last, mut said) = (0, false);
    // One of them hears it, once.
    let mut tell = |progress: aico_vault::Progress| {
        assert!(progress.done >= last, "progress went back from {last} to {}", progress.done);
        last = progress.done;
        let stop = last >= 3 * LARGE as u64 && !said;
        said |= stop;
        !stop
    };
    let stopped = vault.rotate(permit(&vault, Action::RotateKeys, Resource::System), 9, &mut tell);
    assert!(matches!(stopped, Err(Error::Stopped)), "{stopped:?}");
    assert!(vault.is_rotation_under_way().unwrap());
    intact(&vault);
    let left = files(&home.places().home.join("spaces")).into_iter().filter(|path| large.contains(path)).count();
    assert!((9..12).contains(&left), "{left} files wait for their new key");
    let rotated = vault.continue_rotation(10, &mut |_| true).unwrap();
    assert_eq!((rotated.epoch, rotated.damaged), (1, 1));
    intact(&vault);
    let left: Vec<PathBuf> =
        files(&home.places().home.join("spaces")).into_iter().filter(|path| large.contains(path)).collect();
    assert_eq!(left, [large[5].clone()], "the damaged one stays, nothing else of before does");
    close(vault);
    intact(&home.open());
}

/// The thief's way: a store of before, and everything else as it is now, with everything that opens it.
#[test]
fn an_old_store_is_closed_to_the_keys_of_today() {
    let home = Home::new();
    let vault = home.open();
    put(&vault, "notes/a", b"of before");
    close(vault);
    let spaces = home.places().home.join("spaces");
    let kept = home.0.path().join("kept");
    copy(&spaces, &kept);
    let vault = home.open();
    rotate(&vault);
    close(vault);
    for space in fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()) {
        let place = spaces.join(space.file_name().unwrap());
        let good = fs::read(place.join("store-1.db")).unwrap();
        fs::copy(space.join("store.db"), place.join("store-1.db")).unwrap();
        let opened = Vault::<Locked>::at(&home.places()).unwrap().unlock(2);
        assert!(matches!(opened, Err(Error::Damaged { .. })), "{space:?}");
        fs::write(place.join("store-1.db"), good).unwrap();
    }
    assert_eq!(get(&home.open(), "notes/a").unwrap(), b"of before");
}

/// What `SECURITY.md` says plainly: a copy of the whole folder and a secret that was valid then open what was there then.
#[test]
fn a_copy_of_the_whole_folder_opens_with_what_opened_it_then() {
    let home = Home::new();
    let vault = home.open();
    put(&vault, "conversations/7/a", b"secret");
    close(vault);
    let old = Home::new();
    copy(home.0.path(), old.0.path());
    let vault = home.open();
    let forgotten = vault.forget(permit(&vault, Action::Forget, Resource::Values("conversations/7/".to_owned())));
    assert_eq!(forgotten.unwrap(), 1);
    rotate(&vault);
    close(vault);
    assert_eq!(get(&old.open(), "conversations/7/a").unwrap(), b"secret");
}

#[test]
fn the_forgotten_is_gone_from_live_and_old_stores_and_the_log_verifies() {
    let home = Home::new();
    let vault = home.open();
    put(&vault, "conversations/7/a", b"secret");
    put(&vault, "conversations/8/a", b"kept");
    put(&vault, "conversations/7/large", &vec![1; LARGE]);
    close(vault);
    let spaces = home.places().home.join("spaces");
    let kept = home.0.path().join("kept");
    copy(&spaces, &kept);
    let vault = home.open();
    let prefix = || Resource::Values("conversations/7/".to_owned());
    assert_eq!(vault.forget(permit(&vault, Action::Forget, prefix())).unwrap(), 2);
    assert!(matches!(get(&vault, "conversations/7/a"), Err(Error::NotFound)));
    close(vault);
    intact(&home);
    // The owner's store as it was, and the system space as it is: the rows are back, their keys are not.
    let owner =
        fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()).find(|space| space.join("files").exists());
    let owner = owner.unwrap();
    copy(&owner, &spaces.join(owner.file_name().unwrap()));
    let vault = home.open();
    assert_eq!(get(&vault, "conversations/8/a").unwrap(), b"kept");
    for gone in ["conversations/7/a", "conversations/7/large"] {
        assert!(matches!(get(&vault, gone), Err(Error::Damaged { .. })), "{gone}");
    }
    let wrong = permit(&vault, Action::Forget, Resource::Values("conversations/8/a/".to_owned()));
    assert!(matches!(vault.forget(wrong), Err(Error::Misuse(_))));
}

#[test]
fn a_whole_space_goes_with_its_key() {
    let home = Home::new();
    let vault = home.open();
    put(&vault, "notes/a", b"a");
    put(&vault, "notes/large", &vec![1; LARGE]);
    close(vault);
    let spaces = home.places().home.join("spaces");
    let kept = home.0.path().join("kept");
    copy(&spaces, &kept);
    let vault = home.open();
    let mut late = vault.begin_put(permit(&vault, Action::WriteData, value("notes/late")), 2).unwrap();
    late.write(b"late").unwrap();
    let all = || Resource::Values(String::new());
    assert_eq!(vault.forget(permit(&vault, Action::Forget, all())).unwrap(), 2);
    assert!(late.finish().is_err(), "it would lie in a space that is gone");
    assert!(matches!(get(&vault, "notes/a"), Err(Error::NotFound)));
    put(&vault, "notes/a", b"new");
    assert_eq!(rotate(&vault).epoch, 1);
    close(vault);
    intact(&home);
    assert_eq!(fs::read_dir(&spaces).unwrap().count(), 2);
    // The old folder put back: nothing knows its key, and nothing takes it for a space.
    let old =
        fs::read_dir(&kept).unwrap().map(|entry| entry.unwrap().path()).find(|space| space.join("files").exists());
    let old = old.unwrap();
    copy(&old, &spaces.join(old.file_name().unwrap()));
    let vault = home.open();
    assert_eq!(get(&vault, "notes/a").unwrap(), b"new");
    assert!(matches!(get(&vault, "notes/large"), Err(Error::NotFound)));
}

#[test]
fn a_new_root_key_and_a_rotation_do_not_hurt_each_other() {
    let home = Home::new();
    let vault = home.open();
    put(&vault, "notes/a", b"a");
    put(&vault, "conversations/1/a", b"b");
    let device = *vault.device_identity().unwrap().public();
    let password = |text| Password::parse(text).unwrap();
    vault
        .set_first_password(permit(&vault, Action::SetFirstPassword, Resource::System), &password("one"), 64, 3)
        .unwrap();
    for round in 1..=2 {
        let (old, new) = if round == 1 { ("one", "two") } else { ("two", "one") };
        let both = (&password(old), &password(new));
        vault.change_password(permit(&vault, Action::ManageKeys, Resource::System), both, true, 64, 4).unwrap();
        assert_eq!(rotate(&vault).epoch, round);
    }
    close(vault);
    let vault = home.open();
    assert_eq!(
        (get(&vault, "notes/a").unwrap(), get(&vault, "conversations/1/a").unwrap()),
        (b"a".into(), b"b".into())
    );
    assert_eq!(*vault.device_identity().unwrap().public(), device, "no pairing breaks");
}
