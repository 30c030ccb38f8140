//! Parsers of outside bytes that nobody but this crate needs, for the fuzzer (`crates/aico-fuzz-targets`). What stands here
//! works on stores that it makes itself; no vault is reached through it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aico_crypto::{BLOCK_BYTES, DataKey, OsRandom, SpaceKey};
use rusqlite::params;

use crate::data_keys::{DataKeys, KEY_TABLE};
use crate::store::{BlockStore, Database, NewFile};
use crate::tree::{Place, TREE_TABLES, Tree};
use crate::{Error, SpaceId, VaultId};

pub use crate::mount::Kernel;
pub use crate::tree::{RawNode, node};

const SPACE: [u8; 16] = [1; 16];
const TABLES: &[&str] = &[TREE_TABLES, KEY_TABLE];

/// A space's tree and data keys, in a folder of its own.
#[derive(Debug)]
pub struct Scratch {
    database: Arc<Database>,
    folder: PathBuf,
    key: SpaceKey,
}

impl Scratch {
    /// Makes one in `folder`, which is empty.
    pub fn new(folder: &Path) -> Result<Self, Error> {
        let key = SpaceKey::make(&OsRandom)?;
        let path = folder.join("store.db");
        drop(Database::create(&path, key.store_key(), TABLES)?);
        let database = Arc::new(Database::open(&path, key.store_key(), TABLES)?);
        Ok(Self { database, folder: folder.join("tree"), key })
    }

    fn keys(&self) -> DataKeys {
        let (vault, space) = (VaultId::from_bytes([2; 16]), SpaceId::from_bytes(SPACE));
        DataKeys::new(self.database.clone(), vault, space, self.key.duplicate())
    }

    pub(crate) fn tree(&self) -> Result<Tree, Error> {
        let place = Place { folder: self.folder.clone(), space: SPACE, epoch: 0 };
        Tree::open(self.database.clone(), &self.keys(), &place)
    }

    /// Makes a data key, has `change` change identifier and wrapped key in its row, and asks for it again: whether it is still
    /// the same, and `None` where there is none.
    pub fn data_key(&self, change: impl FnOnce(&mut Vec<u8>, &mut Vec<u8>)) -> Result<Option<bool>, Error> {
        const NAME: &str = "notes";
        self.database.write(|tx| Ok(tx.execute("DELETE FROM data_key WHERE name = ?1", [NAME]).map(drop)?))?;
        let sealed = self.keys().named(NAME)?.values.seal_value(b"place", b"value", &OsRandom)?;
        self.database.write(|tx| {
            let row = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
            let (mut id, mut wrapped): (Vec<u8>, Vec<u8>) =
                tx.query_row("SELECT id, wrapped FROM data_key WHERE name = ?1", [NAME], row)?;
            change(&mut id, &mut wrapped);
            let sql = "UPDATE data_key SET id = ?2, wrapped = ?3 WHERE name = ?1";
            Ok(tx.execute(sql, params![NAME, id, wrapped]).map(drop)?)
        })?;
        let found = self.keys().find_named(NAME)?;
        Ok(found.map(|key| key.values.open_value(b"place", &sealed).is_ok_and(|value| value == b"value")))
    }
}

/// A sealed file of the tree, whose bytes somebody changes.
#[derive(Debug)]
pub struct Blocks {
    store: BlockStore,
    key: DataKey,
    made: NewFile,
    path: PathBuf,
    plain: Vec<u8>,
    bytes: Vec<u8>,
}

impl Blocks {
    /// Seals `plain`, whole blocks, in `folder`.
    pub fn new(folder: &Path, plain: Vec<u8>) -> Result<Self, Error> {
        let (store, key) = (BlockStore::open(folder, SPACE)?, DataKey::make(&OsRandom)?);
        let made = store.create(&key.file_wrap_key())?;
        made.file.write(0, &plain, &mut Vec::new())?;
        let id = made.id.to_string();
        let path = folder.join(id.get(..2).unwrap_or_default()).join(id);
        let bytes = fs::read(&path).map_err(|source| Error::io("reading", &path, source))?;
        Ok(Self { store, key, made, path, plain, bytes })
    }

    /// The file as it was written.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Reads each block of the file while `bytes` stand in its place: how many are what was sealed there, and whether any is
    /// something else.
    pub fn read(&self, bytes: &[u8]) -> Result<(usize, bool), Error> {
        fs::write(&self.path, bytes).map_err(|source| Error::io("writing", &self.path, source))?;
        let file = self.store.file(&self.made.id, &self.made.wrapped_key, &self.key.file_wrap_key())?;
        let (mut whole, mut wrong, mut out) = (0, false, vec![0; BLOCK_BYTES]);
        for (index, plain) in self.plain.chunks_exact(BLOCK_BYTES).enumerate() {
            match file.read(index as u64, &mut out, &mut Vec::new()) {
                Ok(()) if out == plain => whole += 1,
                Ok(()) => wrong = true,
                Err(_) => {}
            }
        }
        Ok((whole, wrong))
    }
}
