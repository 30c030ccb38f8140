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
    /// See how the backend is.
    ReadStatus,
    /// Read the audit log.
    ReadAudit,
    /// Enrol another identity, or turn it away.
    Enrol,
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

impl Action {
    /// Every action.
    pub const ALL: [Self; 8] = [
        Self::ReadData,
        Self::WriteData,
        Self::ListData,
        Self::RemoveData,
        Self::ReadStatus,
        Self::ReadAudit,
        Self::Enrol,
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
            Self::ReadStatus => "status.read",
            Self::ReadAudit => "audit.read",
            Self::Enrol => "identity.enrol",
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
            Self::ReadData | Self::WriteData | Self::ListData | Self::RemoveData => Level::UserData,
            Self::ReadStatus | Self::ReadAudit | Self::Enrol | Self::Stop => Level::System,
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
