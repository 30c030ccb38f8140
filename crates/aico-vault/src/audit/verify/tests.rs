//! Attacks on the files of a small log: each must be a finding that names the file.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use aico_crypto::{LogKey, OsRandom};
use proptest::prelude::*;

use super::*;
use crate::audit::{AuditLog, LogId};

const LOG: LogId = LogId([5; 16]);

/// All files of a log by name.
type Files = BTreeMap<String, Vec<u8>>;

struct Folder {
    _temporary: tempfile::TempDir,
    path: PathBuf,
}

impl Folder {
    fn new() -> Self {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("audit");
        Self { _temporary: temporary, path }
    }

    /// A log with a durable batch after every `step` entries, and the files and head at each of `stops`.
    fn fill(&self, key: LogKey, count: u64, step: u64, stops: &[u64]) -> Vec<(Files, Head)> {
        let log = AuditLog::create(&self.path, key, LOG).unwrap();
        let mut states = Vec::new();
        for index in 0..count {
            let receipt = log.record(format!("entry {index}").as_bytes()).unwrap();
            if (index + 1) % step == 0 || index + 1 == count || stops.contains(&(index + 1)) {
                log.wait_durable(receipt.index()).unwrap();
            }
            if stops.contains(&(index + 1)) {
                assert_eq!(log.trouble(), None);
                states.push((self.files(), log.head()));
            }
        }
        log.close().unwrap();
        states
    }

    fn files(&self) -> Files {
        walk(&self.path, "")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::create_dir_all(self.path.join(name).parent().unwrap()).unwrap();
        fs::write(self.path.join(name), bytes).unwrap();
    }

    fn put(&self, files: &Files) {
        fs::remove_dir_all(&self.path).unwrap();
        files.iter().for_each(|(name, bytes)| self.write(name, bytes));
    }

    fn verify(&self, expected: &Expectations) -> Result<Report, Vec<Finding>> {
        let disk = Disk::new(&self.path);
        let passed = check::pass(&disk, &Snapshot::take(&disk).unwrap(), expected).unwrap();
        passed.verdict().map_err(|e| match e {
            VerifyError::Findings(findings) => findings,
            VerifyError::Unreadable(e) => panic!("{e}"),
        })
    }

    /// That the log is refused, and that a finding names `file`.
    fn assert_found(&self, file: &str, what: &str) -> Vec<Finding> {
        let findings = self.verify(&Expectations::default()).expect_err(what);
        assert!(findings.iter().any(|f| f.file == file), "{what}: {findings:?}");
        findings
    }
}

fn walk(path: &Path, name: &str) -> Files {
    let mut files = Files::new();
    for item in fs::read_dir(path).unwrap().map(Result::unwrap) {
        let name = format!("{name}{}", item.file_name().to_str().unwrap());
        match item.path().is_dir() {
            true => files.append(&mut walk(&item.path(), &format!("{name}/"))),
            false => drop(files.insert(name, fs::read(item.path()).unwrap())),
        }
    }
    files
}

/// 600 entries: two bundles, and 88 entries in the tail.
fn small_log() -> (Folder, Files) {
    let folder = Folder::new();
    folder.fill(LogKey::make(&OsRandom).unwrap(), 600, 40, &[]);
    let files = folder.files();
    (folder, files)
}

fn is_short(name: &str) -> bool {
    ["vkey", "checkpoint", "tail"].contains(&name)
}

#[test]
fn a_whole_log_is_whole_and_its_files_are_those_of_the_specification() {
    let (folder, files) = small_log();
    let report = folder.verify(&Expectations::default()).unwrap();
    assert_eq!((report.size, report.anchored, report.key_expected), (600, Anchored::No, false));
    assert!(report.to_string().ends_with("internally consistent, not anchored"), "{report}");
    assert!(report.notes.is_empty(), "{:?}", report.notes);
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    let wanted = ["checkpoint", "tail", "tile/0/000", "tile/0/001", "tile/1/000.p/2", "tile/entries/000"];
    assert_eq!(names, [wanted.as_slice(), &["tile/entries/001", "vkey"]].concat());
    assert!(verify(&folder.path, &Expectations::default()).is_ok());
}

