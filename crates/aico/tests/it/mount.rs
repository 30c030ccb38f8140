//! `aico mount`: real programs on it, every way to its end, and whoever changes what lies on the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use aico_net::{Dial, Speaker, read_client_key};
use aico_proto::message::{MountAnswer, Request};

use crate::home::{Home, bytes, files};
use crate::keys::{PASSWORD, passwords, protected};

/// For a mount to come or go.
const PATIENCE: Duration = Duration::from_secs(20);

/// A mount in the foreground, in a process of its own.
pub(crate) struct Mount {
    process: Child,
    pub(crate) dir: PathBuf,
}

impl Mount {
    pub(crate) fn new(home: &Home, args: &[&str]) -> Self {
        let dir = home.root().join("mnt");
        let _there_before = fs::create_dir(&dir);
        let mut command = home.command(&["mount", dir.to_str().unwrap()]);
        let mut process = command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let mount = Self { process, dir };
        if !line.starts_with("mounted on ") {
            panic!("{line}{:?}", mount.end());
        }
        mount
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    fn is_mounted(&self) -> bool {
        is_mounted(&self.dir)
    }

    fn signal(&self, name: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for its end: exit code, and what it said on standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let began = Instant::now();
        while self.process.try_wait().unwrap().is_none() {
            assert!(began.elapsed() < PATIENCE, "the mount does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.process.wait().unwrap().code(), said)
    }

    /// Ends it as Ctrl-C or the system does.
    pub(crate) fn unmount(self) {
        self.signal("TERM");
        let dir = self.dir.clone();
        let (code, said) = self.end();
        assert_eq!((code, said.as_str()), (Some(0), ""));
        assert!(!is_mounted(&dir) && fs::read_dir(&dir).unwrap().next().is_none());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.process.try_wait().unwrap().is_none() {
            let _ended = self.process.kill();
            let _ended = self.process.wait();
        }
        let _gone = Command::new("fusermount3").args(["-u", "-z", "-q", "--"]).arg(&self.dir).status();
    }
}

fn is_mounted(dir: &Path) -> bool {
    fs::read_to_string("/proc/self/mounts").unwrap().contains(&format!(" {} ", dir.display()))
}

fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Runs a program that has to succeed; its standard output.
fn run(program: &str, args: &[&str], dir: &Path) -> String {
    let output = try_run(program, args, dir);
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {}{errors}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stdout).unwrap()
}

fn try_run(program: &str, args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(program);
    command.args(args).current_dir(dir).stdin(Stdio::null());
    // Nobody's settings but these.
    command.env("HOME", "/nonexistent").env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for (name, value) in [("NAME", "t"), ("EMAIL", "t@t")] {
        command.env(format!("GIT_AUTHOR_{name}"), value).env(format!("GIT_COMMITTER_{name}"), value);
    }
    command.output().unwrap()
}

fn sealed_files(home: &Home) -> Vec<PathBuf> {
    let in_tree = |file: &PathBuf| file.components().any(|part| part.as_os_str() == "tree");
    files(&home.data().join("spaces")).into_iter().filter(in_tree).collect()
}

fn worker_of(home: &Home) -> u32 {
    let text = fs::read_to_string(home.data().join("run/worker.lock")).unwrap();
    text.trim().strip_prefix("process ").unwrap().parse().unwrap()
}

/// A folder with a few hundred files of a real project: this one.
fn sources() -> &'static Path {
    static SOURCES: OnceLock<PathBuf> = OnceLock::new();
    SOURCES.get_or_init(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap())
}

#[test]
fn git_works_on_it_and_its_store_is_whole() {
    let home = Home::running();
    let mount = Mount::new(&home, &[]);
    let repository = mount.path("project");
    fs::create_dir(&repository).unwrap();
    run("cp", &["-r", sources().to_str().unwrap(), "crates"], &repository);
    let git = |args: &[&str]| run("git", args, &repository);
    git(&["init", "-q", "-b", "main"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "first"]);
    git(&["checkout", "-q", "-b", "other"]);
    git(&["mv", "crates/aico", "crates/moved"]);
    fs::write(repository.join("new"), "content").unwrap();
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "second"]);
    for branch in ["main", "other", "main"] {
        git(&["checkout", "-q", branch]);
        assert_eq!(git(&["status", "--porcelain"]), "");
    }
    git(&["gc", "-q", "--prune=now"]);
    git(&["fsck", "--full", "--strict"]);
    assert!(try_run("diff", &["-r", sources().to_str().unwrap(), "crates"], &repository).status.success());
    mount.unmount();
    let mount = Mount::new(&home, &[]);
    let repository = mount.path("project");
    run("git", &["fsck", "--full", "--strict"], &repository);
    assert_eq!(run("git", &["status", "--porcelain"], &repository), "");
    run("git", &["clone", "-q", repository.to_str().unwrap(), mount.path("clone").to_str().unwrap()], &mount.dir);
    fs::remove_dir_all(&repository).unwrap();
    mount.unmount();
}

