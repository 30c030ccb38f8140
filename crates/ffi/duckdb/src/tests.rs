//! Attacks on the lock-down, with real files.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use super::raw::{Handle, Setup};
use super::*;

const KEY: [u8; 32] = *b"a key of 32 bytes, for tests yes";
const CANARY: &str = "canary-7b1f-in-the-coal-mine";
const LIMITS: Limits = Limits {
    time: Duration::from_secs(20),
    rows: 1000,
    bytes: 1 << 20,
    memory_bytes: 128 << 20,
    temporary_bytes: 1 << 30,
    threads: 2,
};

struct Folder(tempfile::TempDir);

impl Folder {
    /// A folder with a file of a few rows.
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.temporary()).unwrap();
        fs::write(folder.secret(), CANARY).unwrap();
        folder
    }

    fn filled() -> Self {
        let folder = Self::new();
        fill(&folder, Some(&KEY), 3);
        folder
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("history.duckdb")
    }

    fn temporary(&self) -> PathBuf {
        self.0.path().join("spill")
    }

    fn secret(&self) -> PathBuf {
        self.0.path().join("secret.txt")
    }

    fn reader(&self) -> Reader<'static> {
        Reader::open(&self.file(), &KEY, &self.temporary(), LIMITS).unwrap()
    }
}

fn fill(folder: &Folder, key: Option<&[u8; 32]>, rows: usize) {
    let file = folder.file();
    let setup = Setup { key, ..Setup::of(&file) };
    let mut handle = Handle::open(&setup).unwrap();
    handle.run("CREATE TABLE access(index BIGINT, time TIMESTAMP, who VARCHAR, reason VARCHAR)").unwrap();
    let who: Vec<String> = (0..rows).map(|row| format!("{CANARY} {row}")).collect();
    let row = |(row, who): (usize, &'static String)| {
        [Cell::Number(row as i64), Cell::Time(1_700_000_000_000 + row as i64), Cell::Text(who), Cell::Null]
    };
    let who: &'static Vec<String> = Box::leak(Box::new(who));
    let cells: Vec<Cell<'_>> = who.iter().enumerate().flat_map(row).collect();
    for chunk in cells.chunks(4 * 100_000) {
        handle.append("access", 4, chunk).unwrap();
    }
    handle.run("CHECKPOINT history").unwrap();
    handle.close().unwrap();
}

fn contains(bytes: &[u8], needle: &[u8]) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle)
}

/// Whether a file of the folder holds the needle.
fn found(folder: &Path, needle: &str) -> bool {
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
    files.filter_map(|path| fs::read(path).ok()).any(|bytes| contains(&bytes, needle.as_bytes()))
}

#[test]
fn rows_come_back_with_their_types() {
    let folder = Folder::filled();
    let answer =
        folder.reader().ask("SELECT index, time, who, reason, index > 1 AS b, index / 2 AS f FROM access").unwrap();
    let kinds: Vec<Kind> = answer.columns.iter().map(|column| column.kind).collect();
    assert_eq!(kinds, [Kind::Integer, Kind::Text, Kind::Text, Kind::Text, Kind::Boolean, Kind::Fraction]);
    let first: Vec<Option<&str>> = answer.rows[0].iter().map(Option::as_deref).collect();
    let who = format!("{CANARY} 0");
    let wanted = [Some("0"), Some("2023-11-14 22:13:20"), Some(&who), None, Some("false"), Some("0.0")];
    assert_eq!(first, wanted);
    assert_eq!((answer.rows.len(), answer.more), (3, false));
    let shown = folder.reader().ask("DESCRIBE access").unwrap();
    assert_eq!(shown.rows.len(), 4);
}

