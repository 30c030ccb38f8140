//! What stands in a store, what the kernel asks of a mount, and databases and shares that somebody gives.

use std::cell::RefCell;
use std::io;
use std::sync::{Arc, LazyLock};

use aico_crypto::{Gathering, OsRandom, RecoveryCode, Share, Split};
use aico_ffi_reader::{Database, Part, Source};
use aico_vault::parsers::{self, Blocks, Kernel, RawNode, Scratch};

use crate::edits::{Input, edit};
use crate::files::folder;

/// Inputs that a tree is used for.
const ROUNDS: u32 = 64;

/// Stores in a folder of their own.
struct Place {
    scratch: Scratch,
    rounds: u32,
    _folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = folder();
        Self { scratch: Scratch::new(folder.path()).unwrap(), rounds: 0, _folder: folder }
    }
}

thread_local! {
    static TREE: RefCell<Place> = RefCell::new(Place::new());
    static KEYS: Place = Place::new();
    static BLOCKS: (Blocks, tempfile::TempDir) = {
        let folder = folder();
        let plain = (0..3 * 4096_u32).map(|at| (at % 251) as u8).collect();
        (Blocks::new(&folder.path().join("blocks"), plain).unwrap(), folder)
    };
}

/// Messages of the kernel: as they come, and with a header that says how long they are. The tree is whole after them.
pub fn fuse(data: &[u8]) {
    TREE.with_borrow_mut(|place| {
        if place.rounds == ROUNDS {
            *place = Place::new();
        }
        place.rounds += 1;
        let mut input = Input(data);
        let read_only = input.byte() == Some(0xff);
        let before = read_only.then(|| Kernel::new(&place.scratch, true).unwrap().end().unwrap());
        let mut kernel = Kernel::new(&place.scratch, read_only).unwrap();
        kernel.says(data);
        while let (Some(op), Some(node)) = (input.byte(), input.byte()) {
            let Some(body) = input.bytes(4096) else { break };
            let length = 40 + body.len() as u32;
            let numbers = [length.to_ne_bytes(), u32::from(op % 48).to_ne_bytes()].concat();
            kernel.says(&[&numbers, &1u64.to_ne_bytes()[..], &u64::from(node).to_ne_bytes(), &[0; 16], &body].concat());
        }
        let mut names = kernel.end().unwrap();
        let mut again = Kernel::new(&place.scratch, true).unwrap().end().unwrap();
        names.sort();
        again.sort();
        assert_eq!(names, again, "what was told is on the disk");
        assert!(before.is_none_or(|before| before.len() == names.len()), "nothing is changed");
    });
}

