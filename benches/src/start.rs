//! The second start, and what an idle backend keeps in memory.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use aico_net::{Client, Dial, Speaker, read_client_key};
use aico_proto::message::{Request, StatusAnswer};
use rustix::process::{Pid, Signal, kill_process};

use crate::people::{Result, folder, places};
use crate::report::{Report, time};
use crate::timing::Spread;

const STARTS: usize = 20;
const PATIENCE: Duration = Duration::from_secs(30);

pub fn run() -> Result<Report> {
    let folder = folder()?;
    Backend::start(folder.path())?.stop()?;
    let (mut said, mut answered) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let began = Instant::now();
        let backend = Backend::start(folder.path())?;
        said.push(began.elapsed().as_nanos() as f64);
        backend.stop()?;

        let began = Instant::now();
        let backend = Backend::spawn(folder.path())?;
        let client = backend.client(began)?;
        answered.push(began.elapsed().as_nanos() as f64);
        drop(client);
        backend.stop()?;
    }
    let (said, answered) = (Spread::of(said), Spread::of(answered));
    let mut report = Report::default();
    let row =
        |name: &str, spread: Spread| vec![name.to_owned(), time(spread.median), time(spread.low), time(spread.high)];
    let rows = [row("`aico up` until it says that it is ready", said), row("until the first answer", answered)];
    report.table(&["second start", "median of 20", "p10", "p90"], &rows);

    let backend = Backend::start(folder.path())?;
    sleep(Duration::from_secs(2));
    let processes = [("supervisor", backend.pid()), ("worker", backend.worker()?)];
    let found = processes.iter().map(|(name, pid)| Ok((*name, Memory::of(*pid)?))).collect::<Result<Vec<_>>>()?;
    backend.stop()?;
    let mib = |kib: Option<u64>| kib.map_or("not readable".to_owned(), |kib| format!("{:.1} MiB", kib as f64 / 1024.0));
    let rows = found.iter().map(|(name, memory)| vec![(*name).to_owned(), mib(Some(memory.rss)), mib(memory.pss)]);
    report.table(&["idle", "resident", "its share (PSS)"], &rows.collect::<Vec<_>>());
    // Shared pages are counted once where the kernel says which they are.
    let kib: u64 = found.iter().map(|(_, memory)| memory.pss.unwrap_or(memory.rss)).sum();
    report.at_most("second start until the first answer", answered.times(1e-6), 300.0, " ms");
    report.at_most("memory of both, idle", kib as f64 * 1024.0 / 1e6, 40.0, " MB");
    Ok(report)
}

/// The program that is measured: as the product is built.
pub fn program() -> PathBuf {
    std::env::var_os("AICO_BIN").map_or_else(|| "aico".into(), PathBuf::from)
}

/// A running `aico up` with everything of its own.
pub struct Backend {
    child: Child,
    folder: PathBuf,
}

impl Backend {
    fn spawn(folder: &Path) -> Result<Self> {
        let places = places(folder);
        let mut command = Command::new(program());
        command.arg("up").env("AICO_HOME", &places.home).env("AICO_KEY_DIR", &places.key_dir);
        command
            .env_remove("DBUS_SESSION_BUS_ADDRESS")
            .env_remove("XDG_RUNTIME_DIR")
            .env_remove("AICO_RUN_DIR")
            .env("AICO_TPM", "none");
        let spawned = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let child = spawned.map_err(|error| format!("{}: {error} (AICO_BIN names it)", program().display()))?;
        Ok(Self { child, folder: folder.to_owned() })
    }

    /// Starts it and waits until it says that it is ready.
    pub fn start(folder: &Path) -> Result<Self> {
        let mut backend = Self::spawn(folder)?;
        let output = backend.child.stdout.as_mut().ok_or("no output")?;
        for line in BufReader::new(output).lines() {
            if line?.starts_with("Ctrl-C") {
                return Ok(backend);
            }
        }
        Err("`aico up` ended before it was ready".into())
    }

    /// How its own command line reaches it.
    pub fn dial(&self) -> Result<Dial> {
        let places = places(&self.folder);
        let key = read_client_key(&places.key_dir.join("clients/cli.key"))?;
        Ok(Dial::local(&places.home.join("run"), Speaker::new(key)?))
    }

    /// Asks until it answers, without a pause that would count.
    fn client(&self, began: Instant) -> Result<Client> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let dial = self.dial()?;
        runtime.block_on(async {
            loop {
                match dial.connect().await {
                    Ok(mut client) => {
                        let status: StatusAnswer = client.ask(&Request::Status { notices: false }).await?;
                        return if status.locked { Err("it is locked".into()) } else { Ok(client) };
                    }
                    Err(error) if began.elapsed() > PATIENCE => return Err(error.into()),
                    Err(_) => sleep(Duration::from_micros(500)),
                }
            }
        })
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }

    fn worker(&self) -> Result<u32> {
        // A child belongs to the thread that started it.
        for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let children = std::fs::read_to_string(thread?.path().join("children"))?;
            if let Some(child) = children.split_whitespace().next() {
                return Ok(child.parse()?);
            }
        }
        Err("no worker".into())
    }

    pub fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(self.pid().cast_signed()).ok_or("no process")?;
        kill_process(pid, Signal::TERM)?;
        let ended = self.child.wait()?;
        if ended.success() { Ok(()) } else { Err(format!("`aico up` ended with {ended}").into()) }
    }
}

impl Drop for Backend {
    /// After an error nothing is left running.
    fn drop(&mut self) {
        let _ended_already = self.child.kill().and_then(|()| self.child.wait());
    }
}

/// Memory of a process in KiB.
struct Memory {
    rss: u64,
    /// Only root may read it of a process that keeps its secrets in.
    pss: Option<u64>,
}

impl Memory {
    fn of(pid: u32) -> Result<Self> {
        let field = |file: &str, name: &str| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.split_whitespace().next()?.parse::<u64>().ok()
        };
        let rss = field("status", "VmRSS:").ok_or("no such process")?;
        Ok(Self { rss, pss: field("smaps_rollup", "Pss:") })
    }
}