#[test]
fn sqlite_works_on_it_with_and_without_its_write_ahead_log() {
    let home = Home::running();
    let mount = Mount::new(&home, &[]);
    for mode in ["delete", "truncate", "wal"] {
        let database = mount.path(&format!("{mode}.db"));
        let sql = |sql: &str| run("sqlite3", &[database.to_str().unwrap(), sql], &mount.dir);
        assert_eq!(sql(&format!("PRAGMA journal_mode={mode}")).trim(), mode);
        sql("CREATE TABLE t (id INTEGER PRIMARY KEY, x BLOB, y TEXT); CREATE INDEX i ON t (y);");
        let many = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<3000)
                    INSERT INTO t (x, y) SELECT randomblob(i % 700), hex(randomblob(10)) FROM n;";
        for _ in 0..3 {
            sql(many);
            sql("DELETE FROM t WHERE id % 3 = 0; UPDATE t SET x = randomblob(900) WHERE id % 7 = 0;");
        }
        sql("VACUUM");
        assert_eq!(sql("PRAGMA integrity_check; SELECT count(*) > 4000 FROM t").trim(), "ok\n1");
    }
    mount.unmount();
    let mount = Mount::new(&home, &["--read-only"]);
    for mode in ["delete", "truncate", "wal"] {
        let database = format!("file:{}?immutable=1", mount.path(&format!("{mode}.db")).display());
        assert_eq!(run("sqlite3", &[&database, "PRAGMA integrity_check"], &mount.dir).trim(), "ok");
    }
    mount.unmount();
}

#[test]
fn editors_and_file_tools_work_on_it() {
    let home = Home::running();
    let mount = Mount::new(&home, &[]);
    let text = mount.path("text");
    fs::write(&text, "one\ntwo\nthree\n").unwrap();
    let mut ed = Command::new("ed").arg("-s").arg(&text).stdin(Stdio::piped()).spawn().unwrap();
    ed.stdin.take().unwrap().write_all(b"2s/two/zwei/\nw\nq\n").unwrap();
    assert!(ed.wait().unwrap().success());
    assert_eq!(fs::read_to_string(&text).unwrap(), "one\nzwei\nthree\n");
    run("vim", &["-u", "NONE", "-es", "-c", "%s/three/drei/", "-c", "wq", text.to_str().unwrap()], &mount.dir);
    assert_eq!(fs::read_to_string(&text).unwrap(), "one\nzwei\ndrei\n");
    run("sed", &["-i", "s/one/eins/", "text"], &mount.dir);
    run(
        "sh",
        &[
            "-c",
            "echo vier >> text; ln -s text link; mkdir a; mv text a/; cp -a a b; mv link b/; touch -d 2001-02-03 b/text",
        ],
        &mount.dir,
    );
    assert_eq!(fs::read_to_string(mount.path("b/link")).unwrap(), "eins\nzwei\ndrei\nvier\n");
    assert_eq!(fs::metadata(mount.path("b/text")).unwrap().mtime(), 981_158_400);
    run(
        "sh",
        &["-c", "tar cf - a b | (mkdir c; cd c; tar xf -); diff -r a c/a; chmod 700 c; chmod 400 a/text"],
        &mount.dir,
    );
    run("dd", &["if=/dev/urandom", "of=direct", "bs=64k", "count=8", "oflag=direct", "status=none"], &mount.dir);
    run(
        "sh",
        &[
            "-c",
            "dd if=direct bs=4k iflag=direct status=none | cmp - direct; truncate -s 3G sparse; stat -f . >/dev/null; df . >/dev/null; find . -name 'te*' | grep -q c/b/text",
        ],
        &mount.dir,
    );
    assert_eq!(fs::metadata(mount.path("a/text")).unwrap().permissions().mode(), 0o100_400);
    mount.unmount();
    let mount = Mount::new(&home, &[]);
    assert_eq!(fs::read_to_string(mount.path("c/a/text")).unwrap(), "eins\nzwei\ndrei\nvier\n");
    assert_eq!(fs::read_link(mount.path("b/link")).unwrap(), Path::new("text"));
    assert_eq!(fs::metadata(mount.path("b/text")).unwrap().mtime(), 981_158_400);
    assert_eq!(fs::metadata(mount.path("sparse")).unwrap().len(), 3 << 30);
    assert_eq!(fs::metadata(mount.path("c")).unwrap().permissions().mode(), 0o040_700);
    // What there is not says so.
    assert_eq!(fs::hard_link(mount.path("a/text"), mount.path("hard")).unwrap_err().raw_os_error(), Some(1));
    assert!(!try_run("mkfifo", &["pipe"], &mount.dir).status.success());
    assert!(!try_run("chown", &["7", "sparse"], &mount.dir).status.success() || !rustix::process::geteuid().is_root());
    let mut names: Vec<_> = fs::read_dir(mount.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["a", "b", "c", "direct", "sparse"]);
    mount.unmount();
}

