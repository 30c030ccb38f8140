//! What application records hold: requests, data and answers (`docs/spec/requests.md`).
//!
//! A channel carries one request at a time, in order. A record's plaintext is a part byte and a body; requests and
//! answers are JSON with fixed fields, data is raw.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::Error;
use crate::limits::MAX_REQUEST_BYTES;

/// What a record's plaintext is, its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PartKind {
    /// JSON of a [`Request`].
    Request = 1,
    /// A piece of a value.
    Data = 2,
    /// The end of a value: its length in bytes, as u64.
    End = 3,
    /// JSON of an answer.
    Answer = 4,
    /// JSON of a [`Failure`].
    Failure = 5,
}

/// A record's plaintext, split.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part<'a> {
    /// JSON of a [`Request`], not parsed yet.
    Request(&'a [u8]),
    /// A piece of a value, at least one byte.
    Data(&'a [u8]),
    /// The end of a value of this many bytes.
    End(u64),
    /// JSON of an answer, not parsed yet.
    Answer(&'a [u8]),
    /// JSON of a [`Failure`], not parsed yet.
    Failure(&'a [u8]),
}

impl<'a> Part<'a> {
    /// Splits a plaintext.
    pub fn parse(plaintext: &'a [u8]) -> Result<Self, Error> {
        let (kind, body) = plaintext.split_first().ok_or(Error::Malformed("an empty record"))?;
        let json = || if body.len() <= MAX_REQUEST_BYTES { Ok(body) } else { Err(TOO_LONG) };
        match kind {
            1 => json().map(Self::Request),
            2 if body.is_empty() => Err(Error::Malformed("a data part without data")),
            2 => Ok(Self::Data(body)),
            3 => body.try_into().map(|b| Self::End(u64::from_be_bytes(b))).map_err(|_| Error::Malformed("an end part")),
            4 => json().map(Self::Answer),
            5 => json().map(Self::Failure),
            _ => Err(Error::Malformed("a part of an unknown kind")),
        }
    }
}

const TOO_LONG: Error = Error::Malformed("a request or answer of more than 64 KiB");

/// Encodes a request, an answer or a failure as JSON.
pub fn to_json<T: Serialize>(message: &T) -> Result<Vec<u8>, Error> {
    let json = serde_json::to_vec(message).map_err(|_| Error::Misuse("a message that is not JSON"))?;
    if json.len() > MAX_REQUEST_BYTES { Err(Error::Misuse("a message of more than 64 KiB")) } else { Ok(json) }
}

/// Decodes what [`to_json`] encoded; unknown fields are refused.
pub fn from_json<T: DeserializeOwned>(json: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(json).map_err(|_| Error::Malformed("JSON that is not the expected message"))
}

/// What a client may ask for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", deny_unknown_fields)]
pub enum Request {
    /// An unenrolled identity asks to be enrolled: [`EnrolAnswer`] twice, waiting and then enrolled.
    #[serde(rename = "enrol")]
    Enrol {},
    /// How the backend is: [`StatusAnswer`].
    #[serde(rename = "status")]
    Status {
        /// Whether to take the notices, to be shown to the owner now.
        #[serde(default, skip_serializing_if = "is_false")]
        notices: bool,
    },
    /// Stores the value that follows as data parts and an end: [`PutAnswer`].
    #[serde(rename = "data.put")]
    DataPut {
        /// Where, as `category/name…`.
        path: String,
    },
    /// Reads a value: [`GetAnswer`], then data parts and an end.
    #[serde(rename = "data.get")]
    DataGet {
        /// Where, as `category/name…`.
        path: String,
    },
    /// Lists values in the order of their paths: [`ListAnswer`], one page.
    #[serde(rename = "data.list")]
    DataList {
        /// Only paths that start with this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prefix: Option<String>,
        /// Only paths behind this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Removes a value: [`DoneAnswer`].
    #[serde(rename = "data.remove")]
    DataRemove {
        /// Where, as `category/name…`.
        path: String,
    },
    /// Keeps the value that follows as data parts and an end in the working memory: [`DoneAnswer`].
    #[serde(rename = "memory.put")]
    MemoryPut {
        /// Where, as `category/name…`.
        path: String,
        /// For how many milliseconds; for ever without.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        keep_ms: Option<u64>,
    },
    /// Reads from the working memory: [`GetAnswer`], then data parts and an end.
    #[serde(rename = "memory.get")]
    MemoryGet {
        /// Where, as `category/name…`.
        path: String,
    },
    /// Lists what is in the working memory in the order of its paths: [`MemoryAnswer`], one page.
    #[serde(rename = "memory.list")]
    MemoryList {
        /// Only paths that start with this.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prefix: Option<String>,
        /// Only paths behind this one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// Removes something from the working memory: [`DoneAnswer`].
    #[serde(rename = "memory.remove")]
    MemoryRemove {
        /// Where, as `category/name…`.
        path: String,
    },
    /// Reads every value: [`ExportAnswer`], then for each value a [`ListEntry`], data parts and an end, then
    /// [`DoneAnswer`].
    #[serde(rename = "data.export")]
    DataExport {},
    /// Takes an encrypted copy of the vault: [`ExportAnswer`] (of files), then for each file a [`ListEntry`], data parts and
    /// an end, the header last, then [`DoneAnswer`].
    #[serde(rename = "backup.copy")]
    BackupCopy {},
    /// What is stored, how it is protected, who may read it: [`InventoryAnswer`].
    #[serde(rename = "data.inventory")]
    DataInventory {},
    /// Shows that the owner is there: [`AuthAnswer`].
    #[serde(rename = "auth")]
    Auth {
        /// What only the owner knows or holds.
        proof: Proof,
        /// Whether to open a session.
        keep: bool,
    },
    /// The owner has typed a word on a terminal; counts as long as no password is set: [`DoneAnswer`].
    #[serde(rename = "confirm")]
    Confirm {},
    /// The owner's session at this terminal: [`SessionAnswer`].
    #[serde(rename = "session.status")]
    SessionStatus {},
    /// Ends it: [`DoneAnswer`].
    #[serde(rename = "session.end")]
    SessionEnd {},
    /// The key slots: [`SlotsAnswer`].
    #[serde(rename = "keys.slots")]
    KeysSlots {},
    /// Sets the first password: [`KeysAnswer`].
    #[serde(rename = "keys.set-password")]
    KeysSetPassword {
        /// The password.
        password: Sensitive,
    },
    /// Changes the password: [`KeysAnswer`].
    #[serde(rename = "keys.change-password")]
    KeysChangePassword {
        /// The one so far.
        old: Sensitive,
        /// The one from now on.
        new: Sensitive,
        /// Whether to make a new root key as well.
        rotate: bool,
    },
    /// Makes the slot of a recovery code that its owner has typed back: [`KeysAnswer`].
    #[serde(rename = "keys.recovery")]
    KeysRecovery {
        /// Its 15 words.
        code: Sensitive,
    },
    /// Sets a password by the recovery code; opens a locked vault, too: [`KeysAnswer`].
    #[serde(rename = "keys.recover")]
    KeysRecover {
        /// The 15 words.
        code: Sensitive,
        /// The password from now on.
        password: Sensitive,
    },
    /// Adds a slot that the machine keeps: [`DoneAnswer`].
    #[serde(rename = "keys.add-slot")]
    KeysAddSlot {
        /// `key-file` or `secret-service`.
        kind: String,
    },
    /// Removes a slot: [`DoneAnswer`].
    #[serde(rename = "keys.remove-slot")]
    KeysRemoveSlot {
        /// Its number.
        slot: u8,
    },
    /// Removes every slot that the machine keeps: [`DoneAnswer`].
    #[serde(rename = "keys.clear-stored")]
    KeysClearStored {},
    /// Gives every store a new key; complete when the answer comes: [`RotateAnswer`].
    #[serde(rename = "keys.rotate")]
    KeysRotate {},
    /// Forgets a conversation, a category or everything, for ever: [`ForgetAnswer`].
    #[serde(rename = "data.forget")]
    DataForget {
        /// `conversations/<id>/`, `<category>/`, or nothing for everything.
        prefix: String,
    },
    /// Serves the owner's files to the kernel, through a FUSE descriptor that is handed over: [`MountAnswer`], several.
    #[serde(rename = "files.mount")]
    FilesMount {
        /// Whether nothing can be changed.
        read_only: bool,
        /// The user whose files they seem.
        user: u32,
        /// The group.
        group: u32,
    },
    /// A key to seal a file with, under the vault: [`SealFileAnswer`].
    #[serde(rename = "files.seal")]
    FilesSeal {},
    /// The key of a file that was sealed under the vault: [`OpenFileAnswer`].
    #[serde(rename = "files.open")]
    FilesOpen {
        /// The front of its header, in hexadecimal.
        header: String,
    },
    /// Locks the vault: [`DoneAnswer`], after which every connection ends.
    #[serde(rename = "lock")]
    Lock {},
    /// Unlocks it: [`DoneAnswer`].
    #[serde(rename = "unlock")]
    Unlock {
        /// What only the owner knows or holds; nothing where neither password nor recovery code exist.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        proof: Option<Proof>,
    },
    /// Every connection: [`ConnectionsAnswer`].
    #[serde(rename = "connections")]
    Connections {},
    /// Everybody who is enrolled or was revoked: [`IdentitiesAnswer`].
    #[serde(rename = "identity.list")]
    IdentityList {},
    /// Enrols an identity whose key the owner's tool has made: [`DoneAnswer`].
    #[serde(rename = "identity.add")]
    IdentityAdd {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// Its public key.
        key: String,
    },
    /// Calls an identity something else, for the owner: [`DoneAnswer`].
    #[serde(rename = "identity.rename")]
    IdentityRename {
        /// Its fingerprint.
        fingerprint: String,
        /// What to call it.
        name: String,
    },
    /// Revokes an identity and cuts its connections: [`DoneAnswer`].
    #[serde(rename = "identity.revoke")]
    IdentityRevoke {
        /// Its fingerprint.
        fingerprint: String,
    },
    /// The configuration in force, and what waits: [`ConfigAnswer`].
    #[serde(rename = "config.show")]
    ConfigShow {},
    /// Accepts the configuration file as it is now: [`DoneAnswer`].
    #[serde(rename = "config.accept")]
    ConfigAccept {
        /// BLAKE2b-256 of the text that the owner has seen, in hexadecimal.
        sum: String,
    },
    /// The newest entries of the audit log: [`AuditAnswer`].
    #[serde(rename = "audit.tail")]
    AuditTail {
        /// At most this many, 1 to 100.
        count: u32,
    },
    /// A question over the access history: [`QueryAnswer`], then its rows as data parts and an end.
    #[serde(rename = "query")]
    Query {
        /// One SELECT.
        sql: String,
    },
    /// The newest tree head that the vault keeps: [`AnchorAnswer`].
    #[serde(rename = "audit.anchor")]
    AuditAnchor {},
    /// Identities that wait to be enrolled: [`PendingAnswer`].
    #[serde(rename = "identity.pending")]
    IdentityPending {},
    /// Lets a waiting identity in: [`DoneAnswer`].
    #[serde(rename = "identity.approve")]
    IdentityApprove {
        /// Its fingerprint.
        fingerprint: String,
    },
    /// Turns a waiting identity away: [`DoneAnswer`].
    #[serde(rename = "identity.deny")]
    IdentityDeny {
        /// Its fingerprint.
        fingerprint: String,
    },
    /// Stops the backend: [`DoneAnswer`], after which it finishes what it has accepted.
    #[serde(rename = "system.stop")]
    SystemStop {},
}

/// Text that only its owner should know: wiped when dropped, never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sensitive(String);

impl Sensitive {
    /// Takes the text over.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl Drop for Sensitive {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl std::fmt::Debug for Sensitive {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sensitive(..)")
    }
}

/// What only the owner knows or holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Proof {
    /// The password.
    Password(Sensitive),
    /// The 15 words of the recovery code.
    RecoveryCode(Sensitive),
}

/// Answers [`Request::Auth`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthAnswer {
    /// Whether a session is open now: it needs a terminal.
    pub session: bool,
}

/// Answers [`Request::SessionStatus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionAnswer {
    /// Whether a password is set; without one there are no sessions.
    pub password: bool,
    /// Whether this client has a terminal that a session can be bound to.
    pub terminal: bool,
    /// Seconds until the session ends unless it is used; none where there is none.
    pub remaining_s: Option<u64>,
}

/// One key slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotEntry {
    /// Its number.
    pub slot: u8,
    /// How its secret is kept: `key-file`, `secret-service`, `password`, `recovery-code`, …
    pub kind: String,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Why it does not open the vault now, as far as that can be tried without the owner.
    pub trouble: Option<String>,
}

