//! Who may do what, without any I/O.
//!
//! A [`Principal`] is made from evidence; [`decide`] weighs its grants; the [`Decision`] becomes a [`Permit`] only
//! through a log. What no grant covers is denied.

mod audit;
mod capability;
mod decide;
mod error;
mod grant;
mod path;
mod permit;
mod principal;
mod sensitivity;

pub use audit::{AuditSink, Event, Receipt, What};
pub use capability::{Action, Capability, Level, Need, Resource};
pub use decide::{Circumstances, Decision, Denied, Missing, Presence, decide};
pub use error::Error;
pub use grant::{Grant, MAX_GRANT_BYTES, SignedGrant, may_connect};
pub use path::{CONVERSATIONS, DataPath, MAX_PATH_BYTES};
pub use permit::{Bounds, Permit};
pub use principal::Principal;
pub use sensitivity::{Sensitivities, Sensitivity};
