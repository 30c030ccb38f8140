use std::io;
use std::path::{Path, PathBuf};

use crate::header::VaultId;

/// Why the vault could not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file is not what was written there: a flipped byte, a cut, a file from elsewhere.
    #[error("{what} is damaged: {detail}")]
    Damaged {
        /// Which file or store, in a person's words.
        what: String,
        /// What does not hold.
        detail: String,
    },
    /// The vault was written by a newer version of this program.
    #[error("{what} has format {found}, this program reads up to {known}{}", needs_text(.needs.as_deref()))]
    Newer {
        /// Which file.
        what: String,
        /// The format found.
        found: u32,
        /// The newest format this program knows.
        known: u32,
        /// The version of this program that it needs, where it says so.
        needs: Option<String>,
    },
    /// Another process has the vault open.
    #[error("the vault is held by {holder}")]
    Held {
        /// The process, as it described itself in the lock file.
        holder: String,
    },
    /// No vault has been set up here.
    #[error("there is no vault in {}", .0.display())]
    NoVault(PathBuf),
    /// The password is not the vault's.
    #[error("the password is wrong")]
    WrongPassword,
    /// The recovery code is well formed and not the vault's.
    #[error("this recovery code is not this vault's")]
    WrongCode,
    /// There is no slot of the kind that was asked for.
    #[error("the vault has no {0}")]
    NoSlot(&'static str),
    /// The owner has locked the vault.
    #[error("the vault is locked")]
    LockedByOwner,
    /// Stretching a password needs more memory than there is.
    #[error("stretching the password needs {needed_mib} MiB of memory, and {free_mib} MiB are free")]
    Memory {
        /// What it needs.
        needed_mib: u64,
        /// What there is.
        free_mib: u64,
    },
    /// The owner's rule, not a fault: what was asked for would lose the vault.
    #[error("{0}")]
    Refused(&'static str),
    /// A sealed file of another vault.
    #[error("this file was sealed under another vault, {0}")]
    OtherVault(VaultId),
    /// A sealed file whose data key is not in this vault.
    #[error(
        "this vault has no key to this file any more: it was forgotten, or is newer than the copy that was restored"
    )]
    NoFileKey,
    /// The caller wanted something long to end early.
    #[error("it was stopped; it goes on at the next start")]
    Stopped,
    /// No unlock method gave the root key; each is named with its reason.
    #[error("nothing here unlocks the vault: {0}")]
    Locked(String),
    /// There is nothing under this path.
    #[error("nothing is stored under this path")]
    NotFound,
    /// The path of a value breaks the rules of `docs/spec/requests.md`, Paths.
    #[error("not a valid path: {0}")]
    Path(&'static str),
    /// A permit, receipt or argument that the vault did not give or already used.
    #[error("caller error: {0}")]
    Misuse(&'static str),
    /// The disk is full; nothing that was acknowledged is affected.
    #[error("no space left on the device ({what})")]
    Full {
        /// What was being written.
        what: String,
    },
    /// The operating system refused.
    #[error("{what}")]
    Io {
        /// What was being done to which file.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// SQLite refused, for a reason that is none of the above.
    #[error("{what}")]
    Sqlite {
        /// Which database.
        what: String,
        /// Its answer.
        source: rusqlite::Error,
    },
    /// The history's engine refused a question, in its own words.
    #[error("{0}")]
    Question(String),
    /// A cryptographic check failed outside the places above.
    #[error(transparent)]
    Crypto(#[from] aico_crypto::Error),
}

fn needs_text(needs: Option<&str>) -> String {
    needs.map(|version| format!("; it needs aico {version} or newer")).unwrap_or_default()
}

impl Error {
    /// Wraps an I/O error with what was being done; a full disk becomes [`Error::Full`].
    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> Self {
        Self::failed(format!("{doing} {}", path.display()), source)
    }

    /// What the system said while doing `what`; a full disk is told apart.
    pub(crate) fn failed(what: String, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Self::Full { what }
            }
            _ => Self::Io { what, source },
        }
    }

    /// A file that is not what was written there.
    pub(crate) fn damaged(what: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::Damaged { what: what.into(), detail: detail.into() }
    }
}
