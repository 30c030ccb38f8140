//! Every call by which the vault changes the disk is stopped or made to fail, in turn; what was not synced is kept, lost
//! or torn; then the vault is opened again. Nothing that was acknowledged may be missing, nothing half-done may be seen,
//! and the log verifies.
//!
//! A bounded part runs with the tests; `./dev crash` runs `AICO_CRASH_INJECTIONS` of them.

mod disk;
mod scenes;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use disk::sweep::{self, Case, KINDS};
use disk::{Disk, Fault, Numbers, Tree, Unsynced};

const CHILD: &str = "AICO_TEST_CRASH_CHILD";
/// Injections of the bounded part.
const FEW: usize = 150;
const WORKERS: usize = 8;
/// For one scene or one check. Longer is a hang.
const PATIENCE: Duration = Duration::from_secs(60);
const SCENES: [&str; 10] =
    ["set-up", "values", "keys", "rotation", "forgetting", "memory", "secrets", "lock", "migration", "log"];

/// The process whose disk it is. A scene that ends it, or hangs, is a finding and not the end of the sweep.
struct Player {
    child: Child,
    answers: mpsc::Receiver<String>,
}

impl Player {
    fn start() -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "crash::child", "--nocapture", "--test-threads=1"]).env(CHILD, "1");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (tell, answers) = mpsc::channel();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            let answers =
                lines.map_while(Result::ok).filter_map(|line| line.split_once("@@").map(|(_, text)| text.to_owned()));
            answers.for_each(|answer| drop(tell.send(answer)));
        });
        Self { child, answers }
    }

    fn ask(&mut self, question: &str) -> Result<String, String> {
        writeln!(self.child.stdin.as_ref().unwrap(), "{question}").map_err(|error| error.to_string())?;
        match self.answers.recv_timeout(PATIENCE) {
            Ok(answer) => Ok(answer),
            Err(error) => {
                self.stop();
                *self = Self::start();
                Err(format!("it crashed or hung: {error}"))
            }
        }
    }

    fn stop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Not a test of its own: what [`Player`] starts.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let (what, scene, root, last) = (word(), word(), PathBuf::from(word()), word());
        let answer = match what {
            "play" => {
                let (outcomes, errors) = scenes::play(scene, &root, last == "until-failure");
                format!("{outcomes} {}", errors.join("; "))
            }
            _ => scenes::check(scene, &root, last).map_or_else(|error| error, |()| "good".to_owned()),
        };
        // One line, whatever an error says; libtest has not ended its own.
        println!("\n@@{}", answer.replace('\n', " "));
    }
}

fn empty() -> Tree {
    let folder = || Tree::Folder(BTreeMap::new(), 0o700);
    Tree::Folder(BTreeMap::from([("data".into(), folder()), ("keys".into(), folder())]), 0o700)
}

/// A vault of an older version of the program.
fn of_format_1() -> Tree {
    let folder = tempfile::tempdir().unwrap();
    let archive = Path::new(env!("CARGO_MANIFEST_DIR")).join("../aico/tests/fixtures/vault-format-1.tar.xz");
    let unpacked = Command::new("tar").arg("-xJf").arg(archive).arg("-C").arg(folder.path()).status().unwrap();
    assert!(unpacked.success());
    read_tree(folder.path())
}

fn read_tree(path: &Path) -> Tree {
    use std::os::unix::fs::PermissionsExt;
    let mode = (std::fs::metadata(path).unwrap().permissions().mode() & 0o7777) as u16;
    if path.is_dir() {
        let entries = std::fs::read_dir(path).unwrap().map(Result::unwrap);
        Tree::Folder(entries.map(|entry| (entry.file_name(), read_tree(&entry.path()))).collect(), mode)
    } else {
        Tree::File(std::fs::read(path).unwrap(), mode)
    }
}

/// A disk and the process that uses it. Each run has a folder of its own, so that nothing the kernel remembers of another
/// is in it.
struct Sweep {
    player: Player,
    disk: Disk,
    folder: tempfile::TempDir,
    runs: usize,
}

impl Sweep {
    fn new() -> Result<Self, String> {
        let folder = tempfile::tempdir().unwrap();
        let mount = folder.path().join("disk");
        std::fs::create_dir(&mount).unwrap();
        let disk = Disk::mount(&mount)?;
        scenes::write_paper(&mount);
        Ok(Self { player: Player::start(), disk, folder, runs: 0 })
    }

    fn lay(&mut self, tree: &Tree) -> String {
        self.runs += 1;
        let name = format!("run-{}", self.runs);
        self.disk.put(&name, tree);
        name
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join("disk").join(name).to_str().unwrap().to_owned()
    }

