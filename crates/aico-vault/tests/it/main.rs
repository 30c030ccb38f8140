//! The vault with a real keyring.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod kernel;
mod keyring;
mod matrix;
mod session;
