use std::os::unix::fs::PermissionsExt;

use aico_crypto::{OsRandom, SpaceKey};
use rusqlite::OptionalExtension;
use tempfile::TempDir;

use super::*;

const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, content BLOB)";

struct Fixture {
    folder: TempDir,
    space: SpaceKey,
}

impl Fixture {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), space: SpaceKey::make(&OsRandom).unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("space.db")
    }

    fn create(&self) -> Database {
        Database::create(&self.path(), self.space.store_key(), &[TABLE]).unwrap()
    }

    fn open(&self) -> Result<Database, Error> {
        Database::open(&self.path(), self.space.store_key(), &[TABLE])
    }

    fn files(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn put(database: &Database, id: i64, content: &[u8]) -> Result<(), Error> {
    database.write(|tx| {
        tx.execute("INSERT OR REPLACE INTO t VALUES (?1, ?2)", (id, content))?;
        Ok(())
    })
}

fn get(database: &Database, id: i64) -> Result<Option<Vec<u8>>, Error> {
    database.read(|db| Ok(db.query_row("SELECT content FROM t WHERE id = ?1", [id], |row| row.get(0)).optional()?))
}

fn is_damaged<T>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Damaged { .. }))
}

#[test]
fn what_is_written_is_read_and_comes_back() {
    let fixture = Fixture::new();
    let database = fixture.create();
    put(&database, 1, b"one").unwrap();
    assert_eq!(get(&database, 1).unwrap().unwrap(), b"one");
    drop(database);
    assert_eq!(fixture.files(), ["space.db"], "the WAL is merged when the last connection closes");
    assert_eq!(get(&fixture.open().unwrap(), 1).unwrap().unwrap(), b"one");
    assert_eq!(fs::metadata(fixture.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn no_database_is_made_or_overwritten_silently() {
    let fixture = Fixture::new();
    assert!(matches!(fixture.open(), Err(Error::Io { .. })));
    assert_eq!(fixture.files(), [""; 0]);
    fs::write(fixture.path(), b"").unwrap();
    assert!(is_damaged(fixture.open()));
    assert_eq!(fs::metadata(fixture.path()).unwrap().len(), 0);
    drop(fixture.create());
    let refused = Database::create(&fixture.path(), fixture.space.store_key(), &[TABLE]);
    assert!(matches!(refused, Err(Error::Misuse(_))));
    fixture.open().unwrap();
}

#[test]
fn what_a_stopped_attempt_left_is_no_obstacle() {
    let fixture = Fixture::new();
    for name in ["space.db.new", "space.db.new-journal", "space.db-wal", "space.db-shm"] {
        fs::write(fixture.folder.path().join(name), b"left over").unwrap();
    }
    let database = fixture.create();
    put(&database, 1, b"one").unwrap();
    drop(database);
    assert_eq!(fixture.files(), ["space.db"]);
}

#[test]
fn a_link_is_not_followed() {
    let fixture = Fixture::new();
    drop(fixture.create());
    let link = fixture.folder.path().join("link.db");
    std::os::unix::fs::symlink(fixture.path(), &link).unwrap();
    assert!(Database::open(&link, fixture.space.store_key(), &[TABLE]).is_err());
    assert!(Database::create(&link, fixture.space.store_key(), &[TABLE]).is_err());
    let folder = fixture.folder.path().join("folder");
    std::os::unix::fs::symlink(fixture.folder.path(), &folder).unwrap();
    Database::open(&folder.join("space.db"), fixture.space.store_key(), &[TABLE]).expect("a folder may be a link");
}

#[test]
fn the_settings_hold_on_both_kinds_of_connection() {
    let fixture = Fixture::new();
    let database = fixture.create();
    let settings = |db: &Connection| {
        let mut all = Vec::new();
        for name in ["synchronous", "secure_delete", "foreign_keys", "trusted_schema", "cache_size", "temp_store"] {
            all.push((name, db.pragma_query_value(None, name, |row| row.get::<_, i64>(0))?));
        }
        let mode: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
        let log: String = db.pragma_query_value(None, "cipher_log_level", |row| row.get(0))?;
        assert_eq!((mode.as_str(), log.as_str()), ("wal", "NONE"));
        Ok(all)
    };
    let wanted = [
        ("synchronous", 2),
        ("secure_delete", 1),
        ("foreign_keys", 1),
        ("trusted_schema", 0),
        ("cache_size", -cache::budget_kib()),
        ("temp_store", 2),
    ];
    assert_eq!(database.write(|tx| settings(tx)).unwrap(), wanted);
    assert_eq!(database.read(settings).unwrap(), wanted);
    let refused = database.read(|db| Ok(db.execute("INSERT INTO t VALUES (9, x'')", ())?));
    assert!(matches!(refused, Err(Error::Sqlite { .. })), "a reader does not write");
}

#[test]
fn a_failed_write_leaves_nothing() {
    let fixture = Fixture::new();
    let database = fixture.create();
    let refused: Result<(), _> = database.write(|tx| {
        tx.execute("INSERT INTO t VALUES (1, x'aa')", ())?;
        Err(Error::NotFound)
    });
    assert!(matches!(refused, Err(Error::NotFound)));
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _: Result<(), _> = database.write(|tx| {
            tx.execute("INSERT INTO t VALUES (2, x'aa')", ())?;
            panic!("in the middle")
        });
    }));
    assert!(panicked.is_err());
    assert_eq!((get(&database, 1).unwrap(), get(&database, 2).unwrap()), (None, None));
    put(&database, 3, b"three").unwrap();
}

