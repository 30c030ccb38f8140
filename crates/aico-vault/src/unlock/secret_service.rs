use std::collections::HashMap;
use std::time::Duration;

use aico_crypto::SlotSecret;
use secret_service::{Collection, EncryptionType, Error as ServiceError, SecretService as Service};
use zeroize::Zeroizing;

use super::bus::first_socket;
use super::{Rung, SlotId, SlotKind, Why, kernel};
use crate::header::VaultId;

/// For everything that one call says on the bus: a keyring that waits for a person must not hold up a start.
const PATIENCE: Duration = Duration::from_secs(3);
/// A keyring that keeps nothing past the login session: a secret there is as good as lost.
const SESSION_COLLECTION: &str = "/org/freedesktop/secrets/collection/session";
const CONTENT_TYPE: &str = "text/plain";

/// A secret in the session's keyring, over D-Bus, sent through an encrypted session.
#[derive(Debug)]
pub struct SecretService {
    bus: Option<String>,
}

impl SecretService {
    /// Talks to the bus at this address; without one it is not available.
    #[must_use]
    pub fn new(bus: Option<String>) -> Self {
        Self { bus }
    }

    /// What another program keeps in the default collection under exactly these attributes, if it is text.
    pub fn foreign(&self, attributes: &[(&str, &str)]) -> Result<Option<Zeroizing<String>>, Why> {
        self.run(async |service| {
            let collection = open_collection(service).await?;
            let found = collection.search_items(attributes.iter().copied().collect()).await.map_err(why)?;
            let Some(item) = found.first() else { return Ok(None) };
            let bytes = Zeroizing::new(item.get_secret().await.map_err(why)?);
            Ok(std::str::from_utf8(&bytes).ok().map(|text| Zeroizing::new(text.to_owned())))
        })
    }

    /// Runs `work` on a thread with a runtime of its own, within [`PATIENCE`].
    fn run<T, F>(&self, work: F) -> Result<T, Why>
    where
        T: Send,
        F: AsyncFnOnce(&Service<'_>) -> Result<T, Why> + Send,
    {
        let list = self.bus.as_deref().ok_or_else(|| Why::new("this session has no D-Bus"))?;
        let address = first_socket(list.as_ref())
            .ok_or_else(|| Why::new("this session's D-Bus is not at a Unix socket (see `DBUS_SESSION_BUS_ADDRESS`)"))?;
        let on_thread = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Why::new(error.to_string()))?;
            let said = async {
                let bus = zbus::connection::Builder::address(address).map_err(no_bus)?.build().await.map_err(no_bus)?;
                let service = Service::connect_with_existing(EncryptionType::Dh, bus).await.map_err(why)?;
                work(&service).await
            };
            let late = || Why::new("the keyring does not answer; it may be waiting for its password");
            let outcome = runtime.block_on(async { tokio::time::timeout(PATIENCE, said).await.map_err(|_| late())? });
            // Not dropped: that would wait for a connect that never returns.
            runtime.shutdown_background();
            outcome
        };
        std::thread::scope(|scope| {
            let thread = std::thread::Builder::new().name("secret-service".to_owned()).spawn_scoped(scope, on_thread);
            let joined = thread.map_err(|error| Why::new(error.to_string()))?.join();
            joined.map_err(|_| Why::new("talking to the keyring failed"))?
        })
    }
}

impl Rung for SecretService {
    fn kind(&self) -> SlotKind {
        SlotKind::SecretService
    }

    fn store(&self, vault: &VaultId, slot: SlotId, secret: &SlotSecret) -> Result<Vec<u8>, Why> {
        let _times_out = kernel::forget(vault);
        let names = Names::of(vault, slot);
        secret.hazmat_to_platform(|text| {
            self.run(async |service| {
                let collection = open_collection(service).await?;
                let label = format!("AICO vault {vault}");
                let made = collection.create_item(&label, names.attributes(), text.as_bytes(), true, CONTENT_TYPE);
                made.await.map(|_| Vec::new()).map_err(why)
            })
        })
    }

