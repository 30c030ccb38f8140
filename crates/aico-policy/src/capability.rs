use aico_crypto::PublicKey;

use crate::DataPath;

/// What can be done. The word of each action stands in grants and in the audit log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Read a value.
    ReadData,
    /// Store a value.
    WriteData,
    /// See which values there are.
    ListData,
    /// Remove a value.
    RemoveData,
    /// Forget a conversation or a category, for ever.
    Forget,
    /// Have the files as a folder of the system's.
    MountFiles,
    /// Have a key to seal a file with that lies outside of the vault.
    SealFile,
    /// Have the key of such a file again.
    OpenFile,
    /// Take all values out at once.
    ExportData,
    /// Take an encrypted copy of the vault.
    Backup,
    /// See what is stored, how it is protected and who may read it.
    ReadInventory,
    /// See how the backend is.
    ReadStatus,
    /// Read the audit log.
    ReadAudit,
    /// See who is enrolled and who waits.
    ReadIdentities,
    /// Enrol another identity.
    Enrol,
    /// Turn an identity away, or call it something else.
    ManageIdentities,
    /// See the key slots.
    ReadKeys,
    /// Set the first password.
    SetFirstPassword,
    /// Change what opens the vault.
    ManageKeys,
    /// Give every store a new key.
    RotateKeys,
    /// See the configuration.
    ReadConfig,
    /// Accept another configuration.
    AcceptConfig,
    /// Lock the vault.
    Lock,
    /// Stop the backend.
    Stop,
}

/// What an action touches: the levels of permission.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The running of the system.
    System,
    /// A person's data.
    UserData,
}

/// How present the owner must be when their own tool does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Not at all.
    Nothing,
    /// A session, once there is a password.
    Session,
    /// Anew, whatever the session says: the password, or before there is one a typed word.
    Fresh,
}

impl Action {
    /// Every action.
    pub const ALL: [Self; 24] = [
        Self::ReadData,
        Self::WriteData,
        Self::ListData,
        Self::RemoveData,
        Self::Forget,
        Self::MountFiles,
        Self::SealFile,
        Self::OpenFile,
        Self::ExportData,
        Self::Backup,
        Self::ReadInventory,
        Self::ReadStatus,
        Self::ReadAudit,
        Self::ReadIdentities,
        Self::Enrol,
        Self::ManageIdentities,
        Self::ReadKeys,
        Self::SetFirstPassword,
        Self::ManageKeys,
        Self::RotateKeys,
        Self::ReadConfig,
        Self::AcceptConfig,
        Self::Lock,
        Self::Stop,
    ];

    /// The action's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadData => "data.read",
            Self::WriteData => "data.write",
            Self::ListData => "data.list",
            Self::RemoveData => "data.remove",
            Self::Forget => "data.forget",
            Self::MountFiles => "files.mount",
            Self::SealFile => "files.seal",
            Self::OpenFile => "files.open",
            Self::ExportData => "data.export",
            Self::Backup => "backup.copy",
            Self::ReadInventory => "data.inventory",
            Self::ReadStatus => "status.read",
            Self::ReadAudit => "audit.read",
            Self::ReadIdentities => "identity.read",
            Self::Enrol => "identity.enrol",
            Self::ManageIdentities => "identity.manage",
            Self::ReadKeys => "keys.read",
            Self::SetFirstPassword => "keys.first-password",
            Self::ManageKeys => "keys.manage",
            Self::RotateKeys => "keys.rotate",
            Self::ReadConfig => "config.read",
            Self::AcceptConfig => "config.accept",
            Self::Lock => "system.lock",
            Self::Stop => "system.stop",
        }
    }

    /// The action with this word.
    #[must_use]
    pub fn from_text(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|action| action.as_str() == word)
    }

    /// The action's level.
    #[must_use]
    pub fn level(self) -> Level {
        match self {
            Self::ReadData
            | Self::WriteData
            | Self::ListData
            | Self::RemoveData
            | Self::Forget
            | Self::MountFiles
            | Self::SealFile
            | Self::OpenFile
            | Self::ExportData
            | Self::Backup
            | Self::ReadInventory => Level::UserData,
            _ => Level::System,
        }
    }

    /// How present the owner must be.
    #[must_use]
    pub fn need(self) -> Need {
        match self {
            Self::ReadData
            | Self::ListData
            | Self::ReadInventory
            | Self::MountFiles
            | Self::OpenFile
            | Self::ManageIdentities
            | Self::RotateKeys
            | Self::Backup => Need::Session,
            Self::Forget | Self::ExportData | Self::Enrol | Self::ManageKeys | Self::AcceptConfig => Need::Fresh,
            _ => Need::Nothing,
        }
    }
}

/// What an action is done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resource {
    /// One value.
    Value(DataPath),
    /// The values whose paths start with this; empty means all.
    Values(String),
    /// An identity's key.
    Component(PublicKey),
    /// The system itself.
    System,
}

impl Resource {
    /// The category of data that is touched; `None` is all of them, or none.
    #[must_use]
    pub fn category(&self) -> Option<&str> {
        match self {
            Self::Value(path) => Some(path.category()),
            Self::Values(prefix) => prefix.split_once('/').map(|(category, _)| category),
            Self::Component(_) | Self::System => None,
        }
    }
}

/// One action on one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What is done.
    pub action: Action,
    /// To what.
    pub resource: Resource,
}

impl Capability {
    /// An action on a resource.
    #[must_use]
    pub fn new(action: Action, resource: Resource) -> Self {
        Self { action, resource }
    }
}
