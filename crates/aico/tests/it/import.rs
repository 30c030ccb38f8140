//! `aico import`: databases of other programs, row by row, and sources that mean harm.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::home::{Home, copy, files};
use crate::keys::{PASSWORD, passwords, protected};

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A folder for a source of its own.
fn folder(home: &Home, name: &str) -> PathBuf {
    let folder = home.root().join(name);
    fs::create_dir(&folder).unwrap();
    folder
}

fn database(home: &Home, name: &str, sql: &str) -> PathBuf {
    let path = folder(home, name).join(format!("{name}.db"));
    Connection::open(&path).unwrap().execute_batch(sql).unwrap();
    path
}

fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    files(folder).into_iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect()
}

/// The lines of an imported table.
fn lines(home: &Home, value: &str) -> Vec<Value> {
    let text = String::from_utf8(home.get(value)).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// A writer in this process must not be there: to close a file that it has open takes its locks.
fn fails(home: &Home, source: &Path) -> String {
    let before = contents(source.parent().unwrap());
    let said = home.fails(1, &["import", "sqlite", path(source), "--remove-source"]);
    assert!(source.exists() && contents(source.parent().unwrap()) == before, "the source is as it was: {said}");
    said
}

fn is_busy(home: &Home, source: &Path) -> bool {
    home.fails(1, &["import", "sqlite", path(source), "--remove-source"]).contains("another program is writing")
}

#[test]
fn every_row_of_every_table_comes_over_and_the_source_stays() {
    let home = Home::running();
    let long = "n".repeat(1024);
    let source = database(
        &home,
        "things",
        &format!(
            "PRAGMA user_version = 7;
             CREATE TABLE plain(id INTEGER PRIMARY KEY AUTOINCREMENT, what TEXT NOT NULL DEFAULT 'x', r REAL, b BLOB, any);
             INSERT INTO plain VALUES(1, 'a', 0.1, x'00ff', 9007199254740993), (-5, 'two\nlines', 1e300, x'', NULL);
             INSERT INTO plain(what, r, any) VALUES('zero', 2, -0.0), ('inf', 9e999, NULL);
             INSERT INTO plain(what) VALUES(CAST(x'fffe' AS TEXT));
             CREATE TABLE pairs(a, b, PRIMARY KEY(b, a)) WITHOUT ROWID;
             INSERT INTO pairs VALUES('y', 1), ('x', 2);
             CREATE TABLE shadowed(rowid, _rowid_); INSERT INTO shadowed VALUES('mine', 'too');
             CREATE TABLE made(a, v AS (a + 1), s AS (a * 2) STORED); INSERT INTO made(a) VALUES(20);
             CREATE TABLE empty(a);
             CREATE TABLE 'a/../b'(a); INSERT INTO 'a/../b' VALUES('slash');
             CREATE TABLE '..'(a); INSERT INTO '..' VALUES('up');
             CREATE TABLE ''(''); INSERT INTO '' VALUES('nameless');
             CREATE TABLE '42'(a); INSERT INTO '42' VALUES('a number');
             CREATE TABLE 'two\nlines \"quoted\"'(\"co\"\"l\"); INSERT INTO 'two\nlines \"quoted\"' VALUES('newline');
             CREATE TABLE {long}(a); INSERT INTO {long} VALUES('long');
             CREATE VIEW endless AS WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n) SELECT i FROM n;
             CREATE TRIGGER t AFTER INSERT ON plain BEGIN DELETE FROM plain; END;
             CREATE INDEX by_what ON plain(what);
             CREATE VIRTUAL TABLE words USING fts5(text); INSERT INTO words VALUES('found by content');"
        ),
    );
    let before = contents(source.parent().unwrap());
    let done = home.run(&["import", "sqlite", path(&source)]);
    let (out, errors) = (String::from_utf8(done.stdout).unwrap(), String::from_utf8(done.stderr).unwrap());
    assert!(done.status.success(), "{errors}");
    assert!(contents(source.parent().unwrap()) == before);
    assert!(errors.contains("still there, unencrypted") && errors.contains(path(&source)), "{errors}");
    assert!(out.contains("plain: 5 rows imported and verified") && out.contains("empty: 0 rows"), "{out}");
    assert!(out.contains("words: a virtual table") && out.contains("verified row by row"), "{out}");
    assert!(out.contains("two\\u{a}lines"), "nothing drives the terminal: {out}");

    let plain = lines(&home, "things/plain.jsonl");
    assert_eq!(plain[0]["table"], "plain");
    assert_eq!(plain[0]["rowid"], true);
    assert!(plain[0]["sql"].as_str().unwrap().starts_with("CREATE TABLE plain(id INTEGER PRIMARY KEY"));
    let column = |at: usize| plain[0]["columns"][at].clone();
    assert_eq!(column(0), json!({"name":"id","type":"INTEGER","not_null":false,"default":null,"primary_key":1}));
    assert_eq!(column(1), json!({"name":"what","type":"TEXT","not_null":true,"default":"'x'","primary_key":0}));
    assert_eq!(plain[1], json!([-5, -5, "two\nlines", 1e300, {"blob":""}, null]));
    assert_eq!(plain[2], json!([1, 1, "a", 0.1, {"blob":"AP8="}, 9_007_199_254_740_993_i64]));
    let text = String::from_utf8(home.get("things/plain.jsonl")).unwrap();
    assert!(
        text.contains("[2,2,\"zero\",2.0,null,-0.0]\n")
            && text.contains("[3,3,\"inf\",{\"real\":\"inf\"},null,null]\n")
    );
    assert!(text.contains("[4,4,{\"text\":\"//4=\"},null,null,null]\n"), "{text}");

    assert_eq!(lines(&home, "things/pairs.jsonl")[1..], [json!(["y", 1]), json!(["x", 2])]);
    assert_eq!(lines(&home, "things/shadowed.jsonl")[1..], [json!([1, "mine", "too"])]);
    assert_eq!(lines(&home, "things/made.jsonl")[1..], [json!([1, 20, 40])], "without the virtual column");
    assert_eq!(lines(&home, "things/empty.jsonl").len(), 1);
    assert_eq!(lines(&home, "things/sqlite_sequence.jsonl")[1..], [json!([1, "plain", 4])]);
    for (value, row) in [
        ("a%2f..%2fb", "slash"),
        ("%2e.", "up"),
        ("%", "nameless"),
        ("42", "a number"),
        ("two%0alines %22quoted%22", "newline"),
    ] {
        assert_eq!(lines(&home, &format!("things/{value}.jsonl"))[1], json!([1, row]), "{value}");
    }
    let listed = home.text(&["data", "list", "things/", "--json"]);
    assert!(listed.lines().any(|line| line.contains(&"n".repeat(120)) && line.contains('~')), "{listed}");
    assert!(listed.contains("things/words_content.jsonl") && !listed.contains("things/words.jsonl"), "{listed}");
    assert!(!listed.contains("endless"), "{listed}");
    let schema: Value = serde_json::from_slice(&home.get("things/schema.json")).unwrap();
    assert_eq!((&schema["user_version"], &schema["encoding"]), (&json!(7), &json!("UTF-8")));
    let objects = schema["objects"].as_array().unwrap();
    for kind in ["table", "index", "view", "trigger"] {
        assert!(objects.iter().any(|object| object["kind"] == kind), "{kind}");
    }
    assert!(objects.iter().any(|object| object["value"] == "a%2f..%2fb.jsonl" && object["name"] == "a/../b"));

    // Again, under another name, and with the source gone afterwards.
    let said = home.text(&["import", "sqlite", path(&source), "--under", "elsewhere", "--remove-source"]);
    assert!(said.contains("is removed") && said.contains("not wiped"), "{said}");
    assert!(files(source.parent().unwrap()).is_empty());
    assert_eq!(home.get("elsewhere/plain.jsonl"), home.get("things/plain.jsonl"));
}

#[test]
fn a_log_that_is_not_merged_yet_is_read_and_left_alone() {
    let home = Home::running();
    let source = database(&home, "wal", "PRAGMA journal_mode=wal; CREATE TABLE t(a); INSERT INTO t VALUES(1);");
    let writer = Connection::open(&source).unwrap();
    writer
        .execute_batch("PRAGMA wal_autocheckpoint=0; INSERT INTO t VALUES(2); BEGIN; INSERT INTO t VALUES(3);")
        .unwrap();
    assert!(is_busy(&home, &source));
    writer.execute_batch("COMMIT").unwrap();
    // As after a crash: no program holds it any more, and its log was not merged.
    let left = home.root().join("left");
    copy(source.parent().unwrap(), &left);
    let source = left.join("wal.db");
    fs::remove_file(left.join("wal.db-shm")).unwrap();
    let before = contents(&left);
    home.ok(&["import", "sqlite", path(&source)]);
    assert!(contents(&left) == before);
    assert_eq!(lines(&home, "wal/t.jsonl")[1..], [json!([1, 1]), json!([2, 2]), json!([3, 3])]);
    // Open in its program, and at rest.
    home.ok(&["import", "sqlite", path(&home.root().join("wal/wal.db")), "--under", "live"]);
    assert_eq!(lines(&home, "live/t.jsonl").len(), 4);
    home.ok(&["import", "sqlite", path(&source), "--remove-source"]);
    assert!(files(&left).is_empty(), "with its log");
}

#[test]
fn a_source_that_is_none_is_refused_and_stays() {
    let home = Home::running();
    let ours = folder(&home, "ours");
    let write = |name: &str, bytes: &[u8]| {
        fs::write(ours.join(name), bytes).unwrap();
        ours.join(name)
    };
    for (name, bytes) in [("text", b"x".repeat(5000)), ("short", b"SQLite format 3\0".to_vec())] {
        assert!(fails(&home, &write(name, &bytes)).contains("no SQLite database"), "{name}");
    }
    let encrypted = ours.join("encrypted.db");
    let connection = Connection::open(&encrypted).unwrap();
    connection.execute_batch("PRAGMA key='secret'; CREATE TABLE t(a); INSERT INTO t VALUES(1);").unwrap();
    drop(connection);
    let said = fails(&home, &encrypted);
    assert!(said.contains("or an encrypted one") && said.contains("hint:"), "{said}");
    home.fails(2, &["import", "sqlite", path(&ours)]);
    home.fails(1, &["import", "sqlite", path(&ours.join("missing"))]);
    rustix::fs::mkfifoat(rustix::fs::CWD, ours.join("pipe"), rustix::fs::Mode::RWXU).unwrap();
    home.fails(2, &["import", "sqlite", path(&ours.join("pipe"))]);
    home.ok(&["import", "sqlite", path(&write("nothing.db", b""))]);

    // An unfinished transaction.
    let source = database(&home, "hot", "CREATE TABLE t(a, b); INSERT INTO t VALUES(1, zeroblob(9000));");
    let writer = Connection::open(&source).unwrap();
    writer.execute_batch("PRAGMA cache_size=1; BEGIN").unwrap();
    for i in 0..200 {
        writer.execute("INSERT INTO t VALUES(?1, zeroblob(5000))", [i]).unwrap();
    }
    assert!(is_busy(&home, &source));
    let left = home.root().join("left");
    copy(source.parent().unwrap(), &left);
    let said = fails(&home, &left.join("hot.db"));
    assert!(said.contains("unfinished transaction") && said.contains("hint:"), "{said}");
}

#[test]
fn damage_is_named_and_nothing_is_removed() {
    let home = Home::running();
    let source = database(
        &home,
        "damaged",
        "CREATE TABLE t(a, b); WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 500)
         INSERT INTO t SELECT i, hex(randomblob(100)) FROM n;",
    );
    let good = fs::read(&source).unwrap();
    // The heads of pages, the first page's list of objects, and a cut.
    let mut bad: Vec<Vec<u8>> = (1..good.len() / 4096)
        .step_by(3)
        .map(|page| {
            let mut file = good.clone();
            file[page * 4096..page * 4096 + 8].fill(0xff);
            file
        })
        .collect();
    bad.push(good[..good.len() - 4096].to_vec());
    bad.push(good[..good.len() / 2].to_vec());
    let mut schema = good.clone();
    let at = schema.windows(12).position(|window| window == b"CREATE TABLE").unwrap();
    schema[at..at + 6].copy_from_slice(b"CRASHE");
    bad.push(schema);
    for (number, file) in bad.iter().enumerate() {
        fs::write(&source, file).unwrap();
        let said = fails(&home, &source);
        assert!(said.contains("is damaged") || said.contains("no SQLite database"), "{number}: {said}");
    }
    // Random bytes anywhere: never a crash, and what is verified is what is there.
    for seed in 0..30u64 {
        let mut file = good.clone();
        for (n, byte) in crate::home::bytes(seed, 40).into_iter().enumerate() {
            let at = (seed as usize * 7919 + n * 104_729 + usize::from(byte)) % file.len();
            file[at] = byte;
        }
        fs::write(&source, &file).unwrap();
        let ended = home.run(&["import", "sqlite", path(&source)]);
        assert!(matches!(ended.status.code(), Some(0 | 1)), "{seed}: {}", String::from_utf8_lossy(&ended.stderr));
    }
}

#[test]
fn a_source_that_changes_meanwhile_is_not_removed() {
    let home = Home::running();
    let source = database(
        &home,
        "moving",
        "CREATE TABLE first(a); INSERT INTO first VALUES(1); CREATE TABLE second(a);
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 300000)
         INSERT INTO second SELECT hex(zeroblob(50)) FROM n;",
    );
    let mut command = home.command(&["import", "sqlite", path(&source), "--remove-source"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.starts_with("first: 1 rows"), "{line}");
    // Somebody without SQLite's locks.
    fs::File::options().append(true).open(&source).unwrap().set_modified(std::time::SystemTime::now()).unwrap();
    let ended = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("was changed meanwhile"), "{said}");
    assert!(source.exists());
    // A program with SQLite's locks waits until the import is through.
    let mut command = home.command(&["import", "sqlite", path(&source)]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    out.read_line(&mut line).unwrap();
    let writer = Connection::open(&source).unwrap();
    writer.busy_timeout(Duration::ZERO).unwrap();
    assert!(writer.execute_batch("INSERT INTO first VALUES(2)").is_err(), "the source is kept still");
    out.lines().for_each(drop);
    assert!(child.wait().unwrap().success());
    writer.execute_batch("INSERT INTO first VALUES(2)").unwrap();
}

#[test]
fn any_length_takes_the_same_memory_and_a_row_has_a_limit() {
    let home = Home::running();
    let source = database(
        &home,
        "long",
        "PRAGMA synchronous=off; PRAGMA journal_mode=off; CREATE TABLE t(a);
         WITH RECURSIVE n(i) AS (VALUES(1) UNION ALL SELECT i + 1 FROM n WHERE i < 600)
         INSERT INTO t SELECT zeroblob(1000000) FROM n;",
    );
    let line = format!("ulimit -v 500000; exec \"$0\" import sqlite {}", path(&source));
    let base = home.command(&[]);
    let mut limited = std::process::Command::new("bash");
    limited.env_clear().envs(base.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let begun = Instant::now();
    let output = limited.arg("-c").arg(line).arg(base.get_program()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    println!("600 MB in {:?}", begun.elapsed());
    let source = database(
        &home,
        "wide",
        "PRAGMA synchronous=off; PRAGMA journal_mode=off; CREATE TABLE t(a); INSERT INTO t VALUES(1), (zeroblob(268435457));",
    );
    let said = home.fails(1, &["import", "sqlite", path(&source)]);
    assert!(said.contains("row 2 of table `t` has more than 256 MiB"), "{said}");
}

#[test]
fn the_owner_is_asked_and_other_places_are_refused() {
    let home = protected();
    let source = database(&home, "asked", "CREATE TABLE t(a); INSERT INTO t VALUES(1);");
    home.fails(6, &["import", "sqlite", path(&source), "--remove-source"]);
    assert!(source.exists());
    let file = passwords(&home, &[PASSWORD]);
    for bad in ["", "..", "a//b", "a/"] {
        let code =
            home.run(&["import", "sqlite", path(&source), "--under", bad, "--password-file", &file]).status.code();
        assert_eq!(code, Some(2), "`{bad}`");
    }
    home.ok(&["import", "sqlite", path(&source), "--under", "a/b", "--password-file", &file]);
    let file = passwords(&home, &[PASSWORD]);
    let stored = home.ok(&["data", "get", "a/b/t.jsonl", "--password-file", &file]);
    assert!(stored.ends_with(b"\n[1,1]\n"));
}
