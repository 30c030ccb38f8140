//! `aico import`: databases of other programs, row by row (`docs/manual/import.md`).

mod pipe;
mod python;
mod row;
mod schema;
mod source;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aico_ffi_reader::{Database, Source};
use aico_net::{Client, Error as NetError};
use aico_proto::message::{ListAnswer, Request};
use rusqlite::{ErrorCode, ffi};
use zeroize::Zeroizing;

use crate::args::ImportCommand;
use crate::commands::finish;
use crate::error::Error;
use crate::owner::Owner;
use crate::places::{connect, places};
use crate::ui;
use schema::{MAX_ROW_BYTES, Schema, Table};
use source::{Files, Kept};

/// Longest line of a value that is read back: a row of control characters, each as six.
const MAX_LINE_BYTES: u64 = 7 * MAX_ROW_BYTES as u64;

/// What is wrong with a source, or with what was made of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error("`{}` is no SQLite database, or an encrypted one", .0.display())]
    NoDatabase(PathBuf),
    #[error("`{}` is damaged: {}", .0.display(), ui::printable(.1))]
    Damaged(PathBuf, String),
    #[error("another program is writing to `{}`", .0.display())]
    Busy(PathBuf),
    #[error("`{}` has an unfinished transaction beside it, which has to be undone first", .0.display())]
    Unfinished(PathBuf),
    #[error("`{}` was changed meanwhile", .0.display())]
    Changed(PathBuf),
    #[error("`{}` has a table whose name is not text", .0.display())]
    Name(PathBuf),
    #[error("row {} of table `{}` has more than {} MiB", .1, ui::printable(.0), MAX_ROW_BYTES >> 20)]
    RowSize(String, u64),
    #[error("what was stored of table `{}` differs at row {} from what is in the database now", ui::printable(.0), .1)]
    Differs(String, u64),
    #[error("`{}` is not there or has not 16 bytes: without it there is no key", .0.display())]
    NoSalt(PathBuf),
    #[error("the keyring does not give the key of a Python AICO: {0}")]
    NoKey(String),
    #[error("the key does not open `{}`: it, the password or the salt is another one's", .0.display())]
    WrongKey(PathBuf),
    #[error("`{}` is not what a Python AICO wrote with this key", .0.display())]
    FileDamaged(PathBuf),
    #[error("`{}` has more than 512 MiB, and would have to be authenticated as a whole", .0.display())]
    FileSize(PathBuf),
    #[error("what was stored of `{}` differs from what is there", .0.display())]
    FileDiffers(PathBuf),
    #[error("`{}` cannot be read", .0.display())]
    Read(PathBuf, #[source] rusqlite::Error),
}

impl Trouble {
    fn of(error: rusqlite::Error, path: &Path) -> Error {
        let path = path.to_owned();
        let (code, said) = match &error {
            rusqlite::Error::SqliteFailure(code, said) => (Some(*code), said.clone().unwrap_or_default()),
            rusqlite::Error::SqlInputError { error, msg, .. } => (Some(*error), msg.clone()),
            _ => (None, String::new()),
        };
        match code.map(|code| (code.code, code.extended_code)) {
            Some((_, ffi::SQLITE_READONLY_ROLLBACK)) => Self::Unfinished(path),
            Some((ErrorCode::NotADatabase, _)) => Self::NoDatabase(path),
            Some((ErrorCode::DatabaseCorrupt, _)) => Self::Damaged(path, said),
            _ => Self::Read(path, error),
        }
        .into()
    }

    fn at(error: rusqlite::Error, path: &Path, table: &str, row: u64) -> Error {
        match error.sqlite_error_code() {
            Some(ErrorCode::TooBig) => Self::RowSize(table.to_owned(), row).into(),
            _ => Self::of(error, path),
        }
    }

    /// What to do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoDatabase(_) => {
                "a database that its program encrypts is read by that program; `aico import aico` takes the folder of a Python AICO"
            }
            Self::Damaged(..) => {
                "its own program, or `sqlite3 FILE .recover`, may save what is left; nothing was changed"
            }
            Self::Busy(_) => "stop the program that uses it and try again",
            Self::Unfinished(_) => {
                "start the program that wrote it once, or run `sqlite3 FILE .tables`: that undoes it"
            }
            Self::NoSalt(_) => "restore it from a backup of the folder",
            Self::NoKey(_) => {
                "run it in the session whose keyring the Python AICO used; or with `--salt DIGITS`, its keyring entry `salt`, and its password"
            }
            Self::WrongKey(_) => "is this the folder that belongs to the keyring or password?",
            Self::FileDamaged(_) | Self::FileSize(_) => {
                "move the file elsewhere to import the rest; nothing was removed"
            }
            Self::FileDiffers(_) | Self::Changed(_) | Self::Differs(..) => {
                "stop the program that uses it and import again: the values are replaced"
            }
            Self::RowSize(..) | Self::Name(_) | Self::Read(..) => return None,
        })
    }
}

