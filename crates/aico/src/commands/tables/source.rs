//! The files of a database that is imported: opened to be read, kept still meanwhile, and removed when asked.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use aico_ffi_reader::{Part, Source};
use rustix::fs::{FlockOperation, fcntl_lock};
use rustix::io::Errno;

use super::Trouble;
use crate::error::Error;

/// What SQLite appends to a database's name.
const BESIDE: [&str; 3] = ["-wal", "-journal", "-shm"];

/// A database file, with the journal and log beside it.
#[derive(Debug)]
pub(crate) struct Files {
    path: PathBuf,
    database: File,
    journal: Option<File>,
    wal: Option<File>,
    // Held for its lock.
    _index: Option<File>,
    seen: Vec<Option<Stamp>>,
}

/// What changes when a file is written or put in another's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp([i64; 4], u64, u64, u64);

impl Files {
    /// Opens them for reading. As long as they are open no program that keeps SQLite's locks writes to them; one that is about
    /// to is an error.
    pub(crate) fn open(path: &Path) -> Result<Self, Error> {
        let failed = |error| Error::io(format!("open {}", path.display()), error);
        let path = path.canonicalize().map_err(failed)?;
        if !fs::metadata(&path).map_err(failed)?.is_file() {
            return Err(Error::Usage(format!("`{}` is not a file", path.display())));
        }
        let database = File::open(&path).map_err(failed)?;
        let [wal, journal, index] = BESIDE.map(|end| beside(&path, end)).map(|path| match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        });
        let (wal, journal, index) = (wal.map_err(failed)?, journal.map_err(failed)?, index.map_err(failed)?);
        // Every byte of both, among them those that a writer locks: in the file, or in the index of its log.
        for file in [Some(&database), index.as_ref()].into_iter().flatten() {
            // On a file system without locks, what changes is still noticed.
            if let Err(Errno::AGAIN | Errno::ACCESS) = fcntl_lock(file, FlockOperation::NonBlockingLockShared) {
                return Err(Trouble::Busy(path).into());
            }
        }
        let seen = stamps(&path);
        Ok(Self { path, database, journal, wal, _index: index, seen })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fails if anything of it was written since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        if stamps(&self.path) == self.seen { Ok(()) } else { Err(Trouble::Changed(self.path.clone()).into()) }
    }

    /// Removes them, if they are what they were. The database goes first: if that fails nothing was changed.
    pub(crate) fn remove(self) -> Result<(), Error> {
        self.check_unchanged()?;
        let failed = |path: &Path| {
            let what = format!("remove {}", path.display());
            move |error| Error::io(what, error)
        };
        fs::remove_file(&self.path).map_err(failed(&self.path))?;
        for path in BESIDE.map(|end| beside(&self.path, end)) {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&path)(error)),
                _ => {}
            }
        }
        Ok(())
    }

    fn file(&self, part: Part) -> Option<&File> {
        match part {
            Part::Database => Some(&self.database),
            Part::Journal => self.journal.as_ref(),
            Part::Wal => self.wal.as_ref(),
        }
    }
}

/// One more file of a source.
#[derive(Debug)]
pub(crate) struct Kept(PathBuf, Option<Stamp>);

impl Kept {
    pub(crate) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path)?;
        Ok(Self(path.to_owned(), stamp(path)))
    }

    pub(crate) fn check_unchanged(&self) -> Result<(), Error> {
        if stamp(&self.0) == self.1 { Ok(()) } else { Err(Trouble::Changed(self.0.clone()).into()) }
    }

    pub(crate) fn remove(self) -> Result<(), Error> {
        fs::remove_file(&self.0).map_err(|error| Error::io(format!("remove {}", self.0.display()), error))
    }
}

impl Source for Files {
    fn read(&self, part: Part, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let Some(file) = self.file(part) else { return Ok(0) };
        let mut there = 0;
        while let Some(rest) = out.get_mut(there..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + there as u64) {
                Ok(0) => break,
                Ok(more) => there += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(there)
    }

    fn length(&self, part: Part) -> io::Result<Option<u64>> {
        self.file(part).map(|file| Ok(file.metadata()?.len())).transpose()
    }
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name: OsString = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Of the database, its log and its journal; the index of a log is no content.
fn stamps(path: &Path) -> Vec<Option<Stamp>> {
    ["", "-wal", "-journal"].map(|end| stamp(&beside(path, end))).to_vec()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    let times = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
    Some(Stamp(times, found.dev(), found.ino(), found.len()))
}
