//! The channel, attacked: every test is named after the promise that it tries to break.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

mod channel;
mod handshake;
mod model;
mod network;
mod record;
mod sides;
mod simulation;
mod unordered;
mod vectors;
