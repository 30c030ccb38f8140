//! A vault's spaces on the disk: where their stores lie, and how they are opened.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aico_crypto::{RootKey, SpaceKey};

use crate::data_keys::DataKeys;
use crate::header::{Header, SpaceId, VaultId};
use crate::store::{Database, Step, sweep_histories};
use crate::system::{self, ANCHOR_TABLE, OwnerSpace, System, SystemKeys};
use crate::tree::{self, TREE_TABLES};
use crate::user_data::{self, KEY_COLUMNS, PADDED_COLUMN, USER_DATA_TABLES, UserData};
use crate::{Error, durable};

/// The tables of a person's space, in the order in which they came.
pub(super) const OWNER_MIGRATIONS: &[&str] = &[USER_DATA_TABLES, ANCHOR_TABLE, KEY_COLUMNS, TREE_TABLES, PADDED_COLUMN];

/// The opened stores of a vault.
pub(super) struct Spaces {
    pub(super) system: System,
    pub(super) owner: UserData,
    pub(super) keys: SystemKeys,
}

impl Spaces {
    pub(super) fn open(home: &Path, header: &Header, root: &RootKey, set_up: bool) -> Result<Self, Error> {
        let vault = header.vault();
        let key = header.system_space_key(root)?;
        let (id, epoch) = header.system_space();
        let path = store(&made_folder(home, &id)?, epoch);
        let database = open_database(&path, &key, system::MIGRATIONS, set_up)?;
        if set_up {
            System::fill(&database, &vault, root, &key)?;
        }
        let (system, keys) = System::open(database, &vault, root, &key)?;
        let owner = open_owner(home, vault, &system, &keys.owner, set_up)?;
        Ok(Self { system, owner, keys })
    }
}

/// Opens the owner's space, or makes its stores.
pub(super) fn open_owner(
    home: &Path,
    vault: VaultId,
    system: &System,
    space: &OwnerSpace,
    set_up: bool,
) -> Result<UserData, Error> {
    let path = store(&made_folder(home, &space.id)?, space.epoch);
    let database = Arc::new(open_database(&path, &space.key, OWNER_MIGRATIONS, set_up)?);
    UserData::open(database, data_keys(vault, system, space), of_owner(home, space))
}

pub(super) fn data_keys(vault: VaultId, system: &System, space: &OwnerSpace) -> Arc<DataKeys> {
    Arc::new(DataKeys::new(system.database().clone(), vault, space.id, space.key.duplicate()))
}

pub(super) fn of_owner(home: &Path, OwnerSpace { id, epoch, key }: &OwnerSpace) -> user_data::Owner {
    let folder = folder(home, id).join("files");
    user_data::Owner { folder, id: *id.as_bytes(), epoch: *epoch, old_wrap: key.file_wrap_key() }
}

/// Where the tree of the owner's space lies.
pub(super) fn tree_of(home: &Path, id: &SpaceId, epoch: u32) -> tree::Place {
    tree::Place { folder: folder(home, id).join("tree"), space: *id.as_bytes(), epoch }
}

/// Where a space lies.
pub(super) fn folder(home: &Path, id: &SpaceId) -> PathBuf {
    home.join("spaces").join(id.to_string())
}

fn made_folder(home: &Path, id: &SpaceId) -> Result<PathBuf, Error> {
    let folder = folder(home, id);
    durable::create_folder(&folder)?;
    Ok(folder)
}

/// The working memory of a space in an epoch.
pub(super) fn memory(folder: &Path, epoch: u32) -> PathBuf {
    folder.join(format!("memory-{epoch}"))
}

/// Removes the working memories of other epochs.
pub(super) fn sweep_memories(folder: &Path, epoch: u32) -> Result<(), Error> {
    let failed = |source| Error::io("listing", folder, source);
    let current = memory(folder, epoch);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let ours = path.file_name().and_then(|name| name.to_str()?.strip_prefix("memory-")?.parse::<u32>().ok());
        if ours.is_some() && path != current {
            fs::remove_dir_all(&path).map_err(|source| Error::io("removing", &path, source))?;
        }
    }
    durable::sync_folder_of(&current)
}

/// The database of a space in an epoch.
pub(super) fn store(folder: &Path, epoch: u32) -> PathBuf {
    match epoch {
        0 => folder.join("store.db"),
        epoch => folder.join(format!("store-{epoch}.db")),
    }
}

/// Opens a database that must be there, or, during set-up only, makes it.
pub(super) fn open_database(path: &Path, key: &SpaceKey, migrations: &[&str], set_up: bool) -> Result<Database, Error> {
    if set_up && !path.exists() {
        return Database::create(path, key.store_key(), migrations);
    }
    if !path.exists() {
        return Err(Error::damaged(path.display().to_string(), "it is missing"));
    }
    Database::open(path, key.store_key(), migrations)
}

/// Removes what a stop left behind: databases of other epochs, which nothing opens, and spaces that were forgotten or
/// never finished.
pub(super) fn sweep(home: &Path, header: &Header, system: &System, owner: &OwnerSpace) -> Result<(), Error> {
    let (id, epoch) = header.system_space();
    for (id, epoch) in [(id, epoch), (owner.id, owner.epoch)] {
        let folder = folder(home, &id);
        let failed = |source| Error::io("listing", &folder, source);
        for entry in fs::read_dir(&folder).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if epoch_of(&path).is_some_and(|found| found != epoch) {
                durable::remove(&path)?;
            }
        }
    }
    sweep_memories(&folder(home, &owner.id), owner.epoch)?;
    sweep_histories(&folder(home, &id), epoch)?;
    system.removed_spaces()?.iter().try_for_each(|id| remove(home, system, id))
}

/// Removes the folder of a space that is not one any more.
pub(super) fn remove(home: &Path, system: &System, id: &SpaceId) -> Result<(), Error> {
    let folder = folder(home, id);
    match fs::remove_dir_all(&folder) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => return Err(Error::io("removing", &folder, source)),
        _ => {}
    }
    durable::sync_folder_of(&folder)?;
    Step::SpaceRemoved.done();
    system.space_is_removed(id)
}

/// The epoch of a database, or of a file that goes with it.
fn epoch_of(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    let (name, rest) = name.split_once(".db")?;
    if !["", "-wal", "-shm", "-journal", ".new", ".new-wal", ".new-shm", ".new-journal"].contains(&rest) {
        return None;
    }
    match name.strip_prefix("store")?.strip_prefix('-') {
        None if name == "store" => Some(0),
        None => None,
        Some(digits) => digits.parse().ok().filter(|epoch: &u32| epoch.to_string() == digits && *epoch > 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_swept() {
        let epoch = |name: &str| epoch_of(Path::new(name));
        let ours = [("store.db", 0), ("store.db-wal", 0), ("store-7.db", 7), ("store-7.db-shm", 7)];
        ours.iter().for_each(|(name, at)| assert_eq!(epoch(name), Some(*at), "{name}"));
        assert_eq!((epoch("store-12.db.new"), epoch("store-12.db.new-wal")), (Some(12), Some(12)));
        for other in ["store-0.db", "store-07.db", "store-.db", "storex.db", "store-1.db.old", "store.dbx", "x.db"] {
            assert_eq!(epoch(other), None, "{other}");
        }
    }
}
