use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aico_crypto::{CHUNK_BYTES, ChunkCipher, FileKey, FileWrapKey, OsRandom, SEALED_CHUNK_BYTES, WRAPPED_BYTES};

use super::{FileId, HEADER_BYTES, UNFINISHED, ensure_folder, remove_if_there, sync_folder_of};
use crate::Error;
use crate::store::Step;

/// A file being written. Dropped before [`FileWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub(crate) struct FileWriter {
    file: File,
    unpublished: Unpublished,
    id: FileId,
    wrapped_key: [u8; WRAPPED_BYTES],
    cipher: ChunkCipher,
    /// The chunk that is not on disk: whether it is the last one is known when more bytes come or the file ends.
    chunk: Vec<u8>,
    index: u64,
    bytes: u64,
}

impl FileWriter {
    pub(super) fn make(path: &Path, header: [u8; HEADER_BYTES], id: FileId, wrap: &FileWrapKey) -> Result<Self, Error> {
        let key = FileKey::make(&OsRandom)?;
        if let Some(folder) = path.parent() {
            ensure_folder(folder)?;
        }
        let part = unfinished(path);
        let failed = |source| Error::io("creating", &part, source);
        // `create_new` is O_EXCL, which follows no link either.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part).map_err(failed)?;
        let unpublished = Unpublished(Some(part.clone()));
        Step::PartMade.done();
        file.write_all(&header).map_err(failed)?;
        Ok(Self {
            file,
            unpublished,
            id,
            wrapped_key: wrap.wrap_file(&key, id.as_bytes(), &OsRandom)?,
            cipher: key.chunk_cipher(&header)?,
            chunk: Vec::with_capacity(SEALED_CHUNK_BYTES),
            index: 0,
            bytes: 0,
        })
    }

    /// Adds bytes. After an error the file is to be dropped.
    pub(crate) fn write(&mut self, mut piece: &[u8]) -> Result<(), Error> {
        while !piece.is_empty() {
            if self.chunk.len() == CHUNK_BYTES {
                self.seal_chunk(false)?;
            }
            let room = CHUNK_BYTES.saturating_sub(self.chunk.len());
            let (now, later) = piece.split_at(room.min(piece.len()));
            self.chunk.extend_from_slice(now);
            self.bytes = self.bytes.saturating_add(now.len() as u64);
            piece = later;
        }
        Ok(())
    }

    /// Seals the last chunk and brings the whole file to disk under its name.
    pub(crate) fn finish(mut self) -> Result<FinishedFile, Error> {
        self.seal_chunk(true)?;
        let part = self.unpublished.path().to_owned();
        let path = part.with_extension("");
        self.file.sync_all().map_err(|source| Error::io("syncing", &part, source))?;
        Step::FileSynced.done();
        fs::rename(&part, &path).map_err(|source| Error::io("renaming", &part, source))?;
        self.unpublished.0 = Some(path.clone());
        Step::FileRenamed.done();
        sync_folder_of(&path)?;
        Step::FolderSynced.done();
        Ok(FinishedFile { id: self.id, wrapped_key: self.wrapped_key, unpublished: self.unpublished })
    }

    fn seal_chunk(&mut self, last: bool) -> Result<(), Error> {
        self.cipher.seal(self.index, last, &mut self.chunk)?;
        let failed = |source| Error::io("writing", self.unpublished.path(), source);
        self.file.write_all(&self.chunk).map_err(failed)?;
        Step::ChunkWritten.done();
        self.chunk.clear();
        self.index = self.index.saturating_add(1);
        Ok(())
    }
}

/// A whole file on disk that nothing refers to yet. Dropped before [`FinishedFile::keep`], it is removed.
#[derive(Debug)]
pub(crate) struct FinishedFile {
    id: FileId,
    wrapped_key: [u8; WRAPPED_BYTES],
    unpublished: Unpublished,
}

impl FinishedFile {
    /// The file's name.
    #[must_use]
    pub(crate) fn id(&self) -> &FileId {
        &self.id
    }

    /// The file's key, wrapped: what [`super::FileStore::read`] asks for.
    #[must_use]
    pub(crate) fn wrapped_key(&self) -> &[u8; WRAPPED_BYTES] {
        &self.wrapped_key
    }

    /// Something refers to the file now: it stays.
    pub(crate) fn keep(mut self) {
        self.unpublished.0 = None;
    }
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(UNFINISHED);
    PathBuf::from(name)
}

/// Removes a file when dropped.
#[derive(Debug)]
struct Unpublished(Option<PathBuf>);

impl Unpublished {
    fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }
}

impl Drop for Unpublished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // What stays is removed by the sweep at the next start.
            let _ = remove_if_there(path);
        }
    }
}
