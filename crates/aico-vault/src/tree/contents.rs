//! The bytes of one file: reading, writing, growing and cutting (`docs/spec/tree.md`, Sealed files).

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aico_crypto::BLOCK_BYTES;

use super::holes::Holes;
use crate::Error;
use crate::data_keys::OpenKey;
use crate::store::{BlockFile, BlockStore, FileId, NewFile};

/// Longest file.
pub(super) const MAX_FILE_BYTES: u64 = 1 << 40;
/// Blocks that one key seals, half of what it may: a stop forgets how many were sealed since the row was written.
const MAX_SEALED: u64 = 1 << 31;
/// Blocks that are copied or filled at a time.
const AT_ONCE: u64 = 256;

const BLOCK: u64 = BLOCK_BYTES as u64;

/// What a row says of a file's content.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) size: u64,
    pub(super) holes: Holes,
    pub(super) file: Option<SealedFile>,
    /// Blocks that were sealed under its key.
    pub(super) sealed: u64,
}

/// Where the blocks are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SealedFile {
    pub(super) id: FileId,
    pub(super) wrapped_key: Vec<u8>,
    pub(super) epoch: u32,
}

impl Content {
    /// Whether another one is the same, however often blocks were sealed.
    pub(super) fn is_but_for_counting(&self, other: &Self) -> bool {
        (self.size, &self.holes, &self.file) == (other.size, &other.holes, &other.file)
    }

    /// Blocks that have content.
    pub(super) fn blocks(&self) -> u64 {
        self.size.div_ceil(BLOCK).saturating_sub(self.holes.blocks())
    }
}

/// Where sealed files are made, and under which key.
#[derive(Debug)]
pub(super) struct Sealing {
    pub(super) store: BlockStore,
    pub(super) key: Arc<OpenKey>,
    /// In which files are sealed from now on.
    pub(super) epoch: AtomicU32,
    /// How often anything was settled.
    pub(super) settled: AtomicU64,
}

impl Sealing {
    fn create(&self) -> Result<(BlockFile, SealedFile), Error> {
        let epoch = self.epoch.load(Ordering::Relaxed);
        let NewFile { file, id, wrapped_key } = self.store.create(&self.key.files)?;
        Ok((file, SealedFile { id, wrapped_key: wrapped_key.to_vec(), epoch }))
    }

    pub(super) fn open(&self, file: &SealedFile) -> Result<BlockFile, Error> {
        self.store.file(&file.id, &file.wrapped_key, &self.key.files)
    }
}

/// What was synced of a file, and the sealed files that it does without.
pub(super) struct Settled {
    /// The higher, the later.
    pub(super) number: u64,
    pub(super) content: Content,
    pub(super) retired: Vec<FileId>,
}

/// The bytes of a file that is in use.
#[derive(Debug)]
pub(super) struct Contents {
    size: AtomicU64,
    /// Set and cleared while `inner` is held.
    changed: AtomicBool,
    /// Whether it is in the list of what was written.
    listed: AtomicBool,
    /// Held while it is synced.
    turn: Mutex<()>,
    inner: RwLock<Inner>,
}

#[derive(Debug)]
struct Inner {
    now: Content,
    file: Option<Arc<BlockFile>>,
    /// Whether the sealed file's name is on disk.
    published: bool,
    /// Sealed files that were replaced; rows may still speak of them.
    retired: Vec<FileId>,
    /// Whether blocks behind the end may be given back.
    cut: bool,
}

impl Contents {
    pub(super) fn new(content: Content) -> Self {
        let size = AtomicU64::new(content.size);
        let inner = Inner { now: content, file: None, published: true, retired: Vec::new(), cut: false };
        let (changed, listed) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { size, changed, listed, turn: Mutex::default(), inner: RwLock::new(inner) }
    }

    pub(super) fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    /// Whether something was changed since it was settled.
    pub(super) fn is_changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    /// As it is now.
    pub(super) fn now(&self) -> Content {
        self.read_inner().now.clone()
    }

    /// Whoever syncs it waits for its turn: another one may be in the middle of it.
    pub(super) fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has to be put on the list of what was written, now that it was.
    pub(super) fn is_to_be_listed(&self) -> bool {
        self.is_changed() && !self.listed.swap(true, Ordering::AcqRel)
    }

