//! What comes over a connection.

use std::sync::LazyLock;
use std::time::Duration;

use aico_crypto::{ComponentKind, HedgeKey, Identity, IdentitySecret, Name, OsRandom};
use aico_proto::message::{self, Failure, Request, StatusAnswer};
use aico_proto::{
    Channel, Error, Established, Fresh, Incoming, Initiator, LocalIdentity, Padding, Received, Responder, Settings,
    Standing, Surroundings, Terms, Trust, parsers,
};

use crate::edits::{Input, edit};

struct Anybody(LocalIdentity);

impl Trust for Anybody {
    fn standing(&self, _identity: &Identity) -> Standing {
        Standing::Enrolled
    }
}

impl Surroundings for Anybody {
    fn me(&self) -> &LocalIdentity {
        &self.0
    }

    fn fresh(&self, hybrid: bool) -> Result<Fresh, Error> {
        Ok(fresh(&self.0.hedge_key(), hybrid))
    }

    fn clock_ms(&self) -> u64 {
        1
    }
}

fn fresh(hedge: &HedgeKey, hybrid: bool) -> Fresh {
    let fresh = Fresh::make(hedge, &OsRandom, &[0; 16], 0).unwrap();
    if hybrid { fresh.with_kem().unwrap() } else { fresh }
}

fn party(kind: ComponentKind, digit: &str) -> Anybody {
    let secret = IdentitySecret::hazmat_from_file(&digit.repeat(64)).unwrap();
    let identity = Identity::new(kind, *secret.public(), Name::parse("fuzz").unwrap());
    Anybody(LocalIdentity::new(secret, identity).unwrap())
}

static CLIENT: LazyLock<Anybody> = LazyLock::new(|| party(ComponentKind::Cli, "1"));
static SERVER: LazyLock<Anybody> = LazyLock::new(|| party(ComponentKind::Backend, "2"));

fn terms(byte: u8) -> Terms {
    let padding = [Padding::None, Padding::Padme, Padding::PowerOfTwo][usize::from(byte % 3)];
    Terms { padding, unordered: byte & 4 != 0, hybrid_only: false }
}

/// HELLO as it comes, and with a `mac1` that fits, so that what is behind it is reached.
pub fn hello(data: &[u8]) {
    let (server, mut frame) = (&SERVER.0, data.to_vec());
    let take = |frame: &[u8]| {
        let answered = Responder::on_hello(server, frame, fresh(&server.hedge_key(), false), Terms::default());
        if let Ok((_, reply)) = answered {
            assert!(reply.len() <= 1344, "an answer is never longer than the specification's");
            assert!(Responder::is_meant(server.identity().key(), frame));
        }
    };
    take(&frame);
    if frame.len() > 16 {
        let end = frame.len() - 16;
        let blake2b = |bytes: usize, key: &[u8], personal: &[u8], message: &[u8]| {
            let mut params = blake2b_simd::Params::new();
            params.hash_length(bytes).key(key).personal(personal).hash(message).as_bytes().to_vec()
        };
        let key = blake2b(64, &[], b"AICO-HS1-thm", server.identity().key().as_bytes());
        let message = [b"\x04mac1".as_slice(), &frame[..end]].concat();
        let mac = blake2b(16, &key[..32], &[], &message);
        frame[end..].copy_from_slice(&mac);
        assert!(Responder::is_meant(server.identity().key(), &frame));
        take(&frame);
    }
}

/// REPLY to a genuine HELLO, and bytes for a responder that waits for FINISH.
pub fn reply(data: &[u8]) {
    let (client, server) = (&CLIENT.0, &SERVER.0);
    for hybrid in [false, true] {
        let fresh_keys = fresh(&client.hedge_key(), hybrid);
        let (initiator, hello) = Initiator::start(server.identity().clone(), fresh_keys, Terms::default());
        let answered = Responder::on_hello(server, &hello, fresh(&server.hedge_key(), false), Terms::default());
        let (responder, _) = answered.unwrap_or_else(|_| panic!("a genuine HELLO is answered"));
        assert!(initiator.on_reply(client, data).is_err(), "a REPLY without the responder's key");
        assert!(responder.on_finish(data, &*SERVER).is_err(), "a FINISH without the initiator's key");
    }
}

fn shake(
    terms: Terms,
    hybrid: bool,
    change: &mut dyn FnMut(usize, &mut Vec<u8>),
) -> Option<(Established, Established)> {
    let (client, server) = (&CLIENT.0, &SERVER.0);
    let (initiator, mut hello) = Initiator::start(server.identity().clone(), fresh(&client.hedge_key(), hybrid), terms);
    change(0, &mut hello);
    let (responder, mut reply) = Responder::on_hello(server, &hello, fresh(&server.hedge_key(), false), terms).ok()?;
    change(1, &mut reply);
    let (at_client, mut finish) = initiator.on_reply(client, &reply).ok()?;
    change(2, &mut finish);
    let at_server = responder.on_finish(&finish, &*SERVER).ok()?;
    Some((at_client, at_server))
}

