//! Values in the store, beside plain SQLite and plain files with the same promise: on disk, or not at all.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use aico_crypto::{CHUNK_BYTES, FileKey, Hasher, OsRandom, SEALED_CHUNK_BYTES};
use rusqlite::Connection;
use rustix::fs::{Advice, fadvise};

use crate::people::{House, Result, folder};
use crate::report::{Report, size, time};
use crate::timing::{Clock, Rounds, Side, in_turn};

const SIDES: [&str; 3] = ["ours", "plain SQLite", "plain files"];
const SMALL: usize = 4096;
const LARGE: usize = 64 * 1024 * 1024;
/// Small values that are there to be read; a round puts a part of them anew.
const SMALL_VALUES: usize = 256;
const SMALL_PUTS: usize = 16;
const ROUNDS: usize = 8;

pub fn run() -> Result<Report> {
    let mut report = Report::default();
    let small = measure(SMALL, SMALL_VALUES, SMALL_PUTS)?;
    let large = measure(LARGE, 1, 1)?;
    let mut rows = Vec::new();
    for (bytes, measured) in [(SMALL, &small), (LARGE, &large)] {
        for (what, rounds) in ["put", "get, cold", "get, warm"].into_iter().zip(measured) {
            let figures = (0..SIDES.len()).map(|side| figure(bytes, rounds.nanos(side).median));
            let ratios = [1, 2].map(|other| rounds.ratio(other, 0).to_string());
            rows.push(std::iter::once(format!("{what}, {}", size(bytes))).chain(figures).chain(ratios).collect());
        }
    }
    let head = ["", SIDES[0], SIDES[1], SIDES[2], "our speed / SQLite's", "our speed / files'"];
    report.table(&head, &rows);
    report.line("What reading and writing 64 MiB consists of, each part by itself, in pieces of 64 KiB:");
    report.table(&["", "time", "speed"], &parts()?);
    report.at_least("get 64 MiB, cold, our speed / plain files'", large[1].ratio(2, 0), 0.6, "");
    Ok(report)
}

/// Small values are counted in time, large ones in speed.
fn figure(bytes: usize, nanos: f64) -> String {
    if bytes < 1 << 20 { time(nanos) } else { format!("{:.0} MB/s", bytes as f64 / nanos * 1e3) }
}

/// Puts, cold gets and warm gets of `values` values of `bytes`, of which a round puts `puts`.
fn measure(bytes: usize, values: usize, puts: usize) -> Result<[Rounds; 3]> {
    let folder = folder()?;
    let mut stores: [Box<dyn Store>; 3] = [
        Box::new(Ours::open(folder.path())?),
        Box::new(Sqlite::open(&folder.path().join("plain.db"))?),
        Box::new(Files::open(&folder.path().join("files"))?),
    ];
    // Another one each round: SQLite writes nothing where a row stays the same.
    let value = |round: usize| (0..bytes).map(|at| (at * 31 + at / 251 + round) as u8).collect::<Vec<u8>>();
    let first = value(0);
    let path = |at: usize| format!("diary/entry-{at:04}");
    for store in &stores {
        (0..values).try_for_each(|at| store.put(&path(at), &first))?;
    }
    let mut measured = [(); 3].map(|()| Rounds::new(SIDES.into_iter()));
    // Not in the order in which they were written.
    let order: Vec<_> = (0..values).map(|at| path(at * 101 % values)).collect();
    for round in 0..ROUNDS {
        let value = value(round + 1);
        for (side, store) in stores.iter_mut().enumerate() {
            let put = || (0..puts).try_for_each(|at| store.put(&path((round * puts + at) % values), &value));
            let (took, done) = Clock::Wall.time(put);
            done?;
            measured[0].add(side, took / puts as u32);
            store.forget()?;
            for (rounds, _temperature) in measured[1..].iter_mut().zip(["cold", "warm"]) {
                let get = || order.iter().try_for_each(|path| store.get(path, bytes));
                let (took, done) = Clock::Wall.time(get);
                done?;
                rounds.add(side, took / values as u32);
            }
        }
    }
    Ok(measured)
}

/// The parts of a large read, without the rest.
fn parts() -> Result<Vec<Vec<String>>> {
    let cipher = FileKey::make(&OsRandom)?.chunk_cipher(&[0; 44])?;
    let chunks = (LARGE / CHUNK_BYTES) as u64;
    let mut sealed = Vec::with_capacity(SEALED_CHUNK_BYTES);
    sealed.resize(CHUNK_BYTES, 5);
    cipher.seal(0, false, &mut sealed)?;
    let (plaintext, mut chunk) = (vec![5; CHUNK_BYTES], Vec::new());
    let sum = || {
        let mut hasher = Hasher::new();
        (0..chunks).for_each(|_| hasher.update(&plaintext));
        std::hint::black_box(hasher.finish());
    };
    let open = || {
        for _ in 0..chunks {
            chunk.clear();
            chunk.extend_from_slice(&sealed);
            cipher.open(0, false, &mut chunk).expect("opens");
        }
    };
    let names = ["BLAKE2b-256 over the value (writing only)", "AES-256-GCM, a copy of each chunk included"];
    let mut sides = [Side::new(names[0], sum), Side::new(names[1], open)];
    let measured = in_turn(Clock::Thread, ROUNDS, &mut sides);
    let row = |(side, name): (usize, &str)| {
        let nanos = measured.nanos(side).median;
        vec![name.to_owned(), time(nanos), figure(LARGE, nanos)]
    };
    Ok(measured.names().map(row).collect())
}

