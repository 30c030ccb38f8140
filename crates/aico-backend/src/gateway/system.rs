//! The system itself: status, the audit log, who is let in, stopping.

use aico_crypto::ComponentKind;
use aico_policy::{Action, Capability, Grant, Permit, Principal, Resource};
use aico_proto::message::{
    AnchorAnswer, AuditAnswer, AuditEntry, DoneAnswer, Failure, FailureCode, PendingAnswer, StatusAnswer,
};
use base64ct::{Base64, Encoding};
use tokio::task::block_in_place;

use crate::access::{now_ms, on_system, permit};
use crate::backend::Running;
use crate::error::{bad_request, failure};

/// Most entries in one answer.
const MAX_TAIL: u32 = 100;

pub(crate) fn status(running: &Running, principal: &Principal) -> Result<StatusAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, principal, Action::ReadStatus)?;
        let state = running.vault().state(permit).map_err(|error| failure(&error))?;
        Ok(StatusAnswer {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint: running.fingerprint().to_string(),
            locked: false,
            unlocked_by: state.unlocked_by,
            weakest_slot: state.weakest_slot,
            recovery_code: state.recovery_code,
            data_bytes: state.data_bytes,
            values: state.values,
            audit_entries: state.audit_entries,
            uptime_s: running.uptime().as_secs(),
            connections: running.connections(),
            // Only the owner's own tool takes them: another client could swallow them.
            notices: if is_owners_tool(principal) { running.take_notices() } else { Vec::new() },
        })
    })
}

fn is_owners_tool(principal: &Principal) -> bool {
    principal.identity().kind() == ComponentKind::Cli
}

pub(crate) fn audit_tail(running: &Running, principal: &Principal, count: u32) -> Result<AuditAnswer, Failure> {
    if count == 0 || count > MAX_TAIL {
        return Err(bad_request("`count` is 1 to 100"));
    }
    block_in_place(|| {
        let permit = system_permit(running, principal, Action::ReadAudit)?;
        let events = running.vault().audit_tail(permit, u64::from(count)).map_err(|error| failure(&error))?;
        let entries = events.into_iter().map(|(index, event)| AuditEntry { index, event }).collect();
        Ok(AuditAnswer { entries })
    })
}

pub(crate) fn audit_anchor(running: &Running, principal: &Principal) -> Result<AnchorAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, principal, Action::ReadAudit)?;
        let anchor = running.vault().anchor(permit).map_err(|error| failure(&error))?;
        let (size, root) = anchor.head.map_or((0, String::new()), |h| (h.size, Base64::encode_string(&h.root)));
        Ok(AnchorAnswer { key: anchor.key.to_text(), size, root })
    })
}

pub(crate) fn pending(running: &Running, principal: &Principal) -> Result<PendingAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, principal, Action::Enrol)?;
        running.vault().note_use(permit).map_err(|error| failure(&error))?;
        Ok(PendingAnswer { pending: running.waiting().list() })
    })
}

pub(crate) fn approve(running: &Running, principal: &Principal, fingerprint: &str) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let identity = running.waiting().identity(fingerprint).ok_or_else(nobody_waits)?;
        let permit = component_permit(running, principal, &identity)?;
        let grant = Grant::for_enrolment(&identity, now_ms());
        running.vault().enrol(permit, &identity, &grant, now_ms()).map_err(|error| failure(&error))?;
        running.enrolled().add(identity, grant);
        if let Some((_, decide)) = running.waiting().take(fingerprint) {
            let _gone = decide.send(true);
        }
        Ok(DoneAnswer {})
    })
}

pub(crate) fn deny(running: &Running, principal: &Principal, fingerprint: &str) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let identity = running.waiting().identity(fingerprint).ok_or_else(nobody_waits)?;
        let permit = component_permit(running, principal, &identity)?;
        running.vault().note_use(permit).map_err(|error| failure(&error))?;
        let (_, decide) = running.waiting().take(fingerprint).ok_or_else(nobody_waits)?;
        let _gone = decide.send(false);
        Ok(DoneAnswer {})
    })
}

pub(crate) fn stop(running: &Running, principal: &Principal) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, principal, Action::Stop)?;
        running.vault().note_use(permit).map_err(|error| failure(&error))?;
        Ok(DoneAnswer {})
    })
}

fn system_permit(running: &Running, principal: &Principal, action: Action) -> Result<Permit, Failure> {
    permit(running.vault(), running.enrolled(), principal, on_system(action))
}

fn component_permit(
    running: &Running,
    principal: &Principal,
    identity: &aico_crypto::Identity,
) -> Result<Permit, Failure> {
    let capability = Capability::new(Action::Enrol, Resource::Component(*identity.key()));
    permit(running.vault(), running.enrolled(), principal, capability)
}

fn nobody_waits() -> Failure {
    let message = "no identity with this fingerprint waits".to_owned();
    let hint = Some("`aico identity pending` shows who does".to_owned());
    Failure { code: FailureCode::NotFound, message, hint }
}
