//! The system space: keys that belong to the vault as a whole, the list of spaces, who is enrolled.

use std::sync::Arc;

use aico_crypto::{
    ComponentKind, GrantKey, Identity, IdentitySecret, LockedKey, LogKey, Name, OsRandom, PseudonymKey, PublicKey,
    RootKey, SpaceKey,
};
use aico_policy::{Grant, SignedGrant};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use crate::Error;
use crate::audit::Head;
use crate::data_keys::KEY_TABLE;
use crate::header::{SpaceId, VaultId};
use crate::store::Database;

/// The system space's tables, in the order in which they came.
pub(crate) const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE secret (name TEXT PRIMARY KEY, wrapped BLOB NOT NULL) STRICT;
    CREATE TABLE space (
        id BLOB PRIMARY KEY, kind TEXT NOT NULL, epoch INTEGER NOT NULL, wrapped BLOB NOT NULL
    ) STRICT;
    CREATE TABLE component (
        key BLOB PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, enrolled_ms INTEGER NOT NULL,
        granted BLOB NOT NULL, signature BLOB NOT NULL
    ) STRICT;
",
    ANCHOR_TABLE,
    "
    ALTER TABLE space ADD COLUMN wrapped_next BLOB;
    ALTER TABLE component ADD COLUMN shown_as TEXT;
    CREATE TABLE revoked (
        key BLOB PRIMARY KEY, kind TEXT NOT NULL, name TEXT NOT NULL, revoked_ms INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE setting (name TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    CREATE TABLE notice (number INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, text TEXT NOT NULL) STRICT;
",
    KEY_TABLE,
];

/// Where a space remembers the audit log's newest head.
pub(crate) const ANCHOR_TABLE: &str =
    "CREATE TABLE anchor (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL, root BLOB NOT NULL) STRICT;";

const WHAT: &str = "the system space";

/// What the vault keeps for itself, opened.
#[derive(Debug)]
pub(crate) struct System {
    database: Arc<Database>,
    grant_key: GrantKey,
}

/// The keys that setting up or opening the system space gives besides.
pub(crate) struct SystemKeys {
    pub(crate) log: LogKey,
    pub(crate) pseudonyms: PseudonymKey,
    pub(crate) owner: OwnerSpace,
    /// Authenticates what was written down while the vault was locked; none before the first start of this version.
    pub(crate) locked: Option<LockedKey>,
}

/// The owner's space.
pub(crate) struct OwnerSpace {
    pub(crate) id: SpaceId,
    pub(crate) epoch: u32,
    pub(crate) key: SpaceKey,
}

/// Something that the owner is shown at the next contact.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Names it, for taking it away.
    pub number: i64,
    /// When it happened, in milliseconds since 1970.
    pub at_ms: u64,
    /// What happened.
    pub text: String,
}

/// The setting of a copy that no device has opened yet: when it was made.
const COPIED: &str = "copied";
/// Most notices that are kept; the newest stay.
const MAX_NOTICES: i64 = 100;

impl System {
    /// Fills a new system space, in one transaction; one that is filled already is left alone.
    pub(crate) fn fill(database: &Database, vault: &VaultId, root: &RootKey, space: &SpaceKey) -> Result<(), Error> {
        if secret(database, "log")?.is_some() {
            return Ok(());
        }
        let device = IdentitySecret::make(&OsRandom)?;
        let owner = SpaceId::make(&OsRandom)?;
        let place = |name: &str| place(vault, name);
        let secrets = [
            ("log", space.wrap_log(&LogKey::make(&OsRandom)?, &place("log"), &OsRandom)?.to_vec()),
            ("grant", space.wrap_grant(&GrantKey::make(&OsRandom)?, &place("grant"), &OsRandom)?.to_vec()),
            (
                "pseudonym",
                space.wrap_pseudonym(&PseudonymKey::make(&OsRandom)?, &place("pseudonym"), &OsRandom)?.to_vec(),
            ),
            ("device", root.identity_seal_key().seal(&device, &OsRandom)?),
        ];
        let wrapped = root.wrap_space(&SpaceKey::make(&OsRandom)?, &space_place(vault, &owner, 0), &OsRandom)?;
        database.write(|tx| {
            for (name, wrapped) in &secrets {
                run(tx, "INSERT INTO secret VALUES (?1, ?2)", params![name, wrapped])?;
            }
            run(
                tx,
                "INSERT INTO space (id, kind, epoch, wrapped) VALUES (?1, 'owner', 0, ?2)",
                params![owner.as_bytes(), wrapped],
            )
        })
    }