#[test]
fn readers_see_one_snapshot_while_another_writes() {
    let fixture = Fixture::new();
    let database = fixture.create();
    put(&database, 1, b"old").unwrap();
    let query = "SELECT content FROM t WHERE id = 1";
    let seen = database.read(|db| {
        let before: Vec<u8> = db.query_row(query, (), |row| row.get(0))?;
        put(&database, 1, b"new")?;
        Ok((before, db.query_row(query, (), |row| row.get::<_, Vec<u8>>(0))?))
    });
    assert_eq!(seen.unwrap(), (b"old".to_vec(), b"old".to_vec()));
    assert_eq!(get(&database, 1).unwrap().unwrap(), b"new");
}

#[test]
fn few_readers_are_kept() {
    let fixture = Fixture::new();
    let database = fixture.create();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let slow = database.read(|_| {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                    Ok(())
                });
                slow.unwrap();
            });
        }
    });
    assert!((1..=pool::IDLE).contains(&database.readers.idle()));
}

#[test]
fn faults_are_told_apart_and_named() {
    let fixture = Fixture::new();
    let database = fixture.create();
    put(&database, 1, &[1; 100_000]).unwrap();
    let text = |error: Error| error.to_string();
    drop(database);
    let other = SpaceKey::make(&OsRandom).unwrap();
    let wrong = text(Database::open(&fixture.path(), other.store_key(), &[TABLE]).unwrap_err());
    assert!(wrong.contains("space.db") && wrong.contains("the key does not fit"), "{wrong}");
    let mut bytes = fs::read(fixture.path()).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(fixture.path(), bytes).unwrap();
    let damaged = text(get(&fixture.open().unwrap(), 1).unwrap_err());
    assert!(damaged.contains("space.db") && damaged.contains("a page"), "{damaged}");
    let mut bytes = fs::read(fixture.path()).unwrap();
    bytes[100] ^= 1;
    fs::write(fixture.path(), bytes).unwrap();
    let first = text(fixture.open().unwrap_err());
    assert!(first.contains("space.db") && first.contains("its first page is not"), "{first}");
    let full = full_database();
    assert!(matches!(&full, Error::Full { what } if what.contains("space.db")), "{full:?}");
}

#[test]
fn another_page_of_the_schema_is_not_taken_for_the_first() {
    let fixture = Fixture::new();
    let tables: Vec<String> =
        (0..100).map(|at| format!("CREATE TABLE t{at} (id INTEGER PRIMARY KEY, {})", "x".repeat(100))).collect();
    let tables: Vec<&str> = tables.iter().map(String::as_str).collect();
    drop(Database::create(&fixture.path(), fixture.space.store_key(), &tables).unwrap());
    let good = fs::read(fixture.path()).unwrap();
    let mut of_the_schema = 0;
    for page in 1..good.len() / 4096 {
        let mut bytes = good.clone();
        bytes[page * 4096 + 2000] ^= 1;
        fs::write(fixture.path(), bytes).unwrap();
        if let Err(error) = Database::open(&fixture.path(), fixture.space.store_key(), &tables) {
            of_the_schema += 1;
            assert!(is_damaged::<()>(Err(error)), "page {page}");
        }
        let said =
            Database::open(&fixture.path(), fixture.space.store_key(), &tables).map_err(|error| error.to_string());
        assert!(
            said.is_ok() || said.as_ref().is_err_and(|said| said.contains("a page is not")),
            "page {page}: {said:?}"
        );
    }
    assert!(of_the_schema > 0);
}

