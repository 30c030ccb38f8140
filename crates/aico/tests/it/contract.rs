//! What newcomers see and scripts rely on (`docs/manual/cli.md`).

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::home::{Home, bytes, files};

#[test]
fn the_first_start_asks_nothing_and_the_second_neither() {
    let mut home = Home::new();
    let first = home.up();
    for word in ["new vault", "unlocked by", "key-file", "fingerprint", "socket", "Secret Service"] {
        assert!(first.contains(word), "{word} in {first}");
    }
    home.put_ok("notes/a", b"kept");
    let status = home.text(&["status", "--json"]);
    home.down();
    let second = home.up();
    assert!(second.contains("is open") && !second.contains("new vault"));
    assert_eq!(home.get("notes/a"), b"kept");
    let fingerprint = |json: &str| serde_json::from_str::<serde_json::Value>(json).unwrap()["fingerprint"].clone();
    assert_eq!(fingerprint(&status), fingerprint(&home.text(&["status", "--json"])));
}

#[test]
fn status_has_the_fields_of_the_contract() {
    let home = Home::running();
    home.put_ok("notes/a", &[7; 1000]);
    let status: serde_json::Value = serde_json::from_str(&home.text(&["status", "--json"])).unwrap();
    assert_eq!(status["socket"], home.data().join("run/aico.sock").to_str().unwrap());
    assert_eq!(status["locked"], false);
    assert_eq!(status["unlocked_by"], "key-file");
    assert_eq!(status["weakest_slot"], "key-file");
    assert_eq!(status["recovery_code"], false);
    assert_eq!(status["data_bytes"], 1000);
    assert_eq!(status["fingerprint"].as_str().unwrap().len(), 39);
    let shown = home.text(&["identity", "show"]);
    assert!(shown.contains(status["fingerprint"].as_str().unwrap()), "{shown}");
}

#[test]
fn without_a_backend_commands_say_so() {
    let home = Home::new();
    let errors = home.fails(4, &["status"]);
    assert!(errors.contains("no backend answers") && errors.contains("hint: ") && errors.contains("aico up"));
    let json: serde_json::Value = serde_json::from_str(&home.fails(4, &["status", "--json"])).unwrap();
    assert!(json["hint"].as_str().unwrap().contains("aico up"));
    home.fails(1, &["audit", "verify"]);
    assert!(!home.data().exists(), "asking makes nothing");
}

#[test]
fn values_come_back_byte_for_byte() {
    let home = Home::running();
    let mib = 1 << 20;
    for (seed, length) in (1..).zip([0, 1, 65_535, 65_536, 65_537, mib - 1, mib, mib + 1, 5 * mib + 3]) {
        let value = bytes(seed, length);
        home.put_ok("notes/value", &value);
        assert!(home.get("notes/value") == value, "{length} bytes");
    }
    let file = home.root().join("file.bin");
    fs::write(&file, bytes(99, 3 * mib)).unwrap();
    home.ok(&["data", "put", "notes/from file", file.to_str().unwrap()]);
    assert!(home.get("notes/from file") == bytes(99, 3 * mib));
    let large_files =
        files(&home.data().join("spaces")).iter().filter(|f| f.to_str().unwrap().contains("/files/")).count();
    assert_eq!(large_files, 2, "replaced values leave no file behind");
}

#[test]
fn what_is_listed_and_removed() {
    let home = Home::running();
    for path in ["b/2", "a/1", "b/1", "日記/\u{1b}[2J"] {
        home.put_ok(path, path.as_bytes());
    }
    let list = home.text(&["data", "list"]);
    let paths: Vec<&str> = list
        .lines()
        .map(|line| line.split_once("  ").unwrap().1.trim_start())
        .map(|l| l.split_once("  ").map_or(l, |p| p.1))
        .collect();
    assert_eq!(paths, ["a/1", "b/1", "b/2", "日記/\\u{1b}[2J"], "in order, and nothing drives the terminal");
    assert_eq!(home.text(&["data", "list", "b/"]).lines().count(), 2);
    let exact: serde_json::Value = serde_json::from_str(home.text(&["data", "list", "日", "--json"]).trim()).unwrap();
    assert_eq!(exact["path"], "日記/\u{1b}[2J");
    home.ok(&["data", "rm", "b/2"]);
    home.fails(5, &["data", "get", "b/2"]);
    home.fails(5, &["data", "rm", "b/2"]);
    assert_eq!(home.text(&["data", "list"]).lines().count(), 3);
}