    /// Opens the sealed file if there is one: it goes on when its name is removed.
    pub(super) fn open(&self, sealing: &Sealing) -> Result<(), Error> {
        self.write_inner().open(sealing).map(drop)
    }

    /// Nobody uses it for now.
    pub(super) fn close(&self) {
        self.write_inner().file = None;
    }

    /// Puts blocks around the bytes from `offset` on into `out`, as many as there are of `length`, and returns where in it
    /// they stand.
    pub(super) fn read(
        &self,
        sealing: &Sealing,
        (offset, length): (u64, usize),
        out: &mut Vec<u8>,
        room: &mut Vec<u8>,
    ) -> Result<Range<usize>, Error> {
        let inner = self.opened(sealing)?;
        let end = offset.saturating_add(length as u64).min(inner.now.size);
        if offset >= end {
            return Ok(0..0);
        }
        let (first, behind) = (offset / BLOCK, end.div_ceil(BLOCK));
        let wanted = bytes_of(behind - first);
        if out.len() < wanted {
            out.resize(wanted, 0);
        }
        let mut rest = out.get_mut(..wanted).unwrap_or_default();
        for (run, is_hole) in inner.now.holes.runs(first..behind) {
            let (here, later) = rest.split_at_mut(bytes_of(run.end - run.start).min(rest.len()));
            rest = later;
            match is_hole {
                true => here.fill(0),
                false => inner.file()?.read(run.start, here, room)?,
            }
        }
        let start = (offset % BLOCK) as usize;
        Ok(start..start + (end - offset) as usize)
    }

    /// Writes `data` at `offset`; what is between the end so far and there becomes zeros.
    pub(super) fn write(&self, sealing: &Sealing, offset: u64, data: &[u8], room: &mut Vec<u8>) -> Result<(), Error> {
        if data.is_empty() {
            return Ok(());
        }
        let mut inner = self.write_inner();
        let done = inner.write(sealing, offset, data, room);
        self.note_change(&inner);
        done
    }

    /// Makes it longer or shorter.
    pub(super) fn resize(&self, sealing: &Sealing, size: u64, room: &mut Vec<u8>) -> Result<(), Error> {
        let mut inner = self.write_inner();
        let done = match size {
            _ if size > inner.now.size => inner.open(sealing).and_then(|_| inner.grow(sealing, size, room)),
            _ => {
                inner.cut_to(size);
                Ok(())
            }
        };
        self.note_change(&inner);
        done
    }

    /// Seals everything anew under a fresh key, if it was begun before `epoch`; its bytes.
    pub(super) fn renew(&self, sealing: &Sealing, epoch: u32, room: &mut Vec<u8>) -> Result<u64, Error> {
        let mut inner = self.write_inner();
        if inner.now.file.as_ref().is_none_or(|file| file.epoch >= epoch) {
            return Ok(0);
        }
        inner.reseal(sealing, room)?;
        self.note_change(&inner);
        Ok(inner.now.size)
    }

    /// What a row may say once the store was synced, or [`Contents::sync`] was called on it. If that fails, it is to be
    /// given back by [`Contents::unsettle`].
    pub(super) fn settle(&self, sealing: &Sealing) -> Settled {
        let mut inner = self.write_inner();
        self.listed.store(false, Ordering::Release);
        self.changed.store(false, Ordering::Release);
        let number = sealing.settled.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        Settled { number, content: inner.now.clone(), retired: std::mem::take(&mut inner.retired) }
    }

    /// It was not synced.
    pub(super) fn unsettle(&self, settled: Settled) {
        let mut inner = self.write_inner();
        self.changed.store(true, Ordering::Release);
        self.listed.store(true, Ordering::Release);
        inner.retired.extend(settled.retired);
    }

    /// Brings the sealed file to disk.
    pub(super) fn sync(&self, sealing: &Sealing) -> Result<(), Error> {
        let inner = self.opened(sealing)?;
        let (file, published) = (inner.file.clone(), inner.published);
        drop(inner);
        let Some(file) = file else { return Ok(()) };
        if published {
            return file.sync();
        }
        file.publish()?;
        let mut inner = self.write_inner();
        // Another one may have begun in the meantime.
        if inner.file.as_ref().is_some_and(|now| Arc::ptr_eq(now, &file)) {
            inner.published = true;
        }
        Ok(())
    }

