//! What is forgotten stays forgotten, for whoever kept a copy.

use std::fs;
use std::path::Path;

use aico_crypto::{OsRandom, SpaceKey};
use aico_policy::DataPath;

use super::*;
use rusqlite::Connection;

const LARGE: usize = 1_200_000;
const HEAD: Head = Head { size: 1, root: [1; 32] };

struct Vault {
    folder: tempfile::TempDir,
    key: SpaceKey,
}

impl Vault {
    fn new() -> (Self, UserData) {
        let vault = Self { folder: tempfile::tempdir().unwrap(), key: SpaceKey::make(&OsRandom).unwrap() };
        let path = vault.folder.path().join("space.db");
        let database = Database::create(&path, vault.key.store_key(), TEST_TABLES).unwrap();
        let data = for_tests(database, vault.folder.path().join("files"), &vault.key).unwrap();
        (vault, data)
    }

    fn open(&self) -> UserData {
        let database = Database::open(&self.folder.path().join("space.db"), self.key.store_key(), TEST_TABLES).unwrap();
        for_tests(database, self.folder.path().join("files"), &self.key).unwrap()
    }
}

fn path(text: &str) -> DataPath {
    DataPath::parse(text).unwrap()
}

fn put(data: &UserData, name: &str, bytes: usize) {
    let mut writer = data.begin_put(&path(name), 7);
    writer.write(&vec![bytes as u8; bytes]).unwrap();
    writer.finish().unwrap();
}

fn get(data: &UserData, name: &str) -> Result<usize, Error> {
    let mut reader = data.get(&path(name))?;
    let (mut all, mut piece) = (0, Vec::new());
    while reader.next_chunk(&mut piece)? {
        all += piece.len();
    }
    Ok(all)
}

fn fill(data: &UserData) {
    for name in ["conversations/1/a", "conversations/1", "conversations/10/a", "notes/a", "notesx/a"] {
        put(data, name, 100);
    }
    put(data, "conversations/1/large", LARGE);
    put(data, "notes/large", LARGE);
}

#[test]
fn a_conversation_goes_alone_and_a_category_with_all_that_is_in_it() {
    let (vault, data) = Vault::new();
    fill(&data);
    assert_eq!(data.forget("conversations/1", &HEAD).unwrap(), 3);
    for gone in ["conversations/1", "conversations/1/a", "conversations/1/large"] {
        assert!(matches!(get(&data, gone), Err(Error::NotFound)), "{gone}");
    }
    assert_eq!(get(&data, "conversations/10/a").unwrap(), 100);
    put(&data, "conversations/1/a", 5);
    assert_eq!(get(&data, "conversations/1/a").unwrap(), 5, "the name can be used again");
    assert_eq!(data.forget("conversations", &HEAD).unwrap(), 2);
    assert_eq!(data.forget("notes", &HEAD).unwrap(), 2);
    assert_eq!(data.forget("notes", &HEAD).unwrap(), 0);
    assert_eq!(get(&data, "notesx/a").unwrap(), 100);
    assert_eq!(data.count().unwrap(), 1);
    drop(data);
    assert_eq!(vault.open().count().unwrap(), 1);
}

