//! A new key while reads and writes go on (`docs/spec/vault-stores.md`, A new key).

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use aico_crypto::StoreKey;
use aico_ffi_sqlcipher::Copying;
use rusqlite::Connection;

use super::{At, Database, Writer, damaged_page, is_sound, named, real_path, remove_with_companions};
use super::{sync_folder_of, unlocked, with_suffix};
use crate::Error;
use crate::store::Step;

/// Why nothing is written after [`Commit::Unclear`].
pub(crate) const UNCLEAR: &str =
    "a change of keys was stopped by a failed disk; a new start of the backend finishes it";
/// Pages that are copied while writers wait: a few milliseconds.
const STEP_PAGES: u16 = 256;
/// How often the copying looks whether the writers that waited are done.
const GIVE_WAY: Duration = Duration::from_micros(100);

/// Whether it is on disk that the copy counts from here on.
pub(crate) enum Commit {
    /// It is.
    Done,
    /// It is not, and will not be.
    Not(Error),
    /// Only reading it after a new start will tell.
    Unclear(Error),
}

impl Database {
    /// Copies the database to `path` under `key`, while reads and writes go on, and makes that the database.
    ///
    /// `tell` hears of pages that are copied and all of them, and says whether to go on. When both are equal and nobody writes, `last` may change
    /// the copy, and `commit` says on disk that the copy counts. The old file is removed then. On an error the old file
    /// is the database still; after [`Commit::Unclear`] both files stay, and nothing is written before a new start.
    pub(crate) fn rekey(
        &self,
        path: &Path,
        key: StoreKey,
        tell: &mut dyn FnMut(u64, u64) -> bool,
        last: impl FnOnce(&Connection) -> Result<(), Error>,
        commit: impl FnOnce() -> Commit,
    ) -> Result<(), Error> {
        let next = At { path: real_path(path)?, key, mac: self.at().mac };
        let new = with_suffix(&next.path, ".new");
        let mut writer = self.copied(&next, &new, tell, last)?;
        // A stopped attempt may have left one, which is of no use: its key is gone.
        let publish = || {
            remove_with_companions(&next.path)?;
            fs::rename(&new, &next.path).map_err(|source| Error::io("renaming", &new, source))?;
            sync_folder_of(&next.path)
        };
        if let Err(error) = publish() {
            let _next_time = remove_with_companions(&new).and_then(|()| remove_with_companions(&next.path));
            return Err(error);
        }
        Step::CopyPublished.done();
        match commit() {
            Commit::Done => {}
            Commit::Not(error) => {
                let _next_time = remove_with_companions(&next.path);
                return Err(error);
            }
            Commit::Unclear(error) => {
                *writer = Writer::Ended(UNCLEAR);
                return Err(error);
            }
        }
        Step::CopyCommitted.done();
        let old = std::mem::replace(&mut *self.at.lock().unwrap_or_else(PoisonError::into_inner), Arc::new(next));
        self.readers.renew();
        *writer = Writer::None;
        let _swept_at_the_next_start = remove_with_companions(&old.path);
        Step::OldStoreRemoved.done();
        Ok(())
    }

    /// Copies the database to `path`, where nothing is, under the key that it has, while reads and writes go on. `last` may
    /// change the copy while nobody writes.
    pub(crate) fn copy_to(
        &self,
        path: &Path,
        tell: &mut dyn FnMut(u64, u64) -> bool,
        last: impl FnOnce(&Connection) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let at = self.at();
        let copy = At { path: real_path(path)?, key: at.key.duplicate(), mac: at.mac };
        self.copied(&copy, &copy.path, tell, last).map(drop)
    }

