//! Two channels on a wire in memory: how they live, renew their keys and end.

use std::cell::Cell;
use std::time::Duration;

use aico_crypto::{Identity, OsRandom};
use aico_proto::{
    Agreed, Channel, CloseReason, Control, Error, Fresh, Initiator, LocalIdentity, Padding, Received, Responder,
    Settings, Standing, Suite, Surroundings, Terms, Trust,
};

use crate::sides::{All, backend, cli};

const SECOND: Duration = Duration::from_secs(1);

pub(crate) struct Around {
    me: LocalIdentity,
    pub(crate) clock_ms: u64,
    pub(crate) standing: Cell<Standing>,
    counter: Cell<u64>,
}

impl Trust for Around {
    fn standing(&self, _identity: &Identity) -> Standing {
        self.standing.get()
    }
}

impl Surroundings for Around {
    fn me(&self) -> &LocalIdentity {
        &self.me
    }

    fn fresh(&self, hybrid: bool) -> Result<Fresh, Error> {
        self.counter.set(self.counter.get() + 1);
        let fresh = Fresh::make(&self.me.hedge_key(), &OsRandom, &[0; 16], self.counter.get())?;
        if hybrid { fresh.with_kem() } else { Ok(fresh) }
    }

    fn clock_ms(&self) -> u64 {
        self.clock_ms
    }
}

impl Around {
    fn new(me: LocalIdentity) -> Self {
        Self { me, clock_ms: 1_000_000, standing: Cell::new(Standing::Enrolled), counter: Cell::new(0) }
    }
}

/// One end, and the bytes that wait to be sent from it.
pub(crate) struct End {
    pub(crate) channel: Channel,
    pub(crate) around: Around,
    pub(crate) out: Vec<u8>,
    /// Plaintexts that came.
    pub(crate) got: Vec<Vec<u8>>,
    pub(crate) closed: Option<CloseReason>,
}

impl End {
    pub(crate) fn send(&mut self, text: &[u8], now: Duration) {
        self.channel.send(&[text], now, &mut self.out).unwrap();
    }

    /// The frames that wait.
    pub(crate) fn frames(&mut self) -> Vec<Vec<u8>> {
        let (out, mut frames) = (std::mem::take(&mut self.out), Vec::new());
        let mut rest = out.as_slice();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let (frame, after) = after.split_at(u32::from_be_bytes(*length) as usize);
            frames.push(frame.to_vec());
            rest = after;
        }
        frames
    }

    pub(crate) fn take(&mut self, mut frame: Vec<u8>, now: Duration) -> Result<(), Error> {
        match self.channel.receive(&mut frame, now, &self.around, &mut self.out)? {
            Received::Application(range) => self.got.push(frame[range].to_vec()),
            Received::Closed(reason) => self.closed = Some(reason),
            Received::Ready(_) | Received::Nothing => {}
        }
        Ok(())
    }

    fn tick(&mut self, now: Duration) -> Result<(), Error> {
        self.channel.tick(now, &self.around, &mut self.out)
    }
}

pub(crate) struct Pair {
    pub(crate) client: End,
    pub(crate) server: End,
}

impl Pair {
    pub(crate) fn new(terms: Terms, hybrid: bool, settings: Settings) -> Self {
        Self::at(terms, hybrid, settings, Duration::ZERO)
    }

    /// A pair whose handshake ends at `now`.
    pub(crate) fn at(terms: Terms, hybrid: bool, settings: Settings, now: Duration) -> Self {
        let (client, server) = (Around::new(cli()), Around::new(backend()));
        let fresh = client.fresh(hybrid).unwrap();
        let (initiator, hello) = Initiator::start(server.me.identity().clone(), fresh, terms);
        let fresh = server.fresh(false).unwrap();
        let (responder, reply) = Responder::on_hello(&server.me, &hello, fresh, terms).unwrap();
        let (at_client, finish) = initiator.on_reply(&client.me, &reply).unwrap();
        let at_server = responder.on_finish(&finish, &All(Standing::Enrolled)).unwrap();
        let end = |established, around: Around| {
            let mut out = Vec::new();
            let channel = Channel::new(established, settings, &around, now, &mut out).unwrap();
            End { channel, around, out, got: Vec::new(), closed: None }
        };
        Self { client: end(at_client, client), server: end(at_server, server) }
    }

