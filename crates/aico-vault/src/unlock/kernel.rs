//! The kernel's keyring of this login session, as a memory in front of the Secret Service: the next start of the session
//! needs no D-Bus. Never a slot: what is found there is good only if the slot's check value says so.

use std::time::Duration;

use aico_crypto::SlotSecret;
use linux_keyutils::{Key, KeyError, KeyRing, KeyRingIdentifier};
use zeroize::Zeroizing;

use super::Why;
use crate::header::VaultId;

/// How long the kernel remembers: a working day.
const LIFE: Duration = Duration::from_secs(12 * 3600);
/// Longest content that is looked at.
const MAX_BYTES: usize = 256;
/// Keys of one name that are forgotten at once: keyrings below the session's may hold some too.
const MAX_KEYS: usize = 16;

/// Whether the kernel remembers something for this vault; an error where it cannot.
pub fn kernel_remembers(vault: &VaultId) -> Result<bool, Why> {
    find(vault).map(|key| key.is_some())
}

/// What it remembers, if that has the form of a secret.
pub(super) fn recall(vault: &VaultId) -> Option<SlotSecret> {
    let key = find(vault).ok()??;
    let mut bytes = Zeroizing::new([0; MAX_BYTES]);
    // The length is that of the whole content, also where not all of it fits.
    let length = key.read(&mut *bytes).ok()?;
    let text = std::str::from_utf8(bytes.get(..length)?).ok()?;
    SlotSecret::hazmat_from_platform(text).ok()
}

/// Remembers a secret that has just opened the vault, in the place of what was there.
pub(super) fn remember(vault: &VaultId, secret: &SlotSecret) -> Result<(), Why> {
    let ring = ring()?;
    let key = secret.hazmat_to_platform(|text| ring.add_key(&name(vault), text.as_bytes())).map_err(why)?;
    let seconds = usize::try_from(LIFE.as_secs()).unwrap_or(usize::MAX);
    key.set_timeout(seconds).map_err(|error| {
        // Not for ever.
        let _gone = key.invalidate();
        why(error)
    })
}

/// Forgets it.
pub(super) fn forget(vault: &VaultId) -> Result<(), Why> {
    for _ in 0..MAX_KEYS {
        let Some(key) = find(vault)? else { return Ok(()) };
        key.invalidate().map_err(why)?;
    }
    Err(Why::new("the kernel's keyring holds too many keys of the vault's name"))
}

fn find(vault: &VaultId) -> Result<Option<Key>, Why> {
    match ring()?.search(&name(vault)) {
        Ok(key) => Ok(Some(key)),
        Err(KeyError::KeyDoesNotExist | KeyError::KeyExpired) => Ok(None),
        Err(error) => Err(why(error)),
    }
}

fn ring() -> Result<KeyRing, Why> {
    // Not made where there is none: it would be this thread's alone.
    KeyRing::from_special_id(KeyRingIdentifier::Session, false).map_err(why)
}

fn name(vault: &VaultId) -> String {
    format!("aico:{vault}")
}

fn why(error: KeyError) -> Why {
    Why::new(match error {
        KeyError::Unknown(number) if number == rustix::io::Errno::NOSYS.raw_os_error() => {
            "this kernel has no keyrings".to_owned()
        }
        KeyError::OperationNotSupported => "this kernel has no keyrings".to_owned(),
        KeyError::PermissionDenied | KeyError::AccessDenied => {
            "this process may not use the kernel's keyring (containers and sandboxes forbid it)".to_owned()
        }
        KeyError::QuotaExceeded => {
            "your quota of kernel keys is used up (`/proc/key-users` shows it, `/proc/sys/kernel/keys/maxkeys` sets it)"
                .to_owned()
        }
        KeyError::KeyRevoked | KeyError::KeyExpired | KeyError::KeyDoesNotExist => {
            "this login session's keyring is gone; log in anew".to_owned()
        }
        other => format!("the kernel's keyring failed: {other}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_keeps_it_from_remembering_is_told_so_that_a_person_can_act() {
        let told = |error| why(error).to_string();
        assert!(told(KeyError::Unknown(38)).contains("this kernel has no keyrings"));
        assert!(told(KeyError::PermissionDenied).contains("containers and sandboxes forbid it"));
        assert!(told(KeyError::QuotaExceeded).contains("/proc/sys/kernel/keys/maxkeys"));
        assert!(told(KeyError::KeyRevoked).contains("log in anew"));
    }
}