    fn load(&self, vault: &VaultId, slot: SlotId, _parameters: &[u8]) -> Result<SlotSecret, Why> {
        let names = Names::of(vault, slot);
        self.run(async |service| {
            let collection = open_collection(service).await?;
            let found = collection.search_items(names.attributes()).await.map_err(why)?;
            let [item] = found.as_slice() else {
                let text = if found.is_empty() { "has no entry" } else { "has several entries" };
                return Err(Why::new(format!("the keyring {text} for {vault}; was it emptied or replaced?")));
            };
            let bytes = Zeroizing::new(item.get_secret().await.map_err(why)?);
            let text = std::str::from_utf8(&bytes).ok();
            let secret = text.and_then(|text| SlotSecret::hazmat_from_platform(text).ok());
            secret.ok_or_else(|| {
                Why::new(format!("the keyring's entry for {vault} does not hold a key; something else wrote it"))
            })
        })
    }

    fn available(&self) -> Result<(), Why> {
        self.run(async |service| open_collection(service).await.map(drop))
    }

    fn remove(&self, vault: &VaultId, slot: SlotId) -> Result<(), Why> {
        let _times_out = kernel::forget(vault);
        let names = Names::of(vault, slot);
        self.run(async |service| {
            let collection = open_collection(service).await?;
            for item in collection.search_items(names.attributes()).await.map_err(why)? {
                item.delete().await.map_err(why)?;
            }
            Ok(())
        })
    }

    fn remembered(&self, vault: &VaultId) -> Option<SlotSecret> {
        kernel::recall(vault)
    }

    fn remember(&self, vault: &VaultId, secret: &SlotSecret) -> Result<(), Why> {
        kernel::remember(vault, secret)
    }

    fn forget(&self, vault: &VaultId) -> Result<(), Why> {
        kernel::forget(vault)
    }
}

/// What the entry is found by.
struct Names {
    vault: String,
    slot: String,
}

impl Names {
    fn of(vault: &VaultId, slot: SlotId) -> Self {
        Self { vault: vault.to_string(), slot: slot.0.to_string() }
    }

    fn attributes(&self) -> HashMap<&str, &str> {
        HashMap::from([("application", "aico"), ("vault", self.vault.as_str()), ("slot", self.slot.as_str())])
    }
}

/// The default collection, if nobody has to be asked for it.
async fn open_collection<'a>(service: &'a Service<'_>) -> Result<Collection<'a>, Why> {
    let collection = service.get_default_collection().await.map_err(|error| match error {
        ServiceError::NoResult => {
            Why::new("the keyring has no default collection; make one, with `seahorse` say, and add the slot again")
        }
        other => why(other),
    })?;
    if collection.collection_path.as_str() == SESSION_COLLECTION {
        return Err(Why::new(
            "the keyring's default collection is `session`, which is forgotten at logout; make a lasting one the default",
        ));
    }
    if collection.is_locked().await.map_err(why)? {
        return Err(Why::new("the keyring is locked; log in, or unlock it, and start again"));
    }
    Ok(collection)
}

fn no_bus(error: zbus::Error) -> Why {
    Why::new(format!("the session's D-Bus does not answer ({error}); log in anew, or start the bus"))
}

fn why(error: ServiceError) -> Why {
    Why::new(match error {
        ServiceError::Locked | ServiceError::Prompt | ServiceError::PromptDisconnected => {
            "the keyring is locked; log in, or unlock it, and start again".to_owned()
        }
        ServiceError::Unavailable => "no keyring answers on this session's D-Bus; start it, or log in anew".to_owned(),
        ServiceError::ZbusFdo(zbus::fdo::Error::ServiceUnknown(_)) => NO_KEYRING.to_owned(),
        ServiceError::Zbus(zbus::Error::MethodError(name, ..)) if name.ends_with(".ServiceUnknown") => {
            NO_KEYRING.to_owned()
        }
        other => format!("the keyring failed: {other}"),
    })
}

const NO_KEYRING: &str = "no keyring runs in this session (gnome-keyring and KWallet are such); start it";
