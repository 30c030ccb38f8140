//! The system space: keys that belong to the vault as a whole, the list of spaces, who is enrolled.

use aico_crypto::{
    ComponentKind, GrantKey, Identity, IdentitySecret, LogKey, Name, OsRandom, PseudonymKey, PublicKey, RootKey,
    SpaceKey,
};
use aico_policy::{Grant, SignedGrant};
use rusqlite::{OptionalExtension, Transaction, params};

use crate::Error;
use crate::audit::Head;
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
];

/// Where a space remembers the audit log's newest head.
pub(crate) const ANCHOR_TABLE: &str =
    "CREATE TABLE anchor (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL, root BLOB NOT NULL) STRICT;";

const WHAT: &str = "the system space";

/// What the vault keeps for itself, opened.
#[derive(Debug)]
pub(crate) struct System {
    database: Database,
    grant_key: GrantKey,
}

/// The keys that setting up or opening the system space gives besides.
pub(crate) struct SystemKeys {
    pub(crate) log: LogKey,
    pub(crate) pseudonyms: PseudonymKey,
    pub(crate) owner: (SpaceId, SpaceKey),
}

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
            run(tx, "INSERT INTO space VALUES (?1, 'owner', 0, ?2)", params![owner.as_bytes(), wrapped])
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
        };
        let grant = wrapped("grant")?;
        let grant_key = space.unwrap_grant(&grant, &place(vault, "grant")).map_err(|_| missing("grant"))?;
        Ok((Self { database, grant_key }, keys))
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
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
                "INSERT INTO component VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (key) DO UPDATE SET
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

    /// Everybody who is enrolled.
    pub(crate) fn components(&self) -> Result<Vec<(Identity, SignedGrant)>, Error> {
        let rows = self.database.read(|connection| {
            let mut statement = connection.prepare("SELECT key, kind, name, granted, signature FROM component")?;
            let rows = statement.query_map([], |row| {
                Ok(Row {
                    key: row.get(0)?,
                    kind: row.get(1)?,
                    name: row.get(2)?,
                    granted: row.get(3)?,
                    signature: row.get(4)?,
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
}

impl Row {
    fn decode(self) -> Result<(Identity, SignedGrant), Error> {
        let identity = || -> Result<Identity, aico_crypto::Error> {
            let (kind, name) = (ComponentKind::from_text(&self.kind)?, Name::parse(&self.name)?);
            Ok(Identity::new(kind, PublicKey::parse(&self.key)?, name))
        };
        let identity = identity().map_err(|_| Error::damaged(WHAT, "an enrolled identity does not decode"))?;
        Ok((identity, SignedGrant { bytes: self.granted, signature: self.signature }))
    }
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

fn owner_space(database: &Database, vault: &VaultId, root: &RootKey) -> Result<(SpaceId, SpaceKey), Error> {
    let (id, epoch, wrapped) = database.read(|connection| {
        let sql = "SELECT id, epoch, wrapped FROM space WHERE kind = 'owner'";
        Ok(connection.query_row(sql, [], |row| {
            Ok((row.get::<_, [u8; 16]>(0)?, row.get::<_, u32>(1)?, row.get::<_, Vec<u8>>(2)?))
        })?)
    })?;
    let id = SpaceId::from_bytes(id);
    let key = root.unwrap_space(&wrapped, &space_place(vault, &id, epoch));
    Ok((id, key.map_err(|_| missing("owner's space"))?))
}

fn secret(database: &Database, name: &str) -> Result<Option<Vec<u8>>, Error> {
    database.read(|connection| {
        let sql = "SELECT wrapped FROM secret WHERE name = ?1";
        Ok(connection.query_row(sql, [name], |row| row.get(0)).optional()?)
    })
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