/// Answers [`Request::KeysSlots`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotsAnswer {
    /// The slots.
    pub slots: Vec<SlotEntry>,
}

/// Answers a change of what opens the vault.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeysAnswer {
    /// Whether the key file was removed, since the owner and another rung stand for it.
    pub key_file_retired: bool,
    /// MiB of memory that the password's stretching takes; 0 where none was set.
    pub memory_mib: u32,
}

/// Answers [`Request::KeysRotate`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateAnswer {
    /// The epoch of the owner's space now.
    pub epoch: u32,
    /// Bytes of values in files that were sealed anew.
    pub bytes: u64,
    /// Values that are damaged and kept their old keys.
    pub damaged: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
}

/// Answers [`Request::DataForget`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ForgetAnswer {
    /// How many values are gone.
    pub values: u64,
}

/// Answers [`Request::FilesSeal`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealFileAnswer {
    /// The front of the file's header, in hexadecimal.
    pub header: String,
    /// The file's key, in hexadecimal.
    pub key: Sensitive,
}

/// Answers [`Request::FilesOpen`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenFileAnswer {
    /// The file's key, in hexadecimal.
    pub key: Sensitive,
}

/// Answers [`Request::FilesMount`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case", deny_unknown_fields)]
pub enum MountAnswer {
    /// The descriptor is expected, on a connection of its own.
    HandOver {
        /// What shows that it is the one: 64 hexadecimal digits.
        ticket: String,
    },
    /// The kernel's requests are answered.
    Mounted {},
    /// They still are; what went through it so far.
    Going {
        /// How often a file was opened.
        files: u64,
        /// Bytes read.
        read: u64,
        /// Bytes written.
        written: u64,
    },
    /// It was unmounted, and everything is on disk; the same in all.
    Ended {
        /// How often a file was opened.
        files: u64,
        /// Bytes read.
        read: u64,
        /// Bytes written.
        written: u64,
    },
}

