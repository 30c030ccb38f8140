//! A consistent, encrypted copy of a vault that is in use (`docs/spec/vault-stores.md`, A copy).

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Instant;

use aico_policy::{Action, Permit};

use super::{HEADER, Unlocked, Vault, spaces};
use crate::system::System;
use crate::{Error, durable};

/// Where a copy is gathered, on the same disk as what it is of.
pub(super) const GATHERED: &str = "copy.part";
/// Bytes that are read at a time.
const PIECE: usize = 256 * 1024;

/// A copy on its way out: one permit, one operation. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct Copy<'a> {
    state: &'a Unlocked,
    permit: Permit,
    began: Instant,
    folder: PathBuf,
    files: VecDeque<(String, u64)>,
    bytes: u64,
    whole: bool,
}

/// One file of a copy.
#[derive(Debug)]
pub struct CopiedFile {
    /// Its path below the copy's folder, with slashes. The header is the last one: without it nothing opens.
    pub path: String,
    /// Its length.
    pub bytes: u64,
    file: File,
}

impl Vault<Unlocked> {
    /// Gathers a copy of everything that is stored, as it is at one moment, and of the log up to then. This device's
    /// identity, who is enrolled, and what this machine keeps to open the vault are not in it.
    ///
    /// # Errors
    /// [`Error::Refused`] where there is neither a password nor a confirmed recovery code: nothing would open the copy.
    pub fn copy(&self, permit: Permit, now_ms: u64, go_on: &mut dyn FnMut() -> bool) -> Result<Copy<'_>, Error> {
        self.redeem(&permit, Action::Backup)?;
        let folder = self.state.places.home.join(GATHERED);
        let (files, bytes, whole) = (VecDeque::new(), 0, false);
        let mut copy = Copy { state: &self.state, permit, began: Instant::now(), folder, files, bytes, whole };
        self.state.gather(&copy.folder, now_ms, go_on)?;
        list(&copy.folder, "", &mut copy.files)?;
        // What makes a vault of it comes last.
        copy.files.retain(|(path, _)| path != HEADER);
        let header =
            fs::metadata(copy.folder.join(HEADER)).map_err(|source| Error::io("reading", &copy.folder, source))?;
        copy.files.push_back((HEADER.to_owned(), header.len()));
        Ok(copy)
    }
}

impl Unlocked {
    fn gather(&self, folder: &Path, now_ms: u64, go_on: &mut dyn FnMut() -> bool) -> Result<(), Error> {
        // One copy at a time, and no new keys meanwhile.
        let _nothing_else = self.rotating.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        remove(folder)?;
        durable::create_folder(folder)?;
        // The files of the tree change in their places.
        let _not_mounted =
            self.take_mount().map_err(|_| Error::Refused("files are mounted: unmount them, then copy the vault"))?;
        let (owner, mut pages) = (self.owner(), |_, _| go_on());
        // Nothing is forgotten between the one store and the other.
        let _kept = owner.keys().hold();
        let (id, epoch) = self.system.owner_epoch()?;
        let space = spaces::folder(folder, &id);
        durable::create_folder(&space)?;
        owner.copy_to(&spaces::store(&space, epoch), &space.join("files"), &mut pages)?;
        let tree = spaces::folder(&self.places.home, &id).join("tree");
        if tree.exists() {
            copy_folder(&tree, &space.join("tree"))?;
        }
        let _not_made = self.copy_memory(&space)?;
        // Nor does what opens it change.
        let keys = self.keys();
        let (id, epoch) = keys.header.system_space();
        let space = spaces::folder(folder, &id);
        durable::create_folder(&space)?;
        let strip = |copy: &rusqlite::Connection| System::strip(copy, now_ms);
        self.system.database().copy_to(&spaces::store(&space, epoch), &mut pages, strip)?;
        let header = keys.header.for_a_copy(&keys.root)?;
        drop(keys);
        let config = self.places.home.join("security.yaml");
        if config.exists() {
            copy_file(&config, &folder.join("security.yaml"))?;
        }
        // Last, so that it holds every entry that a store remembers.
        self.journal.log().while_still(|log| link_log(log, &folder.join("audit")))?;
        header.write(&folder.join(HEADER))
    }

