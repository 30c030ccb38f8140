//! One function for each parser of outside bytes. Whatever the bytes are, it returns; where it takes them, what came
//! out must encode to them again, or open to what was sealed: the functions panic where that is not so.
//!
//! `./dev fuzz` runs them under libFuzzer; `tests/replay.rs` runs them on every input of `fuzz/corpus/`.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a harness: to panic is its answer")]

mod edits;
mod files;
mod stores;
mod wire;

pub use files::{config, grant, header, identity_file, locked_log, log, recovery_words, sealed_file, share_words};
pub use stores::{data_key, fuse, imported, node, sealed_blocks, shares};
pub use wire::{channel, control, handover, handshake, hello, message, record, reply};

/// A target: its name, which is that of its corpus, and its function.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("channel", channel),
    ("config", config),
    ("control", control),
    ("data_key", data_key),
    ("fuse", fuse),
    ("grant", grant),
    ("handover", handover),
    ("handshake", handshake),
    ("header", header),
    ("hello", hello),
    ("identity_file", identity_file),
    ("imported", imported),
    ("locked_log", locked_log),
    ("log", log),
    ("message", message),
    ("node", node),
    ("record", record),
    ("recovery_words", recovery_words),
    ("reply", reply),
    ("sealed_blocks", sealed_blocks),
    ("sealed_file", sealed_file),
    ("share_words", share_words),
    ("shares", shares),
];
