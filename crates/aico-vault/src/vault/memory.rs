//! The owner's working memory: what is kept for a while (`docs/spec/vault-stores.md`, Working memory).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aico_crypto::{MemoryKey, SpaceKey};
use aico_ffi_rocksdb::{Entry, Error as MemoryError, Limits, Memory};
use aico_policy::{Action, Permit, Resource, Sensitivity};

use super::{Unlocked, Vault, WRONG_RESOURCE, rotate, spaces};
use crate::header::SpaceId;
use crate::store::{Commit, UNCLEAR};
use crate::system::System;
use crate::{Error, durable};

/// The setting that says which space has a working memory.
const MADE: &str = "memory";
/// Entries and bytes that are copied at a time, while writes wait.
const PAGE: (usize, usize) = (1000, 512 << 10);

/// Bytes that are read for one list.
const LIST_BYTES: usize = 4 << 20;

/// One entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Where, as `category/name…`.
    pub path: String,
    /// Its bytes.
    pub bytes: u64,
    /// From when on it is gone, in milliseconds since 1970.
    pub expires_ms: Option<u64>,
}

/// The owner's working memory: opened when somebody asks for it.
#[derive(Default)]
pub(super) struct WorkingMemory {
    stores: RwLock<Stores>,
    /// Held by whoever writes to two stores: both see the same order.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Stores {
    now: Option<Memory>,
    /// Under the key of the next epoch, while there is a rotation.
    next: Option<Memory>,
    /// A write to `next` failed.
    next_failed: AtomicBool,
    /// A failed disk left open which of the two is the one.
    unclear: bool,
}

impl std::fmt::Debug for WorkingMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WorkingMemory").finish_non_exhaustive()
    }
}

impl Vault<Unlocked> {
    /// Keeps `value` in the working memory, until `expires_ms` if there is one; on disk when this returns.
    pub fn remember(&self, permit: Permit, value: &[u8], expires_ms: Option<u64>, now_ms: u64) -> Result<(), Error> {
        let path = self.value(&permit, Action::WriteData)?;
        let kept = match self.state.owner().sensitivities().of(path.category()) {
            // One key for all of it: what is forgotten opens until the next rotation, and sizes show.
            Sensitivity::Secret => Err(Error::Refused("what is secret is not kept in the working memory; store it")),
            _ => self.state.write_memory(true, |memory| {
                memory.let_expire(now_ms);
                memory.put(path.as_str().as_bytes(), value, expires_ms)
            }),
        };
        self.state.outcome(&permit, kept.as_ref().map(|_| value.len() as u64));
        kept.map(drop)
    }

    /// What is kept in the working memory.
    ///
    /// # Errors
    /// [`Error::NotFound`] if nothing is, or nothing is any more.
    pub fn recall(&self, permit: Permit, now_ms: u64) -> Result<Vec<u8>, Error> {
        let path = self.value(&permit, Action::ReadData)?.as_str().as_bytes();
        let found = self.state.read_memory(|memory| memory.get(path, now_ms))?;
        found.flatten().ok_or(Error::NotFound)
    }

    /// Lists entries of the working memory behind `after`, in the order of their paths.
    ///
    /// True when there may be more behind the last one.
    pub fn remembered(
        &self,
        permit: Permit,
        after: Option<&str>,
        limit: usize,
        now_ms: u64,
    ) -> Result<(Vec<Remembered>, bool), Error> {
        self.redeem(&permit, Action::ListData)?;
        let Resource::Values(prefix) = &permit.capability().resource else { return Err(WRONG_RESOURCE) };
        let (prefix, after, most) = (prefix.as_bytes(), after.map(str::as_bytes), (limit, LIST_BYTES));
        let found = self.state.read_memory(|memory| memory.page(prefix, after, most, now_ms))?.unwrap_or_default();
        let more = found.len() == limit || found.iter().map(|entry| entry.value.len()).sum::<usize>() >= LIST_BYTES;
        let shown = |Entry { key, value, expires_ms }: Entry| {
            let path = String::from_utf8(key).map_err(|_| Error::damaged(WHAT, "a path is not UTF-8"))?;
            Ok::<_, Error>(Remembered { path, bytes: value.len() as u64, expires_ms })
        };
        Ok((found.into_iter().map(shown).collect::<Result<_, _>>()?, more))
    }