/// Answers [`Request::DataExport`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExportAnswer {
    /// Values that follow, as far as is known before.
    pub values: u64,
    /// Bytes of all of them.
    pub bytes: u64,
}

/// What is stored in one category.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CategoryEntry {
    /// Its name.
    pub category: String,
    /// Number of values.
    pub values: u64,
    /// Bytes of all of them.
    pub bytes: u64,
    /// How many lie in files of their own.
    pub files: u64,
    /// How they are protected.
    pub protection: String,
    /// Who may read them: kind and what the owner calls it.
    pub readers: Vec<String>,
}

/// Answers [`Request::DataInventory`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InventoryAnswer {
    /// The categories.
    pub categories: Vec<CategoryEntry>,
    /// Whether there are more than fit into one answer.
    pub more: bool,
}

/// One connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionEntry {
    /// The peer's kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its fingerprint.
    pub fingerprint: String,
    /// Where it comes from.
    pub origin: String,
    /// Seconds since the handshake.
    pub age_s: u64,
    /// Seconds since the last request or answer.
    pub idle_s: u64,
    /// Bytes that came.
    pub received: u64,
    /// Bytes that were sent.
    pub sent: u64,
    /// `hybrid` or `classical`.
    pub suite: String,
    /// How often the keys were renewed by REKEY.
    pub rekeys: u16,
}

