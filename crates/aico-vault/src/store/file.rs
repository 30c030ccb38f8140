//! Values above 1 MiB: files in authenticated chunks (`docs/spec/vault-stores.md`, Chunked files).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aico_crypto::{CHUNK_BYTES, ChunkCipher, FileKey, SEALED_CHUNK_BYTES};

use crate::header::SpaceId;
use crate::{Error, durable};

const MAGIC: &[u8; 8] = b"AICOFIL1";
/// Magic, file id, space id.
pub(crate) const HEADER_BYTES: usize = 8 + 16 + 16;
const PART: &str = "part";

/// A file's random name.
pub(crate) type FileId = [u8; 16];

fn header(id: &FileId, space: &SpaceId) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    let fields = MAGIC.iter().chain(id).chain(space.as_bytes());
    out.iter_mut().zip(fields).for_each(|(to, from)| *to = *from);
    out
}

/// `<folder>/<first 2 digits>/<32 digits>`.
pub(crate) fn path(folder: &Path, id: &FileId) -> PathBuf {
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (first, _) = digits.split_at(2);
    folder.join(first).join(&digits)
}

/// A file on its way to disk, under a name that ends in `.part`. Dropped unfinished, it is removed.
#[derive(Debug)]
pub(crate) struct FileWriter {
    file: File,
    target: PathBuf,
    cipher: ChunkCipher,
    chunk: Vec<u8>,
    index: u64,
    finished: bool,
}

impl FileWriter {
    pub(crate) fn create(folder: &Path, id: &FileId, space: &SpaceId, key: &FileKey) -> Result<Self, Error> {
        let target = path(folder, id);
        durable::create_folder(target.parent().unwrap_or(folder))?;
        let header = header(id, space);
        let part = target.with_extension(PART);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part);
        let file = file.map_err(|source| Error::io("making", &part, source))?;
        let chunk = Vec::with_capacity(SEALED_CHUNK_BYTES);
        let mut this = Self { file, target, cipher: key.chunk_cipher(&header)?, chunk, index: 0, finished: false };
        this.put(&header)?;
        Ok(this)
    }

    pub(crate) fn write(&mut self, mut data: &[u8]) -> Result<(), Error> {
        while !data.is_empty() {
            // The last chunk is sealed as the last, so a full one waits until more comes.
            if self.chunk.len() == CHUNK_BYTES {
                self.seal(false)?;
            }
            let (now, later) = data.split_at(data.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            data = later;
        }
        Ok(())
    }

    /// Puts the rest on disk and gives the file its name, durably.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        self.seal(true)?;
        self.file.sync_all().map_err(|source| Error::io("syncing", &self.target, source))?;
        durable::rename(&self.target.with_extension(PART), &self.target)?;
        self.finished = true;
        Ok(())
    }

    fn seal(&mut self, last: bool) -> Result<(), Error> {
        self.cipher.seal(self.index, last, &mut self.chunk)?;
        let chunk = std::mem::take(&mut self.chunk);
        self.put(&chunk)?;
        self.chunk = chunk;
        self.chunk.clear();
        self.index += 1;
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.file.write_all(bytes).map_err(|source| Error::io("writing", &self.target, source))
    }
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        if !self.finished {
            // What cannot be removed now is swept at the next start.
            let _swept_later = fs::remove_file(self.target.with_extension(PART));
        }
    }
}

/// Reads a file from front to back.
#[derive(Debug)]
pub(crate) struct FileReader {
    file: File,
    path: PathBuf,
    cipher: ChunkCipher,
    index: u64,
    /// Plaintext bytes that are still to come.
    left: u64,
}

impl FileReader {
    /// Opens the file, which must hold exactly `bytes` of plaintext.
    pub(crate) fn open(folder: &Path, id: &FileId, space: &SpaceId, key: &FileKey, bytes: u64) -> Result<Self, Error> {
        let path = path(folder, id);
        let mut file = durable::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => damaged(&path, "it is missing"),
            _ => Error::io("opening", &path, source),
        })?;
        let expected = header(id, space);
        let mut found = [0; HEADER_BYTES];
        let read = file.read_exact(&mut found).and_then(|()| file.metadata());
        let length = read.map_err(|source| reading(&path, source))?.len();
        if found != expected {
            return Err(damaged(&path, "its header is another file's"));
        }
        if length != sealed_bytes(bytes) {
            return Err(damaged(&path, "its length is wrong"));
        }
        Ok(Self { file, path, cipher: key.chunk_cipher(&expected)?, index: 0, left: bytes })
    }

    /// Puts the next 64 KiB into `chunk`, or the rest; false once there is no more.
    pub(crate) fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> Result<bool, Error> {
        chunk.clear();
        if self.left == 0 {
            return Ok(false);
        }
        let plain = self.left.min(CHUNK_BYTES as u64);
        let last = plain == self.left;
        chunk.resize(plain as usize + SEALED_CHUNK_BYTES - CHUNK_BYTES, 0);
        self.file.read_exact(chunk).map_err(|source| reading(&self.path, source))?;
        if self.cipher.open(self.index, last, chunk).is_err() {
            chunk.clear();
            return Err(damaged(&self.path, &format!("chunk {} is not what was written there", self.index)));
        }
        self.index += 1;
        self.left -= plain;
        Ok(true)
    }
}

/// Bytes on disk of a file with `plain` bytes of plaintext.
fn sealed_bytes(plain: u64) -> u64 {
    let chunks = plain.div_ceil(CHUNK_BYTES as u64).max(1);
    HEADER_BYTES as u64 + plain + chunks * (SEALED_CHUNK_BYTES - CHUNK_BYTES) as u64
}

fn reading(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::UnexpectedEof => damaged(path, "it was cut"),
        _ => Error::io("reading", path, source),
    }
}

fn damaged(path: &Path, detail: &str) -> Error {
    Error::damaged(path.display().to_string(), detail)
}

/// Removes every file in `folder` that `keep` does not want, and every unfinished one.
pub(crate) fn sweep(folder: &Path, keep: impl Fn(&FileId) -> bool) -> Result<usize, Error> {
    let mut removed = 0;
    for shelf in entries(folder)? {
        if !shelf.is_dir() {
            continue;
        }
        for file in entries(&shelf)? {
            if !file_id(&file).is_some_and(|id| keep(&id)) {
                fs::remove_file(&file).map_err(|source| Error::io("removing", &file, source))?;
                removed += 1;
            }
        }
    }
    Ok(removed)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let wrap = |source| Error::io("listing", folder, source);
    fs::read_dir(folder).map_err(wrap)?.map(|entry| entry.map(|e| e.path()).map_err(wrap)).collect()
}

fn file_id(path: &Path) -> Option<FileId> {
    let name = path.file_name()?.to_str()?;
    let mut id = [0; 16];
    let (pairs, rest) = name.as_bytes().as_chunks::<2>();
    if pairs.len() != id.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}