#[test]
fn databases_of_other_programs_are_told_apart() {
    let fixture = Fixture::new();
    for version in 0..4 {
        let wanted = if version == 0 { "a plain SQLite database" } else { "an older format of SQLCipher" };
        let other = if version == 0 {
            Connection::open(fixture.path()).unwrap()
        } else {
            let other = keyed(&fixture.path(), &fixture.space.store_key(), OpenFlags::default()).unwrap();
            other.pragma_update(None, "cipher_compatibility", version).unwrap();
            other
        };
        other.execute_batch(TABLE).unwrap();
        other.execute("INSERT INTO t VALUES (1, ?1)", [vec![1; 20_000]]).unwrap();
        drop(other);
        let before = fs::read(fixture.path()).unwrap();
        let found = fixture.open().unwrap_err();
        assert!(matches!(&found, Error::Damaged { detail, .. } if detail.contains(wanted)), "{found}");
        assert!(fs::read(fixture.path()).unwrap() == before, "looking changes nothing");
        fs::remove_file(fixture.path()).unwrap();
    }
}

fn full_database() -> Error {
    let fixture = Fixture::new();
    let database = fixture.create();
    database.write(|tx| Ok(tx.pragma_update(None, "max_page_count", 10)?)).unwrap();
    let error = put(&database, 1, &[1; 100_000]).unwrap_err();
    put(&database, 2, b"usable").unwrap();
    error
}

/// "SQLCipher hands SQLite zero bytes in the place of a page whose HMAC does not hold"
#[test]
fn a_damaged_page_is_never_read_as_zeros() {
    let fixture = Fixture::new();
    let database = fixture.create();
    put(&database, 1, &[0x55; 40_000]).unwrap();
    put(&database, 2, b"elsewhere").unwrap();
    drop(database);
    let good = fs::read(fixture.path()).unwrap();
    let mut seen_as_zeros = 0;
    for page in 1..good.len() / 4096 {
        let mut bad = good.clone();
        bad[page * 4096 + 2000] ^= 1;
        fs::write(fixture.path(), &bad).unwrap();
        let Ok(database) = fixture.open() else { continue };
        assert!(is_damaged(get(&database, 1)) || get(&database, 1).unwrap().unwrap() == [0x55; 40_000]);
        assert!(is_damaged(database.check()), "page {page}");
        let unchecked: rusqlite::Result<Vec<u8>> =
            unlocked(&fixture.path(), &fixture.space.store_key(), Mac::HmacSha256).unwrap().query_row(
                "SELECT content FROM t WHERE id = 1",
                (),
                |row| row.get(0),
            );
        seen_as_zeros += usize::from(unchecked.is_ok_and(|content| content.ends_with(&[0; 100])));
    }
    assert!(seen_as_zeros > 0, "SQLCipher reports such a page itself now: the status need not be asked");
}

#[test]
fn after_damage_the_rest_is_still_usable() {
    let fixture = Fixture::new();
    let database = fixture.create();
    put(&database, 1, &[0x55; 400_000]).unwrap();
    put(&database, 2, b"elsewhere").unwrap();
    drop(database);
    let mut bytes = fs::read(fixture.path()).unwrap();
    bytes[50 * 4096 + 9] ^= 1;
    fs::write(fixture.path(), bytes).unwrap();
    let database = fixture.open().unwrap();
    let touch = |id: i64| {
        database
            .write(|tx| Ok(tx.query_row("SELECT sum(length(hex(content))) FROM t WHERE id = ?1", [id], |_| Ok(()))?))
    };
    for _ in 0..3 {
        assert!(is_damaged(get(&database, 1)));
        assert_eq!(get(&database, 2).unwrap().unwrap(), b"elsewhere");
        assert!(is_damaged(touch(1)));
        touch(2).unwrap();
    }
}

