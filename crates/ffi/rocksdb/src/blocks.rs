//! Files that are written once: blocks of one size, the last of which says that it is the last.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::file::Fault;
use crate::header::HEADER_BYTES;
use crate::key::{FileKey, Part, TAG_BYTES};

pub(crate) const BLOCK_BYTES: usize = 4096;
const BLOCK: u64 = BLOCK_BYTES as u64;
const SEALED_BYTES: usize = BLOCK_BYTES + TAG_BYTES;
const SEALED: u64 = SEALED_BYTES as u64;
const TAG: u64 = TAG_BYTES as u64;
const HEADER: u64 = HEADER_BYTES as u64;

pub(crate) struct BlockWriter {
    key: FileKey,
    next: u64,
    plain: Vec<u8>,
}

impl BlockWriter {
    pub(crate) fn new(key: FileKey) -> Self {
        Self { key, next: 0, plain: Vec::with_capacity(BLOCK_BYTES) }
    }

    /// Adds to `out` what is whole and known not to be the last.
    pub(crate) fn append(&mut self, mut data: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        while !data.is_empty() {
            if self.plain.len() == BLOCK_BYTES {
                self.seal(Part::Block, out)?;
            }
            let space = BLOCK_BYTES.saturating_sub(self.plain.len()).min(data.len());
            let (now, later) = data.split_at_checked(space).ok_or(Fault::Damaged)?;
            self.plain.extend_from_slice(now);
            data = later;
        }
        Ok(())
    }

    /// The last block.
    pub(crate) fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.seal(Part::LastBlock, out)
    }

    fn seal(&mut self, part: Part, out: &mut Vec<u8>) -> Result<(), Fault> {
        self.key.seal(part, self.next, &[], &self.plain, out)?;
        self.next = self.next.checked_add(1).ok_or(Fault::Damaged)?;
        self.plain.clear();
        Ok(())
    }
}

/// How many blocks, and how many bytes in them, a file of `bytes` has.
fn shape(bytes: u64) -> Result<(u64, u64), Fault> {
    let body = bytes.checked_sub(HEADER).ok_or(Fault::Damaged)?;
    let blocks = body.div_ceil(SEALED);
    let last = body.checked_sub(blocks.saturating_sub(1).saturating_mul(SEALED)).ok_or(Fault::Damaged)?;
    // An empty last block stands alone, or the one before it would have been the last.
    if last < TAG || (last == TAG && blocks > 1) {
        return Err(Fault::Damaged);
    }
    Ok((blocks, body.saturating_sub(blocks.saturating_mul(TAG))))
}

/// The length of what a file of `bytes` holds; whether it is true shows when the last block is read.
pub(crate) fn plain_length(bytes: u64) -> Result<u64, Fault> {
    shape(bytes).map(|(_, length)| length)
}

pub(crate) struct BlockReader {
    file: File,
    key: FileKey,
    blocks: u64,
    length: u64,
}

impl BlockReader {
    /// `bytes` is the file's length.
    pub(crate) fn new(file: File, bytes: u64, key: FileKey) -> Result<Self, Fault> {
        let (blocks, length) = shape(bytes)?;
        Ok(Self { file, key, blocks, length })
    }

    /// Reads as much as there is at `offset`, up to the length of `out`, and opens every block that it touches.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Result<usize, Fault> {
        let wanted = u64::try_from(out.len()).map_err(|_| Fault::Damaged)?;
        let end = offset.saturating_add(wanted).min(self.length);
        // The only block of an empty file holds nothing, and is opened all the same.
        let (first, last) = match (self.length, offset < end) {
            (0, _) => (0, 0),
            (_, true) => (offset / BLOCK, end.saturating_sub(1) / BLOCK),
            (_, false) => return Ok(0),
        };
        let count = last.saturating_sub(first).saturating_add(1);
        let body = self.length.saturating_add(self.blocks.saturating_mul(TAG));
        let from = first.saturating_mul(SEALED);
        let bytes = count.saturating_mul(SEALED).min(body.saturating_sub(from));
        let mut sealed = vec![0; usize::try_from(bytes).map_err(|_| Fault::Damaged)?];
        self.file.read_exact_at(&mut sealed, HEADER.saturating_add(from)).map_err(Fault::short)?;

        let mut done = 0;
        let mut skip = usize::try_from(offset % BLOCK).map_err(|_| Fault::Damaged)?;
        for (block, number) in sealed.chunks_mut(SEALED_BYTES).zip(first..) {
            let part = if number.saturating_add(1) == self.blocks { Part::LastBlock } else { Part::Block };
            let plain = self.key.open(part, number, &[], block).map_err(|_| Fault::Damaged)?;
            let plain = plain.get(skip..).unwrap_or_default();
            let space = out.get_mut(done..).unwrap_or_default();
            let length = plain.len().min(space.len());
            if let (Some(to), Some(from)) = (space.get_mut(..length), plain.get(..length)) {
                to.copy_from_slice(from);
            }
            done = done.saturating_add(length);
            skip = 0;
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests;
