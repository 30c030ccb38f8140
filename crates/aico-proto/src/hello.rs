//! The three handshake frames and the alert, as bytes (`docs/spec/channel.md`, Handshake messages).

use aico_crypto::{
    EncapsulationKey, IDENTITY_BYTES, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES, PublicKey, SIGNATURE_BYTES, TAG_BYTES,
    X25519_BYTES, handshake_mac, same_bytes,
};

use crate::wire::Reader;
use crate::{Agreed, Error, Fresh, Padding};

pub(crate) const MAGIC: &[u8; 8] = b"AICO-HS1";
pub(crate) const MAC1_BYTES: usize = 16;
/// `ID ‖ signature ‖ fin`, sealed.
pub(crate) const SEALED_IDENTITY_BYTES: usize = IDENTITY_BYTES + SIGNATURE_BYTES + 32 + TAG_BYTES;

const TYPE_HELLO: u8 = 1;
const TYPE_REPLY: u8 = 2;
const TYPE_FINISH: u8 = 3;
const TYPE_ALERT: u8 = 0x7f;
/// The protocol version that we speak.
pub(crate) const VERSION: u8 = 1;

const FLAG_PADDING: u16 = 0b011;
const FLAG_UNORDERED: u16 = 0b100;
/// What stands in the place of mac1 inside a channel.
const NO_MAC: [u8; MAC1_BYTES] = [0; MAC1_BYTES];

/// What a side offers as the initiator, or asks for as the responder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Highest padding policy.
    pub padding: Padding,
    /// Whether the carrier may lose or reorder records. Both sides must say the same.
    pub unordered: bool,
    /// Whether the suite without ML-KEM-768 is out of the question.
    pub hybrid_only: bool,
}

impl Terms {
    fn flags(self) -> u16 {
        self.padding.code() | if self.unordered { FLAG_UNORDERED } else { 0 }
    }
}

/// The padding policy and the kind of carrier in a flags field.
fn parse_flags(flags: u16) -> Result<(Padding, bool), Error> {
    let padding = Padding::from_code(flags & FLAG_PADDING);
    match padding {
        Some(padding) if flags & !(FLAG_PADDING | FLAG_UNORDERED) == 0 => Ok((padding, flags & FLAG_UNORDERED != 0)),
        _ => Err(Error::Malformed("flags")),
    }
}

/// A cipher suite: the key exchange differs, the rest is the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Suite {
    /// X25519, Ed25519, BLAKE2b, XChaCha20-Poly1305.
    Classical = 1,
    /// The same with ML-KEM-768 beside X25519.
    Hybrid = 2,
}

impl Suite {
    fn from_wire(code: u16) -> Option<Self> {
        [Self::Classical, Self::Hybrid].into_iter().find(|suite| *suite as u16 == code)
    }
}

/// Why a responder refuses somebody who knows its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// No common version.
    Version,
    /// No common suite.
    Suite,
    /// The HELLO does not have its form.
    Malformed,
    /// Too many handshakes at once.
    Busy,
    /// A code that this version does not know.
    Other(u8),
}

impl Alert {
    /// The alert's frame.
    #[must_use]
    pub fn encode(self) -> Vec<u8> {
        let code = match self {
            Self::Version => 1,
            Self::Suite => 2,
            Self::Malformed => 3,
            Self::Busy => 4,
            Self::Other(code) => code,
        };
        [MAGIC.as_slice(), &[TYPE_ALERT, code]].concat()
    }

    fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Version,
            2 => Self::Suite,
            3 => Self::Malformed,
            4 => Self::Busy,
            other => Self::Other(other),
        }
    }
}

/// M1.
#[derive(Debug)]
pub(crate) struct Hello {
    /// Our order decides; the first that both speak is taken.
    pub(crate) suites: Vec<Suite>,
    pub(crate) padding: Padding,
    pub(crate) unordered: bool,
    pub(crate) nonce: [u8; 32],
    pub(crate) ephemeral: [u8; X25519_BYTES],
    pub(crate) kem_key: Option<Box<[u8; KEM_KEY_BYTES]>>,
}

impl Hello {
    /// The HELLO of a new channel, with proof that its sender knows `responder`.
    pub(crate) fn encode(&self, responder: &PublicKey) -> Vec<u8> {
        let mut out = self.encode_body();
        let mac = handshake_mac(responder, &out);
        out.extend_from_slice(&mac);
        out
    }

