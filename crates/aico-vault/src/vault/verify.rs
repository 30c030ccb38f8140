//! Reading and authenticating everything that a vault holds (`docs/manual/cli.md`, `aico vault verify`).

use std::path::Path;
use std::sync::Arc;

use aico_crypto::RootKey;

use super::spaces::{OWNER_MIGRATIONS, data_keys, folder, of_owner, open_database, store, tree_of};
use super::{HEADER, How, Locked, Vault, locked_log, memory, newest_kept};
use crate::audit::{self, Anchored, Expectations, VerifyError};
use crate::store::Database;
use crate::system::{self, System, SystemKeys};
use crate::tree;
use crate::user_data::{MAX_LIST_ENTRIES, UserData};
use crate::{Error, Header};

/// A part of the vault, and how it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Which, in a person's words; a damaged value by its path.
    pub part: String,
    /// What was read of it.
    pub state: Result<Content, String>,
}

/// What an intact part holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Authenticated bytes.
    Bytes(u64),
    /// Values of a space that are whole, and the sum of their lengths.
    Values(u64, u64),
    /// Entries of the log, and whether they were compared with what the vault remembers.
    Entries(u64, bool),
}

impl Vault<Locked> {
    /// Reads and authenticates every byte of the header, the databases, the values, the side file of locked times and the
    /// audit log, and tells `found` of each as it goes. Damage in one does not keep it from the others that still open.
    ///
    /// Repairs nothing. Opening a database finishes what a stop left in its write-ahead log, as any opening does.
    ///
    /// # Errors
    /// What keeps it from looking at all: no vault, no key for it, an older format, [`Error::Held`].
    pub fn verify(&self, how: How<'_>, found: &mut dyn FnMut(Checked)) -> Result<(), Error> {
        let home = self.state.places.home.clone();
        let file = home.join(HEADER);
        let bytes = std::fs::metadata(&file).map_or(0, |found| found.len());
        if bytes == 0 && !home.join("spaces").exists() {
            return Err(Error::NoVault(home));
        }
        let expected = match self.open_header(how) {
            Ok((header, root)) => {
                found(intact("the header", Content::Bytes(bytes)));
                let system = system_space(&home, &header, &root, found);
                system.map(|(system, keys)| spaces(&home, &header, &system, keys, found)).unwrap_or_default()
            }
            Err(Error::Damaged { what, detail }) => {
                found(damaged("the header", format!("{what}: {detail}")));
                found(damaged("the spaces", "not opened: their keys are behind the header".to_owned()));
                Expectations::default()
            }
            Err(error) => return Err(error),
        };
        log(&home, &expected, found);
        Ok(())
    }

    fn open_header(&self, how: How<'_>) -> Result<(Header, RootKey), Error> {
        let path = self.state.places.home.join(HEADER);
        if !path.exists() {
            return Err(Error::damaged("`vault.aico`", "it is missing"));
        }
        if Header::read(&path)?.is_old() {
            return Err(Error::Misuse("the vault is of an older format; `aico up` brings it to this one"));
        }
        let found = self.find(how, 0)?;
        Ok((found.header, found.opened.root))
    }
}

fn intact(part: &str, content: Content) -> Checked {
    Checked { part: part.to_owned(), state: Ok(content) }
}

fn damaged(part: &str, what: String) -> Checked {
    Checked { part: part.to_owned(), state: Err(what) }
}

/// Checks the system space's database and takes the keys out of it, if they can be had.
fn system_space(
    home: &Path,
    header: &Header,
    root: &RootKey,
    found: &mut dyn FnMut(Checked),
) -> Option<(System, SystemKeys)> {
    let part = "the system space";
    let mut opened = || {
        let key = header.system_space_key(root)?;
        let (id, epoch) = header.system_space();
        let path = store(&folder(home, &id), epoch);
        let database = open_database(&path, &key, system::MIGRATIONS, false)?;
        check(part, &database, &path, found);
        System::open(database, &header.vault(), root, &key)
    };
    opened().inspect_err(|error| found(damaged(part, format!("what is in it does not open: {error}")))).ok()
}

