//! The thread that puts entries on disk, and what it shares with those who record.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aico_crypto::{LogKey, OsRandom};

use super::store::Store;
use super::tree::{Head, leaf_hash};
use super::{MAX_ENTRY_BYTES, Taken};
use crate::Error;

/// How long an entry stays in memory at most.
const WINDOW: Duration = Duration::from_millis(50);
/// How long the disk is left alone after a failure.
const RETRY: Duration = Duration::from_secs(1);
/// Entries that wait for the disk; more are refused.
const MAX_PENDING: usize = 4096;
/// Entries are padded to a multiple of this before they are sealed, so that lengths say little.
const PAD_BYTES: usize = 64;

#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    /// Something is to be written.
    work: Condvar,
    /// Something was written, or failed.
    done: Condvar,
}

#[derive(Debug)]
struct State {
    store: Store,
    /// Sealed, with their places right behind what is on disk.
    pending: Vec<Vec<u8>>,
    /// Entries that the thread is writing now, the first of `pending`.
    oldest: Option<Instant>,
    /// Somebody waits.
    urgent: bool,
    attempts: u64,
    /// Why the last attempt failed.
    failure: Option<Failure>,
    closing: bool,
}

#[derive(Clone, Debug)]
struct Failure {
    full: bool,
    text: String,
    at: Instant,
}

impl Failure {
    fn of(error: &Error) -> Self {
        let text = match error {
            Error::Io { what, source } => format!("{what}: {source}"),
            other => other.to_string(),
        };
        Self { full: matches!(error, Error::Full { .. }), text, at: Instant::now() }
    }

    fn to_error(&self) -> Error {
        let what = format!("the audit log: {}", self.text);
        if self.full { Error::Full { what } } else { Error::Io { what, source: std::io::ErrorKind::Other.into() } }
    }
}

pub(super) fn start(store: Store, key: LogKey) -> Result<(Arc<Shared>, JoinHandle<()>), Error> {
    let state =
        State { store, pending: Vec::new(), oldest: None, urgent: false, attempts: 0, failure: None, closing: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), work: Condvar::new(), done: Condvar::new() });
    let theirs = shared.clone();
    let thread = std::thread::Builder::new().name("audit-log".to_owned()).spawn(move || theirs.write_all(&key));
    let thread = thread.map_err(|source| Error::Io { what: "starting the audit log".to_owned(), source })?;
    Ok((shared, thread))
}

impl Shared {
    pub(super) fn record(&self, entry: &[u8]) -> Result<Taken, Error> {
        if entry.len() > MAX_ENTRY_BYTES {
            return Err(Error::Misuse("an audit entry of more than 4 KiB"));
        }
        let mut state = self.lock();
        if state.closing {
            return Err(Error::Misuse("the audit log is closed"));
        }
        if state.pending.len() >= MAX_PENDING {
            return Err(state.failure.as_ref().map_or(Error::Misuse("the audit log is too busy"), Failure::to_error));
        }
        let index = state.store.edge().size() + state.pending.len() as u64;
        let place = place(&state.store, index);
        let sealed = state.store.seal.seal(&place, &pad(entry), &OsRandom)?;
        let leaf = leaf_hash(&sealed);
        state.pending.push(sealed);
        if state.oldest.is_none() {
            state.oldest = Some(Instant::now());
            self.work.notify_one();
        }
        Ok(Taken { index, leaf })
    }

