//! The channel as pure state machines: no socket, clock or thread.
//!
//! [`Initiator`] and [`Responder`] turn three messages into an [`Established`] pair of halves, and [`Channel`] keeps
//! them alive: records, signs of life, new keys, the end. Nothing is delivered before the other side's identity is
//! known, and a failure ends the handshake or the channel. The bytes are those of `docs/spec/channel.md`; [`message`]
//! holds what goes inside.

mod channel;
mod control;
mod error;
mod handshake;
mod hello;
pub mod limits;
pub mod message;
mod padding;
#[doc(hidden)]
pub mod parsers;
mod peer;
mod record;
mod rekey;
mod replay;
mod wire;

pub use channel::{Channel, Received, Settings, Surroundings};
pub use control::{CloseReason, Control, Ready};
pub use error::Error;
pub use handshake::{Agreed, Established, Fresh, Initiator, LocalIdentity, Refusal, Responder};
pub use hello::{Alert, Suite, Terms};
pub use padding::Padding;
pub use peer::{AuthenticatedPeer, Peer, Standing, Trust, UnenrolledPeer};
pub use record::{Incoming, Opener, RECORD_OVERHEAD_BYTES, Sealer};
pub use rekey::Rekeyer;