    /// Removes an entry from the working memory.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is none.
    pub fn unremember(&self, permit: Permit, now_ms: u64) -> Result<(), Error> {
        let path = self.value(&permit, Action::RemoveData)?.as_str().as_bytes();
        let there = self
            .state
            .read_memory(|memory| memory.get(path, now_ms))
            .and_then(|found| found.flatten().map(drop).ok_or(Error::NotFound));
        let removed = there.and_then(|()| self.state.write_memory(false, |memory| memory.remove(path)).map(drop));
        self.state.outcome(&permit, removed.as_ref().map(|()| 0));
        removed
    }
}

impl Unlocked {
    /// Removes what the working memory has below a name; returns how many entries.
    pub(super) fn forget_memory(&self, name: &str) -> Result<u64, Error> {
        let (below, mut count) = (format!("{name}/"), 0);
        loop {
            // `conversations/7` is a path, too.
            let found = self.read_memory(|memory| {
                let mut found = memory.page(below.as_bytes(), None, PAGE, 0)?;
                if memory.get(name.as_bytes(), 0)?.is_some() {
                    found.push(Entry { key: name.as_bytes().to_vec(), value: Vec::new(), expires_ms: None });
                }
                Ok(found)
            })?;
            let keys: Vec<Vec<u8>> = found.unwrap_or_default().into_iter().map(|entry| entry.key).collect();
            if keys.is_empty() {
                return Ok(count);
            }
            count += keys.len() as u64;
            self.write_memory(false, |memory| memory.remove_all(&keys))?;
        }
    }

