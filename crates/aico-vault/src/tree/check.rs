//! Reading and authenticating every block of the tree.

use aico_crypto::BLOCK_BYTES;

use super::contents::{Content, Contents, Sealing};
use super::row::{self, Kind, NodeRow};
use super::{KEY_NAME, Place};
use crate::Error;
use crate::data_keys::DataKeys;
use crate::store::{BlockStore, Database};

/// Bytes that are read at a time.
const AT_ONCE: usize = 256 * BLOCK_BYTES;

/// Tells `found` of every damaged file, by its path; the number of whole ones and the sum of their sizes. Nothing is changed.
pub(crate) fn check(
    database: &Database,
    keys: &DataKeys,
    place: &Place,
    found: &mut dyn FnMut(&str, Error),
) -> Result<(u64, u64), Error> {
    let Some(key) = keys.find_named(KEY_NAME)? else { return Ok((0, 0)) };
    let sealing = Sealing {
        store: BlockStore::at(&place.folder, place.space),
        key,
        epoch: place.epoch.into(),
        settled: 0.into(),
    };
    let (mut count, mut sum, mut after) = (0, 0, 0);
    while let Some(row) = database.read(|db| row::next(db, after))? {
        after = row.id;
        let Kind::File(content) = &row.kind else { continue };
        match read_all(&sealing, content) {
            Ok(()) => (count, sum) = (count + 1, sum + content.size),
            Err(error) => found(&path(database, &row), error),
        }
    }
    Ok((count, sum))
}

fn read_all(sealing: &Sealing, content: &Content) -> Result<(), Error> {
    let contents = Contents::new(content.clone());
    let (mut at, mut out, mut room) = (0, Vec::new(), Vec::new());
    while at < content.size {
        contents.read(sealing, (at, AT_ONCE), &mut out, &mut room)?;
        at += AT_ONCE as u64;
    }
    Ok(())
}

/// A node's path, as far as it is known.
fn path(database: &Database, row: &NodeRow) -> String {
    let mut parts = vec![row.name.clone()];
    let mut at = row.parent;
    while at > row::ROOT && parts.len() < 256 {
        let Ok(Some(above)) = database.read(|db| row::find(db, at)) else { break };
        at = above.parent;
        parts.push(above.name);
    }
    let parts = parts.iter().rev().map(|part| String::from_utf8_lossy(part));
    parts.collect::<Vec<_>>().join("/")
}
