//! `aico mount`: the owner's files in a folder, for other programs. This process mounts and unmounts; the backend, which may not,
//! answers the kernel through the descriptor that it is handed.

use std::fs;
use std::io::{ErrorKind, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

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
const OPTIONS: &str = "nosuid,nodev,default_permissions,fsname=aico,subtype=aico";
/// How long whoever uses what a dead process mounted has to stop by itself.
const POLITE: Duration = Duration::from_millis(1500);
/// How often a mount that is in use is tried to be unmounted before it is cut off, and with what pause: shorter than the backend waits.
const TRIES: u32 = 6;
const BETWEEN_TRIES: Duration = Duration::from_millis(50);
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
    if mounted_on(&dir).is_some() {
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
    device: String,
    mounted: bool,
    /// Unmounts when the pipe to it closes, however this process ends.
    guard: Option<Child>,
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
        let child = match spawned {
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing()),
            spawned => spawned.map_err(failed)?,
        };
        let device = receive(&ours);
        let said = child.wait_with_output().map_err(failed)?.stderr;
        match (device, mounted_on(&dir)) {
            (Some(descriptor), Some(device)) => {
                let mut point = Self { dir, device, mounted: true, guard: None };
                point.guard = Some(point.start_guard()?);
                Ok((point, descriptor))
            }
            _ => {
                let said = String::from_utf8_lossy(&said);
                let message = format!("nothing could be mounted on {}: {}", dir.display(), said.trim());
                let hint = "is it your own folder, and may you use `/dev/fuse`? The backend was not touched";
                Err(Error::Mount { message, hint })
            }
        }
    }

    fn start_guard(&self) -> Result<Child, Error> {
        let mut command = Command::new("/proc/self/exe");
        command.arg("mount-guard").arg(&self.dir).arg(&self.device).stdin(Stdio::piped()).stdout(Stdio::null());
        command.stderr(Stdio::null()).spawn().map_err(|error| Error::io("start what unmounts at the end", error))
    }

    fn shown(&self) -> String {
        ui::printable(&self.dir.display().to_string())
    }

    /// Unmounts: false where programs still use it, and go on until the backend cuts them.
    fn unmount(mut self) -> Result<bool, Error> {
        self.unmount_now()
    }

    fn unmount_now(&mut self) -> Result<bool, Error> {
        if !std::mem::take(&mut self.mounted) {
            return Ok(true);
        }
        for _ in 0..TRIES {
            if !self.is_there() || fusermount(&["-u"], &self.dir)?.status.success() {
                return Ok(true);
            }
            // A program that was just started holds what the one that started it has open, for a moment.
            std::thread::sleep(BETWEEN_TRIES);
        }
        // What programs have written and not closed goes to the backend first.
        let _as_far_as_it_goes = fs::File::open(&self.dir).map(|root| rustix::fs::syncfs(&root));
        let output = fusermount(&["-u", "-z"], &self.dir)?;
        if !output.status.success() && self.is_there() {
            let said = String::from_utf8_lossy(&output.stderr);
            let message = format!("{} could not be unmounted: {}", self.dir.display(), said.trim());
            return Err(Error::Mount { message, hint: "`fusermount3 -u -z` tries again" });
        }
        ui::error_line("programs still use files there; they get errors from now on");
        Ok(false)
    }

    /// Whether it is still there: somebody else may have unmounted it.
    fn is_there(&self) -> bool {
        mounted_on(&self.dir).as_ref() == Some(&self.device)
    }
}

impl Drop for Point {
    fn drop(&mut self) {
        let _told_if_it_mattered = self.unmount_now();
        if let Some(mut guard) = self.guard.take() {
            drop(guard.stdin.take());
            let _ended = guard.wait();
        }
    }
}

/// Waits until the process that mounted has ended, and takes away what it left.
pub(crate) fn guard(dir: PathBuf, device: String) -> Result<(), Error> {
    // What ends the one at the terminal is not to end this one.
    let _leads_already = rustix::process::setsid();
    let _ended = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
    let (left, began) = (Point { dir, device, mounted: false, guard: None }, Instant::now());
    while left.is_there() {
        // At first as politely as the kernel asks for; the backend cuts what is still in use.
        let args = if began.elapsed() < POLITE { &["-u"][..] } else { &["-u", "-z"] };
        if fusermount(args, &left.dir)?.status.success() || began.elapsed() > 2 * POLITE {
            break;
        }
        std::thread::sleep(POLITE / 10);
    }
    Ok(())
}

fn fusermount(args: &[&str], dir: &Path) -> Result<Output, Error> {
    let run = Command::new(FUSERMOUNT).args(args).arg("--").arg(dir).stdin(Stdio::null()).output();
    run.map_err(|error| Error::io("start fusermount3", error))
}

/// The number of the device that is mounted on a folder, as the kernel's list says: a dead mount would not answer.
fn mounted_on(dir: &Path) -> Option<String> {
    let list = fs::read("/proc/self/mountinfo").ok()?;
    let dir = escaped(dir);
    let mut found = list.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        let (device, point) = (fields.nth(2)?, fields.nth(1)?);
        (point == dir).then(|| String::from_utf8_lossy(device).into_owned())
    });
    // The last one lies on top.
    found.next_back()
}

/// A path as it stands in that list.
fn escaped(path: &Path) -> Vec<u8> {
    let escape = |byte: &u8| match byte {
        b' ' | b'\t' | b'\n' | b'\\' => format!("\\{byte:03o}").into_bytes(),
        byte => vec![*byte],
    };
    path.as_os_str().as_bytes().iter().flat_map(escape).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stand_in_the_kernels_list_as_it_writes_them() {
        assert_eq!(escaped(Path::new("/a b\\c\td\n")), b"/a\\040b\\134c\\011d\\012");
        assert!(mounted_on(Path::new("/proc")).is_some() && mounted_on(Path::new("/proc/none")).is_none());
    }
}
