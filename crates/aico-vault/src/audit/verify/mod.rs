//! Checking a log without any key (`docs/spec/audit-log.md`, Verification).

mod anchor;
mod bundles;
mod check;
mod grown;
mod walk;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;
use std::time::Duration;

use aico_crypto::PublicKey;

use super::Head;
use super::disk::Disk;
use super::layout::Place;
use super::names::MAX_NOTE_BYTES;
use super::tail::MAX_TAIL_BYTES;
use crate::Error;

/// Most findings that are listed; the check ends there.
const MAX_FINDINGS: usize = 100;
/// Passes over a log that is being written to meanwhile, before it is asked what of the findings is its growth.
const MAX_PASSES: usize = 5;
const BETWEEN_PASSES: Duration = Duration::from_millis(60);

/// What the caller knows from elsewhere about the log. Without any of it, a log that somebody made anew with a key of
/// their own, or rolled back, looks whole.
#[derive(Clone, Debug, Default)]
pub struct Expectations {
    /// The log's key, as the vault has it.
    pub key: Option<PublicKey>,
    /// A state that the log must still contain.
    pub anchor: Option<Anchor>,
}

/// A state of the log that was kept elsewhere.
#[derive(Clone, Debug)]
pub enum Anchor {
    /// A head that the caller trusts, such as the vault's.
    Head(Head),
    /// The text of a C2SP checkpoint; its signature is checked too.
    Checkpoint(String),
}

/// What the log was compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchored {
    /// With nothing: an older state of it, or one signed with another key, would look the same.
    No,
    /// With a trusted head of this size.
    ByHead(u64),
    /// With a signed checkpoint of this size.
    ByCheckpoint(u64),
}

/// What is known of a log in which nothing was found.
#[derive(Clone, Debug)]
pub struct Report {
    /// Number of entries.
    pub size: u64,
    /// Root of their Merkle tree, base64 as in checkpoints.
    pub root: String,
    /// The key that signed every head.
    pub key: PublicKey,
    /// Whether the caller expected that key.
    pub key_expected: bool,
    /// What the log was compared with.
    pub anchored: Anchored,
    /// What is no damage and worth saying: leftovers of an interrupted write.
    pub notes: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} entries, root {}: ", self.size, self.root)?;
        match (self.anchored, self.key_expected) {
            (Anchored::No, false) => f.write_str("internally consistent, not anchored"),
            (Anchored::No, true) => f.write_str("internally consistent, signed with the vault's key, not anchored"),
            (Anchored::ByHead(size), _) => write!(f, "whole, and contains the {size} entries of the vault's head"),
            (Anchored::ByCheckpoint(size), _) => write!(f, "whole, and contains the {size} entries of the checkpoint"),
        }
    }
}

/// One thing that is not as the log left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which file, inside the log's folder.
    pub file: String,
    /// Where in it: an entry, a byte; empty for the whole file.
    pub place: String,
    /// What does not hold.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let comma = if self.place.is_empty() { "" } else { ", " };
        write!(f, "`{}`{comma}{}: {}", self.file, self.place, self.what)
    }
}

/// Why a log is not vouched for.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// It is not as the log left it. At least one finding, at most 100.
    #[error("the audit log is damaged or was altered: {}", list(.0))]
    Findings(Vec<Finding>),
    /// It could not be read.
    #[error(transparent)]
    Unreadable(#[from] Error),
}

fn list(findings: &[Finding]) -> String {
    findings.iter().map(Finding::to_string).collect::<Vec<_>>().join("; ")
}

/// Checks every byte of every file of the log in `dir`: needs no key, changes nothing, uses memory for one bundle and the
/// tail, and may run while the log is written to.
///
/// # Errors
/// [`VerifyError::Findings`] names files and places; [`VerifyError::Unreadable`] if the disk does not let us look.
pub fn verify(dir: &Path, expected: &Expectations) -> Result<Report, VerifyError> {
    let disk = Disk::new(dir);
    let mut snapshot = Snapshot::take(&disk)?;
    let mut passes = 0;
    loop {
        let passed = check::pass(&disk, &snapshot, expected)?;
        if passed.report.is_some() && passed.findings.is_empty() {
            return passed.verdict();
        }
        std::thread::sleep(BETWEEN_PASSES);
        let newer = Snapshot::take(&disk)?;
        if newer == snapshot {
            return passed.verdict();
        }
        passes += 1;
        if passes == MAX_PASSES {
            return grown::without_growth(passed, &snapshot, &newer, &disk).verdict();
        }
        snapshot = newer;
    }
}

/// The two files that change as long as the log is written to.
#[derive(PartialEq, Eq)]
struct Snapshot {
    checkpoint: Option<Vec<u8>>,
    tail: Option<Vec<u8>>,
}

impl Snapshot {
    /// Reads both at a moment at which they belong together, if there is one.
    fn take(disk: &Disk) -> Result<Self, Error> {
        let checkpoint = || readable(disk, Place::Checkpoint, MAX_NOTE_BYTES);
        let tail = || readable(disk, Place::Tail, MAX_TAIL_BYTES);
        let mut snapshot = Self { checkpoint: checkpoint()?, tail: tail()? };
        for _ in 1..MAX_PASSES {
            let newer = checkpoint()?;
            if newer == snapshot.checkpoint {
                break;
            }
            snapshot = Self { checkpoint: newer, tail: tail()? };
        }
        Ok(snapshot)
    }
}

/// A file's bytes; one that is missing, too long or no file at all has none.
fn readable(disk: &Disk, place: Place, limit: usize) -> Result<Option<Vec<u8>>, Error> {
    match disk.read(place, limit) {
        Err(Error::Damaged { .. }) => Ok(None),
        read => read,
    }
}