#[test]
fn a_folder_that_is_emptied_while_it_is_listed_is_empty_afterwards() {
    let home = Home::running();
    let mount = Mount::new(&home, &[]);
    let folder = mount.path("many");
    fs::create_dir(&folder).unwrap();
    for at in 0..3000 {
        fs::write(folder.join(format!("{at}-{}", "x".repeat(at % 60))), at.to_string()).unwrap();
    }
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 3000);
    fs::read_dir(&folder).unwrap().for_each(|entry| fs::remove_file(entry.unwrap().path()).unwrap());
    fs::remove_dir(&folder).unwrap();
    // Somebody who has a file open keeps it.
    let mut open = OpenOptions::new().read(true).write(true).create_new(true).open(mount.path("gone")).unwrap();
    open.write_all(b"still here").unwrap();
    fs::remove_file(mount.path("gone")).unwrap();
    std::thread::sleep(Duration::from_millis(1200));
    let mut content = [0; 10];
    open.read_exact_at(&mut content, 0).unwrap();
    assert_eq!(&content, b"still here");
    drop(open);
    mount.unmount();
    assert_eq!(sealed_files(&home), Vec::<PathBuf>::new());
}

/// Operations as of `fsx`, on the mount and on a model at once. `AICO_FSX` sets their number, `AICO_FSX_SEED` their seed.
#[test]
fn random_operations_do_what_they_do_on_a_plain_file() {
    let number = |name: &str, otherwise: u64| std::env::var(name).map_or(otherwise, |text| text.parse().unwrap());
    let (operations, seed) = (number("AICO_FSX", 4000), number("AICO_FSX_SEED", u64::from(std::process::id())));
    println!("seed {seed}");
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) % below.max(1)
    };
    let home = Home::running();
    let mut mount = Mount::new(&home, &[]);
    let (path, plain) = (mount.path("fsx"), home.root().join("plain"));
    let open = |path: &Path| OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap();
    let (mut ours, model) = (open(&path), open(&plain));
    const MOST: u64 = 300_000;
    for step in 0..operations {
        let at = match random(3) {
            0 => random(MOST / 4096) * 4096 + random(3),
            _ => random(MOST),
        };
        let longest = [10, 5000, 70_000][random(3) as usize];
        let length = random(longest).min(MOST - at.min(MOST)) as usize;
        match random(24) {
            0..8 => {
                let data = bytes(random(u64::MAX), length);
                ours.write_all_at(&data, at).unwrap();
                model.write_all_at(&data, at).unwrap();
            }
            8..14 => {
                let (mut got, mut wanted) = (vec![0; length], vec![0; length]);
                let counts = (ours.read_at(&mut got, at).unwrap(), model.read_at(&mut wanted, at).unwrap());
                assert!(counts.0 == counts.1 && got == wanted, "step {step}: {length} at {at}");
            }
            14..17 => {
                let size = if random(10) == 0 { 0 } else { at };
                ours.set_len(size).unwrap();
                model.set_len(size).unwrap();
            }
            17 => ours.sync_all().unwrap(),
            18 => ours = open(&path),
            19 => {
                // Without the kernel's cache; what is read and written there is whole pages.
                let direct = OpenOptions::new().read(true).custom_flags(0o40_000).open(&path).unwrap();
                let (mut got, mut wanted) = (vec![0; 8192], vec![0; 8192]);
                let at = at / 4096 * 4096;
                let counts = (direct.read_at(&mut got, at).unwrap(), model.read_at(&mut wanted, at).unwrap());
                assert!(counts.0 == counts.1 && got == wanted, "step {step}: direct at {at}");
            }
            20 => {
                let mut mapped = Command::new("python3");
                mapped.args(["-c", MAPPED]).arg(&path).arg(&plain).arg(random(1 << 30).to_string());
                assert!(mapped.status().unwrap().success(), "step {step}");
            }
            21 => {
                fs::rename(&path, mount.path("other")).unwrap();
                fs::rename(mount.path("other"), &path).unwrap();
            }
            22 => std::thread::sleep(Duration::from_millis(random(3))),
            _ if random(20) == 0 => {
                drop(ours);
                mount.unmount();
                mount = Mount::new(&home, &[]);
                ours = open(&path);
            }
            _ => {}
        }
        assert_eq!(ours.metadata().unwrap().len(), model.metadata().unwrap().len(), "step {step}");
        if step % 500 == 0 {
            assert!(fs::read(&path).unwrap() == fs::read(&plain).unwrap(), "step {step}");
        }
    }
    assert!(fs::read(&path).unwrap() == fs::read(&plain).unwrap());
    drop(ours);
    mount.unmount();
    let mount = Mount::new(&home, &[]);
    assert!(fs::read(&path).unwrap() == fs::read(&plain).unwrap(), "after it was mounted again");
    mount.unmount();
}

