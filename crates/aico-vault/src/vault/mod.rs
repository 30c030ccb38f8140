mod copy;
mod forget;
mod history;
mod keys;
mod locked_log;
mod memory;
mod mount;
mod rotate;
mod sealed;
mod spaces;
mod value;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use aico_crypto::{Identity, IdentitySecret, LockedKey, OsRandom, PublicKey, RootKey, SpaceKey};
use aico_policy::{Action, AuditSink, DataPath, Event, Grant, Permit, Resource, Sensitivities, Sensitivity, What};

use crate::audit::{AuditLog, Head, LogId};
use crate::header::{Header, SpaceId, SystemSpace, VaultId};
use crate::hold::Hold;
use crate::journal::Journal;
use crate::store::Database;
use crate::system::{Component, Notice, System, keep_anchor, kept_anchor};
use crate::unlock::{self, Opened, Proof, SlotKind, Tpm};
use crate::user_data::{Category, Entry, Renewed, UserData};
use crate::{Error, durable};
use spaces::Spaces;

pub use copy::{CopiedFile, Copy};
pub use keys::{KeyChange, SlotState};
pub use locked_log::LockedLog;
pub use memory::Remembered;
pub use mount::Mounted;
pub use rotate::{Progress, Rotated, Tell};
pub use value::{Export, ExportedValue, Get, Put};
pub use verify::{Checked, Content};

const HEADER: &str = "vault.aico";
/// The header of a set-up that is not finished: it becomes [`HEADER`] as the last step.
const NEW_HEADER: &str = "vault.aico.new";
/// The setting that says how often the header was written: an older one that was put back has less.
const REVISION: &str = "header revision";

/// Where a vault's parts lie.
#[derive(Clone, Debug)]
pub struct Places {
    /// The data folder.
    pub home: PathBuf,
    /// The folder of the key file, outside of the data folder and its backups.
    pub key_dir: PathBuf,
    /// The address of the session's D-Bus, where there is one.
    pub bus: Option<String>,
    /// The machine's TPM, where there is one.
    pub tpm: Tpm,
    /// The folder of the credentials that systemd gave to this service, if it is one.
    pub credentials: Option<PathBuf>,
}

/// State of a [`Vault`] whose keys are not in memory.
#[derive(Debug)]
pub struct Locked {
    places: Places,
}

/// What opens a vault, together: neither is of use without the other.
#[derive(Debug)]
struct Keys {
    header: Header,
    root: RootKey,
}

/// State of a [`Vault`] that can be worked in.
#[derive(Debug)]
pub struct Unlocked {
    places: Places,
    keys: Mutex<Keys>,
    by: SlotKind,
    system: System,
    /// The owner's values; in another space once this one was forgotten.
    owner: RwLock<UserData>,
    log_key: PublicKey,
    journal: Journal,
    /// Authenticates the side file of the time before this opening.
    locked: Mutex<Option<LockedKey>>,
    /// Held while a question over the access history is answered.
    asking: Mutex<()>,
    /// Held while the stores get new keys.
    rotating: Mutex<()>,
    /// The owner's files, while they are mounted.
    trees: Mutex<mount::Trees>,
    /// What the owner's companion keeps in mind.
    memory: memory::WorkingMemory,
}

/// One person's vault, held by this process alone.
#[derive(Debug)]
pub struct Vault<State> {
    state: State,
    hold: Hold,
}

/// With what a vault is to be opened.
#[derive(Clone, Copy, Debug)]
pub enum How<'a> {
    /// As a start does: by what this machine keeps, unless the owner has locked the vault. Sets a new one up.
    AtStart,
    /// By what this machine keeps, though it is locked; refused once there is a password or a recovery code.
    ByMachine,
    /// With what the owner knows or holds.
    ByOwner(&'a Proof),
}

/// How a vault was opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Whether it was set up just now.
    pub first_start: bool,
    /// The unlock method that worked.
    pub unlocked_by: String,
    /// Whether the kernel still knew its secret, so that the method itself was not asked.
    pub remembered: bool,
    /// The better way that this machine lacks.
    pub advice: Option<String>,
}

