mod value;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aico_crypto::{Identity, IdentitySecret, OsRandom, PublicKey, RootKey, SpaceKey};
use aico_policy::{Action, AuditSink, DataPath, Event, Grant, Permit, Resource, SignedGrant};

use crate::audit::{AuditLog, Head, LogId};
use crate::header::{Header, SpaceId, SystemSpace, VaultId};
use crate::hold::Hold;
use crate::journal::Journal;
use crate::store::Database;
use crate::system::{self, ANCHOR_TABLE, System, SystemKeys, keep_anchor, kept_anchor};
use crate::unlock::{self, SlotKind};
use crate::user_data::{Entry, USER_DATA_TABLES, UserData};
use crate::{Error, durable};

pub use value::{Get, Put};

const HEADER: &str = "vault.aico";
/// The header of a set-up that is not finished: it becomes [`HEADER`] as the last step.
const NEW_HEADER: &str = "vault.aico.new";

/// Where a vault's parts lie.
#[derive(Clone, Debug)]
pub struct Places {
    /// The data folder.
    pub home: PathBuf,
    /// The folder of the key file, outside of the data folder and its backups.
    pub key_dir: PathBuf,
    /// The address of the session's D-Bus, where there is one.
    pub bus: Option<String>,
}

/// State of a [`Vault`] whose keys are not in memory.
#[derive(Debug)]
pub struct Locked {
    places: Places,
}

/// State of a [`Vault`] that can be worked in.
#[derive(Debug)]
pub struct Unlocked {
    header: Header,
    root: RootKey,
    by: SlotKind,
    system: System,
    owner: UserData,
    log_key: PublicKey,
    journal: Journal,
}

/// One person's vault, held by this process alone.
#[derive(Debug)]
pub struct Vault<State> {
    state: State,
    hold: Hold,
}

/// How a vault was opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Whether it was set up just now.
    pub first_start: bool,
    /// The unlock method that worked.
    pub unlocked_by: String,
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
        durable::create_folder(&places.home)?;
        durable::create_folder(&places.home.join("run"))?;
        let hold = Hold::take(&places.home)?;
        // SQLite refuses links on the way to a database.
        let home = places.home.canonicalize().map_err(|source| Error::io("resolving", &places.home, source))?;
        Ok(Self { state: Locked { places: Places { home, ..places.clone() } }, hold })
    }

    /// Opens the vault by the best method that works; sets it up where there is none.
    ///
    /// A set-up that was stopped in the middle is finished. Encrypted stores without a header are never set up over.
    pub fn unlock(self, now_ms: u64) -> Result<(Vault<Unlocked>, Opening), Error> {
        let places = &self.state.places;
        let first_start = !places.home.join(HEADER).exists();
        let header = if first_start { begin_set_up(places, now_ms)? } else { Header::read(&places.home.join(HEADER))? };
        let rungs = unlock::rungs(places);
        let opened = unlock::unlock(&header, &rungs)?;
        let by = opened.by;
        let state = Unlocked::open(&places.home, header, opened.root, by, first_start)?;
        if first_start {
            durable::rename(&places.home.join(NEW_HEADER), &places.home.join(HEADER))?;
        }
        let advice = unlock::better_rung(by, &opened.tried);
        let opening = Opening { first_start, unlocked_by: by.word().to_owned(), advice };
        Ok((Vault { state, hold: self.hold }, opening))
    }
}

