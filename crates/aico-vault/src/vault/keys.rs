//! What opens the vault, changed by its owner: password, recovery code, slots, root key
//! (`docs/spec/vault.md`, Slots).

use aico_crypto::{OsRandom, Password, RecoveryCode, RootKey, SlotSecret};
use aico_policy::{Action, Permit};

use super::{Keys, Unlocked, Vault};
use crate::Error;
use crate::header::{Header, NewSlot};
use crate::unlock::{self, Proof, Rung, SlotId, SlotKind};

/// What a change of the keys brought with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    /// The key file was removed: the owner and another rung stand for it.
    pub key_file_retired: bool,
    /// MiB of memory that stretching the password takes.
    pub memory_mib: u32,
}

/// One key slot, for the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// Its name.
    pub id: SlotId,
    /// How its secret is kept.
    pub kind: SlotKind,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// Why it does not open the vault now, as far as that can be tried without the owner.
    pub trouble: Option<String>,
}

impl Vault<Unlocked> {
    /// Whether a password is set.
    #[must_use]
    pub fn is_protected(&self) -> bool {
        self.state.keys().header.has(SlotKind::Password)
    }

    /// Whether the owner is who has this: [`Error::WrongPassword`], [`Error::WrongCode`], [`Error::NoSlot`]. Stretching
    /// takes seconds and memory: one at a time.
    pub fn check(&self, proof: &Proof) -> Result<(), Error> {
        // The header is copied so that nobody else waits for the stretching.
        let header = self.state.keys().header.clone();
        unlock::unlock_with(&header, proof).map(drop)
    }

    /// Sets the first password; its stretching may take up to `most_mib` MiB.
    pub fn set_first_password(
        &self,
        permit: Permit,
        password: &Password,
        most_mib: u32,
        now_ms: u64,
    ) -> Result<KeyChange, Error> {
        self.redeem(&permit, Action::SetFirstPassword)?;
        if self.is_protected() {
            return Err(Error::Refused("there is a password already; `aico security passwd` changes it"));
        }
        let done = self.state.put_password(password, most_mib, now_ms);
        self.state.outcome(&permit, done.as_ref().map(|_| 0));
        let change = done?;
        self.state.tell(now_ms, "keys.password-set", "a first password was set")?;
        Ok(change)
    }

    /// Changes the password. The old one must be right; a new root key is made with `rotate`.
    pub fn change_password(
        &self,
        permit: Permit,
        (old, new): (&Password, &Password),
        rotate: bool,
        most_mib: u32,
        now_ms: u64,
    ) -> Result<KeyChange, Error> {
        self.redeem(&permit, Action::ManageKeys)?;
        let header = self.state.keys().header.clone();
        let slot = header.slots().iter().find(|slot| slot.kind() == SlotKind::Password);
        let slot = slot.ok_or(Error::NoSlot("password"))?;
        header.unlock(slot.id(), &unlock::password_secret(slot, old)?)?;
        let done = self.state.put_password(new, most_mib, now_ms).and_then(|change| {
            if rotate {
                self.state.rotate_root()?;
            }
            Ok(change)
        });
        self.state.outcome(&permit, done.as_ref().map(|_| 0));
        let change = done?;
        self.state.record(now_ms, "keys.password-changed", if rotate { "with a new root key" } else { "" })?;
        Ok(change)
    }

    /// Sets a password for whoever has shown the recovery code, whether or not there was one.
    pub fn recover(
        &self,
        permit: Permit,
        code: &RecoveryCode,
        password: &Password,
        most_mib: u32,
        now_ms: u64,
    ) -> Result<KeyChange, Error> {
        self.redeem(&permit, Action::ManageKeys)?;
        let header = self.state.keys().header.clone();
        let slot = header.slots().iter().find(|slot| slot.kind() == SlotKind::RecoveryCode);
        header.unlock(slot.ok_or(Error::NoSlot("recovery code"))?.id(), &code.slot_secret())?;
        let done = self.state.put_password(password, most_mib, now_ms);
        self.state.outcome(&permit, done.as_ref().map(|_| 0));
        let change = done?;
        self.state.tell(now_ms, "keys.recovered", "the password was set anew with the recovery code")?;
        Ok(change)
    }

