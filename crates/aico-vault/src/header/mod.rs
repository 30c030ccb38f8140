//! `vault.aico`: what opens a vault, kept outside of it (`docs/spec/vault.md`, Header).

mod bytes;
mod id;
mod slot;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

use aico_crypto::{Random, RootKey, SlotSecret, SpaceKey, WRAPPED_BYTES};

pub(crate) use id::from_hex;
pub use id::{SpaceId, VaultId};
use slot::MAX_PARAMETER_BYTES;
pub(crate) use slot::Slot;
pub use slot::{NewSlot, SlotId, SlotKind};

use crate::{Error, durable};

/// The most bytes of a header file.
pub const MAX_HEADER_BYTES: usize = 64 * 1024;
/// The most slots of a header.
const MAX_SLOTS: usize = 16;

const WHAT: &str = "the vault's header";
const KEY_FILE_STAYS: &str =
    "without a key file, a password or a recovery code a reset keyring would lose the vault: one of the three stays";

/// The system space, for a header to be made.
#[derive(Debug)]
pub struct SystemSpace<'a> {
    /// Its identifier.
    pub id: SpaceId,
    /// Which of its keys this is; a rotation makes the next.
    pub epoch: u32,
    /// The key, to be wrapped under the root key.
    pub key: &'a SpaceKey,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct WrappedSpace {
    id: SpaceId,
    epoch: u32,
    wrapped_key: [u8; WRAPPED_BYTES],
}

/// A vault's key slots and the wrapped key of its system space. Nothing in it is secret.
///
/// The root key is inside once a slot, wrapped; [`Header::unlock`] gives it out only when the whole header is what the
/// holder of that key wrote. Changes happen in memory, each raises the revision by one, and [`Header::write`] puts them
/// on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    format: u16,
    vault: VaultId,
    revision: u64,
    recovery_confirmed: bool,
    locked: bool,
    created_ms: u64,
    system: WrappedSpace,
    slots: Vec<Slot>,
    authenticator: [u8; 32],
}

impl Header {
    /// Makes the first header of a vault, revision 1. The secrets of `slots` must already be kept by their methods: a
    /// header that is on disk before its secrets can be a vault that nobody opens.
    pub fn make(
        vault: VaultId,
        created_ms: u64,
        root: &RootKey,
        system: &SystemSpace<'_>,
        slots: &[NewSlot],
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let context = space_context(&vault, &system.id, system.epoch);
        let wrapped_key = root.wrap_space(system.key, &context, random)?;
        let make_slot = |new| Slot::make(&vault, new, created_ms, root, random);
        let mut header = Self {
            format: bytes::FORMAT,
            vault,
            revision: 1,
            recovery_confirmed: false,
            locked: false,
            created_ms,
            system: WrappedSpace { id: system.id, epoch: system.epoch, wrapped_key },
            slots: slots.iter().map(make_slot).collect::<Result<_, _>>()?,
            authenticator: [0; 32],
        };
        header.check_slots().map_err(|_| Error::Misuse("a header has 1 to 16 slots with different identifiers"))?;
        header.authenticate(root);
        Ok(header)
    }

