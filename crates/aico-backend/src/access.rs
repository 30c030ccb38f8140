//! From a request to a permit: decide, record, and only then act.

use std::time::{SystemTime, UNIX_EPOCH};

use aico_policy::{Action, Capability, DataPath, Permit, Principal, Resource, decide};
use aico_proto::message::{Failure, FailureCode};
use aico_vault::{Unlocked, Vault};

use crate::enrolment::Enrolled;
use crate::error::{bad_request, failure};

/// Decides on one request and records the decision. The permit is the only way into the vault.
pub(crate) fn permit(
    vault: &Vault<Unlocked>,
    enrolled: &Enrolled,
    principal: &Principal,
    capability: Capability,
) -> Result<Permit, Failure> {
    let grants = enrolled.grants(principal.identity());
    let decision = decide(principal, &grants, capability, now_ms());
    match decision.record(vault.log()) {
        Ok(Ok(permit)) => Ok(permit),
        Ok(Err(denied)) => Err(Failure {
            code: FailureCode::Denied,
            message: denied.reason,
            hint: Some("an enrolled command line can give a grant".to_owned()),
        }),
        Err(error) => Err(failure(&error)),
    }
}

/// An action on the value at `path`.
pub(crate) fn on_value(action: Action, path: &str) -> Result<Capability, Failure> {
    let path = DataPath::parse(path).map_err(|error| bad_request(error.to_string()))?;
    Ok(Capability::new(action, Resource::Value(path)))
}

/// An action on the system.
pub(crate) fn on_system(action: Action) -> Capability {
    Capability::new(action, Resource::System)
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
