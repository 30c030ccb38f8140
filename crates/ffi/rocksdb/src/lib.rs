//! RocksDB through an encrypting, authenticating file system: a store of keys and values that expire.
//!
//! Every byte that RocksDB writes is sealed by AES-256-GCM under a key of the file's own, and bound to the file's kind and
//! number and to its place in it; every byte that it reads is authenticated first. Nothing is in the clear but the names,
//! numbers and lengths of files (`docs/spec/memory-store.md`). What a [`Memory`] has acknowledged is on disk.
//!
//! Not noticed: a whole folder put back to an older state, and a log whose last writes were cut off, which is what a crash
//! leaves too.
//!
//! Without the feature `engine` there is no RocksDB, and nothing opens: it takes a quarter of an hour to compile.
#![cfg_attr(feature = "engine", expect(unsafe_code, reason = "a leaf crate around a C++ interface"))]

#[cfg(feature = "engine")]
mod adaptor;
#[cfg(feature = "engine")]
mod blocks;
#[cfg(feature = "engine")]
mod file;
#[cfg(feature = "engine")]
mod folder;
#[cfg(feature = "engine")]
mod frames;
#[cfg(feature = "engine")]
mod header;
#[cfg(feature = "engine")]
mod key;
#[cfg_attr(not(feature = "engine"), path = "without.rs")]
mod memory;
#[cfg(feature = "engine")]
mod name;
mod types;

pub use memory::Memory;
pub use types::{Entry, Error, Limits, MAX_KEY_BYTES, MAX_VALUE_BYTES};

/// Whether there is a RocksDB in this build.
pub const HAS_ENGINE: bool = cfg!(feature = "engine");
