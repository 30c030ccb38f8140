use std::io;
use std::path::{Path, PathBuf};

use aico_proto::message::Failure;
use aico_proto::{CloseReason, Error as ProtoError};

/// Why a connection could not be made or kept.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nobody listens at the socket.
    #[error("no backend answers at {0}")]
    NotRunning(String),
    /// The backend answered nothing: it does not know us, or is not the one that we mean.
    #[error("the backend ended the handshake without a word")]
    Silence,
    /// Somebody came who does not know our identity.
    #[error("the other side does not know this backend")]
    Stranger,
    /// The handshake or the channel failed.
    #[error(transparent)]
    Channel(#[from] ProtoError),
    /// The other side closed the channel.
    #[error("the other side closed the channel: {}", reason_text(*.0))]
    Closed(CloseReason),
    /// The other side took too long.
    #[error("no answer in time while {0}")]
    Timeout(&'static str),
    /// The request was not done.
    #[error("{}", .0.message)]
    Failure(Failure),
    /// The other side sent what does not answer the request.
    #[error("the other side sent an unexpected message")]
    UnexpectedMessage,
    /// A file with an identity in it is missing, wrong, or readable by others.
    #[error("{}: {why}", path.display())]
    IdentityFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The value's own source or destination failed.
    #[error("{0}")]
    Local(io::Error),
    /// The operating system refused.
    #[error("{what}")]
    Io {
        /// What was being done.
        what: String,
        /// Its answer.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(doing: &str, source: io::Error) -> Self {
        Self::Io { what: doing.to_owned(), source }
    }

    pub(crate) fn io_at(doing: &str, path: &Path, source: io::Error) -> Self {
        Self::Io { what: format!("{doing} {}", path.display()), source }
    }

    pub(crate) fn identity_file(path: &Path, why: impl Into<String>) -> Self {
        Self::IdentityFile { path: path.to_owned(), why: why.into() }
    }
}

impl Error {
    /// Whether connecting again may help: the other side went away, or was not there.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        use CloseReason::{Idle, Limit, RekeyFailed, Shutdown};
        match self {
            Self::NotRunning(_) | Self::Timeout(_) | Self::Io { .. } => true,
            Self::Closed(reason) => matches!(reason, Idle | Limit | RekeyFailed | Shutdown),
            Self::Channel(error) => matches!(error, ProtoError::Truncated | ProtoError::Silent | ProtoError::UsedUp),
            _ => false,
        }
    }
}

fn reason_text(reason: CloseReason) -> &'static str {
    match reason {
        CloseReason::Normal => "nothing more to say",
        CloseReason::Idle => "idle for too long",
        CloseReason::Protocol => "a break of the protocol",
        CloseReason::BadRecord => "a record that did not open",
        CloseReason::RekeyFailed => "a failed rekey",
        CloseReason::Revoked => "the identity was revoked",
        CloseReason::Shutdown => "it is stopping",
        CloseReason::Limit => "a limit was reached",
        CloseReason::Clock => "the clocks are too far apart",
        CloseReason::Other(_) => "an unknown reason",
    }
}
