//! Import and export on a disk that stops, fills up or breaks at any of their calls: the program as it is, its backend and
//! its command line. What was acknowledged is there, nothing is half-done, and no source is gone whose content is not in the
//! vault.
//!
//! A bounded part runs with the tests; `./dev crash` runs `AICO_PROGRAM_INJECTIONS` of them.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::Path;
use std::process::Output;

use crate::crash_disk::sweep::{self, Case};
use crate::crash_disk::{Disk, Fault, Numbers, Tree, Unsynced};
use crate::home::{Home, bytes, files};

/// Injections of the bounded part.
const FEW: usize = 36;
const WORKERS: usize = 4;
const PASSWORD: &str = "correct horse";
/// What is imported as files, and exported again.
const LETTERS: [(&str, usize); 4] = [("a", 10), ("deep/b", 70_000), ("deep/er/large", 1_200_000), ("empty", 0)];
const ROWS: usize = 400;

fn file(bytes: Vec<u8>) -> Tree {
    Tree::File(bytes, 0o600)
}

fn folder(entries: impl IntoIterator<Item = (OsString, Tree)>) -> Tree {
    Tree::Folder(entries.into_iter().collect(), 0o700)
}

fn below<'a>(tree: &'a Tree, name: &str) -> Option<&'a Tree> {
    if let Tree::Folder(entries, _) = tree { entries.get(OsStr::new(name)) } else { None }
}

fn letter(at: usize) -> Vec<u8> {
    bytes(at as u64 + 1, LETTERS[at].1)
}

fn letters() -> Tree {
    let mut root = folder([]);
    for (at, (path, _)) in LETTERS.iter().enumerate() {
        let mut place = &mut root;
        for part in path.split('/') {
            let Tree::Folder(entries, _) = place else { panic!("{path}") };
            place = entries.entry(part.into()).or_insert_with(|| folder([]));
        }
        *place = file(letter(at));
    }
    root
}

/// A database as a program that was killed has left it, the end of it in its log.
fn database() -> Tree {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("old.db");
    let database = rusqlite::Connection::open(&path).unwrap();
    database.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE said(id INTEGER PRIMARY KEY, what TEXT)").unwrap();
    for id in 0..ROWS {
        database
            .execute("INSERT INTO said VALUES (?1, ?2)", (id as i64, format!("row {id} {}", "x".repeat(300))))
            .unwrap();
    }
    let taken =
        ["old.db", "old.db-wal"].map(|name| (OsString::from(name), file(fs::read(place.path().join(name)).unwrap())));
    folder(taken)
}

/// A disk, and a program that has its data, its keys, its sources and its exports on it.
struct Machine {
    disk: Disk,
    home: Home,
    runs: usize,
}

impl Machine {
    fn new() -> Result<Self, String> {
        let home = Home::new();
        let mount = home.root().join("disk");
        fs::create_dir(&mount).unwrap();
        fs::write(home.root().join("password"), PASSWORD).unwrap();
        Ok(Self { disk: Disk::mount(&mount)?, home, runs: 0 })
    }

    /// Puts what the disk holds under a name of its own: the kernel remembers nothing of it.
    fn lay(&mut self, tree: &Tree) -> String {
        self.runs += 1;
        let name = format!("run-{}", self.runs);
        self.disk.put(&name, tree);
        self.home.set("AICO_HOME", &self.at(&name, "data"));
        self.home.set("AICO_KEY_DIR", &self.at(&name, "keys"));
        name
    }

    fn at(&self, run: &str, path: &str) -> String {
        self.home.root().join("disk").join(run).join(path).to_str().unwrap().to_owned()
    }

    fn password(&self) -> String {
        self.home.root().join("password").to_str().unwrap().to_owned()
    }

    /// A vault with a password and a value, and what is to be imported.
    fn first(&mut self) -> Tree {
        let quick = b"security:\n  vault:\n    stretch_memory: 64\n".to_vec();
        let data = folder([("security.yaml".into(), file(quick))]);
        let sources = folder([("letters".into(), letters()), ("database".into(), database())]);
        let all = [("data".into(), data), ("keys".into(), folder([])), ("sources".into(), sources)];
        let name = self.lay(&folder(all));
        self.home.up();
        self.home.put_ok("notes/kept", b"kept");
        self.home.ok(&["security", "setup", "--password-file", &self.password()]);
        self.home.down();
        self.disk.after(&name, Unsynced::Kept, &mut Numbers(1))
    }

    /// Import, import, export: how each of them ended.
    fn play(&self, name: &str) -> [Output; 3] {
        let run = |args: &[&str]| self.home.run(args);
        let password = self.password();
        let (letters, source, out) =
            (self.at(name, "sources/letters"), self.at(name, "sources/database/old.db"), self.at(name, "out"));
        [
            run(&["data", "import", &letters]),
            run(&["import", "sqlite", &source, "--remove-source", "--password-file", &password]),
            run(&["data", "export", &out, "--password-file", &password]),
        ]
    }