pub(crate) async fn import(command: ImportCommand, owner: Owner) -> Result<(), Error> {
    match command {
        ImportCommand::Sqlite { file, under, remove_source } => {
            let files = Arc::new(Files::open(&file)?);
            let category = match under {
                Some(category) => category,
                None => category_of(&file)?,
            };
            let mut import = Import::begin(owner, category).await?;
            let done = import.database(files.clone(), files.path()).await?;
            import.end(&done).await?;
            let files = Arc::into_inner(files).ok_or_else(still_read)?;
            leave_or_remove(files, Vec::new(), remove_source, "unencrypted")
        }
        ImportCommand::Aico { dir, under, salt, remove_source } => {
            python_aico(owner, &dir, under, salt.as_deref(), remove_source).await
        }
    }
}

async fn python_aico(
    mut owner: Owner,
    dir: &Path,
    under: String,
    salt: Option<&str>,
    remove_source: bool,
) -> Result<(), Error> {
    let folder = python::Folder::open(dir)?;
    let bus = places()?.bus;
    let master = tokio::task::block_in_place(|| python::master(bus, &mut owner, salt))?;
    let unlocked = folder.unlock(&master)?;
    let (files, others) = python::encrypted(&unlocked.root)?;
    let mut import = Import::begin(owner, under).await?;
    let (root, mut kept) = (unlocked.root, vec![unlocked.salt_file]);
    let database = Arc::new(unlocked.database);
    let path = database.files.path().to_owned();
    let done = import.database(database.clone(), &path).await?;
    let mut keys = python::FileKeys::of(&master);
    for file in &files {
        kept.push(Kept::of(file).map_err(|error| Error::io(format!("open {}", file.display()), error))?);
        let content = tokio::task::block_in_place(|| keys.open(file))?;
        import.file(&root, file, &content).await?;
    }
    if !files.is_empty() {
        ui::line(&format!("{} encrypted files imported and verified", files.len()));
    }
    if others > 0 {
        ui::line(&format!(
            "{others} other files of the folder are not encrypted, and stay: `aico data import` takes them"
        ));
    }
    import.end(&done).await?;
    let database = Arc::into_inner(database).ok_or_else(still_read)?;
    leave_or_remove(database.files, kept, remove_source, "under its old key")
}

fn still_read() -> Error {
    Error::Usage("the source is still being read".to_owned())
}

/// The name of the file without its ending.
fn category_of(file: &Path) -> Result<String, Error> {
    let name = file.file_stem().and_then(|name| name.to_str()).map(str::to_owned);
    name.ok_or_else(|| Error::Usage("the file's name must be UTF-8 text; name a category with `--under`".to_owned()))
}

/// The end of an import. What is removed was verified, and is what it was.
fn leave_or_remove(files: Files, more: Vec<Kept>, remove: bool, state: &str) -> Result<(), Error> {
    files.check_unchanged()?;
    more.iter().try_for_each(Kept::check_unchanged)?;
    let shown = ui::printable(&files.path().display().to_string());
    if !remove {
        ui::error_line(&format!("{shown} is still there, {state}; `--remove-source` removes it after an import"));
        return Ok(());
    }
    files.remove()?;
    more.into_iter().try_for_each(Kept::remove)?;
    ui::line(&format!(
        "{shown} is removed; what a disk has deleted is not wiped, and copies and backups are not touched"
    ));
    Ok(())
}

/// What came over.
#[derive(Debug, Default)]
struct Imported {
    tables: usize,
    rows: u64,
    bytes: u64,
}

/// One import into one category.
struct Import {
    owner: Owner,
    client: Client,
    category: String,
}

impl Import {
    /// Connects, and has the owner show presence before anything is stored: what is stored is read back.
    async fn begin(mut owner: Owner, category: String) -> Result<Self, Error> {
        let mut client = connect().await?;
        let request = Request::DataList { prefix: Some(format!("{category}/")), after: None };
        let _page: ListAnswer = owner.ask(&mut client, &request, "import").await?;
        Ok(Self { owner, client, category })
    }

    async fn end(self, done: &Imported) -> Result<(), Error> {
        ui::line(&format!(
            "{} tables, {} rows, {} imported under {}/ and verified row by row",
            done.tables,
            done.rows,
            ui::size(done.bytes),
            ui::printable(&self.category),
        ));
        finish(self.client).await
    }