/// Writes through a mapping of each file, and compares what the mappings show.
const MAPPED: &str = "
import mmap, os, random, sys
r = random.Random(int(sys.argv[3]))
maps = []
for path in sys.argv[1:3]:
    f = open(path, 'r+b')
    size = os.fstat(f.fileno()).st_size
    if size == 0: sys.exit(0)
    maps.append(mmap.mmap(f.fileno(), size))
assert maps[0][:] == maps[1][:]
for _ in range(r.randrange(1, 5)):
    at = r.randrange(size); data = r.randbytes(min(r.randrange(1, 9000), size - at))
    for m in maps: m[at:at + len(data)] = data
if r.random() < 0.5: maps[0].flush()
assert maps[0][:] == maps[1][:]
";

#[test]
fn what_was_synced_survives_the_death_of_the_worker() {
    let mut home = Home::running();
    let mount = Mount::new(&home, &[]);
    fs::create_dir(mount.path("folder")).unwrap();
    let mut kept = File::create(mount.path("folder/kept")).unwrap();
    kept.write_all(&bytes(1, 300_000)).unwrap();
    kept.sync_all().unwrap();
    fs::write(mount.path("notes"), "old").unwrap();
    File::open(mount.path("notes")).unwrap().sync_all().unwrap();
    let mut new = File::create(mount.path("notes.new")).unwrap();
    new.write_all(b"new and longer").unwrap();
    new.sync_all().unwrap();
    fs::rename(mount.path("notes.new"), mount.path("notes")).unwrap();
    File::open(&mount.dir).unwrap().sync_all().unwrap();
    kept.write_all(&bytes(2, 300_000)).unwrap();
    fs::write(mount.path("unsynced"), "perhaps").unwrap();
    let pid = worker_of(&home).to_string();
    assert!(Command::new("kill").args(["-s", "KILL", &pid]).status().unwrap().success());
    let error = fs::read_dir(&mount.dir).map(drop).err().or_else(|| kept.sync_all().err()).unwrap();
    assert!(matches!(error.raw_os_error(), Some(5 | 103 | 107)), "{error}");
    drop((kept, new));
    let dir = mount.dir.clone();
    let (code, said) = mount.end();
    assert!(code == Some(1) && said.contains("error: "), "{code:?} {said}");
    assert!(!is_mounted(&dir), "it is unmounted");
    home.has_ended();
    home.kill();
    home.up();
    let mount = Mount::new(&home, &[]);
    let content = fs::read(mount.path("folder/kept")).unwrap();
    assert!(content[..300_000] == bytes(1, 300_000));
    assert_eq!(fs::read(mount.path("notes")).unwrap(), b"new and longer");
    assert!(!mount.path("notes.new").exists());
    mount.unmount();
    home.down();
    home.ok(&["vault", "verify"]);
}

