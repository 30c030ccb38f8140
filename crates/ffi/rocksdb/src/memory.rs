//! The store as its users see it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use rocksdb::compaction_filter::Decision;
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRawIterator, DBRecoveryMode, Options, ReadOptions, WriteBatch,
    WriteOptions,
};
use zeroize::Zeroizing;

use crate::adaptor;
use crate::folder::{Folder, State, file_named_in};
use crate::key::KEY_BYTES;
use crate::types::{Entry, Error, Limits, MAX_KEY_BYTES, MAX_VALUE_BYTES};

/// In front of each value: when it expires, in milliseconds, big-endian; all ones for never.
const EXPIRY_BYTES: usize = 8;
/// What opening a store again may take, besides tables of what is in memory.
const ROOM_BYTES: u64 = 2 << 20;
const NEVER: u64 = u64::MAX;

/// An open store. One process at a time holds a folder.
pub struct Memory {
    /// `None` while it could not be opened again after a failed write.
    db: RwLock<Option<DB>>,
    folder: Arc<Folder>,
    path: PathBuf,
    limits: Limits,
    key: Zeroizing<[u8; KEY_BYTES]>,
    /// What had expired at this time is removed when tables are rewritten.
    swept_ms: Arc<AtomicU64>,
}

impl Memory {
    /// Opens the store in `folder` under `key`, or makes one.
    pub fn open(folder: &Path, key: &[u8; KEY_BYTES], limits: &Limits) -> Result<Self, Error> {
        let (store, state) = Folder::open(folder, key)?;
        let memory = Self {
            db: RwLock::new(None),
            folder: Arc::new(store),
            path: folder.to_path_buf(),
            limits: *limits,
            key: Zeroizing::new(*key),
            swept_ms: Arc::new(AtomicU64::new(0)),
        };
        *memory.db.write().unwrap_or_else(PoisonError::into_inner) = Some(memory.open_db(state)?);
        if state == State::Beginning {
            memory.folder.write_header(State::InUse)?;
        }
        Ok(memory)
    }

    fn open_db(&self, state: State) -> Result<DB, Error> {
        let mut options = options(&self.limits, &self.swept_ms);
        options.create_if_missing(state == State::Beginning);
        if state == State::InUse {
            adaptor::chain_logs(&mut options);
        }
        adaptor::stay_stopped(&mut options);
        options.set_env(&adaptor::env(Arc::clone(&self.folder)));
        explained(&self.folder, DB::open(&options, &self.path))
    }

    /// Keeps `value` under `key`, until `expires_ms` if there is one. It is on disk when this returns.
    pub fn put(&self, key: &[u8], value: &[u8], expires_ms: Option<u64>) -> Result<(), Error> {
        self.write(|batch| add(batch, key, value, expires_ms))
    }

    /// Keeps all of `entries`, or none. They are on disk when this returns.
    pub fn put_all(&self, entries: &[Entry]) -> Result<(), Error> {
        self.write(|batch| entries.iter().try_for_each(|entry| add(batch, &entry.key, &entry.value, entry.expires_ms)))
    }

    /// Removes what is kept under `key`, if anything is. Its bytes stay in the files, sealed, until they are rewritten.
    pub fn remove(&self, key: &[u8]) -> Result<(), Error> {
        self.write(|batch| {
            batch.delete(key);
            Ok(())
        })
    }

    /// The same of all of these keys, or of none.
    pub fn remove_all(&self, keys: &[Vec<u8>]) -> Result<(), Error> {
        self.write(|batch| {
            keys.iter().for_each(|key| batch.delete(key));
            Ok(())
        })
    }

    /// What is kept under `key` at `now_ms`.
    pub fn get(&self, key: &[u8], now_ms: u64) -> Result<Option<Vec<u8>>, Error> {
        self.with(|db| {
            let Some(stored) = explained(&self.folder, db.get_pinned(key))? else { return Ok(None) };
            let (expires_ms, value) = split(&stored)?;
            Ok((expires_ms > now_ms).then(|| value.to_vec()))
        })
    }

    /// At most `limit` entries whose keys begin with `prefix` and come after `after`, in the order of keys.
    pub fn list(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize, now_ms: u64) -> Result<Vec<Entry>, Error> {
        self.page(prefix, after, (limit, usize::MAX), now_ms)
    }

