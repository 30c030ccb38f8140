//! Deny by default, grants, and the way from a decision to a permit.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::cell::RefCell;

use aico_crypto::{ComponentKind, GrantKey, Identity, IdentitySecret, Name, OsRandom};
use aico_policy::{
    Action, AuditSink, Capability, Circumstances, DataPath, Error, Event, Grant, Missing, Need, Presence, Principal,
    Receipt, Resource, Sensitivity, SignedGrant, What, decide, may_connect,
};
use aico_proto::{Fresh, Initiator, LocalIdentity, Peer, Responder, Standing, Terms, Trust};
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

fn at(now_ms: u64) -> Circumstances {
    Circumstances { now_ms, ..Circumstances::default() }
}

struct Everybody;

impl Trust for Everybody {
    fn standing(&self, _identity: &Identity) -> Standing {
        Standing::Enrolled
    }
}

/// A principal as a handshake makes it.
fn peer(client: &LocalIdentity) -> Principal {
    let server = local(ComponentKind::Backend);
    let fresh = |me: &LocalIdentity| Fresh::make(&me.hedge_key(), &OsRandom, &[0; 16], 0).unwrap();
    let (initiator, hello) = Initiator::start(server.identity().clone(), fresh(client), Terms::default());
    let (responder, reply) = Responder::on_hello(&server, &hello, fresh(&server), Terms::default()).unwrap();
    let (_, finish) = initiator.on_reply(client, &reply).unwrap();
    match responder.on_finish(&finish, &Everybody).unwrap().peer {
        Peer::Authenticated(peer) => Principal::from_peer(&peer),
        Peer::Unenrolled(_) => unreachable!(),
    }
}

fn capability(action: Action) -> Capability {
    Capability::new(action, Resource::System)
}

