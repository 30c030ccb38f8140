//! A terminal of its own, with a person at it.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::home::Home;

const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Terminal {
    master: File,
    child: Child,
    shown: Arc<Mutex<String>>,
    /// Up to where `expect` has read.
    seen: usize,
}

impl Terminal {
    /// Runs `aico` on a terminal that is its own session's.
    pub(crate) fn run(home: &Home, args: &[&str]) -> Self {
        let program = [env!("CARGO_BIN_EXE_aico")].iter().chain(args).copied().collect::<Vec<_>>();
        Self::start(home, &program)
    }

    /// A shell: what is typed at it shares one terminal session.
    pub(crate) fn shell(home: &Home) -> Self {
        let mut shell = Self::start(home, &["sh", "-i"]);
        shell.say(&format!("stty -echo; PS1=; alias aico={}", env!("CARGO_BIN_EXE_aico")));
        shell
    }

    fn start(home: &Home, program: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap();
        let slave =
            || -> OwnedFd { File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap().into() };
        let environment = home.command(&[]);
        let mut command = Command::new("setsid");
        command.env_clear().envs(environment.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args(["-c", "-w"]).args(program);
        command.stdin(Stdio::from(slave())).stdout(Stdio::from(slave())).stderr(Stdio::from(slave()));
        let child = command.spawn().unwrap();
        let (master, shown) = (File::from(master), Arc::new(Mutex::new(String::new())));
        let (mut reader, into) = (master.try_clone().unwrap(), shown.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The end of a terminal shows as an error.
            while let Ok(bytes @ 1..) = reader.read(&mut buffer) {
                into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..bytes]));
            }
        });
        Self { master, child, shown, seen: 0 }
    }

    /// Types a line.
    pub(crate) fn say(&mut self, line: &str) {
        self.master.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Presses one key: no line follows that could be read first.
    pub(crate) fn press(&mut self, key: u8) {
        self.master.write_all(&[key]).unwrap();
    }

    /// Waits for a text; everything that was shown since the last one, up to its end.
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let began = Instant::now();
        loop {
            let shown = self.shown.lock().unwrap().clone();
            let unread = &shown[self.seen..];
            if let Some(at) = unread.find(text) {
                let end = at + text.len();
                self.seen += end;
                return unread[..end].to_owned();
            }
            assert!(began.elapsed() < PATIENCE, "no `{text}` in: {unread}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits for a prompt and answers it.
    pub(crate) fn answer(&mut self, prompt: &str, answer: &str) {
        self.expect(prompt);
        self.say(answer);
    }

    /// Runs a command at the shell; its exit code.
    pub(crate) fn code(&mut self, command: &str) -> i32 {
        self.say(&format!("{command}; echo \"code=\"$?\"=\""));
        self.expect("code=");
        self.expect("=").trim_end_matches('=').parse().unwrap()
    }

    /// Waits for the end; the exit code and everything that was shown.
    pub(crate) fn end(mut self) -> (i32, String) {
        let began = Instant::now();
        let status = loop {
            match self.child.try_wait().unwrap() {
                Some(status) => break status,
                None if began.elapsed() > PATIENCE => {
                    self.child.kill().unwrap();
                    panic!("it does not end: {}", self.shown.lock().unwrap());
                }
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        };
        // The reader may be a moment behind.
        std::thread::sleep(Duration::from_millis(50));
        (status.code().unwrap(), self.shown.lock().unwrap().clone())
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // A shell does not end by itself, and keeps what it has inherited.
        let _ended_already = self.child.kill();
        let _ended_already = self.child.wait();
    }
}
