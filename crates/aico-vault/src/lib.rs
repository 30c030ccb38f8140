//! Data at rest: what opens a vault, the encrypted stores in it, and the log of everything that was decided.
//!
//! A [`Vault`] is held by one process at a time. Every use of it takes an [`aico_policy::Permit`] that its own log gave,
//! once. An acknowledgement means that what it speaks of is on disk. The calls block; a caller with an asynchronous
//! runtime keeps them off its threads.

pub mod audit;
mod data_keys;
mod durable;
mod error;
mod header;
mod hold;
mod journal;
mod mount;
#[doc(hidden)]
pub mod parsers;
pub mod sealed_file;
mod store;
mod system;
mod tree;
pub mod unlock;
mod user_data;
mod vault;

pub use aico_ffi_duckdb::{Answer, Column, Kind};
pub use aico_ffi_rocksdb::{HAS_ENGINE as HAS_MEMORY, MAX_VALUE_BYTES as MAX_MEMORY_BYTES};
pub use error::Error;
pub use header::{Header, MAX_HEADER_BYTES, NewSlot, SlotId, SlotKind, SpaceId, SystemSpace, VaultId};
pub use hold::{Front, is_held};
pub use journal::Journal;
pub use mount::{Looks, Sums};
pub use system::{Component, Notice};
pub use unlock::Proof;
pub use user_data::{Category, Entry, Stored};
pub use vault::{
    Anchor, Checked, Content, CopiedFile, Copy, Export, ExportedValue, Found, Get, How, KeyChange, Locked, LockedLog,
    Mounted, Opening, Places, Progress, Put, Remembered, Rotated, SlotState, Tell, Unlocked, Vault, VaultState,
    read_header, survey,
};