    /// The vault as a scene begins with it, and how many calls the scene makes when nothing fails.
    fn prepare(&mut self, scene: &str) -> (Tree, u64) {
        let mut numbers = Numbers(1);
        let start = match scene {
            "set-up" | "log" => empty(),
            "migration" => of_format_1(),
            _ => {
                let name = self.lay(&empty());
                let answer = self.player.ask(&format!("play set-up {}", self.path(&name))).unwrap();
                assert_eq!(answer.trim(), "aaa");
                self.disk.after(&name, Unsynced::Kept, &mut numbers)
            }
        };
        let name = self.lay(&start);
        self.disk.plan(u64::MAX, Fault::Stop);
        let answer = self.player.ask(&format!("play {scene} {}", self.path(&name))).unwrap();
        assert!(answer.trim_end().bytes().all(|outcome| outcome == b'a'), "{scene} without a fault: {answer}");
        let calls = self.disk.heal().1;
        let outcomes = answer.trim().to_owned();
        // Nothing that was acknowledged is lost when nothing that was not synced survives.
        let after = self.disk.after(&name, Unsynced::Lost, &mut numbers);
        let name = self.lay(&after);
        let checked = self.player.ask(&format!("check {scene} {} {outcomes}", self.path(&name))).unwrap();
        assert_eq!(checked, "good", "{scene} without a fault");
        (start, calls)
    }

    /// One injection; what went wrong, or nothing. `None` if the scene ended before the fault came.
    fn inject(&mut self, scene: &str, start: &Tree, case: Case) -> Option<Result<(), String>> {
        let name = self.lay(start);
        self.disk.plan(case.at, case.fault);
        let until = if case.fault == Fault::Stop { "until-failure" } else { "on" };
        let answer = match self.player.ask(&format!("play {scene} {} {until}", self.path(&name))) {
            Ok(answer) => answer,
            Err(error) => return Some(Err(error)),
        };
        if !self.disk.heal().0 {
            return None;
        }
        let outcomes = answer.split(' ').next().unwrap_or_default().to_owned();
        let name = match case.unsynced {
            // The same machine goes on.
            None => name,
            Some(unsynced) => {
                let after = self.disk.after(&name, unsynced, &mut Numbers(case.seed | 1));
                self.lay(&after)
            }
        };
        let checked = self.player.ask(&format!("check {scene} {} {outcomes}", self.path(&name)));
        Some(match checked.as_deref() {
            Ok("good") => Ok(()),
            Ok(wrong) => Err(format!("{wrong} ({answer})")),
            Err(error) => Err(format!("{error} ({answer})")),
        })
    }
}

#[test]
fn a_disk_that_stops_fills_up_or_breaks_at_any_call_loses_nothing() {
    let Some(mut first) = sweep::or_skipped(Sweep::new()) else { return };
    let injections = sweep::given("AICO_CRASH_INJECTIONS").map_or(FEW, |count| count as usize);
    let mut numbers = sweep::numbers();
    let only = std::env::var("AICO_CRASH_SCENE").ok();
    let mut prepared = BTreeMap::new();
    for scene in
        SCENES.into_iter().filter(|scene| only.as_deref().is_none_or(|only| only.split(',').any(|only| only == *scene)))
    {
        // The inner loop leaves RocksDB out.
        if scene == "memory" && !aico_vault::HAS_MEMORY {
            continue;
        }
        prepared.insert(scene, first.prepare(scene));
    }
    let scenes: Vec<(&str, u64)> = prepared.iter().map(|(scene, (_, calls))| (*scene, *calls)).collect();
    eprintln!("calls {scenes:?}");
    // With enough injections every call of every scene has its turn; with few, they are drawn.
    let mut cases: Vec<(&str, Case)> = Vec::new();
    let calls: u64 = scenes.iter().map(|(_, calls)| calls).sum();
    if injections as u64 >= calls * KINDS.len() as u64 {
        for (scene, at) in scenes.iter().flat_map(|(scene, calls)| (1..=*calls).map(move |at| (*scene, at))) {
            let all = KINDS.map(|(fault, unsynced)| Case { at, fault, unsynced, seed: numbers.next() });
            cases.extend(all.map(|case| (scene, case)));
        }
    }
    while cases.len() < injections {
        let (scene, calls) = scenes[numbers.below(scenes.len())];
        cases.push((scene, Case::any(calls, &mut numbers)));
    }
    // A log whose disk fails waits a second before it tries again: many wait at once.
    sweep::sweep(
        cases,
        (first, WORKERS),
        || Sweep::new().unwrap(),
        |machine, scene, case| machine.inject(scene, &prepared[scene].0, case),
    );
}