    /// A pair whose READY has passed.
    pub(crate) fn ready(terms: Terms, hybrid: bool, settings: Settings) -> Self {
        let mut pair = Self::new(terms, hybrid, settings);
        pair.settle(Duration::ZERO).unwrap();
        pair
    }

    /// Lets everything arrive that waits, until nothing does.
    pub(crate) fn settle(&mut self, now: Duration) -> Result<(), Error> {
        loop {
            let (up, down) = (self.client.frames(), self.server.frames());
            if up.is_empty() && down.is_empty() {
                return Ok(());
            }
            up.into_iter().try_for_each(|frame| self.server.take(frame, now))?;
            down.into_iter().try_for_each(|frame| self.client.take(frame, now))?;
        }
    }
}

fn settings() -> Settings {
    Settings { keepalive: Duration::ZERO, idle: 100_000 * SECOND, rotation: 100 * SECOND, ..Settings::default() }
}

#[test]
fn a_rekey_renews_every_key_and_loses_nothing() {
    for hybrid in [false, true] {
        let mut pair = Pair::ready(Terms::default(), hybrid, settings());
        pair.client.send(b"one", SECOND);
        pair.settle(SECOND).unwrap();
        for (epoch, now) in (1..=3).map(|epoch| (epoch, u32::from(epoch) * 100 * SECOND)) {
            pair.client.tick(now).unwrap();
            pair.settle(now).unwrap();
            assert_eq!((pair.client.channel.epoch(), pair.server.channel.epoch()), (epoch, epoch));
            pair.client.send(b"up", now);
            pair.server.send(b"down", now);
            let frame = pair.client.frames().remove(0);
            assert_eq!(frame[10..12], epoch.to_be_bytes(), "the epoch stands in the nonce");
            pair.server.take(frame, now).unwrap();
            pair.settle(now).unwrap();
        }
        assert_eq!(pair.server.got, [&b"one"[..], b"up", b"up", b"up"]);
        assert_eq!(pair.client.got.len(), 3);
    }
}

#[test]
fn records_go_on_in_the_middle_of_a_rekey() {
    let mut pair = Pair::ready(Terms::default(), true, settings());
    let now = 100 * SECOND;
    pair.client.tick(now).unwrap();
    pair.client.send(b"c1", now);
    pair.server.send(b"s1", now);
    let (up, down) = (pair.client.frames(), pair.server.frames());
    for frame in up {
        pair.server.take(frame, now).unwrap();
    }
    // REPLY is on its way, behind more of the server's old epoch.
    pair.server.send(b"s2", now);
    for frame in down.into_iter().chain(pair.server.frames()) {
        pair.client.take(frame, now).unwrap();
    }
    // The client is in the new epoch, the server not yet: both directions work.
    pair.client.send(b"c2", now);
    pair.server.send(b"s3", now);
    let in_old_epoch = pair.server.frames();
    for frame in in_old_epoch {
        pair.client.take(frame, now).unwrap();
    }
    pair.settle(now).unwrap();
    pair.server.send(b"s4", now);
    pair.settle(now).unwrap();
    assert_eq!(pair.client.got, [b"s1", b"s2", b"s3", b"s4"]);
    assert_eq!(pair.server.got, [b"c1", b"c2"]);
    assert_eq!((pair.client.channel.epoch(), pair.server.channel.epoch()), (1, 1));
}

#[test]
fn the_old_epoch_is_dead_once_the_new_one_has_begun() {
    // docs/spec/channel.md: "On an ordered carrier I MUST refuse a record of R's old epoch after REKEY_END, and a record of
    // R's new epoch before it, with reason 3."
    let now = 100 * SECOND;
    // Of the last two records of the server's old epoch, its REKEY_END and READY, these arrive. The network keeps the
    // others back, and brings them at the end.
    let good = [0, 1, 2, 3];
    for arriving in [&good[..], &[3], &[0, 3], &[0, 1, 3], &[0, 2], &[2], &[1], &[0, 1, 2, 2], &[0, 1, 2, 3, 1]] {
        let mut pair = Pair::ready(Terms::default(), false, settings());
        pair.client.tick(now).unwrap();
        pair.client.frames().into_iter().for_each(|frame| pair.server.take(frame, now).unwrap());
        pair.server.frames().into_iter().for_each(|frame| pair.client.take(frame, now).unwrap());
        // The server has not seen FINISH.
        pair.server.send(b"last but one", now);
        pair.server.send(b"last", now);
        pair.client.frames().into_iter().for_each(|frame| pair.server.take(frame, now).unwrap());
        let tail = pair.server.frames();
        assert_eq!(tail.len(), good.len());
        let done = arriving.iter().try_for_each(|at| pair.client.take(tail[*at].clone(), now));
        assert_eq!(done, if arriving == good { Ok(()) } else { Err(Error::Order) }, "{arriving:?}");
        assert_eq!(CloseReason::for_error(&Error::Order), CloseReason::BadRecord);
    }
}

