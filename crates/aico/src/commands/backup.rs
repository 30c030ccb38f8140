//! `aico backup`: a copy of a running vault, written where the owner says, and checked there.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aico_net::{Client, Error as NetError};
use aico_proto::message::{ExportAnswer, Part, Request};
use aico_vault::{Error as VaultError, Places};

use crate::args::BackupCommand;
use crate::commands::{finish, vault};
use crate::error::Error;
use crate::owner::Owner;
use crate::places::{connect, places};
use crate::ui;

/// What makes a vault of a folder; it gets its name when everything else is on the disk.
const HEADER: &str = "vault.aico";

pub(crate) async fn backup(command: BackupCommand, owner: Owner) -> Result<(), Error> {
    match command {
        BackupCommand::Copy { dir } => copy(&dir, owner).await,
        BackupCommand::Check { dir, json } => check(dir, json, owner),
    }
}

async fn copy(dir: &Path, mut owner: Owner) -> Result<(), Error> {
    let target = Target::make(dir)?;
    let mut client = connect().await?;
    let head: ExportAnswer = owner.ask(&mut client, &Request::BackupCopy {}, "copy").await?;
    let bar = ui::progress(head.bytes);
    let mut files = 0;
    while let Some(entry) = client.next_exported().await? {
        let (mut file, path) = target.create(&entry.path)?;
        receive(&mut client, &mut file, entry.bytes, &bar).await.map_err(|error| error.about(&path))?;
        files += 1;
    }
    bar.finish_and_clear();
    target.publish()?;
    let shown = ui::printable(&dir.display().to_string());
    ui::line(&format!(
        "{files} files, {}, in {shown}; encrypted, without this device's identity",
        ui::size(head.bytes)
    ));
    ui::line(&format!("`aico backup check {shown}` reads it all; your password or recovery code opens it"));
    finish(client).await
}

async fn receive(client: &mut Client, file: &mut File, bytes: u64, bar: &indicatif::ProgressBar) -> Result<(), Failed> {
    let mut written = 0;
    loop {
        match Part::parse(client.next_part().await?).map_err(NetError::from)? {
            Part::Data(data) => {
                written += data.len() as u64;
                file.write_all(data)?;
                bar.inc(data.len() as u64);
            }
            Part::End(end) if end == written && end == bytes => return Ok(()),
            _ => return Err(NetError::UnexpectedMessage.into()),
        }
    }
}

/// Why a file did not come.
enum Failed {
    Net(NetError),
    Disk(io::Error),
}

impl From<NetError> for Failed {
    fn from(error: NetError) -> Self {
        Self::Net(error)
    }
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Failed {
    fn about(self, path: &Path) -> Error {
        match self {
            Self::Net(error) => error.into(),
            Self::Disk(error) => Error::io(format!("write {}", path.display()), error),
        }
    }
}

/// The folder of the copy.
struct Target(PathBuf);

impl Target {
    fn make(dir: &Path) -> Result<Self, Error> {
        let failed = |error| Error::io(format!("make the folder {}", dir.display()), error);
        match DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if fs::read_dir(dir).map_err(failed)?.next().is_some() {
                    let text = format!("{} is not empty; a copy goes into a new folder", dir.display());
                    return Err(Error::Usage(text));
                }
            }
            made => made.map_err(failed)?,
        }
        Ok(Self(dir.to_owned()))
    }

    /// A new file below the folder. The backend names them, but it does not name anything outside.
    fn create(&self, path: &str) -> Result<(File, PathBuf), Error> {
        let segments: Vec<&str> = path.split('/').collect();
        if segments.iter().any(|part| matches!(*part, "" | "." | "..")) || path.contains('\0') {
            return Err(NetError::UnexpectedMessage.into());
        }
        let place = if path == HEADER { self.unfinished() } else { self.0.join(path) };
        let failed = |error| Error::io(format!("write {}", place.display()), error);
        if let Some(folder) = place.parent() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&place).map_err(failed)?;
        Ok((file, place))
    }

    /// Puts everything on the disk, then names the header: a copy that was cut is not taken for a vault.
    fn publish(&self) -> Result<(), Error> {
        let publish = || {
            let folder = File::open(&self.0)?;
            rustix::fs::syncfs(&folder)?;
            fs::rename(self.unfinished(), self.0.join(HEADER))?;
            folder.sync_all()
        };
        publish().map_err(|error| Error::io(format!("finish {}", self.0.display()), error))
    }

    fn unfinished(&self) -> PathBuf {
        self.0.join(format!(".{HEADER}.part"))
    }
}

fn check(dir: PathBuf, json: bool, owner: Owner) -> Result<(), Error> {
    if !dir.join(HEADER).exists() {
        return Err(VaultError::NoVault(dir).into());
    }
    // This machine keeps nothing that opens a copy.
    if !owner.can_be_asked() {
        return Err(Error::NoTerminal("a password"));
    }
    vault::verify_at(&Places { home: dir, ..places()? }, json, owner)
}