    /// Makes the copy at `new`, whole and on disk; nobody writes as long as what is returned is held.
    fn copied(
        &self,
        next: &At,
        new: &Path,
        tell: &mut dyn FnMut(u64, u64) -> bool,
        last: impl FnOnce(&Connection) -> Result<(), Error>,
    ) -> Result<MutexGuard<'_, Writer>, Error> {
        let copied = self.copy(next, new, tell, last);
        if copied.is_err() {
            self.stop_copying();
            let _next_time = remove_with_companions(new);
        }
        copied
    }

    fn copy(
        &self,
        next: &At,
        new: &Path,
        tell: &mut dyn FnMut(u64, u64) -> bool,
        last: impl FnOnce(&Connection) -> Result<(), Error>,
    ) -> Result<MutexGuard<'_, Writer>, Error> {
        let of_new = |error: Error| named(error, new);
        self.begin_copying(next, new)?;
        Step::CopyBegun.done();
        // Nobody writes from the moment on when both are equal: SQLite carries nothing over any more.
        let mut writer = loop {
            if let Some(writer) = self.copy_some(tell)? {
                break writer;
            }
            // A lock that is taken again at once would never be had by anybody else.
            while self.waiting.load(Ordering::Relaxed) > 0 {
                thread::sleep(GIVE_WAY);
            }
        };
        let Writer::Copied(copying) = std::mem::replace(&mut *writer, Writer::None) else { return Err(INTERRUPTED) };
        let (source, copy) = copying.finish();
        *writer = Writer::Alone(source);
        let copy = copy.map_err(|error| of_new(error.into()))?;
        Step::CopyEqual.done();
        without_log(&copy).and_then(|()| last(&copy)).map_err(of_new)?;
        copy.close().map_err(|(_, error)| of_new(error.into()))?;
        let synced = OpenOptions::new().write(true).open(new).and_then(|file| file.sync_all());
        synced.map_err(|source| Error::io("syncing", new, source))?;
        Ok(writer)
    }

    fn begin_copying(&self, next: &At, new: &Path) -> Result<(), Error> {
        let of_new = |error: Error| named(error, new);
        let failed = |source| Error::io("creating", new, source);
        remove_with_companions(new)?;
        OpenOptions::new().write(true).create_new(true).mode(0o600).open(new).map_err(failed)?;
        let copy = unlocked(new, &next.key, next.mac).map_err(of_new)?;
        // Until it is whole it is worth nothing: no journal. It is synced once, at the end.
        let plain = || {
            copy.pragma_update_and_check(None, "journal_mode", "OFF", |_| Ok(()))?;
            copy.pragma_update(None, "synchronous", "OFF")
        };
        plain().map_err(|error| of_new(error.into()))?;
        let mut writer = self.lock_writer();
        let source = match std::mem::replace(&mut *writer, Writer::None) {
            Writer::Alone(source) => source,
            Writer::None => super::connect(&self.at(), super::Access::Write)?,
            busy @ Writer::Copied(_) => {
                *writer = busy;
                return Err(Error::Misuse("the database is being copied already"));
            }
            Writer::Ended(why) => {
                *writer = Writer::Ended(why);
                return Err(Error::Misuse(why));
            }
        };
        match Copying::begin(source, copy) {
            Ok(copying) => *writer = Writer::Copied(Box::new(copying)),
            Err((source, error)) => {
                *writer = Writer::Alone(*source);
                return Err(of_new(error.into()));
            }
        }
        Ok(())
    }

    /// Copies some pages. Once both are equal, nobody writes as long as what is returned is held.
    fn copy_some(&self, tell: &mut dyn FnMut(u64, u64) -> bool) -> Result<Option<MutexGuard<'_, Writer>>, Error> {
        let mut writer = self.lock_writer();
        // A transaction that met a damaged page has closed both.
        let Writer::Copied(copying) = &mut *writer else { return Err(INTERRUPTED) };
        let equal = step(copying, STEP_PAGES).map_err(|error| named(error, &self.at().path))?;
        let (left, all) = copying.progress();
        let held = equal.then_some(writer);
        if tell(all.saturating_sub(left), all) { Ok(held) } else { Err(Error::Stopped) }
    }

    fn stop_copying(&self) {
        let mut writer = self.lock_writer();
        match std::mem::replace(&mut *writer, Writer::None) {
            Writer::Copied(copying) => {
                let source = copying.abandon();
                if is_sound(&source) {
                    *writer = Writer::Alone(source);
                }
            }
            other => *writer = other,
        }
    }
}

const INTERRUPTED: Error = Error::Misuse("the copying was stopped by a page that is damaged");

/// The copy says of itself that it has a write-ahead log, as its source has. Merging that at the end could fail unnoticed.
fn without_log(copy: &Connection) -> Result<(), Error> {
    let mode = copy.pragma_update_and_check(None, "journal_mode", "DELETE", |row| row.get::<_, String>(0))?;
    if mode == "delete" { Ok(()) } else { Err(Error::Misuse("the copy keeps its write-ahead log")) }
}

fn step(copying: &mut Copying, pages: u16) -> Result<bool, Error> {
    let equal = copying.step(pages);
    // SQLCipher gives zeros for a page that does not authenticate: they may not become part of a copy that does.
    if !is_sound(copying.source()) {
        return Err(damaged_page());
    }
    Ok(equal?)
}
