//! Ordered records (`docs/spec/channel.md`, Records): `AICO-MSG` frames under one key a direction.
//!
//! A channel has two halves that share nothing, so that sending and receiving can go on at once.

use std::time::Duration;

use aico_crypto::{RecordKey, TAG_BYTES, TrafficKey};

use crate::limits::{
    CHANNEL_BYTES, CHANNEL_RECORDS, GENERATION_AGE, GENERATION_BYTES, GENERATION_RECORDS, MAX_COUNTER, MAX_FRAME_BYTES,
    MAX_METADATA_BYTES, MAX_PLAINTEXT_BYTES,
};
use crate::{CloseReason, Control, Error, Ready};

const MAGIC: &[u8; 8] = b"AICO-MSG";
const WIRE_VERSION: u8 = 1;
/// Metadata of every record that we send.
const METADATA: &[u8; 2] = b"{}";
/// Magic, nonce and the length of the metadata.
const HEADER_BYTES: usize = 8 + 24 + 4;
/// Bytes that a record adds to its plaintext.
pub const RECORD_OVERHEAD_BYTES: usize = HEADER_BYTES + METADATA.len() + TAG_BYTES;

#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Application = 0,
    Control = 1,
}

/// The keys of one direction in one generation: one a kind of record, both from one traffic key.
struct Generation {
    traffic: TrafficKey,
    keys: [([u8; 16], RecordKey); 2],
    number: u16,
    channel_id: [u8; 10],
}

impl Generation {
    const EPOCH: u16 = 0;

    fn new(traffic: TrafficKey, channel_id: [u8; 10], number: u16) -> Result<Self, Error> {
        let prefix = |kind: Kind| {
            let mut out = [0; 16];
            let fields = [WIRE_VERSION, kind as u8].into_iter().chain(Self::EPOCH.to_be_bytes());
            let fields = fields.chain(number.to_be_bytes()).chain(channel_id);
            out.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
            out
        };
        let (application, control) = (prefix(Kind::Application), prefix(Kind::Control));
        let keys = [(application, traffic.record_key(&application)?), (control, traffic.record_key(&control)?)];
        Ok(Self { traffic, keys, number, channel_id })
    }

    fn is_last(&self) -> bool {
        self.number == u16::MAX
    }

    fn next(self) -> Result<Self, Error> {
        let number = self.number.checked_add(1).ok_or(Error::UsedUp)?;
        Self::new(self.traffic.into_next(Self::EPOCH, number), self.channel_id, number)
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
        write!(f, "Generation({}, ..)", self.number)
    }
}

/// Seals what this side sends.
#[derive(Debug)]
pub struct Sealer {
    generation: Option<Generation>,
    counter: u64,
    generation_bytes: u64,
    records: u64,
    bytes: u64,
    /// The responder owes a READY first.
    owes_ready: bool,
    closed: bool,
}

impl Sealer {
    pub(crate) fn new(key: TrafficKey, channel_id: [u8; 10], owes_ready: bool) -> Result<Self, Error> {
        let generation = Some(Generation::new(key, channel_id, 0)?);
        Ok(Self { generation, counter: 0, generation_bytes: 0, records: 0, bytes: 0, owes_ready, closed: false })
    }

