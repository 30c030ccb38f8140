use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use aico_crypto::{FileKey, OsRandom, Password, StretchCost};
use aico_proto::message::{OpenFileAnswer, Request, SealFileAnswer, Sensitive};
use aico_vault::sealed_file::{Beginning, MAX_SEALED_NAME_BYTES, SealedFile, SealedReader, UnderVault, seal};
use tokio::runtime::Handle;

use crate::args::FileCommand;
use crate::commands::finish;
use crate::error::Error;
use crate::owner::Owner;
use crate::places::connect;
use crate::ui;

/// Seals and opens single files, under a passphrase or under the vault. It blocks; `file` and content stay here.
pub(crate) fn file(command: &FileCommand, mut owner: Owner) -> Result<(), Error> {
    match command {
        FileCommand::Seal { passphrase: ask, file, output } => {
            // Before anything is asked for.
            let (source, name) = (source(file)?, name_of(file));
            let out = Out::at(output)?;
            let beginning = if *ask || owner.has_file() {
                Beginning::with_passphrase(&passphrase(&owner.new_password()?)?, StretchCost::FILE, &OsRandom)?
            } else {
                Handle::current().block_on(vault_beginning())?
            };
            out.write(|to| Ok(seal(&name, beginning, &OsRandom, source, to).map(drop)?))
        }
        FileCommand::Open { file, output } => {
            let sealed = SealedFile::read(source(file)?)?;
            let out = Out::at(output)?;
            let mut reader = opened(sealed, &mut owner)?;
            let name = reader.name().to_owned();
            out.write(|mut to| {
                let mut chunk = Vec::new();
                while reader.next_chunk(&mut chunk)? {
                    to.write_all(&chunk).map_err(|error| cannot_write(output, error))?;
                }
                Ok(())
            })?;
            ui::error_line(&format!("it was sealed as {}", ui::printable(&name)));
            Ok(())
        }
        FileCommand::Cat { file } => {
            let mut reader = opened(SealedFile::read(source(file)?)?, &mut owner)?;
            let (mut chunk, mut out) = (Vec::new(), io::stdout().lock());
            while reader.next_chunk(&mut chunk)? {
                out.write_all(&chunk).map_err(|error| Error::io("write to standard output", error))?;
            }
            out.flush().map_err(|error| Error::io("write to standard output", error))
        }
    }
}

/// Opens it with what its header says: the vault, or a passphrase.
fn opened<R: Read>(sealed: SealedFile<R>, owner: &mut Owner) -> Result<SealedReader<R>, Error> {
    match sealed.under_vault() {
        Some(front) => {
            let key = Handle::current().block_on(vault_key(front, owner))?;
            Ok(sealed.open_under_vault(&key)?)
        }
        None => Ok(sealed.open(&passphrase(&owner.password("Passphrase: ")?)?)?),
    }
}

async fn vault_beginning() -> Result<Beginning, Error> {
    let mut client = connect().await?;
    let answer: SealFileAnswer = client.ask(&Request::FilesSeal {}).await?;
    finish(client).await?;
    Ok(Beginning::under_vault(&answer.header.parse()?, key_of(&answer.key)?))
}

async fn vault_key(front: &UnderVault, owner: &mut Owner) -> Result<FileKey, Error> {
    let mut client = connect().await?;
    let request = Request::FilesOpen { header: front.to_string() };
    let answer: OpenFileAnswer = owner.ask(&mut client, &request, "open").await?;
    finish(client).await?;
    key_of(&answer.key)
}

fn key_of(digits: &Sensitive) -> Result<FileKey, Error> {
    Ok(FileKey::hazmat_from_backend(digits.expose()).map_err(aico_vault::Error::from)?)
}

fn passphrase(text: &Sensitive) -> Result<Password, Error> {
    Password::parse(text.expose()).map_err(|error| Error::Usage(error.to_string()))
}

fn source(file: &Path) -> Result<Box<dyn Read>, Error> {
    if file == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let opened = File::open(file).map_err(|error| Error::io(format!("open {}", file.display()), error))?;
    let bytes = opened.metadata().map(|found| found.len()).unwrap_or_default();
    Ok(Box::new(ui::progress(bytes).wrap_read(opened)))
}

fn cannot_write(path: &Path, error: io::Error) -> Error {
    Error::io(format!("write {}", path.display()), error)
}

/// The last part of the path, cut to what a sealed file takes.
fn name_of(file: &Path) -> String {
    let name = file.file_name().filter(|_| file != Path::new("-"));
    let name = name.map_or_else(|| "standard input".to_owned(), |name| name.to_string_lossy().into_owned());
    let cut = name.floor_char_boundary(MAX_SEALED_NAME_BYTES);
    name.get(..cut).unwrap_or_default().to_owned()
}

/// A new file that gets its name when all of it is there and on disk.
struct Out {
    path: PathBuf,
    unfinished: PathBuf,
    file: File,
}

impl Out {
    fn at(path: &Path) -> Result<Self, Error> {
        let failed = |error| cannot_write(path, error);
        let Some(name) = path.file_name() else {
            return Err(Error::Usage(format!("`{}` names no file", path.display())));
        };
        // A link that leads nowhere counts too.
        if fs::symlink_metadata(path).is_ok() {
            return Err(Error::Usage(format!("`{}` is there already; nothing is overwritten", path.display())));
        }
        let mut unfinished = name.to_owned();
        unfinished.push(format!(".{}.part", std::process::id()));
        let unfinished = path.with_file_name(unfinished);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished).map_err(failed)?;
        Ok(Self { path: path.to_owned(), unfinished, file })
    }

    fn write(self, fill: impl FnOnce(&File) -> Result<(), Error>) -> Result<(), Error> {
        fill(&self.file)?;
        let failed = |error| cannot_write(&self.path, error);
        self.file.sync_all().map_err(failed)?;
        rename_new(&self.unfinished, &self.path).map_err(failed)
    }
}

impl Drop for Out {
    fn drop(&mut self) {
        // Gone already where it has its name.
        let _named = fs::remove_file(&self.unfinished);
    }
}

/// Renames, unless something has come there meanwhile.
fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // A file system that does not know the flag.
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) if fs::symlink_metadata(to).is_err() => {
            fs::rename(from, to)
        }
        renamed => Ok(renamed?),
    }
}
