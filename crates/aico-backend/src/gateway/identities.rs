//! Who is let in, under which name, and who is not any more.

use aico_crypto::{ComponentKind, Identity, MAX_NAME_BYTES, Name, PublicKey};
use aico_policy::{Action, Capability, Grant, Permit, Resource};
use aico_proto::message::{DoneAnswer, Failure, FailureCode, IdentitiesAnswer, IdentityEntry, PendingAnswer};
use tokio::task::block_in_place;

use crate::access::{now_ms, permit, system_permit};
use crate::backend::Running;
use crate::error::{bad_request, failure};
use crate::sessions::Caller;

pub(crate) fn pending(running: &Running, caller: &Caller) -> Result<PendingAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::ReadIdentities)?;
        running.vault().note_use(permit).map_err(|error| failure(&error))?;
        Ok(PendingAnswer { pending: running.waiting().list() })
    })
}

pub(crate) fn approve(running: &Running, caller: &Caller, fingerprint: &str) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let identity = running.waiting().identity(fingerprint).ok_or_else(nobody_waits)?;
        enrol(running, caller, &identity)?;
        if let Some((_, decide)) = running.waiting().take(fingerprint) {
            let _gone = decide.send(true);
        }
        Ok(DoneAnswer {})
    })
}

pub(crate) fn deny(running: &Running, caller: &Caller, fingerprint: &str) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let identity = running.waiting().identity(fingerprint).ok_or_else(nobody_waits)?;
        let permit = component_permit(running, caller, Action::ManageIdentities, &identity)?;
        running.vault().note_use(permit).map_err(|error| failure(&error))?;
        let (_, decide) = running.waiting().take(fingerprint).ok_or_else(nobody_waits)?;
        let _gone = decide.send(false);
        Ok(DoneAnswer {})
    })
}

/// Enrols a key that the owner's tool has made for somebody.
pub(crate) fn add(
    running: &Running,
    caller: &Caller,
    kind: &str,
    name: &str,
    key: &str,
) -> Result<DoneAnswer, Failure> {
    let bad = |error: aico_crypto::Error| bad_request(error.to_string());
    let (kind, name) = (ComponentKind::from_text(kind).map_err(bad)?, Name::parse(name).map_err(bad)?);
    let identity = Identity::new(kind, PublicKey::from_text(key).map_err(bad)?, name);
    block_in_place(|| enrol(running, caller, &identity).map(|()| DoneAnswer {}))
}

fn enrol(running: &Running, caller: &Caller, identity: &Identity) -> Result<(), Failure> {
    if running.enrolled().is_revoked(identity.key()) {
        return Err(bad_request("this identity was revoked; a new one can be made"));
    }
    if !running.enrolled().is_allowed(identity.kind()) {
        return Err(bad_request("components of this kind may not connect (`allowed_components`)"));
    }
    let permit = component_permit(running, caller, Action::Enrol, identity)?;
    let grant = Grant::for_enrolment(identity, now_ms());
    running.vault().enrol(permit, identity, &grant, now_ms()).map_err(|error| failure(&error))?;
    running.enrolled().add(identity.clone(), grant);
    Ok(())
}

pub(crate) fn list(running: &Running, caller: &Caller) -> Result<IdentitiesAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::ReadIdentities)?;
        running.vault().note_use(permit).map_err(|error| failure(&error))?;
        let components = running.vault().components().map_err(|error| failure(&error))?;
        let revoked = running.vault().revoked().map_err(|error| failure(&error))?;
        let grants = running.enrolled().everybody();
        let enrolled = components.into_iter().map(|component| {
            let identity = component.identity;
            let held = grants.iter().filter(|(holder, _)| *holder == identity).flat_map(|(_, grant)| grant.actions());
            let actions = held.map(|action| action.as_str().to_owned()).collect();
            entry(&identity, component.shown_as, "enrolled", component.enrolled_ms, actions)
        });
        let revoked = revoked.iter().map(|(identity, at_ms)| entry(identity, None, "revoked", *at_ms, Vec::new()));
        Ok(IdentitiesAnswer { identities: enrolled.chain(revoked).collect() })
    })
}

fn entry(
    identity: &Identity,
    shown_as: Option<String>,
    state: &str,
    since_ms: u64,
    actions: Vec<String>,
) -> IdentityEntry {
    IdentityEntry {
        kind: identity.kind().as_str().to_owned(),
        name: identity.name().as_str().to_owned(),
        shown_as,
        fingerprint: identity.fingerprint().to_string(),
        state: state.to_owned(),
        since_ms,
        actions,
    }
}

pub(crate) fn rename(running: &Running, caller: &Caller, fingerprint: &str, name: &str) -> Result<DoneAnswer, Failure> {
    if name.is_empty() || name.len() > 4 * MAX_NAME_BYTES || name.chars().any(char::is_control) {
        return Err(bad_request("a name has 1 to 124 bytes and no control characters"));
    }
    block_in_place(|| {
        let identity = enrolled(running, fingerprint)?;
        let permit = component_permit(running, caller, Action::ManageIdentities, &identity)?;
        running.vault().show_as(permit, &identity, name).map_err(|error| failure(&error))?;
        Ok(DoneAnswer {})
    })
}

/// Revokes an identity; its key, so that its connections can be cut.
pub(crate) fn revoke(running: &Running, caller: &Caller, fingerprint: &str) -> Result<PublicKey, Failure> {
    block_in_place(|| {
        let identity = enrolled(running, fingerprint)?;
        let permit = component_permit(running, caller, Action::ManageIdentities, &identity)?;
        running.vault().revoke(permit, &identity, now_ms()).map_err(|error| failure(&error))?;
        running.enrolled().revoke(*identity.key());
        running.sessions().end_of(identity.key());
        Ok(*identity.key())
    })
}

fn enrolled(running: &Running, fingerprint: &str) -> Result<Identity, Failure> {
    running.enrolled().by_fingerprint(fingerprint).ok_or_else(|| {
        let message = "no identity with this fingerprint is enrolled".to_owned();
        let hint = Some("`aico identity list` shows who is".to_owned());
        Failure { code: FailureCode::NotFound, message, hint }
    })
}

fn component_permit(
    running: &Running,
    caller: &Caller,
    action: Action,
    identity: &Identity,
) -> Result<Permit, Failure> {
    permit(running, caller, Capability::new(action, Resource::Component(*identity.key())))
}

fn nobody_waits() -> Failure {
    let message = "no identity with this fingerprint waits".to_owned();
    let hint = Some("`aico identity pending` shows who does".to_owned());
    Failure { code: FailureCode::NotFound, message, hint }
}