#[test]
fn long_lists_come_whole() {
    let home = Home::running();
    let tree = home.root().join("many");
    fs::create_dir(&tree).unwrap();
    let names: Vec<String> = (0..450).map(|n| format!("{n:04} {}", "\"quoted\"\n".repeat(n % 20))).collect();
    for name in &names {
        fs::write(tree.join(name), name).unwrap();
    }
    home.ok(&["data", "import", tree.to_str().unwrap()]);
    let listed: Vec<String> = home
        .text(&["data", "list", "--json"])
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["path"].as_str().unwrap().to_owned())
        .collect();
    let mut wanted: Vec<String> = names.iter().map(|name| format!("many/{name}")).collect();
    wanted.sort();
    assert_eq!(listed, wanted);
}

#[test]
fn bad_paths_and_files_are_refused_with_a_hint() {
    let home = Home::running();
    for path in ["a", "a/", "/a", "a//b", "a/../b", "a/."] {
        assert!(String::from_utf8_lossy(&home.put(path, b"x").stderr).contains("not a valid path"), "{path}");
        assert_eq!(home.put(path, &bytes(1, 3 << 20)).status.code(), Some(2), "{path}, large");
    }
    home.fails(1, &["data", "put", "a/b", "/no/such/file"]);
    home.fails(1, &["data", "put", "a/b", home.root().to_str().unwrap()]);
    home.fails(2, &["data", "frobnicate"]);
    assert_eq!(home.text(&["data", "list"]), "");
}

#[test]
fn an_import_stores_every_file_and_names_what_it_cannot() {
    let home = Home::running();
    let tree = home.root().join("things");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    fs::write(tree.join("a.txt"), "a").unwrap();
    fs::write(tree.join("deep/b.bin"), bytes(3, 2 << 20)).unwrap();
    fs::write(tree.join("deep/er/empty"), "").unwrap();
    let printed = home.text(&["data", "import", tree.to_str().unwrap()]);
    assert!(printed.contains("3 of 3 files"), "{printed}");
    assert!(home.get("things/deep/b.bin") == bytes(3, 2 << 20));
    assert_eq!(home.get("things/deep/er/empty"), b"");

    std::os::unix::fs::symlink("/etc/passwd", tree.join("link")).unwrap();
    let errors = home.fails(1, &["data", "import", tree.to_str().unwrap()]);
    assert!(errors.contains("link") && errors.contains("not a plain file"), "{errors}");
    home.fails(5, &["data", "get", "things/link"]);
    home.fails(2, &["data", "import", tree.join("a.txt").to_str().unwrap()]);
    home.fails(1, &["data", "import", "/no/such/folder"]);
}

#[test]
fn nothing_is_written_elsewhere_and_nobody_else_can_read_it() {
    let mut home = Home::running();
    home.put_ok("notes/a", &bytes(1, 2 << 20));
    home.ok(&["status"]);
    home.down();
    let mut top: Vec<_> = fs::read_dir(home.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
    top.sort();
    assert_eq!(top, ["data", "keys"]);
    for folder in [home.data(), home.keys()] {
        for file in files(&folder) {
            assert_eq!(fs::metadata(&file).unwrap().mode() & 0o077, 0, "{}", file.display());
        }
        assert_eq!(fs::metadata(&folder).unwrap().mode() & 0o077, 0);
    }
    assert_eq!(fs::metadata(home.data().join("run")).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn a_second_backend_is_told_who_holds_the_vault() {
    let home = Home::running();
    let output = home.up_fails();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{errors}");
    assert!(errors.contains(&format!("process {}", home.backend_pid())), "{errors}");
    home.ok(&["status"]);
}

#[test]
fn a_run_folder_that_is_not_there_is_named() {
    let mut home = Home::new();
    let missing = home.root().join("missing");
    home.set("AICO_RUN_DIR", missing.to_str().unwrap());
    let errors = home.fails(2, &["up"]);
    assert!(errors.contains("AICO_RUN_DIR") && errors.contains(missing.to_str().unwrap()), "{errors}");
}

#[test]
fn an_interrupt_stops_it_cleanly() {
    for signal in ["INT", "TERM"] {
        let mut home = Home::running();
        home.put_ok("notes/a", b"x");
        let pid = home.backend_pid().to_string();
        std::process::Command::new("kill").args(["-s", signal, &pid]).status().unwrap();
        home.wait();
        assert!(home.text(&["audit", "verify", "--require-anchor"]).contains("anchored"));
        home.up();
        assert_eq!(home.get("notes/a"), b"x");
    }
}

#[test]
fn a_data_folder_with_a_long_path_works() {
    let mut home = Home::new();
    let deep = home.root().join("d".repeat(100)).join("e".repeat(100));
    fs::create_dir_all(&deep).unwrap();
    let link = home.root().join("data");
    std::os::unix::fs::symlink(&deep, &link).unwrap();
    home.up();
    home.put_ok("notes/a", b"x");
    let mut command = home.command(&["data", "get", "notes/a"]);
    let output = command.env("AICO_HOME", &deep).output().unwrap();
    assert_eq!(output.stdout, b"x", "{}", String::from_utf8_lossy(&output.stderr));
}