#[test]
fn every_flipped_byte_is_a_finding_in_its_file() {
    let (folder, files) = small_log();
    for (name, bytes) in &files {
        let stride = if is_short(name) || bytes.len() < 100 { 1 } else { 11 };
        for at in (0..bytes.len()).step_by(stride) {
            let mut bad = bytes.clone();
            bad[at] ^= 1 << (at % 8);
            folder.write(name, &bad);
            folder.assert_found(name, &format!("{name}, byte {at}"));
        }
        folder.write(name, bytes);
    }
    assert!(folder.verify(&Expectations::default()).is_ok());
}

#[test]
fn every_cut_is_a_finding_in_its_file() {
    let (folder, files) = small_log();
    for (name, bytes) in &files {
        let stride = if bytes.len() < 1000 { 1 } else { 37 };
        for cut in (0..bytes.len()).step_by(stride) {
            folder.write(name, &bytes[..cut]);
            // A tail that is cut between two batches is an older state of the log; the test of anchors has it.
            if name == "tail" && folder.verify(&Expectations::default()).is_ok() {
                continue;
            }
            folder.assert_found(name, &format!("{name}, {cut} bytes"));
        }
        folder.write(name, bytes);
    }
}

#[test]
fn missing_and_unknown_files_are_findings() {
    let (folder, files) = small_log();
    for (name, bytes) in &files {
        fs::remove_file(folder.path.join(name)).unwrap();
        folder.assert_found(name, name);
        folder.write(name, &[bytes.as_slice(), b"x"].concat());
        folder.assert_found(name, "an appended byte");
        folder.write(name, &[bytes.as_slice(), bytes].concat());
        folder.assert_found(name, "the same again");
        folder.write(name, bytes);
    }
    for extra in [
        "tile/entries/002",
        "tile/0/002",
        "tile/1/000.p/1",
        "tile/1/000.p/3",
        "tile/1/000",
        "tile/0/002.p/88",
        "tile/2/000.p/1",
        "tail.old",
        "Tail",
        "checkpoint~",
        "tile/entries/000.p/1",
        "tile/entries/x001/000",
    ] {
        folder.write(extra, files.get("tile/entries/000").unwrap());
        folder.assert_found(extra, extra);
        fs::remove_file(folder.path.join(extra)).unwrap();
        folder.put(&files);
    }
    fs::create_dir(folder.path.join("tile/7")).unwrap();
    folder.assert_found("tile/7", "an empty folder");
    folder.put(&files);
    fs::rename(folder.path.join("tail"), folder.path.join("../tail")).unwrap();
    symlink("../tail", folder.path.join("tail")).unwrap();
    folder.assert_found("tail", "a link");
}

#[test]
fn a_leftover_of_an_interrupted_write_is_said_and_no_finding() {
    let (folder, _) = small_log();
    folder.write("tile/0/002.tmp", b"half");
    folder.write("tail.tmp", b"");
    assert_eq!(folder.verify(&Expectations::default()).unwrap().notes.len(), 2);
    folder.write("tail.tmp.tmp", b"");
    folder.assert_found("tail.tmp.tmp", "no file of a log");
}

#[test]
fn the_wrong_entry_is_named() {
    let (folder, files) = small_log();
    let bundle = &files["tile/entries/001"];
    let mut swapped = bundle.clone();
    // Entries 300 and 301 of one length, 106 bytes with the length in front.
    let at = (300 - 256) * 106;
    swapped[at..at + 106].copy_from_slice(&bundle[at + 106..at + 212]);
    swapped[at + 106..at + 212].copy_from_slice(&bundle[at..at + 106]);
    folder.write("tile/entries/001", &swapped);
    let findings = folder.assert_found("tile/entries/001", "two entries swapped");
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].place, "entry 300");
    assert_eq!(findings[0].to_string(), "`tile/entries/001`, entry 300: is not the entry that was recorded");
}

