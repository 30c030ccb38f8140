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
        E::NotFound => (FailureCode::NotFound, Some("`aico data list` shows what is stored")),
        E::Path(_) => (FailureCode::BadRequest, Some("a path looks like `category/name`")),
        E::Full { .. } => (FailureCode::DiskFull, Some("free some space and try again; nothing was changed")),
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