    /// Waits for one attempt that covers `index`; its failure is ours, and the entry stays for the next.
    pub(super) fn wait_durable(&self, index: u64) -> Result<(), Error> {
        let mut state = self.lock();
        let begun = state.attempts;
        loop {
            if index < state.store.edge().size() {
                return Ok(());
            }
            // An attempt that was under way when we came may not have had our entry.
            if let Some(failure) = state.failure.as_ref().filter(|_| state.attempts > begun) {
                return Err(failure.to_error());
            }
            if state.closing || index >= state.store.edge().size() + state.pending.len() as u64 {
                return Err(Error::Misuse("an entry that the audit log does not have"));
            }
            state.urgent = true;
            self.work.notify_one();
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub(super) fn flush(&self) -> Result<(), Error> {
        let state = self.lock();
        let last = state.store.edge().size() + state.pending.len() as u64;
        drop(state);
        last.checked_sub(1).map_or(Ok(()), |last| self.wait_durable(last))
    }

    pub(super) fn head(&self) -> Head {
        self.lock().store.head()
    }

    pub(super) fn tail(&self, count: u64) -> Result<Vec<(u64, Vec<u8>)>, Error> {
        let state = self.lock();
        let from = state.store.edge().size().saturating_sub(count);
        let open = |(index, sealed): (u64, Vec<u8>)| {
            let opened = state.store.seal.open(&place(&state.store, index), &sealed).ok().and_then(unpad);
            let opened = opened.ok_or_else(|| Error::damaged("the audit log", format!("entry {index} does not open")));
            opened.map(|entry| (index, entry))
        };
        state.store.sealed_from(from)?.into_iter().map(open).collect()
    }

    pub(super) fn contains(&self, older: &Head) -> Result<bool, Error> {
        Ok(self.lock().store.head_at(older.size)?.as_ref() == Some(older))
    }

    pub(super) fn close(&self) {
        self.lock().closing = true;
        self.work.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: waits for the window or for somebody in a hurry, then writes everything there is.
    fn write_all(&self, key: &LogKey) {
        let mut state = self.lock();
        loop {
            let due = state.due();
            match due {
                Due::Now => {
                    state.attempt(key);
                    self.done.notify_all();
                }
                Due::Never if state.closing => return,
                Due::Never => state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner),
                Due::In(time) => {
                    state = self.work.wait_timeout(state, time).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

enum Due {
    Now,
    In(Duration),
    Never,
}

impl State {
    fn due(&self) -> Due {
        let Some(oldest) = self.oldest else { return Due::Never };
        if self.urgent || self.closing {
            return Due::Now;
        }
        let wait = match &self.failure {
            Some(failure) => RETRY.saturating_sub(failure.at.elapsed()),
            None => WINDOW.saturating_sub(oldest.elapsed()),
        };
        if wait.is_zero() { Due::Now } else { Due::In(wait) }
    }

    /// Writes what is pending, batch by batch, as far as the disk lets it.
    fn attempt(&mut self, key: &LogKey) {
        self.urgent = false;
        self.failure = None;
        while !self.pending.is_empty() {
            let count = self.pending.len().min(self.store.room().max(1));
            let before = self.store.edge().size();
            let batch = self.pending.get(..count).unwrap_or_default();
            let written = self.store.append(key, batch);
            let counted = (self.store.edge().size() - before) as usize;
            self.pending.drain(..counted.min(self.pending.len()));
            if let Err(error) = written {
                self.failure = Some(Failure::of(&error));
                break;
            }
        }
        self.attempts += 1;
        self.oldest = (!self.pending.is_empty()).then(Instant::now);
        // One last attempt when closing: what the disk does not take then was never acknowledged.
        if self.closing {
            self.oldest = None;
        }
    }
}

/// What an entry is bound to: the log and its place in it.
fn place(store: &Store, index: u64) -> Vec<u8> {
    [store.id.as_slice(), &index.to_be_bytes()].concat()
}

fn pad(entry: &[u8]) -> Vec<u8> {
    let mut padded = entry.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(PAD_BYTES), 0);
    padded
}

fn unpad(mut padded: Vec<u8>) -> Option<Vec<u8>> {
    let end = padded.iter().rposition(|byte| *byte != 0)?;
    if padded.get(end) != Some(&0x80) {
        return None;
    }
    padded.truncate(end);
    Some(padded)
}
