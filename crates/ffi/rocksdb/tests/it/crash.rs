//! A process that is killed in the middle of its writes.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use aico_ffi_rocksdb::{Limits, Memory};

use crate::{KEY, content};

const CHILD: &str = "AICO_TEST_CRASH_FOLDER";

fn value(number: u32) -> Vec<u8> {
    let length = if number.is_multiple_of(5) { 70_000 } else { 300 };
    number.to_le_bytes().iter().copied().cycle().take(length).collect()
}

/// Small, so that logs and tables change while the child is killed.
fn limits() -> Limits {
    Limits { write_buffer_bytes: 256 << 10, ..Limits::default() }
}

/// Runs in the child only: writes for ever, and says what is on disk.
#[test]
fn child_of_the_kill_test() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let memory = Memory::open(Path::new(&folder), &KEY, &limits()).unwrap();
    let first = content(&memory).unwrap().keys().map(|key| u32::from_be_bytes(key[..4].try_into().unwrap())).max();
    for number in first.map_or(0, |last| last + 1).. {
        memory.put(&number.to_be_bytes(), &value(number), None).unwrap();
        println!("\nput {number}");
        if number % 50 == 49 {
            memory.compact(0).unwrap();
        }
    }
}

#[test]
fn what_was_acknowledged_outlives_a_kill() {
    let rounds = std::env::var("AICO_TEST_KILLS").map_or(25, |rounds| rounds.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = None;
    for round in 0..rounds {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "crash::child_of_the_kill_test", "--nocapture"])
            .env(CHILD, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            lines.filter_map(|line| line.strip_prefix("put ")?.parse::<u32>().ok()).last()
        });
        // Early ones hit the opening, later ones the writes.
        std::thread::sleep(Duration::from_millis(3 + 17 * (round % 20)));
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged = reader.join().unwrap().or(acknowledged);
        let memory = Memory::open(folder.path(), &KEY, &limits()).unwrap();
        memory.verify().unwrap();
        let all = content(&memory).unwrap();
        for number in 0..acknowledged.map_or(0, |last| last + 1) {
            assert!(all.get(number.to_be_bytes().as_slice()) == Some(&value(number)), "round {round}: {number}");
        }
        // One that was under way may be there too, whole.
        assert!(all.len() as u32 <= acknowledged.map_or(0, |last| last + 1) + round as u32 + 1);
        for (key, kept) in &all {
            assert!(value(u32::from_be_bytes(key[..4].try_into().unwrap())) == *kept);
        }
    }
    assert!(acknowledged.unwrap() > 50, "{acknowledged:?}");
}
