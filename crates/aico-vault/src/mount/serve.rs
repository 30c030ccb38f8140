//! The kernel's requests, answered from a tree.

use std::collections::HashMap;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use rustix::io::Errno;

use super::wire::{self, Body, MAX_WRITE, Op, Out, Request};
use super::{Looks, Sums};
use crate::tree::{Answer, Changes, Named, New, OpenFile, ROOT, Sort, Taken, Tree};

/// How far a mount goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) until: Instant,
    /// Read and written together.
    pub(super) bytes: u64,
}

/// What the threads of a mount share.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) tree: Arc<Tree>,
    pub(super) device: OwnedFd,
    pub(super) looks: Looks,
    pub(super) bounds: Bounds,
    /// Nothing is answered any more but that it is over.
    pub(super) over: AtomicBool,
    files: RwLock<HashMap<u64, OpenFile>>,
    folders: Mutex<HashMap<u64, Arc<Vec<Named>>>>,
    handles: AtomicU64,
    opened: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
}

/// What a thread works with.
#[derive(Debug, Default)]
pub(super) struct Room {
    out: Out,
    plain: Vec<u8>,
    sealed: Vec<u8>,
}

/// How a request was answered.
enum Done {
    /// By what is in [`Room::out`].
    Out,
    /// Already, or it wants no answer.
    Said,
}