    /// The HELLO of a REKEY: inside the channel there is nothing to prove.
    pub(crate) fn encode_inside(&self) -> Vec<u8> {
        let mut out = self.encode_body();
        out.extend_from_slice(&NO_MAC);
        out
    }

    /// What both sides can live with, or what to say.
    pub(crate) fn agree(&self, terms: Terms) -> Result<Agreed, Alert> {
        if self.unordered != terms.unordered {
            return Err(Alert::Malformed);
        }
        let suite = *self.suites.first().ok_or(Alert::Suite)?;
        if terms.hybrid_only && suite != Suite::Hybrid {
            return Err(Alert::Suite);
        }
        Ok(Agreed { suite, padding: self.padding.min(terms.padding), unordered: self.unordered })
    }

    /// The HELLO that offers these suites on these terms.
    pub(crate) fn offer(suites: &[Suite], terms: Terms, fresh: &Fresh) -> Self {
        let (nonce, ephemeral, kem_key) = fresh.public_parts();
        let Terms { padding, unordered, .. } = terms;
        Self { suites: suites.to_vec(), padding, unordered, nonce, ephemeral, kem_key }
    }

    fn encode_body(&self) -> Vec<u8> {
        let terms = Terms { padding: self.padding, unordered: self.unordered, hybrid_only: false };
        let mut out = [MAGIC.as_slice(), &[TYPE_HELLO, 1, VERSION, self.suites.len() as u8]].concat();
        self.suites.iter().for_each(|suite| out.extend_from_slice(&(*suite as u16).to_be_bytes()));
        out.extend_from_slice(&terms.flags().to_be_bytes());
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.ephemeral);
        put_block(&mut out, self.kem_key.as_ref().map(|key| key.as_slice()));
        out
    }

    /// Whether the sender of `frame` knows `responder`. Nothing else is looked at before this holds.
    pub(crate) fn knows(responder: &PublicKey, frame: &[u8]) -> bool {
        let Some((body, mac)) = frame.split_last_chunk::<MAC1_BYTES>() else { return false };
        same_bytes(&handshake_mac(responder, body), mac)
    }

    /// Reads a HELLO whose mac1 held.
    pub(crate) fn parse(frame: &[u8]) -> Result<Self, Alert> {
        let (body, _mac) = frame.split_last_chunk::<MAC1_BYTES>().ok_or(Alert::Malformed)?;
        Self::parse_body(body).map_err(|error| match error {
            Error::Version => Alert::Version,
            Error::Suite => Alert::Suite,
            _ => Alert::Malformed,
        })
    }

    /// Reads the HELLO of a REKEY.
    pub(crate) fn parse_inside(frame: &[u8]) -> Result<Self, Error> {
        match frame.split_last_chunk::<MAC1_BYTES>() {
            Some((body, mac)) if *mac == NO_MAC => Self::parse_body(body),
            _ => Err(Error::Malformed("a REKEY with a mac1")),
        }
    }

    fn parse_body(body: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(body);
        envelope(&mut reader, TYPE_HELLO)?;
        let count = usize::from(reader.u8()?);
        let versions = reader.take(count)?.to_vec();
        let count = usize::from(reader.u8()?);
        let offered = reader.take(2 * count)?.as_chunks::<2>().0.iter().map(|b| u16::from_be_bytes(*b));
        let offered: Vec<u16> = offered.collect();
        let flags = reader.u16()?;
        let (nonce, ephemeral) = (*reader.array()?, *reader.array()?);
        let kem_key = take_block::<KEM_KEY_BYTES>(&mut reader)?;
        reader.end()?;

        no_duplicates(&versions)?;
        no_duplicates(&offered)?;
        let (padding, unordered) = parse_flags(flags)?;
        let suites: Vec<Suite> = offered.iter().filter_map(|code| Suite::from_wire(*code)).collect();
        if kem_key.is_some() != suites.contains(&Suite::Hybrid) {
            return Err(Error::Malformed("an encapsulation key is sent exactly with a hybrid suite"));
        }
        if let Some(key) = &kem_key {
            EncapsulationKey::parse(key).map_err(|_| Error::Malformed("encapsulation key"))?;
        }
        if !versions.contains(&VERSION) {
            return Err(Error::Version);
        }
        if suites.is_empty() {
            return Err(Error::Suite);
        }
        Ok(Self { suites, padding, unordered, nonce, ephemeral, kem_key })
    }
}