#[test]
fn the_responder_asks_and_does_not_wait_for_ever() {
    let mut pair = Pair::ready(Terms::default(), false, settings());
    // A client that sees no need of its own: its clock stands still.
    pair.server.tick(100 * SECOND).unwrap();
    pair.settle(Duration::ZERO).unwrap();
    assert_eq!((pair.client.channel.epoch(), pair.server.channel.epoch()), (1, 1), "it was asked and did it");

    let mut pair = Pair::ready(Terms::default(), false, settings());
    pair.server.tick(100 * SECOND).unwrap();
    let _lost = pair.server.frames();
    pair.server.tick(129 * SECOND).unwrap();
    assert_eq!(pair.server.tick(130 * SECOND), Err(Error::RekeyFailed), "nothing came within the handshake's time");
}

#[test]
fn a_rekey_that_does_not_complete_ends_the_channel() {
    // docs/spec/channel.md: "A side MUST close the channel with reason 4 when a REKEY has not completed five minutes
    // after it fell due."
    for lost in 0..3 {
        let mut pair = Pair::ready(Terms::default(), false, settings());
        let now = 100 * SECOND;
        pair.client.tick(now).unwrap();
        let mut step = 0;
        loop {
            let (up, down) = (pair.client.frames(), pair.server.frames());
            if up.is_empty() && down.is_empty() {
                break;
            }
            for (from_client, frame) in up.into_iter().map(|f| (true, f)).chain(down.into_iter().map(|f| (false, f))) {
                if step != lost {
                    let end = if from_client { &mut pair.server } else { &mut pair.client };
                    end.take(frame, now).unwrap();
                }
                step += 1;
            }
            if step > lost {
                break;
            }
        }
        let late = 401 * SECOND;
        let ends = [pair.client.tick(late), pair.server.tick(late)];
        assert!(ends.contains(&Err(Error::RekeyFailed)), "message {lost} was lost: {ends:?}");
        assert_eq!(CloseReason::for_error(&Error::RekeyFailed), CloseReason::RekeyFailed);
    }
}

#[test]
fn whoever_was_revoked_gets_no_new_keys() {
    let mut pair = Pair::ready(Terms::default(), false, settings());
    pair.server.around.standing.set(Standing::Refused);
    pair.client.tick(100 * SECOND).unwrap();
    assert_eq!(pair.settle(100 * SECOND), Err(Error::RekeyFailed));
}

#[test]
fn a_thief_of_the_channels_keys_cannot_renew_them() {
    let now = 100 * SECOND;
    // Every key of the running channel is in the thief's hands: it speaks with them, under an identity of its own.
    let mut pair = Pair::ready(Terms::default(), false, settings());
    pair.client.around = Around::new(cli());
    pair.client.tick(now).unwrap();
    assert_eq!(pair.settle(now), Err(Error::RekeyFailed), "it cannot sign as the client");
    let mut pair = Pair::ready(Terms::default(), false, settings());
    pair.server.around = Around::new(backend());
    pair.client.tick(now).unwrap();
    assert_eq!(pair.settle(now), Err(Error::RekeyFailed), "nor as the server");
}

/// What a channel says to a control record that a peer with the right keys sends out of place.
fn out_of_place(control: &Control, to_client: bool) -> Result<Received, Error> {
    let crate::sides::Shaken { client, server, .. } = crate::sides::channel();
    let (mut sealer, established) = if to_client { (server.sealer, client) } else { (client.sealer, server) };
    let around = Around::new(if to_client { cli() } else { backend() });
    let mut frame = crate::sides::seal_control(&mut sealer, control);
    let mut out = Vec::new();
    let mut channel = Channel::new(established, settings(), &around, Duration::ZERO, &mut out)?;
    channel.receive(&mut frame, Duration::ZERO, &around, &mut out)
}