    /// What was copied from another device becomes a device of its own.
    pub(super) fn adopt(&self, now_ms: u64) -> Result<(), Error> {
        let Some(copied_ms) = self.system.copied_ms()? else { return Ok(()) };
        self.system.adopt(&self.keys().root)?;
        let age = now_ms.saturating_sub(copied_ms) / 86_400_000;
        let text = format!(
            "this vault was started from a copy that is {age} days old: it is a device of its own, and whoever was enrolled is not"
        );
        self.tell(now_ms, "vault.from-a-copy", &text)
    }
}

impl Copy<'_> {
    /// Number and bytes of the files that are still to come.
    #[must_use]
    pub fn remaining(&self) -> (u64, u64) {
        (self.files.len() as u64, self.files.iter().map(|(_, bytes)| bytes).sum())
    }

    /// The next file; none at the end.
    pub fn next_file(&mut self) -> Result<Option<CopiedFile>, Error> {
        if self.began.elapsed() > self.permit.bounds().time {
            return Err(Error::Misuse("a copy beyond the bounds of its permit"));
        }
        let Some((path, bytes)) = self.files.pop_front() else {
            self.whole = true;
            return Ok(None);
        };
        let place = self.folder.join(&path);
        let file = durable::open(&place).map_err(|source| Error::io("opening", &place, source))?;
        self.bytes = self.bytes.saturating_add(bytes);
        Ok(Some(CopiedFile { path, bytes, file }))
    }
}

impl CopiedFile {
    /// Puts the next piece into `chunk`; false at the end.
    pub fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> Result<bool, Error> {
        chunk.resize(PIECE, 0);
        let failed = |source| Error::failed(format!("reading the copy of {}", self.path), source);
        let read = self.file.read(chunk).map_err(failed)?;
        chunk.truncate(read);
        Ok(read > 0)
    }
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        let _swept_at_the_next_start = remove(&self.folder);
        let result = if self.whole { Ok(self.bytes) } else { Err("not finished".to_owned()) };
        let permit = &self.permit;
        let _failed_closed = self.state.journal.outcome(permit.event().at_ms, permit.receipt().index, result);
    }
}

/// Removes what was gathered.
pub(super) fn remove(folder: &Path) -> Result<(), Error> {
    match fs::remove_dir_all(folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", folder, source)),
        _ => Ok(()),
    }
}

/// A log's files never change once they have their names, but for its tail.
fn link_log(from: &Path, to: &Path) -> Result<(), Error> {
    durable::create_folder(to)?;
    for entry in entries(from)? {
        let (path, name) = (entry.path(), entry.file_name());
        let target = to.join(&name);
        if path.is_dir() {
            link_log(&path, &target)?;
        } else if name == "tail" {
            copy_file(&path, &target)?;
        } else if !name.to_string_lossy().ends_with(".tmp") {
            durable::link_or_copy(&path, &target)?;
        }
    }
    Ok(())
}

fn copy_folder(from: &Path, to: &Path) -> Result<(), Error> {
    durable::create_folder(to)?;
    for entry in entries(from)? {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() { copy_folder(&path, &target) } else { copy_file(&path, &target) }?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<(), Error> {
    fs::copy(from, to).map(drop).map_err(|source| Error::io("copying", from, source))
}

fn list(folder: &Path, below: &str, files: &mut VecDeque<(String, u64)>) -> Result<(), Error> {
    for entry in entries(folder)? {
        let name = entry.file_name();
        let name = name.to_str().ok_or(Error::Misuse("a file of a copy has a name that is not UTF-8"))?;
        let path = if below.is_empty() { name.to_owned() } else { format!("{below}/{name}") };
        let found = entry.metadata().map_err(|source| Error::io("reading", &entry.path(), source))?;
        if found.is_dir() {
            list(&entry.path(), &path, files)?;
        } else {
            files.push_back((path, found.len()));
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<fs::DirEntry>, Error> {
    let read = || fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>();
    let mut entries = read().map_err(|source| Error::io("listing", folder, source))?;
    entries.sort_by_key(fs::DirEntry::file_name);
    Ok(entries)
}
