//! A disk that is full: files that may not grow, in a process of their own.

use std::path::Path;
use std::process::Command;

use aico_ffi_rocksdb::{Error, Limits, Memory};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{KEY, content};

const CHILD: &str = "AICO_TEST_FULL_FOLDER";

fn allow(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes.or(maximum), maximum }).unwrap();
}

/// Runs in the child only.
#[test]
fn child_of_the_full_disk_test() {
    let Ok(folder) = std::env::var(CHILD) else { return };
    let limits = Limits { write_buffer_bytes: 256 << 10, ..Limits::default() };
    let mut kept = 0_u32;
    for round in 0..6_u32 {
        let memory = Memory::open(Path::new(&folder), &KEY, &limits).unwrap();
        let mut refused = 0;
        for step in 0..60_u32 {
            // Differs by round: sometimes a log does not fit, sometimes a table, sometimes a list of tables.
            match step {
                20 => allow(Some([2_000, 30_000, 100, 60_000, 500, 120_000][round as usize])),
                40 => allow(None),
                _ => {}
            }
            match memory.put(&kept.to_be_bytes(), &[kept as u8; 5000], None) {
                Ok(()) => kept += 1,
                Err(Error::Full) => {
                    assert!((20..40).contains(&step), "round {round}, step {step}");
                    refused += 1;
                }
                Err(error) => panic!("round {round}, step {step}: {error:?}"),
            }
            if step == 30 {
                match memory.compact(0) {
                    Ok(()) | Err(Error::Full) => {}
                    Err(error) => panic!("round {round}: {error:?}"),
                }
            }
        }
        assert!(refused > 0, "round {round}");
        let check = |memory: &Memory| {
            let all = content(memory).unwrap();
            assert_eq!(all.len() as u32, kept);
            assert!(all.iter().all(|(key, value)| *value == [key[3]; 5000]));
            memory.verify().unwrap();
        };
        check(&memory);
        drop(memory);
        check(&Memory::open(Path::new(&folder), &KEY, &limits).unwrap());
    }
}

#[test]
fn a_full_disk_loses_nothing_and_the_store_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    // The signal that a file too large brings would end the process.
    let status = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" --exact full::child_of_the_full_disk_test --nocapture"])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, folder.path())
        .status()
        .unwrap();
    assert!(status.success());
}