trait Store {
    fn put(&self, path: &str, value: &[u8]) -> Result<()>;
    /// Reads a value of `bytes` to its end.
    fn get(&self, path: &str, bytes: usize) -> Result<()>;
    /// Makes the next read a cold one: closes what is open, has the kernel forget the files, and opens anew.
    fn forget(&mut self) -> Result<()>;
}

/// The vault as the backend uses it, decision and record included.
struct Ours {
    folder: PathBuf,
    house: Option<House>,
}

impl Ours {
    fn open(folder: &Path) -> Result<Self> {
        Ok(Self { folder: folder.to_owned(), house: Some(House::open(folder)?) })
    }

    fn house(&self) -> Result<&House> {
        Ok(self.house.as_ref().ok_or("the vault is closed")?)
    }
}

impl Store for Ours {
    fn put(&self, path: &str, value: &[u8]) -> Result<()> {
        self.house()?.put(path, value)
    }

    fn get(&self, path: &str, bytes: usize) -> Result<()> {
        whole(self.house()?.get(path)? as usize, bytes)
    }

    fn forget(&mut self) -> Result<()> {
        self.house = None;
        forget(&self.folder.join("home"))?;
        self.house = Some(House::open(&self.folder)?);
        Ok(())
    }
}

struct Sqlite {
    path: PathBuf,
    connection: Option<Connection>,
}

impl Sqlite {
    fn open(path: &Path) -> Result<Self> {
        let connection = Self::connect(path)?;
        connection.execute_batch("CREATE TABLE value (path TEXT PRIMARY KEY, content BLOB NOT NULL) STRICT")?;
        Ok(Self { path: path.to_owned(), connection: Some(connection) })
    }

    fn connect(path: &Path) -> Result<Connection> {
        let connection = Connection::open(path)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "cache_size", -16 * 1024)?;
        Ok(connection)
    }

    fn connection(&self) -> Result<&Connection> {
        Ok(self.connection.as_ref().ok_or("the database is closed")?)
    }
}

impl Store for Sqlite {
    fn put(&self, path: &str, value: &[u8]) -> Result<()> {
        let sql = "INSERT INTO value VALUES (?1, ?2) ON CONFLICT (path) DO UPDATE SET content = excluded.content";
        self.connection()?.prepare_cached(sql)?.execute((path, value))?;
        Ok(())
    }

    fn get(&self, path: &str, bytes: usize) -> Result<()> {
        let mut statement = self.connection()?.prepare_cached("SELECT content FROM value WHERE path = ?1")?;
        let read = statement.query_row([path], |row| Ok(std::hint::black_box(row.get_ref(0)?.as_blob()?).len()))?;
        whole(read, bytes)
    }

    fn forget(&mut self) -> Result<()> {
        // The last connection to close merges the WAL.
        drop(self.connection.take());
        evict(&self.path)?;
        self.connection = Some(Self::connect(&self.path)?);
        Ok(())
    }
}

struct Files {
    folder: PathBuf,
}

impl Files {
    fn open(folder: &Path) -> Result<Self> {
        fs::create_dir(folder)?;
        fs::create_dir(folder.join("diary"))?;
        Ok(Self { folder: folder.to_owned() })
    }
}

impl Store for Files {
    fn put(&self, path: &str, value: &[u8]) -> Result<()> {
        let path = self.folder.join(path);
        let new = path.with_extension("new");
        let mut file = File::create(&new)?;
        file.write_all(value)?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        Ok(File::open(path.parent().ok_or("no folder")?)?.sync_all()?)
    }

    fn get(&self, path: &str, bytes: usize) -> Result<()> {
        let (mut file, mut chunk, mut read) = (File::open(self.folder.join(path))?, vec![0; 64 * 1024], 0);
        loop {
            match file.read(&mut chunk)? {
                0 => return whole(read, bytes),
                more => read += more,
            }
            std::hint::black_box(&chunk);
        }
    }

    fn forget(&mut self) -> Result<()> {
        forget(&self.folder)
    }
}

fn whole(read: usize, bytes: usize) -> Result<()> {
    if read == bytes { Ok(()) } else { Err("another value".into()) }
}

/// Has the kernel forget every file below `folder`.
fn forget(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
        match kind? {
            kind if kind.is_dir() => forget(&path)?,
            kind if kind.is_file() => evict(&path)?,
            _ => {}
        }
    }
    Ok(())
}

fn evict(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    // Only what is on disk already is forgotten.
    file.sync_all()?;
    Ok(fadvise(&file, 0, None, Advice::DontNeed)?)
}
