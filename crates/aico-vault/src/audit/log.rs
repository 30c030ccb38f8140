//! The log as its users see it: entries get their index at once and go to disk in batches, by those who wait for them;
//! a thread writes what nobody waits for, and full bundles.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aico_crypto::{LogKey, LogSealKey, OsRandom};

use super::disk::Disk;
use super::entry::Sealed;
use super::store::Store;
use super::{Head, LogId, Receipt, open};
use crate::Error;

/// An entry that nobody waits for is written after this long; with the write itself, it is on disk within 50 ms.
const WRITE_AFTER: Duration = Duration::from_millis(25);
/// After a failure, how long until the next attempt that nobody asked for.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Most entries that are not on disk; the next one waits for them.
const MAX_UNWRITTEN: u64 = 1024;

/// An append-only log, open for writing; one at a time in a folder.
///
/// Entries keep their order and their index for ever. After a failed write the log is closed for new entries until a
/// write succeeds: every [`AuditLog::record`] and [`AuditLog::wait_durable`] tries again and says honestly how that went.
/// An entry whose wait failed keeps its place and may be on disk later, or be lost when the process ends.
pub struct AuditLog {
    pub(super) shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    log_id: LogId,
}

/// What the log's users and its thread share. Where both locks are held, the store's was taken first.
pub(super) struct Shared {
    queue: Mutex<Queue>,
    pub(super) store: Mutex<Store>,
    pub(super) seal_key: LogSealKey,
    /// The thread has something to do.
    work: Condvar,
    /// A write ended.
    done: Condvar,
}

struct Queue {
    waiting: Vec<Sealed>,
    /// The index of the next entry.
    next: u64,
    /// What is on disk.
    durable: Head,
    /// When to write although nobody waits.
    due: Option<Instant>,
    /// When the thread looks at the time again by itself.
    wakes: Option<Instant>,
    /// Somebody writes; one at a time, so that entries keep their order.
    writing: bool,
    /// The last write was of several entries.
    crowded: bool,
    /// Full bundles wait for the thread, and the next write for them.
    publish: bool,
    closing: bool,
    /// The write that closing asks for has been tried.
    tried_last: bool,
    stopped: bool,
    /// Failed writes so far, and the last one's error if it was the last write.
    failures: u64,
    failure: Option<Error>,
}

impl AuditLog {
    /// Makes an empty log in `dir`, whose parent exists, and opens it. May be repeated after it was stopped half-way.
    ///
    /// # Errors
    /// [`Error::Misuse`] if there is a log already; [`Error::Held`] if another process has it open; what the disk says.
    pub fn create(dir: &Path, key: LogKey, log_id: LogId) -> Result<Self, Error> {
        Self::start(open::create(Disk::new(dir), key, log_id)?)
    }

    /// Opens the log in `dir` and finishes what a stop left undone: drops a batch that was not written whole, writes
    /// full bundles. Reads the tail and the right edge of the tree, not the whole log; that is [`super::verify()`]'s work.
    ///
    /// # Errors
    /// [`Error::Damaged`] if the files are not what this key's log left there; [`Error::Held`] if another process has it
    /// open; [`Error::Newer`]; what the disk says.
    pub fn open(dir: &Path, key: LogKey, log_id: LogId) -> Result<Self, Error> {
        Self::start(open::open(Disk::new(dir), key, log_id)?)
    }

    pub(super) fn start(store: Store) -> Result<Self, Error> {
        let (log_id, seal_key) = (store.log_id(), store.key.seal_key());
        let queue = Mutex::new(Queue::new(store.signed.head));
        let (work, done) = (Condvar::new(), Condvar::new());
        let shared = Arc::new(Shared { queue, store: Mutex::new(store), seal_key, work, done });
        let thread = std::thread::Builder::new().name("audit-log".into()).spawn({
            let shared = Arc::clone(&shared);
            move || write_until_closed(&shared)
        });
        let thread = thread.map_err(|source| Error::Io { what: "starting the audit log's thread".into(), source })?;
        Ok(Self { shared, thread: Some(thread), log_id })
    }