    /// Opens a filled system space.
    pub(crate) fn open(
        database: Database,
        vault: &VaultId,
        root: &RootKey,
        space: &SpaceKey,
    ) -> Result<(Self, SystemKeys), Error> {
        let wrapped = |name| secret(&database, name)?.ok_or_else(|| missing(name));
        let keys = SystemKeys {
            log: space.unwrap_log(&wrapped("log")?, &place(vault, "log")).map_err(|_| missing("log"))?,
            pseudonyms: space
                .unwrap_pseudonym(&wrapped("pseudonym")?, &place(vault, "pseudonym"))
                .map_err(|_| missing("pseudonym"))?,
            owner: owner_space(&database, vault, root)?,
            locked: locked_key(&database, vault, space)?,
        };
        let grant = wrapped("grant")?;
        let grant_key = space.unwrap_grant(&grant, &place(vault, "grant")).map_err(|_| missing("grant"))?;
        Ok((Self { database: Arc::new(database), grant_key }, keys))
    }

    pub(crate) fn database(&self) -> &Arc<Database> {
        &self.database
    }

    /// Wraps what the system space's key wraps under the next one, in a copy of the space.
    pub(crate) fn rewrap(copy: &Connection, vault: &VaultId, old: &SpaceKey, new: &SpaceKey) -> Result<(), Error> {
        macro_rules! rewrap {
            ($name:literal, $unwrap:ident, $wrap:ident) => {
                if let Some(wrapped) = find_secret(copy, $name)? {
                    let key = old.$unwrap(&wrapped, &place(vault, $name)).map_err(|_| missing($name))?;
                    let wrapped = new.$wrap(&key, &place(vault, $name), &OsRandom)?;
                    copy.execute("UPDATE secret SET wrapped = ?2 WHERE name = ?1", params![$name, wrapped])?;
                }
            };
        }
        rewrap!("log", unwrap_log, wrap_log);
        rewrap!("grant", unwrap_grant, wrap_grant);
        rewrap!("pseudonym", unwrap_pseudonym, wrap_pseudonym);
        rewrap!("locked", unwrap_locked, wrap_locked);
        Ok(())
    }

    /// Takes out of a copy of the space what belongs to this device: its identity, who is enrolled here, what was being done.
    pub(crate) fn strip(copy: &Connection, now_ms: u64) -> Result<(), Error> {
        copy.execute_batch(
            "DELETE FROM secret WHERE name IN ('device', 'device.next', 'locked');
             UPDATE space SET wrapped_next = NULL;
             DELETE FROM component;
             DELETE FROM notice;
             DELETE FROM removed_space;
             DELETE FROM setting WHERE name = 'owner''s command line';",
        )?;
        copy.execute("INSERT OR REPLACE INTO setting VALUES (?1, ?2)", params![COPIED, now_ms.to_be_bytes()])?;
        Ok(())
    }

