//! Questions over the access history (`docs/spec/history.md`).

use std::sync::{MutexGuard, PoisonError};

use aico_policy::{Action, Permit};

use super::{Unlocked, Vault, spaces};
use crate::store::{History, sweep_histories};
use crate::{Answer, Error};

/// What the history's file was like when it was closed.
const STATE: &str = "history";

impl Vault<Unlocked> {
    /// Answers a question over everything that the audit log holds, this question among it.
    ///
    /// # Errors
    /// [`Error::Question`] with what the engine says of it.
    pub fn query(&self, permit: Permit, sql: &str) -> Result<Answer, Error> {
        self.redeem(&permit, Action::ReadAudit)?;
        let log = self.state.journal.log();
        // As in a tail: a full disk hides only what is not written yet.
        let _shown_without = log.wait_durable(permit.receipt().index);
        let _one_at_a_time = self.state.asking();
        let keys = self.state.keys();
        let (id, epoch) = keys.header.system_space();
        let key = keys.header.system_space_key(&keys.root)?.history_key();
        drop(keys);
        let history = History::new(spaces::folder(&self.state.places.home, &id), epoch);
        let remembered = self.state.system.setting(STATE)?;
        let state = history.follow(&key, log, remembered.as_deref())?;
        self.state.system.put_setting(STATE, &state, &log.head())?;
        history.ask(&key, sql)
    }
}

impl Unlocked {
    fn asking(&self) -> MutexGuard<'_, ()> {
        self.asking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the histories under keys that are no more. The next question makes a new one.
    pub(super) fn drop_old_histories(&self) -> Result<(), Error> {
        let _nobody_asks = self.asking();
        let (id, epoch) = self.keys().header.system_space();
        sweep_histories(&spaces::folder(&self.places.home, &id), epoch)
    }
}