impl Vault<Locked> {
    /// What an existing vault remembers of its audit log. The log is not opened, nothing is repaired or written.
    pub fn remembered_anchor(self) -> Result<Anchor, Error> {
        let places = &self.state.places;
        let header = Header::read(&places.home.join(HEADER))?;
        let root = unlock::unlock(&header, &unlock::rungs(places))?.root;
        let spaces = Spaces::open(&places.home, &header, &root, false)?;
        Ok(Anchor { key: spaces.keys.log.public()?, head: newest_anchor(&spaces.system, &spaces.owner)? })
    }
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

/// The opened stores of a vault.
struct Spaces {
    system: System,
    owner: UserData,
    keys: SystemKeys,
}

impl Spaces {
    fn open(home: &Path, header: &Header, root: &RootKey, set_up: bool) -> Result<Self, Error> {
        let vault = header.vault();
        let key = header.system_space_key(root)?;
        let (id, _) = header.system_space();
        let path = space_folder(home, &id)?.join("store.db");
        let database = open_database(&path, &key, system::MIGRATIONS, set_up)?;
        if set_up {
            System::fill(&database, &vault, root, &key)?;
        }
        let (system, keys) = System::open(database, &vault, root, &key)?;
        let (id, key) = &keys.owner;
        let folder = space_folder(home, id)?;
        let database = open_database(&folder.join("store.db"), key, &[USER_DATA_TABLES, ANCHOR_TABLE], set_up)?;
        let owner = UserData::open(Arc::new(database), &folder.join("files"), *id.as_bytes(), key.file_wrap_key())?;
        Ok(Self { system, owner, keys })
    }
}

/// The newest anchor that either space keeps.
fn newest_anchor(system: &System, owner: &UserData) -> Result<Option<Head>, Error> {
    let kept = [kept_anchor(system.database())?, kept_anchor(owner.database())?];
    Ok(kept.into_iter().flatten().max_by_key(|head| head.size))
}

impl Unlocked {
    fn open(home: &Path, header: Header, root: RootKey, by: SlotKind, set_up: bool) -> Result<Self, Error> {
        let Spaces { system, owner, keys } = Spaces::open(home, &header, &root, set_up)?;
        let (audit, id) = (home.join("audit"), LogId::from_bytes(*header.vault().as_bytes()));
        let log_key = keys.log.public()?;
        // Making a log is repeatable until its last step: a set-up that was stopped in it begins it anew.
        let log = if set_up && newest_anchor(&system, &owner)?.is_none() && !audit.join("tail").exists() {
            AuditLog::create(&audit, keys.log, id)?
        } else {
            AuditLog::open(&audit, keys.log, id)?
        };
        check_log(&log, newest_anchor(&system, &owner)?)?;
        Ok(Self { header, root, by, system, owner, log_key, journal: Journal::new(log, keys.pseudonyms) })
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

fn space_folder(home: &Path, id: &SpaceId) -> Result<PathBuf, Error> {
    let folder = home.join("spaces").join(id.to_string());
    durable::create_folder(&folder)?;
    Ok(folder)
}

/// Opens a database that must be there, or, during set-up only, makes it.
fn open_database(path: &Path, key: &SpaceKey, migrations: &[&str], set_up: bool) -> Result<Database, Error> {
    if set_up && !path.exists() {
        return Database::create(path, key.store_key(), migrations);
    }
    if !path.exists() {
        return Err(Error::damaged(path.display().to_string(), "it is missing"));
    }
    Database::open(path, key.store_key(), migrations)
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
        let writer = self.state.owner.begin_put(&path, now_ms);
        Ok(Put::new(&self.state, permit, writer, now_ms))
    }

    /// Opens a value for reading.
    pub fn get(&self, permit: Permit) -> Result<Get, Error> {
        let path = self.value(&permit, Action::ReadData)?;
        let reader = self.state.owner.get(path)?;
        Ok(Get::new(reader, permit))
    }

    /// Lists values behind `after`, in the order of their paths.
    pub fn list(&self, permit: Permit, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        self.redeem(&permit, Action::ListData)?;
        let Resource::Values(prefix) = &permit.capability().resource else { return Err(WRONG_RESOURCE) };
        self.state.owner.list(Some(prefix), after, limit)
    }

    /// Removes a value.
    pub fn remove(&self, permit: Permit) -> Result<(), Error> {
        let path = self.value(&permit, Action::RemoveData)?;
        let head = self.state.journal.log().head();
        let removed = self.state.owner.remove_with(path, |tx| keep_anchor(tx, &head));
        self.state.outcome(&permit, removed.as_ref().map(|()| 0));
        removed
    }

    /// What `status` shows.
    pub fn state(&self, permit: Permit) -> Result<VaultState, Error> {
        self.redeem(&permit, Action::ReadStatus)?;
        let state = &self.state;
        Ok(VaultState {
            unlocked_by: state.by.word().to_owned(),
            weakest_slot: unlock::weakest_slot(&state.header).word().to_owned(),
            recovery_code: state.header.recovery_confirmed(),
            data_bytes: state.owner.total_bytes()?,
            values: state.owner.count()?,
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
        let head = newest_anchor(&self.state.system, &self.state.owner)?;
        Ok(Anchor { key: self.state.log_key, head })
    }

    /// Enrols an identity with a grant.
    pub fn enrol(&self, permit: Permit, identity: &Identity, grant: &Grant, now_ms: u64) -> Result<(), Error> {
        self.redeem(&permit, Action::Enrol)?;
        match &permit.capability().resource {
            Resource::Component(key) if key == identity.key() && key == grant.to() => {}
            _ => return Err(WRONG_RESOURCE),
        }
        let head = self.state.journal.log().head();
        self.state.system.enrol(identity, grant, now_ms, &head)
    }

    /// Uses a permit up for something that is done elsewhere (stopping, looking at who waits).
    pub fn note_use(&self, permit: Permit) -> Result<(), Error> {
        let action = permit.capability().action;
        self.redeem(&permit, action)
    }

    /// Everybody who is enrolled, with the grants to be verified.
    pub fn components(&self) -> Result<Vec<(Identity, SignedGrant)>, Error> {
        self.state.system.components()
    }

    /// The key that grants are verified with.
    pub fn grant_signer(&self) -> Result<PublicKey, Error> {
        self.state.system.grant_signer()
    }

    /// This device's transport identity.
    pub fn device_identity(&self) -> Result<IdentitySecret, Error> {
        self.state.system.device_identity(&self.state.root)
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
