//! RocksDB through an encrypting, authenticating file system: a store of keys and values that expire.
//!
//! Every byte that RocksDB writes is sealed by AES-256-GCM under a key of the file's own, and bound to the file's kind and
//! number and to its place in it; every byte that it reads is authenticated first. Nothing is in the clear but the names,
//! numbers and lengths of files (`docs/spec/memory-store.md`). What a [`Memory`] has acknowledged is on disk.
//!
//! Not noticed: a whole folder put back to an older state, and a log whose last writes were cut off, which is what a crash
//! leaves too.
#![expect(unsafe_code, reason = "a leaf crate around a C++ interface")]

mod adaptor;
mod blocks;
mod file;
mod folder;
mod frames;
mod header;
mod key;
mod memory;
mod name;

pub use memory::{Entry, Error, Limits, MAX_KEY_BYTES, MAX_VALUE_BYTES, Memory};