    /// Closes it, and nobody opens it while the guard lives: another space is put in the place of this one.
    pub(super) fn close_memory(&self) -> Closed<'_> {
        let mut stores = self.memory.write();
        *stores = Stores::default();
        Closed { _stores: stores }
    }

    /// Copies it under the key of the next epoch, while others write; from here on, every write goes to both.
    pub(super) fn renew_memory(&self, epoch: u32, key: &SpaceKey, tell: rotate::Tell<'_>) -> Result<u64, Error> {
        if !self.open_memory(false)? {
            return Ok(0);
        }
        // What a rotation before this one left.
        self.drop_next_memory(epoch)?;
        let next = open(&self.memory_folder(epoch)?, &key.memory_key())?;
        self.memory.write().next = Some(next);
        self.copy_pages(tell)
    }

    fn copy_pages(&self, tell: rotate::Tell<'_>) -> Result<u64, Error> {
        let (mut after, mut bytes) = (None::<Vec<u8>>, 0_u64);
        loop {
            {
                // Nobody writes to a page between the reading and the writing of it.
                let stores = self.memory.write();
                let (Some(now), Some(next)) = (&stores.now, &stores.next) else { return Ok(bytes) };
                let page = now.page(&[], after.as_deref(), PAGE, 0).map_err(explain)?;
                put_page(next, &page)?;
                bytes = page.iter().fold(bytes, |sum, entry| sum.saturating_add(entry.value.len() as u64));
                let Some(last) = page.into_iter().next_back() else { return Ok(bytes) };
                after = Some(last.key);
            }
            if !tell(rotate::Progress { part: "memory", done: bytes, of: None }) {
                return Err(Error::Stopped);
            }
        }
    }

    /// Runs `commit`, which makes the next epoch the one in force or does not, while nobody writes.
    pub(super) fn begin_memory_epoch(&self, epoch: u32, key: &SpaceKey, commit: impl FnOnce() -> Commit) -> Commit {
        let mut stores = self.memory.write();
        if stores.next_failed.load(Ordering::Relaxed) {
            return Commit::Not(Error::Refused("the working memory could not be copied"));
        }
        // It was made since the rotation began.
        if let (Some(now), None) = (&stores.now, &stores.next) {
            let copied = self.memory_folder(epoch).and_then(|folder| {
                remove(&folder)?;
                let next = open(&folder, &key.memory_key())?;
                copy_all(now, &next)?;
                Ok(next)
            });
            match copied {
                Ok(next) => stores.next = Some(next),
                Err(error) => return Commit::Not(error),
            }
        }
        let done = commit();
        match &done {
            Commit::Done => {
                if stores.next.is_some() {
                    stores.now = stores.next.take();
                }
            }
            Commit::Not(_) => {}
            Commit::Unclear(_) => stores.unclear = true,
        }
        done
    }

    /// Removes the folders of epochs that are not in force.
    pub(super) fn drop_old_memories(&self) -> Result<(), Error> {
        let stores = self.memory.write();
        let (id, epoch) = self.system.owner_epoch()?;
        if stores.unclear || stores.next.is_some() {
            return Ok(());
        }
        spaces::sweep_memories(&spaces::folder(&self.places.home, &id), epoch)
    }

    /// Copies its entries to a folder of their own in `space`, under the same key. None is made while the guard lives.
    pub(super) fn copy_memory(&self, space: &Path) -> Result<Kept<'_>, Error> {
        self.open_memory(false)?;
        let stores = self.memory.read();
        if let Some(now) = &stores.now {
            let (_, epoch) = self.system.owner_epoch()?;
            let copy = open(&spaces::memory(space, epoch), &self.owner().keys().memory_key())?;
            copy_all(now, &copy)?;
        }
        Ok(Kept { _stores: stores })
    }

    /// Ends a copy that did not come into force.
    pub(super) fn drop_next_memory(&self, epoch: u32) -> Result<(), Error> {
        let mut stores = self.memory.write();
        if stores.unclear {
            return Err(Error::Refused(UNCLEAR));
        }
        stores.next = None;
        stores.next_failed = AtomicBool::new(false);
        remove(&self.memory_folder(epoch)?)
    }

    fn memory_folder(&self, epoch: u32) -> Result<PathBuf, Error> {
        let (id, _) = self.system.owner_epoch()?;
        Ok(spaces::memory(&spaces::folder(&self.places.home, &id), epoch))
    }

    /// Reads from it; nothing where there is none.
    fn read_memory<T>(&self, read: impl FnOnce(&Memory) -> Result<T, MemoryError>) -> Result<Option<T>, Error> {
        self.open_memory(false)?;
        let stores = self.memory.read();
        stores.now.as_ref().map(read).transpose().map_err(explain)
    }

    /// Writes to it, and to the one that will be it.
    fn write_memory(&self, make: bool, write: impl Fn(&Memory) -> Result<(), MemoryError>) -> Result<(), Error> {
        loop {
            if !self.open_memory(make)? {
                return Ok(());
            }
            let stores = self.memory.read();
            if stores.unclear {
                return Err(Error::Refused(UNCLEAR));
            }
            // Another space was put in its place since.
            let Some(now) = &stores.now else { continue };
            let Some(next) = &stores.next else { return write(now).map_err(explain) };
            let _turn = self.memory.turn.lock().unwrap_or_else(PoisonError::into_inner);
            write(now).map_err(explain)?;
            if write(next).is_err() {
                stores.next_failed.store(true, Ordering::Relaxed);
            }
            return Ok(());
        }
    }

    /// Whether it is open now; made if need be.
    fn open_memory(&self, make: bool) -> Result<bool, Error> {
        if self.memory.read().now.is_some() {
            return Ok(true);
        }
        let mut stores = self.memory.write();
        if stores.now.is_some() {
            return Ok(true);
        }
        let (id, epoch) = self.system.owner_epoch()?;
        let (folder, made) = (self.memory_folder(epoch)?, is_made(&self.system, &id)?);
        if !is_there(&folder, made)? && !make {
            return Ok(false);
        }
        let memory = open(&folder, &self.owner().keys().memory_key())?;
        if !made {
            self.system.put_setting(MADE, id.as_bytes(), &self.journal.log().head())?;
        }
        stores.now = Some(memory);
        Ok(true)
    }
}