    /// Reads the header from `path`; [`Error::NoVault`] (with the folder) when there is none.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let file = durable::open(path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => Error::NoVault(path.parent().unwrap_or(path).to_owned()),
            _ => Error::io("opening", path, source),
        })?;
        let bytes = durable::read_at_most(&file, MAX_HEADER_BYTES);
        Self::decode(&bytes.map_err(|source| Error::io("reading", path, source))?)
    }

    /// Writes the header to `path`, durably and all at once.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        durable::replace(path, &self.encode(), 0o600)
    }

    /// Adds a slot for a method that already keeps its secret.
    pub fn add_slot(
        &mut self,
        root: &RootKey,
        new: &NewSlot,
        created_ms: u64,
        random: &dyn Random,
    ) -> Result<(), Error> {
        self.change(root, |next| {
            next.slots.push(Slot::make(&next.vault, new, created_ms, root, random)?);
            next.check_slots().map_err(|_| Error::Misuse("a header has 1 to 16 slots with different identifiers"))
        })
    }

    /// Removes the slot `id`. What the method keeps is removed by the caller, after [`Header::write`].
    ///
    /// Refused for the last durable slot, and for the last key file while no password and no confirmed recovery code
    /// stands behind it.
    pub fn remove_slot(&mut self, root: &RootKey, id: SlotId) -> Result<(), Error> {
        self.slot(id)?;
        self.change(root, |next| {
            next.slots.retain(|slot| slot.id() != id);
            if !next.slots.iter().any(|slot| next.is_durable(slot)) {
                return Err(Error::Refused("the last slot cannot be removed: nothing would open the vault"));
            }
            next.recovery_confirmed &= next.has(SlotKind::RecoveryCode);
            if !next.has(SlotKind::KeyFile) && !next.is_held_by_a_person() {
                return Err(Error::Refused(KEY_FILE_STAYS));
            }
            Ok(())
        })
    }

    /// Authenticates the header anew under the next revision, with nothing else changed.
    pub fn rewrite(&mut self, root: &RootKey) -> Result<(), Error> {
        self.change(root, |_| Ok(()))
    }

    /// Puts a slot in the place of the one with its identifier: another secret, the same method.
    pub fn replace_slot(
        &mut self,
        root: &RootKey,
        new: &NewSlot,
        created_ms: u64,
        random: &dyn Random,
    ) -> Result<(), Error> {
        if self.slot(new.id)?.kind() != new.kind {
            return Err(Error::Misuse("a slot keeps its method"));
        }
        self.change(root, |next| {
            let made = Slot::make(&next.vault, new, created_ms, root, random)?;
            next.slots.iter_mut().filter(|slot| slot.id() == new.id).for_each(|slot| *slot = made.clone());
            Ok(())
        })
    }

    /// Adds the slot of a recovery code that its owner has typed back, in the place of an older one.
    pub fn put_recovery(
        &mut self,
        root: &RootKey,
        new: &NewSlot,
        created_ms: u64,
        random: &dyn Random,
    ) -> Result<(), Error> {
        self.change(root, |next| {
            next.slots.retain(|slot| slot.kind() != SlotKind::RecoveryCode);
            next.slots.push(Slot::make(&next.vault, new, created_ms, root, random)?);
            next.recovery_confirmed = true;
            next.check_slots().map_err(|_| Error::Misuse("a header has 1 to 16 slots with different identifiers"))
        })
    }

    /// Notes whether the owner has locked the vault.
    pub fn set_locked(&mut self, root: &RootKey, locked: bool) -> Result<(), Error> {
        self.change(root, |next| {
            next.locked = locked;
            Ok(())
        })
    }

    /// Puts another root key into every slot: wrapped where its secret is among `known`, sealed to its public key
    /// elsewhere.
    pub fn rotate(
        &mut self,
        old: &RootKey,
        new: &RootKey,
        known: &[(SlotId, SlotSecret)],
        random: &dyn Random,
    ) -> Result<(), Error> {
        let key = self.system_space_key(old)?;
        let mut next = self.clone();
        next.change(old, |next| {
            let context = space_context(&next.vault, &next.system.id, next.system.epoch);
            next.system.wrapped_key = new.wrap_space(&key, &context, random)?;
            for slot in &mut next.slots {
                *slot = slot.with_root(&next.vault, (old, new), known, random)?;
            }
            Ok(())
        })?;
        next.authenticate(new);
        *self = next;
        Ok(())
    }

    /// Puts the system space into its next epoch, under `key`.
    pub fn begin_epoch(
        &mut self,
        root: &RootKey,
        epoch: u32,
        key: &SpaceKey,
        random: &dyn Random,
    ) -> Result<(), Error> {
        self.change(root, |next| {
            let wrapped_key = root.wrap_space(key, &space_context(&next.vault, &next.system.id, epoch), random)?;
            next.system = WrappedSpace { id: next.system.id, epoch, wrapped_key };
            Ok(())
        })
    }

    /// The header for a copy that is kept elsewhere: only what its owner knows or holds opens it.
    ///
    /// # Errors
    /// [`Error::Refused`] where nothing like that exists.
    pub fn for_a_copy(&self, root: &RootKey) -> Result<Self, Error> {
        if !self.is_held_by_a_person() {
            return Err(Error::Refused("a copy opens with a password or a recovery code; set one first"));
        }
        let mut copy = self.clone();
        copy.change(root, |copy| {
            let held = |slot: &Slot| matches!(slot.kind(), SlotKind::Password | SlotKind::RecoveryCode);
            let confirmed = copy.recovery_confirmed;
            copy.slots.retain(|slot| held(slot) && (confirmed || slot.kind() == SlotKind::Password));
            copy.locked = false;
            Ok(())
        })?;
        Ok(copy)
    }

    /// Wraps the root key under the key of a slot that it was only sealed to, and gives a slot of an older version its
    /// voucher; false where there is nothing to do.
    pub fn rewrap(
        &mut self,
        root: &RootKey,
        id: SlotId,
        secret: &SlotSecret,
        random: &dyn Random,
    ) -> Result<bool, Error> {
        let slot = self.slot(id)?;
        if !slot.is_to_be_renewed() {
            return Ok(false);
        }
        let wrapped = slot.wrapped(&self.vault, secret, root, random)?;
        self.change(root, |next| {
            next.slots.iter_mut().filter(|slot| slot.id() == id).for_each(|slot| *slot = wrapped.clone());
            Ok(())
        })?;
        Ok(true)
    }

    /// Opens slot `id` with its secret and checks the whole header under the root key inside.
    ///
    /// [`Error::Locked`] is a wrong secret; [`Error::Damaged`] a slot or header that is not what was written, even when
    /// its checksum holds.
    pub fn unlock(&self, id: SlotId, secret: &SlotSecret) -> Result<RootKey, Error> {
        let root = self.slot(id)?.unwrap_root(&self.vault, secret)?;
        self.check_authenticator(&root)?;
        Ok(root)
    }

    /// Unwraps the key of the system space.
    pub fn system_space_key(&self, root: &RootKey) -> Result<SpaceKey, Error> {
        let context = space_context(&self.vault, &self.system.id, self.system.epoch);
        let key = root.unwrap_space(&self.system.wrapped_key, &context);
        key.map_err(|_| damaged("the system space's key does not open"))
    }

    /// The vault's name.
    #[must_use]
    pub fn vault(&self) -> VaultId {
        self.vault
    }

    /// How often the header has been written with a change, this one included.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// When the vault was made, in milliseconds since 1970.
    #[must_use]
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// Whether the owner has typed the recovery code back.
    #[must_use]
    pub fn recovery_confirmed(&self) -> bool {
        self.recovery_confirmed
    }

    /// Whether the owner has locked the vault, so that no start opens it by itself.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.locked
    }

    /// Whether an older version of this program wrote it.
    #[must_use]
    pub fn is_old(&self) -> bool {
        self.format < bytes::FORMAT
    }

    /// The system space's identifier and epoch.
    #[must_use]
    pub fn system_space(&self) -> (SpaceId, u32) {
        (self.system.id, self.system.epoch)
    }

    /// All slots, in the file's order.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// The lowest identifier that no slot has; 1 is the first.
    #[must_use]
    pub fn free_slot_id(&self) -> SlotId {
        let free = |id: &u8| self.slots.iter().all(|slot| slot.id() != SlotId(*id));
        SlotId((1..=u8::MAX).find(free).unwrap_or(0))
    }

    /// Whether the vault can be opened by what only a person knows or holds.
    #[must_use]
    pub fn is_held_by_a_person(&self) -> bool {
        self.has(SlotKind::Password) || (self.recovery_confirmed && self.has(SlotKind::RecoveryCode))
    }

    /// Whether there is a slot of this kind.
    #[must_use]
    pub fn has(&self, kind: SlotKind) -> bool {
        self.slots.iter().any(|slot| slot.kind() == kind)
    }

    fn slot(&self, id: SlotId) -> Result<&Slot, Error> {
        self.slots.iter().find(|slot| slot.id() == id).ok_or(Error::Misuse("there is no slot with this identifier"))
    }

    /// A recovery code that nobody has typed back may not exist on paper.
    fn is_durable(&self, slot: &Slot) -> bool {
        slot.kind() != SlotKind::RecoveryCode || self.recovery_confirmed
    }

    // INVARIANT: a change that fails leaves the header as it was, and none is made on a header that is not authentic.
    fn change(&mut self, root: &RootKey, edit: impl FnOnce(&mut Self) -> Result<(), Error>) -> Result<(), Error> {
        self.check_authenticator(root)?;
        let mut next = self.clone();
        edit(&mut next)?;
        next.format = bytes::FORMAT;
        next.revision = next.revision.checked_add(1).ok_or(Error::Misuse("the header's revision cannot rise"))?;
        next.authenticate(root);
        *self = next;
        Ok(())
    }

    fn authenticate(&mut self, root: &RootKey) {
        self.authenticator = root.header_key().authenticate(&self.authenticated_bytes());
    }

    fn check_authenticator(&self, root: &RootKey) -> Result<(), Error> {
        let checked = root.header_key().verify(&self.authenticated_bytes(), &self.authenticator);
        checked.map_err(|_| damaged("it was changed by something that does not hold the root key"))
    }

    fn check_slots(&self) -> Result<(), Error> {
        let unique: BTreeSet<SlotId> = self.slots.iter().map(Slot::id).collect();
        if unique.len() != self.slots.len() {
            return Err(damaged("two slots have one identifier"));
        }
        if !(1..=MAX_SLOTS).contains(&unique.len()) {
            return Err(damaged("it does not have 1 to 16 slots"));
        }
        Ok(())
    }
}

/// `vault id ‖ space id ‖ epoch`.
fn space_context(vault: &VaultId, space: &SpaceId, epoch: u32) -> Vec<u8> {
    [vault.as_bytes().as_slice(), space.as_bytes(), &epoch.to_be_bytes()].concat()
}

fn damaged(detail: impl Into<String>) -> Error {
    Error::damaged(WHAT, detail)
}
