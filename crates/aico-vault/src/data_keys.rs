//! The key table: the keys of a space's data, one for everything that is forgotten together
//! (`docs/spec/vault-stores.md`, Data keys).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use aico_crypto::{DataKey, FileWrapKey, MemoryKey, OsRandom, Random, SpaceKey};
use aico_policy::DataPath;
use rusqlite::{OptionalExtension, Transaction, params};

use crate::Error;
use crate::header::{SpaceId, VaultId};
use crate::store::Database;

/// The table, apart from the data: an old copy of the data alone has no key.
pub(crate) const KEY_TABLE: &str = "
    CREATE TABLE data_key (
        id BLOB PRIMARY KEY, space BLOB NOT NULL, name TEXT NOT NULL, wrapped BLOB NOT NULL, UNIQUE (space, name)
    ) STRICT;
    CREATE TABLE forgetting (space BLOB NOT NULL, name TEXT NOT NULL, PRIMARY KEY (space, name)) STRICT;
    CREATE TABLE removed_space (id BLOB PRIMARY KEY) STRICT;
";

/// Keys that are kept open.
const OPEN: usize = 64;

/// What a value's row says of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyId([u8; 16]);

impl KeyId {
    /// Takes the 16 bytes as they stand in a row.
    pub(crate) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The 16 bytes.
    pub(crate) fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

/// A data key, opened.
#[derive(Debug)]
pub(crate) struct OpenKey {
    pub(crate) id: KeyId,
    pub(crate) values: DataKey,
    pub(crate) files: FileWrapKey,
}

impl OpenKey {
    fn new(id: KeyId, values: DataKey) -> Arc<Self> {
        let files = values.file_wrap_key();
        Arc::new(Self { id, values, files })
    }
}

/// The data keys of one space.
#[derive(Debug)]
pub(crate) struct DataKeys {
    table: Arc<Database>,
    vault: VaultId,
    space: SpaceId,
    /// The space's key wraps them. Held while one is made, so that none is made under a key that goes.
    key: Mutex<SpaceKey>,
    open: Mutex<VecDeque<(String, Arc<OpenKey>)>>,
    /// Held while a value is stored or opened, and alone while something is forgotten.
    gate: RwLock<()>,
}

/// What there is of a name.
enum Looked<'a> {
    Open(Arc<OpenKey>),
    Found { _held: MutexGuard<'a, SpaceKey>, key: Arc<OpenKey> },
    Nothing(MutexGuard<'a, SpaceKey>),
}

impl DataKeys {
    /// The keys of `space` in `table`, which has had [`KEY_TABLE`] among its migrations.
    pub(crate) fn new(table: Arc<Database>, vault: VaultId, space: SpaceId, key: SpaceKey) -> Self {
        let (open, gate) = (Mutex::default(), RwLock::default());
        Self { table, vault, space, key: Mutex::new(key), open, gate }
    }

    /// The key for what is stored under `path`; made if there is none.
    pub(crate) fn for_path(&self, path: &DataPath) -> Result<Arc<OpenKey>, Error> {
        self.named(path.keeper())
    }

    /// The key of this name; made if there is none.
    pub(crate) fn named(&self, name: &str) -> Result<Arc<OpenKey>, Error> {
        let looked = self.look_up(name)?;
        let opened = match &looked {
            Looked::Open(open) => return Ok(open.clone()),
            Looked::Found { key, .. } => key.clone(),
            Looked::Nothing(key) => self.make(key, name)?,
        };
        self.keep(name, &opened);
        Ok(opened)
    }

    /// The key of this name, if there is one.
    pub(crate) fn find_named(&self, name: &str) -> Result<Option<Arc<OpenKey>>, Error> {
        Ok(match self.look_up(name)? {
            Looked::Open(key) | Looked::Found { key, .. } => Some(key),
            Looked::Nothing(_) => None,
        })
    }

    /// With the space's key, so that nobody makes another one meanwhile.
    fn look_up(&self, name: &str) -> Result<Looked<'_>, Error> {
        if let Some(open) = self.open_keys().iter().find(|(known, _)| known == name) {
            return Ok(Looked::Open(open.1.clone()));
        }
        let key = self.space_key();
        let found = self.table.read(|db| {
            let sql = "SELECT id, wrapped FROM data_key WHERE space = ?1 AND name = ?2";
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get::<_, Vec<u8>>(1)?));
            Ok(db.query_row(sql, params![self.space.as_bytes(), name], row).optional()?)
        })?;
        match found {
            Some((id, wrapped)) => {
                let opened = self.unwrap(&key, KeyId(id), &wrapped)?;
                Ok(Looked::Found { _held: key, key: opened })
            }
            None => Ok(Looked::Nothing(key)),
        }
    }

    /// The key of this name, of which a row speaks.
    ///
    /// # Errors
    /// [`Error::Damaged`] when it is not there: what is forgotten takes its rows along.
    pub(crate) fn get(&self, id: &KeyId) -> Result<Arc<OpenKey>, Error> {
        if let Some(open) = self.open_keys().iter().find(|(_, open)| open.id == *id) {
            return Ok(open.1.clone());
        }
        let key = self.space_key();
        let found = self.table.read(|db| {
            let sql = "SELECT name, wrapped FROM data_key WHERE space = ?1 AND id = ?2";
            let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, String>(0)?, row.get::<_, Vec<u8>>(1)?));
            Ok(db.query_row(sql, params![self.space.as_bytes(), id.0], row).optional()?)
        })?;
        let (name, wrapped) = found.ok_or_else(missing)?;
        let opened = self.unwrap(&key, *id, &wrapped)?;
        self.keep(&name, &opened);
        Ok(opened)
    }

    /// The key of the space's working memory in the epoch that is in force.
    pub(crate) fn memory_key(&self) -> MemoryKey {
        self.space_key().memory_key()
    }

    /// Nothing is forgotten while this is held.
    pub(crate) fn hold(&self) -> RwLockReadGuard<'_, ()> {
        self.gate.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing is stored or opened while this is held.
    pub(crate) fn stop(&self) -> RwLockWriteGuard<'_, ()> {
        self.gate.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Destroys the keys of a name and of everything below it, and notes that their rows are to go; returns how many.
    /// [`DataKeys::stop`] is held.
    pub(crate) fn forget(
        &self,
        name: &str,
        also: impl FnOnce(&Transaction<'_>) -> Result<(), Error>,
    ) -> Result<usize, Error> {
        let key = self.space_key();
        let destroyed = self.table.write(|tx| {
            tx.execute("INSERT OR IGNORE INTO forgetting VALUES (?1, ?2)", params![self.space.as_bytes(), name])?;
            let sql = "DELETE FROM data_key
                       WHERE space = ?1 AND (name = ?2 OR substr(name, 1, length(?2) + 1) = ?2 || '/')";
            let destroyed = tx.execute(sql, params![self.space.as_bytes(), name])?;
            also(tx)?;
            Ok(destroyed)
        })?;
        drop(key);
        self.open_keys().clear();
        Ok(destroyed)
    }

    /// What was being forgotten when the process stopped, or is now.
    pub(crate) fn forgetting(&self) -> Result<Vec<String>, Error> {
        self.table.read(|db| {
            let mut statement = db.prepare("SELECT name FROM forgetting WHERE space = ?1")?;
            let names = statement.query_map([self.space.as_bytes()], |row| row.get(0))?;
            Ok(names.collect::<Result<_, _>>()?)
        })
    }

    /// Its rows are gone.
    pub(crate) fn forgotten(&self, name: &str) -> Result<(), Error> {
        let sql = "DELETE FROM forgetting WHERE space = ?1 AND name = ?2";
        self.table.write(|tx| Ok(tx.execute(sql, params![self.space.as_bytes(), name]).map(drop)?))?;
        // Neither the table nor its log holds the wrapped key any more.
        self.table.settle()
    }

    /// Runs `commit` with a closure that wraps every key under `next` in its transaction; takes that for the space's key
    /// if it returns `true`.
    pub(crate) fn renew<T>(
        &self,
        next: SpaceKey,
        commit: impl FnOnce(&dyn Fn(&Transaction<'_>) -> Result<(), Error>) -> (bool, T),
    ) -> T {
        let mut key = self.space_key();
        let rewrap = |tx: &Transaction<'_>| self.rewrap(tx, &key, &next);
        let (renewed, value) = commit(&rewrap);
        if renewed {
            *key = next;
        }
        value
    }

    fn rewrap(&self, tx: &Transaction<'_>, key: &SpaceKey, next: &SpaceKey) -> Result<(), Error> {
        let mut select = tx.prepare("SELECT id, wrapped FROM data_key WHERE space = ?1")?;
        let mut update = tx.prepare("UPDATE data_key SET wrapped = ?2 WHERE id = ?1")?;
        let rows = select.query_map([self.space.as_bytes()], |row| Ok((row.get(0)?, row.get(1)?)))?;
        for (id, wrapped) in rows.collect::<Result<Vec<([u8; 16], Vec<u8>)>, _>>()? {
            let place = self.place(&KeyId(id));
            let data = key.unwrap_data(&wrapped, &place).map_err(|_| missing())?;
            update.execute(params![id, next.wrap_data(&data, &place, &OsRandom)?])?;
        }
        Ok(())
    }

    fn make(&self, key: &SpaceKey, name: &str) -> Result<Arc<OpenKey>, Error> {
        let mut id = [0; 16];
        OsRandom.fill(&mut id)?;
        let (id, data) = (KeyId(id), DataKey::make(&OsRandom)?);
        let wrapped = key.wrap_data(&data, &self.place(&id), &OsRandom)?;
        self.table.write(|tx| {
            let sql = "INSERT INTO data_key VALUES (?1, ?2, ?3, ?4)";
            Ok(tx.execute(sql, params![id.0, self.space.as_bytes(), name, wrapped]).map(drop)?)
        })?;
        Ok(OpenKey::new(id, data))
    }

    fn unwrap(&self, key: &SpaceKey, id: KeyId, wrapped: &[u8]) -> Result<Arc<OpenKey>, Error> {
        let data = key.unwrap_data(wrapped, &self.place(&id)).map_err(|_| missing())?;
        Ok(OpenKey::new(id, data))
    }

    fn keep(&self, name: &str, key: &Arc<OpenKey>) {
        let mut open = self.open_keys();
        if open.len() >= OPEN {
            open.pop_back();
        }
        open.push_front((name.to_owned(), key.clone()));
    }

    /// `vault id ‖ space id ‖ key id`.
    fn place(&self, id: &KeyId) -> Vec<u8> {
        [self.vault.as_bytes().as_slice(), self.space.as_bytes(), &id.0].concat()
    }

    fn space_key(&self) -> MutexGuard<'_, SpaceKey> {
        self.key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_keys(&self) -> MutexGuard<'_, VecDeque<(String, Arc<OpenKey>)>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn missing() -> Error {
    Error::damaged("the value", "its key is missing or does not open")
}