/// Answers [`Request::Connections`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionsAnswer {
    /// The connections, the oldest first.
    pub connections: Vec<ConnectionEntry>,
}

/// One identity.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentityEntry {
    /// Its kind.
    pub kind: String,
    /// Its own name.
    pub name: String,
    /// What the owner calls it.
    pub shown_as: Option<String>,
    /// Its fingerprint.
    pub fingerprint: String,
    /// `enrolled` or `revoked`.
    pub state: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: u64,
    /// What it may do.
    pub actions: Vec<String>,
}

/// Answers [`Request::IdentityList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdentitiesAnswer {
    /// The identities.
    pub identities: Vec<IdentityEntry>,
}

/// Answers [`Request::ConfigShow`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConfigAnswer {
    /// The whole configuration in force, as YAML.
    pub in_force: String,
    /// What the file would change, one change a line; empty where it says the same.
    pub waiting: Vec<String>,
    /// BLAKE2b-256 of the file's text, in hexadecimal, for accepting it.
    pub sum: String,
    /// Why the file cannot be accepted.
    pub fault: Option<String>,
}

/// Answers [`Request::Enrol`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolAnswer {
    /// `waiting`, then `enrolled`.
    pub state: String,
    /// The fingerprint that the owner compares.
    pub fingerprint: String,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// Answers [`Request::Status`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StatusAnswer {
    /// The program's version.
    pub version: String,
    /// The backend's fingerprint.
    pub fingerprint: String,
    /// Whether the vault is locked.
    pub locked: bool,
    /// What unlocked it: `key-file`, `secret-service`, `password` or `recovery-code`; empty while it is locked.
    pub unlocked_by: String,
    /// The weakest of the vault's key slots.
    pub weakest_slot: String,
    /// Whether a recovery code was made and confirmed.
    pub recovery_code: bool,
    /// Whether a password is set.
    pub password: bool,
    /// Where TCP is answered, if at all.
    pub tcp: Option<String>,
    /// Bytes of all values.
    pub data_bytes: u64,
    /// Number of values.
    pub values: u64,
    /// Entries in the audit log.
    pub audit_entries: u64,
    /// Seconds since the start.
    pub uptime_s: u64,
    /// Connections that finished their handshake.
    pub connections: u32,
    /// How its keys are kept in memory: `secret`, `locked` or `unlocked` (`docs/spec/requests.md`).
    pub memory: String,
    /// The filters that the backend runs under: `landlock`, `seccomp`.
    pub confined_by: Vec<String>,
    /// What is being sealed anew in the background, if anything is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub work: Option<WorkEntry>,
    /// What the owner should see once: things that happened since the last contact.
    pub notices: Vec<String>,
}

