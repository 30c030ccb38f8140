//! Data at rest, each store beside the plain one with the same settings: SQLCipher beside SQLite, RocksDB and DuckDB beside
//! themselves, sealed files beside `cp`, `age` and `openssl enc`, a rotation beside copying the folder.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use aico_policy::{Action, Resource};
use rusqlite::Connection;

use crate::people::{House, Result, disk, folder, places};
use crate::report::{Report, time};
use crate::start::{Backend, program};
use crate::timing::{Clock, Rounds};

const ROUNDS: usize = 10;
/// Rows of a database, and bytes of each: a hundred megabytes.
const ROWS: usize = 100_000;
const ROW: usize = 1000;
const READS: usize = 20_000;
const SMALL: usize = 20;
const SIDES: [&str; 2] = ["SQLCipher", "plain SQLite"];
/// What a sealed file is compared with at.
const GIB: usize = 1 << 30;

pub fn run() -> Result<Report> {
    let mut report = Report::default();
    databases(&mut report)?;
    engines(&mut report)?;
    files(&mut report)?;
    rotation(&mut report)?;
    Ok(report)
}

fn databases(report: &mut Report) -> Result<()> {
    let folder = folder()?;
    let mut measured = [(); 5].map(|()| Rounds::new(SIDES.into_iter()));
    let [bulk, small, warm, cold, scan] = &mut measured;
    let content: Vec<u8> = (0..ROW).map(|at| (at * 31 + at / 7) as u8).collect();
    for round in 0..ROUNDS {
        for turn in 0..2 {
            let side = (round + turn) % 2;
            let path = folder.path().join(format!("{side}.db"));
            for suffix in ["", "-wal", "-shm"] {
                let _none_yet = fs::remove_file(folder.path().join(format!("{side}.db{suffix}")));
            }
            let connection = open(&path, side == 0)?;
            connection.execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, content BLOB NOT NULL)")?;
            let (took, done) = Clock::Wall.time(|| insert(&connection, 0, ROWS, &content));
            done?;
            bulk.add(side, took);
            let each = || (0..SMALL).try_for_each(|at| insert(&connection, ROWS + at, ROWS + at + 1, &content));
            let (took, done) = Clock::Wall.time(each);
            done?;
            small.add(side, took / SMALL as u32);
            connection.close().map_err(|(_, error)| error)?;
            // Cold: nothing in the connection's cache. The file is in the kernel's, so that no disk is measured.
            let connection = open(&path, side == 0)?;
            for rounds in [&mut *cold, &mut *warm] {
                let (took, done) = Clock::Thread.time(|| points(&connection));
                done?;
                rounds.add(side, took / READS as u32);
                // The whole of it, for the second turn.
                connection.query_row("SELECT sum(length(content)) FROM t", [], |_| Ok(()))?;
            }
            connection.close().map_err(|(_, error)| error)?;
            let connection = open(&path, side == 0)?;
            let sum = "SELECT sum(length(content) + unicode(substr(content, 999))) FROM t";
            let (took, done) = Clock::Thread.time(|| connection.query_row(sum, [], |_| Ok(())));
            done?;
            scan.add(side, took);
        }
    }
    let names = [
        "insert 100 MB in one transaction",
        "one row, one transaction",
        "point read, warm",
        "point read, cold",
        "scan",
    ];
    report.line("SQLCipher:");
    let measured: Vec<_> = names.into_iter().zip(measured).collect();
    ratios(report, SIDES, &measured);
    report.at_most("point read, warm, SQLCipher / SQLite", measured[2].1.ratio(0, 1), 1.25, "");
    report.at_most("point read, cold, SQLCipher / SQLite", measured[3].1.ratio(0, 1), 1.6, "");
    Ok(())
}

/// A connection with the vault's settings.
fn open(path: &Path, sealed: bool) -> Result<Connection> {
    let connection = Connection::open(path)?;
    if sealed {
        connection.pragma_update(None, "cipher_log_level", "NONE")?;
        aico_ffi_sqlcipher::set_key(&connection, format!("x'{}'", "5a".repeat(32)).as_bytes())?;
        connection.pragma_update(None, "cipher_hmac_algorithm", "HMAC_SHA256")?;
    }
    connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(None, "secure_delete", true)?;
    connection.pragma_update(None, "cache_size", -256 * 1024)?;
    Ok(connection)
}

