//! The configuration: what is in force, what waits, and the owner's word on it.

use aico_policy::Action;
use aico_proto::message::{ConfigAnswer, DoneAnswer, Failure};
use tokio::task::block_in_place;

use crate::access::{now_ms, system_permit};
use crate::backend::Running;
use crate::error::{bad_request, failure};
use crate::sessions::Caller;
use crate::setup::{Edit, Setup};

pub(crate) fn show(running: &Running, caller: &Caller) -> Result<ConfigAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::ReadConfig)?;
        running.vault().note_use(permit).map_err(|error| failure(&error))?;
        let setup = running.setup();
        let edit = setup.edit(&running.places().home).map_err(|error| bad_request(error.to_string()))?;
        let (waiting, sum, fault) = match edit {
            Edit::None { sum } => (Vec::new(), sum, None),
            Edit::Changes { changes, sum, .. } => (changes.iter().map(ToString::to_string).collect(), sum, None),
            Edit::Fault { fault, sum } => (Vec::new(), sum, Some(fault)),
        };
        Ok(ConfigAnswer { in_force: setup.in_force(), waiting, sum, fault })
    })
}

/// Accepts exactly the text that the owner has seen.
pub(crate) fn accept(running: &Running, caller: &Caller, seen: &str) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let edit = running.setup().edit(&running.places().home).map_err(|error| bad_request(error.to_string()))?;
        let (text, sum) = match edit {
            Edit::None { .. } => return Err(bad_request("the file says what is in force already")),
            Edit::Fault { fault, .. } => return Err(bad_request(fault)),
            Edit::Changes { text, sum, .. } => (text, sum),
        };
        if sum != seen {
            return Err(bad_request("the file has changed since it was shown; look at it again"));
        }
        let permit = system_permit(running, caller, Action::AcceptConfig)?;
        running.vault().note_use(permit).map_err(|error| failure(&error))?;
        let setup = Setup::accept(running.vault(), &text, now_ms()).map_err(|error| bad_request(error.to_string()))?;
        running.replace_setup(setup);
        Ok(DoneAnswer {})
    })
}
