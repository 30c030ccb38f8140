//! Deny by default, grants, and the way from a decision to a permit.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;

use aico_crypto::{ComponentKind, GrantKey, Identity, IdentitySecret, Name, OsRandom};
use aico_policy::{
    Action, AuditSink, Capability, DataPath, Error, Event, Grant, Principal, Receipt, Resource, SignedGrant, What,
    decide,
};
use aico_proto::LocalIdentity;
use proptest::prelude::*;

/// A log in memory: decisions are recorded for real, only not on disk.
#[derive(Default)]
struct Memory(RefCell<Vec<Event>>);

impl AuditSink for Memory {
    type Error = std::convert::Infallible;

    fn record(&self, event: &Event) -> Result<Receipt, Self::Error> {
        self.0.borrow_mut().push(event.clone());
        Ok(Receipt { log: [0; 16], index: self.0.borrow().len() as u64 - 1, leaf: [0; 32] })
    }
}

fn local(kind: ComponentKind) -> LocalIdentity {
    let secret = IdentitySecret::make(&OsRandom).unwrap();
    let identity = Identity::new(kind, *secret.public(), Name::parse("somebody").unwrap());
    LocalIdentity::new(secret, identity).unwrap()
}

fn read(path: &str) -> Capability {
    Capability::new(Action::ReadData, Resource::Value(DataPath::parse(path).unwrap()))
}

fn capability(action: Action) -> Capability {
    Capability::new(action, Resource::System)
}

#[test]
fn without_a_grant_everything_is_denied_and_recorded() {
    let (log, local) = (Memory::default(), local(ComponentKind::Cli));
    let principal = Principal::from_own_identity(&local);
    for action in Action::ALL.into_iter().filter(|a| *a != Action::Enrol) {
        let denied = decide(&principal, &[], capability(action), 5).record(&log).unwrap().unwrap_err();
        assert!(denied.reason.contains(action.as_str()), "{}", denied.reason);
    }
    assert_eq!(log.0.borrow().len(), Action::ALL.len() - 1);
    assert!(log.0.borrow().iter().all(|e| matches!(e.what, What::Denied(..))));
}

#[test]
fn a_permit_names_what_was_recorded() {
    let (log, local) = (Memory::default(), local(ComponentKind::Cli));
    let principal = Principal::from_own_identity(&local);
    let grant = Grant::for_enrolment(local.identity(), 1);
    let permit = decide(&principal, &[grant], read("notes/a"), 5).record(&log).unwrap().unwrap();
    assert_eq!(*permit.event(), log.0.borrow()[0]);
    assert_eq!(*permit.capability(), read("notes/a"));
    assert_eq!(permit.receipt().index, 0);
}

#[test]
fn kinds_get_what_they_need() {
    let may = |kind, action| {
        let local = local(kind);
        Grant::for_enrolment(local.identity(), 1).covers(local.identity(), &capability(action), 2)
    };
    assert!(may(ComponentKind::Cli, Action::Stop) && may(ComponentKind::Cli, Action::Enrol));
    assert!(may(ComponentKind::Frontend, Action::WriteData) && !may(ComponentKind::Frontend, Action::Enrol));
    assert!(may(ComponentKind::Studio, Action::ReadAudit) && !may(ComponentKind::Studio, Action::ReadData));
    assert!(Action::ALL.into_iter().all(|a| !may(ComponentKind::Plugin, a) && !may(ComponentKind::Backend, a)));
}

#[test]
fn a_grant_holds_for_its_holder_its_time_and_its_categories() {
    let (mine, other) = (local(ComponentKind::Cli), local(ComponentKind::Cli));
    let grant = Grant::for_enrolment(mine.identity(), 10).until(20).limited_to(&["notes"]);
    let covers = |local: &LocalIdentity, cap: &Capability, now| grant.covers(local.identity(), cap, now);
    assert!(covers(&mine, &read("notes/a"), 10) && covers(&mine, &read("notes/a"), 19));
    assert!(!covers(&mine, &read("notes/a"), 9), "too early");
    assert!(!covers(&mine, &read("notes/a"), 20), "too late");
    assert!(!covers(&mine, &read("photos/a"), 15), "another category");
    assert!(!covers(&mine, &read("notesx/a"), 15), "a category that only starts alike");
    assert!(!covers(&other, &read("notes/a"), 15), "another holder");
    let list = |prefix: &str| Capability::new(Action::ListData, Resource::Values(prefix.into()));
    assert!(covers(&mine, &list("notes/x"), 15));
    assert!(!covers(&mine, &list(""), 15), "all categories");
    assert!(!covers(&mine, &list("note"), 15), "a prefix that spans categories");
}

#[test]
fn a_signed_grant_survives_and_every_flip_is_noticed() {
    let (key, local) = (GrantKey::make(&OsRandom).unwrap(), local(ComponentKind::Frontend));
    let grant = Grant::for_enrolment(local.identity(), 10).limited_to(&["notes"]);
    let signed = grant.sign(&key).unwrap();
    assert_eq!(signed.verify(&key.public().unwrap()).unwrap(), grant);
    for at in 0..signed.bytes.len() {
        let mut bad = signed.clone();
        bad.bytes[at] ^= 1;
        assert_eq!(bad.verify(&key.public().unwrap()), Err(Error::GrantSignature));
    }
    for at in 0..signed.signature.len() {
        let mut bad = signed.clone();
        bad.signature[at] ^= 1;
        assert_eq!(bad.verify(&key.public().unwrap()), Err(Error::GrantSignature));
    }
    let stranger = GrantKey::make(&OsRandom).unwrap();
    assert_eq!(signed.verify(&stranger.public().unwrap()), Err(Error::GrantSignature));
}

#[test]
fn well_signed_rubbish_is_no_grant() {
    let key = GrantKey::make(&OsRandom).unwrap();
    for bytes in [&b"{}"[..], b"[]", br#"{"aico_grant":2}"#, b"", &[b' '; 5000]] {
        let signed = SignedGrant { bytes: bytes.to_vec(), signature: key.sign(bytes).unwrap() };
        assert!(matches!(signed.verify(&key.public().unwrap()), Err(Error::GrantForm(_))));
    }
}

proptest! {
    #[test]
    fn random_grants_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..300), tail: [u8; 32]) {
        let key = GrantKey::make(&OsRandom).unwrap();
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&tail);
        let grant = SignedGrant { bytes, signature };
        prop_assert!(grant.verify(&key.public().unwrap()).is_err());
    }
}
