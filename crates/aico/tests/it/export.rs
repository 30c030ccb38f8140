//! Taking everything out, seeing what there is, deleting it.

use std::fs;

use crate::home::{Home, bytes, files};
use crate::keys::{PASSWORD, passwords, protected};
use crate::pty::Terminal;

#[test]
fn an_export_is_what_import_reads() {
    let home = protected();
    let tree = home.root().join("letters");
    fs::create_dir_all(tree.join("deep/er")).unwrap();
    let values = [("a.txt", bytes(1, 10)), ("deep/b.bin", bytes(2, 3 << 20)), ("deep/er/empty", Vec::new())];
    for (name, value) in &values {
        fs::write(tree.join(name), value).unwrap();
    }
    home.ok(&["data", "import", tree.to_str().unwrap()]);
    home.put_ok("odd/\u{1b}[2J\n日記", b"odd");
    let (out, file) = (home.root().join("out"), passwords(&home, &[PASSWORD]));
    let export = ["data", "export", out.to_str().unwrap(), "--password-file", &file];
    home.ok(&export);
    for (name, value) in &values {
        assert!(fs::read(out.join("letters").join(name)).unwrap() == *value, "{name}");
    }
    assert_eq!(fs::read(out.join("odd/\u{1b}[2J\n日記")).unwrap(), b"odd");
    assert_eq!(files(&out).len(), 5);
    home.fails(2, &export);

    let mut other = Home::new();
    other.up();
    other.ok(&["data", "import", out.join("letters").to_str().unwrap()]);
    assert!(other.get("letters/deep/b.bin") == values[1].1);
    let log = home.text(&["audit", "tail"]);
    assert!(log.contains("data.export") && log.contains("done, 3."), "{log}");
}

#[test]
fn a_value_that_cannot_be_a_file_beside_the_others_is_named() {
    let home = protected();
    home.put_ok("notes/a/b", b"below");
    let (out, file) = (home.root().join("out"), passwords(&home, &[PASSWORD]));
    let errors = home.fails(1, &["data", "export", out.to_str().unwrap(), "--password-file", &file]);
    assert!(errors.contains("not written: notes/a/b"), "{errors}");
    assert_eq!(fs::read(out.join("notes/a")).unwrap(), b"kept");
}

#[test]
fn an_inventory_says_what_is_there_and_who_may_read_it() {
    let home = Home::running();
    home.put_ok("notes/a", &[1; 10]);
    home.put_ok("photos/b", &bytes(1, 2 << 20));
    let lines = home.text(&["data", "inventory", "--json"]);
    let all: Vec<serde_json::Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&all[0]["category"], &all[0]["bytes"]), (&"notes".into(), &10.into()));
    assert_eq!((&all[1]["values"], &all[1]["files"]), (&1.into(), &1.into()));
    assert_eq!(all[0]["readers"], serde_json::json!(["cli `cli`"]));
}

#[test]
fn a_reset_asks_and_leaves_nothing_that_opens_anything() {
    let mut home = Home::running();
    home.put_ok("notes/a", b"x");
    home.fails(8, &["reset"]);
    home.down();
    assert!(home.fails(6, &["reset"]).contains("terminal"));
    let mut terminal = Terminal::run(&home, &["reset"]);
    terminal.answer("Type `delete everything` to go on: ", "yes");
    assert_eq!(terminal.end().0, 2);
    assert!(home.data().join("vault.aico").exists());
    let mut terminal = Terminal::run(&home, &["reset"]);
    terminal.answer("Type `delete everything` to go on: ", "delete everything");
    assert_eq!(terminal.end().0, 0);
    assert_eq!(files(home.root()), Vec::<std::path::PathBuf>::new());
    assert!(home.up().contains("new vault"));
    home.fails(5, &["data", "get", "notes/a"]);
}