    /// Makes the slot of a recovery code that its owner has typed back; an older code opens nothing any more.
    pub fn put_recovery(&self, permit: Permit, code: &RecoveryCode, now_ms: u64) -> Result<KeyChange, Error> {
        self.redeem(&permit, Action::ManageKeys)?;
        let done = self.state.change_header(|header, root| {
            let old = header.slots().iter().find(|slot| slot.kind() == SlotKind::RecoveryCode);
            let id = old.map_or_else(|| header.free_slot_id(), crate::header::Slot::id);
            let (kind, secret, parameters) = (SlotKind::RecoveryCode, code.slot_secret(), Vec::new());
            header.put_recovery(root, &NewSlot { kind, id, secret, parameters }, now_ms, &OsRandom)
        });
        self.state.outcome(&permit, done.as_ref().map(|()| 0));
        done?;
        self.state.tell(now_ms, "keys.recovery-code", "a recovery code was made and confirmed")?;
        Ok(KeyChange { key_file_retired: self.state.retire_key_file(now_ms)?, ..KeyChange::default() })
    }

    /// The key slots; those that the machine keeps are tried.
    pub fn slots(&self, permit: Permit) -> Result<Vec<SlotState>, Error> {
        self.redeem(&permit, Action::ReadKeys)?;
        let header = self.state.keys().header.clone();
        Ok(slot_states(&header, &unlock::rungs(&self.state.places)))
    }

    /// Adds a slot that the machine keeps. Its secret is kept, and read back, before the slot exists.
    pub fn add_slot(&self, permit: Permit, kind: SlotKind, now_ms: u64) -> Result<SlotId, Error> {
        self.redeem(&permit, Action::ManageKeys)?;
        let done = self.state.add_slot(kind, now_ms);
        self.state.outcome(&permit, done.as_ref().map(|_| 0));
        let id = done?;
        self.state.tell(now_ms, "keys.slot-added", &format!("a key slot was added: {kind}"))?;
        Ok(id)
    }

    /// Removes a slot, and then what the machine keeps for it.
    pub fn remove_slot(&self, permit: Permit, id: SlotId, now_ms: u64) -> Result<(), Error> {
        self.redeem(&permit, Action::ManageKeys)?;
        let done = self.state.remove_slots(&[id]);
        self.state.outcome(&permit, done.as_ref().map(|()| 0));
        done?;
        self.state.record(now_ms, "keys.slot-removed", &id.to_string())
    }

    /// Removes every slot that the machine keeps: only the owner opens the vault from here on.
    pub fn clear_stored_keys(&self, permit: Permit, now_ms: u64) -> Result<usize, Error> {
        self.redeem(&permit, Action::ManageKeys)?;
        let header = self.state.keys().header.clone();
        if !header.is_held_by_a_person() {
            let text = "without a password or a confirmed recovery code the stored keys are all that opens the vault";
            return Err(Error::Refused(text));
        }
        let kept = header.slots().iter().filter(|slot| is_kept_by_machine(slot.kind()));
        let kept: Vec<SlotId> = kept.map(crate::header::Slot::id).collect();
        let done = self.state.remove_slots(&kept);
        self.state.outcome(&permit, done.as_ref().map(|()| 0));
        done?;
        self.state.record(now_ms, "keys.stored-cleared", &format!("{} slots", kept.len()))?;
        Ok(kept.len())
    }

    /// Notes that the owner locked the vault: no start opens it by itself. The caller then ends the process.
    pub fn note_locked(&self, permit: Permit) -> Result<(), Error> {
        self.redeem(&permit, Action::Lock)?;
        self.lock_itself()
    }

    /// The same without a request: the machine is about to sleep.
    pub fn lock_itself(&self) -> Result<(), Error> {
        let vault = self.state.keys().header.vault();
        unlock::forget(&vault, &unlock::rungs(&self.state.places));
        self.state.change_header(|header, root| header.set_locked(root, true))
    }
}

/// Each slot, and what is wrong with it as far as the machine can tell.
pub(crate) fn slot_states(header: &Header, rungs: &[Box<dyn Rung>]) -> Vec<SlotState> {
    let state = |slot: &crate::header::Slot| {
        let rung = rungs.iter().find(|rung| rung.kind() == slot.kind());
        let tried = rung.map(|rung| {
            let secret = rung.load(&header.vault(), slot.id(), slot.parameters()).map_err(|why| why.to_string())?;
            header.unlock(slot.id(), &secret).map(drop).map_err(|error| error.to_string())
        });
        let trouble = tried.and_then(Result::err);
        SlotState { id: slot.id(), kind: slot.kind(), created_ms: slot.created_ms(), trouble }
    };
    header.slots().iter().map(state).collect()
}

fn is_kept_by_machine(kind: SlotKind) -> bool {
    !matches!(kind, SlotKind::Password | SlotKind::RecoveryCode)
}

