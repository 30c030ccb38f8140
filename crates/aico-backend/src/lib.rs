//! The running system: the only place where the vault, the wire and the policy meet.
//!
//! Every request goes one way: channel, peer, principal, decision, record, permit, vault. A locked vault has a backend,
//! too, that has no key and answers unlocking alone.

mod access;
mod backend;
pub mod config;
pub mod confine;
mod enrolment;
mod error;
mod gateway;
mod locked;
mod refusals;
mod sessions;
mod setup;
pub mod suspend;

pub use backend::{End, News, Start, serve};
pub use error::Error;
pub use setup::{read_config, settings};
