//! Names: looking up, making, renaming, removing.

use rustix::io::Errno;

use super::contents::Content;
use super::row::{self, Kind, MAX_NAME_BYTES, MAX_TARGET_BYTES, NodeRow};
use super::{Answer, Attributes, New, Node, OpenFile, Sort, State, Times, Tree, now_ns};

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: Vec<u8>,
    pub(crate) id: u64,
    pub(crate) sort: Sort,
}

/// What a rename does where the new name is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    Replace,
    Refuse,
    Exchange,
}

impl Tree {
    /// What a folder has under a name; the kernel knows it from now on, until [`Tree::forget`].
    pub(crate) fn look_up(&self, folder: u64, name: &[u8]) -> Answer<Attributes> {
        let mut state = self.state();
        let id = self.child(&mut state, folder, name)?.ok_or(Errno::NOENT)?;
        state.tell(id)
    }

    /// The kernel knows this one too.
    pub(crate) fn tell(&self, id: u64) -> Answer<Attributes> {
        self.state().tell(id)
    }

    /// The kernel forgets what it was told `times` times.
    pub(crate) fn forget(&self, id: u64, times: u64) {
        let mut state = self.state();
        if let Ok(node) = state.node_mut(id) {
            node.lookups = node.lookups.saturating_sub(times);
            state.let_go(id);
        }
    }

    /// Everything in a folder, as it is now.
    pub(crate) fn list(&self, folder: u64) -> Answer<Vec<Named>> {
        let mut state = self.state();
        self.load(&mut state, folder)?;
        let children = state.folders.get(&folder).ok_or(Errno::NOTDIR)?;
        let sort = |id| state.nodes.get(id).map(Node::sort);
        let named = children.iter().filter_map(|(name, id)| Some((name, id, sort(id)?)));
        Ok(named.map(|(name, id, sort)| Named { name: name.clone(), id: *id, sort }).collect())
    }

    /// Where a folder lies.
    pub(crate) fn parent(&self, folder: u64) -> Answer<u64> {
        Ok(self.state().node(folder)?.row.parent.max(row::ROOT))
    }

    /// Makes something under a name that is free.
    pub(crate) fn make(&self, folder: u64, name: &[u8], new: New, mode: u32) -> Answer<Attributes> {
        self.state_of(folder, name).and_then(|mut state| state.make(folder, name, new, mode))
    }

    /// The same of a file, open.
    pub(crate) fn create(&self, folder: u64, name: &[u8], mode: u32) -> Answer<(Attributes, OpenFile)> {
        let mut state = self.state_of(folder, name)?;
        let attributes = state.make(folder, name, New::File, mode)?;
        let contents = state.use_contents(attributes.id)?;
        Ok((attributes, OpenFile { id: attributes.id, contents }))
    }

    /// Takes a name away; of a folder only if it is empty.
    pub(crate) fn remove(&self, folder: u64, name: &[u8], is_folder: bool) -> Answer<()> {
        let mut state = self.state();
        let id = self.child(&mut state, folder, name)?.ok_or(Errno::NOENT)?;
        match (state.node(id)?.sort(), is_folder) {
            (Sort::Folder, false) => return Err(Errno::ISDIR),
            (Sort::File | Sort::Link, true) => return Err(Errno::NOTDIR),
            (Sort::Folder, true) => self.check_empty(&mut state, id)?,
            _ => {}
        }
        state.take(folder, name)?;
        state.unlink(id)
    }

    /// Moves something to another name, in one step.
    pub(crate) fn rename(&self, from: (u64, &[u8]), to: (u64, &[u8]), taken: Taken) -> Answer<()> {
        check_name(to.1)?;
        let mut state = self.state();
        let id = self.child(&mut state, from.0, from.1)?.ok_or(Errno::NOENT)?;
        let there = self.child(&mut state, to.0, to.1)?;
        match (there, taken) {
            (Some(_), Taken::Refuse) => return Err(Errno::EXIST),
            (None, Taken::Exchange) => return Err(Errno::NOENT),
            (Some(there), _) if there == id => return Ok(()),
            (Some(there), Taken::Replace) => {
                match (state.node(id)?.sort(), state.node(there)?.sort()) {
                    (Sort::Folder, Sort::Folder) => self.check_empty(&mut state, there)?,
                    (Sort::Folder, _) => return Err(Errno::NOTDIR),
                    (_, Sort::Folder) => return Err(Errno::ISDIR),
                    _ => {}
                }
                state.take(to.0, to.1)?;
                state.unlink(there)?;
            }
            (Some(there), Taken::Exchange) => {
                state.take(to.0, to.1)?;
                state.take(from.0, from.1)?;
                state.put(there, from.0, from.1)?;
                return state.put(id, to.0, to.1);
            }
            (None, _) => {}
        }
        state.take(from.0, from.1)?;
        state.put(id, to.0, to.1)
    }

