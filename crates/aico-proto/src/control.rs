//! Control records: type ‖ body (`docs/spec/channel.md`, Control records).

use crate::Error;
use crate::limits::{MAX_ERROR_TEXT_BYTES, MAX_HANDSHAKE_FRAME_BYTES};
use crate::wire::Reader;

/// Why a channel is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// Nothing more to say.
    Normal,
    /// Nothing was said for too long.
    Idle,
    /// The other side broke the protocol.
    Protocol,
    /// A record did not open.
    BadRecord,
    /// A REKEY failed.
    RekeyFailed,
    /// The other side's identity was revoked.
    Revoked,
    /// This side is stopping.
    Shutdown,
    /// A limit was reached.
    Limit,
    /// The clocks are too far apart.
    Clock,
    /// A code that this version does not know.
    Other(u16),
}

impl CloseReason {
    const CODES: [(Self, u16); 9] = [
        (Self::Normal, 0),
        (Self::Idle, 1),
        (Self::Protocol, 2),
        (Self::BadRecord, 3),
        (Self::RekeyFailed, 4),
        (Self::Revoked, 5),
        (Self::Shutdown, 6),
        (Self::Limit, 7),
        (Self::Clock, 8),
    ];

    fn code(self) -> u16 {
        match self {
            Self::Other(code) => code,
            known => Self::CODES.iter().find(|(reason, _)| *reason == known).map_or(0, |(_, code)| *code),
        }
    }

    fn from_code(code: u16) -> Self {
        Self::CODES.iter().find(|(_, c)| *c == code).map_or(Self::Other(code), |(reason, _)| *reason)
    }
}

/// The responder's first record: its clock and the channel's parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Milliseconds since 1970.
    pub clock_ms: u64,
    /// Largest plaintext that the responder takes, in bytes.
    pub max_plaintext: u32,
    /// Seconds without an application record after which the channel is forgotten.
    pub idle_s: u32,
    /// Seconds between keepalive records.
    pub keepalive_s: u32,
    /// Age in seconds at which an epoch's keys are renewed by REKEY.
    pub rotation_s: u32,
}

/// A control record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// The responder is satisfied.
    Ready(Ready),
    /// The last record of a direction.
    Close(CloseReason),
    /// Something went wrong that does not end the channel.
    Error {
        /// A code for programs.
        code: u16,
        /// A text for people, at most 1 KiB.
        text: String,
    },
    /// The last record of a generation.
    KeyUpdate,
    /// HELLO of a REKEY, whole.
    RekeyHello(Vec<u8>),
    /// REPLY of a REKEY, whole.
    RekeyReply(Vec<u8>),
    /// FINISH of a REKEY, whole; the initiator's last record of its epoch.
    RekeyFinish(Vec<u8>),
    /// The responder asks the initiator for a REKEY.
    RekeyRequest,
    /// Nothing: a sign of life.
    Keepalive,
    /// The responder's last record of its epoch.
    RekeyEnd,
}

impl Control {
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ready(ready) => {
                let mut out = vec![0];
                out.extend_from_slice(&ready.clock_ms.to_be_bytes());
                for value in [ready.max_plaintext, ready.idle_s, ready.keepalive_s, ready.rotation_s] {
                    out.extend_from_slice(&value.to_be_bytes());
                }
                out
            }
            Self::Close(reason) => [&[1][..], &reason.code().to_be_bytes()].concat(),
            Self::Error { code, text } => {
                let cut = text.floor_char_boundary(MAX_ERROR_TEXT_BYTES);
                let (text, _rest) = text.split_at(cut);
                [&[2][..], &code.to_be_bytes(), text.as_bytes()].concat()
            }
            Self::KeyUpdate => vec![3],
            Self::RekeyHello(message) => [&[4][..], message].concat(),
            Self::RekeyReply(message) => [&[5][..], message].concat(),
            Self::RekeyFinish(message) => [&[6][..], message].concat(),
            Self::RekeyRequest => vec![7],
            Self::Keepalive => vec![8],
            Self::RekeyEnd => vec![10],
        }
    }

    pub(crate) fn decode(plaintext: &[u8]) -> Result<Self, Error> {
        let mut reader = Reader::new(plaintext);
        let control = match reader.u8()? {
            0 => Self::Ready(Ready {
                clock_ms: reader.u64()?,
                max_plaintext: reader.u32()?,
                idle_s: reader.u32()?,
                keepalive_s: reader.u32()?,
                rotation_s: reader.u32()?,
            }),
            1 => Self::Close(CloseReason::from_code(reader.u16()?)),
            2 => return Self::decode_error(reader),
            3 => Self::KeyUpdate,
            4 => return rekey_message(reader).map(Self::RekeyHello),
            5 => return rekey_message(reader).map(Self::RekeyReply),
            6 => return rekey_message(reader).map(Self::RekeyFinish),
            7 => Self::RekeyRequest,
            8 => Self::Keepalive,
            10 => Self::RekeyEnd,
            _ => return Err(Error::Unexpected("a control record of a type that is not spoken here")),
        };
        reader.end()?;
        Ok(control)
    }

    fn decode_error(mut reader: Reader<'_>) -> Result<Self, Error> {
        let code = reader.u16()?;
        let text = reader.rest();
        if text.len() > MAX_ERROR_TEXT_BYTES {
            return Err(Error::Malformed("an error text of more than 1 KiB"));
        }
        let text = std::str::from_utf8(text).map_err(|_| Error::Malformed("an error text that is not UTF-8"))?;
        Ok(Self::Error { code, text: text.to_owned() })
    }
}

/// A handshake message inside the channel; its own parser checks what it says.
fn rekey_message(reader: Reader<'_>) -> Result<Vec<u8>, Error> {
    let message = reader.rest();
    if message.len() > MAX_HANDSHAKE_FRAME_BYTES {
        return Err(Error::Malformed("a handshake message of more than 8 KiB"));
    }
    Ok(message.to_vec())
}

impl CloseReason {
    /// What the other side is told when `error` ends a channel.
    #[must_use]
    pub fn for_error(error: &Error) -> Self {
        match error {
            Error::UsedUp => Self::Limit,
            Error::Authentication | Error::Order => Self::BadRecord,
            Error::RekeyFailed => Self::RekeyFailed,
            Error::ClockSkew => Self::Clock,
            Error::Idle => Self::Idle,
            Error::UnknownPeer => Self::Revoked,
            _ => Self::Protocol,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_message_has_at_most_8_kib() {
        let of = |bytes: usize| Control::decode(&[&[4u8][..], &vec![0; bytes]].concat());
        assert_eq!(of(8192), Ok(Control::RekeyHello(vec![0; 8192])));
        assert!(of(8193).is_err());
    }
}