/// What `status` shows.
#[derive(Clone, Debug)]
pub struct VaultState {
    /// The unlock method that worked.
    pub unlocked_by: String,
    /// The weakest of the key slots.
    pub weakest_slot: String,
    /// Whether a recovery code was made and confirmed.
    pub recovery_code: bool,
    /// Whether a password is set.
    pub password: bool,
    /// Bytes of all values.
    pub data_bytes: u64,
    /// Number of values.
    pub values: u64,
    /// Entries of the audit log.
    pub audit_entries: u64,
}

/// The newest head of the audit log that the vault keeps, and the log's public key.
#[derive(Clone, Debug)]
pub struct Anchor {
    /// The log's public key.
    pub key: PublicKey,
    /// The newest head; none before the first write.
    pub head: Option<Head>,
}

impl Vault<Locked> {
    /// Takes hold of the vault in `places.home`, or of the place for a new one. Fails with [`Error::Held`] while
    /// another process has it.
    pub fn at(places: &Places) -> Result<Self, Error> {
        make_folders(places)?;
        Self::held(places, Hold::alone(&places.home)?)
    }

    /// The same for the worker of a process that holds [`crate::Front`].
    pub fn at_as_worker(places: &Places) -> Result<Self, Error> {
        make_folders(places)?;
        Self::held(places, Hold::of_worker(&places.home)?)
    }

    fn held(places: &Places, hold: Hold) -> Result<Self, Error> {
        // SQLite refuses links on the way to a database.
        let home = places.home.canonicalize().map_err(|source| Error::io("resolving", &places.home, source))?;
        Ok(Self { state: Locked { places: Places { home, ..places.clone() } }, hold })
    }

    /// Opens the vault, or sets it up; see [`Vault::find`] and [`Vault::enter`].
    pub fn unlock(self, now_ms: u64) -> Result<(Vault<Unlocked>, Opening), Error> {
        let found = self.find(How::AtStart, now_ms)?;
        self.enter(found, now_ms)
    }

    /// Finds the root key, and changes nothing of a vault that is there. Where there is none, [`How::AtStart`] begins
    /// to set one up.
    pub fn find(&self, how: How<'_>, now_ms: u64) -> Result<Found, Error> {
        let places = &self.state.places;
        let path = places.home.join(HEADER);
        let first_start = matches!(how, How::AtStart) && !path.exists();
        let header = if first_start { begin_set_up(places, now_ms)? } else { Header::read(&path)? };
        let by_machine = || unlock::unlock(&header, &unlock::rungs(places));
        let opened = match how {
            How::AtStart if header.is_locked() => Err(Error::LockedByOwner),
            How::ByMachine if header.is_held_by_a_person() => Err(Error::LockedByOwner),
            How::AtStart | How::ByMachine => by_machine(),
            How::ByOwner(proof) => unlock::unlock_with(&header, proof),
        }?;
        Ok(Found { header, opened, first_start })
    }

    /// Opens the stores with a root key that was found.
    ///
    /// A set-up that was stopped in the middle is finished. Encrypted stores without a header are never set up over. A
    /// vault of an older format is brought to this one; what an older program could not read any more says so first.
    pub fn enter(self, found: Found, now_ms: u64) -> Result<(Vault<Unlocked>, Opening), Error> {
        let places = self.state.places;
        let Found { mut header, opened, first_start } = found;
        let file = places.home.join(HEADER);
        if header.is_old() && !first_start {
            header.rewrite(&opened.root)?;
            header.write(&file)?;
        }
        let Opened { root, by, remembered, slot: (slot, secret), tried } = opened;
        let advice = unlock::better_rung(by, &tried);
        let state = Unlocked::open(places, header, root, by, first_start)?;
        if first_start {
            let home = &state.places.home;
            durable::rename(&home.join(NEW_HEADER), &home.join(HEADER))?;
        }
        state.adopt(now_ms)?;
        state.check_revision(now_ms)?;
        state.change_header(|header, root| {
            if header.is_locked() {
                header.set_locked(root, false)?;
            }
            header.rewrap(root, slot, &secret, &OsRandom).map(drop)
        })?;
        state.merge_locked(now_ms)?;
        let opening = Opening { first_start, unlocked_by: by.word().to_owned(), remembered, advice };
        Ok((Vault { state, hold: self.hold }, opening))
    }

