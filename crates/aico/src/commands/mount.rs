//! `aico mount`: the owner's files in a folder, for other programs. This process mounts and unmounts; the backend, which may not,
//! answers the kernel through the descriptor that it is handed.

use std::fs;
use std::io::{ErrorKind, IoSliceMut, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use aico_net::{Client, Error as NetError};
use aico_proto::CloseReason;
use aico_proto::message::{MountAnswer, Request};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use tokio::task::block_in_place;
use tokio::time::timeout;

use crate::commands::up::Stop;
use crate::error::Error;
use crate::owner::Owner;
use crate::places::{connect, dial};
use crate::ui;

/// The program of the `fuse3` package that mounts and unmounts, for users too.
const FUSERMOUNT: &str = "fusermount3";
/// Of set-user-id files, devices and other users there is nothing here.
const OPTIONS: &str = "nosuid,nodev,default_permissions,fsname=aico,subtype=aico,auto_unmount";
/// For the backend to say that everything is on disk.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same while programs still use what was unmounted.
const BUSY_PATIENCE: Duration = Duration::from_millis(500);

/// Mounts, and returns when it is unmounted: by Ctrl-C or SIGTERM, by `fusermount3 -u`, or because the backend ends it.
pub(crate) async fn mount(dir: &Path, read_only: bool, mut owner: Owner) -> Result<(), Error> {
    let dir = check(dir)?;
    let mut stop = Stop::catch()?;
    let mut client = connect().await?;
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let request = Request::FilesMount { read_only, user, group };
    let MountAnswer::HandOver { ticket } = owner.ask(&mut client, &request, "mount").await? else {
        return Err(NetError::UnexpectedMessage.into());
    };
    let (point, device) = block_in_place(|| Point::mount(dir, read_only))?;
    dial()?.hand_over(&ticket, &device).await?;
    // From here on it is the backend's alone: when it closes it, the kernel ends the mount.
    drop(device);
    match client.next_answer().await? {
        MountAnswer::Mounted {} => {}
        _ => return Err(NetError::UnexpectedMessage.into()),
    }
    ui::line(&format!("mounted on {}; Ctrl-C unmounts", point.shown()));
    let ended = tokio::select! {
        () = stop.asked() => None,
        ended = until_the_end(&mut client) => Some(ended),
    };
    let is_free = block_in_place(|| point.unmount())?;
    let sums = match ended {
        Some(ended) => ended?,
        None => {
            // Whoever still holds a file open keeps the kernel from saying that it is over.
            let patience = if is_free { PATIENCE } else { BUSY_PATIENCE };
            match timeout(patience, until_the_end(&mut client)).await {
                Ok(ended) => ended?,
                Err(_) => None,
            }
        }
    };
    let _gone = client.close().await;
    if let Some((read, written)) = sums {
        ui::line(&format!("unmounted; {} read, {} written", ui::size(read), ui::size(written)));
    }
    Ok(())
}

/// Bytes read and written, once the backend says that it is over; none where it was stopped or locked.
async fn until_the_end(client: &mut Client) -> Result<Option<(u64, u64)>, Error> {
    loop {
        match client.next_answer().await {
            Ok(MountAnswer::Going { .. }) => {}
            Ok(MountAnswer::Ended { read, written, .. }) => return Ok(Some((read, written))),
            Ok(_) => return Err(NetError::UnexpectedMessage.into()),
            Err(NetError::Closed(CloseReason::Shutdown)) => {
                ui::error_line("the backend stopped or was locked: unmounted");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A folder that something can be mounted on, and what it takes to.
fn check(dir: &Path) -> Result<PathBuf, Error> {
    let shown = dir.display();
    let usage = |text: String| Err(Error::Usage(text));
    let found = match fs::metadata(dir) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return usage(format!("there is no folder {shown}; make it first"));
        }
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOTCONN.raw_os_error()) => {
            let hint = "`fusermount3 -u` takes away what a dead program mounted there";
            return Err(Error::Mount { message: format!("what is mounted on {shown} is dead"), hint });
        }
        found => found.map_err(|error| Error::io(format!("look at {shown}"), error))?,
    };
    if !found.is_dir() {
        return usage(format!("{shown} is not a folder"));
    }
    let dir = dir.canonicalize().map_err(|error| Error::io(format!("resolve {shown}"), error))?;
    let above = dir.parent().and_then(|above| fs::metadata(above).ok());
    if above.is_none_or(|above| above.dev() != found.dev()) {
        return usage(format!("something is mounted on {shown} already"));
    }
    let mut entries = fs::read_dir(&dir).map_err(|error| Error::io(format!("look into {shown}"), error))?;
    if entries.next().is_some() {
        return usage(format!("{shown} is not empty; what is in it would be hidden"));
    }
    if !Path::new("/dev/fuse").exists() {
        let hint = "`modprobe fuse` loads it; a container needs `--device /dev/fuse`";
        return Err(Error::Mount { message: "this kernel has no FUSE (`/dev/fuse`)".to_owned(), hint });
    }
    Ok(dir)
}

/// What this process has mounted. Dropped, it is unmounted.
struct Point {
    dir: PathBuf,
    mounted: bool,
    /// Unmounts when the socket to it closes, however this process ends.
    guard: Option<(UnixStream, Child)>,
}

impl Point {
    /// Mounts on `dir`; the descriptor through which the kernel asks.
    fn mount(dir: PathBuf, read_only: bool) -> Result<(Self, OwnedFd), Error> {
        let failed = |error| Error::io("start fusermount3", error);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let mut command = Command::new(FUSERMOUNT);
        let options = format!("{OPTIONS},{}", if read_only { "ro" } else { "rw" });
        command.args(["-o", &options, "--"]).arg(&dir).stdin(Stdio::from(OwnedFd::from(theirs)));
        // It sends the descriptor through the one that is named here: its standard input.
        let spawned = command.env("_FUSE_COMMFD", "0").stdout(Stdio::null()).stderr(Stdio::piped()).spawn();
        drop(command);
        let mut child = match spawned {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing()),
            spawned => spawned.map_err(failed)?,
        };
        match receive(&ours) {
            Some(device) => {
                // It writes nothing more, and is not to wait for somebody who reads.
                drop(child.stderr.take());
                Ok((Self { dir, mounted: true, guard: Some((ours, child)) }, device))
            }
            None => {
                let mut said = String::new();
                let _unread = child.stderr.take().map(|stderr| stderr.take(2048).read_to_string(&mut said));
                let _ended = child.wait();
                let message = format!("nothing could be mounted on {}: {}", dir.display(), said.trim());
                let hint = "is it your own folder, and may you use `/dev/fuse`? The backend was not touched";
                Err(Error::Mount { message, hint })
            }
        }
    }

    fn shown(&self) -> String {
        ui::printable(&self.dir.display().to_string())
    }

    /// Unmounts: false where programs still use it, and go on until the backend cuts them.
    fn unmount(mut self) -> Result<bool, Error> {
        self.unmount_now()
    }

    fn unmount_now(&mut self) -> Result<bool, Error> {
        if !std::mem::take(&mut self.mounted) || !self.is_mounted() {
            return Ok(true);
        }
        if self.fusermount(&["-u"])?.status.success() {
            return Ok(true);
        }
        // What programs have written and not closed goes to the backend first.
        let _as_far_as_it_goes = fs::File::open(&self.dir).map(|root| rustix::fs::syncfs(&root));
        let output = self.fusermount(&["-u", "-z"])?;
        if !output.status.success() && self.is_mounted() {
            let said = String::from_utf8_lossy(&output.stderr);
            let message = format!("{} could not be unmounted: {}", self.dir.display(), said.trim());
            return Err(Error::Mount { message, hint: "`fusermount3 -u -z` tries again" });
        }
        ui::error_line("programs still use files there; they get errors from now on");
        Ok(false)
    }

    fn fusermount(&self, args: &[&str]) -> Result<Output, Error> {
        let run = Command::new(FUSERMOUNT).args(args).arg("--").arg(&self.dir).stdin(Stdio::null()).output();
        run.map_err(|error| Error::io("start fusermount3", error))
    }

    /// Whether anything is: it may have been unmounted by somebody else.
    fn is_mounted(&self) -> bool {
        let device = |path: &Path| fs::symlink_metadata(path).map(|found| found.dev());
        match (device(&self.dir), self.dir.parent().map(device)) {
            (Ok(here), Some(Ok(above))) => here != above,
            // A dead mount does not answer.
            _ => true,
        }
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        let _told_if_it_mattered = self.unmount_now();
        if let Some((socket, mut child)) = self.guard.take() {
            drop(socket);
            let _ended = child.wait();
        }
    }
}

fn missing() -> Error {
    let hint = "it is in the package `fuse3`: `apt install fuse3`";
    Error::Mount { message: "there is no program `fusermount3` here".to_owned(), hint }
}

/// The descriptor that fusermount3 sends; none where it ends without.
fn receive(socket: &UnixStream) -> Option<OwnedFd> {
    let (mut byte, mut room) = ([0; 1], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
    let mut control = RecvAncillaryBuffer::new(&mut room);
    let received = loop {
        match recvmsg(socket, &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC) {
            Err(rustix::io::Errno::INTR) => {}
            received => break received.ok()?,
        }
    };
    if received.bytes == 0 {
        return None;
    }
    let descriptors = control.drain().filter_map(|part| match part {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    descriptors.flatten().next()
}
