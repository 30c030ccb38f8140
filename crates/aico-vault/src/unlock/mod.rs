//! The ways to a vault's root key: what each keeps, and which is tried first (`docs/spec/vault.md`, Slots).

mod bus;
mod credential;
mod kernel;
mod key_file;
#[cfg(any(target_os = "macos", windows, test))]
mod native;
mod secret_service;
mod stretch;
mod tpm2;

use std::fmt;

use aico_crypto::{Password, Random, RecoveryCode, RootKey, SlotSecret};

use crate::header::{Header, NewSlot, VaultId};
use crate::{Error, Places};

pub use crate::header::{SlotId, SlotKind};
pub use aico_ffi_tpm::{Tpm, quiet as quiet_tpm};
pub use credential::SystemdCredential;
pub use kernel::kernel_remembers;
pub use key_file::KeyFile;
pub use secret_service::SecretService;
pub(crate) use stretch::{calibrate, new_password, password_secret};
pub use tpm2::Tpm2;

/// What only the owner knows or holds.
#[derive(Debug)]
pub enum Proof {
    /// The password.
    Password(Password),
    /// The recovery code.
    Recovery(RecoveryCode),
}

/// Why an unlock method did not work, in words that a person can act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why {
    text: String,
    is_absence: bool,
}

impl Why {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_absence: false }
    }

    /// The machine has no such thing: nothing to be mended, and no advice.
    pub(crate) fn absence(text: impl Into<String>) -> Self {
        Self { text: text.into(), is_absence: true }
    }

    /// Whether the machine has no such thing at all.
    #[must_use]
    pub fn is_absence(&self) -> bool {
        self.is_absence
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A place that keeps a slot's secret.
pub trait Rung: fmt::Debug {
    /// Which kind of slot it serves.
    fn kind(&self) -> SlotKind;

    /// The secret of a slot to be made, where the place has it already and takes no other.
    fn given(&self) -> Option<Result<SlotSecret, Why>> {
        None
    }

    /// Keeps a secret; when this returns with success, it survives a restart. What is returned goes into the slot.
    fn store(&self, vault: &VaultId, slot: SlotId, secret: &SlotSecret) -> Result<Vec<u8>, Why>;

    /// Gives the secret back, with what `store` put into the slot: anybody may have written that.
    fn load(&self, vault: &VaultId, slot: SlotId, parameters: &[u8]) -> Result<SlotSecret, Why>;

    /// Whether it could keep a secret now, and if not, why.
    fn available(&self) -> Result<(), Why>;

    /// Forgets the secret.
    fn remove(&self, vault: &VaultId, slot: SlotId) -> Result<(), Why>;

    /// What something nearer than the place itself remembers. It may be anything: only the slot can tell.
    fn remembered(&self, _vault: &VaultId) -> Option<SlotSecret> {
        None
    }

    /// Lets it remember a secret that has just opened the vault.
    fn remember(&self, _vault: &VaultId, _secret: &SlotSecret) -> Result<(), Why> {
        Ok(())
    }

    /// Makes it forget.
    fn forget(&self, _vault: &VaultId) -> Result<(), Why> {
        Ok(())
    }
}

/// The methods of this machine, the best first.
#[must_use]
pub fn rungs(places: &Places) -> Vec<Box<dyn Rung>> {
    let mut rungs: Vec<Box<dyn Rung>> = vec![
        Box::new(Tpm2::new(places.tpm.clone())),
        Box::new(SystemdCredential::new(places.credentials.clone())),
        Box::new(SecretService::new(places.bus.clone())),
    ];
    #[cfg(any(target_os = "macos", windows))]
    rungs.extend(native::native());
    rungs.push(Box::new(KeyFile::new(places.key_dir.clone())));
    rungs
}

/// Makes the slots of a new vault. Each secret is kept, and read back, before its slot exists. The key file is always
/// made: until a password or a confirmed recovery code exists, nothing else outlives a lost keyring.
pub fn first_start(vault: &VaultId, rungs: &[Box<dyn Rung>], random: &dyn Random) -> Result<Vec<NewSlot>, Error> {
    let (mut slots, mut refused) = (Vec::new(), Vec::new());
    for (rung, id) in rungs.iter().rev().zip(1..) {
        match new_slot(vault, rung.as_ref(), SlotId(id), random)? {
            Ok(slot) => slots.push(slot),
            Err(why) if rung.kind() == SlotKind::KeyFile => refused.push(format!("{}: {why}", rung.kind())),
            // A better way that this machine lacks; `better_rung` says so.
            Err(_) => {}
        }
    }
    if refused.is_empty() { Ok(slots) } else { Err(Error::Locked(refused.join("; "))) }
}

/// A slot whose secret is kept, and was read back.
pub(crate) fn new_slot(
    vault: &VaultId,
    rung: &dyn Rung,
    id: SlotId,
    random: &dyn Random,
) -> Result<Result<NewSlot, Why>, Error> {
    let secret = match rung.given() {
        None => SlotSecret::make(random)?,
        Some(Ok(secret)) => secret,
        Some(Err(why)) => return Ok(Err(why)),
    };
    Ok(rung.store(vault, id, &secret).and_then(|parameters| {
        let secret = rung.load(vault, id, &parameters)?;
        Ok(NewSlot { kind: rung.kind(), id, secret, parameters })
    }))
}

/// A vault's root key, and how it was had.
#[derive(Debug)]
pub struct Opened {
    /// The key.
    pub root: RootKey,
    /// The method that worked.
    pub by: SlotKind,
    /// Whether the secret was remembered by something nearer than its place.
    pub remembered: bool,
    /// Its slot and the slot's secret.
    pub slot: (SlotId, SlotSecret),
    /// The methods before it, and why they did not.
    pub tried: Vec<(SlotKind, Why)>,
}

/// Opens the header with what the owner knows or holds. Stretching a password takes seconds and memory.
pub fn unlock_with(header: &Header, proof: &Proof) -> Result<Opened, Error> {
    let (kind, name) = match proof {
        Proof::Password(_) => (SlotKind::Password, "password"),
        Proof::Recovery(_) => (SlotKind::RecoveryCode, "recovery code"),
    };
    let slot = header.slots().iter().find(|slot| slot.kind() == kind).ok_or(Error::NoSlot(name))?;
    let secret = match proof {
        Proof::Password(password) => password_secret(slot, password)?,
        Proof::Recovery(code) => code.slot_secret(),
    };
    let root = header.unlock(slot.id(), &secret)?;
    Ok(Opened { root, by: kind, remembered: false, slot: (slot.id(), secret), tried: Vec::new() })
}

/// Opens the header with the best method that works. Damage that only the root key shows is not another method's
/// business: it ends the search.
pub fn unlock(header: &Header, rungs: &[Box<dyn Rung>]) -> Result<Opened, Error> {
    let mut tried = Vec::new();
    for rung in rungs {
        let slots: Vec<_> = header.slots().iter().filter(|slot| slot.kind() == rung.kind()).collect();
        if slots.is_empty() {
            let why =
                rung.available().err().unwrap_or_else(|| Why::new("it is here, but this vault has no slot for it"));
            tried.push((rung.kind(), why));
        }
        for slot in slots {
            let opened = |root, secret, remembered, tried| {
                Ok(Opened { root, by: rung.kind(), remembered, slot: (slot.id(), secret), tried })
            };
            // Wrong content is replaced below, by what its place gives.
            if let Some(secret) = rung.remembered(&header.vault())
                && let Ok(root) = header.unlock(slot.id(), &secret)
            {
                return opened(root, secret, true, tried);
            }
            match rung.load(&header.vault(), slot.id(), slot.parameters()) {
                Ok(secret) => match header.unlock(slot.id(), &secret) {
                    Ok(root) => {
                        // `aico doctor` tells where this does not work; the next start asks the place again.
                        let _works_without = rung.remember(&header.vault(), &secret);
                        return opened(root, secret, false, tried);
                    }
                    Err(Error::Locked(why)) => tried.push((rung.kind(), Why::new(why))),
                    Err(error) => return Err(error),
                },
                Err(why) => tried.push((rung.kind(), why)),
            }
        }
    }
    let reasons: Vec<String> = tried.iter().map(|(kind, why)| format!("{kind}: {why}")).collect();
    Err(Error::Locked(reasons.join("; ")))
}

/// Makes everything nearer than the places themselves forget the vault. What fails was not there, or times out.
pub(crate) fn forget(vault: &VaultId, rungs: &[Box<dyn Rung>]) {
    for rung in rungs {
        let _times_out = rung.forget(vault);
    }
}

/// The slot that is the easiest to take together with a copy of the disk.
#[must_use]
pub fn weakest_slot(header: &Header) -> SlotKind {
    let kinds = header.slots().iter().map(crate::header::Slot::kind);
    kinds.min_by_key(|kind| kind.strength()).unwrap_or(SlotKind::KeyFile)
}

/// What better way this machine has than the one that was used, and why it was not.
#[must_use]
pub fn better_rung(by: SlotKind, tried: &[(SlotKind, Why)]) -> Option<String> {
    let is_better = |(kind, why): &&(SlotKind, Why)| kind.strength() > by.strength() && !why.is_absence();
    let (kind, why) = tried.iter().find(is_better)?;
    Some(format!("the {kind} would protect it better: {why}"))
}