    /// Appends to `out` one application record with `parts` as its plaintext.
    pub fn seal(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Error> {
        self.check_room()?;
        self.append(Kind::Application, parts, out)
    }

    /// Appends a control record to `out`. After a CLOSE nothing more can be sealed; it alone is sealed when the channel
    /// is used up.
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

    /// Whether the channel may carry more than a CLOSE.
    fn check_room(&self) -> Result<(), Error> {
        if self.records >= CHANNEL_RECORDS || self.bytes >= CHANNEL_BYTES { Err(Error::UsedUp) } else { Ok(()) }
    }

    fn append(&mut self, kind: Kind, parts: &[&[u8]], out: &mut Vec<u8>) -> Result<(), Error> {
        let plaintext: usize = parts.iter().map(|part| part.len()).sum();
        if self.closed || self.owes_ready {
            return Err(Error::Misuse("a record after CLOSE or before READY"));
        }
        if plaintext > MAX_PLAINTEXT_BYTES {
            return Err(Error::Misuse("a record of more than 16 MiB"));
        }
        if self.counter > MAX_COUNTER {
            return Err(Error::UsedUp);
        }
        let (prefix, key) = self.generation.as_ref().ok_or(Error::UsedUp)?.of(kind);
        out.reserve(plaintext + RECORD_OVERHEAD_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(prefix);
        out.extend_from_slice(&self.counter.to_be_bytes());
        out.extend_from_slice(&(METADATA.len() as u32).to_be_bytes());
        out.extend_from_slice(METADATA);
        let start = out.len();
        parts.iter().for_each(|part| out.extend_from_slice(part));
        key.seal(self.counter, METADATA, out, start)?;
        self.counter += 1;
        self.records += 1;
        self.generation_bytes += plaintext as u64;
        self.bytes += plaintext as u64;
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
}

/// Opens what the other side sends, in order. The first failure is the last: the channel is over.
#[derive(Debug)]
pub struct Opener {
    generation: Option<Generation>,
    counter: u64,
    awaits_ready: bool,
    closed: Option<CloseReason>,
    failed: bool,
}

impl Opener {
    pub(crate) fn new(key: TrafficKey, channel_id: [u8; 10], awaits_ready: bool) -> Result<Self, Error> {
        let generation = Some(Generation::new(key, channel_id, 0)?);
        Ok(Self { generation, counter: 0, awaits_ready, closed: None, failed: false })
    }

    /// Opens one frame in place.
    pub fn open<'a>(&mut self, frame: &'a mut [u8]) -> Result<Incoming<'a>, Error> {
        if self.failed || self.closed.is_some() {
            return Err(Error::Unexpected("a record after the end"));
        }
        let opened = self.open_checked(frame);
        self.failed = opened.is_err();
        opened
    }

    /// What the end of the stream means: fine after a CLOSE, [`Error::Truncated`] otherwise.
    pub fn end_of_stream(&self) -> Result<CloseReason, Error> {
        self.closed.ok_or(Error::Truncated)
    }

    fn open_checked<'a>(&mut self, frame: &'a mut [u8]) -> Result<Incoming<'a>, Error> {
        let header = Header::parse(frame)?;
        let generation = self.generation.as_ref().ok_or(Error::UsedUp)?;
        let kind = generation.kind(&header.prefix).ok_or(Error::Order)?;
        if header.counter != self.counter || header.counter > MAX_COUNTER {
            return Err(Error::Order);
        }
        let (front, sealed) = frame.split_at_mut_checked(HEADER_BYTES + header.metadata).ok_or(TOO_SHORT)?;
        let (_, metadata) = front.split_at_checked(HEADER_BYTES).ok_or(TOO_SHORT)?;
        let plaintext = generation.of(kind).1.open(header.counter, metadata, sealed)?;
        self.counter += 1;
        check_metadata(metadata, kind)?;
        match kind {
            Kind::Application if self.awaits_ready => Err(Error::Unexpected("application data before READY")),
            Kind::Application => Ok(Incoming::Application(plaintext)),
            Kind::Control => self.control(Control::decode(plaintext)?).map(Incoming::Control),
        }
    }

    fn control(&mut self, control: Control) -> Result<Control, Error> {
        match (&control, self.awaits_ready) {
            (Control::Ready(ready), true) => {
                check_ready(ready)?;
                self.awaits_ready = false;
            }
            (Control::Ready(_), false) => return Err(Error::Unexpected("a READY that nobody waits for")),
            (_, true) => return Err(Error::Unexpected("a control record before READY")),
            (Control::Close(reason), false) => self.closed = Some(*reason),
            (Control::KeyUpdate, false) => {
                let generation = self.generation.take().ok_or(Error::UsedUp)?;
                self.generation = Some(generation.next()?);
                self.counter = 0;
            }
            (Control::Error { .. } | Control::Keepalive, false) => {}
        }
        Ok(control)
    }
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
        let [sealing, opening] = [(); 2].map(|()| master().traffic_keys(0).1);
        (Sealer::new(sealing, [7; 10], false).unwrap(), Opener::new(opening, [7; 10], false).unwrap())
    }

    fn passes(sealer: &mut Sealer, opener: &mut Opener, control: &Control) -> bool {
        let mut frame = Vec::new();
        sealer.seal_control(control, &mut frame).is_ok() && opener.open(&mut frame).is_ok()
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
        // docs/spec/channel.md: "A side MUST close the channel with reason 7 when [...] one direction has carried 2^32
        // records or 256 GiB of plaintext. The CLOSE itself may still be sent."
        for (records, bytes) in [(CHANNEL_RECORDS, 0), (0, CHANNEL_BYTES)] {
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
        (sealer.counter, opener.counter) = (MAX_COUNTER, MAX_COUNTER);
        assert!(passes(&mut sealer, &mut opener, &Control::Keepalive), "the limit itself is good");
        assert_eq!(sealer.seal(&[b"x"], &mut Vec::new()), Err(Error::UsedUp));
        let (mut sealer, mut opener) = pair();
        let mut frame = Vec::new();
        sealer.seal(&[b"x"], &mut frame).unwrap();
        frame.splice(24..32, (MAX_COUNTER + 1).to_be_bytes());
        opener.counter = MAX_COUNTER + 1;
        assert_eq!(opener.open(&mut frame).err(), Some(Error::Order));
    }
}