    /// What an existing vault remembers of its audit log. The log is not opened, nothing is repaired or written.
    pub fn remembered_anchor(self) -> Result<Anchor, Error> {
        let places = &self.state.places;
        let header = Header::read(&places.home.join(HEADER))?;
        if header.is_old() {
            return Err(Error::Misuse("the vault is of an older format; `aico up` brings it to this one"));
        }
        let root = unlock::unlock(&header, &unlock::rungs(places))?.root;
        let spaces = Spaces::open(&places.home, &header, &root, false)?;
        Ok(Anchor { key: spaces.keys.log.public()?, head: newest_anchor(&spaces.system, &spaces.owner)? })
    }

    /// The header of the vault, as it stands in its file: not authenticated.
    pub fn header(&self) -> Result<Header, Error> {
        read_header(&self.state.places.home)
    }

    /// Where its events go while it is locked.
    pub fn locked_log(&self) -> Result<LockedLog, Error> {
        LockedLog::open(&self.state.places.home)
    }
}

/// The header of the vault in `home`, as it stands in its file: not authenticated.
pub fn read_header(home: &Path) -> Result<Header, Error> {
    Header::read(&home.join(HEADER))
}

/// Every key slot of the vault in `places.home`, tried as far as that goes without the owner, and whether the owner has
/// locked it. Nothing is changed, and no running backend is in the way.
pub fn survey(places: &Places) -> Result<(Vec<SlotState>, bool), Error> {
    let header = read_header(&places.home)?;
    Ok((keys::slot_states(&header, &unlock::rungs(places)), header.is_locked()))
}

/// A root key that opens a vault.
#[derive(Debug)]
pub struct Found {
    header: Header,
    opened: Opened,
    first_start: bool,
}

fn make_folders(places: &Places) -> Result<(), Error> {
    durable::create_folder(&places.home)?;
    durable::create_folder(&places.home.join("run"))
}

/// Writes the first header beside its final place, once its slots' secrets are kept.
fn begin_set_up(places: &Places, now_ms: u64) -> Result<Header, Error> {
    let staged = places.home.join(NEW_HEADER);
    if staged.exists() {
        return Header::read(&staged);
    }
    if places.home.join("spaces").exists() {
        let detail = "it is missing, and encrypted stores are here: without it they cannot be opened";
        return Err(Error::damaged(places.home.join(HEADER).display().to_string(), detail));
    }
    let vault = VaultId::make(&OsRandom)?;
    let (root, key) = (RootKey::make(&OsRandom)?, SpaceKey::make(&OsRandom)?);
    let slots = unlock::first_start(&vault, &unlock::rungs(places), &OsRandom)?;
    let system = SystemSpace { id: SpaceId::make(&OsRandom)?, epoch: 0, key: &key };
    let header = Header::make(vault, now_ms, &root, &system, &slots, &OsRandom)?;
    header.write(&staged)?;
    Ok(header)
}

/// The newest anchor that either space keeps.
fn newest_anchor(system: &System, owner: &UserData) -> Result<Option<Head>, Error> {
    let kept = [kept_anchor(system.database())?, kept_anchor(owner.database())?];
    Ok(kept.into_iter().flatten().max_by_key(|head| head.size))
}

/// The same of the databases that still tell.
fn newest_kept<'a>(databases: impl Iterator<Item = &'a Database>) -> Option<Head> {
    databases.filter_map(|database| kept_anchor(database).ok().flatten()).max_by_key(|head| head.size)
}