/// A handshake whose messages are changed on their way: it fails if any byte is another one, and only then.
pub fn handshake(data: &[u8]) {
    let mut input = Input(data);
    let Some(first) = input.byte() else { return };
    let mut changed = false;
    let done = shake(terms(first >> 1), first & 1 != 0, &mut |_, frame| {
        let before = frame.clone();
        while let Some(1) = input.byte().map(|more| more & 1) {
            if edit(frame, &mut input).is_none() {
                break;
            }
        }
        changed |= *frame != before;
    });
    assert_eq!(done.is_some(), !changed, "a changed handshake succeeds, or a genuine one fails");
}

/// Records that are changed, lost, repeated and moved: what opens is what was sealed, in order, or nothing.
pub fn record(data: &[u8]) {
    let mut input = Input(data);
    let Some(first) = input.byte() else { return };
    let terms = terms(first);
    let (mut client, mut server) = shake(terms, false, &mut |_, _| {}).unwrap();
    let (mut sent, mut frames) = (Vec::new(), Vec::new());
    while let Some(text) = input.bytes(300) {
        let mut frame = Vec::new();
        client.sealer.seal(&[&text], &mut frame).unwrap();
        frames.push(frame);
        sent.push(text);
        if frames.len() == 8 {
            break;
        }
    }
    let mut next = 0;
    let mut seen = std::collections::BTreeSet::new();
    while let Some(which) = input.byte() {
        let Some(genuine) = frames.get(usize::from(which & 15)) else {
            // Bytes of nobody.
            let mut frame = input.bytes(2000).unwrap_or_default();
            if server.opener.open(&mut frame, Duration::ZERO).is_err() {
                return;
            }
            continue;
        };
        let (mut frame, number) = (genuine.clone(), usize::from(which & 15));
        let changed = which & 16 != 0 && edit(&mut frame, &mut input).unwrap_or(false);
        match server.opener.open(&mut frame, Duration::ZERO) {
            Ok(Incoming::Application(text)) => {
                assert!(!changed, "a changed record opens");
                assert_eq!(text, sent[number], "another text");
                assert!(seen.insert(number), "a record opens twice");
                assert!(terms.unordered || number == next, "a record opens out of its order");
                next = number + 1;
            }
            Ok(Incoming::Dropped) => assert!(terms.unordered, "nothing is dropped on an ordered carrier"),
            Ok(Incoming::Control(_)) => panic!("nobody sent a control record"),
            Err(_) => {
                assert!(terms.unordered || changed || number != next, "a genuine record in its place is refused");
                return;
            }
        }
    }
}

/// A whole channel at whose both ends the other side's bytes are not the other side's.
pub fn channel(data: &[u8]) {
    let mut input = Input(data);
    let Some(first) = input.byte() else { return };
    let (client, server) = shake(terms(first), first & 8 != 0, &mut |_, _| {}).unwrap();
    let mut out = Vec::new();
    let settings = Settings { keepalive: Duration::from_secs(1), ..Settings::default() };
    let mut now = Duration::ZERO;
    let mut ends = [
        (Channel::new(client, settings, &*CLIENT, now, &mut out).unwrap(), &*CLIENT),
        (Channel::new(server, settings, &*SERVER, now, &mut out).unwrap(), &*SERVER),
    ];
    while let Some(step) = input.byte() {
        let (channel, around) = &mut ends[usize::from(step & 1)];
        let mut produced = Vec::new();
        let done = match step >> 1 & 3 {
            0 => {
                let mut frame = input.bytes(2000).unwrap_or_default();
                match channel.receive(&mut frame, now, *around, &mut produced) {
                    Ok(Received::Application(range)) => panic!("{range:?} of a frame that nobody sealed"),
                    Ok(_) => Ok(()),
                    Err(error) => Err(error),
                }
            }
            1 => channel.send(&[&input.bytes(500).unwrap_or_default()], now, &mut produced),
            2 => {
                now += Duration::from_secs(input.number().unwrap_or_default() as u64);
                channel.tick(now, *around, &mut produced)
            }
            _ => {
                // What one end says reaches the other, changed or not.
                let mut frame = out.clone();
                out.clear();
                let _changed = edit(&mut frame, &mut input);
                frame.drain(..frame.len().min(4));
                channel.receive(&mut frame, now, *around, &mut produced).map(drop)
            }
        };
        out.extend_from_slice(&produced);
        if done.is_err() || out.len() > 1 << 20 {
            return;
        }
    }
}

/// The plaintext of a control record.
pub fn control(data: &[u8]) {
    parsers::control(data);
}

/// What the gateway reads.
pub fn message(data: &[u8]) {
    if let Ok(request) = message::from_json::<Request>(data) {
        let again = message::to_json(&request).unwrap();
        assert_eq!(message::from_json::<Request>(&again).unwrap(), request);
    }
    let _answer = message::from_json::<StatusAnswer>(data);
    let _failure = message::from_json::<Failure>(data);
}

/// What a connection says that hands a descriptor over.
pub fn handover(data: &[u8]) {
    let digits = |ticket: [u8; 32]| ticket.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    if let Some(ticket) = aico_net::ticket_in(data) {
        assert_eq!(data.to_ascii_lowercase(), format!("aico-fd1{}", digits(ticket)).as_bytes());
        assert!(data.starts_with(b"AICO-FD1"));
    }
}