impl Unlocked {
    /// Sets the password's slot, whatever was in it.
    fn put_password(&self, password: &Password, most_mib: u32, now_ms: u64) -> Result<KeyChange, Error> {
        let cost = unlock::calibrate(most_mib)?;
        let (secret, parameters) = unlock::new_password(password, cost, &OsRandom)?;
        self.change_header(|header, root| {
            let old = header.slots().iter().find(|slot| slot.kind() == SlotKind::Password);
            let old = old.map(crate::header::Slot::id);
            let id = old.unwrap_or_else(|| header.free_slot_id());
            let new = NewSlot { kind: SlotKind::Password, id, secret, parameters };
            match old {
                Some(_) => header.replace_slot(root, &new, now_ms, &OsRandom),
                None => header.add_slot(root, &new, now_ms, &OsRandom),
            }
        })?;
        let key_file_retired = self.retire_key_file(now_ms)?;
        Ok(KeyChange { key_file_retired, memory_mib: cost.memory_mib() })
    }

    /// The key file goes once the owner holds a way in and another durable rung restarts the service unattended.
    fn retire_key_file(&self, now_ms: u64) -> Result<bool, Error> {
        let header = self.keys().header.clone();
        let states = slot_states(&header, &unlock::rungs(&self.places));
        let better = |state: &SlotState| {
            is_kept_by_machine(state.kind) && state.kind != SlotKind::KeyFile && state.trouble.is_none()
        };
        let key_files = states.iter().filter(|state| state.kind == SlotKind::KeyFile).map(|state| state.id);
        let key_files: Vec<SlotId> = key_files.collect();
        if key_files.is_empty() || !header.is_held_by_a_person() || !states.iter().any(better) {
            return Ok(false);
        }
        self.remove_slots(&key_files)?;
        self.record(now_ms, "keys.key-file-retired", "")?;
        Ok(true)
    }

    fn add_slot(&self, kind: SlotKind, now_ms: u64) -> Result<SlotId, Error> {
        let (vault, id, has) = {
            let header = &self.keys().header;
            (header.vault(), header.free_slot_id(), header.has(kind))
        };
        if has {
            return Err(Error::Refused("there is a slot of this kind already"));
        }
        let rungs = unlock::rungs(&self.places);
        let rung = rungs
            .iter()
            .find(|rung| rung.kind() == kind)
            .ok_or(Error::Refused("this system has no such place for a key"))?;
        let kept = unlock::new_slot(&vault, rung.as_ref(), id, &OsRandom)?;
        let new = kept.map_err(|why| Error::Locked(format!("{kind}: {why}")))?;
        self.change_header(|header, root| header.add_slot(root, &new, now_ms, &OsRandom))?;
        Ok(id)
    }

    /// Removes slots in one step, and then what the machine keeps for them.
    fn remove_slots(&self, ids: &[SlotId]) -> Result<(), Error> {
        let header = self.keys().header.clone();
        self.change_header(|header, root| ids.iter().try_for_each(|id| header.remove_slot(root, *id)))?;
        let rungs = unlock::rungs(&self.places);
        for slot in header.slots().iter().filter(|slot| ids.contains(&slot.id())) {
            if let Some(rung) = rungs.iter().find(|rung| rung.kind() == slot.kind()) {
                // What stays there opens nothing any more.
                let _useless_now = rung.remove(&header.vault(), slot.id());
            }
        }
        Ok(())
    }

    /// Makes a new root key: an older copy of the header opens nothing that is written from here on.
    ///
    /// Both keys are good until the header holds the new one; a stop at any step leaves the one or the other.
    fn rotate_root(&self) -> Result<(), Error> {
        let mut keys = self.keys();
        let new = RootKey::make(&OsRandom)?;
        let known = self.known_secrets(&keys.header);
        let mut header = keys.header.clone();
        header.rotate(&keys.root, &new, &known, &OsRandom)?;
        self.system.stage_root(&header.vault(), &keys.root, &new)?;
        self.write_header(&header)?;
        self.system.commit_root()?;
        *keys = Keys { header, root: new };
        Ok(())
    }

    /// The secrets that the machine keeps; the other slots get the new key sealed to their public keys.
    fn known_secrets(&self, header: &Header) -> Vec<(SlotId, SlotSecret)> {
        let rungs = unlock::rungs(&self.places);
        let load = |slot: &crate::header::Slot| {
            let rung = rungs.iter().find(|rung| rung.kind() == slot.kind())?;
            let secret = rung.load(&header.vault(), slot.id(), slot.parameters()).ok()?;
            header.unlock(slot.id(), &secret).is_ok().then_some((slot.id(), secret))
        };
        header.slots().iter().filter_map(load).collect()
    }
}
