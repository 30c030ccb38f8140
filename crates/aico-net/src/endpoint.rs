//! Where the backend listens: `aico.sock` in its run folder, and who is at the other end of a connection.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use tokio::net::UnixStream;

use crate::Error;

/// The socket's name in the run folder.
pub const SOCKET_NAME: &str = "aico.sock";

/// How long a client waits before it looks again whether there is room in a full queue.
const FULL_WAIT: Duration = Duration::from_millis(5);

/// The run folder: socket, lock, `backend.id`. Only its owner can enter it.
#[derive(Debug)]
pub struct RunFolder {
    path: PathBuf,
    handle: rustix::fd::OwnedFd,
}

impl RunFolder {
    /// Makes the folder with mode 0700, or checks that it is ours and closed to others.
    pub fn create(path: &Path) -> Result<Self, Error> {
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io_at("make the folder", path, error));
            }
            _ => {}
        }
        let folder = Self::open(path)?;
        let mode = fs::Permissions::from_mode(0o700);
        fs::set_permissions(path, mode).map_err(|error| Error::io_at("close to others", path, error))?;
        Ok(folder)
    }

    /// Opens the run folder of a service that has a user of its own: root or that user made it, and nobody else can
    /// write there.
    pub fn of_service(path: &Path) -> Result<Self, Error> {
        let folder = Self::open_any(path)?;
        let metadata = fs::metadata(path).map_err(|error| Error::io_at("look at", path, error))?;
        if metadata.mode() & 0o022 != 0 {
            let refused = io::ErrorKind::PermissionDenied.into();
            return Err(Error::io_at("trust the folder, which others can write to,", path, refused));
        }
        Ok(folder)
    }

    /// Opens an existing folder. A link, or a folder of somebody else, is refused.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let folder = Self::open_any(path)?;
        let owner = fs::metadata(path).map_err(|error| Error::io_at("look at", path, error))?.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(Error::io_at("enter the folder of another user", path, io::ErrorKind::PermissionDenied.into()));
        }
        Ok(folder)
    }

    fn open_any(path: &Path) -> Result<Self, Error> {
        // As a place only: the owner of a service may pass through its folder, and not list it.
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let handle = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
            rustix::io::Errno::NOENT => Error::NotRunning(path.join(SOCKET_NAME).display().to_string()),
            other => Error::io_at("open the folder", path, other.into()),
        })?;
        Ok(Self { path: path.to_owned(), handle })
    }

    /// A file in the folder.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Where the socket is.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_NAME)
    }

    /// Listens. The caller holds the vault's lock, so an old socket file is a leftover and is replaced. Others than our
    /// own user may connect only where `also_others`; whom it answers is decided by their credentials.
    pub fn listen(&self, also_others: bool) -> Result<UnixListener, Error> {
        let socket = self.socket();
        match fs::remove_file(&socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io_at("remove the old socket", &socket, error));
            }
            _ => {}
        }
        let bind = UnixListener::bind(short_path(self.handle.as_fd()));
        let listener = bind.map_err(|error| Error::io_at("listen at", &socket, error))?;
        let mode = fs::Permissions::from_mode(if also_others { 0o666 } else { 0o600 });
        fs::set_permissions(&socket, mode).map_err(|error| Error::io_at("close to others", &socket, error))?;
        Ok(listener)
    }

    /// Connects to whoever listens. Where more wait than the kernel has room for, this one waits for room, for as long
    /// as `patience`.
    pub async fn connect(&self, patience: Duration) -> Result<UnixStream, Error> {
        let began = Instant::now();
        let connected = loop {
            match UnixStream::connect(short_path(self.handle.as_fd())).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && began.elapsed() < patience => {
                    tokio::time::sleep(FULL_WAIT).await;
                }
                connected => break connected,
            }
        };
        connected.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                Error::NotRunning(self.socket().display().to_string())
            }
            _ => Error::io_at("connect to", &self.socket(), error),
        })
    }
}

/// The socket through the folder's descriptor: a socket address holds 107 bytes, a folder's path may be longer.
fn short_path(folder: BorrowedFd<'_>) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}/{SOCKET_NAME}", folder.as_raw_fd()))
}

/// Who the kernel says is at the other end of a Unix socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PeerProcess {
    /// User.
    pub uid: u32,
    /// Process; 0 where the kernel does not tell.
    pub pid: i32,
}

impl PeerProcess {
    /// Asks the kernel.
    pub fn of(stream: &UnixStream) -> Result<Self, Error> {
        let credentials = stream.peer_cred().map_err(|error| Error::io("ask who connects", error))?;
        Ok(Self { uid: credentials.uid(), pid: credentials.pid().unwrap_or(0) })
    }

    /// Whether it runs as our own user.
    #[must_use]
    pub fn is_our_user(self) -> bool {
        self.uid == rustix::process::geteuid().as_raw()
    }
}
