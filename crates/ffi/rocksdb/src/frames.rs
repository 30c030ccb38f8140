//! Files that grow: what each flush adds is one frame, a sealed length and then as many sealed bytes.
//!
//! A file that stops inside a frame was cut by a crash, and ends where that frame begins; so does one with a sector in that
//! frame that was never written. Since the length is sealed on its own, nobody can make a whole frame look like one that was cut,
//! except by cutting, or by making a sector zero.

use std::io::{ErrorKind, Read};

use crate::file::Fault;
use crate::header::HEADER_BYTES;
use crate::key::{FileKey, Part, TAG_BYTES};

/// What a frame holds at most; longer writes take several.
pub(crate) const MAX_FRAME_BYTES: usize = 1 << 20;
const LENGTH_BYTES: usize = 4;
const SEALED_LENGTH_BYTES: usize = LENGTH_BYTES + TAG_BYTES;
/// What a disk writes whole or not at all.
pub(crate) const SECTOR_BYTES: usize = 512;
/// Fewer bytes than these may have become zero by damage.
const LEAST_ZEROS: usize = 4;

pub(crate) struct FrameWriter {
    key: FileKey,
    next: u64,
}

impl FrameWriter {
    pub(crate) fn new(key: FileKey) -> Self {
        Self { key, next: 0 }
    }

    /// Adds the frames of `plain` to `out`.
    pub(crate) fn seal(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        for piece in plain.chunks(MAX_FRAME_BYTES) {
            let length = u32::try_from(piece.len()).map_err(|_| Fault::Damaged)?;
            self.key.seal(Part::Length, self.next, &[], &length.to_le_bytes(), out)?;
            self.key.seal(Part::Frame, self.next, &[], piece, out)?;
            self.next = self.next.checked_add(1).ok_or(Fault::Damaged)?;
        }
        Ok(())
    }
}

pub(crate) struct FrameReader<R> {
    source: R,
    /// `None` for a file that a crash has cut before its header was whole.
    key: Option<FileKey>,
    next: u64,
    /// Where in the file `source` stands.
    offset: usize,
    sealed: Vec<u8>,
    /// What is left of the frame in `sealed`.
    left: std::ops::Range<usize>,
}

impl<R: Read> FrameReader<R> {
    /// `source` stands behind the header.
    pub(crate) fn new(source: R, key: Option<FileKey>) -> Self {
        Self { source, key, next: 0, offset: HEADER_BYTES, sealed: Vec::new(), left: 0..0 }
    }

    /// Reads as much as there is, up to the length of `out`.
    pub(crate) fn read(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        let mut done = 0;
        while let Some(space) = out.get_mut(done..).filter(|space| !space.is_empty()) {
            if self.left.is_empty() && !self.fill()? {
                break;
            }
            let plain = self.sealed.get(self.left.clone()).unwrap_or_default();
            let length = plain.len().min(space.len());
            for (to, from) in space.iter_mut().zip(plain) {
                *to = *from;
            }
            self.left.start = self.left.start.saturating_add(length);
            done = done.saturating_add(length);
        }
        Ok(done)
    }

    /// The next frame, or `false` at the end.
    fn fill(&mut self) -> Result<bool, Fault> {
        let Some(key) = self.key.take() else { return Ok(false) };
        let mut length = [0; SEALED_LENGTH_BYTES];
        if read_up_to(&mut self.source, &mut length)? < length.len() {
            return Ok(false);
        }
        let found = self.go_over(&length);
        let Ok(plain) = key.open(Part::Length, self.next, &[], &mut length) else {
            return self.never_written(found);
        };
        let plain: [u8; LENGTH_BYTES] = plain.try_into().map_err(|_| Fault::Damaged)?;
        let bytes = usize::try_from(u32::from_le_bytes(plain)).map_err(|_| Fault::Damaged)?;
        if bytes == 0 || bytes > MAX_FRAME_BYTES {
            return Err(Fault::Damaged);
        }
        let mut sealed = std::mem::take(&mut self.sealed);
        sealed.resize(bytes.saturating_add(TAG_BYTES), 0);
        if read_up_to(&mut self.source, &mut sealed)? < sealed.len() {
            return Ok(false);
        }
        let found = self.go_over(&sealed);
        if key.open(Part::Frame, self.next, &[], &mut sealed).is_err() {
            return self.never_written(found);
        }
        self.sealed = sealed;
        self.left = 0..bytes;
        self.next = self.next.checked_add(1).ok_or(Fault::Damaged)?;
        self.key = Some(key);
        Ok(true)
    }

    /// Goes over `piece`, and looks for sectors in it that are as they were before anything was written there.
    fn go_over(&mut self, piece: &[u8]) -> Unwritten {
        let mut found = Unwritten { sector: false, open: 0 };
        let mut rest = piece;
        while !rest.is_empty() {
            let to_border = SECTOR_BYTES.saturating_sub(self.offset % SECTOR_BYTES);
            let (part, behind) = rest.split_at_checked(to_border).unwrap_or((rest, &[]));
            let zeros = part.iter().all(|byte| *byte == 0);
            let whole = part.len() == to_border;
            found.sector |= zeros && whole && part.len() >= LEAST_ZEROS;
            found.open = if zeros && !whole { part.len() } else { 0 };
            self.offset = self.offset.saturating_add(part.len());
            rest = behind;
        }
        found
    }

    /// Whether a piece whose tag is wrong ends the file (`false`) or is damage. After a loss of power each sector that was
    /// not synced is there or not, in any order; one that is not there is zero from what was synced on. Who can make a
    /// sector zero can cut the file as well.
    fn never_written(&mut self, found: Unwritten) -> Result<bool, Fault> {
        if found.sector {
            return Ok(false);
        }
        let mut rest = vec![0; SECTOR_BYTES.saturating_sub(self.offset % SECTOR_BYTES)];
        let length = read_up_to(&mut self.source, &mut rest)?;
        let zeros = rest.iter().take(length).all(|byte| *byte == 0);
        let enough = found.open > 0 && found.open.saturating_add(length) >= LEAST_ZEROS;
        if zeros && enough { Ok(false) } else { Err(Fault::Damaged) }
    }
}

/// What the sectors that a piece reaches look like.
struct Unwritten {
    /// One of them is zero, from the piece's beginning or its own to its end.
    sector: bool,
    /// The last one goes on behind the piece, and has so many bytes of it, all zero; 0 if it does not, or one is not zero.
    open: usize,
}

/// Fills `out` as far as the source goes.
pub(crate) fn read_up_to(source: &mut impl Read, out: &mut [u8]) -> Result<usize, Fault> {
    let mut done = 0;
    while let Some(space) = out.get_mut(done..).filter(|space| !space.is_empty()) {
        match source.read(space) {
            Ok(0) => break,
            Ok(length) => done = done.saturating_add(length),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests;
