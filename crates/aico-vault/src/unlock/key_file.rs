use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use aico_crypto::SlotSecret;
use zeroize::Zeroizing;

use super::{Rung, SlotId, SlotKind, Why};
use crate::durable;
use crate::header::VaultId;

/// Longest key file in bytes.
const MAX_FILE_BYTES: usize = 4096;

/// Older key files that are kept beside the new one.
const MAX_ASIDE: usize = 16;

/// A secret in a file that only its owner can read: `<vault id>.key` in the key folder.
///
/// It protects copies of the data folder, not the whole disk.
#[derive(Debug)]
pub struct KeyFile {
    folder: PathBuf,
}

impl KeyFile {
    /// Keeps files in `folder`.
    #[must_use]
    pub fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn path(&self, vault: &VaultId) -> PathBuf {
        self.folder.join(format!("{vault}.key"))
    }

    /// Whoever can write to the folder can put another file in its place, and take the old one away.
    fn check_folder(&self) -> Result<(), Why> {
        let refuse = |why: &str| Err(Why::new(format!("the key folder {} {why}", self.folder.display())));
        match fs::metadata(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => refuse(&format!("cannot be looked at: {error}")),
            Ok(folder) if folder.mode() & 0o022 != 0 => refuse("can be written to by others; `chmod go-w` closes it"),
            Ok(folder) if ![0, rustix::process::geteuid().as_raw()].contains(&folder.uid()) => {
                refuse("belongs to another user")
            }
            Ok(_) => Ok(()),
        }
    }

    /// Gives a file that is there a second name before it is replaced: it may be the only key of an older header.
    fn keep_aside(&self, vault: &VaultId) -> Result<(), Why> {
        let path = self.path(vault);
        for number in 1..=MAX_ASIDE {
            match fs::hard_link(&path, self.folder.join(format!("{vault}.key.old-{number}"))) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => {
                    let text = format!("{} is there and cannot be kept aside: {error}", path.display());
                    return Err(Why::new(text));
                }
                Ok(()) => return Ok(()),
            }
        }
        Err(Why::new(format!("{} is there, and too many older ones; put them elsewhere", path.display())))
    }

    fn read(&self, vault: &VaultId) -> Result<Zeroizing<Vec<u8>>, Why> {
        self.check_folder()?;
        let path = self.path(vault);
        let refuse = |why: &str| Why::new(format!("{} {why}", path.display()));
        let file = durable::open(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => refuse("is not there"),
            _ if is_link(&error) => refuse("is a link; it must be the file itself"),
            _ => refuse(&format!("cannot be opened: {error}")),
        })?;
        let metadata = file.metadata().map_err(|error| refuse(&format!("cannot be looked at: {error}")))?;
        if !metadata.is_file() {
            return Err(refuse("is not a plain file"));
        }
        if metadata.uid() != rustix::process::geteuid().as_raw() {
            return Err(refuse("belongs to another user"));
        }
        if metadata.mode() & 0o077 != 0 {
            return Err(refuse("can be read by others; `chmod 600` closes it, and somebody may have read it"));
        }
        let bytes = durable::read_at_most(&file, MAX_FILE_BYTES);
        let bytes = bytes.map_err(|error| refuse(&format!("cannot be read: {error}")))?;
        if bytes.len() > MAX_FILE_BYTES { Err(refuse("is too long for a key file")) } else { Ok(bytes) }
    }
}

fn is_link(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error())
}

impl Rung for KeyFile {
    fn kind(&self) -> SlotKind {
        SlotKind::KeyFile
    }

    fn store(&self, vault: &VaultId, _slot: SlotId, secret: &SlotSecret) -> Result<Vec<u8>, Why> {
        self.check_folder()?;
        self.keep_aside(vault)?;
        let path = self.path(vault);
        secret
            .hazmat_to_platform(|text| {
                let lines = Zeroizing::new(format!(
                    "# The key of the AICO vault {vault}. Whoever has this file and the vault can read it;\n\
                     # without it, and without another way to unlock, nobody can. Keep a copy in a safe place.\n{text}\n"
                ));
                durable::create_folder(&self.folder)?;
                durable::replace(&path, lines.as_bytes(), 0o600)
            })
            .map(|()| Vec::new())
            .map_err(|error| Why::new(error.to_string()))
    }

    fn load(&self, vault: &VaultId, _slot: SlotId, _parameters: &[u8]) -> Result<SlotSecret, Why> {
        let bytes = self.read(vault)?;
        let malformed = || Why::new(format!("{} does not hold a key", self.path(vault).display()));
        let text = std::str::from_utf8(&bytes).map_err(|_| malformed())?;
        let mut lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        match (lines.next(), lines.next()) {
            (Some(line), None) => SlotSecret::hazmat_from_platform(line).map_err(|_| malformed()),
            _ => Err(malformed()),
        }
    }

    fn available(&self) -> Result<(), Why> {
        self.check_folder()
    }

    fn remove(&self, vault: &VaultId, _slot: SlotId) -> Result<(), Why> {
        durable::remove(&self.path(vault)).map(drop).map_err(|error| Why::new(error.to_string()))
    }
}
