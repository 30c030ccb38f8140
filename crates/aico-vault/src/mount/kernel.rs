//! A mount whose kernel is whoever calls: for the fuzzer.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::serve::{Bounds, Room, Served};
use super::wire::{Body, Out, init};
use super::{Looks, Request};
use crate::Error;
use crate::parsers::Scratch;

/// Messages as a kernel sends them, to a tree on the disk. Answers go nowhere.
#[derive(Debug)]
pub struct Kernel {
    served: Served,
    room: Room,
}

impl Kernel {
    /// Mounts the tree of `scratch`.
    pub fn new(scratch: &Scratch, read_only: bool) -> Result<Self, Error> {
        let device = Path::new("/dev/null");
        let device =
            OpenOptions::new().write(true).open(device).map_err(|source| Error::io("opening", device, source))?;
        let bounds = Bounds { until: Instant::now() + Duration::from_secs(60), bytes: 1 << 30 };
        let looks = Looks { read_only, user: 7, group: 8 };
        let served = Served::new(Arc::new(scratch.tree()?), device.into(), looks, bounds);
        Ok(Self { served, room: Room::default() })
    }

    /// Answers one message; whether it was one.
    pub fn says(&mut self, message: &[u8]) -> bool {
        if let Ok(request) = Request::parse(message) {
            let _answer = init(Body(request.body.rest()), &mut Out::default());
        }
        self.served.answer(message, &mut self.room)
    }

    /// Ends the mount, with everything on disk; the names in its root.
    pub fn end(self) -> Result<Vec<Vec<u8>>, Error> {
        self.served.release_all();
        self.served.tree.sync_all()?;
        let names = self.served.tree.list(crate::tree::ROOT);
        names
            .map(|names| names.into_iter().map(|named| named.name).collect())
            .map_err(|errno| Error::failed("listing the root".to_owned(), errno.into()))
    }
}
