//! From a request to a permit: decide, record, and only then act.

use std::time::{SystemTime, UNIX_EPOCH};

use aico_policy::{Action, Capability, Circumstances, DataPath, Missing, Permit, Resource, decide};
use aico_proto::message::{Failure, FailureCode};

use crate::backend::Running;
use crate::error::{bad_request, failure};
use crate::sessions::Caller;

/// Decides on one request and records the decision. The permit is the only way into the vault.
pub(crate) fn permit(running: &Running, caller: &Caller, capability: Capability) -> Result<Permit, Failure> {
    let grants = running.enrolled().grants(caller.principal.identity());
    let presence = caller.presence(running.sessions());
    let sensitivity = running.vault().sensitivities().of_resource(&capability.resource);
    let around = Circumstances { presence, protected: running.vault().is_protected(), now_ms: now_ms(), sensitivity };
    match decide(&caller.principal, &grants, capability, &around).record(running.vault().log()) {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(denied)) => {
            let (code, hint) = match denied.missing {
                Some(Missing::Authentication) => {
                    (FailureCode::Authenticate, "run it on a terminal, or give `--password-file FILE`")
                }
                Some(Missing::Confirmation) => {
                    (FailureCode::Confirm, "run it on a terminal; `aico security setup` sets a password instead")
                }
                None => (FailureCode::Denied, "an enrolled command line can give a grant"),
            };
            Err(Failure { code, message: denied.reason, hint: Some(hint.to_owned()) })
        }
        Err(error) => Err(failure(&error)),
    }
}

/// An action on the system.
pub(crate) fn system_permit(running: &Running, caller: &Caller, action: Action) -> Result<Permit, Failure> {
    permit(running, caller, Capability::new(action, Resource::System))
}

/// An action on the value at `path`.
pub(crate) fn on_value(action: Action, path: &str) -> Result<Capability, Failure> {
    let path = DataPath::parse(path).map_err(|error| bad_request(error.to_string()))?;
    Ok(Capability::new(action, Resource::Value(path)))
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
