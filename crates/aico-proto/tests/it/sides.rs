//! Two sides that shake hands in memory.

use std::time::Duration;

use aico_crypto::{ComponentKind, Identity, IdentitySecret, Name, OsRandom};
use aico_proto::{
    Control, Error, Established, Fresh, Incoming, Initiator, LocalIdentity, Opener, Ready, Refusal, Responder, Sealer,
    Standing, Terms, Trust,
};

/// Trusts everybody alike.
pub(crate) struct All(pub(crate) Standing);

impl Trust for All {
    fn standing(&self, _identity: &Identity) -> Standing {
        self.0
    }
}

/// Trusts one identity.
pub(crate) struct Only(pub(crate) Identity);

impl Trust for Only {
    fn standing(&self, identity: &Identity) -> Standing {
        if *identity == self.0 { Standing::Enrolled } else { Standing::Refused }
    }
}

pub(crate) fn named(kind: ComponentKind, name: &str) -> LocalIdentity {
    let secret = IdentitySecret::make(&OsRandom).unwrap();
    let identity = Identity::new(kind, *secret.public(), Name::parse(name).unwrap());
    LocalIdentity::new(secret, identity).unwrap()
}

pub(crate) fn backend() -> LocalIdentity {
    named(ComponentKind::Backend, "backend")
}

pub(crate) fn cli() -> LocalIdentity {
    named(ComponentKind::Cli, "cli")
}

pub(crate) fn fresh(me: &LocalIdentity, hybrid: bool) -> Fresh {
    let fresh = Fresh::make(&me.hedge_key(), &OsRandom, &[0; 16], 0).unwrap();
    if hybrid { fresh.with_kem().unwrap() } else { fresh }
}

/// The three frames and both ends of a handshake.
pub(crate) struct Shaken {
    pub(crate) frames: [Vec<u8>; 3],
    pub(crate) client: Established,
    pub(crate) server: Established,
}

pub(crate) fn shake(client: &LocalIdentity, server: &LocalIdentity, hybrid: bool) -> Shaken {
    shake_changed(client, server, hybrid, |_, _| {}).unwrap()
}

/// A handshake in which `change` may alter frame 0, 1 or 2 on its way. Fails as soon as one side does.
pub(crate) fn shake_changed(
    client: &LocalIdentity,
    server: &LocalIdentity,
    hybrid: bool,
    change: impl Fn(usize, &mut Vec<u8>),
) -> Result<Shaken, Error> {
    let (initiator, mut hello) = Initiator::start(server.identity().clone(), fresh(client, hybrid), Terms::default());
    change(0, &mut hello);
    let answered = Responder::on_hello(server, &hello, fresh(server, false), Terms::default());
    let (responder, mut reply) = answered.map_err(|refusal| match refusal {
        Refusal::Silent => Error::Authentication,
        Refusal::Alert(alert) => Error::Refused(alert),
    })?;
    change(1, &mut reply);
    let (client, mut finish) = initiator.on_reply(client, &reply)?;
    change(2, &mut finish);
    let server = responder.on_finish(&finish, &All(Standing::Enrolled))?;
    Ok(Shaken { frames: [hello, reply, finish], client, server })
}

pub(crate) fn ready() -> Control {
    Control::Ready(Ready { clock_ms: 1, max_plaintext: 1 << 24, idle_s: 3600, keepalive_s: 0, rotation_s: 86400 })
}

/// A channel whose READY has passed.
pub(crate) fn channel() -> Shaken {
    let mut shaken = shake(&cli(), &backend(), false);
    let mut frame = Vec::new();
    shaken.server.sealer.seal_control(&ready(), &mut frame).unwrap();
    assert!(matches!(
        shaken.client.opener.open(&mut frame, Duration::ZERO).unwrap(),
        Incoming::Control(Control::Ready(_))
    ));
    shaken
}

pub(crate) fn seal(sealer: &mut Sealer, plaintext: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    sealer.seal(&[plaintext], &mut frame).unwrap();
    frame
}

pub(crate) fn seal_control(sealer: &mut Sealer, control: &Control) -> Vec<u8> {
    let mut frame = Vec::new();
    sealer.seal_control(control, &mut frame).unwrap();
    frame
}

pub(crate) fn open(opener: &mut Opener, frame: &[u8]) -> Result<Vec<u8>, Error> {
    match opener.open(&mut frame.to_vec(), Duration::ZERO)? {
        Incoming::Application(plaintext) => Ok(plaintext.to_vec()),
        Incoming::Control(_) | Incoming::Dropped => Ok(Vec::new()),
    }
}