    /// Puts a folder's names into memory, if they are not there.
    pub(super) fn load(&self, state: &mut State, folder: u64) -> Answer<()> {
        if state.folders.contains_key(&folder) {
            return Ok(());
        }
        if state.node(folder)?.sort() != Sort::Folder {
            return Err(Errno::NOTDIR);
        }
        let rows = self.database.read(|db| row::children(db, folder)).map_err(|error| self.errno(&error))?;
        let mut names = std::collections::BTreeMap::new();
        for row in rows {
            // What is in memory already is newer: it was moved elsewhere, or removed.
            if !state.nodes.contains_key(&row.id) && !state.removed.contains(&row.id) {
                names.insert(row.name.clone(), row.id);
                state.nodes.insert(row.id, Node::new(row));
            }
        }
        state.folders.insert(folder, names);
        Ok(())
    }

    fn child(&self, state: &mut State, folder: u64, name: &[u8]) -> Answer<Option<u64>> {
        if name.len() > MAX_NAME_BYTES {
            return Err(Errno::NAMETOOLONG);
        }
        self.load(state, folder)?;
        Ok(state.folders.get(&folder).and_then(|names| names.get(name)).copied())
    }

    /// The state, with a folder in memory that has nothing of this name.
    fn state_of(&self, folder: u64, name: &[u8]) -> Answer<std::sync::MutexGuard<'_, State>> {
        check_name(name)?;
        let mut state = self.state();
        match self.child(&mut state, folder, name)? {
            Some(_) => Err(Errno::EXIST),
            // Somebody still stands in a folder that was removed.
            None if !state.node(folder)?.linked => Err(Errno::NOENT),
            None => Ok(state),
        }
    }

    fn check_empty(&self, state: &mut State, folder: u64) -> Answer<()> {
        self.load(state, folder)?;
        match state.folders.get(&folder).is_none_or(|names| names.is_empty()) {
            true => Ok(()),
            false => Err(Errno::NOTEMPTY),
        }
    }
}

impl State {
    fn tell(&mut self, id: u64) -> Answer<Attributes> {
        let node = self.node_mut(id)?;
        node.lookups += 1;
        Ok(node.attributes())
    }

    fn make(&mut self, folder: u64, name: &[u8], new: New, mode: u32) -> Answer<Attributes> {
        let kind = match new {
            New::File => Kind::File(Content::default()),
            New::Folder => Kind::Folder,
            New::Link(target) if target.is_empty() || target.len() > MAX_TARGET_BYTES => {
                return Err(Errno::NAMETOOLONG);
            }
            New::Link(target) => Kind::Link(target),
        };
        let (id, now) = (self.next, now_ns());
        self.next += 1;
        let times = Times { accessed: now, modified: now, changed: now };
        if kind == Kind::Folder {
            self.folders.insert(id, std::collections::BTreeMap::new());
        }
        let row = NodeRow { id, parent: folder, name: Vec::new(), kind, mode: mode & 0o7777, times };
        self.nodes.insert(id, Node::new(row));
        self.put(id, folder, name)?;
        self.tell(id)
    }

    /// Takes a name out of its folder.
    fn take(&mut self, folder: u64, name: &[u8]) -> Answer<()> {
        self.folders.get_mut(&folder).and_then(|names| names.remove(name)).ok_or(Errno::NOENT)?;
        self.touch(folder)
    }

    /// Puts a node under a name that is free.
    fn put(&mut self, id: u64, folder: u64, name: &[u8]) -> Answer<()> {
        self.folders.get_mut(&folder).ok_or(Errno::NOTDIR)?.insert(name.to_vec(), id);
        let node = self.node_mut(id)?;
        (node.row.parent, node.row.name, node.row.times.changed) = (folder, name.to_vec(), now_ns());
        self.dirty.insert(id);
        self.changed = true;
        self.touch(folder)
    }

    /// A folder's names changed.
    fn touch(&mut self, folder: u64) -> Answer<()> {
        let node = self.node_mut(folder)?;
        (node.row.times.modified, node.row.times.changed) = (now_ns(), now_ns());
        if node.linked {
            self.dirty.insert(folder);
        }
        Ok(())
    }

    /// A node has no name any more: its row goes, and its sealed files once nobody uses them.
    fn unlink(&mut self, id: u64) -> Answer<()> {
        let node = self.node_mut(id)?;
        node.linked = false;
        let in_row = if let Kind::File(content) = &node.row.kind { content.file.as_ref() } else { None };
        // Whoever has it open goes on with it: its name on the disk is not needed for that.
        let mut files: Vec<_> = in_row.map(|file| file.id).into_iter().collect();
        if node.opens == 0 {
            files.extend(node.contents.iter().flat_map(|contents| contents.files()));
        }
        self.garbage.extend(files);
        self.dirty.remove(&id);
        self.removed.insert(id);
        self.changed = true;
        self.let_go(id);
        Ok(())
    }
}

fn check_name(name: &[u8]) -> Answer<()> {
    match name.len() {
        _ if row::is_name(name) => Ok(()),
        length if length > MAX_NAME_BYTES => Err(Errno::NAMETOOLONG),
        _ => Err(Errno::INVAL),
    }
}