impl Served {
    pub(super) fn new(tree: Arc<Tree>, device: OwnedFd, looks: Looks, bounds: Bounds) -> Self {
        Self {
            tree,
            device,
            looks,
            bounds,
            over: AtomicBool::new(false),
            files: RwLock::default(),
            folders: Mutex::default(),
            handles: AtomicU64::new(1),
            opened: AtomicU64::new(0),
            read: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    pub(super) fn sums(&self) -> Sums {
        let of = |sum: &AtomicU64| sum.load(Ordering::Relaxed);
        let (files, read, written) = (of(&self.opened), of(&self.read), of(&self.written));
        Sums { files, read, written, damaged: self.tree.damaged() }
    }

    pub(super) fn is_over(&self) -> bool {
        let moved = || self.read.load(Ordering::Relaxed).saturating_add(self.written.load(Ordering::Relaxed));
        self.over.load(Ordering::Acquire)
            || self.tree.is_ended()
            || moved() > self.bounds.bytes
            || Instant::now() >= self.bounds.until
    }

    /// Answers one message of the kernel; false when it was the last one.
    pub(super) fn answer(&self, message: &[u8], room: &mut Room) -> bool {
        // The kernel makes whole messages; whatever else comes is not from it.
        let Ok(request) = Request::parse(message) else { return false };
        let unique = request.unique;
        if request.op == Some(Op::Destroy) {
            self.say(unique, &[]);
            return false;
        }
        room.out.clear();
        match self.act(request, room) {
            Ok(Done::Out) => self.say(unique, room.out.bytes()),
            Ok(Done::Said) => {}
            Err(error) => self.send(&[IoSlice::new(&wire::header(0, -error.raw_os_error(), unique))]),
        }
        true
    }

    pub(super) fn say(&self, unique: u64, body: &[u8]) {
        self.send(&[IoSlice::new(&wire::header(body.len(), 0, unique)), IoSlice::new(body)]);
    }

    /// A message that answers nothing.
    pub(super) fn notify(&self, code: i32, body: &[u8]) {
        self.send(&[IoSlice::new(&wire::header(body.len(), code, 0)), IoSlice::new(body)]);
    }

    fn send(&self, parts: &[IoSlice<'_>]) {
        // Whoever asked may have gone: the kernel then takes no answer.
        let _gone = rustix::io::writev(&self.device, parts);
    }

    fn act(&self, request: Request<'_>, room: &mut Room) -> Answer<Done> {
        let Request { op, unique, node, mut body } = request;
        let op = op.ok_or(Errno::NOSYS)?;
        match op {
            Op::Forget => {
                self.tree.forget(node, body.u64()?);
                return Ok(Done::Said);
            }
            Op::BatchForget => return self.forget_many(body),
            Op::Interrupt => return Ok(Done::Said),
            Op::Release => return self.release(body),
            Op::Releasedir => {
                self.lock_folders().remove(&body.u64()?);
                return Ok(Done::Out);
            }
            _ if self.is_over() => return Err(Errno::IO),
            _ if op.changes() && self.looks.read_only => return Err(Errno::ROFS),
            _ => {}
        }
        let owner = (self.looks.user, self.looks.group);
        match op {
            Op::Lookup => match self.tree.look_up(node, body.text()?) {
                Ok(told) => room.out.entry(&told, owner),
                Err(Errno::NOENT) => room.out.no_entry(),
                Err(error) => return Err(error),
            },
            Op::Getattr => room.out.attr(&self.tree.attributes(node)?, owner),
            Op::Setattr => return self.set(node, body, room),
            Op::Readlink => drop(room.out.put(&self.tree.target(node)?)),
            Op::Symlink => {
                let (name, target) = (body.text()?, body.text()?);
                room.out.entry(&self.tree.make(node, name, New::Link(target.to_vec()), 0o777)?, owner);
            }
            Op::Mknod => {
                let mode = body.u32()?;
                body.skip(12)?;
                if mode & 0o170_000 != 0o100_000 {
                    return Err(Errno::PERM);
                }
                room.out.entry(&self.tree.make(node, body.text()?, New::File, mode)?, owner);
            }
            Op::Mkdir => {
                let mode = body.u32()?;
                body.skip(4)?;
                room.out.entry(&self.tree.make(node, body.text()?, New::Folder, mode)?, owner);
            }
            Op::Unlink => self.tree.remove(node, body.text()?, false)?,
            Op::Rmdir => self.tree.remove(node, body.text()?, true)?,
            Op::Rename | Op::Rename2 => self.rename(op, node, body)?,
            Op::Create => {
                let (_flags, mode) = (body.u32()?, body.u32()?);
                body.skip(8)?;
                let (told, open) = self.tree.create(node, body.text()?, mode)?;
                room.out.entry(&told, owner);
                room.out.opened(self.keep(open), false);
            }
            Op::Open => {
                let flags = body.u32()?;
                let cut = flags & how::TRUNC != 0;
                if self.looks.read_only && (cut || flags & how::ACCESS != 0) {
                    return Err(Errno::ROFS);
                }
                let open = self.tree.open_file(node, cut, &mut room.sealed)?;
                room.out.opened(self.keep(open), false);
            }
            Op::Read => return self.read(unique, body, room),
            Op::Write => {
                let (handle, offset, size) = (body.u64()?, body.u64()?, body.u32()?);
                body.skip(20)?;
                let data = body.rest().get(..size as usize).ok_or(Errno::INVAL)?;
                self.tree.write(&self.file(handle)?, offset, data, &mut room.sealed)?;
                self.written.fetch_add(u64::from(size), Ordering::Relaxed);
                room.out.u32(size).u32(0);
            }
            Op::Statfs => self.statfs(room)?,
            Op::Fsync => {
                let (handle, flags) = (body.u64()?, body.u32()?);
                self.tree.sync(&self.file(handle)?, flags & 1 != 0)?;
            }
            Op::Fsyncdir => self.tree.sync_names()?,
            Op::Opendir => {
                // The names are taken when they are first read.
                let handle = self.handles.fetch_add(1, Ordering::Relaxed);
                room.out.opened(handle, true);
            }
            Op::Readdir | Op::Readdirplus => self.list(node, op == Op::Readdirplus, body, room)?,
            Op::Forget | Op::BatchForget | Op::Interrupt | Op::Release | Op::Releasedir => {}
            Op::Init | Op::Destroy => return Err(Errno::INVAL),
        }
        Ok(Done::Out)
    }

    fn forget_many(&self, mut body: Body<'_>) -> Answer<Done> {
        let count = body.u32()?;
        body.skip(4)?;
        for _ in 0..count {
            self.tree.forget(body.u64()?, body.u64()?);
        }
        Ok(Done::Said)
    }

    fn set(&self, node: u64, mut body: Body<'_>, room: &mut Room) -> Answer<Done> {
        let valid = body.u32()?;
        body.skip(4)?;
        let (handle, size, _lock) = (body.u64()?, body.u64()?, body.u64()?);
        let (accessed, modified, changed) = (body.u64()?, body.u64()?, body.u64()?);
        let (accessed_ns, modified_ns, changed_ns) = (body.u32()?, body.u32()?, body.u32()?);
        let (mode, _unused, user, group) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
        let has = |bit: u32| valid & 1 << bit != 0;
        // Everything here is its user's, and stays so.
        if has(1) && user != self.looks.user || has(2) && group != self.looks.group {
            return Err(Errno::PERM);
        }
        let now = |bit| has(bit).then(crate::tree::now_ns);
        let changes = Changes {
            mode: has(0).then_some(mode),
            size: has(3).then_some(size),
            accessed: now(7).or_else(|| has(4).then(|| wire::moment(accessed, accessed_ns))),
            modified: now(8).or_else(|| has(5).then(|| wire::moment(modified, modified_ns))),
            changed: has(10).then(|| wire::moment(changed, changed_ns)),
        };
        let open = if has(6) { Some(self.file(handle)?) } else { None };
        let told = self.tree.change(node, &changes, open.as_ref(), &mut room.sealed)?;
        room.out.attr(&told, (self.looks.user, self.looks.group));
        Ok(Done::Out)
    }

    fn rename(&self, op: Op, node: u64, mut body: Body<'_>) -> Answer<()> {
        let folder = body.u64()?;
        let taken = match (op, op == Op::Rename2) {
            (_, false) => Taken::Replace,
            (_, true) => {
                let flags = body.u32()?;
                body.skip(4)?;
                match flags {
                    0 => Taken::Replace,
                    1 => Taken::Refuse,
                    2 => Taken::Exchange,
                    _ => return Err(Errno::INVAL),
                }
            }
        };
        let (from, to) = (body.text()?, body.text()?);
        self.tree.rename((node, from), (folder, to), taken)
    }

    fn read(&self, unique: u64, mut body: Body<'_>, room: &mut Room) -> Answer<Done> {
        let (handle, offset, size) = (body.u64()?, body.u64()?, body.u32()?.min(MAX_WRITE));
        let open = self.file(handle)?;
        let Room { plain, sealed, .. } = room;
        let given = self.tree.read(&open, (offset, size as usize), (plain, sealed), |bytes| {
            self.say(unique, bytes);
            bytes.len() as u64
        })?;
        self.read.fetch_add(given, Ordering::Relaxed);
        Ok(Done::Said)
    }

    fn statfs(&self, room: &mut Room) -> Answer<()> {
        let below = self.tree.room()?;
        room.out.u64(below.f_blocks).u64(below.f_bfree).u64(below.f_bavail).u64(below.f_files).u64(below.f_ffree);
        let bytes = |bytes: u64| u32::try_from(bytes).unwrap_or(4096);
        room.out.u32(bytes(below.f_bsize)).u32(255).u32(bytes(below.f_frsize)).zeros(28);
        Ok(())
    }

    fn list(&self, node: u64, plus: bool, mut body: Body<'_>, room: &mut Room) -> Answer<()> {
        let (handle, offset, size) = (body.u64()?, body.u64()?, body.u32()?.min(MAX_WRITE) as usize);
        let names = self.names(handle, node, offset)?;
        let owner = (self.looks.user, self.looks.group);
        for (at, Named { name, id, sort }) in
            names.iter().enumerate().skip(usize::try_from(offset).unwrap_or(usize::MAX))
        {
            if room.out.bytes().len() + wire::name_bytes(name, plus) > size {
                break;
            }
            if plus {
                // The kernel knows of itself what these two are.
                match if at < 2 { Err(Errno::NOENT) } else { self.tree.tell(*id) } {
                    Ok(told) => room.out.entry(&told, owner),
                    Err(_) if at < 2 => drop(room.out.zeros(128)),
                    // Removed since the names were taken.
                    Err(_) => continue,
                }
            }
            room.out.name(*id, at as u64 + 1, *sort, name);
        }
        Ok(())
    }

    /// A folder's names as they were when they were read from the start.
    fn names(&self, handle: u64, node: u64, offset: u64) -> Answer<Arc<Vec<Named>>> {
        if let (1.., Some(names)) = (offset, self.lock_folders().get(&handle)) {
            return Ok(names.clone());
        }
        let itself = |name: &[u8], id| Named { name: name.to_vec(), id, sort: Sort::Folder };
        let mut names = vec![itself(b".", node), itself(b"..", self.tree.parent(node).unwrap_or(ROOT))];
        names.extend(self.tree.list(node)?);
        let names = Arc::new(names);
        self.lock_folders().insert(handle, names.clone());
        Ok(names)
    }

    fn keep(&self, open: OpenFile) -> u64 {
        let handle = self.handles.fetch_add(1, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.files.write().unwrap_or_else(PoisonError::into_inner).insert(handle, open);
        handle
    }

    fn file(&self, handle: u64) -> Answer<OpenFile> {
        self.files.read().unwrap_or_else(PoisonError::into_inner).get(&handle).cloned().ok_or(Errno::BADF)
    }

    fn release(&self, mut body: Body<'_>) -> Answer<Done> {
        let handle = body.u64()?;
        let open = self.files.write().unwrap_or_else(PoisonError::into_inner).remove(&handle);
        if let Some(open) = open {
            self.tree.close_file(&open);
        }
        Ok(Done::Out)
    }

    /// Closes what the kernel has not closed.
    pub(super) fn release_all(&self) {
        let open = std::mem::take(&mut *self.files.write().unwrap_or_else(PoisonError::into_inner));
        open.values().for_each(|open| self.tree.close_file(open));
        self.tree.forget_all();
    }

    fn lock_folders(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Vec<Named>>>> {
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a file is opened.
mod how {
    use rustix::fs::OFlags;

    pub(super) const TRUNC: u32 = OFlags::TRUNC.bits();
    pub(super) const ACCESS: u32 = OFlags::RWMODE.bits();
}