#[test]
fn a_check_reads_every_page() {
    let fixture = Fixture::new();
    let database = fixture.create();
    for id in 0..20 {
        put(&database, id, &[id as u8; 30_000]).unwrap();
    }
    database.check().unwrap();
    drop(database);
    let good = fs::read(fixture.path()).unwrap();
    for at in (4096..good.len()).step_by(3 * 4096 + 501) {
        let mut bad = good.clone();
        bad[at] ^= 0x10;
        fs::write(fixture.path(), &bad).unwrap();
        assert!(fixture.open().and_then(|database| database.check()).is_err(), "byte {at}");
    }
    for cut in [good.len() - 1, good.len() - 4096, good.len() / 2] {
        fs::write(fixture.path(), &good[..cut]).unwrap();
        assert!(fixture.open().and_then(|database| database.check()).is_err(), "cut at {cut}");
    }
    fs::write(fixture.path(), &good).unwrap();
    fixture.open().unwrap().check().unwrap();
}

#[test]
fn a_page_in_another_place_is_noticed_and_an_older_one_in_its_own_is_not() {
    // docs/spec/vault-stores.md, What is not noticed: "one page put back to an older version opens".
    let fixture = Fixture::new();
    let written = |content: &[u8]| {
        let database = fixture.open().unwrap();
        database
            .write(|tx| {
                tx.execute("UPDATE t SET content = ?1 WHERE id = 7", [content])?;
                Ok(())
            })
            .unwrap();
        drop(database);
        fs::read(fixture.path()).unwrap()
    };
    let database = fixture.create();
    (0..20).for_each(|id| put(&database, id, &[id as u8; 3000]).unwrap());
    drop(database);
    let (old, new) = (written(&[1; 3000]), written(&[2; 3000]));
    let page = |file: &[u8], at: usize| file[at * 4096..(at + 1) * 4096].to_vec();
    let changed: Vec<usize> = (1..new.len() / 4096).filter(|at| page(&old, *at) != page(&new, *at)).collect();
    let [place] = changed[..] else { panic!("one page holds the row: {changed:?}") };
    let put_in = |at: usize, bytes: &[u8]| {
        let mut file = new.clone();
        file[at * 4096..(at + 1) * 4096].copy_from_slice(bytes);
        fs::write(fixture.path(), &file).unwrap();
        fixture.open().unwrap()
    };
    let rolled_back = put_in(place, &page(&old, place));
    rolled_back.check().unwrap();
    assert_eq!(get(&rolled_back, 7).unwrap().unwrap(), [1; 3000], "the limit that is stated");
    drop(rolled_back);
    let moved = put_in(place + 1, &page(&new, place));
    assert!(is_damaged(moved.check()));
}

#[test]
fn migrations_run_once_in_order_and_survive_a_stop_between() {
    let fixture = Fixture::new();
    let open = |migrations: &[&str]| Database::open(&fixture.path(), fixture.space.store_key(), migrations);
    let (two, three) = ("INSERT INTO t VALUES (1, x'02')", "UPDATE t SET content = CAST(content || x'03' AS BLOB)");
    drop(fixture.create());
    // The third one fails as if the program had stopped in it: the second one stays.
    let broken = "UPDATE t SET content = x'ff'; SELECT no_such_function()";
    assert!(matches!(open(&[TABLE, two, broken]), Err(Error::Sqlite { .. })));
    assert_eq!(get(&open(&[TABLE, two]).unwrap(), 1).unwrap().unwrap(), [2]);
    for _ in 0..2 {
        assert_eq!(get(&open(&[TABLE, two, three]).unwrap(), 1).unwrap().unwrap(), [2, 3]);
    }
    match open(&[TABLE]) {
        Err(Error::Newer { what, found: 3, known: 1, .. }) => assert!(what.ends_with("space.db")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_database_that_is_not_one_is_an_error() {
    let fixture = Fixture::new();
    for bytes in [vec![0], vec![0; 4096], vec![0xff; 10_000], b"SQLite format 3\0".repeat(600)] {
        fs::write(fixture.path(), &bytes).unwrap();
        let (length, opened) = (bytes.len(), fixture.open());
        assert!(is_damaged(opened), "{length} bytes");
    }
}
