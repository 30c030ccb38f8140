//! A secret that the system's manager hands to its unit: it is there while the service runs, and only read here.

use std::io;
use std::path::PathBuf;

use aico_crypto::SlotSecret;

use super::{Rung, SlotId, SlotKind, Why};
use crate::durable;
use crate::header::VaultId;

/// Longest credential in bytes.
const MAX_BYTES: usize = 256;

/// A credential of systemd (`LoadCredentialEncrypted=aico-slot:…`): the slot takes the secret that it holds.
#[derive(Debug)]
pub struct SystemdCredential {
    folder: Option<PathBuf>,
}

impl SystemdCredential {
    /// The credential's name in the unit.
    pub const NAME: &str = "aico-slot";

    /// Reads from `$CREDENTIALS_DIRECTORY`; without one this is no service, or one without credentials.
    #[must_use]
    pub fn new(folder: Option<PathBuf>) -> Self {
        Self { folder }
    }

    fn read(&self) -> Result<SlotSecret, Why> {
        let folder = self.folder.as_ref().ok_or_else(|| Why::absence("systemd gave this process no credentials"))?;
        let refuse = |why: &str| Why::new(format!("the credential `{}` {why}", Self::NAME));
        let file = durable::open(&folder.join(Self::NAME)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => {
                refuse("was not given to this service; see `LoadCredentialEncrypted=` of its unit")
            }
            _ => refuse(&format!("cannot be opened: {error}")),
        })?;
        let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
        let bytes =
            if is_file { durable::read_at_most(&file, MAX_BYTES) } else { Err(io::Error::other("no plain file")) };
        let bytes = bytes.map_err(|error| refuse(&format!("cannot be read: {error}")))?;
        let text = if bytes.len() > MAX_BYTES { None } else { std::str::from_utf8(&bytes).ok() };
        let secret = text.and_then(|text| SlotSecret::hazmat_from_platform(text.trim_ascii_end()).ok());
        secret.ok_or_else(|| refuse("does not hold a key"))
    }
}

impl Rung for SystemdCredential {
    fn kind(&self) -> SlotKind {
        SlotKind::SystemdCredential
    }

    fn given(&self) -> Option<Result<SlotSecret, Why>> {
        Some(self.read())
    }

    fn store(&self, _vault: &VaultId, _slot: SlotId, _secret: &SlotSecret) -> Result<Vec<u8>, Why> {
        // The secret is the one that was given.
        Ok(Vec::new())
    }

    fn load(&self, _vault: &VaultId, _slot: SlotId, _parameters: &[u8]) -> Result<SlotSecret, Why> {
        self.read()
    }

    fn available(&self) -> Result<(), Why> {
        self.read().map(drop)
    }

    fn remove(&self, _vault: &VaultId, _slot: SlotId) -> Result<(), Why> {
        Err(Why::new("the credential stays in its unit; take it out there"))
    }
}
