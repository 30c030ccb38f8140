use aico_proto::message::{Failure, FailureCode};

/// Why the backend did not start, or stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The vault did not open.
    #[error(transparent)]
    Vault(#[from] aico_vault::Error),
    /// The socket did not open.
    #[error(transparent)]
    Net(#[from] aico_net::Error),
    /// A socket or file of our own could not be used.
    #[error("a socket or file of the backend's own could not be used")]
    Socket(#[source] std::io::Error),
    /// A filter on our own system calls could not be set.
    #[error("a filter on the backend's own system calls could not be set: {0}")]
    Confinement(String),
    /// The configuration file is wrong, and there is no accepted one to go on with.
    #[error("{}: {fault}", path.display())]
    Config {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it, with the line.
        fault: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Our own identity is not usable.
    #[error("the backend's own identity is not usable")]
    Identity(#[source] aico_proto::Error),
    /// A grant in the vault does not hold.
    #[error(transparent)]
    Policy(#[from] aico_policy::Error),
}

impl From<aico_crypto::Error> for Error {
    fn from(error: aico_crypto::Error) -> Self {
        Self::Vault(error.into())
    }
}

/// What a client is told of a vault's error: enough to act on, no path of this machine.
pub(crate) fn failure(error: &aico_vault::Error) -> Failure {
    use aico_vault::Error as E;
    let (code, hint) = match error {
        E::NotFound => (FailureCode::NotFound, Some("`aico data list` and `aico memory list` show what there is")),
        E::Path(_) => (FailureCode::BadRequest, Some("a path looks like `category/name`")),
        E::Full { .. } => (FailureCode::DiskFull, Some("free some space and try again; nothing was changed")),
        E::WrongPassword | E::WrongCode => (FailureCode::WrongProof, Some("nothing was changed; try again")),
        E::NoSlot(_) => (FailureCode::NotFound, Some("`aico security slots list` shows what opens the vault")),
        E::Stopped => (FailureCode::Stopping, Some("the next start goes on with it")),
        E::OtherVault(_) => (FailureCode::Denied, Some("AICO_HOME says which vault is used")),
        E::NoFileKey => (FailureCode::NotFound, None),
        E::Refused(_) => (FailureCode::Denied, Some("nothing was changed")),
        E::Question(_) => (FailureCode::BadRequest, Some("`aico query` alone shows the tables and their columns")),
        E::Memory { .. } => (FailureCode::NoMemory, Some("close some programs and try again; nothing was changed")),
        E::LockedByOwner => (FailureCode::Locked, Some("`aico unlock` opens it")),
        E::Locked(_) => (FailureCode::Failed, Some("`aico doctor` says what is missing")),
        E::Damaged { .. } => (FailureCode::Damaged, Some("restore this value from where it came from, or a backup")),
        _ => (FailureCode::Failed, None),
    };
    let message = match error {
        E::Full { .. } => "the disk is full".to_owned(),
        other => other.to_string(),
    };
    Failure { code, message, hint: hint.map(str::to_owned) }
}

pub(crate) fn bad_request(message: impl Into<String>) -> Failure {
    Failure { code: FailureCode::BadRequest, message: message.into(), hint: None }
}