/// Killed at any moment of much work, whatever was synced is there, and everything that is there is whole.
#[test]
fn a_kill_at_any_moment_leaves_a_tree_that_is_whole() {
    let mut home = Home::running();
    for round in 0..4u64 {
        let mount = Mount::new(&home, &[]);
        // Through its descriptor: the path leads to the folder below as soon as the end of the worker has unmounted this one.
        let folder = File::open(&mount.dir).unwrap();
        let work = std::thread::spawn(move || {
            let dir = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()));
            let mut synced = Vec::new();
            for at in 0u64.. {
                let (path, temporary) = (dir.join(format!("{round}-{at}")), dir.join(format!("{round}-{at}.part")));
                let done = File::create(&temporary).and_then(|mut file| {
                    file.write_all(&bytes(at, 5000 + at as usize * 13))?;
                    file.sync_all()?;
                    fs::rename(&temporary, &path)?;
                    folder.sync_all()
                });
                match done {
                    Ok(()) => synced.push(at),
                    Err(_) => return synced,
                }
            }
            synced
        });
        std::thread::sleep(Duration::from_millis(150 + 170 * round));
        let pid = worker_of(&home).to_string();
        assert!(Command::new("kill").args(["-s", "KILL", &pid]).status().unwrap().success());
        let synced = work.join().unwrap();
        drop(mount);
        home.kill();
        home.up();
        let mount = Mount::new(&home, &[]);
        assert!(!synced.is_empty());
        for at in synced {
            let content = fs::read(mount.path(&format!("{round}-{at}"))).unwrap();
            assert!(content == bytes(at, 5000 + at as usize * 13), "round {round}, file {at}");
        }
        for entry in fs::read_dir(&mount.dir).unwrap() {
            fs::read(entry.unwrap().path()).unwrap();
        }
        mount.unmount();
    }
    home.down();
    home.ok(&["vault", "verify"]);
}

#[test]
fn it_ends_with_ctrl_c_and_when_somebody_else_unmounts() {
    let home = Home::running();
    let mount = Mount::new(&home, &[]);
    fs::write(mount.path("a"), "kept").unwrap();
    mount.signal("INT");
    let dir = mount.dir.clone();
    assert_eq!(mount.end(), (Some(0), String::new()));
    assert!(!is_mounted(&dir));
    let mount = Mount::new(&home, &[]);
    assert_eq!(fs::read(mount.path("a")).unwrap(), b"kept");
    run("fusermount3", &["-u", dir.to_str().unwrap()], Path::new("/"));
    assert_eq!(mount.end(), (Some(0), String::new()));
    // With a file in use it is taken away all the same, and what was written is kept.
    let mount = Mount::new(&home, &[]);
    let mut open = File::create(mount.path("open")).unwrap();
    open.write_all(b"written, not closed").unwrap();
    mount.signal("TERM");
    let (code, said) = mount.end();
    assert!(code == Some(0) && said.contains("programs still use files there"), "{code:?} {said}");
    assert!(!is_mounted(&dir));
    until("whoever still has it open gets errors", || open.write_all(b"x").and_then(|()| open.sync_all()).is_err());
    let mount = Mount::new(&home, &[]);
    assert!(fs::read(mount.path("open")).unwrap().starts_with(b"written, not closed"));
    mount.unmount();
    let log = home.text(&["audit", "tail", "-n", "100"]);
    assert!(log.contains("files.mount") && log.contains("files.unmounted"), "{log}");
    assert!(log.contains("1 files opened, 0 bytes read, 4 written"), "with its sums: {log}");
}

#[test]
fn a_killed_command_line_leaves_nothing_mounted_and_loses_nothing_synced() {
    let home = Home::running();
    let mount = Mount::new(&home, &[]);
    let mut file = File::create(mount.path("a")).unwrap();
    file.write_all(b"synced").unwrap();
    file.sync_all().unwrap();
    mount.signal("KILL");
    until("it is unmounted by itself", || !mount.is_mounted());
    until("the file is cut", || file.write_all(b"x").and_then(|()| file.sync_all()).is_err());
    drop(mount);
    let mount = Mount::new(&home, &[]);
    assert_eq!(&fs::read(mount.path("a")).unwrap()[..6], b"synced");
    mount.unmount();
}

