//! The vault with a real keyring.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stderr, reason = "tests")]

mod crash;
mod kernel;
mod keyring;
mod matrix;
mod rotate;
mod sealed;
mod session;
mod tpm;
mod vectors;
