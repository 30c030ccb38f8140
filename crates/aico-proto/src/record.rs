//! Records (`docs/spec/channel.md`, Records): `AICO-MSG` frames under one key a direction.
//!
//! A channel has two halves that share nothing but what [`crate::Channel`] tells both of them.

use std::time::Duration;

use aico_crypto::{RecordKey, TAG_BYTES, TrafficKey};

use crate::limits::{
    EPOCH_BYTES, EPOCH_RECORDS, GENERATION_AGE, GENERATION_BYTES, GENERATION_RECORDS, MAX_COUNTER, MAX_FAILURES,
    MAX_FRAME_BYTES, MAX_METADATA_BYTES, MAX_PLAINTEXT_BYTES, OLD_KEYS,
};
use crate::replay::Replay;
use crate::{CloseReason, Control, Error, Padding, Ready};

const MAGIC: &[u8; 8] = b"AICO-MSG";
const WIRE_VERSION: u8 = 1;
/// Metadata of every record that we send.
const METADATA: &[u8; 2] = b"{}";
/// Magic, nonce and the length of the metadata.
const HEADER_BYTES: usize = 8 + 24 + 4;
/// Bytes that a record adds to its padded plaintext.
pub const RECORD_OVERHEAD_BYTES: usize = HEADER_BYTES + METADATA.len() + TAG_BYTES;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Application = 0,
    Control = 1,
}

/// One direction of one epoch, as the handshake derives it.
#[derive(Debug)]
pub(crate) struct HalfKeys {
    pub(crate) key: TrafficKey,
    pub(crate) channel_id: [u8; 10],
    pub(crate) epoch: u16,
}

/// The keys of one direction in one generation: one a kind of record, both from one traffic key.
struct Generation {
    traffic: TrafficKey,
    keys: [([u8; 16], RecordKey); 2],
    number: u16,
    epoch: u16,
    channel_id: [u8; 10],
}

impl Generation {
    fn first(half: HalfKeys) -> Result<Self, Error> {
        Self::new(half.key, half.channel_id, half.epoch, 0)
    }

    fn new(traffic: TrafficKey, channel_id: [u8; 10], epoch: u16, number: u16) -> Result<Self, Error> {
        let prefix = |kind: Kind| {
            let mut out = [0; 16];
            let fields = [WIRE_VERSION, kind as u8].into_iter().chain(epoch.to_be_bytes());
            let fields = fields.chain(number.to_be_bytes()).chain(channel_id);
            out.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
            out
        };
        let (application, control) = (prefix(Kind::Application), prefix(Kind::Control));
        let keys = [(application, traffic.record_key(&application)?), (control, traffic.record_key(&control)?)];
        Ok(Self { traffic, keys, number, epoch, channel_id })
    }

    fn is_last(&self) -> bool {
        self.number == u16::MAX
    }

    fn next(self) -> Result<Self, Error> {
        let number = self.number.checked_add(1).ok_or(Error::UsedUp)?;
        Self::new(self.traffic.into_next(self.epoch, number), self.channel_id, self.epoch, number)
    }

    /// The generation after this one, beside it; none after the last.
    fn ahead(&self) -> Result<Option<Self>, Error> {
        let Some(number) = self.number.checked_add(1) else { return Ok(None) };
        Self::new(self.traffic.ahead(self.epoch, number), self.channel_id, self.epoch, number).map(Some)
    }

    fn of(&self, kind: Kind) -> (&[u8; 16], &RecordKey) {
        let [application, control] = &self.keys;
        let (prefix, key) = if kind == Kind::Application { application } else { control };
        (prefix, key)
    }

    /// The kind of record that starts with this prefix, if it belongs here at all.
    fn kind(&self, prefix: &[u8; 16]) -> Option<Kind> {
        [Kind::Application, Kind::Control].into_iter().find(|kind| self.of(*kind).0 == prefix)
    }
}

impl std::fmt::Debug for Generation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Generation({}.{}, ..)", self.epoch, self.number)
    }
}