#[test]
fn nothing_but_one_question_is_answered() {
    let folder = Folder::filled();
    let before = fs::read(folder.file()).unwrap();
    let secret = folder.secret();
    let out = folder.0.path().join("out.csv");
    let (secret, out) = (secret.display(), out.display());
    let hostile = [
        "".to_owned(),
        "SELECT 1; SELECT 2".to_owned(),
        "SELECT 1; DROP TABLE access".to_owned(),
        "DROP TABLE access".to_owned(),
        "INSERT INTO access VALUES (9, NULL, 'x', 'y')".to_owned(),
        "UPDATE access SET who = 'x'".to_owned(),
        "DELETE FROM access".to_owned(),
        "WITH x AS (DELETE FROM access RETURNING *) SELECT * FROM x".to_owned(),
        "CREATE TABLE t(a INT)".to_owned(),
        "CREATE TEMP TABLE t(a INT)".to_owned(),
        "CREATE MACRO m() AS 1".to_owned(),
        "CREATE SECRET s (TYPE s3)".to_owned(),
        format!("COPY access TO '{out}'"),
        format!("COPY access FROM '{secret}'"),
        format!("EXPORT DATABASE '{out}'"),
        format!("ATTACH '{out}'"),
        "ATTACH ':memory:' AS m".to_owned(),
        "DETACH history".to_owned(),
        "USE memory".to_owned(),
        "SET enable_external_access = true".to_owned(),
        "RESET lock_configuration".to_owned(),
        "SET temp_file_encryption = false".to_owned(),
        "SET memory_limit = '100GB'".to_owned(),
        "SET threads = 64".to_owned(),
        "SET VARIABLE a = 1".to_owned(),
        "PRAGMA enable_profiling".to_owned(),
        format!("PRAGMA profiling_output = '{out}'"),
        "CALL force_checkpoint()".to_owned(),
        "CHECKPOINT".to_owned(),
        "BEGIN".to_owned(),
        "PREPARE p AS SELECT 1".to_owned(),
        "EXECUTE p".to_owned(),
        "EXPLAIN ANALYZE DELETE FROM access".to_owned(),
        "INSTALL httpfs".to_owned(),
        "LOAD httpfs".to_owned(),
        format!("LOAD '{out}'"),
        "SELECT ?".to_owned(),
        "SELECT $1".to_owned(),
        format!("SELECT * FROM read_csv('{secret}')"),
        format!("SELECT * FROM read_text('{secret}')"),
        format!("SELECT * FROM read_blob('{secret}')"),
        format!("SELECT * FROM '{secret}'"),
        format!("SELECT * FROM read_json('{secret}')"),
        format!("SELECT * FROM read_parquet('{secret}')"),
        format!("SELECT * FROM sniff_csv('{secret}')"),
        format!("SELECT * FROM glob('{}/*')", folder.0.path().display()),
        "SELECT * FROM glob('/etc/*')".to_owned(),
        "SELECT * FROM read_text('/proc/self/maps')".to_owned(),
        "SELECT * FROM read_text('/etc/passwd')".to_owned(),
        format!("SELECT * FROM read_blob('{}')", folder.file().display()),
        "SELECT getenv('HOME')".to_owned(),
        "SELECT * FROM query('DROP TABLE access')".to_owned(),
        format!("SELECT * FROM query('COPY access TO ''{out}''')"),
        format!("SELECT * FROM parquet_metadata('{secret}')"),
        "SELECT * FROM read_csv('https://example.com/x.csv')".to_owned(),
        "SELECT * FROM postgres_scan('', '', '')".to_owned(),
        format!("SELECT * FROM access WHERE {}", "(".repeat(50_000)),
        format!("SELECT {}1{}", "(".repeat(20_000), ")".repeat(20_000)),
        format!("SELECT {}1", "NOT ".repeat(20_000)),
    ];
    let mut reader = folder.reader();
    for sql in &hostile {
        let shown = &sql[..sql.len().min(80)];
        let refused = reader.ask(sql).expect_err(shown).to_string();
        assert!(!refused.contains(CANARY), "{shown}: {refused}");
        assert!(!refused.is_empty());
    }
    assert!(!PathBuf::from(out.to_string()).exists());
    // It works on, and nothing has changed.
    assert_eq!(reader.ask("SELECT count(*) FROM access").unwrap().rows, [[Some("3".to_owned())]]);
    reader.close().unwrap();
    assert_eq!(fs::read(folder.file()).unwrap(), before);
}

