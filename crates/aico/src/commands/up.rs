//! `aico up`: a small supervisor that has no key. It holds the vault's lock and the socket, and runs the worker that
//! has the keys; a locked vault's next worker finds the socket where it was.

use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::process::ExitStatus;

use aico_backend::confine::{Confinement, confine};
use aico_backend::{End, News, Start};
use aico_net::RunFolder;
use aico_vault::{Front, Opening, Places};
use rustix::process::{DumpableBehavior, Pid, Resource, Rlimit, Signal};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::error::Error;
use crate::places::{RunPlace, places, run_place};
use crate::ui;

/// How the worker says that it is to be started anew, without a key.
const LOCKED_CODE: u8 = 75;

/// Runs the backend until Ctrl-C, SIGTERM or `aico down`.
pub(crate) async fn up() -> Result<(), Error> {
    keep_secrets_in();
    let (places, run) = (places()?, run_place()?);
    create_folder(&places.home)?;
    create_folder(&places.home.join("run"))?;
    let _front = Front::take(&places.home)?;
    let folder = match &run {
        RunPlace::Own(path) => RunFolder::create(path)?,
        RunPlace::Service { path, .. } => RunFolder::of_service(path).map_err(|error| match error {
            aico_net::Error::NotRunning(_) => Error::Usage(format!(
                "AICO_RUN_DIR names {}, which is not there: make it, or unset AICO_RUN_DIR to use the data folder",
                path.display()
            )),
            error => error.into(),
        })?,
    };
    let socket = folder.listen(matches!(run, RunPlace::Service { .. }))?;
    let mut stop = Stop::catch()?;
    loop {
        let status = supervise(spawn(&socket)?, &mut stop).await?;
        match status.code() {
            Some(0) => return Ok(()),
            Some(code) if code == i32::from(LOCKED_CODE) => ui::line("locked: the old process and its memory are gone"),
            // It has said why itself.
            Some(code) => return Err(Error::Worker(u8::try_from(code).unwrap_or(1))),
            None => return Err(Error::WorkerDied(status.to_string())),
        }
    }
}

fn create_folder(path: &std::path::Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| Error::io(format!("make the folder {}", path.display()), error))
}

/// The same program, with the socket as its standard input.
fn spawn(socket: &UnixListener) -> Result<Child, Error> {
    let failed = |error| Error::io("start the worker", error);
    let socket: OwnedFd = socket.try_clone().map_err(failed)?.into();
    // The program may have been replaced since it was started; this is the one that runs.
    let mut command = Command::new("/proc/self/exe");
    command.arg("worker").arg(std::process::id().to_string()).stdin(socket).kill_on_drop(true).spawn().map_err(failed)
}

async fn supervise(mut worker: Child, stop: &mut Stop) -> Result<ExitStatus, Error> {
    loop {
        tokio::select! {
            ended = worker.wait() => return ended.map_err(|error| Error::io("wait for the worker", error)),
            () = stop.asked() => {
                let pid = worker.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
                // One that is gone already needs no signal.
                let _gone = pid.map(|pid| rustix::process::kill_process(pid, Signal::TERM));
            }
        }
    }
}

/// SIGINT and SIGTERM.
pub(crate) struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    pub(crate) fn catch() -> Result<Self, Error> {
        let catch = |kind| signal(kind).map_err(|error| Error::io("listen for signals", error));
        Ok(Self { interrupt: catch(SignalKind::interrupt())?, terminate: catch(SignalKind::terminate())? })
    }

    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The worker: opens the vault and serves it, or waits at a locked one. Ends with its supervisor.
