use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aico_crypto::{CHUNK_BYTES, ChunkCipher, FileKey, SEALED_CHUNK_BYTES, TAG_BYTES};
use rustix::fs::OFlags;

use super::{HEADER_BYTES, MAGIC, VERSION, chunk_count, sealed_bytes};
use crate::Error;

/// A file being read, chunk by chunk. It goes on when the file is removed meanwhile.
#[derive(Debug)]
pub(crate) struct FileReader {
    file: File,
    path: PathBuf,
    cipher: ChunkCipher,
    bytes: u64,
    next: u64,
}

impl FileReader {
    pub(super) fn open(path: PathBuf, header: &[u8; HEADER_BYTES], key: &FileKey, bytes: u64) -> Result<Self, Error> {
        let file = match open_file(&path) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Err(Error::NotFound),
            other => other.map_err(|source| Error::io("opening", &path, source))?,
        };
        let found = file.metadata().map_err(|source| Error::io("opening", &path, source))?;
        let reader = Self { file, path, cipher: key.chunk_cipher(header)?, bytes, next: 0 };
        if !found.is_file() {
            return Err(reader.damaged("it is not a file"));
        }
        reader.check_header(header)?;
        if sealed_bytes(bytes) != Some(found.len()) {
            return Err(reader.damaged("it does not have its length"));
        }
        Ok(reader)
    }

    /// Replaces `out` with the next chunk, at most 64 KiB; `Ok(false)` and nothing in it at the end.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the chunk is not what was written there; `out` is then empty.
    pub(crate) fn read_chunk(&mut self, out: &mut Vec<u8>) -> Result<bool, Error> {
        out.clear();
        if self.next >= chunk_count(self.bytes) {
            return Ok(false);
        }
        let result = self.fill(out);
        if result.is_err() {
            out.clear();
        }
        result.map(|()| true)
    }

    #[cfg(test)]
    /// Goes to a chunk, counted from 0; the next [`FileReader::read_chunk`] reads it.
    ///
    /// # Errors
    /// [`Error::Misuse`] behind the last chunk.
    pub(crate) fn seek_chunk(&mut self, index: u64) -> Result<(), Error> {
        if index >= chunk_count(self.bytes) {
            return Err(Error::Misuse("a chunk behind the end of the file"));
        }
        self.next = index;
        Ok(())
    }

    fn fill(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        let last = self.next.saturating_add(1) == chunk_count(self.bytes);
        let offset = self.next.saturating_mul(SEALED_CHUNK_BYTES as u64).saturating_add(HEADER_BYTES as u64);
        out.resize(self.chunk_bytes().saturating_add(TAG_BYTES), 0);
        self.file.read_exact_at(out, offset).map_err(|source| self.failed(source))?;
        if self.cipher.open(self.next, last, out).is_err() {
            return Err(self.damaged("a chunk is not what was written there"));
        }
        self.next = self.next.saturating_add(1);
        Ok(())
    }

    /// Plaintext bytes of the next chunk.
    fn chunk_bytes(&self) -> usize {
        let before = self.next.saturating_mul(CHUNK_BYTES as u64);
        let left = self.bytes.saturating_sub(before);
        usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)
    }

    fn check_header(&self, wanted: &[u8; HEADER_BYTES]) -> Result<(), Error> {
        let mut found = [0; HEADER_BYTES];
        self.file.read_exact_at(&mut found, 0).map_err(|source| self.failed(source))?;
        match found.split_first_chunk::<8>() {
            Some((magic, rest)) if *magic == MAGIC => self.check_version(rest)?,
            _ => return Err(self.damaged("it does not begin as such a file does")),
        }
        if found == *wanted { Ok(()) } else { Err(self.damaged("it is another file's content")) }
    }

    fn check_version(&self, rest: &[u8]) -> Result<(), Error> {
        let found = rest.first_chunk().map_or(0, |version| u32::from_be_bytes(*version));
        if found > VERSION {
            return Err(Error::Newer { what: self.path.display().to_string(), found, known: VERSION, needs: None });
        }
        Ok(())
    }

    fn failed(&self, source: io::Error) -> Error {
        if source.kind() == io::ErrorKind::UnexpectedEof {
            return self.damaged("it was cut");
        }
        Error::io("reading", &self.path, source)
    }

    fn damaged(&self, detail: &str) -> Error {
        Error::damaged(self.path.display().to_string(), detail)
    }
}

/// Follows no link at the name, and does not wait where somebody put a pipe.
fn open_file(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}