    /// The same up to a number of entries, or until they have a number of bytes together.
    pub fn page(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        (limit, mut room): (usize, usize),
        now_ms: u64,
    ) -> Result<Vec<Entry>, Error> {
        self.with(|db| {
            let mut entries = Vec::new();
            let mut all = db.raw_iterator();
            all.seek(after.map_or(prefix, |after| after.max(prefix)));
            while entries.len() < limit
                && room > 0
                && let Some(entry) = self.next(&mut all)?
                && entry.key.starts_with(prefix)
            {
                if entry.expires_ms.is_none_or(|expires| expires > now_ms) && after != Some(&entry.key) {
                    room = room.saturating_sub(entry.key.len().saturating_add(entry.value.len()));
                    entries.push(entry);
                }
                all.next();
            }
            Ok(entries)
        })
    }

    /// Shows `each` every entry as of now, while others write; for a copy under another key.
    pub fn for_each<E: From<Error>>(&self, now_ms: u64, mut each: impl FnMut(Entry) -> Result<(), E>) -> Result<(), E> {
        self.with(|db| {
            let snapshot = db.snapshot();
            let mut read = ReadOptions::default();
            read.fill_cache(false);
            let mut all = snapshot.raw_iterator_opt(read);
            all.seek_to_first();
            while let Some(entry) = self.next(&mut all)? {
                if entry.expires_ms.is_none_or(|expires| expires > now_ms) {
                    each(entry)?;
                }
                all.next();
            }
            Ok(())
        })
    }

