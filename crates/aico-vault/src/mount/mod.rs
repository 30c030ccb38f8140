//! A tree as a FUSE file system: threads that answer the kernel's requests.
//!
//! The descriptor comes from whoever mounted it; when the session ends and the descriptor is closed, the kernel ends the mount.

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, epoll, eventfd, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use crate::Error;
use crate::tree::Tree;

mod kernel;
mod serve;
mod wire;

pub use kernel::Kernel;
use serve::{Bounds, Room, Served};
use wire::{FORGET_CONTENT, Op, REQUEST_BYTES, Request};

/// The device of FUSE, by the kernel's list of numbers.
const FUSE_DEVICE: (u32, u32) = (10, 229);
/// Threads that answer.
const MOST_THREADS: usize = 4;
/// For the kernel's first request to come.
const PATIENCE: Timespec = Timespec { tv_sec: 5, tv_nsec: 0 };
/// What a thread hears of.
const ASKED: epoll::EventData = epoll::EventData::new_u64(0);
const STOPPED: epoll::EventData = epoll::EventData::new_u64(1);
/// How often names are written that nobody synced.
const TICK: Duration = Duration::from_secs(1);
/// Of how many ticks one takes contents along.
const TICKS_OF_CONTENTS: u32 = 5;

/// How a mount shows itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Looks {
    /// Whether nothing can be changed.
    pub read_only: bool,
    /// The user whose files they seem.
    pub user: u32,
    /// The group.
    pub group: u32,
}

/// What went through a mount.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sums {
    /// How often a file was opened.
    pub files: u64,
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// How often something was found damaged.
    pub damaged: u64,
}

/// A file system that is served. Dropped, it ends at once.
#[derive(Debug)]
pub(crate) struct Session {
    served: Arc<Served>,
    threads: Vec<JoinHandle<()>>,
    clock: Arc<Clock>,
    /// Wakes the threads for their end.
    stop: Arc<OwnedFd>,
}

impl Session {
    /// Answers the kernel's first request on `device`, and starts to serve. `on_end` is called when it unmounts.
    pub(crate) fn start(
        tree: Arc<Tree>,
        device: OwnedFd,
        looks: Looks,
        (time, bytes): (Duration, u64),
        on_end: Box<dyn FnOnce() + Send>,
    ) -> Result<Self, Error> {
        let begun = |errno: Errno| Error::failed("beginning a mount".to_owned(), errno.into());
        check(&device)?;
        rustix::fs::fcntl_setfl(&device, OFlags::RDWR | OFlags::NONBLOCK).map_err(begun)?;
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).map_err(begun)?);
        let until = Instant::now().checked_add(time).ok_or(Error::Misuse("a mount without an end"))?;
        let served = Arc::new(Served::new(tree, device, looks, Bounds { until, bytes }));
        begin(&served)?;
        let mut session = Self { served, threads: Vec::new(), clock: Arc::default(), stop };
        let last = Arc::new(OnEnd(Mutex::new(Some(on_end))));
        let count = std::thread::available_parallelism().map_or(2, usize::from).clamp(2, MOST_THREADS);
        for number in 0..count {
            let (served, last) = (session.served.clone(), last.clone());
            let asked = waiting_for(&served.device, &session.stop).map_err(begun)?;
            session.spawn(format!("mount-{number}"), move || {
                // It ends because it was unmounted, or because it is over.
                let _why = serve(&served, &asked);
                drop(last);
            })?;
        }
        let (served, clock) = (session.served.clone(), session.clock.clone());
        session.spawn("mount-clock".to_owned(), move || clock.run(&served.tree))?;
        Ok(session)
    }

    pub(crate) fn sums(&self) -> Sums {
        self.served.sums()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.served.is_over()
    }

    /// Ends it now: nothing is answered any more, what was written is brought to disk, and the descriptor is closed. What the
    /// kernel has not handed over is lost.
    pub(crate) fn end(&mut self) -> Result<Sums, Error> {
        if self.threads.is_empty() {
            return Ok(self.sums());
        }
        self.served.over.store(true, Ordering::Release);
        for file in self.served.tree.in_use() {
            // What programs still hold open is not to be read from the kernel's memory either.
            let everything = [file.to_ne_bytes(), [0; 8], [0; 8]].concat();
            self.served.notify(FORGET_CONTENT, &everything);
        }
        self.clock.stop();
        let _counted = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        for thread in self.threads.drain(..) {
            let _crashed = thread.join();
        }
        self.served.release_all();
        let synced = if self.served.looks.read_only { Ok(()) } else { self.served.tree.sync_all() };
        synced.map(|()| self.sums())
    }

    fn spawn(&mut self, name: String, run: impl FnOnce() + Send + 'static) -> Result<(), Error> {
        let spawned = std::thread::Builder::new().name(name).spawn(run);
        self.threads.push(spawned.map_err(|source| Error::failed("starting a thread".to_owned(), source))?);
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _told_by_whoever_ends_it = self.end();
    }
}

