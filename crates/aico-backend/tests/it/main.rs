//! What the backend asks of the machine it runs on, against doubles of its services; never the machine's own.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod confine;
mod suspend;
