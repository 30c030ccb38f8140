//! Sealed files that are read and written in any order, block by block (`docs/spec/tree.md`, Sealed files).

use std::collections::HashSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aico_crypto::{BLOCK_BYTES, BlockCipher, FileKey, FileWrapKey, OsRandom, SEALED_BLOCK_BYTES, WRAPPED_BYTES};
use rustix::fs::OFlags;

use super::FileId;
use super::file::{ensure_folder, entries, is_folder, is_ours, remove_if_there, sync_folder_of};
use crate::Error;

const MAGIC: [u8; 8] = *b"AICOBLK1";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 44;
/// Blocks that are written or read by one call of the system.
const AT_ONCE: usize = 256;

/// The folder of a space's sealed files.
#[derive(Debug)]
pub(crate) struct BlockStore {
    folder: PathBuf,
    space: [u8; 16],
}

/// A sealed file that was made just now, and its key.
#[derive(Debug)]
pub(crate) struct NewFile {
    pub(crate) file: BlockFile,
    pub(crate) id: FileId,
    pub(crate) wrapped_key: [u8; WRAPPED_BYTES],
}

impl BlockStore {
    /// Opens the folder, or makes it and those in it; the folder above must exist.
    pub(crate) fn open(folder: &Path, space: [u8; 16]) -> Result<Self, Error> {
        let store = Self::at(folder, space);
        if !store.shard(u8::MAX).is_dir() {
            ensure_folder(folder)?;
            (0..=u8::MAX).try_for_each(|number| make_folder(&store.shard(number)))?;
            sync_folder_of(&store.shard(0))?;
        }
        Ok(store)
    }

    /// The folder as it is, to read from.
    pub(crate) fn at(folder: &Path, space: [u8; 16]) -> Self {
        Self { folder: folder.to_owned(), space }
    }

    /// Makes an empty file with a key of its own, wrapped by `wrap`. Neither it nor its name is on disk before
    /// [`BlockFile::publish`].
    pub(crate) fn create(&self, wrap: &FileWrapKey) -> Result<NewFile, Error> {
        let (id, key) = (FileId::make()?, FileKey::make(&OsRandom)?);
        let (path, header) = (self.path(&id), self.header(&id));
        let failed = |source| Error::io("creating", &path, source);
        // `create_new` is O_EXCL, which follows no link.
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = match options.open(&path) {
            // A power cut came when the folders had just been made.
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                path.parent().map_or(Ok(()), ensure_folder)?;
                options.open(&path)
            }
            made => made,
        }
        .map_err(failed)?;
        file.write_all_at(&header, 0).map_err(failed)?;
        let wrapped_key = wrap.wrap_file(&key, id.as_bytes(), &OsRandom)?;
        Ok(NewFile { file: BlockFile { file, path, cipher: key.block_cipher(&header)? }, id, wrapped_key })
    }

    /// Opens a file.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not there, or not the one that was written.
    pub(crate) fn file(&self, id: &FileId, wrapped_key: &[u8], wrap: &FileWrapKey) -> Result<BlockFile, Error> {
        let (path, header) = (self.path(id), self.header(id));
        let damaged = |detail| Error::damaged(path.display().to_string(), detail);
        let key = wrap.unwrap_file(wrapped_key, id.as_bytes()).map_err(|_| damaged("its key does not unwrap"))?;
        // Follows no link at the name, and does not wait where somebody put a pipe.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = match OpenOptions::new().read(true).write(true).custom_flags(flags).open(&path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Err(damaged("it is missing")),
            other => other.map_err(|source| Error::io("opening", &path, source))?,
        };
        let mut found = [0; HEADER_BYTES];
        match file.read_exact_at(&mut found, 0) {
            Ok(()) => {}
            Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => return Err(damaged("it was cut")),
            Err(source) => return Err(Error::io("reading", &path, source)),
        }
        check_header(&path, &found, &header)?;
        let cipher = key.block_cipher(&header)?;
        Ok(BlockFile { file, path, cipher })
    }

    /// Removes a file; one that is not there is no error.
    pub(crate) fn remove(&self, id: &FileId) -> Result<(), Error> {
        remove_if_there(&self.path(id))
    }

    /// Removes every file that is not in `known`, and returns how many. To be called while nobody writes. Files that this
    /// program did not name stay.
    pub(crate) fn sweep(&self, known: &HashSet<FileId>) -> Result<usize, Error> {
        let mut removed = 0;
        for folder in entries(&self.folder)?.into_iter().filter(|path| is_folder(path)) {
            for path in entries(&folder)? {
                if matches!(is_ours(&path), Some(Some(id)) if !known.contains(&id)) {
                    remove_if_there(&path)?;
                    removed += 1;
                }
            }
        }
        Ok(removed)
    }

    /// Brings everything that was written to any of the files to disk, and their names.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        let failed = |source| Error::io("syncing", &self.folder, source);
        let folder = File::open(&self.folder).map_err(failed)?;
        rustix::fs::syncfs(&folder).map_err(|errno| failed(errno.into()))
    }

    /// The folder itself, for asking how much room there is.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn shard(&self, number: u8) -> PathBuf {
        self.folder.join(format!("{number:02x}"))
    }

    fn path(&self, id: &FileId) -> PathBuf {
        let mut path = self.shard(id.as_bytes().first().copied().unwrap_or_default());
        path.push(id.to_string());
        path
    }

    fn header(&self, id: &FileId) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        let fields = MAGIC.into_iter().chain(VERSION.to_be_bytes()).chain(*id.as_bytes()).chain(self.space);
        header.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
        header
    }
}

