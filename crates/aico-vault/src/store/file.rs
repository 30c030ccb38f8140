//! Chunked files (`docs/spec/vault-stores.md`, Chunked files).

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use aico_crypto::{CHUNK_BYTES, FileWrapKey, OsRandom, Random, TAG_BYTES};

use crate::{Error, durable};

mod reader;
mod writer;

pub(crate) use reader::FileReader;
pub(crate) use writer::{FileWriter, FinishedFile};

const MAGIC: [u8; 8] = *b"AICOFIL1";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 44;
const UNFINISHED: &str = ".part";

/// A file's random name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FileId([u8; 16]);

impl FileId {
    /// Takes the 16 bytes as they stand in a row.
    #[must_use]
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    #[must_use]
    pub(crate) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    pub(super) fn make() -> Result<Self, Error> {
        let mut id = [0; 16];
        OsRandom.fill(&mut id)?;
        Ok(Self(id))
    }

    /// Reads what `Display` writes.
    pub(super) fn parse(digits: &str) -> Option<Self> {
        let id = Self(u128::from_str_radix(digits, 16).ok()?.to_be_bytes());
        (id.to_string() == digits).then_some(id)
    }
}

impl fmt::Display for FileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The folder of a space's chunked files.
#[derive(Debug)]
pub(crate) struct FileStore {
    folder: PathBuf,
    space: [u8; 16],
}

impl FileStore {
    /// Opens the folder, or makes it; the folder above must exist.
    pub(crate) fn open(folder: &Path, space: [u8; 16]) -> Result<Self, Error> {
        ensure_folder(folder)?;
        Ok(Self::at(folder, space))
    }

    /// The folder as it is, to read from.
    pub(crate) fn at(folder: &Path, space: [u8; 16]) -> Self {
        Self { folder: folder.to_owned(), space }
    }

    /// Begins a file of unknown length; its key will be wrapped by `wrap`.
    pub(crate) fn create(&self, wrap: &FileWrapKey) -> Result<FileWriter, Error> {
        let id = FileId::make()?;
        FileWriter::make(&self.path(&id), self.header(&id), id, wrap)
    }

    /// Opens a file for reading. `wrapped_key` and `bytes`, the length of its content, come from its row.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is no such file; [`Error::Damaged`] when it is not the one that was written.
    pub(crate) fn read(
        &self,
        id: &FileId,
        wrapped_key: &[u8],
        bytes: u64,
        wrap: &FileWrapKey,
    ) -> Result<FileReader, Error> {
        let path = self.path(id);
        let Ok(key) = wrap.unwrap_file(wrapped_key, id.as_bytes()) else {
            return Err(Error::damaged(path.display().to_string(), "its key does not unwrap"));
        };
        FileReader::open(path, &self.header(id), &key, bytes)
    }

    /// Gives a file a second name, in another folder of the same form.
    pub(crate) fn link(&self, id: &FileId, other: &Self) -> Result<(), Error> {
        let (from, to) = (self.path(id), other.path(id));
        if let Some(folder) = to.parent() {
            ensure_folder(folder)?;
        }
        durable::link_or_copy(&from, &to)
    }

    /// Removes a file; one that is not there is no error.
    pub(crate) fn remove(&self, id: &FileId) -> Result<(), Error> {
        remove_if_there(&self.path(id))
    }

    /// Removes every unfinished file and every file that is not in `known`, and returns how many. To be called while nobody
    /// writes. Files that this program did not name stay.
    pub(crate) fn sweep(&self, known: &HashSet<FileId>) -> Result<usize, Error> {
        let mut removed = 0;
        for folder in entries(&self.folder)?.into_iter().filter(|path| is_folder(path)) {
            for path in entries(&folder)? {
                if is_ours(&path).is_some_and(|id| id.is_none_or(|id| !known.contains(&id))) {
                    remove_if_there(&path)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    fn path(&self, id: &FileId) -> PathBuf {
        let digits = id.to_string();
        let (front, _) = digits.split_at(2);
        self.folder.join(front).join(&digits)
    }

    fn header(&self, id: &FileId) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let fields = MAGIC.into_iter().chain(VERSION.to_be_bytes()).chain(id.0).chain(self.space);
        header.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        header
    }
}

/// `Some(Some(id))`: a finished file; `Some(None)`: an unfinished one; `None`: a name that is not ours.
pub(super) fn is_ours(path: &Path) -> Option<Option<FileId>> {
    let name = path.file_name()?.to_str()?;
    match name.strip_suffix(UNFINISHED) {
        Some(digits) => FileId::parse(digits).map(|_| None),
        None => FileId::parse(name).map(Some),
    }
}

/// Chunks of a file with `bytes` of content.
fn chunk_count(bytes: u64) -> u64 {
    bytes.div_ceil(CHUNK_BYTES as u64).max(1)
}

/// Size on disk of a file with `bytes` of content.
fn sealed_bytes(bytes: u64) -> Option<u64> {
    let tags = chunk_count(bytes).checked_mul(TAG_BYTES as u64)?;
    bytes.checked_add(tags)?.checked_add(HEADER_BYTES as u64)
}

/// Makes a folder that is on disk, or finds it.
pub(super) fn ensure_folder(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(source) => Err(Error::io("creating", path, source)),
        Ok(()) => sync_folder_of(path),
    }
}

pub(super) fn sync_folder_of(path: &Path) -> Result<(), Error> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| Error::io("syncing", folder, source))
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Error::io("removing", path, source)),
        _ => Ok(()),
    }
}

/// Links are left alone.
pub(super) fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| found.is_dir())
}

pub(super) fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<_>>();
    read().map_err(|source| Error::io("listing", folder, source))
}

#[cfg(test)]
mod tests;
