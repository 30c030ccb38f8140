use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aico_crypto::{OsRandom, SpaceKey};
use tempfile::TempDir;

use super::*;

const TABLE: &str = "CREATE TABLE t (id INTEGER PRIMARY KEY, content BLOB)";

struct Fixture {
    folder: TempDir,
    keys: [SpaceKey; 2],
}

impl Fixture {
    fn new() -> Self {
        let key = || SpaceKey::make(&OsRandom).unwrap();
        Self { folder: tempfile::tempdir().unwrap(), keys: [key(), key()] }
    }

    fn path(&self, at: usize) -> PathBuf {
        self.folder.path().join(format!("store-{at}.db"))
    }

    fn create(&self) -> Database {
        Database::create(&self.path(0), self.keys[0].store_key(), &[TABLE]).unwrap()
    }

    fn open(&self, at: usize, key: usize) -> Result<Database, Error> {
        Database::open(&self.path(at), self.keys[key].store_key(), &[TABLE])
    }

    fn rekey(&self, database: &Database, commit: impl FnOnce() -> Commit) -> Result<(), Error> {
        database.rekey(&self.path(1), self.keys[1].store_key(), &mut |_, _| true, |_| Ok(()), commit)
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.ends_with("-wal") && !name.ends_with("-shm"));
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

fn all(database: &Database) -> Vec<(i64, Vec<u8>)> {
    let read = |db: &Connection| {
        let mut statement = db.prepare("SELECT id, content FROM t ORDER BY id")?;
        let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        Ok(rows.collect::<Result<_, _>>()?)
    };
    database.read(read).unwrap()
}

#[test]
fn a_new_key_takes_everything_over_and_the_old_one_opens_nothing() {
    let fixture = Fixture::new();
    let database = fixture.create();
    for id in 0..200 {
        put(&database, id, &vec![id as u8; 3000]).unwrap();
    }
    let before = all(&database);
    let mut told = Vec::new();
    let last = |copy: &Connection| Ok(copy.execute("INSERT INTO t VALUES (1000, x'01')", []).map(drop)?);
    let key = fixture.keys[1].store_key();
    database
        .rekey(
            &fixture.path(1),
            key,
            &mut |done, of| {
                told.push((done, of));
                true
            },
            last,
            || Commit::Done,
        )
        .unwrap();
    assert!(told.last().is_some_and(|(done, of)| done == of && *of > 100), "{told:?}");
    let mut after = all(&database);
    assert_eq!(after.pop(), Some((1000, vec![1])));
    assert_eq!(after, before);
    put(&database, 1, b"later").unwrap();
    assert_eq!(fixture.names(), ["store-1.db"]);
    drop(database);
    assert_eq!(fixture.names(), ["store-1.db"]);
    assert!(matches!(fixture.open(1, 0), Err(Error::Damaged { .. })));
    let again = fixture.open(1, 1).unwrap();
    again.check().unwrap();
    assert_eq!(all(&again)[1], (1, b"later".to_vec()));
}

#[test]
fn what_is_written_meanwhile_is_in_the_copy_and_nobody_waits_long() {
    let fixture = Fixture::new();
    let database = fixture.create();
    for id in 0..300 {
        put(&database, id, &vec![7; 50_000]).unwrap();
    }
    let (ended, longest) = (AtomicBool::new(false), Mutex::new(Duration::ZERO));
    std::thread::scope(|threads| {
        for thread in 0..3_i64 {
            let (database, ended, longest) = (&database, &ended, &longest);
            threads.spawn(move || {
                for round in 0.. {
                    let (began, id) = (Instant::now(), (round * 7 + thread) % 400);
                    put(database, id, &[round as u8; 900]).unwrap();
                    database.read(|db| Ok(db.query_row("SELECT count(*) FROM t", [], |_| Ok(()))?)).unwrap();
                    let mut longest = longest.lock().unwrap();
                    *longest = longest.max(began.elapsed());
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
        }
        fixture.rekey(&database, || Commit::Done).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        ended.store(true, Ordering::Relaxed);
    });
    eprintln!("longest wait {:?}", longest.lock().unwrap());
    let before = all(&database);
    drop(database);
    let again = fixture.open(1, 1).unwrap();
    again.check().unwrap();
    assert_eq!(all(&again), before);
}

#[test]
fn a_refused_change_keeps_the_old_key_and_an_unclear_one_writes_nothing_more() {
    let fixture = Fixture::new();
    let database = fixture.create();
    put(&database, 1, b"one").unwrap();
    let refused = fixture.rekey(&database, || Commit::Not(Error::NotFound));
    assert!(matches!(refused, Err(Error::NotFound)));
    assert_eq!(fixture.names(), ["store-0.db"]);
    put(&database, 2, b"two").unwrap();
    let failed = database.rekey(
        &fixture.path(1),
        fixture.keys[1].store_key(),
        &mut |_, _| true,
        |_| Err(Error::NotFound),
        || Commit::Done,
    );
    assert!(matches!(failed, Err(Error::NotFound)));
    assert_eq!(fixture.names(), ["store-0.db"]);
    let key = fixture.keys[1].store_key();
    let stopped = database.rekey(&fixture.path(1), key, &mut |_, _| false, |_| Ok(()), || Commit::Done);
    assert!(matches!(stopped, Err(Error::Stopped)));
    assert_eq!(fixture.names(), ["store-0.db"]);
    put(&database, 3, b"three").unwrap();
    assert!(fixture.rekey(&database, || Commit::Unclear(Error::NotFound)).is_err());
    assert_eq!(fixture.names(), ["store-0.db", "store-1.db"]);
    assert!(matches!(put(&database, 4, b"four"), Err(Error::Misuse(_))));
    assert_eq!(all(&database).len(), 3, "it can still be read");
    drop(database);
    for at in [0, 1] {
        assert_eq!(all(&fixture.open(at, at).unwrap()).len(), 3, "either may count");
    }
}

#[test]
fn a_damaged_page_stops_the_copying_and_never_becomes_a_good_one() {
    let fixture = Fixture::new();
    let database = fixture.create();
    for id in 0..100 {
        put(&database, id, &vec![9; 10_000]).unwrap();
    }
    drop(database);
    let mut bytes = fs::read(fixture.path(0)).unwrap();
    bytes[40 * 4096 + 100] ^= 1;
    fs::write(fixture.path(0), bytes).unwrap();
    let database = fixture.open(0, 0).unwrap();
    let stopped = fixture.rekey(&database, || Commit::Done);
    assert!(matches!(stopped, Err(Error::Damaged { .. })), "{stopped:?}");
    assert_eq!(fixture.names(), ["store-0.db"]);
    put(&database, 1000, b"it goes on").unwrap();
}

#[test]
fn an_emptied_log_holds_nothing() {
    let fixture = Fixture::new();
    let database = fixture.create();
    put(&database, 1, b"one").unwrap();
    database.settle().unwrap();
    assert_eq!(fs::metadata(with_suffix(&fixture.path(0), "-wal")).unwrap().len(), 0);
}

/// What an older program wrote: SQLCipher's own default.
#[test]
fn a_database_of_an_older_program_is_read_and_gets_new_keys() {
    let fixture = Fixture::new();
    let connection = unlocked(&fixture.path(0), &fixture.keys[0].store_key(), Mac::HmacSha512);
    assert!(connection.is_err(), "it does not make a database");
    fs::write(fixture.path(0), []).unwrap();
    let connection = unlocked(&fixture.path(0), &fixture.keys[0].store_key(), Mac::HmacSha512).unwrap();
    migrate(&connection, &[TABLE]).unwrap();
    connection.close().unwrap();
    let database = fixture.open(0, 0).unwrap();
    for id in 0..100 {
        put(&database, id, &[id as u8; 2000]).unwrap();
    }
    let before = all(&database);
    fixture.rekey(&database, || Commit::Done).unwrap();
    assert_eq!(all(&database), before);
    drop(database);
    assert!(matches!(fixture.open(1, 0), Err(Error::Damaged { .. })));
    assert_eq!(all(&fixture.open(1, 1).unwrap()), before);
}

/// SQLite carries nothing over any more once it has said that a copy is equal.
#[test]
fn a_write_at_the_moment_when_both_are_equal_is_not_lost() {
    for stop in [false, true] {
        let fixture = Fixture::new();
        let database = fixture.create();
        put(&database, 1, b"before").unwrap();
        std::thread::scope(|threads| {
            let mut tell = |done, of| {
                if done < of {
                    return true;
                }
                threads.spawn(|| put(&database, 2, b"at the end").unwrap());
                std::thread::sleep(Duration::from_millis(200));
                !stop
            };
            let key = fixture.keys[1].store_key();
            let done = database.rekey(&fixture.path(1), key, &mut tell, |_| Ok(()), || Commit::Done);
            assert_eq!(done.is_ok(), !stop);
        });
        assert_eq!(all(&database), [(1, b"before".to_vec()), (2, b"at the end".to_vec())], "{stop}");
    }
}
