//! The running system: the only place where the vault, the wire and the policy meet.
//!
//! Every request goes one way: channel, peer, principal, decision, record, permit, vault.

mod access;
mod backend;
mod enrolment;
mod error;
mod gateway;
mod refusals;
pub mod suspend;

pub use backend::Backend;
pub use error::Error;
