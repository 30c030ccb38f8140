//! A disk that fails on purpose: a file system in memory that knows what was synced and what was only written.
//!
//! What survives a power cut is what POSIX promises and no more: a file's bytes as of its last `fsync`, a folder's names
//! as of its own. What was written since may be there, or not, or in part: sector by sector within a file, name by name
//! in the order of the calls within a folder. After a failed `fsync` the bytes that it spoke of are lost although they can
//! still be read, as on Linux.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{BackgroundSession, Config, Errno, FileAttr, FileType, INodeNo, MountOption};
use served::Served;

mod served;
pub(crate) mod sweep;

const SECTOR: usize = 512;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// From this call on nothing reaches the disk: the machine stopped. The call itself may have.
    Stop,
    /// This call and every later one that needs room: no space.
    Full,
    /// This call fails: no space.
    NoSpace,
    /// This call fails: input/output error.
    Broken,
}

/// What is left of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Kept,
    Lost,
    Torn,
}

/// Numbers that come again from the same seed (xorshift64*).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }
}

/// A folder with everything in it, or a file.
#[derive(Clone)]
pub(crate) enum Tree {
    Folder(BTreeMap<OsString, Tree>, u16),
    File(Vec<u8>, u16),
}

#[derive(Default)]
struct Contents {
    data: Vec<u8>,
    synced: Vec<u8>,
    dirty: BTreeSet<usize>,
    /// Sectors of a failed sync: readable, and never on the disk unless they are written again.
    doomed: BTreeSet<usize>,
    /// SQLite's shared memory: no promise depends on it.
    is_scratch: bool,
}

impl Contents {
    fn resize(&mut self, bytes: usize) {
        let (from, to) = (bytes.min(self.data.len()), bytes.max(self.data.len()));
        self.dirty.extend(from / SECTOR..to.div_ceil(SECTOR));
        self.data.resize(bytes, 0);
    }

    fn write(&mut self, at: usize, bytes: &[u8]) {
        if self.data.len() < at + bytes.len() {
            self.resize(at + bytes.len());
        }
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        for sector in at / SECTOR..(at + bytes.len()).div_ceil(SECTOR) {
            self.dirty.insert(sector);
            self.doomed.remove(&sector);
        }
    }

    fn take(&mut self, sector: usize) {
        let range = sector * SECTOR..((sector + 1) * SECTOR).min(self.data.len());
        if self.synced.len() < range.end {
            self.synced.resize(range.end, 0);
        }
        if !range.is_empty() {
            self.synced[range.clone()].copy_from_slice(&self.data[range]);
        }
    }

    fn sync(&mut self) {
        for sector in std::mem::take(&mut self.dirty) {
            if !self.doomed.contains(&sector) {
                self.take(sector);
            }
        }
        self.synced.resize(self.data.len(), 0);
    }

    fn fail_to_sync(&mut self) {
        self.doomed.append(&mut self.dirty);
    }

    fn after(&self, unsynced: Unsynced, numbers: &mut Numbers) -> Vec<u8> {
        let mut left = Contents { data: self.data.clone(), synced: self.synced.clone(), ..Contents::default() };
        let mut bytes = self.synced.len();
        for sector in &self.dirty {
            let kept = match unsynced {
                Unsynced::Kept => true,
                Unsynced::Lost => false,
                Unsynced::Torn => numbers.below(2) == 0,
            };
            if kept && !self.doomed.contains(sector) {
                left.take(*sector);
            }
        }
        let whole = match unsynced {
            Unsynced::Kept => true,
            Unsynced::Lost => false,
            Unsynced::Torn => numbers.below(2) == 0,
        };
        if whole {
            bytes = self.data.len();
        }
        left.synced.resize(bytes, 0);
        left.synced
    }
}

/// How names were before a call that is not synced.
type Undo = Vec<(OsString, Option<u64>)>;

enum Body {
    Folder {
        names: BTreeMap<OsString, u64>,
        undo: Vec<Undo>,
    },
    File(Contents),
    /// Gone with the machine, and no change that a promise depends on.
    Socket,
}

impl Body {
    fn kind(&self) -> FileType {
        match self {
            Self::Folder { .. } => FileType::Directory,
            Self::File(_) => FileType::RegularFile,
            Self::Socket => FileType::Socket,
        }
    }
}

