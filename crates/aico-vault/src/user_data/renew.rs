//! Files under new keys, while values are read and written (`docs/spec/vault-stores.md`, Rotation).

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use aico_crypto::OsRandom;
use aico_policy::{DataPath, Sensitivity};

use super::row::{self, Content, Found};
use super::writer::{may_be_committed, pad};
use super::{UserData, ValueReader};
use crate::Error;

/// Gives out the next value, unless something failed.
fn next_of(next: Next<'_>, work: &mut Work<'_>) -> Option<(i64, DataPath)> {
    if work.failed.is_some() {
        return None;
    }
    match next(work.after) {
        Ok(found) => found.inspect(|(id, _)| work.after = *id),
        Err(error) => {
            work.failed = Some(error);
            None
        }
    }
}

/// What was sealed anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Renewed {
    /// Values.
    pub(crate) values: u64,
    /// Their bytes.
    pub(crate) bytes: u64,
    /// Values that are damaged: they are left as they are.
    pub(crate) damaged: u64,
}

/// The next value to be sealed anew behind a row.
type Next<'a> = &'a (dyn Fn(i64) -> Result<Option<(i64, DataPath)>, Error> + Sync);
/// Hears what is done, and says whether to go on.
type Tell<'a> = &'a mut (dyn FnMut(Renewed) -> bool + Send);

/// From here on two values are sealed at a time: one of them waits for the disk, mostly.
const WORTH_A_THREAD: u64 = 8 << 20;

/// What those who seal at the same time share.
struct Work<'a> {
    /// The row that was given out last.
    after: i64,
    done: Renewed,
    /// Bytes that were gone over: of values that are half done, or turned out to be damaged, too.
    passed: u64,
    /// The first error; nothing more is begun after it.
    failed: Option<Error>,
    tell: Tell<'a>,
}

impl Work<'_> {
    fn may_go_on(&mut self) -> bool {
        self.failed.is_none() && (self.tell)(Renewed { bytes: self.passed, ..self.done })
    }
}

fn lock<'a, 'b>(work: &'a Mutex<Work<'b>>) -> MutexGuard<'a, Work<'b>> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}

impl UserData {
    /// Seals every file that was sealed before `epoch` under a fresh key, and every value that has no data key yet. What
    /// is written meanwhile is of `epoch` already. `tell` says whether to go on; stopped at any point, it goes on where it was.
    pub(crate) fn renew(&self, epoch: u32, tell: Tell<'_>) -> Result<Renewed, Error> {
        self.epoch.store(epoch, Ordering::Relaxed);
        self.seal_anew(epoch, &|after| self.database.read(|db| row::next_old(db, epoch, after)), tell)
    }

    /// Bytes of values that are to be padded, and are not yet; none if there is nothing to do.
    pub(crate) fn to_be_padded(&self) -> Result<Option<u64>, Error> {
        let levels = self.sensitivities();
        let bytes = levels.secret().iter().map(|name| self.database.read(|db| row::bare_bytes(db, name)));
        Ok(bytes.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().reduce(u64::saturating_add))
    }

    /// Seals every value anew, padded, whose category became secret since it was stored.
    pub(crate) fn pad_secrets(&self, tell: Tell<'_>) -> Result<Renewed, Error> {
        let mut all = Renewed::default();
        for name in self.sensitivities().secret() {
            let mut go_on = |done: Renewed| tell(Renewed { bytes: all.bytes.saturating_add(done.bytes), ..done });
            let next = |after| self.database.read(|db| row::next_bare(db, name, after));
            let done = self.seal_anew(self.epoch(), &next, &mut go_on)?;
            all.values = all.values.saturating_add(done.values);
            all.bytes = all.bytes.saturating_add(done.bytes);
            all.damaged = all.damaged.saturating_add(done.damaged);
        }
        Ok(all)
    }

    fn seal_anew(&self, epoch: u32, next: Next<'_>, tell: Tell<'_>) -> Result<Renewed, Error> {
        let work = Mutex::new(Work { after: 0, done: Renewed::default(), passed: 0, failed: None, tell });
        let seal = || self.seal_while_there_is(epoch, next, &work);
        if self.file_bytes()? < WORTH_A_THREAD {
            seal();
        } else {
            thread::scope(|scope| {
                // Where the system gives no thread, one does it all.
                let _other = thread::Builder::new().spawn_scoped(scope, seal);
                seal();
            });
        }
        let Work { done, failed, .. } = work.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.map_or(Ok(done), Err)
    }

