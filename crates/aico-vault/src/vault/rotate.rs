//! New keys for everything, while everything goes on (`docs/spec/vault-stores.md`, Rotation).

use std::sync::PoisonError;
use std::time::Instant;

use aico_crypto::{OsRandom, SpaceKey};
use aico_policy::{Action, Permit};

use super::{HEADER, Unlocked, Vault, spaces};
use crate::Error;
use crate::header::Header;
use crate::store::Commit;
use crate::system::System;
use crate::user_data::Renewed;

/// Which epoch of the owner's space and of the system space a rotation that is under way makes.
const UNDER_WAY: &str = "rotation";
/// When the last one was complete, in milliseconds since 1970.
const COMPLETE: &str = "rotated";

/// Hears how far a rotation is, and says whether to go on.
pub type Tell<'a> = &'a mut (dyn FnMut(Progress) -> bool + Send);

/// How far a rotation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What gets new keys now.
    pub part: &'static str,
    /// Bytes that have them.
    pub done: u64,
    /// All of them, where that is known.
    pub of: Option<u64>,
}

/// What a rotation did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rotated {
    /// The epoch of the owner's space now.
    pub epoch: u32,
    /// Bytes of values that were sealed anew.
    pub bytes: u64,
    /// Values that are damaged and stay what they are.
    pub damaged: u64,
    /// How long it took, in milliseconds; the part before a stop is not in it.
    pub took_ms: u64,
}

impl Vault<Unlocked> {
    /// Gives every store a new random key and destroys the old ones, while the vault is used; complete when this returns.
    ///
    /// # Errors
    /// After any of them the vault goes on as it was; [`Vault::continue_rotation`] takes it up again.
    pub fn rotate(&self, permit: Permit, now_ms: u64, tell: Tell<'_>) -> Result<Rotated, Error> {
        self.redeem(&permit, Action::RotateKeys)?;
        let done = self.state.rotate(now_ms, tell);
        self.state.outcome(&permit, done.as_ref().map(|rotated| rotated.bytes));
        done
    }

    /// When the stores last got new keys: the last rotation, or the making of the vault. In milliseconds since 1970.
    pub fn rotated_ms(&self) -> Result<u64, Error> {
        let kept = self.state.system.setting(COMPLETE)?.and_then(|bytes| bytes.try_into().ok());
        Ok(kept.map_or_else(|| self.state.keys().header.created_ms(), u64::from_be_bytes))
    }

    /// Whether a rotation was begun and is not complete.
    pub fn is_rotation_under_way(&self) -> Result<bool, Error> {
        Ok(self.state.system.setting(UNDER_WAY)?.is_some_and(|targets| !targets.is_empty()))
    }

    /// Rotates without being asked: because it is time, because something was forgotten, or because a stop came in between.
    pub fn continue_rotation(&self, now_ms: u64, tell: Tell<'_>) -> Result<Rotated, Error> {
        self.state.rotate(now_ms, tell)
    }
}

impl Unlocked {
    fn rotate(&self, now_ms: u64, tell: Tell<'_>) -> Result<Rotated, Error> {
        let _one_at_a_time = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let began = Instant::now();
        let (of_owner, of_system) = self.targets()?;
        let renewed = self.rotate_owner(of_owner, tell)?;
        self.rotate_system(of_system, tell)?;
        self.drop_old_histories()?;
        self.system.put_setting(COMPLETE, &now_ms.to_be_bytes(), &self.journal.log().head())?;
        self.system.put_setting(UNDER_WAY, &[], &self.journal.log().head())?;
        let Renewed { bytes, damaged, .. } = renewed;
        let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.record(now_ms, "keys.rotated", &format!("epoch {of_owner}, {bytes} bytes"))?;
        if damaged > 0 {
            let text = format!("{damaged} damaged values kept their old keys; `aico vault verify` names them");
            self.tell(now_ms, "keys.rotated-in-part", &text)?;
        }
        Ok(Rotated { epoch: of_owner, bytes, damaged, took_ms })
    }

