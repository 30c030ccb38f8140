//! The tree: a space's files, with names, as other programs see them through a mount (`docs/spec/tree.md`).
//!
//! What the kernel has looked up is in memory, and so is every folder that was looked into; changes reach the database
//! together, in the order in which they came.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::io::Errno;

use crate::Error;
use crate::data_keys::DataKeys;
use crate::store::{BlockStore, Database, FileId};

mod check;
mod contents;
mod flush;
mod holes;
mod names;
mod renew;
mod row;
#[cfg(test)]
pub(crate) mod tests;

use contents::{Contents, Sealing};
use row::{Kind, NodeRow};

pub(crate) use check::check;
pub(crate) use names::{Named, Taken};
pub(crate) use row::{ROOT, Times, has_files};
pub use row::{RawNode, node};

/// The tree's table: one migration of the space's database.
pub(crate) const TREE_TABLES: &str = row::TABLES;
/// The name of its data key, which no path of a value has.
const KEY_NAME: &str = "./tree";

/// What the kernel is told of an operation that failed.
pub(crate) type Answer<T> = Result<T, Errno>;

/// What belongs to a tree.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) folder: PathBuf,
    pub(crate) space: [u8; 16],
    pub(crate) epoch: u32,
}

/// The files of one space.
#[derive(Debug)]
pub(crate) struct Tree {
    database: Arc<Database>,
    sealing: Sealing,
    state: Mutex<State>,
    /// Files whose content was changed since it was settled. Taken after `state`, never before.
    written: Mutex<HashSet<u64>>,
    /// Held while the contents of all files are synced.
    settling: Mutex<()>,
    /// Held while changes go to the database. Taken before `state`.
    flushing: Mutex<()>,
    ended: AtomicBool,
    damaged: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    nodes: HashMap<u64, Node>,
    /// The folders that were looked into.
    folders: HashMap<u64, BTreeMap<Vec<u8>, u64>>,
    /// Nodes whose rows are to be written.
    dirty: BTreeSet<u64>,
    /// Nodes whose rows are to go.
    removed: BTreeSet<u64>,
    /// Sealed files that no row speaks of once those are.
    garbage: Vec<FileId>,
    /// Whether more than times changed.
    changed: bool,
    next: u64,
}

#[derive(Debug)]
struct Node {
    /// As its row is to be: a file's content is what was synced last.
    row: NodeRow,
    /// A file's content as it is now, if that is in use.
    contents: Option<Arc<Contents>>,
    /// How often the kernel was told of it, and has not forgotten.
    lookups: u64,
    opens: u64,
    /// Which settling its row speaks of.
    settled: u64,
    /// Whether it still has a name.
    linked: bool,
}

/// What a node is, to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    File,
    Folder,
    Link,
}

/// A node's attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) id: u64,
    pub(crate) sort: Sort,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) blocks: u64,
    pub(crate) times: Times,
}

/// What is to be made.
#[derive(Clone, Debug)]
pub(crate) enum New {
    File,
    Folder,
    Link(Vec<u8>),
}

/// What is to be changed of a node.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) accessed: Option<i64>,
    pub(crate) modified: Option<i64>,
    pub(crate) changed: Option<i64>,
}

/// A file that is open.
#[derive(Clone, Debug)]
pub(crate) struct OpenFile {
    id: u64,
    contents: Arc<Contents>,
}

impl Node {
    fn new(row: NodeRow) -> Self {
        Self { row, contents: None, lookups: 0, opens: 0, settled: 0, linked: true }
    }

    fn sort(&self) -> Sort {
        match self.row.kind {
            Kind::File(_) => Sort::File,
            Kind::Folder => Sort::Folder,
            Kind::Link(_) => Sort::Link,
        }
    }

    fn attributes(&self) -> Attributes {
        let (size, blocks) = match &self.row.kind {
            Kind::File(content) => {
                let size = self.contents.as_ref().map_or(content.size, |contents| contents.size());
                (size, if size == content.size { content.blocks().saturating_mul(8) } else { size.div_ceil(512) })
            }
            Kind::Folder => (4096, 8),
            Kind::Link(target) => (target.len() as u64, 0),
        };
        let NodeRow { id, mode, times, .. } = self.row;
        Attributes { id, sort: self.sort(), mode, size, blocks, times }
    }