    fn seal_while_there_is(&self, epoch: u32, next: Next<'_>, work: &Mutex<Work<'_>>) {
        loop {
            // A statement of its own: a guard in the head of a loop would be held through its body.
            let next = next_of(next, &mut lock(work));
            let Some((id, path)) = next else { return };
            let mut told = 0;
            let mut go_on = |bytes: u64| {
                let mut work = lock(work);
                work.passed = work.passed.saturating_add(bytes.saturating_sub(told));
                told = bytes;
                work.may_go_on()
            };
            let renewed = match self.renew_one(id, &path, epoch, &mut go_on) {
                Err(Error::Damaged { .. }) => self.save_key(id, &path).map(|()| None),
                renewed => renewed.map(Some),
            };
            let mut work = lock(work);
            match renewed {
                Ok(Some(bytes)) => {
                    work.done.values += 1;
                    work.done.bytes = work.done.bytes.saturating_add(bytes);
                    work.passed = work.passed.saturating_add(bytes.saturating_sub(told));
                }
                Ok(None) => work.done.damaged += 1,
                // Changed or removed meanwhile.
                Err(Error::NotFound) => {}
                Err(error) => {
                    let _first = work.failed.get_or_insert(error);
                }
            }
        }
    }

    fn renew_one(
        &self,
        id: i64,
        path: &DataPath,
        epoch: u32,
        go_on: &mut dyn FnMut(u64) -> bool,
    ) -> Result<u64, Error> {
        let _kept = self.keys.hold();
        let old = self.database.read(|db| row::find(db, path))?.ok_or(Error::NotFound)?;
        let key = self.keys.for_path(path)?;
        let mut reader = ValueReader::open(old.clone(), self, path)?;
        let mut piece = Vec::new();
        let level = self.sensitivity(path);
        let more = level.stored_bytes(old.bytes).saturating_sub(old.bytes);
        let (content, file) = match &old.content {
            Content::Inline(_) => {
                reader.next_chunk(&mut piece)?;
                piece.resize(piece.len().saturating_add(usize::try_from(more).unwrap_or_default()), 0);
                (Content::Inline(key.values.seal_value(&self.place(path), &piece, &OsRandom)?), None)
            }
            Content::File { .. } => {
                let (mut writer, mut bytes) = (self.files.create(&key.files)?, 0);
                while reader.next_chunk(&mut piece)? {
                    writer.write(&piece)?;
                    bytes += piece.len() as u64;
                    if !go_on(bytes) {
                        return Err(Error::Stopped);
                    }
                }
                pad(&mut writer, more)?;
                let file = writer.finish()?;
                (Content::File { id: *file.id(), wrapped_key: file.wrapped_key().to_vec() }, Some(file))
            }
        };
        let Found { bytes, sum, changed_ms, .. } = old;
        let padded = level == Sensitivity::Secret;
        let new = Found { bytes, sum, changed_ms, key: Some(key.id), epoch, padded, content };
        let replaced = self.database.write(|tx| row::replace(tx, id, &old, &new));
        if let Some(file) = file
            && !matches!(replaced, Ok(false))
            && may_be_committed(&replaced, true)
        {
            file.keep();
        }
        match replaced? {
            true => {
                self.remove_unused(old.file());
                Ok(bytes)
            }
            false => Err(Error::NotFound),
        }
    }

    /// A damaged file stays what it is, but its key must outlive the space's key of this epoch.
    fn save_key(&self, id: i64, path: &DataPath) -> Result<(), Error> {
        let Some(old) = self.database.read(|db| row::find(db, path))? else { return Ok(()) };
        let (None, Content::File { id: file, wrapped_key }) = (&old.key, &old.content) else { return Ok(()) };
        let Ok(file_key) = self.old_wrap.unwrap_file(wrapped_key, file.as_bytes()) else { return Ok(()) };
        let key = self.keys.for_path(path)?;
        let wrapped_key = key.files.wrap_file(&file_key, file.as_bytes(), &OsRandom)?.to_vec();
        let content = Content::File { id: *file, wrapped_key };
        let new = Found { key: Some(key.id), content, ..old.clone() };
        self.database.write(|tx| row::replace(tx, id, &old, &new)).map(drop)
    }
}