#[test]
fn what_duckdb_tells_of_itself_has_no_key_and_no_file() {
    let folder = Folder::filled();
    let mut reader = folder.reader();
    let key_forms = [String::from_utf8_lossy(&KEY).into_owned(), KEY.iter().map(|b| format!("{b:02x}")).collect()];
    for sql in [
        "SELECT * FROM duckdb_databases()",
        "SELECT * FROM duckdb_settings()",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM duckdb_logs",
        "SELECT * FROM duckdb_temporary_files()",
        "SELECT * FROM duckdb_memory()",
        "SELECT * FROM duckdb_variables()",
        "SELECT * FROM duckdb_tables()",
        "SELECT * FROM pragma_database_list()",
        "SELECT * FROM pragma_storage_info('access')",
        "SELECT * FROM sqlite_master",
        "SHOW ALL TABLES",
        "PRAGMA database_list",
        "SUMMARIZE access",
    ] {
        // Some are not there; those that are say nothing.
        let Ok(answer) = reader.ask(sql) else { continue };
        let text = format!("{answer:?}");
        assert!(key_forms.iter().all(|key| !text.contains(key)), "{sql}");
        assert!(!text.contains("YWljbw"), "{sql}: not even the word that is no secret");
    }
    let setting = |reader: &mut Reader<'_>, name: &str| {
        let answer = reader.ask(&format!("SELECT current_setting('{name}')")).unwrap();
        answer.rows[0][0].clone().unwrap()
    };
    for (name, value) in [
        ("enable_external_access", "false"),
        ("lock_configuration", "true"),
        ("autoinstall_known_extensions", "false"),
        ("autoload_known_extensions", "false"),
        ("allow_community_extensions", "false"),
        ("temp_file_encryption", "true"),
        ("threads", "2"),
        ("memory_limit", "128.0 MiB"),
        ("max_temp_directory_size", "1.0 GiB"),
    ] {
        assert_eq!(setting(&mut reader, name), value, "{name}");
    }
    let answer =
        reader.ask("SELECT encrypted, cipher, readonly FROM duckdb_databases() WHERE database_name = 'history'");
    assert_eq!(answer.unwrap().rows, [[Some("true".to_owned()), Some("GCM".to_owned()), Some("true".to_owned())]]);
}

#[test]
fn limits_hold() {
    let folder = Folder::filled();
    let mut reader = folder.reader();
    let answer = reader.ask("SELECT * FROM range(100000)").unwrap();
    assert_eq!((answer.rows.len(), answer.more), (1000, true));
    let answer = reader.ask("SELECT repeat('x', 1000) FROM range(100000)").unwrap();
    assert!(answer.more && answer.rows.len() < 1049);
    reader.close().unwrap();
    let limits = Limits { time: Duration::from_secs(1), ..LIMITS };
    let mut reader = Reader::open(&folder.file(), &KEY, &folder.temporary(), limits).unwrap();
    for endless in [
        "SELECT count(*) FROM range(1000000000000) a",
        "SELECT sum(a.range * b.range) FROM range(1000000) a, range(1000000) b",
        "WITH RECURSIVE x(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM x) SELECT max(n) FROM x",
    ] {
        let begun = Instant::now();
        assert!(matches!(reader.ask(endless), Err(Error::TooLong(_))), "{endless}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{endless}: {:?}", begun.elapsed());
        assert_eq!(reader.ask("SELECT 1").unwrap().rows.len(), 1, "it works on");
    }
    // What one call of a function makes is bounded, too.
    let mut reader = folder.reader();
    for large in [
        "SELECT len(range(300000000))",
        "SELECT length(repeat('x', 1000000000))",
        "SELECT sum(length(repeat('x', 1000000 + range))) FROM range(100000000)",
        "SELECT length(lpad('x', 1000000000, 'y'))",
        "SELECT list(range) FROM range(100000000)",
        "SELECT string_agg(repeat('x', 1000), '') FROM range(10000000)",
        "SELECT list_resize([1], 500000000)",
        "SELECT format('{:>1000000000}', 'x')",
        "SELECT to_base64(repeat('x', 1000000000)::BLOB)",
    ] {
        let begun = Instant::now();
        let refused = reader.ask(large).expect_err(large).to_string();
        assert!(refused.contains("Out of Memory"), "{large}: {refused}");
        assert!(begun.elapsed() < Duration::from_secs(25), "{large}");
    }
    assert_eq!(reader.ask("SELECT 1").unwrap().rows.len(), 1, "it works on");
    let peak = fs::read_to_string("/proc/self/status").unwrap();
    let peak =
        peak.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    assert!(peak.unwrap() < 3 << 20, "{peak:?} kB at most");
    // A sort that fits neither into memory nor into what may be spilled.
    let tiny = Limits { memory_bytes: 32 << 20, temporary_bytes: 4 << 20, ..LIMITS };
    let mut reader = Reader::open(&folder.file(), &KEY, &folder.temporary(), tiny).unwrap();
    let refused = reader.ask("SELECT hash(range) h, repeat('x', 50) FROM range(20000000) ORDER BY h LIMIT 10000000");
    let refused = refused.unwrap_err().to_string();
    assert!(refused.to_lowercase().contains("memory"), "{refused}");
}

#[test]
fn a_wrong_key_opens_nothing() {
    let folder = Folder::filled();
    let error = Reader::open(&folder.file(), &[7; 32], &folder.temporary(), LIMITS).unwrap_err().to_string();
    assert!(error.contains("Wrong encryption key") || error.contains("do not open"), "{error}");
    assert!(Writer::open(&folder.file(), &[7; 32], 64 << 20).is_err());
    // Nor does DuckDB without our cipher, given what it was given: the file alone and the word that is no secret.
    let file = folder.file();
    assert!(Handle::open(&Setup { read_only: true, ..Setup::of(&file) }).is_err());
}