#[test]
fn rekey_messages_out_of_place_end_the_channel() {
    let refused = Err(Error::RekeyFailed);
    assert_eq!(out_of_place(&Control::RekeyHello(vec![1; 98]), true), refused, "a HELLO to the client");
    assert_eq!(out_of_place(&Control::RekeyReply(vec![1; 256]), true), refused, "a REPLY that nobody waits for");
    assert_eq!(out_of_place(&Control::RekeyFinish(vec![1; 185]), true), refused);
    assert_eq!(out_of_place(&Control::RekeyReply(vec![1; 256]), false), refused);
    assert_eq!(out_of_place(&Control::RekeyFinish(vec![1; 185]), false), refused, "a FINISH without a HELLO");
    assert_eq!(out_of_place(&Control::RekeyHello(vec![0; 98]), false), refused, "rubbish");
    assert!(out_of_place(&Control::RekeyRequest, false).is_err(), "only the responder asks");
    assert_eq!(out_of_place(&Control::RekeyEnd, true), refused, "the end of an epoch that goes on");
    assert_eq!(out_of_place(&Control::RekeyEnd, false), refused);
    assert!(out_of_place(&Control::Keepalive, false).is_ok(), "and it is not the test that refuses");
}

#[test]
fn signs_of_life_keep_a_channel_and_silence_ends_it() {
    let settings = Settings { keepalive: 10 * SECOND, ..settings() };
    let mut pair = Pair::ready(Terms::default(), false, settings);
    for now in (1..=30).map(|n| n * 9 * SECOND) {
        for end in [&mut pair.client, &mut pair.server] {
            if end.channel.next_tick() <= now {
                end.tick(now).unwrap();
            }
        }
        pair.settle(now).unwrap();
    }
    let now = 270 * SECOND;
    let _cut = pair.server.frames();
    assert!(pair.client.tick(now + 29 * SECOND).is_ok());
    assert_eq!(pair.client.tick(now + 31 * SECOND), Err(Error::Silent));
}

#[test]
fn an_unused_channel_is_forgotten_in_spite_of_signs_of_life() {
    let settings = Settings { keepalive: 10 * SECOND, idle: 60 * SECOND, ..settings() };
    let mut pair = Pair::ready(Terms::default(), false, settings);
    for now in (1..60).map(|n| n * SECOND) {
        pair.client.tick(now).unwrap();
        pair.server.tick(now).unwrap();
        pair.settle(now).unwrap();
    }
    assert_eq!(pair.server.tick(60 * SECOND), Err(Error::Idle));
    assert_eq!(pair.client.tick(60 * SECOND), Err(Error::Idle));
    assert_eq!(CloseReason::for_error(&Error::Idle), CloseReason::Idle);
}

#[test]
fn a_clock_that_is_wrong_is_told_or_refused() {
    for (refuse, expected) in [(false, Ok(())), (true, Err(Error::ClockSkew))] {
        let mut pair = Pair::new(Terms::default(), false, Settings { refuse_clock_skew: refuse, ..settings() });
        pair.client.around.clock_ms += 31_000;
        assert_eq!(pair.settle(Duration::ZERO), expected);
    }
    let mut pair = Pair::new(Terms::default(), false, Settings { refuse_clock_skew: true, ..settings() });
    pair.client.around.clock_ms -= 29_000;
    pair.settle(Duration::ZERO).unwrap();
}

#[test]
fn nobody_has_to_take_more_than_they_said() {
    let small = Settings { max_plaintext: 65_536, ..settings() };
    for padding in [Padding::None, Padding::Padme, Padding::PowerOfTwo] {
        let mut pair = Pair::ready(Terms { padding, ..Terms::default() }, false, small);
        let longest = pair.client.channel.max_plaintext();
        pair.client.send(&vec![1; longest], SECOND);
        pair.settle(SECOND).unwrap();
        let end = &mut pair.client;
        let refused = end.channel.send(&[&vec![1; longest + 1]], SECOND, &mut end.out);
        assert!(matches!(refused, Err(Error::Misuse(_))), "{padding:?}");
        assert!(end.out.is_empty());
    }
    // A peer that has not heard it yet.
    let mut pair = Pair::new(Terms::default(), false, small);
    pair.client.send(&vec![1; 70_000], SECOND);
    assert!(matches!(pair.settle(SECOND), Err(Error::Malformed(_))), "before READY it cannot know, and is refused");
}