    /// When this space was copied from another device's, if it was not opened since.
    pub(crate) fn copied_ms(&self) -> Result<Option<u64>, Error> {
        Ok(self.setting(COPIED)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes))
    }

    /// Makes a copy a device of its own.
    pub(crate) fn adopt(&self, root: &RootKey) -> Result<(), Error> {
        let device = root.identity_seal_key().seal(&IdentitySecret::make(&OsRandom)?, &OsRandom)?;
        self.database.write(|tx| {
            run(tx, "INSERT OR IGNORE INTO secret VALUES ('device', ?1)", params![device])?;
            run(tx, "DELETE FROM setting WHERE name = ?1", [COPIED])
        })
    }

    /// The owner's space: its identifier and epoch.
    pub(crate) fn owner_epoch(&self) -> Result<(SpaceId, u32), Error> {
        self.database.read(|db| {
            let row = |row: &rusqlite::Row<'_>| Ok((SpaceId::from_bytes(row.get(0)?), row.get(1)?));
            Ok(db.query_row("SELECT id, epoch FROM space WHERE kind = 'owner'", [], row)?)
        })
    }

    /// Notes that a folder is of no space: not yet, or not any more.
    pub(crate) fn note_removed_space(&self, id: &SpaceId) -> Result<(), Error> {
        self.database.write(|tx| run(tx, "INSERT OR IGNORE INTO removed_space VALUES (?1)", [id.as_bytes()]))
    }

    /// The folders that are of no space.
    pub(crate) fn removed_spaces(&self) -> Result<Vec<SpaceId>, Error> {
        self.database.read(|db| {
            let mut statement = db.prepare("SELECT id FROM removed_space")?;
            let ids = statement.query_map([], |row| row.get(0).map(SpaceId::from_bytes))?;
            Ok(ids.collect::<Result<_, _>>()?)
        })
    }

    /// The folder is gone.
    pub(crate) fn space_is_removed(&self, id: &SpaceId) -> Result<(), Error> {
        self.database.write(|tx| run(tx, "DELETE FROM removed_space WHERE id = ?1", [id.as_bytes()]))
    }

    /// Destroys the key of the owner's space and every key under it, and puts a new one in its place, in one transaction.
    pub(crate) fn replace_owner(
        &self,
        vault: &VaultId,
        root: &RootKey,
        (old, new): (&SpaceId, &OwnerSpace),
        head: &Head,
    ) -> Result<(), Error> {
        let wrapped = root.wrap_space(&new.key, &space_place(vault, &new.id, new.epoch), &OsRandom)?;
        self.database.write(|tx| {
            let sql = "UPDATE space SET id = ?2, epoch = ?3, wrapped = ?4, wrapped_next = NULL WHERE id = ?1";
            run(tx, sql, params![old.as_bytes(), new.id.as_bytes(), new.epoch, wrapped])?;
            run(tx, "DELETE FROM data_key WHERE space = ?1", [old.as_bytes()])?;
            run(tx, "DELETE FROM forgetting WHERE space = ?1", [old.as_bytes()])?;
            run(tx, "INSERT OR IGNORE INTO removed_space VALUES (?1)", [old.as_bytes()])?;
            run(tx, "DELETE FROM removed_space WHERE id = ?1", [new.id.as_bytes()])?;
            keep_anchor(tx, head)
        })
    }

    /// Puts a space into its next epoch, and does what else belongs to that, in one transaction.
    pub(crate) fn begin_epoch(
        &self,
        vault: &VaultId,
        root: &RootKey,
        (id, epoch, key): (&SpaceId, u32, &SpaceKey),
        also: &dyn Fn(&Transaction<'_>) -> Result<(), Error>,
        head: &Head,
    ) -> Result<(), Error> {
        let wrapped = root.wrap_space(key, &space_place(vault, id, epoch), &OsRandom)?;
        self.database.write(|tx| {
            let sql = "UPDATE space SET epoch = ?2, wrapped = ?3, wrapped_next = NULL WHERE id = ?1";
            run(tx, sql, params![id.as_bytes(), epoch, wrapped])?;
            also(tx)?;
            keep_anchor(tx, head)
        })
    }

    /// Wraps everything that the root key wraps under the next one too. Until the header holds that one, the old stays
    /// good; afterwards, [`System::commit_root`].
    pub(crate) fn stage_root(&self, vault: &VaultId, old: &RootKey, new: &RootKey) -> Result<(), Error> {
        let device = new.identity_seal_key().seal(&self.device_identity(old)?, &OsRandom)?;
        let spaces = self.database.read(|connection| {
            let mut statement = connection.prepare("SELECT id, epoch, wrapped FROM space")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            Ok(rows.collect::<Result<Vec<([u8; 16], u32, Vec<u8>)>, _>>()?)
        })?;
        self.database.write(|tx| {
            for (id, epoch, wrapped) in spaces {
                let place = space_place(vault, &SpaceId::from_bytes(id), epoch);
                let key = old.unwrap_space(&wrapped, &place).map_err(|_| missing("space"))?;
                let next = new.wrap_space(&key, &place, &OsRandom)?;
                run(tx, "UPDATE space SET wrapped_next = ?2 WHERE id = ?1", params![id, next])?;
            }
            run(tx, "INSERT OR REPLACE INTO secret VALUES ('device.next', ?1)", params![device])
        })
    }

    /// Makes the wraps of [`System::stage_root`] the only ones.
    pub(crate) fn commit_root(&self) -> Result<(), Error> {
        commit_root(&self.database)
    }

    /// A setting, as it was put.
    pub(crate) fn setting(&self, name: &str) -> Result<Option<Vec<u8>>, Error> {
        self.database.read(|connection| {
            let sql = "SELECT value FROM setting WHERE name = ?1";
            Ok(connection.query_row(sql, [name], |row| row.get(0)).optional()?)
        })
    }

    pub(crate) fn put_setting(&self, name: &str, value: &[u8], head: &Head) -> Result<(), Error> {
        self.database.write(|tx| {
            run(tx, "INSERT OR REPLACE INTO setting VALUES (?1, ?2)", params![name, value])?;
            keep_anchor(tx, head)
        })
    }

    /// Keeps something to be shown to the owner.
    pub(crate) fn add_notice(&self, at_ms: u64, text: &str) -> Result<(), Error> {
        self.database.write(|tx| {
            run(tx, "INSERT INTO notice (at_ms, text) VALUES (?1, ?2)", params![at_ms.cast_signed(), text])?;
            let sql = "DELETE FROM notice WHERE number <= (SELECT max(number) FROM notice) - ?1";
            run(tx, sql, params![MAX_NOTICES])
        })
    }

    /// What the owner has not been shown, the oldest first.
    pub(crate) fn notices(&self) -> Result<Vec<Notice>, Error> {
        self.database.read(|connection| {
            let mut statement = connection.prepare("SELECT number, at_ms, text FROM notice ORDER BY number")?;
            let rows = statement.query_map([], |row| {
                let at_ms = row.get::<_, i64>(1)?.cast_unsigned();
                Ok(Notice { number: row.get(0)?, at_ms, text: row.get(2)? })
            })?;
            Ok(rows.collect::<Result<_, _>>()?)
        })
    }

    /// Forgets notices up to this number: they were shown.
    pub(crate) fn forget_notices(&self, number: i64) -> Result<(), Error> {
        self.database.write(|tx| run(tx, "DELETE FROM notice WHERE number <= ?1", [number]))
    }

    /// Puts a new key for the next time that the vault is locked.
    pub(crate) fn put_locked_key(&self, vault: &VaultId, space: &SpaceKey, key: &LockedKey) -> Result<(), Error> {
        let wrapped = space.wrap_locked(key, &place(vault, "locked"), &OsRandom)?;
        self.database.write(|tx| run(tx, "INSERT OR REPLACE INTO secret VALUES ('locked', ?1)", params![wrapped]))
    }

    /// This device's transport identity.
    pub(crate) fn device_identity(&self, root: &RootKey) -> Result<IdentitySecret, Error> {
        let sealed = secret(&self.database, "device")?.ok_or_else(|| missing("device"))?;
        root.identity_seal_key().open(&sealed).map_err(|_| missing("device"))
    }

    pub(crate) fn grant_signer(&self) -> Result<PublicKey, Error> {
        Ok(self.grant_key.public()?)
    }

    /// Enrols an identity with a grant, signed here.
    pub(crate) fn enrol(&self, identity: &Identity, grant: &Grant, now_ms: u64, head: &Head) -> Result<(), Error> {
        let signed = grant.sign(&self.grant_key).map_err(|_| Error::Misuse("a grant that cannot be signed"))?;
        self.database.write(|tx| {
            run(
                tx,
                "INSERT INTO component (key, kind, name, enrolled_ms, granted, signature)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (key) DO UPDATE SET
                 kind = ?2, name = ?3, enrolled_ms = ?4, granted = ?5, signature = ?6",
                params![
                    identity.key().as_bytes(),
                    identity.kind().as_str(),
                    identity.name().as_str(),
                    now_ms.cast_signed(),
                    signed.bytes,
                    signed.signature
                ],
            )?;
            keep_anchor(tx, head)
        })
    }

    /// Revokes an identity: it is not enrolled any more, and its key never will be again.
    pub(crate) fn revoke(&self, identity: &Identity, now_ms: u64, head: &Head) -> Result<(), Error> {
        let (key, kind, name) = (identity.key().as_bytes(), identity.kind().as_str(), identity.name().as_str());
        self.database.write(|tx| {
            run(tx, "DELETE FROM component WHERE key = ?1", [key])?;
            let sql = "INSERT OR REPLACE INTO revoked VALUES (?1, ?2, ?3, ?4)";
            run(tx, sql, params![key, kind, name, now_ms.cast_signed()])?;
            keep_anchor(tx, head)
        })
    }

    /// Everybody who was revoked, with the time.
    pub(crate) fn revoked(&self) -> Result<Vec<(Identity, u64)>, Error> {
        let rows = self.database.read(|connection| {
            let mut statement = connection.prepare("SELECT key, kind, name, revoked_ms FROM revoked")?;
            let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)))?;
            Ok(rows.collect::<Result<Vec<([u8; 32], String, String, i64)>, _>>()?)
        })?;
        let decode = |(key, kind, name, at): ([u8; 32], String, String, i64)| {
            Ok((decode_identity(&key, &kind, &name)?, at.cast_unsigned()))
        };
        rows.into_iter().map(decode).collect()
    }

    /// What the owner calls an identity; it does not change what it is.
    pub(crate) fn show_as(&self, key: &PublicKey, name: &str, head: &Head) -> Result<(), Error> {
        self.database.write(|tx| {
            let sql = "UPDATE component SET shown_as = ?2 WHERE key = ?1";
            run(tx, sql, params![key.as_bytes(), name])?;
            keep_anchor(tx, head)
        })
    }

    /// Everybody who is enrolled.
    pub(crate) fn components(&self) -> Result<Vec<Component>, Error> {
        let rows = self.database.read(|connection| {
            let mut statement = connection
                .prepare("SELECT key, kind, name, granted, signature, shown_as, enrolled_ms FROM component")?;
            let rows = statement.query_map([], |row| {
                Ok(Row {
                    key: row.get(0)?,
                    kind: row.get(1)?,
                    name: row.get(2)?,
                    granted: row.get(3)?,
                    signature: row.get(4)?,
                    shown_as: row.get(5)?,
                    enrolled_ms: row.get(6)?,
                })
            })?;
            Ok(rows.collect::<Result<Vec<Row>, _>>()?)
        })?;
        rows.into_iter().map(Row::decode).collect()
    }
}