    /// What is wrong with what is there, after the three ended as they did. The backend runs.
    fn check(&self, name: &str, start: &Tree, done: [bool; 3]) -> Result<(), String> {
        let vault = self.at(name, "vault");
        let all = self.home.run(&["data", "export", &vault, "--password-file", &self.password()]);
        if !all.status.success() {
            return Err(format!("reading everything: {}", String::from_utf8_lossy(&all.stderr)));
        }
        let read = |path: &str| match fs::read(Path::new(&vault).join(path)) {
            Ok(value) => Ok(Some(value)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{path}: {error}")),
        };
        if read("notes/kept")?.as_deref() != Some(b"kept") {
            return Err("what was there before is gone".to_owned());
        }
        for (at, (path, _)) in LETTERS.iter().enumerate() {
            match read(&format!("letters/{path}"))? {
                Some(value) if value == letter(at) => {}
                None if !done[0] => {}
                other => return Err(format!("letters/{path}: {:?} bytes", other.map(|value| value.len()))),
            }
        }
        let table = read("old/said.jsonl")?;
        let rows = table.as_deref().map_or(0, |table| {
            let lines = String::from_utf8_lossy(table);
            (0..ROWS).filter(|id| lines.contains(&format!("\"row {id} "))).count()
        });
        if table.is_some() && rows != ROWS {
            return Err(format!("half a table: {rows} rows"));
        }
        if rows == 0 && (done[1] || !self.has_whole_source(name, start)) {
            return Err(format!("the table is neither in the vault nor where it was ({done:?})"));
        }
        if done[2] {
            let out = Path::new(&self.at(name, "out")).to_owned();
            let exported = |path: &str| fs::read(out.join(path)).map_err(|error| format!("exported {path}: {error}"));
            if exported("notes/kept")? != b"kept" {
                return Err("another value was exported".to_owned());
            }
            for (at, (path, _)) in LETTERS.iter().enumerate().filter(|_| done[0]) {
                if exported(&format!("letters/{path}"))? != letter(at) {
                    return Err(format!("letters/{path} was exported as something else"));
                }
            }
        }
        let verified = self.home.run(&["audit", "verify", "--require-anchor"]);
        if !verified.status.success() {
            return Err(format!("the log: {}", String::from_utf8_lossy(&verified.stderr)));
        }
        let left: Vec<_> = files(Path::new(&self.at(name, "data")))
            .into_iter()
            .filter(|path| path.extension().is_some_and(|end| end == "part"))
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("left over: {left:?}")) }
    }

    fn has_whole_source(&self, name: &str, start: &Tree) -> bool {
        let Some(Tree::Folder(entries, _)) = below(start, "sources").and_then(|tree| below(tree, "database")) else {
            return false;
        };
        entries.iter().all(|(file, tree)| {
            let Tree::File(bytes, _) = tree else { return false };
            fs::read(Path::new(&self.at(name, "sources/database")).join(file)).is_ok_and(|found| found == *bytes)
        })
    }

    /// One injection; what went wrong, or nothing. `None` if all was over before the fault came.
    fn inject(&mut self, start: &Tree, case: Case) -> Option<Result<(), String>> {
        let name = self.lay(start);
        self.home.up();
        self.disk.plan(case.at, case.fault);
        let ended = self.play(&name);
        let done = ended.each_ref().map(|output| output.status.success());
        let struck = self.disk.heal().0;
        self.home.kill();
        if !struck {
            return None;
        }
        let name = match case.unsynced {
            None => name,
            Some(unsynced) => {
                let after = self.disk.after(&name, unsynced, &mut Numbers(case.seed | 1));
                self.lay(&after)
            }
        };
        let said = || ended.each_ref().map(|output| String::from_utf8_lossy(&output.stderr).into_owned());
        if let Err(error) = self.home.try_up() {
            return Some(Err(format!("it does not start again: {error}; {:?}", said())));
        }
        let checked = self.check(&name, start, done);
        self.home.kill();
        Some(checked.map_err(|error| format!("{error}; {:?}", said())))
    }
}

#[test]
fn import_and_export_on_a_disk_that_fails_at_any_call_lose_nothing() {
    let Some(mut first) = sweep::or_skipped(Machine::new()) else { return };
    let injections = sweep::given("AICO_PROGRAM_INJECTIONS").map_or(FEW, |count| count as usize);
    let mut numbers = sweep::numbers();
    let start = first.first();

    // Without a fault everything is done, and stays when nothing that was not synced survives.
    let name = first.lay(&start);
    first.home.up();
    first.disk.plan(u64::MAX, Fault::Stop);
    for output in first.play(&name) {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    let calls = first.disk.heal().1;
    first.home.kill();
    let after = first.disk.after(&name, Unsynced::Lost, &mut Numbers(1));
    let name = first.lay(&after);
    first.home.up();
    first.check(&name, &start, [true; 3]).unwrap();
    first.home.kill();

    let cases = (0..injections).map(|_| ("import and export", Case::any(calls, &mut numbers))).collect();
    sweep::sweep(cases, (first, WORKERS), || Machine::new().unwrap(), |machine, _, case| machine.inject(&start, case));
}