#[test]
fn nothing_is_in_the_clear_on_the_disk() {
    let folder = Folder::new();
    let file = folder.file();
    let (root, temporary) = (folder.0.path(), folder.temporary());
    fs::remove_file(folder.secret()).unwrap();
    // The write-ahead log, before it is taken in.
    let mut handle = Handle::open(&Setup { key: Some(&KEY), ..Setup::of(&file) }).unwrap();
    handle.run("CREATE TABLE access(index BIGINT, who VARCHAR)").unwrap();
    handle.append("access", 2, &[Cell::Number(1), Cell::Text(CANARY)]).unwrap();
    let wal = fs::read(root.join("history.duckdb.wal")).unwrap();
    assert!(wal.len() > 100 && !contains(&wal, CANARY.as_bytes()) && !contains(&wal, b"access"));
    handle.run("CHECKPOINT history").unwrap();
    handle.close().unwrap();
    let bytes = fs::read(&file).unwrap();
    assert!(!contains(&bytes, CANARY.as_bytes()) && !contains(&bytes, b"access"));
    // Temporary files, while a sort spills.
    // DuckDB compresses what it spills: among noise, the canary stays what it is.
    let noise = "unhex(sha256(range || 'a')) || unhex(sha256(range || 'b')) || unhex(sha256(range || 'c'))";
    let sort = format!(
        "SELECT count(*) FROM (SELECT hash(range) h, {noise} || '{CANARY}'::BLOB AS s FROM range(600000) ORDER BY h, s OFFSET 1)"
    );
    let mut spilled = Vec::new();
    for plain in [false, true] {
        let setup = Setup {
            key: Some(&KEY),
            temporary: Some(&temporary),
            memory_bytes: 48 << 20,
            temporary_bytes: 4 << 30,
            threads: 2,
            read_only: true,
            plain_temporary: plain,
            ..Setup::of(&file)
        };
        let handle = Handle::open(&setup).unwrap();
        let (mut largest, mut seen) = (0, false);
        thread::scope(|scope| {
            let limits = Limits { time: Duration::from_secs(120), ..LIMITS };
            let (handle, sort) = (&handle, &sort);
            let asking = scope.spawn(move || handle.answer(sort, &limits).unwrap());
            while !asking.is_finished() {
                seen |= found(&temporary, CANARY);
                let sizes = fs::read_dir(&temporary).unwrap().filter_map(|e| e.ok()?.metadata().ok()).map(|m| m.len());
                largest = largest.max(sizes.sum());
                thread::sleep(Duration::from_millis(20));
            }
            asking.join().unwrap();
        });
        spilled.push((largest > 1 << 20, seen));
        drop(handle);
        assert_eq!(fs::read_dir(&temporary).map(Iterator::count).unwrap_or(0), 0, "what was spilled is gone");
    }
    assert_eq!(spilled, [(true, false), (true, true)], "encrypted, and the control in the clear");
    // The control for the file.
    fs::remove_file(&file).unwrap();
    fill(&folder, None, 3);
    assert!(found(root, CANARY));
}

/// Flips bytes in every part of the file: never another answer.
#[test]
fn a_changed_file_gives_no_other_rows() {
    let folder = Folder::new();
    fill(&folder, Some(&KEY), 20_000);
    let whole = fs::read(folder.file()).unwrap();
    const ALL: &str =
        "SELECT md5(string_agg(index || coalesce(who, '-') || time, ',' ORDER BY index)), count(*) FROM access";
    let good = folder.reader().ask(ALL).unwrap();
    let (mut refused, mut same) = (0, 0);
    let places = (0..12_288).step_by(61).chain((12_288..whole.len()).step_by(whole.len() / 300));
    for place in places {
        let mut bad = whole.clone();
        bad[place] ^= 0x10;
        fs::write(folder.file(), &bad).unwrap();
        let opened = Reader::open(&folder.file(), &KEY, &folder.temporary(), LIMITS);
        match opened.and_then(|mut reader| reader.ask(ALL)) {
            Ok(answer) => {
                assert_eq!(answer, good, "at {place}");
                same += 1;
            }
            Err(_) => refused += 1,
        }
    }
    fs::write(folder.file(), &whole).unwrap();
    assert_eq!(folder.reader().ask(ALL).unwrap(), good);
    println!("refused {refused}, the same {same} of {} bytes", whole.len());
    assert!(refused > 100);
    for cut in [0, 1, 4096, 12_288, whole.len() / 2, whole.len() - 1] {
        fs::write(folder.file(), &whole[..cut]).unwrap();
        let opened = Reader::open(&folder.file(), &KEY, &folder.temporary(), LIMITS);
        assert!(opened.and_then(|mut reader| reader.ask(ALL)).is_err(), "cut at {cut}");
    }
}