    /// The epochs to reach: those of a rotation that was stopped, or the next ones.
    pub(super) fn targets(&self) -> Result<(u32, u32), Error> {
        if let Some(kept) = self.system.setting(UNDER_WAY)?
            && let Ok::<[u8; 8], _>(kept) = kept.try_into()
        {
            let both = u64::from_be_bytes(kept);
            return Ok(((both >> 32) as u32, both as u32));
        }
        const END: Error = Error::Misuse("there is no epoch left");
        let of_owner = self.system.owner_epoch()?.1.checked_add(1).ok_or(END)?;
        let of_system = self.keys().header.system_space().1.checked_add(1).ok_or(END)?;
        let both = u64::from(of_owner) << 32 | u64::from(of_system);
        self.system.put_setting(UNDER_WAY, &both.to_be_bytes(), &self.journal.log().head())?;
        Ok((of_owner, of_system))
    }

    fn rotate_owner(&self, epoch: u32, tell: Tell<'_>) -> Result<Renewed, Error> {
        let (id, found) = self.system.owner_epoch()?;
        let owner = self.owner();
        let tree = self.tree_if_any()?;
        let in_tree = tree.as_ref().map_or(Ok(0), |tree| tree.file_bytes())?;
        let of = Some(owner.file_bytes()?.saturating_add(in_tree));
        let mut renewed = owner.renew(epoch, &mut |done| tell(Progress { part: "files", done: done.bytes, of }))?;
        if let Some(tree) = tree {
            let before = renewed.bytes;
            let mut go_on = |done| tell(Progress { part: "files", done: before.saturating_add(done), of });
            let files = tree.renew(epoch, &mut go_on)?;
            renewed.bytes = before.saturating_add(files.bytes);
            renewed.damaged = renewed.damaged.saturating_add(files.damaged);
        }
        if found >= epoch {
            return Ok(renewed);
        }
        let key = SpaceKey::make(&OsRandom)?;
        match self.renew_memory(epoch, &key, tell) {
            Ok(bytes) => renewed.bytes = renewed.bytes.saturating_add(bytes),
            Err(error) => {
                let _next_time = self.drop_next_memory(epoch);
                return Err(error);
            }
        }
        let path = spaces::store(&spaces::folder(&self.places.home, &id), epoch);
        let mut pages = |done, of| tell(Progress { part: "database", done: done * 4096, of: Some(of * 4096) });
        let store_key = key.store_key();
        let duplicate = key.duplicate();
        let commit = || {
            self.begin_memory_epoch(epoch, &duplicate, || {
                let keys = self.keys();
                let (vault, head) = (keys.header.vault(), self.journal.log().head());
                owner.keys().renew(key, |rewrap| {
                    match self.system.begin_epoch(&vault, &keys.root, (&id, epoch, &duplicate), rewrap, &head) {
                        Ok(()) => (true, Commit::Done),
                        // A failed disk leaves open whether the transaction is there.
                        Err(error @ Error::Sqlite { .. }) => (false, Commit::Unclear(error)),
                        Err(error) => (false, Commit::Not(error)),
                    }
                })
            })
        };
        if let Err(error) = owner.database().rekey(&path, store_key, &mut pages, |_| Ok(()), commit) {
            let _next_time = self.drop_next_memory(epoch);
            return Err(error);
        }
        self.drop_old_memories()?;
        Ok(renewed)
    }

    fn rotate_system(&self, epoch: u32, tell: Tell<'_>) -> Result<(), Error> {
        // Nobody changes the header meanwhile; what is in this space is small.
        let mut keys = self.keys();
        let (id, found) = keys.header.system_space();
        if found >= epoch {
            return Ok(());
        }
        let (vault, old, key) =
            (keys.header.vault(), keys.header.system_space_key(&keys.root)?, SpaceKey::make(&OsRandom)?);
        let mut header = keys.header.clone();
        header.begin_epoch(&keys.root, epoch, &key, &OsRandom)?;
        let path = spaces::store(&spaces::folder(&self.places.home, &id), epoch);
        let mut pages = |done, of| tell(Progress { part: "keys", done: done * 4096, of: Some(of * 4096) });
        let file = self.places.home.join(HEADER);
        let commit = || match header.write(&file) {
            Ok(()) => Commit::Done,
            // The last of its steps is the name; before it, the old header is there.
            Err(error) => match Header::read(&file) {
                Ok(there) if there.revision() < header.revision() => Commit::Not(error),
                _ => Commit::Unclear(error),
            },
        };
        let last = |copy: &rusqlite::Connection| System::rewrap(copy, &vault, &old, &key);
        self.system.database().rekey(&path, key.store_key(), &mut pages, last, commit)?;
        let revision = header.revision();
        keys.header = header;
        drop(keys);
        self.system.put_setting(super::REVISION, &revision.to_be_bytes(), &self.journal.log().head())
    }
}
