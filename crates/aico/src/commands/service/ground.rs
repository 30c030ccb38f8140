//! The machine that is written to, or a folder in its place.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::kind::{folder_of, is_root};
use super::owner::Account;
use super::{ServiceError, unit};
use crate::error::Error;

/// Longest unit file that is read, in bytes; ours are a few thousand.
const MAX_UNIT_BYTES: u64 = 64 * 1024;

/// Where paths begin.
#[derive(Debug)]
pub(super) struct Ground {
    root: Option<PathBuf>,
}

/// What lies where a unit would.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum There {
    Nothing,
    Ours(String),
    Foreign,
}

impl There {
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }

    pub(super) fn must_not_be_foreign(&self, path: &Path) -> Result<(), ServiceError> {
        if *self == Self::Foreign { Err(ServiceError::Foreign(path.to_owned())) } else { Ok(()) }
    }
}

impl Ground {
    /// The machine itself, or `root` in its place.
    pub(super) fn new(root: Option<PathBuf>) -> Self {
        Self { root }
    }

    /// Whether it is the machine itself: only that has users, and a systemd to talk to.
    pub(super) fn is_real(&self) -> bool {
        self.root.is_none()
    }

    pub(super) fn needs_root(&self) -> Result<(), ServiceError> {
        if self.is_real() && !is_root() { Err(ServiceError::NotRoot) } else { Ok(()) }
    }

    /// Where `path` is here.
    pub(super) fn at(&self, path: &Path) -> PathBuf {
        match &self.root {
            None => path.to_owned(),
            Some(root) => root.join(path.strip_prefix("/").unwrap_or(path)),
        }
    }

    /// Reads the unit at `path`. Ours is a plain file that begins with our mark; everything else is somebody else's.
    pub(super) fn look(&self, path: &Path) -> There {
        let text = match read_plain(&self.at(path)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return There::Nothing,
            Err(_) => return There::Foreign,
        };
        if unit::is_ours(&text) { There::Ours(text) } else { There::Foreign }
    }

    /// Puts a text in place in one step, for all to read.
    pub(super) fn put_text(&self, path: &Path, text: &str) -> Result<(), Error> {
        self.put(path, &mut text.as_bytes(), 0o644)
    }

    /// Puts a file in place for root alone; a folder that is made for it is root's alone, too.
    pub(super) fn put_private(&self, path: &Path, bytes: &[u8]) -> Result<(), Error> {
        let folder = folder_of(&self.at(path));
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.map_err(|error| Error::io(format!("make the folder {}", folder.display()), error))?;
        self.put(path, &mut &*bytes, 0o600)
    }

    /// Copies the program that runs, whatever has become of its file.
    pub(super) fn put_program(&self, path: &Path) -> Result<(), Error> {
        let mut program = File::open("/proc/self/exe").map_err(|error| Error::io("read this program", error))?;
        self.put(path, &mut program, 0o755)
    }

    /// Copies the DuckDB that this program was loaded with.
    pub(super) fn put_library(&self, path: &Path) -> Result<(), Error> {
        let name = path.file_name().unwrap_or_default();
        let loaded = fs::read_to_string("/proc/self/maps").and_then(|maps| {
            let mut paths = maps.lines().filter_map(|line| line.find('/').and_then(|at| line.get(at..)).map(Path::new));
            let found = paths.find(|path| path.file_name() == Some(name)).ok_or(io::ErrorKind::NotFound)?;
            File::open(found)
        });
        let mut library = loaded.map_err(|error| Error::io(format!("read {}", name.display()), error))?;
        self.put(path, &mut library, 0o644)
    }

    /// Makes a folder with exactly this mode, of `user` if one is given. One that is there is taken if it is root's or
    /// theirs, and never by a link.
    pub(super) fn make_folder(&self, path: &Path, mode: u32, user: Option<&str>) -> Result<(), Error> {
        let here = self.at(path);
        let failed = |error| Error::io(format!("make the folder {}", here.display()), error);
        make_folders(&here).map_err(failed)?;
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&here, flags, Mode::empty()).map_err(|error| failed(error.into()))?;
        let folder = File::from(folder);
        if let Some(user) = user.filter(|_| self.is_real()) {
            let account = Account::of(user)?.ok_or_else(|| ServiceError::NoSuchUser(user.to_owned()))?;
            let owner = folder.metadata().map_err(failed)?.uid();
            if owner != 0 && owner != account.uid {
                return Err(ServiceError::ForeignFolder { path: here, user: user.to_owned() }.into());
            }
            fchown(&folder, Some(account.uid), Some(account.gid)).map_err(failed)?;
        }
        folder.set_permissions(Permissions::from_mode(mode)).map_err(failed)
    }

    /// Removes a file or an empty folder; what is not there, or not empty, is left.
    pub(super) fn remove(&self, path: &Path) -> Result<(), Error> {
        let here = self.at(path);
        let is_folder = fs::symlink_metadata(&here).is_ok_and(|found| found.is_dir());
        let removed = if is_folder { fs::remove_dir(&here) } else { fs::remove_file(&here) };
        match removed {
            Err(error) if !matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::DirectoryNotEmpty) => {
                Err(Error::io(format!("remove {}", here.display()), error))
            }
            _ => Ok(()),
        }
    }

    fn put(&self, path: &Path, source: &mut dyn Read, mode: u32) -> Result<(), Error> {
        let here = self.at(path);
        let folder = folder_of(&here);
        let new = unfinished(&here);
        let written = make_folders(&folder)
            .and_then(|()| write_and_rename(&new, &here, source, mode))
            .and_then(|()| File::open(&folder)?.sync_all());
        written.map_err(|error| {
            // Best effort: the next attempt clears what stays.
            let _gone = fs::remove_file(&new);
            Error::io(format!("write {}", here.display()), error)
        })
    }
}

fn make_folders(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn write_and_rename(new: &Path, path: &Path, source: &mut dyn Read, mode: u32) -> io::Result<()> {
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(new)?;
    io::copy(source, &mut file)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    file.sync_all()?;
    fs::rename(new, path)
}

/// Where the new file grows. One fixed name, so that stopped attempts do not pile up.
fn unfinished(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".new");
    path.with_file_name(name)
}

/// The text of a plain file; never through a link, never waiting on a pipe.
fn read_plain(path: &Path) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut text = String::new();
    file.take(MAX_UNIT_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_UNIT_BYTES { Err(io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}
