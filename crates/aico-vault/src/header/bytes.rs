//! The header's bytes (`docs/spec/vault.md`, Header). There is one encoding of a header: what decodes encodes to the
//! same bytes, so the authenticator can be checked over the encoding.

use aico_crypto::{DIGEST_BYTES, digest};

use super::slot::{Slot, SlotId, SlotKind, WrappedRoot};
use super::{Header, MAX_HEADER_BYTES, MAX_PARAMETER_BYTES, MAX_SLOTS, SpaceId, VaultId, WHAT, WrappedSpace, damaged};
use crate::Error;

const MAGIC: &[u8; 8] = b"AICOVLT1";
/// The format that this version writes.
pub(super) const FORMAT: u16 = 2;
/// The first format; it does not say which program it needs.
const FIRST_FORMAT: u16 = 1;
/// The oldest version of this program that reads what this one writes.
const NEEDS: [u16; 3] = [0, 2, 0];
const AUTHENTICATOR_BYTES: usize = 32;
/// The flag of a recovery code that its owner has typed back.
const RECOVERY_CONFIRMED: u8 = 1;
/// The flag of a vault that its owner has locked.
const LOCKED: u8 = 2;

impl Header {
    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.authenticated_bytes();
        out.extend_from_slice(&self.authenticator);
        out
    }

    /// Everything that the authenticator covers: the checksum and all before it.
    pub(super) fn authenticated_bytes(&self) -> Vec<u8> {
        let body = self.encode_body();
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&self.format.to_be_bytes());
        if self.format > FIRST_FORMAT {
            NEEDS.iter().for_each(|part| out.extend_from_slice(&part.to_be_bytes()));
        }
        out.extend_from_slice(&(body.len() as u32).to_be_bytes());
        out.extend_from_slice(&body);
        let checksum = digest(&out);
        out.extend_from_slice(&checksum);
        out
    }

    fn encode_body(&self) -> Vec<u8> {
        let mut out = self.vault.as_bytes().to_vec();
        out.extend_from_slice(&self.revision.to_be_bytes());
        let flag = |set, bit| if set { bit } else { 0 };
        out.push(flag(self.recovery_confirmed, RECOVERY_CONFIRMED) | flag(self.locked, LOCKED));
        out.extend_from_slice(&self.created_ms.to_be_bytes());
        out.extend_from_slice(self.system.id.as_bytes());
        out.extend_from_slice(&self.system.epoch.to_be_bytes());
        out.extend_from_slice(&self.system.wrapped_key);
        out.push(self.slots.len() as u8);
        for slot in &self.slots {
            encode_slot(slot, &mut out);
        }
        out
    }

    /// Reads a header, and tells apart what is no vault file, what a newer version wrote, and what is damaged.
    ///
    /// The authenticator is not checked here: that takes the root key ([`Header::unlock`]).
    pub fn decode(bytes: &[u8]) -> Result<Self, Error> {
        let frame = check_frame(bytes)?;
        let mut rest = Reader(frame.body);
        let header = decode_body(&mut rest, &frame)?;
        if !rest.0.is_empty() {
            return Err(damaged("something follows the last slot"));
        }
        header.check_slots()?;
        Ok(header)
    }
}

struct Frame<'a> {
    format: u16,
    body: &'a [u8],
    authenticator: [u8; AUTHENTICATOR_BYTES],
}

/// Length, magic, checksum and format, in the order that names the fault best.
fn check_frame(bytes: &[u8]) -> Result<Frame<'_>, Error> {
    if bytes.len() > MAX_HEADER_BYTES {
        return Err(damaged("it is larger than 64 KiB"));
    }
    if bytes.get(..MAGIC.len()) != Some(MAGIC.as_slice()) {
        return Err(damaged("this is not a vault file"));
    }
    let (covered, authenticator) = bytes.split_last_chunk().ok_or_else(cut)?;
    let (summed, checksum) = covered.split_last_chunk::<DIGEST_BYTES>().ok_or_else(cut)?;
    if digest(summed) != *checksum {
        return Err(damaged("its checksum does not match"));
    }
    let mut rest = Reader(summed);
    let _magic: [u8; 8] = rest.take()?;
    let format = rest.u16()?;
    if format > FIRST_FORMAT {
        let needs = [rest.u16()?, rest.u16()?, rest.u16()?];
        if format > FORMAT {
            let needs = needs.map(|part| part.to_string()).join(".");
            return Err(Error::Newer {
                what: WHAT.into(),
                found: format.into(),
                known: FORMAT.into(),
                needs: Some(needs),
            });
        }
        if needs != NEEDS {
            return Err(damaged("it needs a version that never wrote it"));
        }
    }
    if format < FIRST_FORMAT || rest.u32()? as usize != rest.0.len() {
        return Err(damaged("its format or length is not one that was ever written"));
    }
    Ok(Frame { format, body: rest.0, authenticator: *authenticator })
}