struct Row {
    key: [u8; 32],
    kind: String,
    name: String,
    granted: Vec<u8>,
    signature: [u8; 64],
    shown_as: Option<String>,
    enrolled_ms: i64,
}

/// An enrolled identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Component {
    /// Who it is.
    pub identity: Identity,
    /// What it may do, to be verified.
    pub grant: SignedGrant,
    /// What the owner calls it.
    pub shown_as: Option<String>,
    /// When it was enrolled, in milliseconds since 1970.
    pub enrolled_ms: u64,
}

impl Row {
    fn decode(self) -> Result<Component, Error> {
        Ok(Component {
            identity: decode_identity(&self.key, &self.kind, &self.name)?,
            grant: SignedGrant { bytes: self.granted, signature: self.signature },
            shown_as: self.shown_as,
            enrolled_ms: self.enrolled_ms.cast_unsigned(),
        })
    }
}

fn decode_identity(key: &[u8; 32], kind: &str, name: &str) -> Result<Identity, Error> {
    let identity = || -> Result<Identity, aico_crypto::Error> {
        let (kind, name) = (ComponentKind::from_text(kind)?, Name::parse(name)?);
        Ok(Identity::new(kind, PublicKey::parse(key)?, name))
    };
    identity().map_err(|_| Error::damaged(WHAT, "an enrolled identity does not decode"))
}

