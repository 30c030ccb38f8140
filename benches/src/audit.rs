//! An entry of the log, on disk before it counts, beside a row of SQLite with the same promise.

use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use aico_crypto::{LogKey, OsRandom};
use aico_vault::audit::{AuditLog, LogId};
use rusqlite::Connection;

use crate::people::{Result, folder};
use crate::report::{Report, time};
use crate::timing::{Clock, Rounds};

/// What an event of a request encodes to, about.
const ENTRY: [u8; 240] = [b'e'; 240];
const ROUNDS: usize = 12;
const ENTRIES: usize = 128;
const SIDES: [&str; 3] = ["ours", "SQLite, one connection", "SQLite, one connection a writer"];

pub fn run() -> Result<Report> {
    let folder = folder()?;
    let log = AuditLog::create(&folder.path().join("audit"), LogKey::make(&OsRandom)?, LogId::from_bytes([7; 16]))?;
    let database = folder.path().join("log.db");
    let connection = Mutex::new(open(&database)?);
    connection
        .lock()
        .map_err(|_| "poisoned")?
        .execute_batch("CREATE TABLE entry (id INTEGER PRIMARY KEY, bytes BLOB)")?;

    let mut report = Report::default();
    let mut rows = Vec::new();
    for writers in [1, 16] {
        let mut rounds = Rounds::new(SIDES.into_iter());
        for _ in 0..ROUNDS {
            let took = many(writers, |_| {
                let receipt = log.record(&ENTRY)?;
                Ok(log.wait_durable(receipt.index())?)
            })?;
            rounds.add(0, took);
            rounds.add(1, many(writers, |_| insert(&*connection.lock().map_err(|_| "poisoned")?))?);
            let own = (0..writers).map(|_| Ok(Mutex::new(open(&database)?))).collect::<Result<Vec<_>>>()?;
            rounds.add(2, many(writers, |writer| insert(&*own[writer].lock().map_err(|_| "poisoned")?))?);
        }
        for (side, name) in rounds.names() {
            let nanos = rounds.nanos(side).median;
            let first = format!("{writers} {}: {name}", if writers == 1 { "writer" } else { "writers" });
            let ratio = rounds.ratio(0, side).to_string();
            rows.push(vec![
                first,
                time(nanos),
                format!("{:.0}", 1e9 / nanos),
                if side == 0 { String::new() } else { ratio },
            ]);
        }
        if writers == 16 {
            report.at_most("16 writers, ours / SQLite, one connection", rounds.ratio(0, 1), 1.0, "");
        }
    }
    log.close()?;
    report.table(&["", "time an entry", "entries a second", "ours / this"], &rows);
    Ok(report)
}

/// [`ENTRIES`] entries by `writers` threads at once: the time of one.
fn many(writers: usize, write: impl Fn(usize) -> Result<()> + Sync) -> Result<Duration> {
    let (took, done) = Clock::Wall.time(|| {
        thread::scope(|scope| {
            let write = &write;
            let one = |writer| move || (0..ENTRIES / writers).try_for_each(|_| write(writer));
            let running: Vec<_> = (0..writers).map(|writer| scope.spawn(one(writer))).collect();
            running.into_iter().try_for_each(|writer| writer.join().map_err(|_| "a writer panicked")?)
        })
    });
    done?;
    Ok(took / ENTRIES as u32)
}

fn open(path: &Path) -> Result<Connection> {
    let connection = Connection::open(path)?;
    connection.busy_timeout(Duration::from_secs(60))?;
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

fn insert(connection: &Connection) -> Result<()> {
    connection.prepare_cached("INSERT INTO entry (bytes) VALUES (?1)")?.execute([&ENTRY])?;
    Ok(())
}