/// Keeps it closed.
pub(super) struct Closed<'a> {
    _stores: RwLockWriteGuard<'a, Stores>,
}

/// Keeps it from being made.
pub(super) struct Kept<'a> {
    _stores: RwLockReadGuard<'a, Stores>,
}

impl WorkingMemory {
    fn read(&self) -> RwLockReadGuard<'_, Stores> {
        self.stores.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Stores> {
        self.stores.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads and authenticates all of it; number and bytes of its entries, if there is one.
pub(super) fn check(
    home: &Path,
    system: &System,
    (id, epoch): (&SpaceId, u32),
    key: &MemoryKey,
) -> Result<Option<(u64, u64)>, Error> {
    let folder = spaces::memory(&spaces::folder(home, id), epoch);
    if !is_there(&folder, is_made(system, id)?)? {
        return Ok(None);
    }
    let memory = open(&folder, key)?;
    memory.verify().map_err(explain)?;
    let (mut after, mut count, mut bytes) = (None::<Vec<u8>>, 0_u64, 0_u64);
    loop {
        let page = memory.page(&[], after.as_deref(), PAGE, 0).map_err(explain)?;
        count = count.saturating_add(page.len() as u64);
        bytes = page.iter().fold(bytes, |sum, entry| sum.saturating_add(entry.value.len() as u64));
        let Some(last) = page.into_iter().next_back() else { return Ok(Some((count, bytes))) };
        after = Some(last.key);
    }
}

fn is_made(system: &System, id: &SpaceId) -> Result<bool, Error> {
    Ok(system.setting(MADE)?.is_some_and(|space| space == id.as_bytes()))
}

/// Whether there is a store in the folder; there must be one once it was made.
fn is_there(folder: &Path, made: bool) -> Result<bool, Error> {
    match (folder.join("memory.aico").exists(), made) {
        (false, true) => Err(Error::damaged(WHAT, "it is missing")),
        (there, _) => Ok(there),
    }
}

fn open(folder: &Path, key: &MemoryKey) -> Result<Memory, Error> {
    key.hazmat_lent_to_rocksdb(|key| Memory::open(folder, key, &Limits::default())).map_err(explain)
}

fn copy_all(from: &Memory, to: &Memory) -> Result<(), Error> {
    let mut after = None::<Vec<u8>>;
    loop {
        let page = from.page(&[], after.as_deref(), PAGE, 0).map_err(explain)?;
        put_page(to, &page)?;
        let Some(last) = page.into_iter().next_back() else { return Ok(()) };
        after = Some(last.key);
    }
}

/// The last one of a page may be as long as all that is put at once.
fn put_page(to: &Memory, page: &[Entry]) -> Result<(), Error> {
    let Some((last, before)) = page.split_last() else { return Ok(()) };
    to.put_all(before).and_then(|()| to.put_all(std::slice::from_ref(last))).map_err(explain)
}

fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", folder, source)),
        _ => durable::sync_folder_of(folder),
    }
}

const WHAT: &str = "the working memory";

fn explain(error: MemoryError) -> Error {
    let text = error.to_string();
    match error {
        MemoryError::Damaged { file } => Error::damaged(WHAT, format!("`{file}` is not as it was written, or missing")),
        MemoryError::WrongKey => Error::damaged(WHAT, text),
        MemoryError::Full => Error::Full { what: WHAT.to_owned() },
        MemoryError::TooLong => Error::Refused("an entry of the working memory has at most 1 MiB"),
        MemoryError::Io(source) => Error::failed(text, source),
    }
}
