//! The same interface where there is no engine.

use std::convert::Infallible;
use std::io;
use std::path::Path;

use crate::types::{Entry, Error, Limits};

/// A store that cannot be opened.
pub struct Memory(Infallible);

impl Memory {
    /// Says that this build has no engine.
    pub fn open(_folder: &Path, _key: &[u8; 32], _limits: &Limits) -> Result<Self, Error> {
        Err(Error::Io(io::Error::other("this build has no RocksDB: it is for work on the rest only")))
    }

    /// Never called.
    pub fn put(&self, _key: &[u8], _value: &[u8], _expires_ms: Option<u64>) -> Result<(), Error> {
        match self.0 {}
    }

    /// Never called.
    pub fn put_all(&self, _entries: &[Entry]) -> Result<(), Error> {
        match self.0 {}
    }

    /// Never called.
    pub fn remove(&self, _key: &[u8]) -> Result<(), Error> {
        match self.0 {}
    }

    /// Never called.
    pub fn remove_all(&self, _keys: &[Vec<u8>]) -> Result<(), Error> {
        match self.0 {}
    }

    /// Never called.
    pub fn get(&self, _key: &[u8], _now_ms: u64) -> Result<Option<Vec<u8>>, Error> {
        match self.0 {}
    }

    /// Never called.
    pub fn page(
        &self,
        _prefix: &[u8],
        _after: Option<&[u8]>,
        _most: (usize, usize),
        _now_ms: u64,
    ) -> Result<Vec<Entry>, Error> {
        match self.0 {}
    }

    /// Never called.
    pub fn let_expire(&self, _now_ms: u64) {
        match self.0 {}
    }

    /// Never called.
    pub fn verify(&self) -> Result<(), Error> {
        match self.0 {}
    }
}
