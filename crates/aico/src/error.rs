//! Errors for people and scripts: what happened, the causes, a hint, an exit code (`docs/manual/cli.md`, Exit codes).

use std::error::Error as StdError;
use std::process::ExitCode;

use aico_net::Error as NetError;
use aico_proto::Error as ProtoError;
use aico_proto::message::FailureCode;
use aico_vault::Error as VaultError;

use crate::commands::service::ServiceError;
use crate::commands::tables::Trouble;
use crate::ui;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error(transparent)]
    Net(#[from] NetError),
    #[error(transparent)]
    Backend(#[from] aico_backend::Error),
    #[error(transparent)]
    Vault(#[from] VaultError),
    #[error("{0}")]
    Usage(String),
    #[error("{what}")]
    Io { what: String, source: std::io::Error },
    #[error("{message}")]
    Import { message: String },
    #[error("the audit log is not whole: {0}")]
    LogNotWhole(String),
    #[error("the audit log is whole in itself, but nothing outside of it vouches for it")]
    NotAnchored,
    #[error("the backend did not follow in time")]
    StillRunning,
    #[error("{message}")]
    Mount { message: String, hint: &'static str },
    #[error("{0} values were not written")]
    Export(usize),
    #[error("{0} wants a terminal, or a person at one")]
    NoTerminal(&'static str),
    #[error("{0} parts of the vault are not intact")]
    NotIntact(usize),
    #[error("{0} things are wrong")]
    Unwell(usize),
    #[error("the worker ended with code {0}")]
    Worker(u8),
    #[error("the worker was ended: {0}")]
    WorkerDied(String),
    #[error(transparent)]
    Service(#[from] ServiceError),
    #[error(transparent)]
    Source(#[from] Trouble),
    #[error(transparent)]
    Share(#[from] aico_crypto::ShareFault),
    #[error("the result does not encode as JSON")]
    Json(#[from] serde_json::Error),
}

impl Error {
    pub(crate) fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io { what: doing.into(), source }
    }

    /// Prints the error and gives its exit code.
    pub(crate) fn show(&self, json: bool) -> ExitCode {
        let hint = self.hint();
        if let Self::Worker(code) = self {
            // Only a code: whoever ended with it has said why.
            return ExitCode::from(*code);
        }
        if json {
            let value = serde_json::json!({ "error": self.to_string(), "causes": self.causes(), "hint": hint });
            ui::error_line(&value.to_string());
        } else {
            ui::error_line(&format!("error: {}", ui::printable(&self.to_string())));
            for cause in self.causes() {
                ui::error_line(&format!("  because: {}", ui::printable(&cause)));
            }
            if let Some(hint) = hint {
                ui::error_line(&format!("hint: {}", ui::printable(&hint)));
            }
        }
        ExitCode::from(self.exit_code())
    }

    fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut cause = self.source();
        while let Some(error) = cause {
            causes.push(error.to_string());
            cause = error.source();
        }
        causes
    }

    /// The exit codes that scripts rely on.
    fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::Backend(aico_backend::Error::Config { .. }) => 2,
            Self::NoTerminal(_) | Self::Share(_) => 6,
            Self::Worker(code) => *code,
            Self::Service(error) => error.exit_code(),
            Self::Vault(VaultError::WrongPassword) => 6,
            Self::Vault(VaultError::Full { .. }) => 7,
            Self::Io { source, .. } if is_full(source) => 7,
            Self::Vault(VaultError::LockedByOwner) => 9,
            Self::NotAnchored => 3,
            Self::Net(NetError::NotRunning(_)) => 4,
            Self::Net(NetError::Failure(failure)) => match failure.code {
                FailureCode::NotFound => 5,
                FailureCode::Denied => 6,
                FailureCode::DiskFull => 7,
                FailureCode::BadRequest => 2,
                FailureCode::Authenticate | FailureCode::Confirm | FailureCode::WrongProof => 6,
                FailureCode::Locked => 9,
                _ => 1,
            },
            Self::Net(NetError::IdentityFile { .. } | NetError::Silence) => 6,
            Self::Vault(VaultError::Held { .. })
            | Self::Backend(aico_backend::Error::Vault(VaultError::Held { .. })) => 8,
            _ => 1,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Net(error) | Self::Backend(aico_backend::Error::Net(error)) => return net_hint(error),
            Self::Vault(error) | Self::Backend(aico_backend::Error::Vault(error)) => vault_hint(error)?,
            Self::Backend(aico_backend::Error::Config { hint, .. }) => return hint.clone(),
            Self::NoTerminal(_) => {
                "run it on a terminal; where a password is asked for, `--password-file FILE` gives it"
            }
            Self::Io { source, .. } if is_full(source) => "free some space and try again",
            Self::NotIntact(_) => {
                "each is named above, and what is called intact still opens; keep a copy of the whole folder as it is now"
            }
            Self::Unwell(_) => "each line above that begins with PROBLEM says what to do",
            Self::Export(_) => "the paths that are named above cannot be files beside the others",
            Self::Mount { hint, .. } => hint,
            Self::Service(error) => return error.hint(),
            Self::Source(trouble) => trouble.hint()?,
            Self::LogNotWhole(_) => "keep a copy of the folder `audit` as it is now: it is the evidence",
            Self::NotAnchored => "start from a vault that opens, or give `--checkpoint FILE`",
            Self::StillRunning => "it may be finishing a long request; `aico status` tells whether it still runs",
            Self::Import { .. } => {
                "fix what is named above and import again: what is stored already is replaced by itself"
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn net_hint(error: &NetError) -> Option<String> {
    let hint = match error {
        NetError::Failure(failure) => return failure.hint.clone(),
        NetError::NotRunning(_) => "start it with `aico up`, or set AICO_HOME to the folder it runs in",
        NetError::Silence | NetError::Channel(ProtoError::UnknownPeer) => {
            "is AICO_KEY_DIR the folder that the backend was started with? `aico identity show` tells who you are"
        }
        NetError::Channel(ProtoError::WrongPeer | ProtoError::Authentication) => {
            "somebody else than this vault's backend listens there; nothing was sent to it"
        }
        NetError::IdentityFile { .. } => {
            "the first `aico up` makes the identity; AICO_KEY_DIR must be the same for both commands"
        }
        _ => return None,
    };
    Some(hint.to_owned())
}

fn vault_hint(error: &VaultError) -> Option<&'static str> {
    Some(match error {
        VaultError::Held { .. } => "one process opens a vault; stop the other one with `aico down`",
        VaultError::Locked(_) => "is AICO_KEY_DIR the folder that was used at the first start? `aico doctor` says more",
        VaultError::LockedByOwner => "`aico unlock` opens it",
        VaultError::Newer { .. } => "use the newer program that wrote it; nothing was changed",
        VaultError::Damaged { .. } => "nothing was changed; restore the named file from a backup",
        VaultError::Full { .. } => "free some space and try again; nothing that was acknowledged is lost",
        VaultError::NoVault(_) => "`aico up` sets one up",
        _ => return None,
    })
}
