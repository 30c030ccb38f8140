//! Bytes on the wire: the Unix socket and TCP, the secure stream over them, and the client library.
//!
//! Nobody gets a byte from the backend without knowing its identity, and nobody gets further than the handshake without
//! an identity of their own. Every read has a limit and a deadline.

mod client;
mod endpoint;
mod error;
mod handover;
mod identity_file;
mod link;
mod listener;
mod seats;
mod secure_stream;

/// The name of the file in the run folder that holds the backend's public identity.
pub const BACKEND_ID_NAME: &str = "backend.id";

pub use client::{ABANDONED, Address, Client, Dial};
pub use endpoint::{PeerProcess, RunFolder, SOCKET_NAME};
pub use error::Error;
#[doc(hidden)]
pub use handover::ticket_in;
pub use handover::{Coming, Descriptors};
pub use identity_file::{
    read_backend_id, read_client_key, read_component_file, write_backend_id, write_client_key, write_component_file,
};
pub use link::{Traffic, Wire};
pub use listener::{AlsoUser, DoorLimits, Listener, Origin, Refused, Visitor};
pub use secure_stream::{LinkHandle, Manner, Receiver, SecureStream, Sender, Speaker};
