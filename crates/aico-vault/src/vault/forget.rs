//! Forgetting: keys are destroyed, and with them what they opened (`docs/spec/vault-stores.md`, Forgetting).

use std::sync::PoisonError;

use aico_crypto::{OsRandom, SpaceKey};
use aico_policy::{Action, CONVERSATIONS, Permit, Resource};

use super::{Unlocked, Vault, WRONG_RESOURCE, spaces};
use crate::Error;
use crate::header::SpaceId;
use crate::store::UNCLEAR;
use crate::system::OwnerSpace;

impl Vault<Unlocked> {
    /// Destroys the keys of everything whose path starts with the permit's prefix, and then what they opened: of
    /// `conversations/<id>/`, of `<category>/`, or of the whole space where it is empty. Returns the number of values.
    ///
    /// An old copy of the stores still has the names of a conversation or category: a rotation is under way from here on, for
    /// [`Vault::continue_rotation`] to complete.
    pub fn forget(&self, permit: Permit) -> Result<u64, Error> {
        self.redeem(&permit, Action::Forget)?;
        let Resource::Values(prefix) = &permit.capability().resource else { return Err(WRONG_RESOURCE) };
        let forgotten = match (prefix.as_str(), forgettable(prefix)) {
            ("", _) => self.state.forget_space(),
            // An old copy of the stores has the names still: they need a new key, too.
            (_, Some(name)) => self.state.targets().and_then(|_| {
                let remembered = self.state.forget_memory(name)?;
                let head = self.state.journal.log().head();
                Ok(self.state.owner().forget(name, &head)?.saturating_add(remembered))
            }),
            (_, None) => return Err(WRONG_RESOURCE),
        };
        self.state.outcome(&permit, forgotten.as_ref().map(|_| 0));
        forgotten
    }
}

impl Unlocked {
    /// Puts an empty space in the place of the owner's. The old one's key is destroyed in the step that does so.
    fn forget_space(&self) -> Result<u64, Error> {
        // A rotation in between would give the old space a new key.
        let _no_rotation = self.rotating.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.system.owner_epoch()?.0;
        let values = self.owner().count()?;
        let new = OwnerSpace { id: SpaceId::make(&OsRandom)?, epoch: 0, key: SpaceKey::make(&OsRandom)? };
        let home = &self.places.home;
        self.system.note_removed_space(&new.id)?;
        let _closed = self.close_memory();
        let keys = self.keys();
        let vault = keys.header.vault();
        let owner = spaces::open_owner(home, vault, &self.system, &new, true)?;
        owner.set_sensitivities(self.owner().sensitivities());
        let replaced = self.system.replace_owner(&vault, &keys.root, (&old, &new), &self.journal.log().head());
        if let Err(Error::Sqlite { .. }) = replaced {
            // A failed disk leaves open whether the transaction is there.
            self.owner().database().end_writing(UNCLEAR);
        }
        replaced?;
        drop(keys);
        self.end_tree();
        let before = std::mem::replace(&mut *self.owner.write().unwrap_or_else(PoisonError::into_inner), owner);
        before.database().end_writing("the space was forgotten");
        self.system.database().settle()?;
        spaces::remove(home, &self.system, &old)?;
        Ok(values)
    }
}

/// The name of what has keys of its own: a category, or a conversation.
fn forgettable(prefix: &str) -> Option<&str> {
    let name = prefix.strip_suffix('/')?;
    let parts: Vec<&str> = name.split('/').collect();
    match parts.as_slice() {
        ["" | "." | ".."] | [_, "" | "." | ".."] => None,
        [_] | [CONVERSATIONS, _] => Some(name),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_a_key_of_its_own_is_forgotten() {
        assert_eq!(forgettable("notes/"), Some("notes"));
        assert_eq!(forgettable("conversations/"), Some("conversations"));
        assert_eq!(forgettable("conversations/7/"), Some("conversations/7"));
        for other in ["", "/", "notes", "notes/a/", "conversations/7/a/", "conversations//", "../", "conversations/../"]
        {
            assert_eq!(forgettable(other), None, "{other}");
        }
    }
}