    /// Takes an entry of at most [`super::MAX_ENTRY_BYTES`] bytes in. It has its index and is sealed when this returns,
    /// and is on disk within 50 ms; [`AuditLog::wait_durable`] waits for that.
    ///
    /// When 1,024 entries are not on disk yet, it waits for them.
    ///
    /// # Errors
    /// [`Error::Misuse`] if the entry is too long. After a failed write, tries that write again, and if it fails gives
    /// its error; the entry was not taken in then.
    pub fn record(&self, entry: &[u8]) -> Result<Receipt, Error> {
        let mut queue = self.shared.queue();
        while queue.failure.is_some() || queue.unwritten() >= MAX_UNWRITTEN {
            let last = queue.next.saturating_sub(1);
            queue = self.shared.wait(queue, last)?;
        }
        let index = queue.next;
        let sealed = Sealed::seal(&self.shared.seal_key, self.log_id, index, entry, &OsRandom)?;
        let leaf_hash = sealed.leaf.0;
        queue.waiting.push(sealed);
        queue.next += 1;
        queue.due = queue.due.or_else(|| Some(Instant::now() + WRITE_AFTER));
        self.shared.wake_in_time(&queue);
        Ok(Receipt { log_id: self.log_id, index, leaf_hash })
    }

    /// Returns when the entry at `index` and all before it are on disk, writing at once, in this thread unless another
    /// one is writing already; callers share a write.
    ///
    /// # Errors
    /// [`Error::Misuse`] if there is no such entry; the write's error if it failed. The entry keeps its place then, and
    /// calling again tries again.
    pub fn wait_durable(&self, index: u64) -> Result<(), Error> {
        let queue = self.shared.queue();
        if index >= queue.next {
            return Err(Error::Misuse("the audit log has no such entry"));
        }
        self.shared.wait(queue, index).map(|_| ())
    }

    /// Runs `f` on the log's folder while nothing is written in it.
    pub(crate) fn while_still<T>(&self, f: impl FnOnce(&Path) -> Result<T, Error>) -> Result<T, Error> {
        let store = self.shared.store();
        f(store.disk.root())
    }

    /// Which log this is.
    #[must_use]
    pub fn log_id(&self) -> LogId {
        self.log_id
    }

    /// The head of what is on disk.
    #[must_use]
    pub fn head(&self) -> Head {
        self.shared.queue().durable
    }

    /// Whether the receipt was given by this log for an entry that it still has in memory or on disk at that index.
    #[must_use]
    pub fn gave(&self, receipt: &Receipt) -> bool {
        receipt.log_id == self.log_id && receipt.index < self.shared.queue().next
    }

    /// Why full bundles cannot be written, while the tail still takes entries: most often a disk that is nearly full.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.shared.store().trouble.clone()
    }

    /// Writes everything, and ends the thread. Dropping the log does the same and keeps quiet about errors.
    ///
    /// # Errors
    /// The last write's error: entries that nobody waited for are lost then.
    pub fn close(mut self) -> Result<(), Error> {
        self.stop();
        let queue = self.shared.queue();
        if queue.unwritten() == 0 { Ok(()) } else { Err(queue.last_failure()) }
    }

    fn stop(&mut self) {
        self.shared.queue().closing = true;
        self.shared.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // A thread that panicked left its entries unwritten, which `close` reports.
            thread.join().ok();
        }
    }
}

impl Drop for AuditLog {
    fn drop(&mut self) {
        self.stop();
    }
}

impl std::fmt::Debug for AuditLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuditLog({})", self.log_id)
    }
}

impl Queue {
    fn new(durable: Head) -> Self {
        Self {
            waiting: Vec::new(),
            next: durable.size,
            durable,
            due: None,
            wakes: None,
            writing: false,
            crowded: false,
            publish: false,
            closing: false,
            tried_last: false,
            stopped: false,
            failures: 0,
            failure: None,
        }
    }

    fn unwritten(&self) -> u64 {
        self.next - self.durable.size
    }

    fn last_failure(&self) -> Error {
        self.failure.as_ref().map_or_else(|| Error::Misuse("the audit log has ended"), same_error)
    }