/// Something long that goes on in the background.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkEntry {
    /// `rotation`, or `padding` of what became secret.
    pub what: String,
    /// The part that is worked on.
    pub part: String,
    /// Bytes that are done.
    pub done: u64,
    /// All of them, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<u64>,
}

/// Answers [`Request::DataPut`] once the value is on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PutAnswer {
    /// Bytes stored.
    pub bytes: u64,
    /// Whether an older value was replaced.
    pub replaced: bool,
}

/// Answers [`Request::DataGet`]; the value follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GetAnswer {
    /// Bytes that follow.
    pub bytes: u64,
}

/// One value in a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListEntry {
    /// Its path.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// When it was stored last, in milliseconds since 1970.
    pub changed_ms: u64,
}

/// Answers [`Request::DataList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListAnswer {
    /// The values.
    pub entries: Vec<ListEntry>,
    /// Whether there are more behind the last one.
    pub more: bool,
}

/// One entry in a list of the working memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryEntry {
    /// Its path.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// From when on it is gone, in milliseconds since 1970; nothing if never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
}

/// Answers [`Request::MemoryList`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryAnswer {
    /// What is kept.
    pub entries: Vec<MemoryEntry>,
    /// Whether there may be more behind the last one.
    pub more: bool,
}

/// One entry of the audit log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditEntry {
    /// Its place in the log.
    pub index: u64,
    /// The event's own JSON.
    pub event: serde_json::Value,
}

/// Answers [`Request::AuditTail`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuditAnswer {
    /// The entries, oldest first.
    pub entries: Vec<AuditEntry>,
}

/// Answers [`Request::AuditAnchor`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnchorAnswer {
    /// The log's public key.
    pub key: String,
    /// Entries under the head.
    pub size: u64,
    /// The head's root, in base64; empty while there is no head.
    pub root: String,
}

/// A column of an answer to [`Request::Query`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryColumn {
    /// Its name.
    pub name: String,
    /// The engine's name of its type.
    #[serde(rename = "type")]
    pub of_type: String,
}

/// Answers [`Request::Query`]; the rows follow, each a line of JSON: an array with a value for each column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QueryAnswer {
    /// Its columns.
    pub columns: Vec<QueryColumn>,
    /// Number of rows that follow.
    pub rows: u64,
    /// Whether there are more, beyond what an answer may have.
    pub more: bool,
}

/// An identity that waits to be enrolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingEntry {
    /// Its kind.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its fingerprint.
    pub fingerprint: String,
}

/// Answers [`Request::IdentityPending`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PendingAnswer {
    /// Who waits.
    pub pending: Vec<PendingEntry>,
}

/// Answers what has nothing more to say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoneAnswer {}

/// Why a request was not done, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCode {
    /// The request does not have its form.
    BadRequest,
    /// Policy says no.
    Denied,
    /// There is no such thing.
    NotFound,
    /// The disk is full.
    DiskFull,
    /// What is stored is damaged.
    Damaged,
    /// Too much at once; try again.
    Busy,
    /// The backend is stopping.
    Stopping,
    /// The vault is locked.
    Locked,
    /// This needs the password, or a session that it opened.
    Authenticate,
    /// This needs a word typed on a terminal.
    Confirm,
    /// The password or recovery code is wrong.
    WrongProof,
    /// There is no memory for stretching the password now.
    NoMemory,
    /// The wait was too long.
    Expired,
    /// Something else failed on the backend's side.
    Failed,
}