/// Seals what this side sends.
#[derive(Debug)]
pub struct Sealer {
    generation: Option<Generation>,
    padding: Padding,
    counter: u64,
    generation_bytes: u64,
    records: u64,
    bytes: u64,
    /// The responder owes a READY first.
    owes_ready: bool,
    closed: bool,
}

impl Sealer {
    pub(crate) fn new(half: HalfKeys, padding: Padding, owes_ready: bool) -> Result<Self, Error> {
        let generation = Some(Generation::first(half)?);
        let (counter, generation_bytes, records, bytes) = (0, 0, 0, 0);
        Ok(Self { generation, padding, counter, generation_bytes, records, bytes, owes_ready, closed: false })
    }

    /// Goes on with the keys of the next epoch; the old ones are wiped.
    pub(crate) fn next_epoch(&mut self, half: HalfKeys, owes_ready: bool) -> Result<(), Error> {
        let closed = self.closed;
        *self = Self { closed, ..Self::new(half, self.padding, owes_ready)? };
        Ok(())
    }

    /// Appends to `out` one application record with `parts` as its plaintext.
    pub fn seal(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Error> {
        self.check_room()?;
        self.append(Kind::Application, parts, out)
    }

    /// Appends a control record to `out`. After a CLOSE nothing more can be sealed; it alone is sealed when the keys
    /// are used up.
    pub fn seal_control(&mut self, control: &Control, out: &mut Vec<u8>) -> Result<(), Error> {
        if !matches!(control, Control::Close(_)) {
            self.check_room()?;
        }
        if *control == Control::KeyUpdate {
            return self.key_update(out);
        }
        if matches!(control, Control::Ready(_)) {
            self.owes_ready = false;
        }
        self.append(Kind::Control, &[&control.encode()], out)?;
        self.closed = matches!(control, Control::Close(_));
        Ok(())
    }

    /// Whether a KEYUPDATE must come before the next record. `age` is the time since the last one.
    #[must_use]
    pub fn key_update_due(&self, age: Duration) -> bool {
        self.counter >= GENERATION_RECORDS || self.generation_bytes >= GENERATION_BYTES || age >= GENERATION_AGE
    }

    /// Whether half of what one epoch may carry has been sent: time for new ephemeral keys.
    #[must_use]
    pub fn rekey_due(&self) -> bool {
        self.records >= EPOCH_RECORDS / 2 || self.bytes >= EPOCH_BYTES / 2
    }

    /// Whether CLOSE has been sealed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Seals KEYUPDATE, wipes the key and goes on with the next one.
    fn key_update(&mut self, out: &mut Vec<u8>) -> Result<(), Error> {
        if self.generation.as_ref().is_none_or(Generation::is_last) {
            return Err(Error::UsedUp);
        }
        self.append(Kind::Control, &[&Control::KeyUpdate.encode()], out)?;
        let generation = self.generation.take().ok_or(Error::UsedUp)?;
        self.generation = Some(generation.next()?);
        (self.counter, self.generation_bytes) = (0, 0);
        Ok(())
    }

    /// Whether the epoch may carry more than a CLOSE.
    fn check_room(&self) -> Result<(), Error> {
        if self.records >= EPOCH_RECORDS || self.bytes >= EPOCH_BYTES { Err(Error::UsedUp) } else { Ok(()) }
    }

    fn append(&mut self, kind: Kind, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Error> {
        let plaintext: usize = parts.iter().map(|part| part.len()).sum();
        if self.closed || self.owes_ready {
            return Err(Error::Misuse("a record after CLOSE or before READY"));
        }
        let padded = self.padding.padded(plaintext);
        if padded > MAX_PLAINTEXT_BYTES {
            return Err(Error::Misuse("a record of more than 16 MiB"));
        }
        if self.counter > MAX_COUNTER {
            return Err(Error::UsedUp);
        }
        let (prefix, key) = self.generation.as_ref().ok_or(Error::UsedUp)?.of(kind);
        out.reserve(padded + RECORD_OVERHEAD_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(prefix);
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.extend_from_slice(&(METADATA.len() as u32).to_be_bytes());
        out.extend_from_slice(METADATA);
        let start = out.len();
        parts.iter().for_each(|part| out.extend_from_slice(part));
        self.padding.pad(plaintext, out)?;
        key.seal(self.counter, METADATA, out, start)?;
        self.counter += 1;
        self.records += 1;
        self.generation_bytes += padded as u64;
        self.bytes += padded as u64;
        Ok(())
    }
}

/// What a frame held.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// An application record.
    Application(&'a mut [u8]),
    /// A control record; KEYUPDATE has been acted upon already.
    Control(Control),
    /// On an unordered carrier: nothing that counts. It came before, too late, or from somebody else.
    Dropped,
}

/// One generation of the other side's keys and what has come under them.
#[derive(Debug)]
struct Lane {
    generation: Generation,
    replay: Replay,
    /// Nothing counts in this epoch before its READY.
    awaits_ready: bool,
    /// Whether REKEY_END has come: the other side has said all that it had to say in this epoch.
    ended: bool,
    /// When an old one is forgotten; the newest has no such time.
    until: Option<Duration>,
}

/// Opens what the other side sends. On an ordered carrier the first failure is the last: the channel is over. On an
/// unordered one a bad record is dropped, and too many of them end the channel.
#[derive(Debug)]
pub struct Opener {
    /// The newest first. On an ordered carrier a second one is the epoch that the other side still sends in.
    lanes: Vec<Lane>,
    /// On an unordered carrier, the generation whose records may come before its KEYUPDATE.
    ahead: Option<Generation>,
    padding: Padding,
    unordered: bool,
    failures: u32,
    closed: Option<CloseReason>,
    failed: bool,
}

impl Opener {
    pub(crate) fn new(half: HalfKeys, padding: Padding, unordered: bool, awaits_ready: bool) -> Result<Self, Error> {
        let (lanes, ahead, closed) = (Vec::new(), None, None);
        let mut opener = Self { lanes, ahead, padding, unordered, failures: 0, closed, failed: false };
        opener.enter(Generation::first(half)?, awaits_ready)?;
        Ok(opener)
    }

    /// Expects the next epoch. What the other side still sends in the old one is good until its REKEY_END, where
    /// `awaits_ready`; on an unordered carrier for 30 s.
    pub(crate) fn next_epoch(&mut self, half: HalfKeys, awaits_ready: bool, now: Duration) -> Result<(), Error> {
        if self.unordered {
            self.expire_old(now);
        } else if !awaits_ready {
            self.lanes.clear();
        }
        self.enter(Generation::first(half)?, awaits_ready)
    }

    /// Opens one frame in place. `now` is any clock that does not go back; only an unordered carrier asks for it.
    pub fn open<'a>(&mut self, frame: &'a mut [u8], now: Duration) -> Result<Incoming<'a>, Error> {
        if self.failed || self.closed.is_some() {
            return Err(Error::Unexpected("a record after the end"));
        }
        let opened = self.open_checked(frame, now);
        self.failed = opened.is_err();
        opened
    }

    /// What the end of the stream means: fine after a CLOSE, [`Error::Truncated`] otherwise.
    pub fn end_of_stream(&self) -> Result<CloseReason, Error> {
        self.closed.ok_or(Error::Truncated)
    }

    fn open_checked<'a>(&mut self, frame: &'a mut [u8], now: Duration) -> Result<Incoming<'a>, Error> {
        let opened = match self.open_record(frame, now) {
            Ok(opened) => opened,
            Err(_) if self.unordered => {
                self.failures += 1;
                return if self.failures >= MAX_FAILURES { Err(Error::Authentication) } else { Ok(Incoming::Dropped) };
            }
            Err(error) => return Err(error),
        };
        check_metadata(opened.metadata, opened.kind)?;
        let plaintext = self.padding.strip(opened.plaintext)?;
        let early = self.lanes.get(opened.lane).is_some_and(|lane| lane.awaits_ready);
        match opened.kind {
            Kind::Application if early => Err(Error::Unexpected("application data before READY")),
            Kind::Application => Ok(Incoming::Application(plaintext)),
            Kind::Control => self.control(Control::decode(plaintext)?, opened.lane, now).map(Incoming::Control),
        }
    }

    /// Finds the record's keys, checks its counter, opens it, and only then takes note of it.
    fn open_record<'a>(&mut self, frame: &'a mut [u8], now: Duration) -> Result<Opened<'a>, Error> {
        let header = Header::parse(frame)?;
        self.lanes.retain(|lane| lane.until.is_none_or(|until| now < until));
        let (front, sealed) = frame.split_at_mut_checked(HEADER_BYTES + header.metadata).ok_or(TOO_SHORT)?;
        let (_, metadata) = front.split_at_checked(HEADER_BYTES).ok_or(TOO_SHORT)?;
        let lanes = self.lanes.iter().map(|lane| &lane.generation).chain(&self.ahead);
        let found = lanes.enumerate().find_map(|(at, generation)| Some((at, generation.kind(&header.prefix)?)));
        let (at, kind) = found.ok_or(Error::Order)?;
        if !self.unordered && !self.is_turn_of(at) {
            return Err(Error::Order);
        }
        let Some(lane) = self.lanes.get_mut(at) else {
            let ahead = self.ahead.as_ref().filter(|_| header.counter <= MAX_COUNTER).ok_or(Error::Order)?;
            let plaintext = ahead.of(kind).1.open(header.counter, metadata, sealed)?;
            self.advance(now)?;
            self.lanes.iter_mut().take(1).for_each(|lane| lane.replay.note(header.counter));
            return Ok(Opened { plaintext, metadata, kind, lane: 0 });
        };
        if !lane.replay.admits(header.counter) {
            return Err(Error::Order);
        }
        let plaintext = lane.generation.of(kind).1.open(header.counter, metadata, sealed)?;
        lane.replay.note(header.counter);
        if at == 0 && !self.unordered {
            // The other side has entered this epoch: what comes in the old one is no longer from it.
            self.lanes.truncate(1);
        }
        Ok(Opened { plaintext, metadata, kind, lane: at })
    }

    /// Whether a record may come on this lane of an ordered carrier: on an old one until it has ended, and then on the
    /// new one. Counters start again in each, so only this shows that nothing is missing in between.
    fn is_turn_of(&self, at: usize) -> bool {
        match self.lanes.get(1) {
            Some(old) => old.ended == (at == 0),
            None => true,
        }
    }

    /// Makes `generation` the newest.
    fn enter(&mut self, generation: Generation, awaits_ready: bool) -> Result<(), Error> {
        let replay = if self.unordered { Replay::window() } else { Replay::ordered() };
        self.ahead = if self.unordered { generation.ahead()? } else { None };
        // An unordered carrier may lose READY: there, any record that opens confirms the other side.
        let awaits_ready = awaits_ready && !self.unordered;
        self.lanes.insert(0, Lane { generation, replay, awaits_ready, ended: false, until: None });
        Ok(())
    }

    /// On an unordered carrier, goes on to the generation ahead.
    fn advance(&mut self, now: Duration) -> Result<(), Error> {
        self.expire_old(now);
        let ahead = self.ahead.take().ok_or(Error::UsedUp)?;
        self.enter(ahead, false)
    }

    fn expire_old(&mut self, now: Duration) {
        self.lanes.iter_mut().for_each(|lane| lane.until = lane.until.or(Some(now.saturating_add(OLD_KEYS))));
    }

    fn control(&mut self, control: Control, at: usize, now: Duration) -> Result<Control, Error> {
        let lane = self.lanes.get_mut(at).ok_or(Error::Order)?;
        match (&control, lane.awaits_ready) {
            (Control::Ready(ready), true) => {
                check_ready(ready)?;
                lane.awaits_ready = false;
            }
            (Control::Ready(ready), false) if self.unordered => check_ready(ready)?,
            (Control::Ready(_), false) => return Err(Error::Unexpected("a READY that nobody waits for")),
            (_, true) => return Err(Error::Unexpected("a control record before READY")),
            (Control::Close(reason), false) => self.closed = Some(*reason),
            (Control::KeyUpdate, false) => self.key_update(at, now)?,
            (Control::RekeyEnd, false) if at == 0 && !self.unordered => return Err(Error::RekeyFailed),
            (Control::RekeyEnd, false) => lane.ended = true,
            _ => {}
        }
        Ok(control)
    }

    fn key_update(&mut self, at: usize, now: Duration) -> Result<(), Error> {
        if self.unordered {
            // One of an old generation comes late: its successor is here already.
            return if at == 0 { self.advance(now) } else { Ok(()) };
        }
        let old = self.lanes.remove(at);
        let lane = Lane { generation: old.generation.next()?, replay: Replay::ordered(), ..old };
        self.lanes.insert(at, lane);
        Ok(())
    }
}

