//! The owner's files, mounted: one permit, one operation, with a bound on time and bytes, recorded with its sums at the end.

use std::os::fd::OwnedFd;
use std::sync::{Arc, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use aico_policy::{Action, Permit};

use super::{Unlocked, Vault, short, spaces};
use crate::Error;
use crate::mount::{Looks, Session, Sums};
use crate::tree::Tree;

/// The owner's tree, while somebody uses it.
#[derive(Debug, Default)]
pub(super) struct Trees {
    tree: Weak<Tree>,
    mounted: bool,
}

impl Vault<Unlocked> {
    /// Serves the owner's files to the kernel through `device`, a FUSE descriptor that was mounted. `on_end` is called when
    /// it was unmounted.
    ///
    /// # Errors
    /// [`Error::Refused`] while they are mounted already, or when `device` is something else.
    pub fn mount(
        &self,
        permit: Permit,
        device: OwnedFd,
        looks: Looks,
        on_end: impl FnOnce() + Send + 'static,
    ) -> Result<Mounted<'_>, Error> {
        self.redeem(&permit, Action::MountFiles)?;
        let bounds = permit.bounds();
        let started = self.state.take_mount().and_then(|mount| {
            let session =
                Session::start(self.state.tree()?, device, looks, (bounds.time, bounds.bytes), Box::new(on_end))?;
            Ok((session, mount))
        });
        match started {
            Ok((session, mount)) => {
                Ok(Mounted { state: &self.state, permit, began: Instant::now(), session: Some(session), _mount: mount })
            }
            Err(error) => {
                self.state.outcome(&permit, Err(&error));
                Err(error)
            }
        }
    }
}

impl Unlocked {
    /// The owner's tree: the one that is in use, or opened for whoever asks.
    pub(super) fn tree(&self) -> Result<Arc<Tree>, Error> {
        let mut trees = self.trees();
        if let Some(tree) = trees.tree.upgrade()
            && !tree.is_ended()
        {
            return Ok(tree);
        }
        let owner = self.owner();
        let (id, epoch) = self.system.owner_epoch()?;
        let place = spaces::tree_of(&self.places.home, &id, epoch);
        let tree = Arc::new(Tree::open(owner.shared_database(), owner.keys(), &place)?);
        trees.tree = Arc::downgrade(&tree);
        Ok(tree)
    }

    /// The owner's tree, if it is in use or has anything.
    pub(super) fn tree_if_any(&self) -> Result<Option<Arc<Tree>>, Error> {
        let in_use = self.trees().tree.strong_count() > 0;
        if in_use || crate::tree::has_files(self.owner().database())? { self.tree().map(Some) } else { Ok(None) }
    }

    /// Ends the tree that is in use, for ever: its space is being forgotten.
    pub(super) fn end_tree(&self) {
        if let Some(tree) = self.trees().tree.upgrade() {
            tree.end();
        }
    }

    pub(super) fn take_mount(&self) -> Result<TheMount<'_>, Error> {
        let mut trees = self.trees();
        if std::mem::replace(&mut trees.mounted, true) {
            return Err(Error::Refused("the files are mounted already"));
        }
        Ok(TheMount(self))
    }

    fn trees(&self) -> MutexGuard<'_, Trees> {
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// There is one mount at a time: two kernels' memories of the same names would not agree.
#[derive(Debug)]
pub(super) struct TheMount<'a>(&'a Unlocked);

impl Drop for TheMount<'_> {
    fn drop(&mut self) {
        self.0.trees().mounted = false;
    }
}

/// Files that are mounted. Dropped, they end as [`Mounted::end`] ends them.
#[derive(Debug)]
pub struct Mounted<'a> {
    state: &'a Unlocked,
    permit: Permit,
    began: Instant,
    session: Option<Session>,
    _mount: TheMount<'a>,
}

impl Mounted<'_> {
    /// What went through it so far.
    #[must_use]
    pub fn sums(&self) -> Sums {
        self.session.as_ref().map(Session::sums).unwrap_or_default()
    }

    /// Whether it came to its bounds, or what it shows was forgotten: nothing is read or written any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.session.as_ref().is_none_or(Session::is_over)
    }

    /// Ends it: what was written is on disk when this returns, and recorded with its sums. Programs that still use the
    /// mount get errors.
    pub fn end(mut self) -> Result<Sums, Error> {
        self.finish()
    }

    fn finish(&mut self) -> Result<Sums, Error> {
        let Some(mut session) = self.session.take() else { return Ok(Sums::default()) };
        let ended = session.end();
        let sums = session.sums();
        drop(session);
        let Sums { files, read, written, damaged } = sums;
        let took = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (at_ms, of) = (self.permit.event().at_ms.saturating_add(took), self.permit.receipt().index);
        let told =
            format!("of {of}: {files} files opened, {read} bytes read, {written} written, {damaged} times damaged");
        let _failed_closed = self.state.record(at_ms, "files.unmounted", &told);
        let moved = ended.as_ref().map(|_| read.saturating_add(written)).map_err(|error| short(error).to_owned());
        let _next_is_refused = self.state.journal.outcome(at_ms, of, moved);
        ended
    }
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _recorded = self.finish();
    }
}
