//! What the vault is doing when the disk fails, and what must be true when it is opened again.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use aico_crypto::{ComponentKind, Identity, IdentitySecret, Name, OsRandom, Password, RecoveryCode};
use aico_policy::{
    Action, Capability, Circumstances, DataPath, Event, Grant, Permit, Principal, Resource, Sensitivities, What, decide,
};
use aico_proto::LocalIdentity;
use aico_vault::audit::{AuditLog, Expectations, LogId, verify};
use aico_vault::unlock::Tpm;
use aico_vault::{Error, How, Locked, Places, Proof, SlotKind, Unlocked, Vault};

/// Recovery code of the scene `keys`; any will do.
const WORDS_FILE: &str = "words";
const PASSWORDS: [&str; 2] = ["correct horse", "another horse"];
/// Entries of the scene `log`: more than a bundle.
const ENTRIES: u64 = 300;

/// One thing that is done, and acknowledged or not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Open,
    Put(&'static str, u8, usize),
    Remove(&'static str),
    /// Into the working memory.
    Remember(&'static str, u8, usize),
    Unremember(&'static str),
    /// What is in `notes` becomes secret.
    Pad,
    SetPassword,
    PutRecovery,
    RotatePassword,
    RemoveKeyFile,
    AddKeyFile,
    Rotate,
    Forget(&'static str),
    Copy,
    Lock,
    Close,
    /// Up to this many entries.
    Log(u64),
}

/// The steps of a scene. Each but `set-up` and `log` begins with a vault that holds `notes/kept`.
pub(crate) fn steps(scene: &str) -> &'static [Step] {
    const LARGE: usize = 1_200_000;
    match scene {
        "set-up" => &[Step::Open, Step::Put("notes/kept", 1, 300), Step::Close],
        "values" => &[
            Step::Open,
            Step::Put("notes/a", 2, 5_000),
            Step::Put("notes/large", 3, LARGE),
            Step::Put("notes/a", 4, 70),
            Step::Put("notes/large", 5, LARGE),
            Step::Remove("notes/large"),
            Step::Remove("notes/kept"),
            Step::Put("notes/b", 6, 0),
            Step::Close,
        ],
        "keys" => &[
            Step::Open,
            Step::SetPassword,
            Step::PutRecovery,
            Step::RotatePassword,
            Step::RemoveKeyFile,
            Step::AddKeyFile,
            Step::Put("notes/a", 7, 10),
            Step::Close,
        ],
        "rotation" => &[
            Step::Open,
            Step::Put("notes/large", 3, LARGE),
            Step::Rotate,
            Step::Put("notes/a", 4, 70),
            Step::Rotate,
            Step::Close,
        ],
        "forgetting" => &[
            Step::Open,
            Step::SetPassword,
            Step::Put("conversations/1/a", 2, 5_000),
            Step::Put("conversations/1/large", 3, LARGE),
            Step::Put("conversations/2/a", 4, 70),
            Step::Forget("conversations/1/"),
            Step::Copy,
            Step::Rotate,
            Step::Forget(""),
            Step::Put("notes/b", 5, 70),
            Step::Close,
        ],
        "memory" => &[
            Step::Open,
            Step::Remember("mood/a", 2, 5_000),
            Step::Remember("mood/large", 3, 900_000),
            Step::Remember("conversations/1/a", 4, 70),
            Step::Rotate,
            Step::Remember("mood/a", 5, 70),
            Step::Unremember("mood/large"),
            Step::Forget("conversations/1/"),
            Step::Close,
        ],
        "secrets" => &[
            Step::Open,
            Step::Put("notes/large", 2, LARGE),
            Step::Put("notes/a", 3, 70),
            Step::Pad,
            Step::Put("notes/a", 4, 5_000),
            Step::Put("notes/large", 5, LARGE),
            Step::Rotate,
            Step::Close,
        ],
        "lock" => &[Step::Open, Step::SetPassword, Step::Put("notes/a", 8, 10), Step::Lock, Step::Close],
        "migration" => &[Step::Open, Step::Put("notes/a", 9, 10), Step::Close],
        "log" => &[Step::Log(1), Step::Log(40), Step::Log(255), Step::Log(257), Step::Log(ENTRIES)],
        other => panic!("no scene {other}"),
    }
}

/// What became of each step: `a`cknowledged, `f`ailed, `-` not tried.
pub(crate) type Outcomes = String;

fn value(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| seed ^ (at % 251) as u8).collect()
}

pub(crate) fn places(root: &Path) -> Places {
    Places { home: root.join("data"), key_dir: root.join("keys"), bus: None, tpm: Tpm::none(), credentials: None }
}

fn capability(action: Action, path: Option<&str>) -> Capability {
    let resource = match path {
        Some(path) => Resource::Value(DataPath::parse(path).unwrap()),
        None => Resource::System,
    };
    Capability::new(action, resource)
}

fn permit(vault: &Vault<Unlocked>, action: Action, path: Option<&str>) -> Result<Permit, Error> {
    permit_for(vault, action, capability(action, path).resource)
}

fn permit_for(vault: &Vault<Unlocked>, action: Action, resource: Resource) -> Result<Permit, Error> {
    let secret = IdentitySecret::make(&OsRandom)?;
    let identity = Identity::new(ComponentKind::Cli, *secret.public(), Name::parse("cli").unwrap());
    let me = LocalIdentity::new(secret, identity).unwrap();
    let grants = [Grant::for_enrolment(me.identity(), 0)];
    let decision = decide(
        &Principal::from_own_identity(&me),
        &grants,
        Capability::new(action, resource),
        &Circumstances::default(),
    );
    Ok(decision.record(vault.log())?.unwrap())
}

fn password(at: usize) -> Password {
    Password::parse(PASSWORDS[at]).unwrap()
}

fn code(root: &Path) -> RecoveryCode {
    // Beside the disk: the owner's paper.
    RecoveryCode::parse(&fs::read_to_string(paper(root)).unwrap()).unwrap()
}

fn paper(root: &Path) -> PathBuf {
    // The disk is one level up; the paper lies beside its mount point.
    root.parent().unwrap().with_extension(WORDS_FILE)
}

pub(crate) fn write_paper(mount: &Path) {
    let code = RecoveryCode::make(&OsRandom).unwrap();
    code.hazmat_words(|words| fs::write(mount.with_extension(WORDS_FILE), words.join(" ")).unwrap());
}

fn log_key() -> aico_crypto::LogKey {
    // The same key each time, as a vault has it.
    super::super::vectors::vector_log_key()
}

/// Does the steps and says after each what became of it. With `until_failure`, ends there.
pub(crate) fn play(scene: &str, root: &Path, until_failure: bool) -> (Outcomes, Vec<String>) {
    let (mut outcomes, mut errors) = (Outcomes::new(), Vec::new());
    let mut vault = None;
    let mut log = None;
    for step in steps(scene) {
        let done = match step {
            Step::Log(to) => write_log(root, &mut log, *to),
            step => act(root, &mut vault, *step),
        };
        match done {
            Ok(()) => outcomes.push('a'),
            Err(error) => {
                outcomes.push('f');
                errors.push(format!("{step:?}: {error}"));
                if until_failure {
                    break;
                }
            }
        }
    }
    while outcomes.len() < steps(scene).len() {
        outcomes.push('-');
    }
    (outcomes, errors)
}

fn write_log(root: &Path, log: &mut Option<(AuditLog, u64)>, to: u64) -> Result<(), Error> {
    let (log, next) = match log {
        Some(open) => open,
        None => log.insert((AuditLog::create(&root.join("audit"), log_key(), LogId::from_bytes([9; 16]))?, 0)),
    };
    while *next < to {
        let receipt = log.record(format!("entry {next}").as_bytes())?;
        *next = receipt.index() + 1;
        if *next % 37 == 0 {
            log.wait_durable(receipt.index())?;
        }
    }
    log.wait_durable(to - 1)
}

fn act(root: &Path, vault: &mut Option<Vault<Unlocked>>, step: Step) -> Result<(), Error> {
    let places = places(root);
    if let Step::Open = step {
        *vault = Some(Vault::<Locked>::at(&places)?.unlock(1)?.0);
        return Ok(());
    }
    if let Step::Close = step {
        return match vault.take() {
            Some(vault) => {
                let what = What::System { word: "backend.stop", detail: String::new() };
                vault.close(&Event { at_ms: 9, who: None, what })
            }
            None => Err(Error::Misuse("not open")),
        };
    }
    let vault = vault.as_ref().ok_or(Error::Misuse("not open"))?;
    match step {
        Step::Put(path, seed, bytes) => {
            let mut put = vault.begin_put(permit(vault, Action::WriteData, Some(path))?, 2)?;
            value(seed, bytes).chunks(100_000).try_for_each(|chunk| put.write(chunk))?;
            put.finish().map(drop)
        }
        Step::Remove(path) => vault.remove(permit(vault, Action::RemoveData, Some(path))?),
        Step::Remember(path, seed, bytes) => {
            vault.remember(permit(vault, Action::WriteData, Some(path))?, &value(seed, bytes), None, 2)
        }
        Step::Unremember(path) => vault.unremember(permit(vault, Action::RemoveData, Some(path))?, 2),
        Step::Pad => {
            vault.set_sensitivities(secret_notes());
            vault.pad_secrets(2, &mut |_| true).map(drop)
        }
        Step::SetPassword => {
            vault.set_first_password(permit(vault, Action::SetFirstPassword, None)?, &password(0), 64, 3).map(drop)
        }
        Step::PutRecovery => vault.put_recovery(permit(vault, Action::ManageKeys, None)?, &code(root), 4).map(drop),
        Step::RotatePassword => {
            let both = (&password(0), &password(1));
            vault.change_password(permit(vault, Action::ManageKeys, None)?, both, true, 64, 5).map(drop)
        }
        Step::RemoveKeyFile => {
            let slots = vault.slots(permit(vault, Action::ReadKeys, None)?)?;
            let slot = slots.iter().find(|slot| slot.kind == SlotKind::KeyFile).ok_or(Error::Misuse("no key file"))?;
            vault.remove_slot(permit(vault, Action::ManageKeys, None)?, slot.id, 6)
        }
        Step::Rotate => vault.rotate(permit(vault, Action::RotateKeys, None)?, 8, &mut |_| true).map(drop),
        Step::Forget(prefix) => {
            vault.forget(permit_for(vault, Action::Forget, Resource::Values(prefix.to_owned()))?).map(drop)
        }
        Step::Copy => {
            let mut copy = vault.copy(permit(vault, Action::Backup, None)?, 8, &mut || true)?;
            while let Some(mut file) = copy.next_file()? {
                let mut piece = Vec::new();
                while file.next_chunk(&mut piece)? {}
            }
            Ok(())
        }
        Step::AddKeyFile => vault.add_slot(permit(vault, Action::ManageKeys, None)?, SlotKind::KeyFile, 7).map(drop),
        Step::Lock => vault.note_locked(permit(vault, Action::Lock, None)?),
        Step::Open | Step::Close | Step::Log(_) => Ok(()),
    }
}

fn secret_notes() -> Sensitivities {
    Sensitivities::new(Vec::new(), vec!["notes".to_owned()])
}

/// What may be found at a path: every value that could stand there.
struct May {
    path: &'static str,
    values: BTreeSet<Option<Vec<u8>>>,
}

/// What each path may hold after these outcomes.
fn may_hold(scene: &str, outcomes: &str, of_memory: bool) -> Vec<May> {
    let before = match scene {
        _ if of_memory => Vec::new(),
        "set-up" => Vec::new(),
        // What is in the archive.
        "migration" => vec![("notes/a", b"written by format 1".to_vec()), ("notes/b", vec![b'x'; 20_000])],
        _ => vec![("notes/kept", value(1, 300))],
    };
    let before = before.into_iter().map(|(path, value)| May { path, values: BTreeSet::from([Some(value)]) });
    let mut paths: Vec<May> = before.collect();
    for (step, outcome) in steps(scene).iter().zip(outcomes.chars()) {
        let (path, new) = match step {
            Step::Forget(prefix) => {
                for may in paths.iter_mut().filter(|may| may.path.starts_with(prefix)) {
                    match outcome {
                        'a' => may.values = BTreeSet::from([None]),
                        'f' => drop(may.values.insert(None)),
                        _ => {}
                    }
                }
                continue;
            }
            Step::Put(path, seed, bytes) if !of_memory => (*path, Some(value(*seed, *bytes))),
            Step::Remove(path) if !of_memory => (*path, None),
            Step::Remember(path, seed, bytes) if of_memory => (*path, Some(value(*seed, *bytes))),
            Step::Unremember(path) if of_memory => (*path, None),
            _ => continue,
        };
        let at = paths.iter().position(|may| may.path == path).unwrap_or_else(|| {
            paths.push(May { path, values: BTreeSet::from([None]) });
            paths.len() - 1
        });
        match outcome {
            'a' => paths[at].values = BTreeSet::from([new]),
            'f' => drop(paths[at].values.insert(new)),
            _ => {}
        }
    }
    paths
}

fn read(vault: &Vault<Unlocked>, path: &str) -> Result<Option<Vec<u8>>, Error> {
    let mut get = match vault.get(permit(vault, Action::ReadData, Some(path))?) {
        Err(Error::NotFound) => return Ok(None),
        other => other?,
    };
    let (mut all, mut chunk) = (Vec::new(), Vec::new());
    while get.next_chunk(&mut chunk)? {
        all.extend_from_slice(&chunk);
        chunk.clear();
    }
    Ok(Some(all))
}

fn recall(vault: &Vault<Unlocked>, path: &str) -> Result<Option<Vec<u8>>, Error> {
    match vault.recall(permit(vault, Action::ReadData, Some(path))?, 2) {
        Err(Error::NotFound) => Ok(None),
        other => other.map(Some),
    }
}

fn opens(places: &Places, proof: &Proof) -> Result<Vault<Unlocked>, Error> {
    let vault = Vault::<Locked>::at(places)?;
    let found = vault.find(How::ByOwner(proof), 10)?;
    vault.enter(found, 10).map(|(vault, _)| vault)
}

/// Opens what is there and compares it with what it may be; says what is wrong.
pub(crate) fn check(scene: &str, root: &Path, outcomes: &str) -> Result<(), String> {
    if scene == "log" {
        return check_log(root, outcomes);
    }
    let places = places(root);
    let outcome = |wanted: fn(&Step) -> bool| {
        let at = steps(scene).iter().position(wanted);
        at.map_or('-', |at| outcomes.chars().nth(at).unwrap_or('-'))
    };
    let password_set = outcome(|step| matches!(step, Step::SetPassword));
    let rotated = outcome(|step| matches!(step, Step::RotatePassword));
    let key_file_removed = outcome(|step| matches!(step, Step::RemoveKeyFile));
    let key_file_added = outcome(|step| matches!(step, Step::AddKeyFile));
    let locked = outcome(|step| matches!(step, Step::Lock));

    // Every way in that was acknowledged opens; none that was taken away does.
    if password_set == 'a' {
        let tries = PASSWORDS.map(|text| opens(&places, &Proof::Password(Password::parse(text).unwrap())));
        let opened: Vec<bool> = tries.iter().map(Result::is_ok).collect();
        let right: &[&[bool]] = match rotated {
            'a' => &[&[false, true]],
            'f' => &[&[false, true], &[true, false]],
            _ => &[&[true, false]],
        };
        if !right.contains(&opened.as_slice()) {
            let errors: Vec<String> =
                tries.into_iter().map(|t| t.err().map(|e| e.to_string()).unwrap_or_default()).collect();
            return Err(format!("passwords open {opened:?} where {right:?} is right: {errors:?}"));
        }
    }
    if outcome(|step| matches!(step, Step::PutRecovery)) == 'a' {
        drop(opens(&places, &Proof::Recovery(code(root))).map_err(|error| format!("the recovery code: {error}"))?);
    }
    // Opening with a word of the owner's unlocks; a lock is seen by the machine's own start only.
    let by_itself = || Vault::<Locked>::at(&places).and_then(|vault| vault.unlock(11)).map(|(vault, _)| vault);
    let needs_owner = (key_file_removed != '-' && key_file_added != 'a') || (locked != '-' && password_set != 'a');
    let vault = match by_itself() {
        Ok(_) if key_file_removed == 'a' && key_file_added == '-' => return Err("a removed key file opens".to_owned()),
        Ok(vault) => vault,
        Err(error) if needs_owner => {
            let by_password = (0..2).find_map(|at| opens(&places, &Proof::Password(password(at))).ok());
            let by_machine = || {
                let vault = Vault::<Locked>::at(&places)?;
                let found = vault.find(How::ByMachine, 10)?;
                vault.enter(found, 10).map(|(vault, _)| vault)
            };
            by_password.map_or_else(by_machine, Ok).map_err(|second| format!("{error}; and {second}"))?
        }
        Err(error) => return Err(format!("it does not open: {error}")),
    };
    for of_memory in [false, true] {
        for May { path, values } in may_hold(scene, outcomes, of_memory) {
            let found = if of_memory { recall(&vault, path) } else { read(&vault, path) };
            let found = found.map_err(|error| format!("{path}: {error}"))?;
            if !values.contains(&found) {
                let bytes = found.map(|value| value.len());
                return Err(format!("{path} holds {bytes:?} bytes of something else"));
            }
        }
    }
    if scene == "secrets" {
        vault.set_sensitivities(secret_notes());
        vault.pad_secrets(11, &mut |_| true).map_err(|error| format!("padding does not go on: {error}"))?;
        match vault.to_be_padded() {
            Ok(None) => {}
            other => return Err(format!("{other:?} is not padded")),
        }
    }
    verified(&places.home.join("audit"))?;
    // What was begun is finished.
    if vault.is_rotation_under_way().map_err(|error| error.to_string())? {
        vault.continue_rotation(11, &mut |_| true).map_err(|error| format!("the rotation does not go on: {error}"))?;
    }
    // It goes on as before.
    let go_on = || {
        let mut put = vault.begin_put(permit(&vault, Action::WriteData, Some("notes/after"))?, 12)?;
        put.write(b"after")?;
        put.finish()?;
        read(&vault, "notes/after")
    };
    match go_on() {
        Ok(Some(value)) if value == b"after" => {}
        other => return Err(format!("it does not go on: {other:?}")),
    }
    drop(vault);
    verified(&places.home.join("audit"))?;
    if places.home.join("copy.part").exists() {
        return Err("a copy that was stopped is still there".to_owned());
    }
    let stores = || -> Result<usize, std::io::Error> {
        let mut stores = 0;
        for space in fs::read_dir(places.home.join("spaces"))? {
            let names = fs::read_dir(space?.path())?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<std::io::Result<Vec<_>>>()?;
            stores += names.iter().filter(|name| name.to_str().is_some_and(|name| name.ends_with(".db"))).count();
        }
        Ok(stores)
    };
    match stores() {
        Ok(2) => {}
        other => return Err(format!("{other:?} databases where two belong")),
    }
    let left: Vec<_> = fs::read_dir(places.home.join("spaces")).into_iter().flatten().flatten().collect();
    if left.len() != 2 {
        return Err(format!("{} spaces where two belong", left.len()));
    }
    Ok(())
}

fn verified(log: &Path) -> Result<(), String> {
    verify(log, &Expectations::default()).map(drop).map_err(|error| format!("the log does not verify: {error}"))
}

fn check_log(root: &Path, outcomes: &str) -> Result<(), String> {
    let folder = root.join("audit");
    let acknowledged = steps("log").iter().zip(outcomes.chars());
    let acknowledged = acknowledged.filter(|(_, outcome)| *outcome == 'a').map(|(step, _)| match step {
        Step::Log(to) => *to,
        _ => 0,
    });
    let acknowledged = acknowledged.max().unwrap_or(0);
    let id = LogId::from_bytes([9; 16]);
    let log = match AuditLog::open(&folder, log_key(), id) {
        Ok(log) => log,
        // Making it may be repeated until it was made once.
        Err(_) if acknowledged == 0 => {
            AuditLog::create(&folder, log_key(), id).map_err(|error| format!("made anew: {error}"))?
        }
        Err(error) => return Err(format!("it does not open: {error}")),
    };
    let size = log.head().size;
    if size < acknowledged || size > ENTRIES {
        return Err(format!("{size} entries, {acknowledged} acknowledged"));
    }
    for (index, entry) in log.entries(0, size).map_err(|error| format!("reading: {error}"))? {
        if entry != format!("entry {index}").as_bytes() {
            return Err(format!("entry {index} is another one"));
        }
    }
    verified(&folder)?;
    let go_on = log.record(b"after").and_then(|receipt| log.wait_durable(receipt.index()));
    go_on.map_err(|error| format!("it does not go on: {error}"))?;
    log.close().map_err(|error| format!("it does not close: {error}"))?;
    verified(&folder)
}
