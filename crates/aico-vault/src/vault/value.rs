//! One value on its way in or out: one permit, one operation, with a bound on bytes and time.

use std::time::Instant;

use aico_policy::Permit;

use super::Unlocked;
use crate::Error;
use crate::system::keep_anchor;
use crate::user_data::{Stored, ValueReader, ValueWriter};

/// A value on its way in. Dropped before [`Put::finish`], it leaves nothing.
#[derive(Debug)]
pub struct Put<'a> {
    state: &'a Unlocked,
    permit: Permit,
    writer: Option<ValueWriter>,
    bytes: u64,
    began: Instant,
    now_ms: u64,
}

impl<'a> Put<'a> {
    pub(super) fn new(state: &'a Unlocked, permit: Permit, writer: ValueWriter, now_ms: u64) -> Self {
        Self { state, permit, writer: Some(writer), bytes: 0, began: Instant::now(), now_ms }
    }

    /// Takes more of the value.
    pub fn write(&mut self, data: &[u8]) -> Result<(), Error> {
        let bounds = self.permit.bounds();
        self.bytes = self.bytes.saturating_add(data.len() as u64);
        if self.bytes > bounds.bytes || self.began.elapsed() > bounds.time {
            return Err(Error::Misuse("a value beyond the bounds of its permit"));
        }
        self.writer.as_mut().ok_or(Error::Misuse("a value that is finished"))?.write(data)
    }

    /// Publishes the value: when this returns it is on disk, whole.
    pub fn finish(mut self) -> Result<Stored, Error> {
        let writer = self.writer.take().ok_or(Error::Misuse("a value that is finished"))?;
        let head = self.state.journal.log().head();
        let stored = writer.finish_with(|tx| keep_anchor(tx, &head));
        self.state.outcome(&self.permit, stored.as_ref().map(|stored| stored.bytes));
        stored
    }
}

impl Drop for Put<'_> {
    fn drop(&mut self) {
        if self.writer.take().is_some() {
            let result = Err("not finished".to_owned());
            let _failed_closed = self.state.journal.outcome(self.now_ms, self.permit.receipt().index, result);
        }
    }
}

/// A value on its way out.
#[derive(Debug)]
pub struct Get {
    reader: ValueReader,
    permit: Permit,
    began: Instant,
}

impl Get {
    pub(super) fn new(reader: ValueReader, permit: Permit) -> Self {
        Self { reader, permit, began: Instant::now() }
    }

    /// Bytes of the value.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reader.bytes()
    }

    /// Puts the next piece into `chunk`; false at the end, where the value's sum has been checked.
    pub fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> Result<bool, Error> {
        if self.began.elapsed() > self.permit.bounds().time {
            return Err(Error::Misuse("a value beyond the bounds of its permit"));
        }
        self.reader.next_chunk(chunk)
    }
}
