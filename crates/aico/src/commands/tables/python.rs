//! The data folder of a Python AICO: its encrypted database, read page by page, and its encrypted files
//! (`docs/spec/python-aico.md`). Nothing of it reaches a disk in the clear.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aico_crypto::{PythonFiles, PythonMaster, PythonPages, PythonPurpose, SALT_BYTES};
use aico_ffi_reader::{Part, Source};
use aico_vault::unlock::SecretService;
use walkdir::WalkDir;
use zeroize::Zeroizing;

use super::Trouble;
use super::source::{Files, Kept};
use crate::error::Error;
use crate::owner::Owner;
use crate::ui;

/// Largest encrypted file: it is authenticated as a whole, in memory.
const MAX_FILE_BYTES: u64 = 512 << 20;
const WAL_HEAD: u64 = 32;
const FRAME_HEAD: u64 = 24;

/// A folder, found and opened; no key is known yet.
pub(crate) struct Folder {
    root: PathBuf,
    database: Files,
    salt: [u8; SALT_BYTES],
    salt_file: Kept,
}

impl Folder {
    pub(crate) fn open(root: &Path) -> Result<Self, Error> {
        let failed = |error| Error::io(format!("open {}", root.display()), error);
        let root = root.canonicalize().map_err(failed)?;
        let path = root.join("data/aico.db");
        if !path.is_file() {
            return Err(Error::Usage(format!(
                "`{}` has no `data/aico.db`: it is no data folder of a Python AICO",
                root.display()
            )));
        }
        let salt_path = root.join("data/aico.db.salt");
        let salt_file = Kept::of(&salt_path).map_err(|_| Trouble::NoSalt(salt_path.clone()))?;
        let salt = fs::read(&salt_path).ok().and_then(|salt| salt.try_into().ok());
        let salt = salt.ok_or(Trouble::NoSalt(salt_path))?;
        Ok(Self { database: Files::open(&path)?, root, salt, salt_file })
    }

    /// The database, if the key is its key.
    pub(crate) fn unlock(self, master: &PythonMaster) -> Result<Unlocked, Error> {
        let (pages, path) = (master.pages(&self.salt), self.database.path().to_owned());
        let mut head = [0; 24];
        let failed = |error| Error::io(format!("read {}", path.display()), error);
        let there = self.database.read(Part::Database, 0, &mut head).map_err(failed)?;
        let [.., a, b, _, _, _, _, _, _] = head;
        // 65,536 is written as 1.
        let page_bytes = if [a, b] == [0, 1] { 1 << 16 } else { u64::from(u16::from_be_bytes([a, b])) };
        if there < head.len() || !page_bytes.is_power_of_two() || page_bytes < 512 {
            return Err(Trouble::NoDatabase(path).into());
        }
        let database = Database { files: self.database, pages, page_bytes };
        match database.page(1) {
            Ok(_) => Ok(Unlocked { root: self.root, database, salt_file: self.salt_file }),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(Trouble::WrongKey(path).into()),
            Err(error) => Err(failed(error)),
        }
    }
}

/// A folder whose database has shown that the key is right.
pub(crate) struct Unlocked {
    pub(crate) root: PathBuf,
    pub(crate) database: Database,
    pub(crate) salt_file: Kept,
}

/// A database of SQLite3MultipleCiphers' `aes256cbc`, decrypted as it is read.
pub(crate) struct Database {
    pub(crate) files: Files,
    pages: PythonPages,
    page_bytes: u64,
}

impl Database {
    fn page(&self, number: u64) -> io::Result<Zeroizing<Vec<u8>>> {
        let mut page = Zeroizing::new(vec![0; self.page_bytes as usize]);
        let there = self.files.read(Part::Database, (number - 1) * self.page_bytes, &mut page)?;
        if there < page.len() {
            // No whole page: nothing that was encrypted.
            page.truncate(0);
            return Ok(page);
        }
        self.decrypt(number, &mut page)?;
        Ok(page)
    }

    fn decrypt(&self, number: u64, page: &mut [u8]) -> io::Result<()> {
        let number = u32::try_from(number).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
        self.pages.open(number, page).map_err(|_| io::ErrorKind::PermissionDenied.into())
    }
}

