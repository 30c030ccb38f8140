//! `aico data export` and `aico data inventory`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use aico_net::{Client, Error as NetError};
use aico_proto::message::{ExportAnswer, InventoryAnswer, Part, Request};

use crate::commands::finish;
use crate::error::Error;
use crate::owner::Owner;
use crate::places::connect;
use crate::ui;

/// Writes every value to `dir/<category>/<name…>`: the layout that `import` reads, folder by folder.
pub(crate) async fn export(dir: &Path, mut owner: Owner) -> Result<(), Error> {
    let mut target = Target::make(dir)?;
    let mut client = connect().await?;
    let request = Request::DataExport {};
    let head: ExportAnswer = owner.ask(&mut client, &request, "export").await?;
    let bar = ui::progress(head.bytes);
    let (mut values, mut bytes, mut failed) = (0u64, 0u64, Vec::new());
    while let Some(entry) = client.next_exported().await? {
        let mut file = match target.create(&entry.path) {
            Ok(file) => Some(file),
            Err(why) => {
                failed.push(format!("{}: {why}", entry.path));
                None
            }
        };
        let written = receive(&mut client, &mut file, &bar).await?;
        if let Some(file) = file {
            file.sync_all().map_err(|error| Error::io(format!("write {}", entry.path), error))?;
            values += 1;
            bytes += written;
        }
    }
    target.sync()?;
    bar.finish_and_clear();
    ui::line(&format!(
        "{values} of {} values written to {}, {}",
        head.values,
        ui::printable(&dir.display().to_string()),
        ui::size(bytes)
    ));
    failed.iter().for_each(|problem| ui::error_line(&format!("not written: {}", ui::printable(problem))));
    ui::error_line("what was written is not encrypted: delete it when you are done");
    finish(client).await?;
    if failed.is_empty() { Ok(()) } else { Err(Error::Export(failed.len())) }
}

/// One value into its file, or past it.
async fn receive(client: &mut Client, file: &mut Option<File>, bar: &indicatif::ProgressBar) -> Result<u64, Error> {
    let mut bytes = 0;
    loop {
        match Part::parse(client.next_part().await?).map_err(NetError::from)? {
            Part::Data(data) => {
                bytes += data.len() as u64;
                bar.inc(data.len() as u64);
                if let Some(file) = file {
                    file.write_all(data).map_err(|error| Error::io("write an exported value", error))?;
                }
            }
            Part::End(length) if length == bytes => return Ok(bytes),
            Part::Failure(json) => {
                return Err(NetError::Failure(aico_proto::message::from_json(json).map_err(NetError::from)?).into());
            }
            _ => return Err(NetError::UnexpectedMessage.into()),
        }
    }
}

/// The folder that is written to; it was empty, and nothing is written outside of it.
struct Target {
    folder: PathBuf,
    /// The folders in it that were made.
    made: Vec<PathBuf>,
}

impl Target {
    fn make(dir: &Path) -> Result<Self, Error> {
        let failed = |error| Error::io(format!("make the folder {}", dir.display()), error);
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let empty = fs::read_dir(dir).map_err(failed)?.next().is_none();
                if !empty {
                    return Err(Error::Usage(format!("{} is not empty; name a new folder", dir.display())));
                }
            }
            other => other.map_err(failed)?,
        }
        Ok(Self { folder: dir.canonicalize().map_err(failed)?, made: Vec::new() })
    }

    /// A new file for a value. Its path has no empty, `.` or `..` part, and no file is ever written twice.
    fn create(&mut self, path: &str) -> Result<File, String> {
        let parts: Vec<&str> = path.split('/').collect();
        if parts.iter().any(|part| matches!(*part, "" | "." | "..") || part.contains('\0')) {
            return Err("its path cannot be a file's".to_owned());
        }
        let Some((name, folders)) = parts.split_last() else { return Err("it has no name".to_owned()) };
        let mut folder = self.folder.clone();
        for part in folders {
            folder.push(part);
            match fs::DirBuilder::new().mode(0o700).create(&folder) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && is_folder(&folder) => {}
                Err(error) => return Err(error.to_string()),
                Ok(()) => self.made.push(folder.clone()),
            }
        }
        let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(folder.join(name));
        made.map_err(|error| error.to_string())
    }

    /// The files are on disk; this is for their names, so that whoever deletes the vault next has them. A file system that
    /// syncs no folders, or a folder that may not be read, is left to itself.
    fn sync(&self) -> Result<(), Error> {
        use std::io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
        let own = [self.folder.as_path()];
        for folder in self.made.iter().map(PathBuf::as_path).chain(own).chain(self.folder.parent()) {
            let synced = File::open(folder).and_then(|folder| folder.sync_all());
            match synced {
                Err(error) if !matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported) => {
                    return Err(Error::io(format!("write {}", folder.display()), error));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A real one: a link would lead elsewhere.
fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir())
}

/// What is stored, how much, how it is protected, who may read it.
pub(crate) async fn inventory(json: bool, mut owner: Owner) -> Result<(), Error> {
    let mut client = connect().await?;
    let answer: InventoryAnswer = owner.ask(&mut client, &Request::DataInventory {}, "inventory").await?;
    for category in &answer.categories {
        if json {
            ui::line(&serde_json::to_string(category)?);
            continue;
        }
        let name = ui::printable(&category.category);
        ui::line(&format!("{name}: {} values, {}", category.values, ui::size(category.bytes)));
        ui::line(&format!("  protected by  {}", category.protection));
        ui::line(&format!("  readable by   {}", ui::printable(&category.readers.join(", "))));
    }
    if answer.more {
        ui::error_line("there are more categories; `aico data list` shows everything");
    }
    finish(client).await
}