/// What DuckDB's cipher does not notice, and the vault's check of the whole file does: a block is not bound to its place, nor
/// to its time.
#[test]
fn a_block_of_an_older_state_is_taken_for_the_newest() {
    const BLOCK: usize = 256 * 1024;
    let folder = Folder::new();
    fill(&folder, Some(&KEY), 20_000);
    let older = fs::read(folder.file()).unwrap();
    let mut writer = Writer::open(&folder.file(), &KEY, 64 << 20).unwrap();
    writer.append("access", 4, &[Cell::Number(1 << 40), Cell::Time(0), Cell::Text("newest"), Cell::Null]).unwrap();
    writer.close().unwrap();
    let newest = fs::read(folder.file()).unwrap();
    assert_ne!(older, newest);
    // The whole older file under its name: a good file.
    fs::write(folder.file(), &older).unwrap();
    assert_eq!(folder.reader().ask("SELECT count(*) FROM access").unwrap().rows, [[Some("20000".to_owned())]]);
    // Two blocks in each other's place: both open, and only what they say of each other can be noticed.
    let mut swapped = newest.clone();
    let (first, second) = swapped[12_288..].split_at_mut(BLOCK);
    first.swap_with_slice(&mut second[..BLOCK]);
    fs::write(folder.file(), &swapped).unwrap();
    let opened = Reader::open(&folder.file(), &KEY, &folder.temporary(), LIMITS);
    let said = opened.and_then(|mut reader| reader.ask("SELECT sum(index), max(who) FROM access"));
    let said = said.map_or_else(|error| error.to_string(), |answer| format!("{answer:?}"));
    assert!(!said.contains("do not open"), "the cipher does not notice: {said}");
}

/// Our key is lent: DuckDB, the shim and OpenSSL keep no copy of it.
#[test]
fn the_key_is_in_memory_once() {
    use std::io::{Read, Seek, SeekFrom};
    let folder = Folder::new();
    let mut key = Box::new([0; 32]);
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut *key).unwrap();
    fill(&folder, Some(&key), 1000);
    let mut reader = Reader::open(&folder.file(), &key, &folder.temporary(), LIMITS).unwrap();
    assert_eq!(reader.ask("SELECT count(*) FROM access").unwrap().rows.len(), 1);
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut memory = fs::File::open("/proc/self/mem").unwrap();
    let mut found = Vec::new();
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (from, to) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [from, to] = [from, to].map(|digits| u64::from_str_radix(digits, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(to - from).unwrap()];
        // Other threads give memory back meanwhile.
        if memory.seek(SeekFrom::Start(from)).and_then(|_| memory.read_exact(&mut bytes)).is_err() {
            continue;
        }
        let at = bytes.windows(32).enumerate().filter(|(_, window)| *window == key.as_slice());
        found.extend(at.map(|(at, _)| from + at as u64));
        bytes.fill(0);
    }
    assert_eq!(found, [key.as_ptr() as u64], "here, and nowhere else");
    reader.close().unwrap();
}

/// `./dev bench store` runs it and reads its lines: `figure`, name, nanoseconds encrypted and plain, with tabs between.
#[test]
#[ignore = "a measurement, not a test"]
fn encrypted_against_plain() {
    for round in 0..6 {
        let mut took = [[Duration::ZERO; 2]; 2];
        for turn in 0..2 {
            let side = (round + turn) % 2;
            let key = (side == 0).then_some(&KEY);
            let folder = Folder::new();
            let begun = Instant::now();
            fill(&folder, key, 1_000_000);
            took[0][side] = begun.elapsed();
            let (file, temporary) = (folder.file(), folder.temporary());
            let setup = Setup { key, temporary: Some(&temporary), threads: 2, read_only: true, ..Setup::of(&file) };
            let handle = Handle::open(&setup).unwrap();
            let begun = Instant::now();
            handle.answer("SELECT count(*), sum(index), max(who), max(time) FROM access", &LIMITS).unwrap();
            took[1][side] = begun.elapsed();
        }
        for (name, [sealed, plain]) in ["write a million rows", "scan them"].iter().zip(took) {
            println!("\nfigure\t{name}\t{}\t{}", sealed.as_nanos(), plain.as_nanos());
        }
    }
}