fn insert(connection: &Connection, from: usize, to: usize, content: &[u8]) -> Result<()> {
    let tx = connection.unchecked_transaction()?;
    let mut statement = tx.prepare_cached("INSERT INTO t VALUES (?1, ?2)")?;
    (from..to).try_for_each(|id| statement.execute((id as i64, content)).map(drop))?;
    drop(statement);
    Ok(tx.commit()?)
}

fn points(connection: &Connection) -> Result<()> {
    let mut statement = connection.prepare_cached("SELECT content FROM t WHERE id = ?1")?;
    for at in 0..READS {
        let id = (at * 7919 % ROWS) as i64;
        statement.query_row([id], |row| Ok(std::hint::black_box(row.get_ref(0)?.as_blob()?.len())))?;
    }
    Ok(())
}

/// The engines that only the product's build has: programs of theirs measure both sides, and print what they found.
fn engines(report: &mut Report) -> Result<()> {
    let compare = program().with_file_name("examples").join("compare");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // All libraries, so that the engines are built with the same features as ever; one of them has such a test.
    let question = ["test", "--release", "--locked", "--workspace", "--lib", "--", "--ignored", "--nocapture"];
    let programs = [
        (["RocksDB, sealed", "plain"], Command::new(compare)),
        (["DuckDB, encrypted", "plain"], {
            let mut command = Command::new(cargo);
            command.args(question).arg("encrypted_against_plain").stderr(Stdio::null());
            command
        }),
    ];
    for (sides, mut command) in programs {
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut measured: Vec<(&str, Rounds)> = Vec::new();
        for line in text.lines() {
            let ["figure", name, ours, plain] = line.split('\t').collect::<Vec<_>>()[..] else { continue };
            let at = measured.iter().position(|(known, _)| *known == name).unwrap_or_else(|| {
                measured.push((name, Rounds::new(sides.into_iter())));
                measured.len() - 1
            });
            for (side, nanos) in [ours, plain].into_iter().enumerate() {
                measured[at].1.add(side, Duration::from_nanos(nanos.parse()?));
            }
        }
        if !output.status.success() || measured.is_empty() {
            return Err(format!("{command:?} measured nothing").into());
        }
        report.line(&format!("{}:", sides[0]));
        ratios(report, sides, &measured);
    }
    Ok(())
}

fn ratios(report: &mut Report, sides: [&str; 2], measured: &[(&str, Rounds)]) {
    let row = |(name, rounds): &(&str, Rounds)| {
        let figures = (0..2).map(|side| time(rounds.nanos(side).median));
        std::iter::once((*name).to_owned()).chain(figures).chain([rounds.ratio(0, 1).to_string()]).collect()
    };
    report.table(&["", sides[0], sides[1], "ratio"], &measured.iter().map(row).collect::<Vec<_>>());
}