    /// Its content, ready for use.
    fn contents(&mut self) -> Answer<Arc<Contents>> {
        match &self.row.kind {
            Kind::Folder => Err(Errno::ISDIR),
            Kind::Link(_) => Err(Errno::INVAL),
            Kind::File(content) => {
                let contents = self.contents.get_or_insert_with(|| Arc::new(Contents::new(content.clone())));
                Ok(contents.clone())
            }
        }
    }
}

impl Tree {
    /// Opens the tree of a space, and removes sealed files that a stop left.
    ///
    /// `database` has had [`TREE_TABLES`] among its migrations.
    pub(crate) fn open(database: Arc<Database>, keys: &DataKeys, place: &Place) -> Result<Self, Error> {
        let store = BlockStore::open(&place.folder, place.space)?;
        let key = keys.named(KEY_NAME)?;
        let (known, last) = database.read(|db| Ok((row::files(db)?, row::last(db)?)))?;
        store.sweep(&known)?;
        let sealing = Sealing { store, key, epoch: AtomicU32::new(place.epoch), settled: AtomicU64::new(0) };
        let mut state = State { next: last.max(ROOT).saturating_add(1), ..State::default() };
        match database.read(|db| row::find(db, ROOT))? {
            Some(root) => drop(state.nodes.insert(ROOT, Node::new(root))),
            None => {
                let times = Times { accessed: now_ns(), modified: now_ns(), changed: now_ns() };
                let root = NodeRow { id: ROOT, parent: 0, name: Vec::new(), kind: Kind::Folder, mode: 0o700, times };
                state.nodes.insert(ROOT, Node::new(root));
                state.folders.insert(ROOT, BTreeMap::new());
                state.dirty.insert(ROOT);
            }
        }
        Ok(Self {
            database,
            sealing,
            state: Mutex::new(state),
            written: Mutex::default(),
            settling: Mutex::default(),
            flushing: Mutex::default(),
            ended: AtomicBool::new(false),
            damaged: AtomicU64::new(0),
        })
    }

    /// Nothing is read or written any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// How often something was found damaged.
    pub(crate) fn damaged(&self) -> u64 {
        self.damaged.load(Ordering::Relaxed)
    }

    /// The files that are open.
    pub(crate) fn in_use(&self) -> Vec<u64> {
        self.state().nodes.iter().filter(|(_, node)| node.opens > 0).map(|(id, _)| *id).collect()
    }

    pub(crate) fn attributes(&self, id: u64) -> Answer<Attributes> {
        Ok(self.state().node(id)?.attributes())
    }

    /// The target of a symbolic link.
    pub(crate) fn target(&self, id: u64) -> Answer<Vec<u8>> {
        match &self.state().node(id)?.row.kind {
            Kind::Link(target) => Ok(target.clone()),
            _ => Err(Errno::INVAL),
        }
    }

    /// Opens a file; what it was is gone where `cut`.
    pub(crate) fn open_file(&self, id: u64, cut: bool, room: &mut Vec<u8>) -> Answer<OpenFile> {
        let contents = self.state().use_contents(id)?;
        let open = OpenFile { id, contents };
        let ready = match cut {
            true => self.resize(&open, 0, room),
            false => open.contents.open(&self.sealing).map_err(|error| self.errno(&error)),
        };
        match ready {
            Ok(()) => Ok(open),
            Err(error) => {
                let gone = self.state().node(id).is_ok_and(|node| !node.linked);
                self.close_file(&open);
                Err(if gone { Errno::STALE } else { error })
            }
        }
    }

    /// It is not open any more.
    pub(crate) fn close_file(&self, open: &OpenFile) {
        let mut state = self.state();
        let Ok(node) = state.node_mut(open.id) else { return };
        node.opens = node.opens.saturating_sub(1);
        if node.opens > 0 {
            return;
        }
        open.contents.close();
        if node.linked {
            // One that was written, or is being settled, is let go by whoever settles it.
            let now = open.contents.now();
            let settled = matches!(&node.row.kind, Kind::File(known) if known.is_but_for_counting(&now));
            if settled && !open.contents.is_changed() {
                node.contents = None;
                state.note_content(open.id, now, true);
            }
        } else {
            state.garbage.extend(open.contents.files());
            state.let_go(open.id);
        }
    }

