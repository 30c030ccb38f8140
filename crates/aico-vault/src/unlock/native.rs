//! The keyring of macOS or Windows, through the interface of the `keyring` crates (`docs/spec/vault.md`, Slots). Linux
//! compiles it for its tests alone, against their store in memory.

use std::collections::HashMap;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use aico_crypto::SlotSecret;
use keyring_core::{CredentialStore, Entry, Error as StoreError};
use zeroize::Zeroizing;

use super::{Rung, SlotId, SlotKind, Why};
use crate::header::VaultId;

/// For one call: a keyring that waits for a person must not hold up a start.
const PATIENCE: Duration = Duration::from_secs(3);
const SERVICE: &str = "aico";
/// Longest entry that is looked at, in bytes.
const MAX_BYTES: usize = 256;

/// A secret in the keyring that the system unlocks at login.
#[derive(Debug)]
pub(super) struct NativeKeyring {
    kind: SlotKind,
    store: Arc<CredentialStore>,
    /// What the store is told of an entry besides its name.
    modifiers: &'static [(&'static str, &'static str)],
}

/// The login keychain.
#[cfg(target_os = "macos")]
pub(super) fn native() -> Option<Box<dyn Rung>> {
    let store = apple_native_keyring_store::keychain::Store::new().ok()?;
    Some(Box::new(NativeKeyring { kind: SlotKind::Keychain, store, modifiers: &[] }))
}

/// The Credential Manager. An entry stays on this machine: the store's own choice would follow the user's domain profile.
#[cfg(windows)]
pub(super) fn native() -> Option<Box<dyn Rung>> {
    let store = windows_native_keyring_store::Store::new().ok()?;
    let modifiers = &[("persistence", "Local")];
    Some(Box::new(NativeKeyring { kind: SlotKind::CredentialManager, store, modifiers }))
}

impl NativeKeyring {
    /// Does `work` with the entry of this name, on a thread that is left behind if it does not come back in time.
    fn run<T, F>(&self, user: String, work: F) -> Result<T, Why>
    where
        T: Send + 'static,
        F: FnOnce(&Entry) -> Result<T, StoreError> + Send + 'static,
    {
        let (store, modifiers) = (Arc::clone(&self.store), self.modifiers);
        let (tell, told) = mpsc::sync_channel(1);
        let on_thread = move || {
            let modifiers: HashMap<&str, &str> = modifiers.iter().copied().collect();
            let modifiers = (!modifiers.is_empty()).then_some(&modifiers);
            let done = store.build(SERVICE, &user, modifiers).and_then(|entry| work(&entry));
            // Nobody listens any more where it came too late.
            let _late = tell.send(done);
        };
        let thread = thread::Builder::new().name("native-keyring".to_owned()).spawn(on_thread);
        thread.map_err(|error| Why::new(error.to_string()))?;
        let late = |_| Why::new(format!("the {} does not answer; it may be waiting for a person", self.kind));
        told.recv_timeout(PATIENCE).map_err(late)?.map_err(|error| self.why(&error))
    }

    /// Nothing that an error carries is shown: for some it is what the entry holds.
    fn why(&self, error: &StoreError) -> Why {
        let what = match error {
            StoreError::NoEntry => "has no entry for this vault; was it emptied or replaced?".to_owned(),
            StoreError::NoStorageAccess(cause) => format!("is locked or refuses ({cause}); log in, or unlock it"),
            StoreError::PlatformFailure(cause) => format!("failed: {cause}"),
            StoreError::Ambiguous(_) => "has several entries for this vault".to_owned(),
            _ => "failed".to_owned(),
        };
        Why::new(format!("the {} {what}", self.kind))
    }
}

impl Rung for NativeKeyring {
    fn kind(&self) -> SlotKind {
        self.kind
    }

    fn store(&self, vault: &VaultId, slot: SlotId, secret: &SlotSecret) -> Result<Vec<u8>, Why> {
        let text = secret.hazmat_to_platform(|text| Zeroizing::new(text.to_owned()));
        self.run(user(vault, slot), move |entry| entry.set_secret(text.as_bytes())).map(|()| Vec::new())
    }

    fn load(&self, vault: &VaultId, slot: SlotId, _parameters: &[u8]) -> Result<SlotSecret, Why> {
        let bytes = self.run(user(vault, slot), |entry| entry.get_secret().map(Zeroizing::new))?;
        let text = if bytes.len() > MAX_BYTES { None } else { std::str::from_utf8(&bytes).ok() };
        let secret = text.and_then(|text| SlotSecret::hazmat_from_platform(text).ok());
        secret.ok_or_else(|| {
            Why::new(format!("the entry of the {} for {vault} does not hold a key; something else wrote it", self.kind))
        })
    }