/// Keeps the newest head of the audit log beside the data, so that a cut of the log is noticed.
pub(crate) fn keep_anchor(tx: &Transaction<'_>, head: &Head) -> Result<(), Error> {
    run(
        tx,
        "INSERT INTO anchor VALUES (1, ?1, ?2) ON CONFLICT (one) DO UPDATE SET size = ?1, root = ?2
         WHERE size < ?1",
        params![head.size.cast_signed(), head.root],
    )
}

/// The head that [`keep_anchor`] kept last.
pub(crate) fn kept_anchor(database: &Database) -> Result<Option<Head>, Error> {
    database.read(|connection| {
        let mut statement = connection.prepare("SELECT size, root FROM anchor")?;
        let head =
            statement.query_row([], |row| Ok(Head { size: row.get::<_, i64>(0)?.cast_unsigned(), root: row.get(1)? }));
        Ok(head.optional()?)
    })
}

/// The owner's space key. A new root key that was stopped between the header and here is finished, one that did not
/// reach the header is forgotten.
fn owner_space(database: &Database, vault: &VaultId, root: &RootKey) -> Result<OwnerSpace, Error> {
    let (id, epoch, wrapped, next) = database.read(|connection| {
        let sql = "SELECT id, epoch, wrapped, wrapped_next FROM space WHERE kind = 'owner'";
        Ok(connection.query_row(sql, [], |row| {
            Ok((row.get(0)?, row.get::<_, u32>(1)?, row.get::<_, Vec<u8>>(2)?, row.get::<_, Option<Vec<u8>>>(3)?))
        })?)
    })?;
    let id = SpaceId::from_bytes(id);
    let open = |wrapped: &[u8]| root.unwrap_space(wrapped, &space_place(vault, &id, epoch));
    match (open(&wrapped), next) {
        (Ok(key), None) => Ok(OwnerSpace { id, epoch, key }),
        (Ok(key), Some(_)) => {
            forget_next_root(database)?;
            Ok(OwnerSpace { id, epoch, key })
        }
        (Err(_), Some(next)) => {
            let key = open(&next).map_err(|_| missing("owner's space"))?;
            commit_root(database)?;
            Ok(OwnerSpace { id, epoch, key })
        }
        (Err(_), None) => Err(missing("owner's space")),
    }
}