impl Unlocked {
    fn open(places: Places, header: Header, root: RootKey, by: SlotKind, set_up: bool) -> Result<Self, Error> {
        let home = &places.home;
        let Spaces { system, owner, keys } = Spaces::open(home, &header, &root, set_up)?;
        spaces::sweep(home, &header, &system, &keys.owner)?;
        copy::remove(&home.join(copy::GATHERED))?;
        let (audit, id) = (home.join("audit"), LogId::from_bytes(*header.vault().as_bytes()));
        let log_key = keys.log.public()?;
        // Making a log is repeatable until its last step: a set-up that was stopped in it begins it anew.
        let log = if set_up && newest_anchor(&system, &owner)?.is_none() && !audit.join("tail").exists() {
            AuditLog::create(&audit, keys.log, id)?
        } else {
            AuditLog::open(&audit, keys.log, id)?
        };
        check_log(&log, newest_anchor(&system, &owner)?)?;
        let journal = Journal::new(log, keys.pseudonyms);
        let locked = Mutex::new(keys.locked);
        let (keys, owner) = (Mutex::new(Keys { header, root }), RwLock::new(owner));
        Ok(Self {
            places,
            keys,
            by,
            system,
            owner,
            log_key,
            journal,
            locked,
            asking: Mutex::default(),
            rotating: Mutex::default(),
            trees: Mutex::default(),
            memory: memory::WorkingMemory::default(),
        })
    }

    fn owner(&self) -> UserData {
        self.owner.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the header, on disk when this returns. A change that does nothing writes nothing.
    fn change_header(&self, change: impl FnOnce(&mut Header, &RootKey) -> Result<(), Error>) -> Result<(), Error> {
        let mut keys = self.keys();
        let mut next = keys.header.clone();
        change(&mut next, &keys.root)?;
        if next.revision() != keys.header.revision() {
            self.write_header(&next)?;
            keys.header = next;
        }
        Ok(())
    }

    fn write_header(&self, header: &Header) -> Result<(), Error> {
        header.write(&self.places.home.join(HEADER))?;
        let head = self.journal.log().head();
        self.system.put_setting(REVISION, &header.revision().to_be_bytes(), &head)
    }

    /// Notices an older header of this vault that was put back: slots that were removed may open it again.
    fn check_revision(&self, now_ms: u64) -> Result<(), Error> {
        let kept = self.system.setting(REVISION)?.and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_be_bytes);
        let revision = self.keys().header.revision();
        if revision < kept {
            let text = "an older header was put back: slots that were removed, and old passwords, may open the vault";
            self.tell(now_ms, "header.rolled-back", text)?;
        }
        let head = self.journal.log().head();
        if revision == kept { Ok(()) } else { self.system.put_setting(REVISION, &revision.to_be_bytes(), &head) }
    }

    /// Takes what happened while the vault was locked into the log, and begins the file for the next time.
    fn merge_locked(&self, now_ms: u64) -> Result<(), Error> {
        let before = self.locked.lock().unwrap_or_else(PoisonError::into_inner).take();
        match self.merge_since(before, now_ms) {
            // A start on a full disk goes on; what is there is merged at the next one.
            Err(Error::Full { .. }) => Ok(()),
            merged => merged,
        }
    }

    fn merge_since(&self, before: Option<LockedKey>, now_ms: u64) -> Result<(), Error> {
        if let Some(key) = before {
            let merged = locked_log::merge(&self.places.home, key)?;
            if merged.whole && merged.events.is_empty() {
                return Ok(());
            }
            for (at_ms, word, detail) in merged.events.iter().filter_map(|event| locked_log::decode(event)) {
                self.record(at_ms, "while-locked", &format!("{word}: {detail}"))?;
            }
            if !merged.whole {
                let text = "the record of what was tried while the vault was locked was changed or removed";
                self.tell(now_ms, "while-locked.damaged", text)?;
            }
        }
        let (key, vault) = (LockedKey::make(&OsRandom)?, self.keys().header.vault());
        // The file first: a stop in between shows as a file that does not fit, never as one that was not missed.
        locked_log::begin(&self.places.home, &vault, &key)?;
        let space = self.system_space_key()?;
        self.system.put_locked_key(&vault, &space, &key)
    }

