//! The channel as pure state machines: no socket, clock or thread.
//!
//! [`Initiator`] and [`Responder`] turn three messages into an [`Established`] channel: who is at the other end, a
//! [`Sealer`] and an [`Opener`]. Nothing is delivered before the other side's identity is known, and a failure ends the
//! handshake or the channel. The bytes are those of `docs/spec/channel.md`; [`message`] holds what goes inside.

mod control;
mod error;
mod handshake;
mod hello;
pub mod limits;
pub mod message;
mod peer;
mod record;
mod wire;

pub use control::{CloseReason, Control, Ready};
pub use error::Error;
pub use handshake::{Established, Fresh, Initiator, LocalIdentity, Refusal, Responder};
pub use hello::{Alert, Suite};
pub use peer::{AuthenticatedPeer, Peer, Standing, Trust, UnenrolledPeer};
pub use record::{Incoming, Opener, RECORD_OVERHEAD_BYTES, Sealer};