    /// Every table of a database, and its description.
    async fn database(&mut self, source: Arc<dyn Source>, path: &Path) -> Result<Imported, Error> {
        let from = path.to_owned();
        let opened = blocking(move || {
            let database = schema::open(source, &from)?;
            let schema = Schema::read(&database, &from)?;
            Ok((database, schema))
        });
        let (mut database, schema) = opened.await?;
        let mut done = Imported::default();
        for table in &schema.tables {
            let (back, rows, bytes) = self.table(database, table, path).await?;
            database = back;
            ui::line(&format!("{}: {rows} rows imported and verified", ui::printable(&table.name)));
            done.tables += 1;
            done.rows += rows;
            done.bytes += bytes;
        }
        for name in &schema.virtual_tables {
            let name = ui::printable(name);
            ui::line(&format!("{name}: a virtual table, made by code from other tables; they are imported, it is not"));
        }
        let description = schema.description.as_slice();
        let path = format!("{}/schema.json", self.category);
        self.client.put(&path, &mut &*description).await?;
        let mut back = Vec::new();
        self.get(&path, &mut back).await?;
        if back != description {
            return Err(Trouble::Differs("schema.json".to_owned(), 0).into());
        }
        Ok(done)
    }

    /// One file of a folder, as it was before it was encrypted.
    async fn file(&mut self, root: &Path, file: &Path, content: &[u8]) -> Result<(), Error> {
        let name = file.strip_prefix(root).ok().and_then(Path::to_str);
        let name = name.ok_or_else(|| Error::Usage(format!("the name of `{}` is not UTF-8 text", file.display())))?;
        let path = format!("{}/files/{name}", self.category);
        self.client.put(&path, &mut &*content).await?;
        let mut back = Zeroizing::new(Vec::with_capacity(content.len()));
        self.get(&path, &mut *back).await?;
        if *back == content { Ok(()) } else { Err(Trouble::FileDiffers(file.to_owned()).into()) }
    }

    /// One table: stored, read back, and compared with the rows as they are read again.
    async fn table(&mut self, database: Database, table: &Table, path: &Path) -> Result<(Database, u64, u64), Error> {
        let value = format!("{}/{}", self.category, table.file_name());
        let (mut writer, mut reader) = pipe::to_task();
        let (from, of) = (path.to_owned(), table.clone());
        let written = tokio::task::spawn_blocking(move || {
            let rows = of.write(&database, &from, &mut writer)?;
            writer.end().map_err(|error| Error::io("send a table", error))?;
            Ok((database, rows))
        });
        let stored = self.client.put(&value, &mut reader).await;
        // A writer that nobody reads ends.
        drop(reader);
        let written = joined(written.await);
        let stored = match (stored, &written) {
            // Its own end of the pipe broke: the other end knows why.
            (Err(NetError::Local(_)), Err(_)) => return written.map(|(database, rows)| (database, rows, 0)),
            (stored, _) => stored?,
        };
        let (database, rows) = written?;

        let (mut task, thread) = pipe::to_thread();
        let (from, of) = (path.to_owned(), table.clone());
        let compared = tokio::task::spawn_blocking(move || {
            let mut lines = BufReader::new(thread);
            let next = || {
                let mut line = Vec::new();
                (&mut lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
                Ok(line)
            };
            let rows = of.compare(&database, &from, next)?;
            Ok((database, rows))
        });
        let got = self.get(&value, &mut task).await;
        drop(task);
        let (database, verified) = match (got, joined(compared.await)) {
            (Err(error @ Error::Net(NetError::Local(_))), Ok(_)) => return Err(error),
            (Err(Error::Net(NetError::Local(_))), Err(error)) => return Err(error),
            (got, compared) => {
                got?;
                compared?
            }
        };
        if verified == rows {
            Ok((database, rows, stored.bytes))
        } else {
            Err(Trouble::Differs(table.name.clone(), rows).into())
        }
    }

    /// Reads a value; the owner shows presence again where the session has ended meanwhile.
    async fn get(&mut self, path: &str, into: &mut (impl tokio::io::AsyncWrite + Unpin)) -> Result<(), Error> {
        if let Err(error) = self.client.get(path, into).await {
            // Refused before a byte of it was sent, or not at all.
            self.owner.show_presence(&mut self.client, error, "import").await?;
            self.client.get(path, into).await?;
        }
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    joined(tokio::task::spawn_blocking(work).await)
}

fn joined<T>(ended: Result<Result<T, Error>, tokio::task::JoinError>) -> Result<T, Error> {
    ended.unwrap_or_else(|crash| Err(Error::io("import", std::io::Error::other(crash))))
}