fn decode_body(rest: &mut Reader<'_>, frame: &Frame<'_>) -> Result<Header, Error> {
    let (vault, revision, flags) = (VaultId::from_bytes(rest.take()?), rest.u64()?, rest.u8()?);
    let known = if frame.format == FIRST_FORMAT { RECOVERY_CONFIRMED } else { RECOVERY_CONFIRMED | LOCKED };
    if flags & !known != 0 {
        return Err(damaged("it has an unknown flag"));
    }
    Ok(Header {
        format: frame.format,
        vault,
        revision,
        recovery_confirmed: flags & RECOVERY_CONFIRMED != 0,
        locked: flags & LOCKED != 0,
        created_ms: rest.u64()?,
        system: WrappedSpace { id: SpaceId::from_bytes(rest.take()?), epoch: rest.u32()?, wrapped_key: rest.take()? },
        slots: decode_slots(rest, frame.format)?,
        authenticator: frame.authenticator,
    })
}

fn decode_slots(rest: &mut Reader<'_>, format: u16) -> Result<Vec<Slot>, Error> {
    let count = usize::from(rest.u8()?);
    if !(1..=MAX_SLOTS).contains(&count) {
        return Err(damaged("it does not have 1 to 16 slots"));
    }
    (0..count).map(|_| decode_slot(rest, format)).collect()
}

fn encode_slot(slot: &Slot, out: &mut Vec<u8>) {
    out.extend_from_slice(&[slot.kind.to_byte(), slot.id.0, slot.wrap_code()]);
    out.extend_from_slice(&slot.created_ms.to_be_bytes());
    out.extend_from_slice(&(slot.parameters.len() as u16).to_be_bytes());
    out.extend_from_slice(&slot.parameters);
    out.extend_from_slice(&slot.check);
    out.extend_from_slice(&slot.exchange);
    out.extend_from_slice(slot.root.bytes());
    slot.voucher.iter().for_each(|voucher| out.extend_from_slice(voucher));
}

fn decode_slot(rest: &mut Reader<'_>, format: u16) -> Result<Slot, Error> {
    let kind = SlotKind::from_byte(rest.u8()?).ok_or_else(|| damaged("a slot has an unknown kind"))?;
    let (id, wrap) = (SlotId(rest.u8()?), rest.u8()?);
    Ok(Slot {
        kind,
        id,
        created_ms: rest.u64()?,
        parameters: decode_parameters(rest)?,
        check: rest.take()?,
        exchange: rest.take()?,
        root: match wrap {
            0 => WrappedRoot::UnderSlotKey(rest.take()?),
            2 if format > FIRST_FORMAT => WrappedRoot::UnderSlotKey(rest.take()?),
            1 | 3 if format > FIRST_FORMAT => WrappedRoot::SealedToSlot(rest.take()?),
            _ => return Err(damaged("a slot has an unknown wrap")),
        },
        voucher: if wrap > 1 { Some(rest.take()?) } else { None },
    })
}

fn decode_parameters(rest: &mut Reader<'_>) -> Result<Vec<u8>, Error> {
    let length = usize::from(rest.u16()?);
    if length > MAX_PARAMETER_BYTES {
        return Err(damaged("a slot's parameters are larger than 1 KiB"));
    }
    let (parameters, after) = rest.0.split_at_checked(length).ok_or_else(cut)?;
    rest.0 = after;
    Ok(parameters.to_vec())
}

fn cut() -> Error {
    damaged("it is cut short")
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (head, rest) = self.0.split_first_chunk().ok_or_else(cut)?;
        self.0 = rest;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, Error> {
        self.take().map(u8::from_be_bytes)
    }

    fn u16(&mut self) -> Result<u16, Error> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Error> {
        self.take().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Result<u64, Error> {
        self.take().map(u64::from_be_bytes)
    }
}
