//! The disk as the kernel asks for it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyStatfs, ReplyWrite, Request,
    TimeOrNow, WriteFlags,
};

use super::{Body, Contents, Fate, State};

/// Nothing changes behind the kernel's back but what a new folder brings.
const TTL: Duration = Duration::from_secs(1);

pub(super) struct Served(pub(super) Arc<Mutex<State>>);

impl Served {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// One call that changes something, if its fate lets it.
    fn change<T>(&self, needs_room: bool, change: impl FnOnce(&mut State) -> Result<T, Errno>) -> Result<T, Errno> {
        let mut state = self.state();
        match state.call(needs_room) {
            Fate::Goes => change(&mut state),
            Fate::GoesLast => {
                let _unheard = change(&mut state);
                Err(Errno::EIO)
            }
            Fate::Fails(error) => Err(error),
        }
    }

    fn change_file<T>(
        &self,
        node: INodeNo,
        needs_room: bool,
        change: impl FnOnce(&mut Contents) -> T,
    ) -> Result<T, Errno> {
        if self.state().is_scratch(node) {
            return self.state().file(node).map(change);
        }
        self.change(needs_room, |state| state.file(node).map(change))
    }
}

fn empty(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let mut state = self.state();
        let found = state.names(parent).and_then(|(names, _)| names.get(name).copied().ok_or(Errno::ENOENT));
        match found.and_then(|node| state.attributes(node)) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn getattr(&self, _: &Request, node: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.state().attributes(node.0) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn setattr(
        &self,
        _: &Request,
        node: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let sized = size.map_or(Ok(()), |size| self.change_file(node, false, |file| file.resize(size as usize)));
        let mut state = self.state();
        if let (Some(mode), Some(node)) = (mode, state.nodes.get_mut(&node.0)) {
            node.mode = (mode & 0o7777) as u16;
        }
        match sized.and_then(|()| state.attributes(node.0)) {
            Ok(attributes) => reply.attr(&TTL, &attributes),
            Err(error) => reply.error(error),
        }
    }

    fn mknod(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: u32, reply: ReplyEntry) {
        if mode & 0o170_000 != 0o140_000 {
            return reply.error(Errno::ENOSYS);
        }
        let mut state = self.state();
        let made = state.insert(parent, name, Body::Socket, mode & !umask);
        match made.and_then(|node| state.attributes(node)) {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let made = self.change(true, |state| {
            let body = Body::Folder { names: BTreeMap::new(), undo: Vec::new() };
            let node = state.insert(parent, name, body, mode & !umask)?;
            state.attributes(node)
        });
        match made {
            Ok(attributes) => reply.entry(&TTL, &attributes, Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        let is_scratch = name.to_string_lossy().ends_with("-shm");
        let make = |state: &mut State| {
            let body = Body::File(Contents { is_scratch, ..Contents::default() });
            let node = state.insert(parent, name, body, mode & !umask)?;
            state.attributes(node)
        };
        let made = if is_scratch { make(&mut self.state()) } else { self.change(true, make) };
        match made {
            Ok(attributes) => {
                reply.created(&TTL, &attributes, Generation(0), FileHandle(0), FopenFlags::empty());
            }
            Err(error) => reply.error(error),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(self.change(false, |state| state.remove(parent, name)), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let removed = self.change(false, |state| match state.is_empty_folder(parent, name)? {
            true => state.remove(parent, name),
            false => Err(Errno::ENOTEMPTY),
        });
        empty(removed, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        assert_eq!(parent, new_parent, "the vault renames within a folder only");
        let renamed = self.change(true, |state| {
            let (names, undo) = state.names(parent)?;
            let node = names.remove(name).ok_or(Errno::ENOENT)?;
            let replaced = names.insert(new_name.to_owned(), node);
            undo.push(vec![(name.to_owned(), Some(node)), (new_name.to_owned(), replaced)]);
            Ok(())
        });
        empty(renamed, reply);
    }

    fn read(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.state().file(node) {
            Ok(contents) => {
                let start = (offset as usize).min(contents.data.len());
                let end = (start + size as usize).min(contents.data.len());
                reply.data(&contents.data[start..end]);
            }
            Err(error) => reply.error(error),
        }
    }

    fn write(
        &self,
        _: &Request,
        node: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.change_file(node, true, |file| file.write(offset as usize, data)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let synced = self.change_file(node, true, Contents::sync);
        if synced.is_err()
            && let Ok(file) = self.state().file(node)
        {
            file.fail_to_sync();
        }
        empty(synced, reply);
    }

    fn fsyncdir(&self, _: &Request, node: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        empty(self.change(false, |state| state.names(node).map(|(_, undo)| undo.clear())), reply);
    }

    fn fallocate(&self, _: &Request, _: INodeNo, _: FileHandle, _: u64, _: u64, _: i32, reply: ReplyEmpty) {
        // Room behind the end: nothing that can be seen.
        empty(self.change(true, |_| Ok(())), reply);
    }

    fn readdir(&self, _: &Request, node: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let mut state = self.state();
        let names: Vec<_> = match state.names(node) {
            Ok((names, _)) => names.iter().map(|(name, node)| (name.clone(), *node)).collect(),
            Err(error) => return reply.error(error),
        };
        for (at, (name, number)) in names.iter().enumerate().skip(offset as usize) {
            let kind = state.nodes[number].body.kind();
            if reply.add(INodeNo(*number), at as u64 + 1, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 20, 1 << 19, 1 << 19, 1 << 20, 1 << 19, 4096, 255, 4096);
    }
}