#[test]
fn swapped_bundles_and_batches_are_findings() {
    let (folder, files) = small_log();
    folder.write("tile/entries/000", &files["tile/entries/001"]);
    folder.write("tile/entries/001", &files["tile/entries/000"]);
    folder.assert_found("tile/entries/000", "two bundles swapped");
    folder.write("tile/0/000", &files["tile/0/001"]);
    folder.write("tile/0/001", &files["tile/0/000"]);
    folder.assert_found("tile/1/000.p/2", "two bundles and their tiles swapped");
    folder.put(&files);

    let tail = &files["tail"];
    let starts = batch_starts(tail);
    let [a, b, c] = [starts[0], starts[1], starts[2]];
    for bad in [
        [&tail[..a], &tail[b..c], &tail[a..b], &tail[c..]].concat(),
        [&tail[..a], &tail[b..]].concat(),
        [&tail[..b], &tail[a..]].concat(),
    ] {
        folder.write("tail", &bad);
        folder.assert_found("tail", "batches swapped, left out, doubled");
    }
}

fn batch_starts(tail: &[u8]) -> Vec<usize> {
    (0..tail.len()).filter(|at| tail[*at..].starts_with(crate::audit::tail::BATCH_MAGIC)).collect()
}

#[test]
fn parts_of_another_log_are_findings() {
    let (folder, files) = small_log();
    let (_other, theirs) = small_log();
    for name in files.keys() {
        folder.write(name, &theirs[name]);
        assert!(folder.verify(&Expectations::default()).is_err(), "{name}");
        folder.write(name, &files[name]);
    }
    folder.write("tail", &theirs["tail"]);
    folder.write("checkpoint", &theirs["checkpoint"]);
    folder.assert_found("checkpoint", "tail and checkpoint by another key");
}

#[test]
fn a_log_made_anew_is_noticed_with_the_vaults_key_and_with_an_anchor() {
    let folder = Folder::new();
    let key = LogKey::make(&OsRandom).unwrap();
    let public = key.public().unwrap();
    let (_, head) = folder.fill(key, 300, 100, &[300]).remove(0);
    let ours = Expectations { key: Some(public), anchor: Some(Anchor::Head(head)) };
    assert_eq!(folder.verify(&ours).unwrap().anchored, Anchored::ByHead(300));

    fs::remove_dir_all(&folder.path).unwrap();
    folder.fill(LogKey::make(&OsRandom).unwrap(), 300, 100, &[]);
    assert!(folder.verify(&Expectations::default()).is_ok(), "nothing to tell them apart by");
    let findings = folder.verify(&ours).unwrap_err();
    assert!(findings.iter().any(|f| f.file == "vkey" && f.what.contains("not the vault's key")), "{findings:?}");
    assert!(findings.iter().any(|f| f.what.starts_with("rewritten")), "{findings:?}");
}

#[test]
fn a_rolled_back_log_is_noticed_with_an_anchor_alone() {
    let folder = Folder::new();
    let key = LogKey::make(&OsRandom).unwrap();
    let states = folder.fill(key, 700, 50, &[100, 280, 290, 512, 600, 700]);
    let newest = Expectations { anchor: Some(Anchor::Head(states[5].1)), ..Expectations::default() };
    for (index, (files, head)) in states.iter().enumerate() {
        folder.put(files);
        let alone = folder.verify(&Expectations::default());
        assert_eq!(alone.as_ref().map(|r| (r.size, r.anchored)), Ok((head.size, Anchored::No)), "an older state");
        for (older, (_, anchor)) in states.iter().enumerate() {
            let expected = Expectations { anchor: Some(Anchor::Head(*anchor)), ..Expectations::default() };
            assert_eq!(folder.verify(&expected).is_ok(), older <= index, "{older} in {index}");
        }
        if index < 5 {
            let findings = folder.verify(&newest).unwrap_err();
            let what = format!("rolled back: the log ends before entry {}, its anchor knows 700 entries", head.size);
            assert_eq!(findings.iter().filter(|f| f.what == what).count(), 1, "{findings:?}");
        }
    }
}