    /// A row says that it has `size` bytes: if it has as many now, what lies behind them is given back.
    pub(super) fn trim(&self, size: u64) {
        let mut inner = self.write_inner();
        if inner.cut
            && size <= inner.now.size
            && let Some(file) = &inner.file
        {
            // What stays behind the end is never read.
            let _stays = file.trim(inner.now.size.div_ceil(BLOCK));
            inner.cut = false;
        }
    }

    /// The sealed files that it has, when nothing is to be kept of it.
    pub(super) fn files(&self) -> Vec<FileId> {
        let inner = self.read_inner();
        inner.now.file.iter().map(|file| file.id).chain(inner.retired.iter().copied()).collect()
    }

    /// With `inner` held: whoever settles it sees all of a change or none.
    fn note_change(&self, inner: &Inner) {
        self.size.store(inner.now.size, Ordering::Release);
        self.changed.store(true, Ordering::Release);
    }

    fn opened(&self, sealing: &Sealing) -> Result<RwLockReadGuard<'_, Inner>, Error> {
        let inner = self.read_inner();
        if inner.file.is_some() || inner.now.file.is_none() {
            return Ok(inner);
        }
        drop(inner);
        self.open(sealing)?;
        Ok(self.read_inner())
    }

    // What a panic interrupted was not acknowledged.
    fn read_inner(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write_inner(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn file(&self) -> Result<&BlockFile, Error> {
        self.file.as_deref().ok_or_else(|| Error::damaged("a file of the tree", "its content is missing"))
    }

    fn open(&mut self, sealing: &Sealing) -> Result<(), Error> {
        if let (None, Some(file)) = (&self.file, &self.now.file) {
            self.file = Some(Arc::new(sealing.open(file)?));
        }
        Ok(())
    }

    fn write(&mut self, sealing: &Sealing, offset: u64, data: &[u8], room: &mut Vec<u8>) -> Result<(), Error> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= MAX_FILE_BYTES).ok_or(TOO_LONG)?;
        self.open(sealing)?;
        let blocks = offset / BLOCK..end.div_ceil(BLOCK);
        if self.now.sealed.saturating_add(blocks.end - blocks.start) > MAX_SEALED {
            self.reseal(sealing, room)?;
        }
        if offset > self.now.size {
            self.grow(sealing, offset, room)?;
        }
        if self.now.file.is_none() {
            self.begin(sealing)?;
        }
        let (mut at, mut rest) = (offset, data);
        if at % BLOCK != 0 {
            let (now, later) = rest.split_at(rest.len().min(bytes_of(1) - (at % BLOCK) as usize));
            self.write_part(at, now, room)?;
            (at, rest) = (at + now.len() as u64, later);
        }
        let (whole, last) = rest.split_at(rest.len() / BLOCK_BYTES * BLOCK_BYTES);
        if !whole.is_empty() {
            self.file()?.write(at / BLOCK, whole, room)?;
        }
        if !last.is_empty() {
            self.write_part(at + whole.len() as u64, last, room)?;
        }
        self.now.sealed = self.now.sealed.saturating_add(blocks.end - blocks.start);
        self.now.holes.remove(blocks);
        self.now.size = self.now.size.max(end);
        self.bound_holes(room)
    }

    /// A part of one block.
    fn write_part(&self, at: u64, data: &[u8], room: &mut Vec<u8>) -> Result<(), Error> {
        let mut block = self.block(at / BLOCK, room)?;
        let start = (at % BLOCK) as usize;
        let part = block.get_mut(start..start + data.len()).ok_or(Error::Misuse("a part beyond its block"))?;
        part.copy_from_slice(data);
        self.file()?.write(at / BLOCK, &block, room)
    }

    /// A block as far as it counts, and zeros.
    fn block(&self, index: u64, room: &mut Vec<u8>) -> Result<[u8; BLOCK_BYTES], Error> {
        let mut block = [0; BLOCK_BYTES];
        let counts = self.now.size.saturating_sub(index.saturating_mul(BLOCK)).min(BLOCK) as usize;
        if counts > 0 && !self.now.holes.contains(index) {
            self.file()?.read(index, &mut block, room)?;
            block.iter_mut().skip(counts).for_each(|byte| *byte = 0);
        }
        Ok(block)
    }

    fn grow(&mut self, sealing: &Sealing, size: u64, room: &mut Vec<u8>) -> Result<(), Error> {
        if size > MAX_FILE_BYTES {
            return Err(TOO_LONG);
        }
        let (end, last) = (self.now.size, self.now.size / BLOCK);
        if end % BLOCK != 0 && !self.now.holes.contains(last) {
            if self.now.sealed >= MAX_SEALED {
                self.reseal(sealing, room)?;
            }
            // What a longer file left there, and an interrupted write.
            let block = self.block(last, room)?;
            self.file()?.write(last, &block, room)?;
            self.now.sealed += 1;
        }
        self.now.holes.add(end.div_ceil(BLOCK)..size.div_ceil(BLOCK));
        self.now.size = size;
        self.bound_holes(room)
    }

    fn cut_to(&mut self, size: u64) {
        if size == 0 {
            self.retired.extend(self.now.file.take().map(|file| file.id));
            (self.now, self.file) = (Content::default(), None);
        } else if size < self.now.size {
            self.now.size = size;
            self.now.holes.remove(size.div_ceil(BLOCK)..u64::MAX);
            self.cut = true;
        }
    }

    /// Fills the shortest hole where there are too many.
    fn bound_holes(&mut self, room: &mut Vec<u8>) -> Result<(), Error> {
        while self.now.holes.are_too_many()
            && let Some(hole) = self.now.holes.shortest()
        {
            let mut at = hole.start;
            while at < hole.end {
                let behind = hole.end.min(at + AT_ONCE);
                self.file()?.write(at, &vec![0; bytes_of(behind - at)], room)?;
                self.now.sealed = self.now.sealed.saturating_add(behind - at);
                at = behind;
            }
            self.now.holes.remove(hole);
        }
        Ok(())
    }

    fn begin(&mut self, sealing: &Sealing) -> Result<(), Error> {
        let (file, made) = sealing.create()?;
        (self.file, self.now.file, self.now.sealed) = (Some(Arc::new(file)), Some(made), 0);
        self.published = false;
        Ok(())
    }

    fn reseal(&mut self, sealing: &Sealing, room: &mut Vec<u8>) -> Result<(), Error> {
        self.open(sealing)?;
        let (file, made) = sealing.create()?;
        let copied = self.copy_to(&file, room).and_then(|sealed| file.publish().map(|()| sealed));
        let sealed = copied.inspect_err(|_| {
            // What stays is swept at the next opening.
            let _stays = sealing.store.remove(&made.id);
        })?;
        self.retired.extend(self.now.file.replace(made).map(|file| file.id));
        (self.file, self.now.sealed, self.published) = (Some(Arc::new(file)), sealed, true);
        Ok(())
    }

    fn copy_to(&self, file: &BlockFile, room: &mut Vec<u8>) -> Result<u64, Error> {
        let (mut sealed, mut blocks) = (0, vec![0; bytes_of(AT_ONCE)]);
        for (run, is_hole) in self.now.holes.runs(0..self.now.size.div_ceil(BLOCK)) {
            let mut at = run.start;
            while !is_hole && at < run.end {
                let count = (run.end - at).min(AT_ONCE);
                let blocks = blocks.get_mut(..bytes_of(count)).unwrap_or_default();
                self.file()?.read(at, blocks, room)?;
                file.write(at, blocks, room)?;
                (at, sealed) = (at + count, sealed + count);
            }
        }
        Ok(sealed)
    }
}

/// Of a file that is not to be.
pub(super) const TOO_LONG_TEXT: &str = "a file of more than 2^40 bytes";
const TOO_LONG: Error = Error::Misuse(TOO_LONG_TEXT);

fn bytes_of(blocks: u64) -> usize {
    usize::try_from(blocks).unwrap_or(usize::MAX).saturating_mul(BLOCK_BYTES)
}
