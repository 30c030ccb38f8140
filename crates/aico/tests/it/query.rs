//! Questions over the access history, asked of the program as it runs: confined, and with its own files.

use std::fs;
use std::path::PathBuf;

use crate::hardening::{processes, status_line};
use crate::home::{Home, files};

fn histories(home: &Home) -> Vec<PathBuf> {
    let ours = |path: &PathBuf| path.to_str().unwrap().contains("history");
    files(&home.data()).into_iter().filter(ours).collect()
}

#[test]
fn a_question_is_answered_as_a_table_and_as_json() {
    let home = Home::running();
    home.put_ok("diary/monday", b"a secret of mine");
    home.put_ok("notes/a", b"x");
    home.get("notes/a");
    home.fails(5, &["data", "get", "notes/none"]);
    let sql = "SELECT who, action, category, verdict, outcome, count(*) AS n FROM access WHERE category IS NOT NULL \
               GROUP BY ALL ORDER BY action, category, outcome";
    let table = home.text(&["query", sql]);
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["who", "action", "category", "verdict", "outcome", "n"], "{table}");
    assert!(lines.contains(&vec!["cli", "data.write", "diary", "allowed", "done", "1"]), "{table}");
    assert!(lines.contains(&vec!["cli", "data.write", "notes", "allowed", "done", "1"]), "{table}");
    let json = home.text(&["query", "SELECT index, time, what, reason FROM event ORDER BY index LIMIT 1", "--json"]);
    let first: serde_json::Value = serde_json::from_str(json.trim_end()).unwrap();
    assert_eq!((&first["index"], &first["reason"]), (&0.into(), &serde_json::Value::Null), "{first}");
    assert!(first["time"].as_str().unwrap().starts_with("20"), "{first}");
    // The question itself is recorded, without its text, and is part of what it asks for.
    let asked = home.text(&["query", "SELECT count(*) AS n FROM access WHERE action = 'audit.read'", "--json"]);
    assert_eq!(asked.trim_end(), r#"{"n":3}"#);
    let log = home.text(&["audit", "tail", "-n", "50", "--json"]);
    assert!(log.contains("audit.read") && !log.contains("SELECT"), "{log}");
    let shown = home.text(&["query"]);
    for word in ["access", "event", "category", "VARCHAR", "TIMESTAMP"] {
        assert!(shown.contains(word), "{shown}");
    }
    let status = home.text(&["status", "--json"]);
    assert!(status.contains("landlock") && status.contains("seccomp"), "it ran confined: {status}");
}

#[test]
fn only_questions_are_answered_and_no_path_is_told() {
    let home = Home::running();
    home.put_ok("notes/a", b"x");
    let database = {
        home.ok(&["query", "SELECT 1"]);
        histories(&home).pop().unwrap()
    };
    let folder = database.parent().unwrap().to_str().unwrap().to_owned();
    let out = home.root().join("out.csv");
    let keys = home.keys().display().to_string();
    for sql in [
        "DROP TABLE event".to_owned(),
        "DELETE FROM event".to_owned(),
        "SELECT 1; SELECT 2".to_owned(),
        format!("COPY event TO '{}'", out.display()),
        format!("ATTACH '{}'", out.display()),
        format!("SELECT * FROM read_text('{keys}/key')"),
        format!("SELECT * FROM glob('{keys}/*')"),
        format!("SELECT * FROM read_blob('{}')", database.display()),
        "SELECT * FROM read_text('/etc/passwd')".to_owned(),
        "SET threads = 8".to_owned(),
        "INSTALL httpfs".to_owned(),
        "SELECT getenv('HOME')".to_owned(),
        "SELEC 1".to_owned(),
        "SELECT * FROM nothing".to_owned(),
    ] {
        let errors = home.fails(2, &["query", &sql]);
        assert!(errors.starts_with("error: "), "{errors}");
        assert!(errors.contains("hint: ") && (sql.contains(&folder) || !errors.contains(&folder)), "{sql}: {errors}");
    }
    assert!(!out.exists());
    assert_eq!(
        home.text(&["query", "SELECT count(*) AS n FROM event WHERE index = 0", "--json"]).trim_end(),
        r#"{"n":1}"#
    );
    let json = home.fails(2, &["query", "SELEC 1", "--json"]);
    assert!(serde_json::from_str::<serde_json::Value>(json.trim_end()).is_ok(), "{json}");
}

