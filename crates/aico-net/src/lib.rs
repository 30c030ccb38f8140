//! Bytes on the wire: the Unix socket, the secure stream over it, and the client library.
//!
//! Nobody gets a byte from the backend without knowing its identity, and nobody gets further than the handshake without
//! an identity of their own. Every read has a limit and a deadline.

mod client;
mod endpoint;
mod error;
mod identity_file;
mod listener;
mod secure_stream;

/// The name of the file in the run folder that holds the backend's public identity.
pub const BACKEND_ID_NAME: &str = "backend.id";

pub use client::{ABANDONED, Client};
pub use endpoint::{PeerProcess, RunFolder, SOCKET_NAME};
pub use error::Error;
pub use identity_file::{read_backend_id, read_client_key, write_backend_id, write_client_key};
pub use listener::{DoorLimits, Listener, Visitor};
pub use secure_stream::{HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, Receiver, SecureStream, Sender, Speaker};