/// Checks the owner's space and the side file; what the log has to hold.
fn spaces(
    home: &Path,
    header: &Header,
    system: &System,
    mut keys: SystemKeys,
    found: &mut dyn FnMut(Checked),
) -> Expectations {
    if let Some(key) = keys.locked.take() {
        let whole = locked_log::merge(home, key).is_ok_and(|merged| merged.whole);
        let bytes = std::fs::metadata(home.join(locked_log::NAME)).map_or(0, |found| found.len());
        let state = if whole { Ok(Content::Bytes(bytes)) } else { Err("it is not what was written".to_owned()) };
        found(Checked { part: "the notes of locked times".to_owned(), state });
    }
    let part = "your space";
    let mut opened = || {
        let path = store(&folder(home, &keys.owner.id), keys.owner.epoch);
        let database = open_database(&path, &keys.owner.key, OWNER_MIGRATIONS, false)?;
        check(part, &database, &path, found);
        Ok::<_, Error>(UserData::to_read(
            Arc::new(database),
            data_keys(header.vault(), system, &keys.owner),
            of_owner(home, &keys.owner),
        ))
    };
    let owner =
        opened().inspect_err(|error| found(damaged(part, format!("what is in it does not open: {error}")))).ok();
    if let Some(Err(error)) = owner.as_ref().map(|owner| values(owner, found)) {
        found(damaged("the list of your values", error.to_string()));
    }
    if let Some(owner) = &owner {
        let place = tree_of(home, &keys.owner.id, keys.owner.epoch);
        let mut broken = |path: &str, error: Error| found(damaged(&format!("the file {path}"), error.to_string()));
        match tree::check(owner.database(), owner.keys(), &place, &mut broken) {
            Ok((count, bytes)) => found(intact("your space: files", Content::Values(count, bytes))),
            Err(error) => found(damaged("the list of your files", error.to_string())),
        }
    }
    match memory::check(home, system, (&keys.owner.id, keys.owner.epoch), &keys.owner.key.memory_key()) {
        Ok(Some((count, bytes))) => found(intact("your space: working memory", Content::Values(count, bytes))),
        Ok(None) => {}
        Err(error) => found(damaged("your space: working memory", error.to_string())),
    }
    // A database that does not say what it remembers is damaged, and was named above.
    let kept = [Some(&**system.database()), owner.as_ref().map(UserData::database)];
    let head = newest_kept(kept.into_iter().flatten());
    Expectations { key: keys.log.public().ok(), anchor: head.map(audit::Anchor::Head) }
}

/// Every page of a database.
fn check(part: &str, database: &Database, path: &Path, found: &mut dyn FnMut(Checked)) {
    let bytes = std::fs::metadata(path).map_or(0, |found| found.len());
    let state = database.check().map(|()| Content::Bytes(bytes)).map_err(|error| error.to_string());
    found(Checked { part: format!("{part}: database"), state });
}

/// Every byte of every value.
fn values(owner: &UserData, found: &mut dyn FnMut(Checked)) -> Result<(), Error> {
    let (mut count, mut sum, mut after) = (0, 0, None::<String>);
    let mut piece = Vec::new();
    loop {
        let page = owner.list(None, after.as_deref(), MAX_LIST_ENTRIES)?;
        let Some(last) = page.last() else { break };
        after = Some(last.path.as_str().to_owned());
        for entry in page {
            let mut read = || {
                let mut value = owner.get(&entry.path)?;
                while value.next_chunk(&mut piece)? {}
                Ok::<_, Error>(value.bytes())
            };
            match read() {
                Ok(bytes) => (count, sum) = (count + 1, sum + bytes),
                Err(error) => found(damaged(&format!("the value {}", entry.path), error.to_string())),
            }
        }
    }
    found(intact("your space: values", Content::Values(count, sum)));
    Ok(())
}

fn log(home: &Path, expected: &Expectations, found: &mut dyn FnMut(Checked)) {
    let state = match audit::verify(&home.join("audit"), expected) {
        Ok(report) => Ok(Content::Entries(report.size, report.anchored != Anchored::No)),
        Err(VerifyError::Findings(findings)) => {
            Err(findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        }
        Err(VerifyError::Unreadable(error)) => Err(error.to_string()),
    };
    found(Checked { part: "the audit log".to_owned(), state });
}