#[test]
fn a_lock_unmounts_and_keeps_what_was_written() {
    let home = protected();
    let file = passwords(&home, &[PASSWORD]);
    let mount = Mount::new(&home, &["--password-file", &file]);
    fs::write(mount.path("a"), "kept").unwrap();
    let mut open = File::create(mount.path("b")).unwrap();
    open.write_all(b"not closed").unwrap();
    let dir = mount.dir.clone();
    home.ok(&["lock"]);
    let (code, said) = mount.end();
    assert!(code == Some(0) && said.contains("locked: unmounted"), "{code:?} {said}");
    assert!(!is_mounted(&dir));
    assert!(open.write_all(b"x").and_then(|()| open.sync_all()).is_err());
    let said = home.fails(9, &["mount", dir.to_str().unwrap()]);
    assert!(said.contains("locked"), "{said}");
    home.ok(&["unlock", "--password-file", &file]);
    let mount = Mount::new(&home, &["--password-file", &file]);
    assert_eq!(fs::read(mount.path("a")).unwrap(), b"kept");
    assert_eq!(fs::read(mount.path("b")).unwrap(), b"not closed");
    mount.unmount();
}

#[test]
fn a_stop_of_the_backend_unmounts() {
    let mut home = Home::running();
    let mount = Mount::new(&home, &[]);
    fs::write(mount.path("a"), "kept").unwrap();
    let dir = mount.dir.clone();
    home.down();
    let (code, said) = mount.end();
    assert!(code == Some(0) && said.contains("unmounted"), "{code:?} {said}");
    assert!(!is_mounted(&dir));
    home.up();
    let mount = Mount::new(&home, &[]);
    assert_eq!(fs::read(mount.path("a")).unwrap(), b"kept");
    mount.unmount();
}

/// Revoked by another command line, in the middle of reading.
#[test]
fn a_revocation_cuts_within_a_second() {
    let mut home = Home::running();
    let mount = Mount::new(&home, &[]);
    fs::write(mount.path("a"), bytes(1, 3 << 20)).unwrap();
    let open = File::open(mount.path("a")).unwrap();
    open.sync_all().unwrap();
    let mut byte = [0];
    open.read_exact_at(&mut byte, 0).unwrap();
    let fingerprint: serde_json::Value = serde_json::from_str(&home.text(&["identity", "show", "--json"])).unwrap();
    let fingerprint =
        fingerprint["client"]["fingerprint"].as_str().or(fingerprint["fingerprint"].as_str()).unwrap().to_owned();
    let began = Instant::now();
    let _answered_or_cut = home.run(&["identity", "revoke", &fingerprint]);
    until("what is in the kernel's memory is gone as well", || open.read_exact_at(&mut [0], 1 << 20).is_err());
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    assert!(open.read_exact_at(&mut [0], 0).is_err());
    let dir = mount.dir.clone();
    let (code, _) = mount.end();
    assert_ne!(code, Some(0));
    assert!(!is_mounted(&dir));
    home.kill();
}

#[test]
fn nothing_of_names_or_contents_is_in_the_clear_under_the_data_folder() {
    let mut home = Home::running();
    let mount = Mount::new(&home, &[]);
    let canary = |what: &str| format!("canary-{what}-{}", std::process::id());
    let all = ["folder", "name", "content", "target", "link", "gone", "renamed"].map(canary);
    let [folder, name, content, target, link, gone, renamed] = &all;
    fs::create_dir(mount.path(folder)).unwrap();
    let path = mount.path(folder).join(name);
    fs::write(&path, content.repeat(5000)).unwrap();
    symlink(target, mount.path(link)).unwrap();
    fs::write(mount.path(gone), content).unwrap();
    File::open(&path).unwrap().sync_all().unwrap();
    fs::rename(mount.path(gone), mount.path(renamed)).unwrap();
    fs::remove_file(mount.path(renamed)).unwrap();
    File::open(&mount.dir).unwrap().sync_all().unwrap();
    let found = |home: &Home| -> Vec<PathBuf> {
        let has = |file: &PathBuf| {
            let bytes = [file.to_str().unwrap().as_bytes(), &fs::read(file).unwrap()].concat();
            all.iter().any(|canary| bytes.windows(canary.len()).any(|window| window == canary.as_bytes()))
        };
        files(&home.data()).into_iter().chain(files(&home.keys())).filter(has).collect()
    };
    assert_eq!(found(&home), Vec::<PathBuf>::new(), "while it is mounted");
    fs::write(home.data().join("planted"), format!("x{name}y")).unwrap();
    assert_eq!(found(&home), [home.data().join("planted")], "the control");
    fs::remove_file(home.data().join("planted")).unwrap();
    home.kill();
    drop(mount);
    assert_eq!(found(&home), Vec::<PathBuf>::new(), "after a crash");
    home.up();
    let mount = Mount::new(&home, &[]);
    assert_eq!(fs::read_to_string(mount.path(folder).join(name)).unwrap(), content.repeat(5000));
    mount.unmount();
    home.down();
    assert_eq!(found(&home), Vec::<PathBuf>::new(), "after a clean stop");
}