/// A record that opened.
struct Opened<'a> {
    plaintext: &'a mut [u8],
    metadata: &'a [u8],
    kind: Kind,
    /// Which lane it came on.
    lane: usize,
}

/// Where a record's plaintext stands in its frame, padding included, if `frame` is long enough to be one.
pub(crate) fn plaintext_start(frame: &[u8]) -> Option<usize> {
    let metadata = frame.get(HEADER_BYTES - 4..HEADER_BYTES)?.first_chunk::<4>()?;
    Some(HEADER_BYTES + u32::from_be_bytes(*metadata) as usize)
}

const TOO_SHORT: Error = Error::Malformed("a record that is too short");

struct Header {
    prefix: [u8; 16],
    counter: u64,
    metadata: usize,
}

impl Header {
    /// Lengths first, then magic; nothing is decrypted yet.
    fn parse(frame: &[u8]) -> Result<Self, Error> {
        if frame.len() > MAX_FRAME_BYTES {
            return Err(Error::Malformed("a frame that is too long"));
        }
        let mut reader = crate::wire::Reader::new(frame);
        let magic = reader.array::<8>()?;
        let (prefix, counter) = (*reader.array()?, reader.u64()?);
        let metadata = usize::try_from(reader.u32()?).unwrap_or(usize::MAX);
        if metadata > MAX_METADATA_BYTES {
            return Err(Error::Malformed("metadata of more than 16 KiB"));
        }
        if magic != MAGIC {
            return Err(Error::Malformed("not a record"));
        }
        let sealed = reader.rest().len().checked_sub(metadata).ok_or(TOO_SHORT)?;
        match sealed.checked_sub(TAG_BYTES) {
            None => Err(TOO_SHORT),
            Some(plaintext) if plaintext > MAX_PLAINTEXT_BYTES => Err(Error::Malformed("a record of more than 16 MiB")),
            Some(_) => Ok(Self { prefix, counter, metadata }),
        }
    }
}