/// Only the device of FUSE speaks its protocol.
fn check(device: &OwnedFd) -> Result<(), Error> {
    let found =
        rustix::fs::fstat(device).map_err(|errno| Error::failed("looking at a descriptor".to_owned(), errno.into()))?;
    let number = (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev));
    if FileType::from_raw_mode(found.st_mode) != FileType::CharacterDevice || number != FUSE_DEVICE {
        return Err(Error::Refused("what was handed over is not a FUSE descriptor"));
    }
    Ok(())
}

/// The kernel's first request says what it is able to.
fn begin(served: &Served) -> Result<(), Error> {
    let failed = |errno: Errno| Error::failed("beginning a mount".to_owned(), errno.into());
    poll(&mut [PollFd::new(&served.device, PollFlags::IN)], Some(&PATIENCE)).map_err(failed)?;
    let mut message = vec![0; REQUEST_BYTES];
    let bytes = rustix::io::read(&served.device, &mut *message).map_err(failed)?;
    let request = Request::parse(message.get(..bytes).unwrap_or_default()).map_err(failed)?;
    if request.op != Some(Op::Init) {
        return Err(Error::Refused("the descriptor that was handed over is in use"));
    }
    let mut out = wire::Out::default();
    wire::init(request.body, &mut out).map_err(failed)?;
    served.say(request.unique, out.bytes());
    Ok(())
}

/// A wait for requests, of which each wakes one thread only, and for the end.
fn waiting_for(device: &OwnedFd, stop: &OwnedFd) -> Result<OwnedFd, Errno> {
    let both = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&both, device, ASKED, epoll::EventFlags::IN | epoll::EventFlags::EXCLUSIVE)?;
    epoll::add(&both, stop, STOPPED, epoll::EventFlags::IN)?;
    Ok(both)
}

/// Answers until there is nothing more to answer.
fn serve(served: &Served, asked: &OwnedFd) -> Result<(), Errno> {
    let (mut message, mut room, mut events) = (vec![0; REQUEST_BYTES], Room::default(), Vec::with_capacity(2));
    loop {
        events.clear();
        match epoll::wait(asked, spare_capacity(&mut events), None) {
            Err(Errno::INTR) => continue,
            waited => waited?,
        };
        if events.iter().any(|event: &epoll::Event| event.data.u64() == STOPPED.u64()) {
            return Ok(());
        }
        let bytes = match rustix::io::read(&served.device, &mut *message) {
            // Whoever asked has taken the question back, or another thread has it.
            Err(Errno::NOENT | Errno::INTR | Errno::AGAIN) => continue,
            read => read?,
        };
        if !served.answer(message.get(..bytes).unwrap_or_default(), &mut room) {
            return Ok(());
        }
    }
}

/// Calls back when the last thread has ended.
struct OnEnd(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Drop for OnEnd {
    fn drop(&mut self) {
        if let Some(call) = self.0.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            call();
        }
    }
}

/// Brings changes to disk that nobody synced.
#[derive(Debug, Default)]
struct Clock {
    stopped: Mutex<bool>,
    stop: Condvar,
}

impl Clock {
    fn run(&self, tree: &Tree) {
        let mut ticks: u32 = 0;
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        while !*stopped {
            stopped = self.stop.wait_timeout(stopped, TICK).unwrap_or_else(PoisonError::into_inner).0;
            if *stopped {
                return;
            }
            drop(stopped);
            ticks = ticks.wrapping_add(1);
            // What fails stays to be written, and whoever syncs is told.
            let _later = tree.tick(ticks.is_multiple_of(TICKS_OF_CONTENTS));
            stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.stop.notify_all();
    }
}

#[cfg(test)]
mod tests;
