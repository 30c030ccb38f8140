//! The folder of a store as RocksDB sees it, and the store's own header in it.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand;
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use crate::file::{self, Fault};
use crate::key::{ID_BYTES, KEY_BYTES, Part, StoreKey, TAG_BYTES};
use crate::name::{Kind, Name, last_part};
use crate::types::Error;

/// The store's own header; no name of RocksDB's.
pub(crate) const HEADER: &str = "memory.aico";
const NEW_HEADER: &str = "memory.aico.new";
const ROOM: &str = "memory.aico.room";

const MAGIC: &[u8; 8] = b"aicomst\x01";
const SIGNED_BYTES: usize = MAGIC.len() + ID_BYTES + 1;
const CHECK_BYTES: usize = 8;
const HEADER_BYTES: usize = SIGNED_BYTES + TAG_BYTES + CHECK_BYTES;

/// Whether RocksDB has ever been open in the folder. Before, nothing was acknowledged, and anything may be missing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Beginning = 0,
    InUse = 1,
}

pub(crate) struct Folder {
    path: PathBuf,
    id: [u8; ID_BYTES],
    key: StoreKey,
    damaged: OnceLock<String>,
    failure: AtomicI32,
    stopped: AtomicI32,
    writing: Mutex<BTreeSet<PathBuf>>,
}