struct Node {
    body: Body,
    mode: u16,
}

struct State {
    nodes: BTreeMap<u64, Node>,
    next: u64,
    /// Calls that change something, since the plan was made.
    calls: u64,
    plan: Option<(u64, Fault)>,
    struck: bool,
    stopped: bool,
    full: bool,
}

/// What a call does when its turn to fail has come.
enum Fate {
    Goes,
    /// It reaches the disk, and the machine stops.
    GoesLast,
    Fails(Errno),
}

impl State {
    fn add(&mut self, body: Body, mode: u16) -> u64 {
        self.next += 1;
        self.nodes.insert(self.next, Node { body, mode });
        self.next
    }

    /// Frees what no folder holds any more. The kernel may still ask for it, and is told that it is gone.
    fn forget_old(&mut self) {
        let mut live = BTreeSet::new();
        let mut open = vec![INodeNo::ROOT.0];
        while let Some(node) = open.pop() {
            live.insert(node);
            if let Body::Folder { names, .. } = &self.nodes[&node].body {
                open.extend(names.values());
            }
        }
        self.nodes.retain(|node, _| live.contains(node));
    }

    fn grow(&mut self, tree: &Tree) -> u64 {
        match tree {
            Tree::File(bytes, mode) => {
                let contents = Contents { data: bytes.clone(), synced: bytes.clone(), ..Contents::default() };
                self.add(Body::File(contents), *mode)
            }
            Tree::Folder(entries, mode) => {
                let names = entries.iter().map(|(name, tree)| (name.clone(), self.grow(tree))).collect();
                self.add(Body::Folder { names, undo: Vec::new() }, *mode)
            }
        }
    }

    fn left(&self, node: u64, unsynced: Unsynced, numbers: &mut Numbers) -> Option<Tree> {
        let node = &self.nodes[&node];
        match &node.body {
            Body::Socket => None,
            Body::File(contents) => Some(Tree::File(contents.after(unsynced, numbers), node.mode)),
            Body::Folder { names, undo } => {
                let mut names = names.clone();
                let kept = match unsynced {
                    Unsynced::Kept => undo.len(),
                    Unsynced::Lost => 0,
                    Unsynced::Torn => numbers.below(undo.len() + 1),
                };
                for (name, before) in undo[kept..].iter().rev().flatten() {
                    match before {
                        Some(node) => drop(names.insert(name.clone(), *node)),
                        None => drop(names.remove(name)),
                    }
                }
                let entries = names.iter();
                let entries =
                    entries.filter_map(|(name, node)| Some((name.clone(), self.left(*node, unsynced, numbers)?)));
                Some(Tree::Folder(entries.collect(), node.mode))
            }
        }
    }

    /// Decides about one call that changes something.
    fn call(&mut self, needs_room: bool) -> Fate {
        if self.stopped {
            return Fate::Fails(Errno::EIO);
        }
        self.calls += 1;
        if self.full && needs_room {
            return Fate::Fails(Errno::ENOSPC);
        }
        match self.plan {
            Some((at, fault)) if at == self.calls => {
                self.struck = true;
                match fault {
                    Fault::Stop => {
                        self.stopped = true;
                        if at % 2 == 0 { Fate::GoesLast } else { Fate::Fails(Errno::EIO) }
                    }
                    Fault::Full => {
                        self.full = true;
                        if needs_room { Fate::Fails(Errno::ENOSPC) } else { Fate::Goes }
                    }
                    Fault::NoSpace if needs_room => Fate::Fails(Errno::ENOSPC),
                    Fault::NoSpace => Fate::Goes,
                    Fault::Broken => Fate::Fails(Errno::EIO),
                }
            }
            _ => Fate::Goes,
        }
    }

    fn names(&mut self, folder: INodeNo) -> Result<(&mut BTreeMap<OsString, u64>, &mut Vec<Undo>), Errno> {
        match self.nodes.get_mut(&folder.0).map(|node| &mut node.body) {
            Some(Body::Folder { names, undo }) => Ok((names, undo)),
            Some(_) => Err(Errno::ENOTDIR),
            None => Err(Errno::ENOENT),
        }
    }

