//! The durable steps on the log's folder (`docs/spec/audit-log.md`, Order of writes).

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags, fallocate, fdatasync, flock};

use super::layout::{Place, UNFINISHED};
use crate::Error;

/// A step after which the disk differs from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    MakeFolder,
    Write,
    Sync,
    Rename,
    SyncFolder,
    Remove,
    Append,
    SyncTail,
}

/// Asked before every step; an error is the step's error. Tests stop the log there.
pub(super) type Gate = Arc<dyn Fn(Step) -> io::Result<()> + Send + Sync>;

/// The log's folder.
pub(super) struct Disk {
    root: PathBuf,
    gate: Gate,
    /// Folders whose names are known to be on disk.
    settled: Mutex<BTreeSet<PathBuf>>,
}

impl Disk {
    /// The folder `root`, every step allowed.
    pub(super) fn new(root: &Path) -> Self {
        Self::gated(root, Arc::new(|_| Ok(())))
    }

    pub(super) fn gated(root: &Path, gate: Gate) -> Self {
        Self { root: root.into(), gate, settled: Mutex::default() }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Holds the folder against a second writer for as long as the file lives.
    pub(super) fn hold(&self) -> Result<File, Error> {
        let folder = File::open(&self.root).map_err(|e| Error::io("opening", &self.root, e))?;
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(folder),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Held { holder: "another writer of its audit log".into() }),
            Err(e) => Err(Error::io("locking", &self.root, e.into())),
        }
    }

    /// Makes the log's folder, in a folder that exists.
    pub(super) fn make_root(&self) -> Result<(), Error> {
        self.settle_folder(&self.root)
    }

    /// The bytes of a file, or `None` if it is missing; more than `limit` bytes are an error.
    pub(super) fn read(&self, place: Place, limit: usize) -> Result<Option<Vec<u8>>, Error> {
        let path = self.root.join(place.path());
        match read(&path, limit) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => {
                Err(Error::damaged(place.path(), "it is not a file of the right size"))
            }
            Err(e) => Err(Error::io("reading", &path, e)),
        }
    }

    /// Puts `bytes` at `place`, whole and on disk when this returns; returns the file, open for reading and writing.
    pub(super) fn write(&self, place: Place, bytes: &[u8]) -> Result<File, Error> {
        let path = self.root.join(place.path());
        let folder = path.parent().unwrap_or(&self.root);
        self.settle_folder(folder)?;
        let unfinished = self.root.join(place.path() + UNFINISHED);
        let written = self.write_and_rename(&unfinished, &path, bytes);
        if written.is_err() {
            self.remove(&unfinished).ok();
        }
        let file = written.map_err(|e| Error::io("writing", &path, e))?;
        self.sync_folder(folder)?;
        Ok(file)
    }

    fn write_and_rename(&self, unfinished: &Path, path: &Path, bytes: &[u8]) -> io::Result<File> {
        self.pass(Step::Write)?;
        let mut options = OpenOptions::new();
        let mut file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(unfinished)?;
        file.write_all(bytes)?;
        self.pass(Step::Sync)?;
        file.sync_all()?;
        self.pass(Step::Rename)?;
        fs::rename(unfinished, path)?;
        Ok(file)
    }

    /// The tail as it stands, cut to `len` bytes and on disk when this returns: for a disk without space for a new one.
    pub(super) fn keep_tail(&self, len: u64) -> Result<File, Error> {
        let path = self.root.join(Place::Tail.path());
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| self.tail_error(e))?;
        // Setting a length, even the same, gives reserved space back.
        if file.metadata().map_err(|e| self.tail_error(e))?.len() != len {
            self.pass(Step::Append).and_then(|()| file.set_len(len)).map_err(|e| self.tail_error(e))?;
        }
        self.sync_tail(&file)?;
        Ok(file)
    }

    /// Writes behind the end of the tail.
    pub(super) fn append(&self, tail: &File, end: u64, bytes: &[u8]) -> Result<(), Error> {
        let written = self.pass(Step::Append).and_then(|()| tail.write_all_at(bytes, end));
        written.map_err(|e| self.tail_error(e))
    }

    /// Puts what was appended on disk.
    pub(super) fn sync_tail(&self, tail: &File) -> Result<(), Error> {
        let synced = self.pass(Step::SyncTail).and_then(|()| Ok(fdatasync(tail)?));
        synced.map_err(|e| self.tail_error(e))
    }

    /// Asks for disk space up to `end` without changing the file's length; whether it was given.
    pub(super) fn reserve(&self, tail: &File, end: u64) -> bool {
        fallocate(tail, FallocateFlags::KEEP_SIZE, 0, end).is_ok()
    }

    /// Removes an unfinished file that a stopped write left.
    pub(super) fn remove_unfinished(&self, place: Place) -> Result<(), Error> {
        let path = self.root.join(place.path() + UNFINISHED);
        self.remove(&path).map_err(|e| Error::io("removing", &path, e))
    }

    /// Removes everything from a folder but the file named `keep`, and the folder itself if nothing is kept.
    pub(super) fn clear_folder(&self, folder: &str, keep: Option<&str>) -> Result<(), Error> {
        let folder = self.root.join(folder);
        self.clear(&folder, keep).map_err(|e| Error::io("clearing", &folder, e))
    }

    fn clear(&self, folder: &Path, keep: Option<&str>) -> io::Result<()> {
        let Some(files) = present(fs::read_dir(folder))? else { return Ok(()) };
        for file in files {
            let file = file?;
            if keep.is_none_or(|keep| file.file_name() != keep) {
                self.remove(&file.path())?;
            }
        }
        if keep.is_some() {
            return self.sync(folder);
        }
        self.pass(Step::Remove)?;
        fs::remove_dir(folder)?;
        self.settled().remove(folder);
        self.sync(folder.parent().unwrap_or(folder))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.pass(Step::Remove)?;
        present(fs::remove_file(path)).map(|_| ())
    }

    /// Makes sure that a folder inside the log's exists and that its name is on disk, once for every folder.
    fn settle_folder(&self, folder: &Path) -> Result<(), Error> {
        if self.settled().contains(folder) {
            return Ok(());
        }
        let parent = folder.parent().unwrap_or(folder);
        if folder != self.root {
            self.settle_folder(parent)?;
        }
        if !folder.is_dir() {
            let made = self.pass(Step::MakeFolder).and_then(|()| DirBuilder::new().mode(0o700).create(folder));
            made.map_err(|e| Error::io("making", folder, e))?;
        }
        self.sync_folder(parent)?;
        self.settled().insert(folder.into());
        Ok(())
    }

    fn settled(&self) -> MutexGuard<'_, BTreeSet<PathBuf>> {
        self.settled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sync_folder(&self, folder: &Path) -> Result<(), Error> {
        self.sync(folder).map_err(|e| Error::io("syncing", folder, e))
    }

    fn sync(&self, folder: &Path) -> io::Result<()> {
        self.pass(Step::SyncFolder)?;
        File::open(folder)?.sync_all()
    }

    fn tail_error(&self, source: io::Error) -> Error {
        Error::io("writing", &self.root.join(Place::Tail.path()), source)
    }

    fn pass(&self, step: Step) -> io::Result<()> {
        (self.gate)(step)
    }
}

/// Reads a regular file of at most `limit` bytes; never follows a link, never waits on a pipe.
fn read(path: &Path, limit: usize) -> io::Result<Vec<u8>> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::LOOP) => return Err(io::ErrorKind::InvalidData.into()),
        Err(e) => return Err(e.into()),
    };
    let mut bytes = Vec::new();
    if file.metadata()?.is_file() {
        file.take(limit as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() <= limit {
            return Ok(bytes);
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// What is not there is no error.
fn present<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