    fn available(&self) -> Result<(), Why> {
        self.run("availability".to_owned(), |entry| match entry.get_secret().map(Zeroizing::new) {
            Ok(_) | Err(StoreError::NoEntry) => Ok(()),
            Err(error) => Err(error),
        })
    }

    fn remove(&self, vault: &VaultId, slot: SlotId) -> Result<(), Why> {
        self.run(user(vault, slot), |entry| match entry.delete_credential() {
            Err(StoreError::NoEntry) => Ok(()),
            other => other,
        })
    }
}

/// What the entry is found by, besides the service.
fn user(vault: &VaultId, slot: SlotId) -> String {
    format!("{vault}/{}", slot.0)
}

#[cfg(test)]
mod tests {
    use std::any::Any;

    use aico_crypto::OsRandom;
    use keyring_core::api::CredentialStoreApi;
    use keyring_core::mock;

    use super::*;

    const VAULT: VaultId = VaultId::from_bytes([7; 16]);

    fn keychain(store: Arc<CredentialStore>) -> NativeKeyring {
        NativeKeyring { kind: SlotKind::Keychain, store, modifiers: &[] }
    }

    fn same(one: &SlotSecret, other: &SlotSecret) -> bool {
        one.hazmat_to_platform(|one| other.hazmat_to_platform(|other| one == other))
    }

    #[test]
    fn each_vault_and_slot_has_an_entry_of_its_own() {
        let rung = keychain(mock::Store::new().unwrap());
        rung.available().unwrap();
        let other_vault = VaultId::from_bytes([8; 16]);
        let places = [(VAULT, SlotId(1)), (VAULT, SlotId(2)), (other_vault, SlotId(1))];
        let secrets = places.map(|(vault, slot)| {
            let secret = SlotSecret::make(&OsRandom).unwrap();
            assert_eq!(rung.store(&vault, slot, &secret).unwrap(), b"", "the slot holds nothing of it");
            secret
        });
        for ((vault, slot), secret) in places.iter().zip(&secrets) {
            assert!(same(&rung.load(vault, *slot, &[]).unwrap(), secret));
        }
        rung.remove(&VAULT, SlotId(1)).unwrap();
        rung.remove(&VAULT, SlotId(1)).unwrap();
        let gone = rung.load(&VAULT, SlotId(1), &[]).unwrap_err();
        assert!(gone.to_string().contains("the Keychain has no entry for this vault"), "{gone}");
        assert!(same(&rung.load(&VAULT, SlotId(2), &[]).unwrap(), &secrets[1]));
    }

    #[test]
    fn what_something_else_wrote_is_no_key_and_is_not_shown() {
        let store = mock::Store::new().unwrap();
        let rung = keychain(store.clone());
        let entry = store.build(SERVICE, &user(&VAULT, SlotId(1)), None).unwrap();
        for bad in [&b""[..], b"PLANTED", &[0xff; 55], &[b'A'; 100_000]] {
            entry.set_secret(bad).unwrap();
            let why = rung.load(&VAULT, SlotId(1), &[]).unwrap_err().to_string();
            assert!(why.contains("does not hold a key") && !why.contains("PLANTED"), "{why}");
        }
        let cred: &mock::Cred = entry.as_any().downcast_ref().unwrap();
        for (error, word) in [
            (StoreError::BadEncoding(b"PLANTED".to_vec()), "failed"),
            (StoreError::NoStorageAccess("closed".into()), "is locked or refuses (closed)"),
            (StoreError::PlatformFailure("broken".into()), "failed: broken"),
            (StoreError::Ambiguous(Vec::new()), "several entries"),
        ] {
            cred.set_error(error);
            let why = rung.load(&VAULT, SlotId(1), &[]).unwrap_err().to_string();
            assert!(why.contains(word) && !why.contains("PLANTED") && !why.contains("80"), "{why}");
        }
    }

    /// A keyring that asks a person who is not there.
    #[derive(Debug)]
    struct Asks;

    impl CredentialStoreApi for Asks {
        fn vendor(&self) -> String {
            String::new()
        }

        fn id(&self) -> String {
            String::new()
        }

        fn build(&self, _: &str, _: &str, _: Option<&HashMap<&str, &str>>) -> keyring_core::Result<Entry> {
            loop {
                thread::park();
            }
        }

        fn as_any(&self) -> &dyn Any {
            self
        }
    }

    #[test]
    fn a_keyring_that_asks_a_person_is_passed_over() {
        let rung = keychain(Arc::new(Asks));
        let began = std::time::Instant::now();
        let why = rung.available().unwrap_err();
        assert!(why.to_string().contains("may be waiting for a person") && !why.is_absence(), "{why}");
        assert!(began.elapsed() < PATIENCE * 3);
    }
}
