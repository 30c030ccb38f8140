use crate::Alert;

/// Why a handshake or a channel ended. The variants go by fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    // The peer misbehaved, or somebody between us did.
    /// A frame or body does not have its form.
    #[error("malformed frame: {0}")]
    Malformed(&'static str),
    /// A tag, signature, MAC or key did not hold. Nothing more is said, on purpose.
    #[error("authentication failed")]
    Authentication,
    /// A record came twice, too early, from another channel, or back to its sender.
    #[error("a record is out of order or not of this channel")]
    Order,
    /// A record that may not come now.
    #[error("unexpected record: {0}")]
    Unexpected(&'static str),
    /// New keys were due and did not come, or did not hold.
    #[error("renewing the channel's keys failed")]
    RekeyFailed,
    /// The peer promised signs of life and gives none.
    #[error("the other side gives no sign of life")]
    Silent,
    /// The clocks are further apart than the owner allows.
    #[error("the clocks of the two sides are more than 30 seconds apart")]
    ClockSkew,
    /// Nothing was asked or answered for the whole session time-out.
    #[error("nothing was said for too long")]
    Idle,
    /// The stream ended without a CLOSE.
    #[error("the connection was cut: the stream ended without a close")]
    Truncated,

    // The peer is somebody else, or nobody we know.
    /// The peer is not the one we meant to reach.
    #[error("another identity answered than the one expected")]
    WrongPeer,
    /// The peer's identity is not enrolled here.
    #[error("the peer's identity is not enrolled")]
    UnknownPeer,

    // The peer is incompatible.
    /// The responder refused before any key existed: unauthenticated, a hint only.
    #[error("the responder refused the handshake ({0:?})")]
    Refused(Alert),
    /// No common protocol version.
    #[error("no common protocol version")]
    Version,
    /// No common cipher suite.
    #[error("no common cipher suite")]
    Suite,

    // Ours.
    /// The channel has carried all it may; connect again.
    #[error("the channel is used up; connect again")]
    UsedUp,
    /// The caller broke the order of calls.
    #[error("caller error: {0}")]
    Misuse(&'static str),
    /// Randomness or a key of our own failed.
    #[error(transparent)]
    Crypto(aico_crypto::Error),
}

impl From<aico_crypto::Error> for Error {
    fn from(error: aico_crypto::Error) -> Self {
        match error {
            aico_crypto::Error::Failed => Self::Authentication,
            other => Self::Crypto(other),
        }
    }
}