#[test]
fn whatever_is_changed_on_the_disk_is_an_error_and_never_a_wrong_byte() {
    let mut home = Home::running();
    let mount = Mount::new(&home, &[]);
    let content = bytes(3, 3 * 4096);
    for name in ["a", "b"] {
        fs::write(mount.path(name), if name == "a" { content.clone() } else { bytes(4, 3 * 4096) }).unwrap();
    }
    mount.unmount();
    let stored = sealed_files(&home);
    let [one, other] = [0, 1].map(|at| (stored[at].clone(), fs::read(&stored[at]).unwrap()));
    let block = |at: usize| 44 + at * 4124..44 + (at + 1) * 4124;
    let swapped = [&one.1[..44], &one.1[block(1)], &one.1[block(0)], &one.1[block(2)]].concat();
    let mut foreign = one.1.clone();
    foreign[block(2)].copy_from_slice(&other.1[block(2)]);
    let mut zeroed = one.1.clone();
    zeroed[block(1)].fill(0);
    let mut changed: Vec<Vec<u8>> = vec![swapped, foreign, zeroed, other.1.clone(), Vec::new()];
    changed.extend([44, 4000, one.1.len() - 1].map(|cut| one.1[..cut].to_vec()));
    let step = if std::env::var_os("AICO_EVERY_BYTE").is_some() { 1 } else { 509 };
    changed.extend((0..one.1.len()).step_by(step).map(|at| {
        let mut flipped = one.1.clone();
        flipped[at] ^= 1 << (at % 8);
        flipped
    }));
    for (number, bad) in changed.iter().enumerate() {
        fs::write(&one.0, bad).unwrap();
        let mount = Mount::new(&home, &[]);
        let answers = ["a", "b"].map(|name| fs::read(mount.path(name)));
        let [a, b] = &answers;
        assert!(
            a.is_err() != b.is_err(),
            "change {number}: {:?}",
            answers.map(|answer| answer.map(|bytes| bytes.len()))
        );
        for (answer, seed) in [(a, 3), (b, 4)] {
            match answer {
                Ok(got) => assert!(*got == bytes(seed, 3 * 4096), "change {number}"),
                Err(error) => assert_eq!(error.raw_os_error(), Some(5), "change {number}"),
            }
        }
        mount.unmount();
    }
    home.down();
    let output = home.run(&["vault", "verify"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(told.contains("the file a: DAMAGED") != told.contains("the file b: DAMAGED"), "{told}");
    fs::write(&one.0, &one.1).unwrap();
    home.ok(&["vault", "verify"]);
}

#[test]
fn read_only_means_it() {
    let home = Home::running();
    let mount = Mount::new(&home, &[]);
    fs::write(mount.path("a"), "a").unwrap();
    mount.unmount();
    let mount = Mount::new(&home, &["--read-only"]);
    assert_eq!(fs::read(mount.path("a")).unwrap(), b"a");
    let read_only = Some(30);
    assert_eq!(fs::write(mount.path("a"), "b").unwrap_err().raw_os_error(), read_only);
    assert_eq!(fs::write(mount.path("b"), "b").unwrap_err().raw_os_error(), read_only);
    assert_eq!(fs::remove_file(mount.path("a")).unwrap_err().raw_os_error(), read_only);
    mount.unmount();
}

#[test]
fn what_cannot_be_mounted_on_is_refused_in_words() {
    let mut home = Home::running();
    let (missing, full, file) = (home.root().join("none"), home.root().join("full"), home.root().join("file"));
    fs::create_dir_all(full.join("x")).unwrap();
    fs::write(&file, "").unwrap();
    let fails = |path: &Path| home.fails(2, &["mount", path.to_str().unwrap()]);
    assert!(fails(&missing).contains("make it first"));
    assert!(fails(&full).contains("not empty"));
    assert!(fails(&file).contains("is not a folder"));
    let mount = Mount::new(&home, &[]);
    assert!(fails(&mount.dir).contains("mounted on"));
    let second = home.root().join("second");
    fs::create_dir(&second).unwrap();
    let said = home.fails(1, &["mount", second.to_str().unwrap()]);
    assert!(said.contains("mounted already"), "{said}");
    mount.unmount();
    let mut without = home.command(&["mount", second.to_str().unwrap()]);
    let output = without.env("PATH", "/nonexistent").output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("package `fuse3`"), "{said}");
    home.down();
    assert!(home.fails(4, &["mount", second.to_str().unwrap()]).contains("aico up"));
}

#[test]
fn a_rotation_goes_on_under_a_mount() {
    let mut home = Home::running();
    let mount = Mount::new(&home, &[]);
    fs::write(mount.path("a"), bytes(1, 5 << 20)).unwrap();
    File::open(mount.path("a")).unwrap().sync_all().unwrap();
    let before = sealed_files(&home);
    let mut open = File::create(mount.path("b")).unwrap();
    open.write_all(b"before ").unwrap();
    home.ok(&["security", "rotate"]);
    open.write_all(b"and after").unwrap();
    drop(open);
    assert!(fs::read(mount.path("a")).unwrap() == bytes(1, 5 << 20));
    assert!(sealed_files(&home).iter().all(|file| !before.contains(file)), "every file was sealed anew");
    mount.unmount();
    home.down();
    home.ok(&["vault", "verify"]);
    home.up();
    let mount = Mount::new(&home, &[]);
    assert_eq!(fs::read(mount.path("b")).unwrap(), b"before and after");
    mount.unmount();
    home.ok(&["security", "rotate"]);
    let mount = Mount::new(&home, &[]);
    assert!(fs::read(mount.path("a")).unwrap() == bytes(1, 5 << 20), "rotated while it was not mounted");
    mount.unmount();
}

#[test]
fn forgetting_everything_ends_it() {
    let home = protected();
    let file = passwords(&home, &[PASSWORD]);
    let mount = Mount::new(&home, &["--password-file", &file]);
    fs::write(mount.path("a"), bytes(1, 100_000)).unwrap();
    let open = File::open(mount.path("a")).unwrap();
    open.sync_all().unwrap();
    assert_eq!(sealed_files(&home).len(), 1);
    home.ok(&["forget", "space", "--password-file", &file]);
    assert_eq!(sealed_files(&home).len(), 0);
    let dir = mount.dir.clone();
    let (code, said) = mount.end();
    assert!(code == Some(1) && said.contains("was forgotten"), "{code:?} {said}");
    assert!(!is_mounted(&dir));
    until("what is in the kernel's memory is gone as well", || open.read_exact_at(&mut [0], 0).is_err());
    drop(open);
    let mount = Mount::new(&home, &["--password-file", &file]);
    assert_eq!(fs::read_dir(&mount.dir).unwrap().count(), 0);
    mount.unmount();
}

/// A program with an identity, past the command line.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_fuse_descriptor_of_whoever_asked_is_taken() {
    let home = Home::running();
    let key = read_client_key(&home.keys().join("clients/cli.key")).unwrap();
    let dial = Dial::local(&home.data().join("run"), Speaker::new(key).unwrap());
    let request = Request::FilesMount { read_only: false, user: 0, group: 0 };
    let mut client = dial.connect().await.unwrap();
    let MountAnswer::HandOver { ticket } = client.ask(&request).await.unwrap() else { panic!() };
    let wrong = format!("{:0>64}", "1");
    dial.hand_over(&wrong, File::open("/dev/null").unwrap()).await.unwrap();
    dial.hand_over(&ticket, File::open("/dev/null").unwrap()).await.unwrap();
    let refused = client.next_answer::<MountAnswer>().await.unwrap_err();
    assert!(refused.to_string().contains("not a FUSE descriptor"), "{refused}");
    dial.hand_over(&ticket, File::open("/dev/null").unwrap()).await.unwrap();
    // The channel goes on, and nobody is kept from mounting.
    let MountAnswer::HandOver { ticket } = client.ask(&request).await.unwrap() else { panic!() };
    drop(client);
    dial.hand_over(&ticket, File::open("/dev/null").unwrap()).await.unwrap();
    let dir = home.root().to_owned();
    tokio::task::spawn_blocking(move || {
        let mount = Mount::new(&home, &[]);
        assert!(mount.dir.starts_with(dir));
        mount.unmount();
        let log = home.text(&["audit", "tail", "-n", "100"]);
        assert!(log.contains("failed"), "{log}");
    })
    .await
    .unwrap();
}