#[test]
fn a_sort_that_does_not_fit_into_memory_works_under_the_filters() {
    let home = Home::running();
    let sql = "SELECT count(*) AS n FROM (SELECT hash(range) h, sha256(range::VARCHAR) s FROM range(3000000) ORDER BY s, h OFFSET 1)";
    assert_eq!(home.text(&["query", sql, "--json"]).trim_end(), r#"{"n":2999999}"#);
    let left: Vec<_> =
        histories(&home).into_iter().filter(|path| path.to_str().unwrap().contains("history.tmp")).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// DuckDB's own limit is not for what functions make: one line could ask for the whole machine.
#[test]
fn a_question_does_not_take_the_machines_memory() {
    let home = Home::running();
    home.ok(&["query", "SELECT 1"]);
    for large in ["SELECT len(range(300000000))", "SELECT length(repeat('x', 2000000000))"] {
        let errors = home.fails(2, &["query", large]);
        assert!(errors.contains("Out of Memory"), "{errors}");
    }
    let worker = processes(&home).pop().unwrap();
    let peak = status_line(worker, "VmHWM");
    assert!(peak.trim_end_matches(" kB").parse::<u64>().unwrap() < 1 << 20, "{peak}");
    home.ok(&["query", "SELECT 1"]);
}

#[test]
fn a_damaged_file_is_made_anew_and_a_rotation_begins_another() {
    let mut home = Home::running();
    let canary = "canary-category-3f";
    home.put_ok(&format!("{canary}/a"), b"x");
    let sql = format!("SELECT count(*) AS n FROM access WHERE category = '{canary}'");
    let one = |home: &Home| assert_eq!(home.text(&["query", &sql, "--json"]).trim_end(), r#"{"n":1}"#);
    one(&home);
    let file = histories(&home);
    assert!(file.len() == 1 && file[0].ends_with("history-0.duckdb"), "{file:?}");
    let whole = fs::read(&file[0]).unwrap();
    assert!(!whole.windows(canary.len()).any(|window| window == canary.as_bytes()));
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&file[0]).unwrap().permissions()) & 0o777, 0o600);
    for place in [0, 100, 5000, 9000, whole.len() / 2, whole.len() - 1] {
        let mut bad = fs::read(&file[0]).unwrap();
        let place = place.min(bad.len() - 1);
        bad[place] ^= 1;
        fs::write(&file[0], &bad).unwrap();
        one(&home);
    }
    // An older state, a foreign file, none.
    fs::write(&file[0], &whole).unwrap();
    one(&home);
    fs::write(&file[0], b"").unwrap();
    one(&home);
    fs::remove_file(&file[0]).unwrap();
    one(&home);
    home.ok(&["security", "rotate"]);
    assert_eq!(histories(&home), Vec::<PathBuf>::new(), "what the old key opens is gone");
    one(&home);
    assert!(histories(&home)[0].ends_with("history-1.duckdb"));
    // What belongs to no epoch of ours does not survive a start.
    home.kill();
    let folder = file[0].parent().unwrap().to_owned();
    fs::write(folder.join("history-0.duckdb"), &whole).unwrap();
    fs::write(folder.join("history-0.duckdb.wal"), b"x").unwrap();
    fs::create_dir(folder.join("history.tmp")).unwrap();
    fs::write(folder.join("history.tmp/x"), b"x").unwrap();
    home.up();
    assert_eq!(histories(&home), [folder.join("history-1.duckdb")]);
    one(&home);
}