/// A request that was not done; nothing of it has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// Which kind of failure.
    pub code: FailureCode,
    /// What happened, for people.
    pub message: String,
    /// What to do, if there is something.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn requests_have_their_documented_form() {
        let put = Request::DataPut { path: "notes/a".into() };
        assert_eq!(to_json(&put).unwrap(), br#"{"op":"data.put","path":"notes/a"}"#);
        assert_eq!(from_json::<Request>(br#"{"path":"notes/a","op":"data.put"}"#).unwrap(), put);
        assert_eq!(from_json::<Request>(br#"{"op":"status"}"#).unwrap(), Request::Status { notices: false });
        assert_eq!(to_json(&MountAnswer::Mounted {}).unwrap(), br#"{"state":"mounted"}"#);
        let ticket = MountAnswer::HandOver { ticket: "ab".into() };
        assert_eq!(to_json(&ticket).unwrap(), br#"{"state":"hand-over","ticket":"ab"}"#);
        assert!(from_json::<MountAnswer>(br#"{"state":"hand-over","ticket":"ab","x":1}"#).is_err());
    }

    #[test]
    fn every_part_is_what_its_first_byte_says() {
        assert_eq!(Part::parse(b"\x01{}").unwrap(), Part::Request(b"{}"));
        assert_eq!(Part::parse(b"\x02data").unwrap(), Part::Data(b"data"));
        assert_eq!(Part::parse(&[3, 0, 0, 0, 0, 0, 0, 1, 2]).unwrap(), Part::End(258));
        assert_eq!(Part::parse(b"\x04{}").unwrap(), Part::Answer(b"{}"));
        assert_eq!(Part::parse(b"\x05{}").unwrap(), Part::Failure(b"{}"));
        assert!(Part::parse(b"").is_err() && Part::parse(b"\x06").is_err() && Part::parse(b"\x02").is_err());
    }

    #[test]
    fn messages_at_their_limit() {
        // Two quotes around the text.
        assert_eq!(to_json(&"x".repeat(65_534)).unwrap().len(), 65_536);
        assert!(to_json(&"x".repeat(65_535)).is_err());
        assert_eq!(Sensitive::new("secret".to_owned()).expose(), "secret");
        assert_eq!(to_json(&Request::Status { notices: true }).unwrap(), br#"{"op":"status","notices":true}"#);
        assert_eq!(to_json(&Request::Status { notices: false }).unwrap(), br#"{"op":"status"}"#);
    }

    #[test]
    fn hostile_requests_are_refused() {
        for bad in [
            &br#"{"op":"data.put","path":"a/b","extra":1}"#[..],
            br#"{"op":"data.put"}"#,
            br#"{"op":"launch"}"#,
            br#"{"op":"data.put","path":7}"#,
            br#"{"op":"audit.tail","count":-1}"#,
            br#"{"op":"status"}{}"#,
            b"[]",
            b"",
            b"\xff\xfe",
        ] {
            assert!(from_json::<Request>(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
        let deep = [&b"{\"op\":\"status\",\"x\":"[..], &b"[".repeat(60_000)].concat();
        assert!(from_json::<Request>(&deep).is_err());
        assert!(to_json(&Request::DataGet { path: "x".repeat(MAX_REQUEST_BYTES) }).is_err());
    }

    proptest! {
        #[test]
        fn parts_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(Part::Request(json)) = Part::parse(&bytes) {
                let _ = from_json::<Request>(json);
            }
        }
    }

    #[test]
    fn parts_are_told_apart() {
        assert_eq!(Part::parse(&[2, 9]).unwrap(), Part::Data(&[9]));
        assert_eq!(Part::parse(&[3, 0, 0, 0, 0, 0, 0, 1, 0]).unwrap(), Part::End(256));
        for bad in [&[][..], &[0], &[6], &[2], &[3, 0], &[3; 10]] {
            assert!(Part::parse(bad).is_err(), "{bad:?}");
        }
        let long = [vec![1], vec![b' '; MAX_REQUEST_BYTES + 1]].concat();
        assert!(Part::parse(&long).is_err());
    }
}