/// Authenticated by now, and still a peer's: it must be a JSON object, and `{}` in a control record.
fn check_metadata(metadata: &[u8], kind: Kind) -> Result<(), Error> {
    if metadata == METADATA {
        return Ok(());
    }
    let object = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(metadata);
    match (kind, object) {
        (Kind::Application, Ok(_)) => Ok(()),
        _ => Err(Error::Malformed("metadata")),
    }
}

fn check_ready(ready: &Ready) -> Result<(), Error> {
    if ready.max_plaintext == 0 || ready.max_plaintext as usize > MAX_PLAINTEXT_BYTES {
        return Err(Error::Malformed("READY with an impossible size"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use aico_crypto::{EphemeralSecret, HandshakeSecret, MasterSecret, Psk, TranscriptHash};

    use super::*;

    fn master() -> MasterSecret {
        let [a, b] = [[1; 32], [2; 32]].map(|bytes| EphemeralSecret::hazmat_from_bytes(&bytes).unwrap());
        let kx = a.agree_as_initiator(b.public()).unwrap();
        let th = TranscriptHash::of(b'2', &[]);
        HandshakeSecret::extract(&Psk::none(), None, &kx, &th).into_master(&th)
    }

    fn pair() -> (Sealer, Opener) {
        let [sealing, opening] =
            [(); 2].map(|()| HalfKeys { key: master().traffic_keys(0).1, channel_id: [7; 10], epoch: 0 });
        let sealer = Sealer::new(sealing, Padding::None, false).unwrap();
        (sealer, Opener::new(opening, Padding::None, false, false).unwrap())
    }

    fn passes(sealer: &mut Sealer, opener: &mut Opener, control: &Control) -> bool {
        let mut frame = Vec::new();
        sealer.seal_control(control, &mut frame).is_ok() && opener.open(&mut frame, Duration::ZERO).is_ok()
    }

    #[test]
    fn the_last_generation_has_no_key_update_but_a_close() {
        // docs/spec/channel.md: "A sender MUST close the channel with reason 7 instead of sending KEYUPDATE in
        // generation 65535."
        let (mut sealer, mut opener) = pair();
        for _ in 0..u16::MAX {
            assert!(passes(&mut sealer, &mut opener, &Control::KeyUpdate));
        }
        let mut out = Vec::new();
        assert_eq!(sealer.seal_control(&Control::KeyUpdate, &mut out), Err(Error::UsedUp));
        assert!(out.is_empty(), "nothing that a caller could send");
        assert!(passes(&mut sealer, &mut opener, &Control::Close(CloseReason::Limit)));
        assert_eq!(opener.end_of_stream(), Ok(CloseReason::Limit));
    }

    #[test]
    fn a_used_up_channel_says_only_goodbye() {
        // docs/spec/channel.md: "A side MUST close the channel with reason 7 when one direction has carried 2^32 records
        // or 256 GiB of plaintext in one epoch. The CLOSE itself may still be sent."
        for (records, bytes) in [(EPOCH_RECORDS, 0), (0, EPOCH_BYTES)] {
            let (mut sealer, mut opener) = pair();
            (sealer.records, sealer.bytes) = (records, bytes);
            assert_eq!(sealer.seal(&[b"x"], &mut Vec::new()), Err(Error::UsedUp));
            let error = Control::Error { code: 0, text: String::new() };
            for control in [Control::Keepalive, Control::KeyUpdate, error] {
                assert_eq!(sealer.seal_control(&control, &mut Vec::new()), Err(Error::UsedUp), "{control:?}");
            }
            assert!(passes(&mut sealer, &mut opener, &Control::Close(CloseReason::Limit)));
            let (mut sealer, mut opener) = pair();
            (sealer.records, sealer.bytes) = (records.saturating_sub(1), bytes.saturating_sub(1));
            assert!(passes(&mut sealer, &mut opener, &Control::Keepalive), "one below the limit");
        }
    }

    #[test]
    fn a_generation_grows_old_by_records_and_by_bytes() {
        let (mut sealer, _) = pair();
        assert!(!sealer.key_update_due(Duration::ZERO));
        sealer.counter = GENERATION_RECORDS;
        assert!(sealer.key_update_due(Duration::ZERO));
        sealer.seal_control(&Control::KeyUpdate, &mut Vec::new()).unwrap();
        assert!(!sealer.key_update_due(Duration::ZERO));
        sealer.generation_bytes = GENERATION_BYTES;
        assert!(sealer.key_update_due(Duration::ZERO));
    }

    #[test]
    fn a_counter_above_its_limit_is_neither_used_nor_accepted() {
        // docs/spec/channel.md: "A side MUST close the channel rather than use or accept a counter above 2^63."
        let (mut sealer, mut opener) = pair();
        sealer.counter = MAX_COUNTER;
        opener.lanes[0].replay = Replay::Ordered { next: MAX_COUNTER };
        assert!(passes(&mut sealer, &mut opener, &Control::Keepalive), "the limit itself is good");
        assert_eq!(sealer.seal(&[b"x"], &mut Vec::new()), Err(Error::UsedUp));
        let (mut sealer, mut opener) = pair();
        let mut frame = Vec::new();
        sealer.seal(&[b"x"], &mut frame).unwrap();
        frame.splice(24..32, (MAX_COUNTER + 1).to_be_bytes());
        opener.lanes[0].replay = Replay::Ordered { next: MAX_COUNTER + 1 };
        assert_eq!(opener.open(&mut frame, Duration::ZERO).err(), Some(Error::Order));
    }

    #[test]
    fn new_keys_are_due_at_half_of_what_an_epoch_carries() {
        let due = |records, bytes| {
            let (mut sealer, _) = pair();
            (sealer.records, sealer.bytes) = (records, bytes);
            sealer.rekey_due()
        };
        assert!(!due(0, 0) && !due((1 << 31) - 1, (128 << 30) - 1));
        assert!(due(1 << 31, 0) && due(0, 128 << 30));
    }

    #[test]
    fn what_was_sealed_is_counted_and_a_goodbye_outlives_the_epoch() {
        let (mut sealer, _) = pair();
        assert!(!sealer.is_closed());
        for _ in 0..3 {
            sealer.seal(&[b"four", b"five5"], &mut Vec::new()).unwrap();
        }
        assert_eq!((sealer.counter, sealer.records, sealer.generation_bytes, sealer.bytes), (3, 3, 27, 27));
        sealer.seal_control(&Control::Close(CloseReason::Normal), &mut Vec::new()).unwrap();
        assert!(sealer.is_closed());
        let half = HalfKeys { key: master().traffic_keys(1).1, channel_id: [7; 10], epoch: 1 };
        sealer.next_epoch(half, false).unwrap();
        assert!(sealer.is_closed() && sealer.seal(&[b"x"], &mut Vec::new()).is_err(), "new keys do not open it again");
    }

    /// Lengths at their limits and one behind, before anything is decrypted: `docs/spec/channel.md`, Limits.
    #[test]
    fn lengths_are_looked_at_first() {
        let frame = |metadata: usize, sealed: usize| {
            let mut frame = [MAGIC.as_slice(), &[0; 24]].concat();
            frame.extend_from_slice(&(metadata as u32).to_be_bytes());
            frame.resize(frame.len() + metadata + sealed, 0);
            Header::parse(&frame).err()
        };
        assert_eq!(frame(2, TAG_BYTES), None);
        assert_eq!(frame(2, TAG_BYTES - 1), Some(TOO_SHORT));
        assert_eq!(frame(16_384, TAG_BYTES), None);
        assert_eq!(frame(16_385, TAG_BYTES), Some(Error::Malformed("metadata of more than 16 KiB")));
        assert_eq!(frame(2, (16 << 20) + TAG_BYTES), None);
        assert_eq!(frame(2, (16 << 20) + TAG_BYTES + 1), Some(Error::Malformed("a record of more than 16 MiB")));
        assert_eq!(
            Header::parse(&vec![0; MAX_FRAME_BYTES + 1]).err(),
            Some(Error::Malformed("a frame that is too long"))
        );
        assert_eq!(Header::parse(&vec![0; MAX_FRAME_BYTES]).err(), Some(Error::Malformed("not a record")));
        let (mut sealer, _) = pair();
        assert!(sealer.seal(&[&vec![0; 16 << 20]], &mut Vec::new()).is_ok());
        assert!(sealer.seal(&[&vec![0; (16 << 20) + 1]], &mut Vec::new()).is_err());
    }

    #[test]
    fn metadata_is_an_object_and_in_control_records_an_empty_one() {
        assert!(check_metadata(b"{}", Kind::Application).is_ok() && check_metadata(b"{}", Kind::Control).is_ok());
        assert!(check_metadata(br#"{"a":1}"#, Kind::Application).is_ok());
        assert!(check_metadata(br#"{"a":1}"#, Kind::Control).is_err());
        for bad in [&b""[..], b"[]", b"1", b"{", b"{} "] {
            assert!(check_metadata(bad, Kind::Control).is_err());
        }
        assert!(check_metadata(b"[]", Kind::Application).is_err());
    }

    #[test]
    fn a_ready_has_a_possible_size() {
        let ready = |max_plaintext| {
            check_ready(&Ready { clock_ms: 0, max_plaintext, idle_s: 0, keepalive_s: 0, rotation_s: 0 })
        };
        assert!(ready(1).is_ok() && ready(16 << 20).is_ok());
        assert!(ready(0).is_err() && ready((16 << 20) + 1).is_err() && ready(u32::MAX).is_err());
    }

    #[test]
    fn an_epoch_ends_once_and_the_next_begins_behind_it() {
        let half = |epoch| HalfKeys { key: master().traffic_keys(epoch).1, channel_id: [7; 10], epoch };
        // An initiator that has sent FINISH, and what its responder sends.
        let renewing = |unordered| {
            let (sealer, _) = pair();
            let mut opener = Opener::new(half(0), Padding::None, unordered, false).unwrap();
            opener.next_epoch(half(1), true, Duration::ZERO).unwrap();
            (sealer, Sealer::new(half(1), Padding::None, false).unwrap(), opener)
        };
        let ready = Control::Ready(Ready { clock_ms: 0, max_plaintext: 1, idle_s: 0, keepalive_s: 0, rotation_s: 0 });
        let (mut old, mut new, mut opener) = renewing(false);
        for control in [Control::Keepalive, Control::KeyUpdate, Control::Keepalive, Control::RekeyEnd] {
            assert!(passes(&mut old, &mut opener, &control), "{control:?}");
        }
        assert!(passes(&mut new, &mut opener, &ready) && opener.lanes.len() == 1);
        assert!(!passes(&mut new, &mut opener, &Control::RekeyEnd), "this epoch goes on");

        let (mut old, _, mut opener) = renewing(false);
        assert!(passes(&mut old, &mut opener, &Control::RekeyEnd));
        assert!(!passes(&mut old, &mut opener, &Control::Keepalive), "a thief of the old keys has nothing to say");
        let (_, mut new, mut opener) = renewing(false);
        assert!(!passes(&mut new, &mut opener, &ready), "the old epoch has not ended");

        let (mut old, mut new, mut opener) = renewing(true);
        assert!(passes(&mut new, &mut opener, &ready) && passes(&mut old, &mut opener, &Control::RekeyEnd));
        assert!(
            passes(&mut old, &mut opener, &Control::Keepalive),
            "where records overtake each other it says nothing"
        );
        assert!(passes(&mut new, &mut opener, &Control::RekeyEnd));
    }

    #[test]
    fn a_key_update_that_comes_late_changes_nothing() {
        let half = || HalfKeys { key: master().traffic_keys(0).1, channel_id: [7; 10], epoch: 0 };
        let at = |seconds| Duration::from_secs(seconds);
        let frames = || {
            let mut sealer = Sealer::new(half(), Padding::None, false).unwrap();
            [Control::KeyUpdate, Control::Keepalive, Control::Keepalive].map(|control| {
                let mut frame = Vec::new();
                sealer.seal_control(&control, &mut frame).unwrap();
                frame
            })
        };
        // In its place it makes the next generation the newest; behind that one's first record it comes too late.
        for order in [[0, 1, 2], [1, 0, 2]] {
            let mut opener = Opener::new(half(), Padding::None, true, false).unwrap();
            let mut frames = frames();
            for (at_second, which) in [0, 1].into_iter().zip(order) {
                assert!(matches!(opener.open(&mut frames[which], at(at_second)), Ok(Incoming::Control(_))));
                assert_eq!(opener.lanes[0].generation.number, 1);
            }
            // The generation that is in use does not age.
            let last = opener.open(&mut frames[order[2]], at(100));
            assert!(matches!(last, Ok(Incoming::Control(Control::Keepalive))), "{last:?}");
        }
    }

    #[test]
    fn nothing_but_ready_comes_first() {
        let half = || HalfKeys { key: master().traffic_keys(0).1, channel_id: [7; 10], epoch: 0 };
        let mut sealer = Sealer::new(half(), Padding::None, false).unwrap();
        let mut opener = Opener::new(half(), Padding::None, false, true).unwrap();
        let mut frame = Vec::new();
        sealer.seal_control(&Control::Keepalive, &mut frame).unwrap();
        assert!(matches!(
            opener.open(&mut frame, Duration::ZERO),
            Err(Error::Unexpected("a control record before READY"))
        ));
    }
}