impl Source for Database {
    fn read(&self, part: Part, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        match part {
            Part::Database => {
                let mut there = 0;
                while there < out.len() {
                    let at = offset + there as u64;
                    let page = self.page(at / self.page_bytes + 1)?;
                    let rest = page.get((at % self.page_bytes) as usize..).unwrap_or_default();
                    let now = rest.len().min(out.len() - there);
                    if now == 0 {
                        break;
                    }
                    out.iter_mut().skip(there).zip(rest).for_each(|(to, from)| *to = *from);
                    there += now;
                }
                Ok(there)
            }
            // Frames were encrypted before they were summed: what SQLite reads to sum them stays, the page of one is opened.
            Part::Wal => {
                let there = self.files.read(part, offset, out)?;
                let frame = FRAME_HEAD + self.page_bytes;
                let is_page = out.len() as u64 == self.page_bytes
                    && offset.checked_sub(WAL_HEAD + FRAME_HEAD).is_some_and(|at| at % frame == 0);
                if is_page && there == out.len() {
                    let mut number = [0; 4];
                    self.files.read(part, offset - FRAME_HEAD, &mut number)?;
                    self.decrypt(u32::from_be_bytes(number).into(), out)?;
                }
                Ok(there)
            }
            Part::Journal => self.files.read(part, offset, out),
        }
    }

    fn length(&self, part: Part) -> io::Result<Option<u64>> {
        self.files.length(part)
    }
}

/// The master key: out of the keyring, or of the password.
pub(crate) fn master(bus: Option<String>, owner: &mut Owner, salt: Option<&str>) -> Result<PythonMaster, Error> {
    let keyring = SecretService::new(bus);
    let entry = |name| keyring.foreign(&[("service", "AICO"), ("username", name)]);
    let salt = match salt {
        Some(salt) => Some(Zeroizing::new(salt.to_owned())),
        None => match entry("master_key") {
            Ok(Some(digits)) => {
                let master = PythonMaster::hazmat_from_keyring(&digits);
                return master.map_err(|error| Trouble::NoKey(format!("its `master_key` is {error}")).into());
            }
            Ok(None) => entry("salt").map_err(|why| Trouble::NoKey(why.to_string()))?,
            Err(why) => return Err(Trouble::NoKey(why.to_string()).into()),
        },
    };
    let Some(salt) = salt else {
        return Err(Trouble::NoKey("it has neither a `master_key` nor a `salt` of AICO".to_owned()).into());
    };
    let salt = salt_of(&salt).ok_or_else(|| Error::Usage("a salt is 32 hexadecimal digits".to_owned()))?;
    let password = owner.password("Password of the Python AICO: ")?;
    ui::error_line("stretching it: 1 GiB of memory and some seconds");
    Ok(PythonMaster::stretch(password.expose(), &salt).map_err(aico_vault::Error::from)?)
}

fn salt_of(digits: &str) -> Option<[u8; SALT_BYTES]> {
    let digits = digits.trim();
    if digits.len() != 2 * SALT_BYTES || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes)
}

/// The encrypted files of the folder, and how many others there are.
pub(crate) fn encrypted(root: &Path) -> Result<(Vec<PathBuf>, usize), Error> {
    let (mut found, mut others) = (Vec::new(), 0);
    for entry in WalkDir::new(root).sort_by_file_name() {
        let entry = entry.map_err(|error| Error::io(format!("read {}", root.display()), error.into()))?;
        let is_database = entry.path().starts_with(root.join("data"))
            && entry.file_name().to_str().is_some_and(|name| name.starts_with("aico.db"));
        if !entry.file_type().is_file() || is_database {
            continue;
        }
        let mut head = [0; 4];
        let read = fs::File::open(entry.path()).and_then(|mut file| io::Read::read_exact(&mut file, &mut head));
        if read.is_ok() && PythonFiles::is_one(&head) { found.push(entry.into_path()) } else { others += 1 }
    }
    Ok((found, others))
}

/// The keys of files, made as they are needed.
pub(crate) struct FileKeys<'a> {
    master: &'a PythonMaster,
    made: Vec<PythonFiles>,
}

impl<'a> FileKeys<'a> {
    pub(crate) fn of(master: &'a PythonMaster) -> Self {
        Self { master, made: Vec::new() }
    }

    /// The content of an encrypted file, once all of it is authentic.
    pub(crate) fn open(&mut self, path: &Path) -> Result<Zeroizing<Vec<u8>>, Error> {
        let failed = |error| Error::io(format!("read {}", path.display()), error);
        if fs::metadata(path).map_err(failed)?.len() > MAX_FILE_BYTES {
            return Err(Trouble::FileSize(path.to_owned()).into());
        }
        let file = fs::read(path).map_err(failed)?;
        for (at, purpose) in PythonPurpose::ALL.into_iter().enumerate() {
            if self.made.len() == at {
                self.made.push(self.master.files(purpose).map_err(aico_vault::Error::from)?);
            }
            if let Some(Ok(content)) = self.made.get(at).map(|key| key.open(&file)) {
                return Ok(content);
            }
        }
        Err(Trouble::FileDamaged(path.to_owned()).into())
    }
}