fn commit_root(database: &Database) -> Result<(), Error> {
    database.write(|tx| {
        run(tx, "UPDATE space SET wrapped = wrapped_next, wrapped_next = NULL WHERE wrapped_next IS NOT NULL", [])?;
        let sql = "UPDATE secret SET wrapped = (SELECT wrapped FROM secret WHERE name = 'device.next')
                   WHERE name = 'device' AND EXISTS (SELECT 1 FROM secret WHERE name = 'device.next')";
        run(tx, sql, [])?;
        run(tx, "DELETE FROM secret WHERE name = 'device.next'", [])
    })
}

fn forget_next_root(database: &Database) -> Result<(), Error> {
    database.write(|tx| {
        run(tx, "UPDATE space SET wrapped_next = NULL", [])?;
        run(tx, "DELETE FROM secret WHERE name = 'device.next'", [])
    })
}

fn locked_key(database: &Database, vault: &VaultId, space: &SpaceKey) -> Result<Option<LockedKey>, Error> {
    let wrapped = secret(database, "locked")?;
    let open = |wrapped: Vec<u8>| space.unwrap_locked(&wrapped, &place(vault, "locked"));
    wrapped.map(open).transpose().map_err(|_| missing("locked"))
}

fn secret(database: &Database, name: &str) -> Result<Option<Vec<u8>>, Error> {
    database.read(|connection| find_secret(connection, name))
}

fn find_secret(connection: &Connection, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let sql = "SELECT wrapped FROM secret WHERE name = ?1";
    Ok(connection.query_row(sql, [name], |row| row.get(0)).optional()?)
}

fn run(tx: &Transaction<'_>, sql: &str, values: impl rusqlite::Params) -> Result<(), Error> {
    Ok(tx.execute(sql, values).map(drop)?)
}

fn missing(name: &str) -> Error {
    Error::damaged(WHAT, format!("its `{name}` key is missing or does not open"))
}

/// `vault id ‖ name`.
fn place(vault: &VaultId, name: &str) -> Vec<u8> {
    [vault.as_bytes().as_slice(), name.as_bytes()].concat()
}

/// `vault id ‖ space id ‖ epoch`.
fn space_place(vault: &VaultId, space: &SpaceId, epoch: u32) -> Vec<u8> {
    [vault.as_bytes().as_slice(), space.as_bytes(), &epoch.to_be_bytes()].concat()
}
