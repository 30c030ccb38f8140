//! Changes on their way to the disk (`docs/spec/tree.md`, Durability).

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use super::contents::{Content, Contents, Settled};
use super::row::{self, Kind, NodeRow};
use super::{Answer, Node, OpenFile, State, Tree};
use crate::Error;
use crate::store::FileId;

/// Nodes in memory from which on folders that nobody uses are let go.
const MANY_NODES: usize = 1 << 18;
/// Writes of blocks that a row need not know of while the file is in use.
const UNCOUNTED: u64 = 1 << 20;

impl Tree {
    /// A file is on disk when this returns, and everything of names before it; its times as well unless `only_data`.
    pub(crate) fn sync(&self, open: &OpenFile, only_data: bool) -> Answer<()> {
        let turn = open.contents.turn();
        if !open.contents.is_changed() {
            // Perhaps all files are being synced, and this one is not yet.
            drop(self.settling.lock().unwrap_or_else(PoisonError::into_inner));
        }
        if open.contents.is_changed() {
            self.written().remove(&open.id);
            let settled = open.contents.settle(&self.sealing);
            if let Err(error) = open.contents.sync(&self.sealing) {
                self.unsettle(open.id, &open.contents, settled);
                return Err(self.errno(&error));
            }
            self.state().settle(open.id, settled);
        }
        drop(turn);
        if only_data && !self.state().changed {
            // What others are writing may be ours.
            drop(self.flushing.lock().unwrap_or_else(PoisonError::into_inner));
            return Ok(());
        }
        self.flush().map_err(|error| self.errno(&error))
    }

    /// Names are on disk when this returns.
    pub(crate) fn sync_names(&self) -> Answer<()> {
        self.flush().map_err(|error| self.errno(&error))
    }

    /// Brings everything to disk.
    pub(crate) fn sync_all(&self) -> Result<(), Error> {
        self.settle_all()?;
        self.flush()
    }

    /// Writes what changed into the database, in one transaction.
    pub(crate) fn flush(&self) -> Result<(), Error> {
        let _one_at_a_time = self.flushing.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = self.state().take_changes();
        if !(taken.rows.is_empty() && taken.removed.is_empty()) {
            let written = self.database.write(|tx| row::put(tx, &taken.removed, &taken.rows));
            if let Err(error) = written {
                self.state().give_back(taken);
                return Err(error);
            }
        }
        // What stays is swept at the next opening.
        taken.garbage.iter().for_each(|file| drop(self.sealing.store.remove(file)));
        for (contents, size) in self.state().cut(&taken.rows) {
            contents.trim(size);
        }
        Ok(())
    }

    /// What the clock does: `contents` too, less often.
    pub(crate) fn tick(&self, contents: bool) -> Result<(), Error> {
        if contents {
            self.settle_all()?;
        }
        self.flush()?;
        let mut state = self.state();
        if state.nodes.len() > MANY_NODES && state.dirty.is_empty() && state.removed.is_empty() {
            state.let_folders_go();
        }
        Ok(())
    }

    /// Syncs the contents of all files, so that their rows may speak of them.
    pub(super) fn settle_all(&self) -> Result<(), Error> {
        let _others_wait = self.settling.lock().unwrap_or_else(PoisonError::into_inner);
        let ids: Vec<u64> = self.written().drain().collect();
        if ids.is_empty() {
            return Ok(());
        }
        let contents = |id: &u64| self.state().nodes.get(id).and_then(|node| Some((*id, node.contents.clone()?)));
        let all: Vec<(u64, Arc<Contents>)> = ids.iter().filter_map(contents).collect();
        let settled: Vec<_> =
            all.into_iter().map(|(id, contents)| (id, contents.settle(&self.sealing), contents)).collect();
        let synced = self.sealing.store.sync();
        if let Err(error) = synced {
            settled.into_iter().for_each(|(id, settled, contents)| self.unsettle(id, &contents, settled));
            return Err(error);
        }
        let mut state = self.state();
        settled.into_iter().for_each(|(id, settled, _)| state.settle(id, settled));
        Ok(())
    }

    fn unsettle(&self, id: u64, contents: &Contents, settled: Settled) {
        contents.unsettle(settled);
        self.written().insert(id);
    }
}

/// What goes to the database at once.
struct Taken {
    rows: Vec<NodeRow>,
    removed: BTreeSet<u64>,
    garbage: Vec<FileId>,
    changed: bool,
}

impl State {
    /// A row may say this of a file now.
    pub(super) fn settle(&mut self, id: u64, settled: Settled) {
        self.garbage.extend(settled.retired);
        let Some(node) = self.nodes.get_mut(&id).filter(|node| node.linked) else { return };
        if node.settled > settled.number {
            // A later one was quicker.
            return;
        }
        node.settled = settled.number;
        let idle = node.opens == 0 && node.contents.as_ref().is_some_and(|contents| !contents.is_changed());
        if idle {
            node.contents = None;
        }
        self.note_content(id, settled.content, idle);
    }

    /// The same. How often blocks were written is not worth a transaction of its own while the file is in use.
    pub(super) fn note_content(&mut self, id: u64, content: Content, exactly: bool) {
        let Some(Kind::File(known)) = self.nodes.get_mut(&id).map(|node| &mut node.row.kind) else { return };
        let only_counted = known.is_but_for_counting(&content);
        if only_counted && !exactly && content.sealed.saturating_sub(known.sealed) < UNCOUNTED {
            return;
        }
        if *known != content {
            *known = content;
            self.dirty.insert(id);
            self.changed |= !only_counted;
        }
    }

    fn take_changes(&mut self) -> Taken {
        let dirty = std::mem::take(&mut self.dirty);
        let rows = dirty.iter().filter_map(|id| self.nodes.get(id)).filter(|node| node.linked);
        Taken {
            rows: rows.map(|node| node.row.clone()).collect(),
            removed: std::mem::take(&mut self.removed),
            garbage: std::mem::take(&mut self.garbage),
            changed: std::mem::take(&mut self.changed),
        }
    }

    /// It was not written: it goes with what has changed since.
    fn give_back(&mut self, taken: Taken) {
        self.dirty.extend(taken.rows.iter().map(|row| row.id).filter(|id| !self.removed.contains(id)));
        self.removed.extend(taken.removed);
        self.garbage.extend(taken.garbage);
        self.changed |= taken.changed;
    }

    /// Files in use whose rows are these, and the sizes that they say.
    fn cut(&self, rows: &[NodeRow]) -> Vec<(Arc<Contents>, u64)> {
        let in_use = |row: &NodeRow| match &row.kind {
            Kind::File(content) => Some((self.nodes.get(&row.id)?.contents.clone()?, content.size)),
            _ => None,
        };
        rows.iter().filter_map(in_use).collect()
    }

    /// Lets go of folders of which the kernel knows nothing; they are read again when they are needed.
    pub(super) fn let_folders_go(&mut self) {
        let unused = |node: &Node| node.lookups == 0 && node.opens == 0 && node.contents.is_none();
        let idle: Vec<u64> = self
            .folders
            .iter()
            .filter(|(_, names)| {
                let children = || names.values();
                children().all(|id| !self.folders.contains_key(id) && self.nodes.get(id).is_none_or(unused))
            })
            .map(|(id, _)| *id)
            .collect();
        for id in idle {
            for child in self.folders.remove(&id).unwrap_or_default().into_values() {
                self.nodes.remove(&child);
            }
        }
    }
}
