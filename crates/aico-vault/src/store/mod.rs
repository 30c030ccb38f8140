//! The engines that keep a space's data (`docs/spec/vault-stores.md`).

pub(crate) mod file;
pub(crate) mod sqlite;
