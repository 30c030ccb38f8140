//! The log as a whole: stops, failing disks, many callers, proofs.

mod example;
mod faults;
mod proofs;
mod stops;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aico_crypto::{LogKey, OsRandom, SpaceKey, WRAPPED_BYTES};

use super::disk::{Disk, Gate};
use super::entry::Sealed;
use super::store::Store;
use super::*;
use crate::Error;

const LOG: LogId = LogId([9; 16]);

/// A log's key for as many openings as a test needs.
struct Keys {
    space: SpaceKey,
    wrapped: [u8; WRAPPED_BYTES],
}

impl Keys {
    fn make() -> Self {
        let space = SpaceKey::make(&OsRandom).unwrap();
        let wrapped = space.wrap_log(&LogKey::make(&OsRandom).unwrap(), b"", &OsRandom).unwrap();
        Self { space, wrapped }
    }

    fn log(&self) -> LogKey {
        self.space.unwrap_log(&self.wrapped, b"").unwrap()
    }
}

struct Place {
    _temporary: tempfile::TempDir,
    path: PathBuf,
    keys: Keys,
}

impl Place {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("audit");
        Self { _temporary: temporary, path, keys: Keys::make() }
    }

    fn create(&self, gate: &Gate) -> Result<Store, Error> {
        open::create(Disk::gated(&self.path, Arc::clone(gate)), self.keys.log(), LOG)
    }

    fn open(&self, gate: &Gate) -> Result<Store, Error> {
        open::open(Disk::gated(&self.path, Arc::clone(gate)), self.keys.log(), LOG)
    }

    fn reopen(&self) -> AuditLog {
        // Other tests of this process start programs: between fork and exec a child has our descriptors, and so our lock.
        for _ in 0..100 {
            match AuditLog::open(&self.path, self.keys.log(), LOG) {
                Err(Error::Held { .. }) => std::thread::sleep(std::time::Duration::from_millis(20)),
                opened => return opened.unwrap(),
            }
        }
        panic!("the log is held")
    }

    fn verify(&self) -> Report {
        verify(&self.path, &Expectations::default()).unwrap()
    }
}

fn always() -> Gate {
    Arc::new(|_| Ok(()))
}

fn text(index: u64) -> Vec<u8> {
    format!("entry {index}").into_bytes()
}

/// Entries for the indexes from `first` on.
fn sealed(keys: &Keys, first: u64, count: u64) -> Vec<Sealed> {
    let key = keys.log().seal_key();
    (first..first + count).map(|index| Sealed::seal(&key, LOG, index, &text(index), &OsRandom).unwrap()).collect()
}

/// That the log holds exactly the first `count` entries, in order.
fn assert_holds(log: &AuditLog, count: u64) {
    let entries = log.entries(0, u64::MAX).unwrap();
    assert_eq!(entries.len() as u64, count);
    assert!((0..count).zip(entries).all(|(index, entry)| entry == (index, text(index))));
}

/// A second folder with the same files. Only the tail is ever written in place, and only after it was replaced.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(item.file_name());
        match item.path().is_dir() {
            true => copy(&item.path(), &target),
            false => std::fs::hard_link(item.path(), target).unwrap(),
        }
    }
}