    fn system_space_key(&self) -> Result<SpaceKey, Error> {
        let keys = self.keys();
        keys.header.system_space_key(&keys.root)
    }

    fn record(&self, at_ms: u64, word: &'static str, detail: &str) -> Result<(), Error> {
        let what = What::System { word, detail: detail.to_owned() };
        self.journal.record(&Event { at_ms, who: None, what }).map(drop)
    }

    /// Records something and keeps it to be shown to the owner at the next contact.
    fn tell(&self, at_ms: u64, word: &'static str, text: &str) -> Result<(), Error> {
        self.record(at_ms, word, text)?;
        self.system.add_notice(at_ms, text)
    }
}

/// A log that is shorter than the vault remembers, or another one, was cut or rewritten.
fn check_log(log: &AuditLog, remembered: Option<Head>) -> Result<(), Error> {
    match remembered {
        Some(head) if !log.contains(&head)? => {
            let detail = format!("it does not hold the {} entries that the vault remembers", head.size);
            Err(Error::damaged("the audit log", detail))
        }
        _ => Ok(()),
    }
}

impl Vault<Unlocked> {
    /// Where decisions are recorded.
    #[must_use]
    pub fn log(&self) -> &Journal {
        &self.state.journal
    }

    /// Starts to store a value; the permit is used up whether it succeeds or not.
    pub fn begin_put(&self, permit: Permit, now_ms: u64) -> Result<Put<'_>, Error> {
        let path = self.value(&permit, Action::WriteData)?.clone();
        let writer = self.state.owner().begin_put(&path, now_ms);
        Ok(Put::new(&self.state, permit, writer, now_ms))
    }

    /// Opens a value for reading.
    pub fn get(&self, permit: Permit) -> Result<Get<'_>, Error> {
        let (path, owner) = (self.value(&permit, Action::ReadData)?, self.state.owner());
        if owner.sensitivities().of(path.category()) < Sensitivity::Secret {
            return Ok(Get::new(owner.get(path)?, permit, None));
        }
        // Whoever reads it cannot keep the log from saying so.
        self.state.journal.log().wait_durable(permit.receipt().index)?;
        match owner.get(path) {
            Ok(reader) => Ok(Get::new(reader, permit, Some(&self.state))),
            Err(error) => {
                self.state.outcome(&permit, Err(&error));
                Err(error)
            }
        }
    }

    /// Lists values behind `after`, in the order of their paths.
    pub fn list(&self, permit: Permit, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        self.redeem(&permit, Action::ListData)?;
        let Resource::Values(prefix) = &permit.capability().resource else { return Err(WRONG_RESOURCE) };
        self.state.owner().list(Some(prefix), after, limit)
    }

    /// Removes a value.
    pub fn remove(&self, permit: Permit) -> Result<(), Error> {
        let path = self.value(&permit, Action::RemoveData)?;
        let head = self.state.journal.log().head();
        let removed = self.state.owner().remove_with(path, |tx| keep_anchor(tx, &head));
        self.state.outcome(&permit, removed.as_ref().map(|()| 0));
        removed
    }

    /// What `status` shows.
    pub fn state(&self, permit: Permit) -> Result<VaultState, Error> {
        self.redeem(&permit, Action::ReadStatus)?;
        let state = &self.state;
        let header = state.keys().header.clone();
        Ok(VaultState {
            unlocked_by: state.by.word().to_owned(),
            weakest_slot: unlock::weakest_slot(&header).word().to_owned(),
            recovery_code: header.recovery_confirmed(),
            password: header.has(SlotKind::Password),
            data_bytes: state.owner().total_bytes()?,
            values: state.owner().count()?,
            audit_entries: state.journal.log().head().size,
        })
    }

    /// The newest `count` events of the audit log, oldest first.
    pub fn audit_tail(&self, permit: Permit, count: u64) -> Result<Vec<(u64, serde_json::Value)>, Error> {
        self.redeem(&permit, Action::ReadAudit)?;
        let log = self.state.journal.log();
        // The reader's own entry is part of what it asks for. A full disk hides only what is not written yet.
        let _shown_without = log.wait_durable(permit.receipt().index);
        let entries = log.tail(count)?;
        let decode = |(index, json): (u64, Vec<u8>)| {
            let event = serde_json::from_slice(&json);
            event.map(|event| (index, event)).map_err(|_| Error::damaged("the audit log", "an event does not decode"))
        };
        entries.into_iter().map(decode).collect()
    }

    /// What the vault remembers of its audit log.
    pub fn anchor(&self, permit: Permit) -> Result<Anchor, Error> {
        self.redeem(&permit, Action::ReadAudit)?;
        let head = newest_anchor(&self.state.system, &self.state.owner())?;
        Ok(Anchor { key: self.state.log_key, head })
    }

    /// Enrols an identity with a grant.
    pub fn enrol(&self, permit: Permit, identity: &Identity, grant: &Grant, now_ms: u64) -> Result<(), Error> {
        self.redeem_for_component(&permit, Action::Enrol, identity.key())?;
        if grant.to() != identity.key() {
            return Err(WRONG_RESOURCE);
        }
        let head = self.state.journal.log().head();
        self.state.system.enrol(identity, grant, now_ms, &head)
    }

    /// Revokes an identity: what it holds is worth nothing from here on.
    pub fn revoke(&self, permit: Permit, identity: &Identity, now_ms: u64) -> Result<(), Error> {
        self.redeem_for_component(&permit, Action::ManageIdentities, identity.key())?;
        let head = self.state.journal.log().head();
        self.state.system.revoke(identity, now_ms, &head)
    }

    /// Calls an identity something else, for the owner.
    pub fn show_as(&self, permit: Permit, identity: &Identity, name: &str) -> Result<(), Error> {
        self.redeem_for_component(&permit, Action::ManageIdentities, identity.key())?;
        let head = self.state.journal.log().head();
        self.state.system.show_as(identity.key(), name, &head)
    }

    /// Everybody who was revoked, with the time in milliseconds since 1970.
    pub fn revoked(&self) -> Result<Vec<(Identity, u64)>, Error> {
        self.state.system.revoked()
    }

    /// Opens every value for reading, one after another.
    pub fn export(&self, permit: Permit) -> Result<Export<'_>, Error> {
        self.redeem(&permit, Action::ExportData)?;
        Ok(Export::new(&self.state, permit))
    }

    /// How sensitive which categories are, from now on.
    pub fn set_sensitivities(&self, sensitivities: Sensitivities) {
        self.state.owner().set_sensitivities(sensitivities.into());
    }

    /// How sensitive which categories are.
    #[must_use]
    pub fn sensitivities(&self) -> Arc<Sensitivities> {
        self.state.owner().sensitivities()
    }

    /// Bytes of values that became secret since they were stored; none if there are no such values.
    pub fn to_be_padded(&self) -> Result<Option<u64>, Error> {
        self.state.owner().to_be_padded()
    }

    /// Seals values anew that became secret since they were stored; stopped, it goes on where it was. Returns how many are
    /// damaged, and stay as they are.
    pub fn pad_secrets(&self, now_ms: u64, tell: Tell<'_>) -> Result<u64, Error> {
        let _one_at_a_time = self.state.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = self.state.owner();
        let Some(of) = owner.to_be_padded()? else { return Ok(0) };
        let mut go_on = |done: Renewed| tell(Progress { part: "files", done: done.bytes, of: Some(of) });
        let Renewed { values, bytes, damaged } = owner.pad_secrets(&mut go_on)?;
        let text = format!("{values} values, {bytes} bytes, {damaged} damaged");
        self.state.record(now_ms, "data.padded", &text)?;
        Ok(damaged)
    }

    /// What is stored, by category.
    pub fn inventory(&self, permit: Permit) -> Result<Vec<Category>, Error> {
        self.redeem(&permit, Action::ReadInventory)?;
        self.state.owner().categories()
    }

    /// A setting of the whole vault; it holds nothing of a person.
    pub fn setting(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.state.system.setting(name)
    }

    /// Puts a setting, on disk when this returns.
    pub fn put_setting(&self, name: &str, value: &[u8]) -> Result<(), Error> {
        let head = self.state.journal.log().head();
        self.state.system.put_setting(name, value, &head)
    }

    /// Records something and keeps it to be shown to the owner at the next contact.
    pub fn tell_owner(&self, now_ms: u64, word: &'static str, text: &str) -> Result<(), Error> {
        self.state.tell(now_ms, word, text)
    }

    /// What the owner has not been shown, the oldest first.
    pub fn notices(&self) -> Result<Vec<Notice>, Error> {
        self.state.system.notices()
    }

    /// Forgets notices up to this number: they were shown.
    pub fn forget_notices(&self, number: i64) -> Result<(), Error> {
        self.state.system.forget_notices(number)
    }

    /// Uses a permit up for something that is done elsewhere (stopping, looking at who waits).
    pub fn note_use(&self, permit: Permit) -> Result<(), Error> {
        let action = permit.capability().action;
        self.redeem(&permit, action)
    }

    /// Everybody who is enrolled, with the grants to be verified.
    pub fn components(&self) -> Result<Vec<Component>, Error> {
        self.state.system.components()
    }

    /// The key that grants are verified with.
    pub fn grant_signer(&self) -> Result<PublicKey, Error> {
        self.state.system.grant_signer()
    }

    /// This device's transport identity.
    pub fn device_identity(&self) -> Result<IdentitySecret, Error> {
        self.state.system.device_identity(&self.state.keys().root)
    }

    /// Records the last event and puts everything on disk; what is dropped afterwards wipes the keys.
    pub fn close(&self, last: &Event) -> Result<(), Error> {
        let receipt = self.state.journal.record(last)?;
        let log = self.state.journal.log();
        log.wait_durable(receipt.index)?;
        let head = log.head();
        self.state.system.database().write(|tx| keep_anchor(tx, &head))
    }

    fn redeem(&self, permit: &Permit, action: Action) -> Result<(), Error> {
        if permit.capability().action != action {
            return Err(Error::Misuse("a permit for another action"));
        }
        self.state.journal.redeem(permit)
    }

    fn redeem_for_component(&self, permit: &Permit, action: Action, key: &PublicKey) -> Result<(), Error> {
        self.redeem(permit, action)?;
        match &permit.capability().resource {
            Resource::Component(named) if named == key => Ok(()),
            _ => Err(WRONG_RESOURCE),
        }
    }

    fn value<'a>(&self, permit: &'a Permit, action: Action) -> Result<&'a DataPath, Error> {
        self.redeem(permit, action)?;
        match &permit.capability().resource {
            Resource::Value(path) => Ok(path),
            _ => Err(WRONG_RESOURCE),
        }
    }
}

const WRONG_RESOURCE: Error = Error::Misuse("a permit for another resource");

impl Unlocked {
    /// Records how it ended. What is done stays done: a log that cannot take this refuses the next request.
    fn outcome(&self, permit: &Permit, result: Result<u64, &Error>) {
        let result = result.map_err(|error| short(error).to_owned());
        let _next_is_refused = self.journal.outcome(permit.event().at_ms, permit.receipt().index, result);
    }
}

/// An error's kind in a word or two: no path, no name, nothing of a person.
fn short(error: &Error) -> &'static str {
    match error {
        Error::NotFound => "not found",
        Error::Full { .. } => "disk full",
        Error::Damaged { .. } => "damaged",
        _ => "failed",
    }
}