/// M2 up to the sealed identity.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) suite: Suite,
    pub(crate) padding: Padding,
    pub(crate) unordered: bool,
    pub(crate) nonce: [u8; 32],
    pub(crate) ephemeral: [u8; X25519_BYTES],
    pub(crate) kem_ciphertext: Option<Box<[u8; KEM_CIPHERTEXT_BYTES]>>,
}

impl Reply {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let terms = Terms { padding: self.padding, unordered: self.unordered, hybrid_only: false };
        let mut out = [MAGIC.as_slice(), &[TYPE_REPLY, VERSION]].concat();
        out.extend_from_slice(&(self.suite as u16).to_be_bytes());
        out.extend_from_slice(&terms.flags().to_be_bytes());
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.ephemeral);
        put_block(&mut out, self.kem_ciphertext.as_ref().map(|c| c.as_slice()));
        out
    }

    /// Splits a REPLY into its open part, also parsed, and the sealed identity.
    pub(crate) fn parse<'a>(
        frame: &'a [u8],
        offered: &[Suite],
        terms: Terms,
    ) -> Result<(Self, &'a [u8], &'a [u8; SEALED_IDENTITY_BYTES]), Error> {
        if let Some(alert) = parse_alert(frame) {
            return Err(Error::Refused(alert));
        }
        let (open, sealed) = frame.split_last_chunk().ok_or(Error::Malformed("it ends too early"))?;
        let mut reader = Reader::new(open);
        envelope(&mut reader, TYPE_REPLY)?;
        if reader.u8()? != VERSION {
            return Err(Error::Version);
        }
        let suite = Suite::from_wire(reader.u16()?).filter(|s| offered.contains(s)).ok_or(Error::Suite)?;
        let (padding, unordered) = parse_flags(reader.u16()?)?;
        if padding > terms.padding || unordered != terms.unordered {
            return Err(Error::Malformed("flags that were not offered"));
        }
        let (nonce, ephemeral) = (*reader.array()?, *reader.array()?);
        let kem_ciphertext = take_block::<KEM_CIPHERTEXT_BYTES>(&mut reader)?;
        reader.end()?;
        if kem_ciphertext.is_some() != (suite == Suite::Hybrid) {
            return Err(Error::Malformed("a ciphertext is sent exactly with the hybrid suite"));
        }
        Ok((Self { suite, padding, unordered, nonce, ephemeral, kem_ciphertext }, open, sealed))
    }
}

/// M3 around the sealed identity.
pub(crate) fn encode_finish(sealed: &[u8]) -> Vec<u8> {
    [MAGIC.as_slice(), &[TYPE_FINISH], sealed].concat()
}

/// The sealed identity of M3.
pub(crate) fn parse_finish(frame: &[u8]) -> Result<&[u8; SEALED_IDENTITY_BYTES], Error> {
    let mut reader = Reader::new(frame);
    envelope(&mut reader, TYPE_FINISH)?;
    let sealed = reader.array()?;
    reader.end()?;
    Ok(sealed)
}

fn parse_alert(frame: &[u8]) -> Option<Alert> {
    match frame.strip_prefix(MAGIC) {
        Some([TYPE_ALERT, code]) => Some(Alert::from_code(*code)),
        _ => None,
    }
}

fn envelope(reader: &mut Reader<'_>, kind: u8) -> Result<(), Error> {
    if reader.array::<8>()? != MAGIC {
        return Err(Error::Malformed("not a handshake frame"));
    }
    if reader.u8()? != kind {
        return Err(Error::Malformed("another handshake message than expected"));
    }
    Ok(())
}

/// `L(2) ‖ L bytes`, with L either 0 or `N`.
fn take_block<const N: usize>(reader: &mut Reader<'_>) -> Result<Option<Box<[u8; N]>>, Error> {
    match usize::from(reader.u16()?) {
        0 => Ok(None),
        length if length == N => Ok(Some(Box::new(*reader.array()?))),
        _ => Err(Error::Malformed("a length that no suite has")),
    }
}

fn put_block(out: &mut Vec<u8>, block: Option<&[u8]>) {
    let block = block.unwrap_or_default();
    out.extend_from_slice(&(block.len() as u16).to_be_bytes());
    out.extend_from_slice(block);
}

fn no_duplicates<T: Ord + Copy>(values: &[T]) -> Result<(), Error> {
    let unique: std::collections::BTreeSet<T> = values.iter().copied().collect();
    if unique.len() == values.len() { Ok(()) } else { Err(Error::Malformed("an offer stands there twice")) }
}
