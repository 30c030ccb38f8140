//! A vault of its own for each test, and the program run in it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Longest wait for a backend to start or stop.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Home {
    root: tempfile::TempDir,
    backend: Option<Child>,
    environment: Vec<(String, String)>,
    program: PathBuf,
    user: Option<u32>,
}

impl Home {
    pub(crate) fn new() -> Self {
        let program = env!("CARGO_BIN_EXE_aico").into();
        Self { root: tempfile::tempdir().unwrap(), backend: None, environment: Vec::new(), program, user: None }
    }

    /// A home whose backend runs.
    pub(crate) fn running() -> Self {
        let mut home = Self::new();
        home.up();
        home
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.root.path().join("data")
    }

    pub(crate) fn keys(&self) -> PathBuf {
        self.root.path().join("keys")
    }

    /// Gives the program a variable, in the place of what it was.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Gives the home to another user, who runs the program from now on; root only.
    pub(crate) fn belongs_to(&mut self, user: u32) {
        let program = self.root().join("aico");
        copy_program(&self.program, &program);
        std::os::unix::fs::chown(self.root(), Some(user), Some(user)).unwrap();
        (self.program, self.user) = (program, Some(user));
    }

    /// The program, with no environment but this home's.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(user) = self.user {
            command.uid(user).gid(user);
        }
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.root.path().join("user"));
        // Never the machine's own TPM.
        command.env("AICO_TPM", "none");
        command.env("AICO_HOME", self.data()).env("AICO_KEY_DIR", self.keys()).args(args).stdin(Stdio::null());
        command.envs(self.environment.iter().cloned());
        command
    }

    /// Starts the backend and waits until it says that it listens; what it printed.
    pub(crate) fn up(&mut self) -> String {
        self.try_up().unwrap_or_else(|error| panic!("the backend did not start: {error}"))
    }

    /// Starts the backend; what it printed, or why it did not start.
    pub(crate) fn try_up(&mut self) -> Result<String, String> {
        let mut child = self.command(&["up"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut printed = String::new();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        while !printed.contains("Ctrl-C") {
            if lines.read_line(&mut printed).unwrap() == 0 {
                let errors = child.wait_with_output().unwrap().stderr;
                return Err(format!("{printed}{}", String::from_utf8_lossy(&errors)));
            }
        }
        std::thread::spawn(move || lines.lines().for_each(drop));
        self.backend = Some(child);
        Ok(printed)
    }

    /// Starts a backend that is expected to fail.
    pub(crate) fn up_fails(&self) -> Output {
        let mut child = self.command(&["up"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let begun = Instant::now();
        while child.try_wait().unwrap().is_none() {
            if begun.elapsed() > Duration::from_secs(10) {
                child.kill().unwrap();
                panic!("the backend started: {:?}", child.wait_with_output().unwrap());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let output = child.wait_with_output().unwrap();
        assert!(!output.status.success());
        output
    }

    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that has to succeed; its standard output.
    pub(crate) fn ok(&self, args: &[&str]) -> Vec<u8> {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    }

    pub(crate) fn text(&self, args: &[&str]) -> String {
        String::from_utf8(self.ok(args)).unwrap()
    }

    /// Runs a command that has to fail with this exit code; its standard error.
    pub(crate) fn fails(&self, code: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {errors}");
        errors
    }

    pub(crate) fn put(&self, path: &str, value: &[u8]) -> Output {
        let mut command = self.command(&["data", "put", path, "-"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // A program that refused early has stopped reading.
        let _refused = input.write_all(value);
        drop(input);
        child.wait_with_output().unwrap()
    }

    pub(crate) fn put_ok(&self, path: &str, value: &[u8]) {
        let output = self.put(path, value);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    pub(crate) fn get(&self, path: &str) -> Vec<u8> {
        self.ok(&["data", "get", path])
    }

    pub(crate) fn backend_pid(&self) -> u32 {
        self.backend.as_ref().unwrap().id()
    }

    pub(crate) fn down(&mut self) {
        self.ok(&["down"]);
        self.wait();
    }

    /// Waits for the backend's own end; it must be a good one.
    pub(crate) fn wait(&mut self) {
        let mut child = self.backend.take().unwrap();
        let begun = Instant::now();
        loop {
            match child.try_wait().unwrap() {
                Some(status) if status.success() => return,
                Some(_) => panic!("{:?}", child.wait_with_output().unwrap()),
                None if begun.elapsed() > PATIENCE => panic!("the backend does not end"),
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Stops the backend without a word.
    pub(crate) fn kill(&mut self) {
        let mut child = self.backend.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        self.backend.as_mut().is_none_or(|child| child.try_wait().unwrap().is_some())
    }

    pub(crate) fn adopt(&mut self, child: Child) {
        self.backend = Some(child);
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        if let Some(mut child) = self.backend.take() {
            let _ended_already = child.kill();
            let _ended_already = child.wait();
        }
    }
}

/// Copies a program that is then run. Not by this process: a child that another thread starts meanwhile would hold the copy
/// open for writing, and it could not be run.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg(from).arg(to).status().unwrap().success());
    // DuckDB's library lies where another user does not come to, or beside the program.
    let library = library().unwrap();
    assert!(Command::new("cp").arg(library).arg(to.parent().unwrap()).status().unwrap().success());
}

/// The DuckDB that this program, too, has loaded.
pub(crate) fn library() -> Option<PathBuf> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let path =
        maps.lines().filter_map(|line| line.split_whitespace().nth(5)).find(|path| path.ends_with("/libduckdb.so"));
    path.map(PathBuf::from)
}

/// Every file below `folder`.
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    found
}

/// Bytes that do not repeat, different for every seed.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut out: Vec<u8> = std::iter::repeat_with(&mut next).take(length / 8 + 1).flatten().collect();
    out.truncate(length);
    out
}

/// A copy of a folder, for trying things on.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
