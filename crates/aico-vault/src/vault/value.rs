//! One value on its way in or out: one permit, one operation, with a bound on bytes and time.

use std::collections::VecDeque;
use std::time::Instant;

use aico_policy::Permit;

use super::Unlocked;
use crate::Error;
use crate::system::keep_anchor;
use crate::user_data::{Entry, Stored, ValueReader, ValueWriter};

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
pub struct Get<'a> {
    reader: ValueReader,
    permit: Permit,
    began: Instant,
    given: u64,
    /// Where it is recorded how it ended, for a secret value.
    state: Option<&'a Unlocked>,
}

impl<'a> Get<'a> {
    pub(super) fn new(reader: ValueReader, permit: Permit, state: Option<&'a Unlocked>) -> Self {
        Self { reader, permit, began: Instant::now(), given: 0, state }
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
        let more = self.reader.next_chunk(chunk)?;
        self.given = self.given.saturating_add(chunk.len() as u64);
        Ok(more)
    }
}

impl Drop for Get<'_> {
    fn drop(&mut self) {
        if let Some(state) = self.state {
            let whole = self.given == self.reader.bytes();
            let result = if whole { Ok(self.given) } else { Err(format!("{} bytes were given", self.given)) };
            let permit = &self.permit;
            let _failed_closed = state.journal.outcome(permit.event().at_ms, permit.receipt().index, result);
        }
    }
}

/// All values on their way out: one permit, one operation, recorded with its sum at the end.
#[derive(Debug)]
pub struct Export<'a> {
    state: &'a Unlocked,
    permit: Permit,
    began: Instant,
    page: VecDeque<Entry>,
    after: Option<String>,
    bytes: u64,
    whole: bool,
}

impl<'a> Export<'a> {
    pub(super) fn new(state: &'a Unlocked, permit: Permit) -> Self {
        let (page, after) = (VecDeque::new(), None);
        Self { state, permit, began: Instant::now(), page, after, bytes: 0, whole: false }
    }

    /// Number and bytes of the values as they are now.
    pub fn total(&self) -> Result<(u64, u64), Error> {
        Ok((self.state.owner().count()?, self.state.owner().total_bytes()?))
    }

    /// The next value, in the order of the paths; none at the end.
    pub fn next_value(&mut self) -> Result<Option<(Entry, ExportedValue)>, Error> {
        if self.began.elapsed() > self.permit.bounds().time {
            return Err(Error::Misuse("an export beyond the bounds of its permit"));
        }
        loop {
            if self.page.is_empty() {
                let page = self.state.owner().list(None, self.after.as_deref(), PAGE)?;
                self.after = page.last().map(|entry| entry.path.as_str().to_owned()).or(self.after.take());
                self.page.extend(page);
            }
            let Some(entry) = self.page.pop_front() else {
                self.whole = true;
                return Ok(None);
            };
            match self.state.owner().get(&entry.path) {
                // Removed since the page was read.
                Err(Error::NotFound) => {}
                Err(error) => return Err(error),
                Ok(reader) => {
                    self.bytes = self.bytes.saturating_add(reader.bytes());
                    return Ok(Some((entry, ExportedValue(reader))));
                }
            }
        }
    }
}

impl Drop for Export<'_> {
    fn drop(&mut self) {
        let result = if self.whole { Ok(self.bytes) } else { Err("not finished".to_owned()) };
        let permit = &self.permit;
        let _failed_closed = self.state.journal.outcome(permit.event().at_ms, permit.receipt().index, result);
    }
}

/// Values that are looked up at a time.
const PAGE: usize = 500;

/// One value of an [`Export`].
#[derive(Debug)]
pub struct ExportedValue(ValueReader);

impl ExportedValue {
    /// Bytes of the value.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }

    /// Puts the next piece into `chunk`; false at the end, where the value's sum has been checked.
    pub fn next_chunk(&mut self, chunk: &mut Vec<u8>) -> Result<bool, Error> {
        self.0.next_chunk(chunk)
    }
}