fn make_folder(path: &Path) -> Result<(), Error> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => Err(Error::io("creating", path, source)),
        _ => Ok(()),
    }
}

fn check_header(path: &Path, found: &[u8; HEADER_BYTES], wanted: &[u8; HEADER_BYTES]) -> Result<(), Error> {
    let damaged = |detail| Err(Error::damaged(path.display().to_string(), detail));
    match found.split_first_chunk::<8>() {
        Some((magic, rest)) if *magic == MAGIC => {
            let found = rest.first_chunk().map_or(0, |version| u32::from_be_bytes(*version));
            if found > VERSION {
                let what = path.display().to_string();
                return Err(Error::Newer { what, found, known: VERSION, needs: None });
            }
        }
        _ => return damaged("it does not begin as such a file does"),
    }
    if found == wanted { Ok(()) } else { damaged("it is another file's content") }
}

/// An open sealed file. It goes on when the file is removed meanwhile.
#[derive(Debug)]
pub(crate) struct BlockFile {
    file: File,
    path: PathBuf,
    cipher: BlockCipher,
}

impl BlockFile {
    /// Fills `out`, whole blocks, with those from `first` on. `sealed` is room to work in.
    ///
    /// # Errors
    /// [`Error::Damaged`] when a block is missing or not what was written there.
    pub(crate) fn read(&self, first: u64, out: &mut [u8], sealed: &mut Vec<u8>) -> Result<(), Error> {
        let mut index = first;
        for out in out.chunks_mut(AT_ONCE * BLOCK_BYTES) {
            let count = out.len() / BLOCK_BYTES;
            let sealed = room(sealed, count)?;
            match self.file.read_exact_at(sealed, offset(index)?) {
                Ok(()) => {}
                Err(source) if source.kind() == io::ErrorKind::UnexpectedEof => return Err(self.damaged("it was cut")),
                Err(source) => return Err(Error::io("reading", &self.path, source)),
            }
            let opened = self.cipher.open(index, sealed, out);
            opened.map_err(|_| self.damaged("a block is not what was written there"))?;
            index = index.saturating_add(count as u64);
        }
        Ok(())
    }

    /// Writes whole blocks from `first` on.
    pub(crate) fn write(&self, first: u64, blocks: &[u8], sealed: &mut Vec<u8>) -> Result<(), Error> {
        let mut index = first;
        for blocks in blocks.chunks(AT_ONCE * BLOCK_BYTES) {
            let count = blocks.len() / BLOCK_BYTES;
            let sealed = room(sealed, count)?;
            self.cipher.seal(index, blocks, sealed, &OsRandom)?;
            let written = self.file.write_all_at(sealed, offset(index)?);
            written.map_err(|source| Error::io("writing", &self.path, source))?;
            index = index.saturating_add(count as u64);
        }
        Ok(())
    }

    /// Brings what was written to disk.
    pub(crate) fn sync(&self) -> Result<(), Error> {
        self.file.sync_data().map_err(|source| Error::io("syncing", &self.path, source))
    }

    /// The same, with the name of a new file.
    pub(crate) fn publish(&self) -> Result<(), Error> {
        self.sync()?;
        sync_folder_of(&self.path)
    }

    /// Gives back the room behind `blocks` blocks.
    pub(crate) fn trim(&self, blocks: u64) -> Result<(), Error> {
        let failed = |source| Error::io("cutting", &self.path, source);
        let wanted = offset(blocks)?;
        match self.file.metadata().map_err(failed)?.len() {
            there if there > wanted => self.file.set_len(wanted).map_err(failed),
            _ => Ok(()),
        }
    }

    fn damaged(&self, detail: &str) -> Error {
        Error::damaged(self.path.display().to_string(), detail)
    }
}

fn room(sealed: &mut Vec<u8>, count: usize) -> Result<&mut [u8], Error> {
    let wanted = count.saturating_mul(SEALED_BLOCK_BYTES);
    if sealed.len() < wanted {
        sealed.resize(wanted, 0);
    }
    sealed.get_mut(..wanted).ok_or(Error::Misuse("no room for blocks"))
}

/// Where a block begins.
fn offset(index: u64) -> Result<u64, Error> {
    let before = index.checked_mul(SEALED_BLOCK_BYTES as u64);
    before.and_then(|before| before.checked_add(HEADER_BYTES as u64)).ok_or(Error::Misuse("a block beyond all files"))
}

#[cfg(test)]
mod tests;