fn files(report: &mut Report) -> Result<()> {
    let folder = folder()?;
    let (plain, sealed, password) =
        (folder.path().join("plain"), folder.path().join("sealed"), folder.path().join("password"));
    let mut file = File::create(&plain)?;
    let piece: Vec<u8> = (0..1 << 20).map(|at: usize| (at * 31 + at / 251) as u8).collect();
    (0..GIB >> 20).try_for_each(|_| file.write_all(&piece))?;
    file.sync_all()?;
    fs::write(&password, "correct horse")?;
    let (plain, sealed) = (plain.to_string_lossy().into_owned(), sealed.to_string_lossy().into_owned());
    let password = password.to_string_lossy().into_owned();
    let recipient = age_recipient(folder.path())?;
    let (openssl, aico) = (format!("file:{password}"), program().to_string_lossy().into_owned());
    let house = folder.path().join("house");
    fs::create_dir(&house)?;
    let (backend, places) = (Backend::start(&house)?, places(&house));
    let mut sides: Vec<(&'static str, Vec<&str>)> = vec![
        ("aico file seal, under the vault", vec![&aico, "file", "seal", &plain, "-o", &sealed]),
        ("cp", vec!["cp", &plain, &sealed]),
        (
            "aico file seal, under a passphrase",
            vec![&aico, "file", "seal", "--password-file", &password, &plain, "-o", &sealed],
        ),
        (
            "openssl enc",
            vec!["openssl", "enc", "-aes-256-ctr", "-pbkdf2", "-pass", &openssl, "-in", &plain, "-out", &sealed],
        ),
    ];
    if let Some(recipient) = &recipient {
        sides.push(("age", vec!["age", "-r", recipient, "-o", &sealed, &plain]));
    } else {
        report.line("`age` is not installed here.");
    }
    let names = || sides.iter().map(|(name, _)| *name);
    let (mut wall, mut user) = (Rounds::new(names()), Rounds::new(names()));
    for round in 0..6 {
        for turn in 0..sides.len() {
            let side = (round + turn) % sides.len();
            let _none_yet = fs::remove_file(&sealed);
            let before = children();
            let (took, status) = Clock::Wall.time(|| {
                let mut command = Command::new(sides[side].1[0]);
                command.env("AICO_HOME", &places.home).env("AICO_KEY_DIR", &places.key_dir).env_remove("AICO_RUN_DIR");
                let status = command.args(&sides[side].1[1..]).stdout(Stdio::null()).status();
                // The others leave it to the kernel when it is on the disk.
                File::open(&sealed).and_then(|file| file.sync_all()).and(status)
            });
            if !status?.success() {
                return Err(format!("{} failed", sides[side].0).into());
            }
            wall.add(side, took);
            user.add(side, children() - before);
        }
    }
    let row = |(side, name): (usize, &str)| {
        vec![
            name.to_owned(),
            time(wall.nanos(side).median),
            time(user.nanos(side).median),
            wall.ratio(0, side).to_string(),
        ]
    };
    backend.stop()?;
    report.line("1 GiB sealed, the sync included (`age` to a recipient; a passphrase is stretched first):");
    report.table(&["", "wall", "user CPU", "our wall / its"], &wall.names().map(row).collect::<Vec<_>>());
    for (side, name) in [(0, "the vault"), (2, "a passphrase")] {
        report.at_most(&format!("seal 1 GiB under {name}, wall, ours / cp"), wall.ratio(side, 1), 1.2, "");
        if recipient.is_some() {
            report.at_most(&format!("seal 1 GiB under {name}, user CPU, ours / age"), user.ratio(side, 4), 0.34, "");
        }
    }
    Ok(())
}

fn age_recipient(folder: &Path) -> Result<Option<String>> {
    let identity = folder.join("age");
    let Ok(made) = Command::new("age-keygen").arg("-o").arg(&identity).output() else { return Ok(None) };
    let text = String::from_utf8_lossy(&made.stderr).into_owned();
    Ok(text.split_whitespace().find(|word| word.starts_with("age1")).map(str::to_owned))
}

/// User time of all children that have ended.
fn children() -> Duration {
    let usage = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = usage.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    // `cutime`, in hundredths of a second on every Linux there is.
    let ticks: u64 = fields.get(13).and_then(|ticks| ticks.parse().ok()).unwrap_or(0);
    Duration::from_millis(ticks * 10)
}

/// All keys of a vault with large and small values, beside a synced copy of its folder.
fn rotation(report: &mut Report) -> Result<()> {
    let folder = folder()?;
    let house = House::open(folder.path())?;
    let large = vec![7; 16 << 20];
    (0..20).try_for_each(|at| house.put(&format!("large/{at}"), &large))?;
    (0..5000).try_for_each(|at| house.put(&format!("small/{at}"), &[at as u8; 4000]))?;
    let names = ["a rotation", "a copy"];
    let mut measured = Rounds::new(names.into_iter());
    for _ in 0..5 {
        let permit = house.permit_for(Action::RotateKeys, Resource::System)?;
        let (took, done) = Clock::Wall.time(|| house.vault.rotate(permit, 1, &mut |_| true));
        done?;
        measured.add(0, took);
        let to = disk().join("aico-copied");
        let _none_yet = fs::remove_dir_all(&to);
        let (took, done) = Clock::Wall.time(|| {
            let status = Command::new("cp").arg("-r").arg(folder.path().join("home")).arg(&to).status()?;
            let folder = File::open(&to)?;
            rustix::fs::syncfs(&folder).map_err(std::io::Error::from).map(|()| status)
        });
        done?;
        measured.add(1, took);
        fs::remove_dir_all(&to)?;
    }
    let row = |(side, name): (usize, &str)| vec![name.to_owned(), time(measured.nanos(side).median)];
    report.line("New keys for 320 MB in files of 16 MiB and 20 MB in 5,000 small values:");
    report.table(&["", "wall"], &measured.names().map(row).collect::<Vec<_>>());
    report.at_least("speed of a rotation / of a copy", measured.ratio(1, 0), 0.5, "");
    Ok(())
}
