//! One program has a vault: `run/lock`, held with the kernel's file lock by whoever speaks for it, and `run/worker.lock`
//! by the process that has it open. Both last as long as their processes live.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use crate::Error;

const NAME: &str = "run/lock";
const WORKER_NAME: &str = "run/worker.lock";
/// For a worker that is ending already to be gone.
const PATIENCE: Duration = Duration::from_secs(10);
/// For the last moments of a process that was killed, or of a child that it was just starting.
const FRONT_PATIENCE: Duration = Duration::from_millis(500);
/// Longest description of a holder that is read back.
const MAX_TEXT_BYTES: u64 = 200;

/// The right to speak for the vault in a folder; released when dropped, or when the process ends in any way.
#[derive(Debug)]
pub struct Front(#[expect(dead_code, reason = "the lock lasts as long as the file is open")] File);

impl Front {
    /// Takes the lock, or says who holds it ([`Error::Held`]).
    pub fn take(home: &Path) -> Result<Self, Error> {
        lock_patiently(&home.join(NAME), FRONT_PATIENCE).map(Self)
    }
}

/// The right to open the vault.
#[derive(Debug)]
pub(crate) struct Hold {
    _worker: File,
    _front: Option<Front>,
}

impl Hold {
    /// For a process that speaks for itself.
    pub(crate) fn alone(home: &Path) -> Result<Self, Error> {
        let front = Front::take(home)?;
        Ok(Self { _worker: lock_patiently(&home.join(WORKER_NAME), PATIENCE)?, _front: Some(front) })
    }

    /// For the worker of a process that has [`Front`]. An older worker may be ending still.
    pub(crate) fn of_worker(home: &Path) -> Result<Self, Error> {
        Ok(Self { _worker: lock_patiently(&home.join(WORKER_NAME), PATIENCE)?, _front: None })
    }
}

fn lock_patiently(path: &Path, patience: Duration) -> Result<File, Error> {
    let began = Instant::now();
    loop {
        match lock(path) {
            Err(Error::Held { .. }) if began.elapsed() < patience => std::thread::sleep(Duration::from_millis(10)),
            other => return other,
        }
    }
}

fn lock(path: &Path) -> Result<File, Error> {
    let mut file = open(path).map_err(|source| Error::io("opening", path, source))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::Held { holder: holder(&mut file) }),
        Err(error) => return Err(Error::io("locking", path, error.into())),
        Ok(()) => {}
    }
    // For people who meet the lock; the lock itself is the kernel's, and holds on a full disk too.
    let text = format!("process {}\n", std::process::id());
    let _best_effort = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
    Ok(file)
}

/// Whether some process speaks for the vault in `home` now.
#[must_use]
pub fn is_held(home: &Path) -> bool {
    let Ok(file) = File::open(home.join(NAME)) else { return false };
    matches!(flock(&file, FlockOperation::NonBlockingLockShared), Err(rustix::io::Errno::WOULDBLOCK))
}

fn open(path: &Path) -> std::io::Result<File> {
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let _unknown = file.take(MAX_TEXT_BYTES).read_to_string(&mut text);
    let text: String = text.trim().chars().filter(|c| !c.is_control()).collect();
    if text.is_empty() { "another process".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_of_the_first() {
        let home = tempfile::tempdir().unwrap();
        std::fs::create_dir(home.path().join("run")).unwrap();
        assert!(!is_held(home.path()));
        let first = Front::take(home.path()).unwrap();
        assert!(is_held(home.path()));
        let Err(Error::Held { holder }) = Front::take(home.path()) else { panic!("two holders") };
        assert_eq!(holder, format!("process {}", std::process::id()));
        drop(first);
        assert!(!is_held(home.path()));
        assert!(Front::take(home.path()).is_ok());
    }
}