/// A row of the tree.
pub fn node(data: &[u8]) {
    let mut input = Input(data);
    let mut numbers = [1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
    let mut texts = [const { None }; 4];
    let mut name = b"name".to_vec();
    while let Some(what) = input.byte() {
        let bytes = input.bytes(5000).unwrap_or_default();
        match what % 16 {
            at @ 0..=9 => {
                let mut number = [0; 8];
                number.iter_mut().rev().zip(bytes.iter().rev()).for_each(|(to, from)| *to = *from);
                numbers[usize::from(at)] = i64::from_be_bytes(number);
            }
            10 => name = bytes,
            at => texts[usize::from(at - 11) % 4] = Some(bytes),
        }
    }
    // An error is what SQLite itself does not take, or what was refused.
    if let Ok(again) = parsers::node(&RawNode { numbers, name, texts }) {
        assert!(again, "a node that was read is another one when it is written");
    }
}

/// The row of a data key.
pub fn data_key(data: &[u8]) {
    let mut input = Input(data);
    let mut changed = false;
    let found = KEYS.with(|place| {
        place.scratch.data_key(|id, wrapped| {
            let before = (id.clone(), wrapped.clone());
            while let Some(which) = input.byte() {
                let _end = edit(if which % 2 == 0 { id } else { wrapped }, &mut input);
            }
            changed = before != (id.clone(), wrapped.clone());
        })
    });
    match found {
        Ok(found) => assert!(!changed && found == Some(true), "a row that was changed opens"),
        Err(error) => assert!(changed, "a key that was not changed does not open: {error}"),
    }
}

/// A sealed file of the tree.
pub fn sealed_blocks(data: &[u8]) {
    BLOCKS.with(|(blocks, _)| {
        let (mut bytes, mut input) = (blocks.bytes().to_vec(), Input(data));
        while edit(&mut bytes, &mut input).is_some() {}
        match blocks.read(&bytes) {
            Ok((whole, wrong)) => {
                assert!(!wrong, "a wrong byte");
                assert!(whole == 3 || bytes != blocks.bytes());
            }
            Err(_) => assert!(bytes != blocks.bytes()),
        }
    });
}

/// A recovery code's shares: genuine ones, chosen by the first byte, and typed ones.
pub fn shares(data: &[u8]) {
    static CODE: LazyLock<(String, Vec<String>)> = LazyLock::new(|| {
        let code = RecoveryCode::make(&OsRandom).unwrap();
        let shares = code.split(Split::new(3, 5).unwrap(), &OsRandom).unwrap();
        let words = |share: &Share| share.hazmat_share_words(|words| words.join(" "));
        (code.hazmat_words(|words| words.join(" ")), shares.iter().map(words).collect())
    });
    let Some((mask, typed)) = data.split_first() else { return };
    let (code, genuine) = &*CODE;
    let mut gathering = Gathering::default();
    let chosen = genuine.iter().enumerate().filter(|(at, _)| mask >> at & 1 == 1).map(|(_, words)| words);
    let mut taken = 0;
    for words in chosen {
        let (there, wanted) = gathering.add(Share::parse(words).unwrap()).unwrap();
        taken += 1;
        assert_eq!((there, wanted), (taken, 3));
        assert!(gathering.add(Share::parse(words).unwrap()).is_err(), "the same one twice");
    }
    let restored = |gathering: &Gathering| gathering.restore().ok().map(|code| code.hazmat_words(|w| w.join(" ")));
    assert_eq!(restored(&gathering).as_ref(), (taken >= 3).then_some(code));
    for line in String::from_utf8_lossy(typed).lines() {
        if let Ok(share) = Share::parse(line) {
            let _other_set = gathering.add(share);
        }
    }
    let _code = restored(&gathering);
}

struct Bytes(Vec<u8>);

impl Source for Bytes {
    fn read(&self, part: Part, offset: u64, out: &mut [u8]) -> io::Result<usize> {
        let from = usize::try_from(offset).ok().filter(|_| part == Part::Database);
        let there = from.and_then(|from| self.0.get(from..)).unwrap_or_default();
        let bytes = there.len().min(out.len());
        out[..bytes].copy_from_slice(&there[..bytes]);
        Ok(bytes)
    }

    fn length(&self, part: Part) -> io::Result<Option<u64>> {
        Ok((part == Part::Database).then_some(self.0.len() as u64))
    }
}

/// A small database of somebody's, and changes of it, read as an import reads it.
pub fn imported(data: &[u8]) {
    static GENUINE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let folder = folder();
        let path = folder.path().join("db");
        let db = rusqlite::Connection::open(&path).unwrap();
        db.execute_batch(
            "PRAGMA page_size = 512; CREATE TABLE a (x INTEGER PRIMARY KEY, y TEXT, z BLOB) ; CREATE INDEX i ON a (y);
             CREATE VIEW v AS SELECT * FROM a; CREATE TABLE b (k TEXT PRIMARY KEY) WITHOUT ROWID;
             WITH RECURSIVE n (x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < 60)
             INSERT INTO a SELECT x, 'text ' || x, randomblob(x * 9) FROM n; INSERT INTO b SELECT y FROM a;",
        )
        .unwrap();
        drop(db);
        std::fs::read(path).unwrap()
    });
    let read = |bytes: Vec<u8>| -> Result<u32, rusqlite::Error> {
        let database = Database::open(Arc::new(Bytes(bytes)))?;
        let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND coalesce(rootpage, 0) > 0 LIMIT 100";
        let names: Vec<String> = database.prepare(sql)?.query_map((), |row| row.get(0))?.collect::<Result<_, _>>()?;
        let mut rows = 0;
        for name in names {
            let mut statement =
                database.prepare(&format!("SELECT * FROM \"{}\" LIMIT 1000", name.replace('"', "\"\"")))?;
            let columns = statement.column_count();
            let mut cursor = statement.query(())?;
            while let Some(row) = cursor.next()? {
                (0..columns).try_for_each(|at| row.get_ref(at).map(drop))?;
                rows += 1;
            }
        }
        Ok(rows)
    };
    let _refused = read(data.to_vec());
    let (mut bytes, mut input) = (GENUINE.clone(), Input(data));
    while edit(&mut bytes, &mut input).is_some() {}
    let rows = read(bytes.clone());
    assert!(bytes != *GENUINE || rows == Ok(120));
}