pub(crate) async fn worker(parent: i32, confinement: Confinement) -> Result<(), Error> {
    if rustix::process::getppid().is_none_or(|pid| pid.as_raw_nonzero().get() != parent) {
        // It ended before this one was tied to it, or somebody started this by hand.
        return Err(Error::Usage("`aico worker` is started by `aico up`".to_owned()));
    }
    let (places, run) = (places()?, run_place()?);
    let socket = rustix::io::dup(std::io::stdin()).map_err(|error| Error::io("take the socket", error.into()))?;
    let socket = UnixListener::from(socket);
    if socket.local_addr().is_err() {
        return Err(Error::Usage("`aico worker` is started by `aico up`".to_owned()));
    }
    let mut stop = Stop::catch()?;
    let start = Start { places: places.clone(), run_folder: run.path(), socket, owner: run.owner(), confinement };
    let news = |news: News<'_>| introduce(&places, &run, news);
    let interrupted = async {
        stop.asked().await;
        ui::line("stopping: what was accepted is finished first");
    };
    match aico_backend::serve(start, news, interrupted).await? {
        End::Stopped => {
            ui::line("stopped");
            Ok(())
        }
        End::Locked => Err(Error::Worker(LOCKED_CODE)),
    }
}

/// Before the worker's first thread: it ends with its supervisor; no dump, no debugger, and no more of files and kernel than it needs.
pub(crate) fn confine_worker() -> Result<Confinement, Error> {
    let _tied = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    keep_secrets_in();
    raise_descriptors();
    let (places, run) = (places()?, run_place()?);
    // What is to be allowed has to be there. Whoever needs the folder says why it is not.
    let _later = create_folder(&places.key_dir);
    // Its device is out of reach from here on. Whoever needs it says why it is not there.
    let _later = places.tpm.connect();
    let confinement = confine(&places, &run.path());
    for missing in &confinement.missing {
        ui::error_line(&format!("warning: the backend runs without {}", ui::printable(missing)));
    }
    Ok(confinement)
}

/// No core dump, no debugger of another process: the keys stay in this one. Best effort, as `SECURITY.md` says.
fn keep_secrets_in() {
    use rustix::process::{set_dumpable_behavior, setrlimit};
    let _best_effort = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _best_effort = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// A connection is a descriptor, and the doors have places for more than the thousand of a process that asks for no more.
fn raise_descriptors() {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let _as_it_was =
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

fn introduce(places: &Places, run: &RunPlace, news: News<'_>) {
    let home = ui::printable(&places.home.display().to_string());
    match news {
        News::Locked { why } => {
            ui::line(&format!("The vault in {home} is locked"));
            ui::line(&format!("  because       {}", ui::printable(&why)));
            ui::line(&format!("  socket        {}", socket_of(run)));
            ui::line("`aico unlock` in another terminal opens it. Ctrl-C stops it.");
        }
        News::Open { opening, fingerprint, tcp, notices } => {
            introduce_open(places, opening, &home);
            ui::line(&format!("  fingerprint   {fingerprint}"));
            ui::line(&format!("  socket        {}", socket_of(run)));
            if let Some(address) = tcp {
                ui::line(&format!("  tcp           {address}"));
            }
            notices.iter().for_each(|notice| ui::line(&format!("  note          {}", ui::printable(notice))));
            ui::line("Ctrl-C stops it; `aico status` in another terminal shows it at work.");
        }
    }
}

fn introduce_open(places: &Places, opening: &Opening, home: &str) {
    if opening.first_start {
        ui::line(&format!("A new vault was set up in {home}"));
    } else {
        ui::line(&format!("The vault in {home} is open"));
    }
    let how = if opening.remembered { ", which the kernel still remembered" } else { "" };
    ui::line(&format!("  unlocked by   {}{how}", opening.unlocked_by));
    if let Some(advice) = &opening.advice {
        ui::line(&format!("                {}", ui::printable(advice)));
    }
    if key_folder_is_inside(places) {
        ui::line("  warning       the key file lies inside the data folder: a copy of the folder is a copy of the key");
    }
}

fn socket_of(run: &RunPlace) -> String {
    ui::printable(&run.path().join(aico_net::SOCKET_NAME).display().to_string())
}

/// Whether the key folder is the data folder or below it, links followed.
fn key_folder_is_inside(places: &Places) -> bool {
    let Ok(home) = std::fs::metadata(&places.home) else { return false };
    let same = |folder: &std::path::Path| {
        std::fs::metadata(folder).is_ok_and(|f| (f.dev(), f.ino()) == (home.dev(), home.ino()))
    };
    places.key_dir.canonicalize().is_ok_and(|key_dir| key_dir.ancestors().any(same))
}