    fn note(&mut self, written: Result<Head, Error>) {
        match written {
            Ok(head) => (self.durable, self.failure) = (head, None),
            Err(e) => {
                self.failures += 1;
                self.failure = Some(e);
                self.due = Some(Instant::now() + RETRY_AFTER);
            }
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the entry at `index` is on disk or a write has failed.
    fn wait<'a>(&'a self, mut queue: MutexGuard<'a, Queue>, index: u64) -> Result<MutexGuard<'a, Queue>, Error> {
        let failures = queue.failures;
        while queue.durable.size <= index {
            if queue.stopped || queue.failures != failures {
                return Err(queue.last_failure());
            }
            queue = if queue.writing {
                self.done.wait(queue).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.write(queue)
            };
        }
        Ok(queue)
    }

    /// Writes everything that waits. The lock on the queue is given back meanwhile, and others queue up behind.
    fn write<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> MutexGuard<'a, Queue> {
        queue.writing = true;
        let crowded = queue.crowded;
        drop(queue);
        let mut write = Write { shared: self, ended: None, publish: false };
        let mut store = self.store();
        if crowded {
            // Those who have just been told of the last write have their next entry ready in a moment.
            std::thread::yield_now();
        }
        let batch = self.take_waiting();
        let written = store.append(batch);
        write.publish = written.is_ok() && store.wants_to_publish();
        write.ended = Some(written);
        drop(store);
        drop(write);
        self.queue()
    }

    fn take_waiting(&self) -> Vec<Sealed> {
        let mut queue = self.queue();
        (queue.due, queue.crowded) = (None, queue.waiting.len() > 1);
        std::mem::take(&mut queue.waiting)
    }

    /// Lets the next one write.
    fn ended(&self, mut queue: MutexGuard<'_, Queue>) {
        queue.writing = queue.publish;
        if queue.publish {
            self.work.notify_one();
        } else {
            self.wake_in_time(&queue);
        }
        self.done.notify_all();
    }

    /// Wakes the thread if it would sleep beyond what is due.
    fn wake_in_time(&self, queue: &Queue) {
        if queue.due.is_some_and(|due| queue.wakes.is_none_or(|wakes| due < wakes)) {
            self.work.notify_one();
        }
    }

    /// Sleeps until the thread has something to do; none at the end.
    fn next_task(&self) -> Option<Task<'_>> {
        let mut queue = self.queue();
        loop {
            if queue.publish {
                queue.publish = false;
                return Some(Task::Publish);
            }
            let now = Instant::now();
            let due = queue.due.filter(|_| queue.unwritten() > 0);
            let is_time = queue.closing || due.is_some_and(|due| due <= now);
            if is_time && !queue.writing {
                break;
            }
            // Whoever writes wakes the thread if there is something left to do.
            queue.wakes = due.filter(|_| !queue.writing);
            queue = match queue.wakes {
                None => self.work.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(due) => self.work.wait_timeout(queue, due - now).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
        if queue.closing && (queue.unwritten() == 0 || std::mem::replace(&mut queue.tried_last, true)) {
            return None;
        }
        Some(Task::Write(queue))
    }
}

enum Task<'a> {
    Write(MutexGuard<'a, Queue>),
    Publish,
}

/// The thread's life.
fn write_until_closed(shared: &Shared) {
    let _stopped = Stopped(shared);
    while let Some(task) = shared.next_task() {
        match task {
            Task::Write(queue) => drop(shared.write(queue)),
            Task::Publish => {
                shared.store().publish_if_due();
                shared.ended(shared.queue());
            }
        }
    }
}

/// A write under way. However it ends, those who wait for it hear of it.
struct Write<'a> {
    shared: &'a Shared,
    /// None if it panicked.
    ended: Option<Result<Head, Error>>,
    publish: bool,
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        let panicked = Err(Error::Misuse("a write of the audit log did not end"));
        let mut queue = self.shared.queue();
        queue.note(self.ended.take().unwrap_or(panicked));
        queue.publish = self.publish;
        self.shared.ended(queue);
    }
}

/// Tells those who wait that nobody writes any more, also after a panic.
struct Stopped<'a>(&'a Shared);

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.queue().stopped = true;
        self.0.done.notify_all();
    }
}

/// The same error for one more caller.
fn same_error(error: &Error) -> Error {
    match error {
        Error::Full { what } => Error::Full { what: what.clone() },
        Error::Io { what, source } => Error::Io { what: what.clone(), source: same_io_error(source) },
        Error::Crypto(e) => Error::Crypto(*e),
        other => Error::Io { what: "writing the audit log".into(), source: io::Error::other(other.to_string()) },
    }
}

fn same_io_error(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| io::Error::new(error.kind(), error.to_string()), io::Error::from_raw_os_error)
}