    /// What has expired at this time need not be written again when tables are rewritten.
    pub fn let_expire(&self, now_ms: u64) {
        self.swept_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// Rewrites all tables without what was removed, written over or has expired at `now_ms`.
    pub fn compact(&self, now_ms: u64) -> Result<(), Error> {
        self.swept_ms.store(now_ms, Ordering::Relaxed);
        self.twice(|db| {
            let compacted = adaptor::compact(db);
            self.undamaged()?;
            Ok(compacted?)
        })
    }

    /// Reads and authenticates every byte of every file.
    pub fn verify(&self) -> Result<(), Error> {
        self.with(|db| {
            explained(&self.folder, db.disable_file_deletions())?;
            let verified = self.needed(db).and_then(|needed| self.folder.verify(&self.key, &needed));
            explained(&self.folder, db.enable_file_deletions())?;
            verified
        })
    }

    fn needed(&self, db: &DB) -> Result<BTreeSet<String>, Error> {
        let live = explained(&self.folder, db.live_files())?;
        let tables = live.into_iter().map(|file| file.name.trim_start_matches('/').to_owned());
        Ok(tables.chain(["CURRENT".to_owned()]).collect())
    }

    fn write(&self, fill: impl Fn(&mut WriteBatch) -> Result<(), Error>) -> Result<(), Error> {
        let mut options = WriteOptions::default();
        options.set_sync(true);
        self.twice(|db| {
            let mut batch = WriteBatch::default();
            fill(&mut batch)?;
            self.undamaged()?;
            explained(&self.folder, db.write_opt(batch, &options))
        })
    }

    /// After a failed write RocksDB takes no other. So it is opened again for the next, if there is space.
    fn twice(&self, change: impl Fn(&DB) -> Result<(), Error>) -> Result<(), Error> {
        match self.with(&change) {
            Err(Error::Full | Error::Io(_)) => {
                self.open_again()?;
                self.with(change)
            }
            result => result,
        }
    }

    fn with<T, E: From<Error>>(&self, action: impl FnOnce(&DB) -> Result<T, E>) -> Result<T, E> {
        if self.held().is_none() {
            self.open_again()?;
        }
        // None again if another thread failed to open it meanwhile.
        self.held().as_ref().ok_or(Error::Full).map_err(E::from).and_then(action)
    }

    fn held(&self) -> RwLockReadGuard<'_, Option<DB>> {
        self.db.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readers go on with what there is: while one is at it, or there is no space, nothing happens.
    fn open_again(&self) -> Result<(), Error> {
        let Ok(mut db) = self.db.try_write() else { return Err(Error::Full) };
        let buffer = u64::try_from(self.limits.write_buffer_bytes).unwrap_or(u64::MAX);
        self.folder.has_room(buffer.saturating_mul(2).saturating_add(ROOM_BYTES))?;
        // Two cannot hold the folder.
        *db = None;
        self.folder.go_on();
        *db = Some(self.open_db(State::InUse)?);
        Ok(())
    }

    fn undamaged(&self) -> Result<(), Error> {
        self.folder.damaged().map_or(Ok(()), |file| Err(Error::damaged(file)))
    }

    fn next(&self, all: &mut DBRawIterator<'_>) -> Result<Option<Entry>, Error> {
        let Some((key, stored)) = all.item() else {
            explained(&self.folder, all.status())?;
            return Ok(None);
        };
        self.undamaged()?;
        let (expires_ms, value) = split(stored)?;
        let expires_ms = (expires_ms != NEVER).then_some(expires_ms);
        Ok(Some(Entry { key: key.to_vec(), value: value.to_vec(), expires_ms }))
    }
}

fn add(batch: &mut WriteBatch, key: &[u8], value: &[u8], expires_ms: Option<u64>) -> Result<(), Error> {
    if key.len() > MAX_KEY_BYTES || value.len() > MAX_VALUE_BYTES {
        return Err(Error::TooLong);
    }
    batch.put(key, [&expires_ms.unwrap_or(NEVER).to_be_bytes(), value].concat());
    let most = MAX_VALUE_BYTES.saturating_add(MAX_KEY_BYTES).saturating_add(64);
    if batch.size_in_bytes() > most { Err(Error::TooLong) } else { Ok(()) }
}

/// When a stored value expires, and the value.
fn split(stored: &[u8]) -> Result<(u64, &[u8]), Error> {
    let (expires_ms, value) = stored.split_first_chunk::<EXPIRY_BYTES>().ok_or_else(|| Error::damaged("a value"))?;
    Ok((u64::from_be_bytes(*expires_ms), value))
}

/// What RocksDB answered, unless damage was seen meanwhile: it can take some for the end of a log.
/// Its messages may have keys in them, so nothing of them is passed on but the name of a file.
fn explained<T>(folder: &Folder, result: Result<T, rocksdb::Error>) -> Result<T, Error> {
    if let Some(file) = folder.damaged() {
        return Err(Error::damaged(file));
    }
    let error = match result {
        Ok(answer) => return Ok(answer),
        Err(error) => error,
    };
    let failure = folder.take_failure();
    let message = error.as_ref();
    if message.contains("No space left") {
        return Err(Error::Full);
    }
    if error.kind() == rocksdb::ErrorKind::Corruption || message.contains("No such file") {
        return Err(Error::damaged(file_named_in(message).unwrap_or("a log")));
    }
    Err(failure.unwrap_or_else(|| io::Error::other(format!("{:?}", error.kind()))).into())
}

fn options(limits: &Limits, swept_ms: &Arc<AtomicU64>) -> Options {
    let mut tables = BlockBasedOptions::default();
    tables.set_block_cache(&Cache::new_lru_cache(limits.cache_bytes));
    tables.set_cache_index_and_filter_blocks(true);
    tables.set_pin_l0_filter_and_index_blocks_in_cache(true);
    tables.set_bloom_filter(10.0, false);

    let mut options = Options::default();
    options.set_block_based_table_factory(&tables);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(limits.write_buffer_bytes);
    options.set_max_write_buffer_number(2);
    options.set_max_background_jobs(1);
    options.set_max_open_files(i32::from(limits.open_files));
    options.set_max_manifest_file_size(1 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_recycle_log_file_num(0);
    options.set_allow_mmap_reads(false);
    options.set_allow_mmap_writes(false);
    options.set_use_direct_reads(false);
    options.set_use_direct_io_for_flush_and_compaction(false);
    // Of a write that a crash has cut off, whole frames may be there. Damage is not left to RocksDB (`explained`).
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    let swept_ms = Arc::clone(swept_ms);
    options.set_compaction_filter("aico expiry", move |_, _, stored| match split(stored) {
        Ok((expires_ms, _)) if expires_ms <= swept_ms.load(Ordering::Relaxed) => Decision::Remove,
        _ => Decision::Keep,
    });
    options
}