/// The rows of an old copy come back, and their files; the key table is as it is now.
#[test]
fn an_old_copy_of_the_stores_opens_nothing_without_its_key_table() {
    let (vault, data) = Vault::new();
    fill(&data);
    let kept = vault.folder.path().join("kept");
    copy(&vault.folder.path().join("files"), &kept);
    let rows = |db: &Connection| {
        let mut all = db.prepare("SELECT * FROM value LEFT JOIN inline_value ON value_id = id WHERE path < 'd'")?;
        let columns = all.column_count();
        let rows =
            all.query_map([], |row| (0..columns).map(|at| row.get::<_, rusqlite::types::Value>(at)).collect())?;
        Ok(rows.collect::<Result<Vec<Vec<rusqlite::types::Value>>, _>>()?)
    };
    let old = data.database.read(rows).unwrap();
    assert_eq!(old.len(), 4);
    data.forget("conversations", &HEAD).unwrap();
    data.database
        .write(|tx| {
            for row in &old {
                let (value, inline) = row.split_at(11);
                let marks = vec!["?"; value.len()].join(",");
                tx.execute(&format!("INSERT INTO value VALUES ({marks})"), rusqlite::params_from_iter(value))?;
                if inline[0] != rusqlite::types::Value::Null {
                    tx.execute("INSERT INTO inline_value VALUES (?, ?)", rusqlite::params_from_iter(inline))?;
                }
            }
            Ok(())
        })
        .unwrap();
    copy(&kept, &vault.folder.path().join("files"));
    for name in ["conversations/1", "conversations/1/a", "conversations/10/a", "conversations/1/large"] {
        assert!(matches!(get(&data, name), Err(Error::Damaged { .. })), "{name}");
    }
    // And under the key that the name got since.
    put(&data, "conversations/1/b", 1);
    data.database
        .write(|tx| {
            let sql = "UPDATE value SET key_id = (SELECT key_id FROM value WHERE path = 'conversations/1/b')";
            Ok(tx.execute(sql, []).map(drop)?)
        })
        .unwrap();
    for name in ["conversations/1", "conversations/1/a", "conversations/10/a", "conversations/1/large"] {
        assert!(matches!(get(&data, name), Err(Error::Damaged { .. })), "{name}");
    }
    assert_eq!(get(&data, "conversations/1/b").unwrap(), 1);
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

#[test]
fn a_value_that_comes_while_its_kind_is_forgotten_is_refused() {
    let (_vault, data) = Vault::new();
    put(&data, "notes/a", 3);
    let mut small = data.begin_put(&path("notes/b"), 7);
    small.write(b"small").unwrap();
    let mut large = data.begin_put(&path("notes/large"), 7);
    large.write(&vec![1; LARGE]).unwrap();
    data.forget("notes", &HEAD).unwrap();
    assert!(matches!(large.finish(), Err(Error::Refused(_))), "its key is gone");
    small.finish().unwrap();
    assert_eq!(get(&data, "notes/b").unwrap(), 5, "nothing of it was sealed before");
    assert_eq!(data.count().unwrap(), 1);
}

#[test]
fn a_sealed_value_opens_at_its_own_path_only() {
    let (_vault, data) = Vault::new();
    put(&data, "notes/a", 100);
    put(&data, "notes/b", 100);
    let swap = "UPDATE inline_value SET content = (SELECT content FROM inline_value WHERE value_id = 1)";
    data.database.write(|tx| Ok(tx.execute(swap, []).map(drop)?)).unwrap();
    assert_eq!(get(&data, "notes/a").unwrap(), 100);
    assert!(matches!(get(&data, "notes/b"), Err(Error::Damaged { .. })));
}

#[test]
fn what_is_older_than_data_keys_is_read_and_renewed() {
    let (vault, data) = Vault::new();
    let wrap = vault.key.file_wrap_key();
    let mut writer = data.files.create(&wrap).unwrap();
    writer.write(&vec![7; LARGE]).unwrap();
    let file = writer.finish().unwrap();
    let (id, key) = (*file.id(), file.wrapped_key().to_vec());
    file.keep();
    data.database
        .write(|tx| {
            let sum = aico_crypto::digest(b"old");
            let sql = "INSERT INTO value (path, bytes, sum, created_ms, changed_ms) VALUES ('notes/old', 3, ?1, 1, 1)";
            tx.execute(sql, [sum])?;
            tx.execute("INSERT INTO inline_value VALUES (1, ?1)", [b"old"])?;
            let sql = "INSERT INTO value (path, bytes, sum, created_ms, changed_ms, file_id, file_key)
                       VALUES ('notes/large', ?1, zeroblob(32), 1, 1, ?2, ?3)";
            Ok(tx.execute(sql, rusqlite::params![LARGE as i64, id.as_bytes(), key]).map(drop)?)
        })
        .unwrap();
    assert_eq!((get(&data, "notes/old").unwrap(), get(&data, "notes/large").unwrap()), (3, LARGE));
    let renewed = data.renew(1, &mut |_| true).unwrap();
    assert_eq!(renewed, Renewed { values: 2, bytes: 3 + LARGE as u64, damaged: 0 });
    assert_eq!((get(&data, "notes/old").unwrap(), get(&data, "notes/large").unwrap()), (3, LARGE));
    assert!(matches!(data.files.read(&id, &key, LARGE as u64, &wrap), Err(Error::NotFound)), "the old file is gone");
    assert_eq!(data.renew(1, &mut |_| true).unwrap(), Renewed::default(), "nothing is left to do");
    assert_eq!(data.renew(2, &mut |_| true).unwrap().values, 1, "files get new keys each time");
    data.forget("notes", &HEAD).unwrap();
    assert_eq!(data.count().unwrap(), 0);
}

#[test]
fn a_damaged_value_is_left_as_it_is_and_the_rest_renewed() {
    let (vault, data) = Vault::new();
    put(&data, "notes/a", LARGE);
    put(&data, "notes/b", LARGE + 1);
    let folder = vault.folder.path().join("files");
    let files = || fs::read_dir(&folder).unwrap().flat_map(|f| fs::read_dir(f.unwrap().path()).unwrap());
    let first = files().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&first).unwrap();
    bytes[1000] ^= 1;
    fs::write(&first, bytes).unwrap();
    let renewed = data.renew(1, &mut |_| true).unwrap();
    assert_eq!((renewed.values, renewed.damaged), (1, 1));
    assert!(first.exists());
    assert_eq!(["notes/a", "notes/b"].iter().filter(|name| get(&data, name).is_ok()).count(), 1);
}

#[test]
fn more_keys_than_are_kept_open_are_found_again() {
    let (vault, data) = Vault::new();
    for id in 0..100 {
        put(&data, &format!("conversations/{id}/a"), id);
    }
    (0..100).for_each(|id| assert_eq!(get(&data, &format!("conversations/{id}/a")).unwrap(), id));
    put(&data, "conversations/3/b", 3);
    drop(data);
    let data = vault.open();
    let keys =
        data.database.read(|db| Ok(db.query_row("SELECT count(*) FROM data_key", [], |row| row.get::<_, i64>(0))?));
    assert_eq!(keys.unwrap(), 100);
    (0..100).for_each(|id| assert_eq!(get(&data, &format!("conversations/{id}/a")).unwrap(), id));
}