#[test]
fn padded_channels_show_sizes_of_the_policy_only() {
    for (padding, sizes) in [(Padding::Padme, [256, 272, 1088]), (Padding::PowerOfTwo, [256, 512, 2048])] {
        let mut pair = Pair::ready(Terms { padding, ..Terms::default() }, true, settings());
        for (length, size) in [3, 256, 1024].into_iter().zip(sizes) {
            pair.client.send(&vec![b'x'; length], SECOND);
            let frame = pair.client.frames().remove(0);
            assert_eq!(frame.len(), size + 54, "{padding:?} {length}");
            pair.server.take(frame, SECOND).unwrap();
            assert_eq!(pair.server.got.pop().unwrap().len(), length);
        }
        pair.client.tick(100 * SECOND).unwrap();
        assert_eq!(pair.client.frames()[0].len() % 16, (1344 + 54) % 16, "control records too");
    }
}

#[test]
fn the_lower_padding_policy_is_agreed_on() {
    use Padding::{None, Padme, PowerOfTwo};
    for (offered, wanted, agreed) in [(None, Padme, None), (PowerOfTwo, Padme, Padme), (Padme, PowerOfTwo, Padme)] {
        let (client, server) = (Around::new(cli()), Around::new(backend()));
        let terms = |padding| Terms { padding, ..Terms::default() };
        let fresh = client.fresh(false).unwrap();
        let (initiator, hello) = Initiator::start(server.me.identity().clone(), fresh, terms(offered));
        let fresh = server.fresh(false).unwrap();
        let (_, reply) = Responder::on_hello(&server.me, &hello, fresh, terms(wanted)).unwrap();
        let (established, _) = initiator.on_reply(&client.me, &reply).unwrap();
        assert_eq!(established.agreed, Agreed { suite: Suite::Classical, padding: agreed, unordered: false });
    }
}

#[test]
fn a_door_that_wants_the_hybrid_suite_takes_nothing_else() {
    let (client, server) = (Around::new(cli()), Around::new(backend()));
    let strict = Terms { hybrid_only: true, ..Terms::default() };
    let start =
        |hybrid| Initiator::start(server.me.identity().clone(), client.fresh(hybrid).unwrap(), Terms::default());
    let answer = |hello: &[u8]| Responder::on_hello(&server.me, hello, server.fresh(false).unwrap(), strict).map(drop);
    let refused = answer(&start(false).1).unwrap_err();
    assert_eq!(refused, aico_proto::Refusal::Alert(aico_proto::Alert::Suite));
    assert!(answer(&start(true).1).is_ok());
}

#[test]
fn a_goodbye_is_answered_once() {
    let mut pair = Pair::ready(Terms::default(), false, settings());
    let mut out = Vec::new();
    pair.server.channel.close(CloseReason::Shutdown, SECOND, &mut out);
    pair.server.channel.close(CloseReason::Normal, SECOND, &mut out);
    pair.server.out = out;
    pair.settle(SECOND).unwrap();
    assert_eq!((pair.client.closed, pair.server.closed), (Some(CloseReason::Shutdown), Some(CloseReason::Shutdown)));
    assert_eq!(pair.client.channel.end_of_stream(), Ok(CloseReason::Shutdown));
}

#[test]
fn each_failure_has_its_word_for_the_other_side() {
    for (error, reason) in [
        (Error::UsedUp, CloseReason::Limit),
        (Error::Authentication, CloseReason::BadRecord),
        (Error::Order, CloseReason::BadRecord),
        (Error::RekeyFailed, CloseReason::RekeyFailed),
        (Error::ClockSkew, CloseReason::Clock),
        (Error::Idle, CloseReason::Idle),
        (Error::UnknownPeer, CloseReason::Revoked),
        (Error::Malformed("x"), CloseReason::Protocol),
        (Error::Silent, CloseReason::Protocol),
    ] {
        assert_eq!(CloseReason::for_error(&error), reason, "{error}");
    }
}