impl Folder {
    /// Opens the store in the folder at `path`, or begins one.
    pub(crate) fn open(path: &Path, key: &[u8; KEY_BYTES]) -> Result<(Self, State), Error> {
        if !path.is_dir() {
            DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            path.parent().filter(|parent| !parent.as_os_str().is_empty()).map_or(Ok(()), sync_folder)?;
        }
        match fs::read(path.join(HEADER)) {
            Ok(header) => {
                let (id, state, key) = opened(&header, key)?;
                let folder = Self::new(path, id, key);
                if state == State::InUse && !path.join("CURRENT").exists() {
                    return Err(Error::damaged("CURRENT"));
                }
                Ok((folder, state))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Before its header, a store has no file.
                if fs::read_dir(path)?.any(|entry| entry.is_ok_and(|e| Name::parse(last_part(&e.path())).is_some())) {
                    return Err(Error::damaged(HEADER));
                }
                let mut id = [0; ID_BYTES];
                rand::fill(&mut id).map_err(Fault::from)?;
                let folder = Self::new(path, id, StoreKey::derive(key, &id).map_err(Fault::from)?);
                folder.write_header(State::Beginning)?;
                Ok((folder, State::Beginning))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn new(path: &Path, id: [u8; ID_BYTES], key: StoreKey) -> Self {
        let path = path.to_path_buf();
        Self {
            path,
            id,
            key,
            damaged: OnceLock::new(),
            failure: AtomicI32::new(0),
            stopped: AtomicI32::new(0),
            writing: Mutex::default(),
        }
    }

    /// Puts the header on disk, whole or not at all.
    pub(crate) fn write_header(&self, state: State) -> Result<(), Error> {
        let mut header = [MAGIC.as_slice(), &self.id, &[state as u8]].concat();
        let aad = header.clone();
        let key = self.key.own().map_err(Fault::from)?;
        key.seal(Part::Header, state as u64, &aad, &[], &mut header).map_err(Fault::from)?;
        header.extend(check(&header));
        let path = self.path.join(NEW_HEADER);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        file.write_all(&header)?;
        file.sync_all()?;
        fs::rename(path, self.path.join(HEADER))?;
        Ok(sync_folder(&self.path)?)
    }

    /// Whether there is room for `bytes` more.
    pub(crate) fn has_room(&self, bytes: u64) -> Result<(), Error> {
        let path = self.path.join(ROOM);
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path)?;
        let result = fallocate(&file, FallocateFlags::empty(), 0, bytes);
        fs::remove_file(path)?;
        match result {
            // A file system that cannot say.
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    pub(crate) fn key(&self) -> &StoreKey {
        &self.key
    }

    /// The file in which damage was seen first.
    pub(crate) fn damaged(&self) -> Option<&str> {
        self.damaged.get().map(String::as_str)
    }

    /// The last failure of the system below, if there was one since this was asked last.
    pub(crate) fn take_failure(&self) -> Option<io::Error> {
        let code = self.failure.swap(0, Ordering::Relaxed);
        (code > 0).then(|| io::Error::from_raw_os_error(code))
    }

    /// Nothing is changed once damage was seen: RocksDB may want to go on without what it could not read. Nor once a log
    /// could not be written: the next log would name more of that one than there is.
    pub(crate) fn may_change(&self) -> Result<(), Fault> {
        if self.damaged.get().is_some() {
            return Err(Fault::Damaged);
        }
        match self.stopped.load(Ordering::SeqCst) {
            0 => Ok(()),
            code => Err(io::Error::from_raw_os_error(code).into()),
        }
    }

    /// A file that grows could not be written, for the reason `code`.
    pub(crate) fn stop(&self, code: i32) {
        self.stopped.store(code, Ordering::SeqCst);
    }

    /// RocksDB is closed, and begins anew.
    pub(crate) fn go_on(&self) {
        self.stopped.store(0, Ordering::SeqCst);
    }

    /// Remembers a fault at the file at `path`.
    pub(crate) fn note(&self, path: &Path, fault: &Fault) {
        match fault {
            Fault::Damaged => {
                self.damaged.get_or_init(|| last_part(path).to_owned());
            }
            Fault::Io(error) if error.kind() != io::ErrorKind::NotFound => {
                self.failure.store(error.raw_os_error().unwrap_or(0), Ordering::Relaxed);
            }
            Fault::Io(_) | Fault::Refused => {}
        }
    }

    pub(crate) fn begin_writing(&self, path: &Path) {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_path_buf());
    }

    pub(crate) fn end_writing(&self, path: &Path) {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }

    /// Authenticates every byte of every file, of which `needed` must be there.
    pub(crate) fn verify(&self, key: &[u8; KEY_BYTES], needed: &BTreeSet<String>) -> Result<(), Error> {
        opened(&fs::read(self.path.join(HEADER)).map_err(|_| Error::damaged(HEADER))?, key)?;
        let mut names = needed.clone();
        for entry in fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        for name in names {
            let path = self.path.join(&name);
            // What is being written once is no part of the store yet, and has no end.
            let unfinished = Name::parse(&name).is_none_or(|name| {
                !name.grows() && self.writing.lock().unwrap_or_else(PoisonError::into_inner).contains(&path)
            });
            if unfinished {
                continue;
            }
            match file::read_through(&self.key, &path) {
                Ok(_) => {}
                Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound && !needed.contains(&name) => {}
                // Written by nobody now, and by no crash either: RocksDB removes what it has not finished.
                Err(Fault::Damaged | Fault::Refused) => return Err(Error::Damaged { file: name }),
                Err(Fault::Io(error)) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(Error::Damaged { file: name });
                }
                Err(Fault::Io(error)) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn opened(header: &[u8], key: &[u8; KEY_BYTES]) -> Result<([u8; ID_BYTES], State, StoreKey), Error> {
    let damaged = || Error::damaged(HEADER);
    let header: &[u8; HEADER_BYTES] = header.try_into().map_err(|_| damaged())?;
    let (sealed, sum) = header.split_last_chunk::<CHECK_BYTES>().ok_or_else(damaged)?;
    if check(sealed) != *sum {
        return Err(damaged());
    }
    let (signed, tag) = sealed.split_at_checked(SIGNED_BYTES).ok_or_else(damaged)?;
    let (magic, rest) = signed.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (id, state) = rest.split_first_chunk::<ID_BYTES>().ok_or_else(damaged)?;
    let state = match state {
        [0] => State::Beginning,
        [1] => State::InUse,
        _ => return Err(damaged()),
    };
    if magic != MAGIC {
        return Err(damaged());
    }
    let key = StoreKey::derive(key, id).map_err(Fault::from)?;
    let own = key.own().map_err(Fault::from)?;
    own.open(Part::Header, state as u64, signed, &mut tag.to_vec()).map_err(|_| Error::WrongKey)?;
    Ok((*id, state, key))
}

/// Tells a damaged header from a wrong key; it keeps nobody from making another.
fn check(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    digest(&SHA256, bytes).as_ref().first_chunk().copied().unwrap_or_default()
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The first file of RocksDB's that `message` names.
pub(crate) fn file_named_in(message: &str) -> Option<&str> {
    let words = message.split(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-');
    words.map(|word| word.trim_end_matches('.')).find(|word| Name::parse(word).is_some_and(|n| n.kind != Kind::Options))
}
