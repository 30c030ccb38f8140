//! Forgetting: keys are destroyed, and with them what they opened (`docs/spec/vault-stores.md`, Forgetting).

use aico_policy::{Action, CONVERSATIONS, Permit, Resource};

use super::{Unlocked, Vault, WRONG_RESOURCE};
use crate::Error;

impl Vault<Unlocked> {
    /// Destroys the keys of everything whose path starts with the permit's prefix, `conversations/<id>/` or
    /// `<category>/`, and then what they opened. Returns the number of values.
    ///
    /// An old copy of the stores still has the names: a rotation afterwards closes that too.
    pub fn forget(&self, permit: Permit) -> Result<usize, Error> {
        self.redeem(&permit, Action::Forget)?;
        let Resource::Values(prefix) = &permit.capability().resource else { return Err(WRONG_RESOURCE) };
        let name = forgettable(prefix).ok_or(WRONG_RESOURCE)?;
        let forgotten = self.state.owner.forget(name, &self.state.journal.log().head());
        self.state.outcome(&permit, forgotten.as_ref().map(|_| 0));
        forgotten
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