    /// Calls `give` with the bytes from `offset` on, as many as there are of `length`.
    pub(crate) fn read<T>(
        &self,
        open: &OpenFile,
        (offset, length): (u64, usize),
        (out, room): (&mut Vec<u8>, &mut Vec<u8>),
        give: impl FnOnce(&[u8]) -> T,
    ) -> Answer<T> {
        let range = open.contents.read(&self.sealing, (offset, length), out, room);
        let range = range.map_err(|error| self.errno(&error))?;
        Ok(give(out.get(range).unwrap_or_default()))
    }

    pub(crate) fn write(&self, open: &OpenFile, offset: u64, data: &[u8], room: &mut Vec<u8>) -> Answer<()> {
        let written = open.contents.write(&self.sealing, offset, data, room);
        self.note_written(open);
        written.map_err(|error| self.errno(&error))
    }

    /// Changes a node's attributes, and a file's length.
    pub(crate) fn change(
        &self,
        id: u64,
        changes: &Changes,
        open: Option<&OpenFile>,
        room: &mut Vec<u8>,
    ) -> Answer<Attributes> {
        if let Some(size) = changes.size {
            match open {
                Some(open) => self.resize(open, size, room)?,
                None => {
                    let open = self.open_file(id, false, room)?;
                    let resized = self.resize(&open, size, room);
                    self.close_file(&open);
                    resized?;
                }
            }
        }
        let (now, mut state) = (now_ns(), self.state());
        let node = state.node_mut(id)?;
        let times = &mut node.row.times;
        times.accessed = changes.accessed.unwrap_or(times.accessed);
        times.modified = changes.modified.unwrap_or(if changes.size.is_some() { now } else { times.modified });
        times.changed = changes.changed.unwrap_or(now);
        if let Some(mode) = changes.mode {
            node.row.mode = mode & 0o7777;
        }
        let (attributes, linked) = (node.attributes(), node.linked);
        if linked {
            state.dirty.insert(id);
            state.changed |= changes.mode.is_some();
        }
        Ok(attributes)
    }

    fn resize(&self, open: &OpenFile, size: u64, room: &mut Vec<u8>) -> Answer<()> {
        if open.contents.size() == size {
            return Ok(());
        }
        let resized = open.contents.resize(&self.sealing, size, room);
        self.note_written(open);
        resized.map_err(|error| self.errno(&error))
    }

    fn note_written(&self, open: &OpenFile) {
        if open.contents.is_to_be_listed() {
            self.written().insert(open.id);
        }
    }

    /// The kernel knows of nothing any more, and uses nothing.
    pub(crate) fn forget_all(&self) {
        let mut state = self.state();
        state.nodes.values_mut().for_each(|node| node.lookups = 0);
        let gone: Vec<u64> = state.nodes.iter().filter(|(_, node)| !node.linked).map(|(id, _)| *id).collect();
        gone.into_iter().for_each(|id| state.let_go(id));
    }

    /// Bytes that are free, and all, below.
    pub(crate) fn room(&self) -> Answer<rustix::fs::StatVfs> {
        rustix::fs::statvfs(self.sealing.store.folder())
    }

    fn errno(&self, error: &Error) -> Errno {
        match error {
            Error::Full { .. } => Errno::NOSPC,
            Error::Misuse(contents::TOO_LONG_TEXT) => Errno::FBIG,
            _ => {
                if matches!(error, Error::Damaged { .. }) {
                    self.damaged.fetch_add(1, Ordering::Relaxed);
                }
                Errno::IO
            }
        }
    }

    // What a panic interrupted was not acknowledged.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self) -> MutexGuard<'_, HashSet<u64>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn node(&self, id: u64) -> Answer<&Node> {
        self.nodes.get(&id).ok_or(Errno::STALE)
    }

    fn node_mut(&mut self, id: u64) -> Answer<&mut Node> {
        self.nodes.get_mut(&id).ok_or(Errno::STALE)
    }

    /// A file's content, for whoever opens it.
    fn use_contents(&mut self, id: u64) -> Answer<Arc<Contents>> {
        let node = self.node_mut(id)?;
        let contents = node.contents()?;
        node.opens += 1;
        Ok(contents)
    }

    /// Forgets a node without a name that nobody knows or uses any more.
    fn let_go(&mut self, id: u64) {
        if self.nodes.get(&id).is_some_and(|node| !node.linked && node.lookups == 0 && node.opens == 0) {
            self.nodes.remove(&id);
            self.folders.remove(&id);
        }
    }
}

/// Nanoseconds since 1970.
pub(crate) fn now_ns() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
