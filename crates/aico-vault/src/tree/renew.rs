//! Sealed files under new keys, mounted or not (`docs/spec/tree.md`, Rotation).

use std::sync::atomic::Ordering;

use super::row;
use super::{OpenFile, Tree};
use crate::Error;

/// Bytes after which the rows are written.
const AT_ONCE: u64 = 64 << 20;
/// Files after which they are.
const FILES_AT_ONCE: u64 = 200;

/// What was sealed anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resealed {
    pub(crate) bytes: u64,
    /// Files that are damaged: they are left as they are.
    pub(crate) damaged: u64,
}

impl Tree {
    /// Seals every file that was begun before `epoch` under a fresh key; what is begun meanwhile is of `epoch` already.
    /// `go_on` hears how many bytes are done; stopped at any point, it goes on where it was.
    pub(crate) fn renew(&self, epoch: u32, go_on: &mut dyn FnMut(u64) -> bool) -> Result<Resealed, Error> {
        self.sealing.epoch.store(epoch, Ordering::Relaxed);
        // Rows are what is gone by.
        self.sync_all()?;
        let (mut done, mut after, mut room) = (Resealed::default(), 0, Vec::new());
        let (mut bytes, mut files) = (0, 0);
        while let Some(id) = self.database.read(|db| row::next_with_file(db, after, epoch))? {
            after = id;
            if !go_on(done.bytes) {
                self.sync_all()?;
                return Err(Error::Stopped);
            }
            let Some(open) = self.bring(id)? else { continue };
            let renewed = open.contents.renew(&self.sealing, epoch, &mut room);
            self.note_written(&open);
            self.close_file(&open);
            match renewed {
                Ok(more) => (done.bytes, bytes, files) = (done.bytes + more, bytes + more, files + 1),
                Err(Error::Damaged { .. }) => done.damaged += 1,
                Err(error) => return Err(error),
            }
            if bytes >= AT_ONCE || files >= FILES_AT_ONCE {
                self.sync_all()?;
                (bytes, files) = (0, 0);
            }
        }
        self.sync_all()?;
        Ok(done)
    }

    /// Bytes of all files that lie in sealed files.
    pub(crate) fn file_bytes(&self) -> Result<u64, Error> {
        self.database.read(row::file_bytes)
    }

    /// A file by its number, open; none when it was removed meanwhile.
    fn bring(&self, id: u64) -> Result<Option<OpenFile>, Error> {
        let mut chain = Vec::new();
        let mut at = id;
        while at != row::ROOT {
            let Some(row) = self.database.read(|db| row::find(db, at))? else { return Ok(None) };
            // A chain that is longer than a path can be is a ring.
            if chain.len() > 4096 {
                return Err(Error::damaged("the tree", "a folder lies in itself"));
            }
            at = row.parent;
            chain.push(at);
        }
        let mut state = self.state();
        for folder in chain.into_iter().rev() {
            if self.load(&mut state, folder).is_err() {
                return Ok(None);
            }
        }
        let contents = match state.nodes.get(&id) {
            Some(node) if node.linked => state.use_contents(id),
            _ => return Ok(None),
        };
        drop(state);
        Ok(contents.ok().map(|contents| OpenFile { id, contents }))
    }
}
