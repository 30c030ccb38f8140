//! What is recorded, and who records it.

use crate::{Capability, Principal};

/// Something that happened, as the log keeps it. Paths become pseudonyms when it is written down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Who did it; `None` is the program itself, or somebody unknown.
    pub who: Option<Principal>,
    /// What happened.
    pub what: What,
}

/// The kinds of events.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// A request was allowed; it is about to be done.
    Allowed(Capability),
    /// A request was denied.
    Denied(Capability, String),
    /// What had been allowed under this index of the log was done, or failed.
    Outcome {
        /// Index of the entry that allowed it.
        of: u64,
        /// `Ok`: bytes moved. `Err`: why not, in a few words.
        result: Result<u64, String>,
    },
    /// Something about the system: its word and a short text.
    System {
        /// A word such as `backend.start`.
        word: &'static str,
        /// Details, without any content of a person.
        detail: String,
    },
}

/// Proof that a log took an event in: which log, which place, and the hash that stands there.
///
/// Anybody can build one; the log that is named checks it against what it gave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The log.
    pub log: [u8; 16],
    /// The entry's place.
    pub index: u64,
    /// The hash of the entry's leaf.
    pub leaf: [u8; 32],
}

/// Something that records events.
pub trait AuditSink {
    /// Why it could not.
    type Error;

    /// Takes `event` in and says where it stands. It may not be on disk yet.
    fn record(&self, event: &Event) -> Result<Receipt, Self::Error>;
}