#[test]
fn an_old_tail_or_checkpoint_alone_is_noticed() {
    let folder = Folder::new();
    let states = folder.fill(LogKey::make(&OsRandom).unwrap(), 700, 50, &[100, 280, 290, 520, 600, 700]);
    for (newer, (files, newest)) in states.iter().enumerate() {
        folder.put(files);
        for (older, _) in &states[..newer] {
            for name in ["tail", "checkpoint"] {
                folder.write(name, &older[name]);
                let anchor = Some(Anchor::Head(*newest));
                let same = older[name] == files[name];
                assert_eq!(folder.verify(&Expectations { key: None, anchor }).is_ok(), same, "{name} {newer}");
                folder.write(name, &files[name]);
            }
        }
    }
}

#[test]
fn a_checkpoint_text_is_an_anchor() {
    let folder = Folder::new();
    let log = AuditLog::create(&folder.path, LogKey::make(&OsRandom).unwrap(), LOG).unwrap();
    let empty = log.checkpoint();
    log.wait_durable(log.record(b"one").unwrap().index()).unwrap();
    let note = log.checkpoint();
    log.wait_durable(log.record(b"two").unwrap().index()).unwrap();
    let by = |note: &str| Expectations { key: None, anchor: Some(Anchor::Checkpoint(note.into())) };
    assert_eq!(folder.verify(&by(&note)).unwrap().anchored, Anchored::ByCheckpoint(1));
    assert_eq!(folder.verify(&by(&empty)).unwrap().anchored, Anchored::ByCheckpoint(0));
    let other = Folder::new();
    let stranger = AuditLog::create(&other.path, LogKey::make(&OsRandom).unwrap(), LOG).unwrap();
    for bad in ["", "rubbish", &note.replacen("\n1\n", "\n2\n", 1), &stranger.checkpoint()] {
        assert!(folder.verify(&by(bad)).is_err(), "{bad}");
    }
}

#[test]
fn a_log_in_use_is_whole_at_every_moment() {
    let folder = Folder::new();
    let log = AuditLog::create(&folder.path, LogKey::make(&OsRandom).unwrap(), LOG).unwrap();
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for index in 0..6000u32 {
                let receipt = log.record(&index.to_be_bytes()).unwrap();
                if index % 16 == 0 {
                    log.wait_durable(receipt.index()).unwrap();
                }
            }
        });
        while !writer.is_finished() {
            verify(&folder.path, &Expectations::default()).unwrap();
        }
    });
}

#[test]
fn thousand_damages_end_the_check_after_hundred() {
    let folder = Folder::new();
    folder.fill(LogKey::make(&OsRandom).unwrap(), 1, 1, &[]);
    (0..1000).for_each(|number| folder.write(&format!("rubbish {number}"), b""));
    assert_eq!(folder.verify(&Expectations::default()).unwrap_err().len(), MAX_FINDINGS);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn rubbish_is_never_more_than_findings(
        tail in prop::collection::vec(any::<u8>(), 0..600), note in "\\PC{0,200}",
        bundle in prop::collection::vec(any::<u8>(), 0..600), keep_header: bool,
    ) {
        let folder = Folder::new();
        folder.fill(LogKey::make(&OsRandom).unwrap(), 260, 130, &[]);
        let files = folder.files();
        let tail = if keep_header { [&files["tail"][..40], &tail].concat() } else { tail };
        for (name, bytes) in [("tail", &tail), ("tile/entries/000", &bundle), ("checkpoint", &note.clone().into_bytes()),
                              ("tile/0/000", &bundle), ("vkey", &note.into_bytes())] {
            if !(name == "tail" && tail.len() <= 40) {
                folder.write(name, bytes);
                prop_assert!(folder.verify(&Expectations::default()).is_err());
            }
        }
    }
}
