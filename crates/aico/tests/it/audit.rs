//! Somebody rewrites the log.

use std::fs;
use std::path::PathBuf;

use crate::home::{Home, files};

/// A stopped vault whose log has a published bundle and a tail.
fn stopped() -> Home {
    let mut home = Home::running();
    let tree = home.root().join("t");
    fs::create_dir(&tree).unwrap();
    for n in 0..150 {
        fs::write(tree.join(n.to_string()), "x").unwrap();
    }
    home.ok(&["data", "import", tree.to_str().unwrap()]);
    home.down();
    home
}

fn log_files(home: &Home) -> Vec<PathBuf> {
    files(&home.data().join("audit"))
}

#[test]
fn a_whole_log_is_told_whole_with_and_without_its_vault() {
    let home = stopped();
    assert_eq!(log_files(&home).len(), 6, "checkpoint, tail, vkey, a bundle, two tiles");
    assert!(home.text(&["audit", "verify", "--require-anchor"]).contains("whole, and anchored"));
    let keyless = |args: &[&str]| {
        let mut command = home.command(args);
        command.env("AICO_KEY_DIR", home.root().join("nowhere")).output().unwrap()
    };
    let output = keyless(&["audit", "verify"]);
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("internally consistent, not anchored"));
    assert_eq!(keyless(&["audit", "verify", "--require-anchor"]).status.code(), Some(3));
    let kept = home.root().join("kept");
    fs::copy(home.data().join("audit/checkpoint"), &kept).unwrap();
    let with = keyless(&["audit", "verify", "--require-anchor", "--checkpoint", kept.to_str().unwrap()]);
    assert!(with.status.success(), "{}", String::from_utf8_lossy(&with.stderr));
}

#[test]
fn every_flipped_byte_is_noticed() {
    let home = stopped();
    for file in log_files(&home) {
        let good = fs::read(&file).unwrap();
        // The first and last bytes, where headers and signatures are, and every so many between.
        let step = (good.len() / 40).max(1);
        let places = (0..good.len()).filter(|at| at % step == 0 || *at < 40 || *at + 40 >= good.len());
        for at in places {
            let mut bad = good.clone();
            bad[at] ^= 1;
            fs::write(&file, &bad).unwrap();
            assert_eq!(verdict(&home), Some(1), "{} at {at}", file.display());
        }
        fs::write(&file, &good).unwrap();
    }
    assert_eq!(verdict(&home), Some(0));
}

/// The exit code of a verification without any key: what anybody notices who has the folder only.
fn verdict(home: &Home) -> Option<i32> {
    let mut command = home.command(&["audit", "verify"]);
    command.env("AICO_KEY_DIR", home.root().join("nowhere")).output().unwrap().status.code()
}

#[test]
fn cuts_removals_additions_and_swaps_are_noticed() {
    let home = stopped();
    for file in log_files(&home) {
        let good = fs::read(&file).unwrap();
        for cut in [0, 1, good.len() / 3, good.len() / 2, good.len() - 1] {
            fs::write(&file, &good[..cut]).unwrap();
            assert_eq!(verdict(&home), Some(1), "{} cut to {cut}", file.display());
        }
        fs::write(&file, [good.clone(), vec![0]].concat()).unwrap();
        assert_eq!(verdict(&home), Some(1), "{} longer", file.display());
        fs::remove_file(&file).unwrap();
        assert_eq!(verdict(&home), Some(1), "{} removed", file.display());
        fs::write(&file, &good).unwrap();
        let beside = file.with_file_name("another");
        fs::write(&beside, &good).unwrap();
        assert_eq!(verdict(&home), Some(1), "a file beside {}", file.display());
        fs::remove_file(beside).unwrap();
    }
    // Two entries of the bundle change places.
    let bundle = home.data().join("audit/tile/entries/000");
    let good = fs::read(&bundle).unwrap();
    let first = 2 + usize::from(u16::from_be_bytes([good[0], good[1]]));
    let second = first + 2 + usize::from(u16::from_be_bytes([good[first], good[first + 1]]));
    fs::write(&bundle, [&good[first..second], &good[..first], &good[second..]].concat()).unwrap();
    assert_eq!(verdict(&home), Some(1), "swapped entries");
    fs::write(&bundle, good).unwrap();
    assert_eq!(verdict(&home), Some(0));
}

#[test]
fn a_log_cut_to_an_older_whole_state_is_noticed_by_the_vault() {
    let mut home = Home::running();
    home.put_ok("notes/a", b"1");
    home.down();
    let tail = home.data().join("audit/tail");
    let older = fs::read(&tail).unwrap();
    home.up();
    home.put_ok("notes/b", b"2");
    home.down();
    let newer = fs::read(&tail).unwrap();
    fs::write(&tail, &older).unwrap();
    assert_eq!(verdict(&home), Some(0), "whole in itself: nobody without the vault can know");
    let errors = home.fails(1, &["audit", "verify"]);
    assert!(errors.contains("rolled back"), "{errors}");
    let errors = String::from_utf8_lossy(&home.up_fails().stderr).into_owned();
    assert!(errors.contains("audit log"), "{errors}");
    fs::write(&tail, &newer).unwrap();
    home.up();
    assert!(home.text(&["audit", "verify", "--require-anchor"]).contains("anchored"));
}

#[test]
fn another_vaults_log_is_noticed() {
    let (ours, theirs) = (stopped(), stopped());
    for file in log_files(&theirs) {
        let relative = file.strip_prefix(theirs.data()).unwrap();
        fs::copy(&file, ours.data().join(relative)).unwrap();
    }
    assert_eq!(verdict(&ours), Some(0), "it is whole in itself");
    ours.fails(1, &["audit", "verify"]);
    ours.up_fails();
}

#[test]
fn what_happened_stands_in_the_log_without_names() {
    let home = Home::running();
    home.put_ok("notes/very secret name", b"1");
    home.fails(5, &["data", "get", "notes/absent"]);
    let log = home.text(&["audit", "tail", "-n", "100", "--json"]);
    let events: Vec<serde_json::Value> = log.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let what: Vec<&str> = events.iter().map(|e| e["event"]["what"].as_str().unwrap()).collect();
    for word in ["identity.enrol", "backend.start", "data.write", "outcome", "data.read", "audit.read"] {
        assert!(what.contains(&word), "{word} in {what:?}");
    }
    assert!(!log.contains("secret name"));
    let write = events.iter().find(|e| e["event"]["what"] == "data.write").unwrap();
    assert_eq!(
        (write["event"]["category"].as_str(), write["event"]["verdict"].as_str()),
        (Some("notes"), Some("allowed"))
    );
}
