//! The secret of the vault's slot as a credential of systemd: encrypted by `systemd-creds`, in the clear in no file.

use std::error::Error as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aico_crypto::{OsRandom, SlotSecret};
use aico_vault::unlock::SystemdCredential;

use super::ServiceError;
use super::ground::Ground;
use super::owner::Owner;
use super::plan::Call;
use crate::error::Error;
use crate::ui;

/// Where the administrator's encrypted credentials are; systemd finds them by their file's name.
const FOLDER: &str = "/etc/credstore.encrypted";
/// Longest encrypted credential that is kept, in bytes; with a TPM one has about a thousand.
const MAX_BYTES: usize = 64 * 1024;

/// Where the credential of an owner's service is.
pub(super) fn path_of(owner: &Owner) -> PathBuf {
    Path::new(FOLDER).join(owner.service_user())
}

/// The credential that a unit gets, if it gets one.
#[derive(Debug)]
pub(super) enum Credential {
    /// It was there before: the vault may have a slot by it.
    Kept(PathBuf),
    /// It was made now, or would be.
    New(PathBuf),
    /// None, and why.
    None(String),
}

impl Credential {
    /// What there is or could be. Nothing is made.
    pub(super) fn look(owner: &Owner, ground: &Ground) -> Self {
        let path = path_of(owner);
        match fs::metadata(ground.at(&path)) {
            Ok(found) if found.is_file() && found.len() > 0 => Self::Kept(path),
            Ok(_) => Self::None(format!("{} is there and is no credential", path.display())),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Self::None(format!("{}: {error}", path.display())),
            // It opens on the machine that made it alone.
            Err(_) if !ground.is_real() => {
                Self::None("it is made on the machine itself: install there again".to_owned())
            }
            Err(_) if !systemd_creds().is_there() => Self::None("`systemd-creds` is not here".to_owned()),
            Err(_) => Self::New(path),
        }
    }

    /// Makes it if it is new; where that fails there is none.
    pub(super) fn made(self, ground: &Ground) -> Self {
        let Self::New(path) = self else { return self };
        match make(&systemd_creds(), &path, ground) {
            Ok(()) => Self::New(path),
            Err(error) => Self::None(match error.source() {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            }),
        }
    }

    pub(super) fn is_some(&self) -> bool {
        !matches!(self, Self::None(_))
    }

    /// As a comment of the unit, as the steps of a plan are shown.
    pub(super) fn print(&self) {
        ui::line(&match self {
            Self::Kept(path) => format!("# credential: {} is kept", path.display()),
            Self::New(path) => format!("# credential: {} mode 0600, by {}", path.display(), systemd_creds()),
            Self::None(why) => format!("# no credential: {}", ui::printable(why)),
        });
    }

    /// What the owner should know of it.
    pub(super) fn tell(&self) {
        match self {
            Self::Kept(path) => ui::line(&format!("Its credential was there and is kept: {}", path.display())),
            Self::New(path) => {
                ui::line(&format!("A credential of this machine opens its vault too: {}", path.display()));
                ui::line("A vault from before takes it by `aico security slots add systemd-credential`.");
            }
            Self::None(why) => {
                ui::line(&format!("The unit has no credential, the key file opens its vault: {}", ui::printable(why)));
            }
        }
    }
}

/// Reads a credential from its input, and writes it encrypted with this machine's keys to its output.
fn systemd_creds() -> Call {
    let name = format!("--name={}", SystemdCredential::NAME);
    let args = vec!["encrypt".to_owned(), name, "-".to_owned(), "-".to_owned()];
    Call { program: "systemd-creds", args, as_root: true }
}

fn make(call: &Call, path: &Path, ground: &Ground) -> Result<(), Error> {
    let strange = |why: &str| ServiceError::Command { call: call.to_string(), why: why.to_owned() };
    let secret = SlotSecret::make(&OsRandom).map_err(aico_vault::Error::from)?;
    let encrypted = secret.hazmat_to_platform(|text| {
        let output = call.output_of(text.as_bytes())?;
        if !output.status.success() {
            return Err(call.failed(&output));
        }
        if output.stdout.windows(text.len()).any(|part| part == text.as_bytes()) {
            return Err(strange("it did not encrypt"));
        }
        Ok(output.stdout)
    })?;
    if encrypted.is_empty() || encrypted.len() > MAX_BYTES {
        return Err(strange("its answer is no credential").into());
    }
    ground.put_private(path, &encrypted)
}