/// The caller sleeps until then: too late breaks a promise, too early burns the processor.
#[test]
fn the_next_tick_is_the_earliest_thing_that_is_due() {
    let all = Settings {
        keepalive: 10 * SECOND,
        idle: 1000 * SECOND,
        rotation: 100 * SECOND,
        handshake: 7 * SECOND,
        ..Settings::default()
    };
    let client = Pair::new(Terms::default(), false, all).client;
    assert_eq!(client.channel.next_tick(), 7 * SECOND, "READY has not come");
    let of = |settings| Pair::ready(Terms::default(), false, settings).client.channel.next_tick();
    assert_eq!(of(all), 10 * SECOND, "a sign of life");
    assert_eq!(of(Settings { keepalive: Duration::ZERO, ..all }), 100 * SECOND, "new keys");
    assert_eq!(of(Settings { keepalive: Duration::ZERO, rotation: 5000 * SECOND, ..all }), 1000 * SECOND, "idle");
    assert_eq!(of(Settings { idle: 3 * SECOND, ..all }), 3 * SECOND);

    // A channel that has spoken and not heard: the other side is given up after three intervals.
    let mut pair = Pair::ready(Terms::default(), false, all);
    pair.client.send(b"x", 29 * SECOND);
    assert_eq!(pair.client.channel.next_tick(), 30 * SECOND, "silence");
    assert!(pair.client.tick(30 * SECOND - Duration::from_millis(1)).is_ok());
    assert_eq!(pair.client.tick(30 * SECOND), Err(Error::Silent));

    // New keys that are due and do not come.
    let slow = Settings { keepalive: Duration::ZERO, idle: 10_000 * SECOND, ..all };
    let mut pair = Pair::ready(Terms::default(), false, slow);
    pair.client.tick(100 * SECOND).unwrap();
    assert_eq!(pair.client.channel.next_tick(), 400 * SECOND, "five minutes after they fell due");
    pair.server.tick(100 * SECOND).unwrap();
    assert_eq!(pair.server.channel.next_tick(), 107 * SECOND, "it has asked, and waits as for a handshake");
    assert_eq!(pair.server.tick(107 * SECOND), Err(Error::RekeyFailed));
    assert!(pair.client.tick(400 * SECOND - Duration::from_millis(1)).is_ok());
    assert_eq!(pair.client.tick(400 * SECOND), Err(Error::RekeyFailed));
}

#[test]
fn who_does_not_read_does_not_call_the_other_side_silent() {
    let settings = Settings { keepalive: 10 * SECOND, ..Settings::default() };
    let mut pair = Pair::ready(Terms::default(), false, settings);
    pair.client.channel.paused(25 * SECOND);
    assert!(pair.client.tick(54 * SECOND).is_ok());
    assert_eq!(pair.client.tick(55 * SECOND), Err(Error::Silent));
}

#[test]
fn a_responder_is_not_asked_for_new_keys() {
    let mut pair = Pair::ready(Terms::default(), false, settings());
    let mut request = Vec::new();
    // An insider that says what only a responder says.
    let mut shaken = crate::sides::channel();
    shaken.client.sealer.seal_control(&Control::RekeyRequest, &mut request).unwrap();
    let around = Around::new(backend());
    let mut out = Vec::new();
    let mut server = Channel::new(shaken.server, settings(), &around, Duration::ZERO, &mut out).unwrap();
    assert!(matches!(server.receive(&mut request, SECOND, &around, &mut out), Err(Error::Unexpected(_))));
    // The initiator takes it from the responder.
    pair.server.tick(100 * SECOND).unwrap();
    pair.settle(100 * SECOND).unwrap();
    assert_eq!(pair.client.channel.epoch(), 1);
}

#[test]
fn clocks_may_be_thirty_seconds_apart_and_no_more() {
    for (apart, refused) in [(0, false), (30_000, false), (30_001, true)] {
        let settings = Settings { refuse_clock_skew: true, ..Settings::default() };
        let mut pair = Pair::new(Terms::default(), false, settings);
        pair.client.around.clock_ms = 1_000_000 + apart;
        assert_eq!(pair.settle(SECOND).is_err(), refused, "{apart} ms");
    }
}

/// Less than a second is sent as none: the client's own clock decides.
#[test]
fn a_rotation_of_less_than_a_second_is_each_sides_own() {
    let settings = Settings { rotation: Duration::from_millis(300), keepalive: Duration::ZERO, ..Settings::default() };
    let pair = Pair::ready(Terms::default(), false, settings);
    assert_eq!(pair.client.channel.next_tick(), Duration::from_millis(300));
}
