//! The audit log: append-only, sealed, signed, checked by anyone (`docs/spec/audit-log.md`).
//!
//! What an entry says is another crate's concern: here it is at most [`MAX_ENTRY_BYTES`] bytes. Entries are sealed to
//! the log's key, their sealed bytes are the leaves of a Merkle tree in the C2SP tlog-tiles layout, and every state that
//! reaches the disk carries a signed tree head. [`verify()`] needs no key and no running backend.
//!
//! ```
//! use aico_crypto::{LogKey, OsRandom};
//! use aico_vault::audit::{AuditLog, Expectations, LogId, verify};
//! # let folder = tempfile::tempdir()?;
//! let dir = folder.path().join("audit");
//! let log = AuditLog::create(&dir, LogKey::make(&OsRandom)?, LogId::from_bytes([7; 16]))?;
//! let receipt = log.record(b"a door was opened")?;
//! log.wait_durable(receipt.index())?;
//! log.close()?;
//! assert_eq!(verify(&dir, &Expectations::default())?.size, 1);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod disk;
mod edge;
mod entry;
mod layout;
mod log;
mod names;
mod open;
mod publish;
mod read;
mod store;
mod tail;
mod torn;
mod verify;

#[cfg(test)]
mod tests;

use std::fmt;

pub use entry::MAX_ENTRY_BYTES;
pub use log::AuditLog;
pub use read::Inclusion;
pub use verify::{Anchor, Anchored, Expectations, Finding, Report, VerifyError, verify};

/// Which log this is: 16 bytes, chosen once by the caller; its text form is 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LogId([u8; 16]);

impl LogId {
    /// The log with this identifier.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A state of the log: how many entries, and the root of their Merkle tree (RFC 6962, SHA-256).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Number of entries.
    pub size: u64,
    /// Root hash over the first `size` entries.
    pub root: [u8; 32],
}

/// Says that the log took an entry in: which log, at which index, with which leaf hash. Only the log makes one.
///
/// It does not say that the entry is on disk; [`AuditLog::wait_durable`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Receipt {
    log_id: LogId,
    index: u64,
    leaf_hash: [u8; 32],
}

impl Receipt {
    /// The log that took the entry.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.log_id
    }

    /// The entry's place, counted from 0.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }

    /// SHA-256 of `0x00 ‖ sealed entry`.
    #[must_use]
    pub fn leaf_hash(&self) -> &[u8; 32] {
        &self.leaf_hash
    }
}
