//! The backend is stopped without a word, in the middle of things.

use std::fs;
use std::process::Stdio;
use std::time::Duration;

use crate::home::{Home, bytes, files};

/// A folder with many files of all sizes; their number.
fn many_files(home: &Home) -> usize {
    let tree = home.root().join("many");
    for n in 0..300 {
        let folder = tree.join(format!("d{}", n % 7));
        fs::create_dir_all(&folder).unwrap();
        let length = if n % 20 == 0 { (1 << 20) + n * 4321 } else { n * 97 };
        fs::write(folder.join(format!("f{n}")), bytes(n as u64, length)).unwrap();
    }
    300
}

#[test]
fn a_kill_in_the_middle_of_an_import_shows_nothing_half_written() {
    let mut home = Home::running();
    let total = many_files(&home);
    let mut partial = 0;
    for pause in [15, 40, 80, 160, 320] {
        let tree = home.root().join("many");
        let mut import = home.command(&["data", "import", tree.to_str().unwrap()]);
        let mut import = import.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause));
        home.kill();
        import.wait().unwrap();
        home.up();
        let listed = home.text(&["data", "list"]);
        let paths: Vec<&str> =
            listed.lines().filter_map(|line| line.trim_start().split_once("  ")).map(|l| l.1).collect();
        partial += usize::from(!paths.is_empty() && paths.len() < total);
        for path in &paths {
            assert!(home.get(path) == fs::read(home.root().join(path)).unwrap(), "{path} is half written");
        }
        let parts = files(&home.data()).into_iter().filter(|f| f.extension().is_some_and(|e| e == "part")).count();
        assert_eq!(parts, 0, "leftovers are swept at the start");
        home.ok(&["audit", "verify", "--require-anchor"]);
        for path in paths {
            home.ok(&["data", "rm", path]);
        }
    }
    assert!(partial > 0, "no kill came in the middle");
}

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let mut home = Home::running();
    for round in 0..10u64 {
        let small = bytes(round, 100);
        home.put_ok(&format!("notes/{round}"), &small);
        if round % 3 == 0 {
            home.put_ok(&format!("large/{round}"), &bytes(round, 1_500_000));
        }
        home.kill();
        home.up();
        for earlier in 0..=round {
            assert_eq!(home.get(&format!("notes/{earlier}")), bytes(earlier, 100));
            if earlier % 3 == 0 {
                assert!(home.get(&format!("large/{earlier}")) == bytes(earlier, 1_500_000));
            }
        }
        home.ok(&["audit", "verify", "--require-anchor"]);
    }
}

#[test]
fn a_kill_during_the_first_start_is_finished_by_the_next() {
    for pause in 0..25 {
        let mut home = Home::new();
        let mut first = home.command(&["up"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(pause * 2));
        first.kill().unwrap();
        first.wait().unwrap();
        home.up();
        home.put_ok("notes/a", b"x");
        assert_eq!(home.get("notes/a"), b"x");
        home.ok(&["audit", "verify", "--require-anchor"]);
    }
}

#[test]
fn a_stop_finishes_what_was_accepted() {
    let mut home = Home::running();
    let value = bytes(8, 30 << 20);
    let file = home.root().join("file");
    fs::write(&file, &value).unwrap();
    let mut put = home.command(&["data", "put", "notes/long", file.to_str().unwrap()]);
    let put = put.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(60));
    home.down();
    let output = put.wait_with_output().unwrap();
    home.up();
    if output.status.success() {
        assert!(home.get("notes/long") == value);
    } else {
        home.fails(5, &["data", "get", "notes/long"]);
    }
}