#[test]
fn without_a_grant_everything_is_denied_and_recorded() {
    let (log, local) = (Memory::default(), local(ComponentKind::Cli));
    let principal = Principal::from_own_identity(&local);
    for action in Action::ALL.into_iter().filter(|a| *a != Action::Enrol) {
        let denied = decide(&principal, &[], capability(action), &at(5)).record(&log).unwrap().unwrap_err();
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
    let permit = decide(&principal, &[grant], read("notes/a"), &at(5)).record(&log).unwrap().unwrap();
    assert_eq!(*permit.event(), log.0.borrow()[0]);
    assert_eq!(*permit.capability(), read("notes/a"));
    assert_eq!(permit.receipt().index, 0);
}

/// Every action of every kind of component: what is not in this table is denied.
#[test]
fn each_kind_is_able_to_its_part_only() {
    use Action::*;
    use ComponentKind::*;
    let frontend = [ReadData, WriteData, ListData, RemoveData, ReadStatus];
    let studio = [ReadStatus, ReadAudit, ListData, ReadInventory, ReadConfig];
    let table: [(ComponentKind, &[Action]); 5] =
        [(Cli, &Action::ALL), (Frontend, &frontend), (Studio, &studio), (Plugin, &[]), (Backend, &[])];
    for (kind, allowed) in table {
        let local = local(kind);
        let (log, principal) = (Memory::default(), peer(&local));
        let grants = [Grant::for_enrolment(local.identity(), 1)];
        assert!(grants[0].is_of_enrolment(kind));
        for action in Action::ALL {
            let around = Circumstances { presence: Presence::Fresh, protected: true, ..at(2) };
            let decided = decide(&principal, &grants, capability(action), &around).record(&log).unwrap();
            assert_eq!(decided.is_ok(), allowed.contains(&action), "{kind:?} {action:?}");
        }
    }
}

/// The channels of the system, and no others.
#[test]
fn each_kind_has_business_with_these_only() {
    use ComponentKind::*;
    let channels = [(Frontend, Backend), (Cli, Backend), (Studio, Backend), (Plugin, Backend), (Cli, Studio)];
    for initiator in [Backend, Frontend, Cli, Studio, Plugin] {
        for responder in [Backend, Frontend, Cli, Studio, Plugin] {
            let wanted = channels.contains(&(initiator, responder));
            assert_eq!(may_connect(initiator, responder), wanted, "{initiator:?} to {responder:?}");
        }
    }
}

/// What the owner's tool may do in each state: no password and nobody there, a typed word, a session, the password.
#[test]
fn sensitive_actions_need_the_owner() {
    let local = local(ComponentKind::Cli);
    let (log, principal) = (Memory::default(), peer(&local));
    let grants = [Grant::for_enrolment(local.identity(), 1)];
    let missing_of = |sensitivity, action, protected, presence| {
        let around = Circumstances { presence, protected, sensitivity, ..at(2) };
        let decided = decide(&principal, &grants, capability(action), &around).record(&log).unwrap();
        decided.map(drop).map_err(|denied| denied.missing.unwrap())
    };
    use Missing::{Authentication, Confirmation};
    use Presence::{Confirmed, Fresh, Session, Unknown};
    let (word, password) = (Err(Confirmation), Err(Authentication));
    let as_wanted = |sensitivity, action, need| {
        let missing = |protected, presence| missing_of(sensitivity, action, protected, presence);
        let results = [
            missing(false, Unknown),
            missing(false, Confirmed),
            missing(true, Unknown),
            missing(true, Confirmed),
            missing(true, Session),
            missing(true, Fresh),
        ];
        let wanted = match need {
            Need::Nothing => [Ok(()); 6],
            Need::Session => [Ok(()), Ok(()), password, password, Ok(()), Ok(())],
            Need::Fresh => [word, Ok(()), password, password, password, Ok(())],
        };
        assert_eq!(results, wanted, "{sensitivity:?} {action:?}");
    };
    for action in Action::ALL {
        as_wanted(Sensitivity::Personal, action, action.need());
        let reads = [Action::ReadData, Action::ListData].contains(&action);
        let of_ordinary = if reads { Need::Nothing } else { action.need() };
        as_wanted(Sensitivity::Ordinary, action, of_ordinary);
        let of_secret = if reads || action == Action::RemoveData { Need::Fresh } else { action.need() };
        as_wanted(Sensitivity::Secret, action, of_secret);
    }
    let fresh = Action::ALL.into_iter().filter(|action| action.need() == Need::Fresh);
    assert_eq!(
        fresh.collect::<Vec<_>>(),
        [Action::Forget, Action::ExportData, Action::Enrol, Action::ManageKeys, Action::AcceptConfig]
    );
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

/// What each action asks of the owner, written down a second time.
#[test]
fn what_the_owner_has_to_be_there_for() {
    use Action::*;
    let session = [ReadData, ListData, MountFiles, OpenFile, Backup, ReadInventory, ManageIdentities, RotateKeys];
    let with_session = Action::ALL.into_iter().filter(|action| action.need() == Need::Session);
    let mut with_session: Vec<Action> = with_session.collect();
    with_session.sort_by_key(|action| session.iter().position(|known| known == action));
    assert_eq!(with_session, session);
}

/// The backend itself enrols its first command line; it needs no grant for that, and nobody has to be there.
#[test]
fn the_backend_itself_enrols_and_does_nothing_else() {
    let own = local(ComponentKind::Backend);
    let itself = Principal::from_own_identity(&own);
    assert!(itself.is_itself() && !peer(&local(ComponentKind::Cli)).is_itself());
    for protected in [false, true] {
        for action in Action::ALL {
            let around = Circumstances { protected, ..at(1) };
            let decision = decide(&itself, &[], capability(action), &around);
            assert_eq!(decision.is_allowed(), action == Action::Enrol, "{action:?}");
        }
    }
    // A command line's own principal is asked like any other.
    let grants = |identity: &LocalIdentity| [Grant::for_enrolment(identity.identity(), 0)];
    let cli = local(ComponentKind::Cli);
    let decision = decide(&peer(&cli), &grants(&cli), capability(Action::ExportData), &at(1));
    assert!(!decision.is_allowed());
    let app = local(ComponentKind::Frontend);
    let around = Circumstances { protected: true, ..at(1) };
    assert!(decide(&peer(&app), &grants(&app), read("notes/a"), &around).is_allowed(), "an app acts alone");
}

#[test]
fn a_grant_of_enrolment_is_known_by_its_actions() {
    let of = |kind| Grant::for_enrolment(local(kind).identity(), 0);
    for kind in [ComponentKind::Cli, ComponentKind::Frontend, ComponentKind::Studio] {
        for other in [ComponentKind::Cli, ComponentKind::Frontend, ComponentKind::Studio, ComponentKind::Plugin] {
            assert_eq!(of(kind).is_of_enrolment(other), kind == other, "{kind:?} as {other:?}");
        }
    }
    assert_eq!(of(ComponentKind::Cli).actions().len(), Action::ALL.len());
    assert_eq!(of(ComponentKind::Plugin).actions(), []);
}

#[test]
fn paths_and_grants_at_their_limits() {
    let path = |bytes: usize| format!("c/{}", "x".repeat(bytes - 2));
    assert_eq!(DataPath::parse(&path(1024)).unwrap().to_string(), path(1024));
    assert!(DataPath::parse(&path(1025)).is_err());
    // A grant is too long by its bytes, before anything in it is read.
    let key = GrantKey::make(&OsRandom).unwrap();
    let sized = |bytes: usize| {
        let bytes = vec![b' '; bytes];
        let signature = key.sign(&bytes).unwrap();
        SignedGrant { bytes, signature }.verify(&key.public().unwrap()).unwrap_err().to_string()
    };
    assert!(sized(4097).contains("4 KiB") && !sized(4096).contains("4 KiB"), "{}", sized(4096));
}

#[test]
fn a_permit_is_for_one_value_of_a_tebibyte_and_a_day() {
    let cli = local(ComponentKind::Cli);
    let grants = [Grant::for_enrolment(cli.identity(), 0)];
    let permit = decide(&peer(&cli), &grants, read("notes/a"), &at(1)).record(&Memory::default()).unwrap().unwrap();
    assert_eq!(permit.bounds().bytes, 1_099_511_627_776);
    assert_eq!(permit.bounds().time.as_secs(), 86_400);
}