    fn file(&mut self, node: INodeNo) -> Result<&mut Contents, Errno> {
        match self.nodes.get_mut(&node.0).map(|node| &mut node.body) {
            Some(Body::File(contents)) => Ok(contents),
            Some(Body::Folder { .. }) => Err(Errno::EISDIR),
            Some(Body::Socket) => Err(Errno::ENXIO),
            None => Err(Errno::ENOENT),
        }
    }

    fn is_scratch(&mut self, node: INodeNo) -> bool {
        self.file(node).is_ok_and(|contents| contents.is_scratch)
    }

    fn attributes(&self, number: u64) -> Result<FileAttr, Errno> {
        let node = self.nodes.get(&number).ok_or(Errno::ENOENT)?;
        let (kind, size) = match &node.body {
            Body::File(contents) => (FileType::RegularFile, contents.data.len() as u64),
            other => (other.kind(), 0),
        };
        let time = UNIX_EPOCH + Duration::from_secs(1);
        Ok(FileAttr {
            ino: INodeNo(number),
            size,
            blocks: size.div_ceil(512),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: node.mode,
            nlink: 1,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    fn insert(&mut self, folder: INodeNo, name: &OsStr, body: Body, mode: u32) -> Result<u64, Errno> {
        if self.names(folder)?.0.contains_key(name) {
            return Err(Errno::EEXIST);
        }
        let node = self.add(body, (mode & 0o7777) as u16);
        let (names, undo) = self.names(folder)?;
        names.insert(name.to_owned(), node);
        undo.push(vec![(name.to_owned(), None)]);
        Ok(node)
    }

    fn remove(&mut self, folder: INodeNo, name: &OsStr) -> Result<(), Errno> {
        let (names, undo) = self.names(folder)?;
        let node = names.remove(name).ok_or(Errno::ENOENT)?;
        undo.push(vec![(name.to_owned(), Some(node))]);
        Ok(())
    }

    fn is_empty_folder(&mut self, folder: INodeNo, name: &OsStr) -> Result<bool, Errno> {
        let node = *self.names(folder)?.0.get(name).ok_or(Errno::ENOENT)?;
        Ok(self.names(INodeNo(node))?.0.is_empty())
    }
}

/// The disk, mounted.
pub(crate) struct Disk {
    state: Arc<Mutex<State>>,
    _mounted: BackgroundSession,
}

impl Disk {
    /// Mounts an empty disk, or says why this machine does not.
    pub(crate) fn mount(at: &Path) -> Result<Self, String> {
        let root = Node { body: Body::Folder { names: BTreeMap::new(), undo: Vec::new() }, mode: 0o755 };
        let nodes = BTreeMap::from([(INodeNo::ROOT.0, root)]);
        let state = State { nodes, next: 1, calls: 0, plan: None, struck: false, stopped: false, full: false };
        let state = Arc::new(Mutex::new(state));
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::FSName("aico-crash".to_owned()), MountOption::NoSuid, MountOption::NoDev];
        let mounted = fuser::spawn_mount(Served(state.clone()), at, &config);
        Ok(Self { state, _mounted: mounted.map_err(|error| error.to_string())? })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Puts a folder onto the disk, synced; what was there before is forgotten. Everything works until a fault is planned.
    pub(crate) fn put(&self, name: &str, tree: &Tree) {
        let mut state = self.state();
        let node = state.grow(tree);
        let (names, undo) = state.names(INodeNo::ROOT).unwrap();
        names.clear();
        names.insert(name.into(), node);
        undo.clear();
        state.forget_old();
        (state.plan, state.stopped, state.full, state.struck, state.calls) = (None, false, false, false, 0);
    }

    /// Plans `fault` for the `at`-th call from now.
    pub(crate) fn plan(&self, at: u64, fault: Fault) {
        let mut state = self.state();
        (state.plan, state.calls) = (Some((at, fault)), 0);
    }

    /// The disk works again. Whether the fault came, and how many calls there were.
    pub(crate) fn heal(&self) -> (bool, u64) {
        let mut state = self.state();
        (state.plan, state.full) = (None, false);
        (state.struck, state.calls)
    }

    /// The folder `name` as the next start of the machine finds it.
    pub(crate) fn after(&self, name: &str, unsynced: Unsynced, numbers: &mut Numbers) -> Tree {
        let mut state = self.state();
        let node = state.names(INodeNo::ROOT).unwrap().0[OsStr::new(name)];
        state.left(node, unsynced, numbers).unwrap()
    }
}
