//! Everything that is written and run, as a list that can be shown before it is done.

use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use super::ServiceError;
use super::ground::Ground;
use super::owner::Owner;
use crate::error::Error;
use crate::ui;

/// What root runs is found here, wherever its caller's `PATH` points.
const ROOTS_PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// How much of what another program complains about is shown, in characters.
const MAX_COMPLAINT_CHARS: usize = 300;

/// A program that is run, with words that need no quoting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Call {
    pub(super) program: &'static str,
    pub(super) args: Vec<String>,
    /// Whether it is root's to run: then nothing of the caller's environment reaches it.
    pub(super) as_root: bool,
}

impl Call {
    /// Runs it to its end, whether it works or not.
    pub(super) fn output(&self) -> Result<Output, ServiceError> {
        self.command().stdin(Stdio::null()).output().map_err(|error| self.broken(&error))
    }

    /// The same, with a short input that nobody else sees.
    pub(super) fn output_of(&self, input: &[u8]) -> Result<Output, ServiceError> {
        let mut command = self.command();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| self.broken(&error))?;
        let given = child.stdin.take().map_or(Ok(()), |mut pipe| pipe.write_all(input));
        let output = child.wait_with_output().map_err(|error| self.broken(&error))?;
        match given {
            // One that fails before it reads says why itself.
            Err(error) if output.status.success() => Err(self.broken(&error)),
            _ => Ok(output),
        }
    }

    /// Whether root has such a program.
    pub(super) fn is_there(&self) -> bool {
        ROOTS_PATH.split(':').any(|folder| Path::new(folder).join(self.program).is_file())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.program);
        if self.as_root {
            command.env_clear().env("PATH", ROOTS_PATH);
        }
        command.args(&self.args).env("LC_ALL", "C");
        command
    }

    fn broken(&self, error: &io::Error) -> ServiceError {
        ServiceError::Command { call: self.to_string(), why: error.to_string() }
    }

    /// What it complained about.
    pub(super) fn failed(&self, output: &Output) -> ServiceError {
        let said = String::from_utf8_lossy(&output.stderr);
        let said: String = said.trim().lines().next().unwrap_or_default().chars().take(MAX_COMPLAINT_CHARS).collect();
        let why = if said.is_empty() { output.status.to_string() } else { ui::printable(&said) };
        ServiceError::Command { call: self.to_string(), why }
    }

    fn run(&self) -> Result<(), ServiceError> {
        let output = self.output()?;
        if output.status.success() { Ok(()) } else { Err(self.failed(&output)) }
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.program)?;
        self.args.iter().try_for_each(
            |word| {
                if word.contains(' ') { write!(f, " '{word}'") } else { write!(f, " {word}") }
            },
        )
    }
}

/// Makes the user that a system unit runs as: nobody can log in as it, and it has no home.
pub(super) fn useradd(owner: &Owner) -> Call {
    let comment = owner.comment();
    let name = owner.service_user();
    let words = ["--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent"];
    let rest = ["--shell", "/usr/sbin/nologin", "--comment", &comment, &name];
    let args = words.iter().chain(&rest).map(|word| (*word).to_owned()).collect();
    Call { program: "useradd", args, as_root: true }
}

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Runs a program; if it fails, nothing after it is done.
    Run(Call),
    /// Makes a folder with this mode, of root or of `user`.
    Folder { path: PathBuf, mode: u32, user: Option<String> },
    /// Copies this program, mode 0755.
    Program(PathBuf),
    /// Copies the DuckDB that this program runs with, mode 0644.
    Library(PathBuf),
    /// Writes a text, mode 0644.
    File { path: PathBuf, text: String },
    /// Removes a file or an empty folder, if it is there.
    Remove(PathBuf),
    /// Asks systemd; if it fails, the rest is done all the same, but systemd is not asked again.
    Systemd(Call),
}

impl Step {
    fn execute(&self, ground: &Ground) -> Result<(), Error> {
        match self {
            Self::Run(call) | Self::Systemd(call) if ground.is_real() => Ok(call.run()?),
            Self::Run(_) | Self::Systemd(_) => Ok(()),
            Self::Folder { path, mode, user } => ground.make_folder(path, *mode, user.as_deref()),
            Self::Program(path) => ground.put_program(path),
            Self::Library(path) => ground.put_library(path),
            Self::File { path, text } => ground.put_text(path, text),
            Self::Remove(path) => ground.remove(path),
        }
    }
}

/// As a comment of a unit, so that a whole plan is one that `systemd-analyze` reads.
impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |path: &PathBuf| ui::printable(&path.display().to_string());
        match self {
            Self::Run(call) | Self::Systemd(call) => write!(f, "# run: {call}"),
            Self::Folder { path, mode, user } => {
                write!(f, "# folder: {} mode {mode:04o} of {}", shown(path), user.as_deref().unwrap_or("root"))
            }
            Self::Program(path) => write!(f, "# copy of this program: {} mode 0755", shown(path)),
            Self::Library(path) => write!(f, "# copy of its library DuckDB: {} mode 0644", shown(path)),
            Self::File { path, text } => write!(f, "# file: {} mode 0644\n{}", shown(path), text.trim_end()),
            Self::Remove(path) => write!(f, "# remove: {}", shown(path)),
        }
    }
}

/// Steps, and what to say if systemd does not do its part.
#[derive(Debug)]
pub(super) struct Plan {
    steps: Vec<Step>,
    done: &'static str,
    finish: String,
}

impl Plan {
    /// `done` is true once every step but systemd's is; `finish` is the one command for the rest.
    pub(super) fn new(done: &'static str, finish: String) -> Self {
        Self { steps: Vec::new(), done, finish }
    }

    pub(super) fn add(&mut self, step: Step) {
        self.steps.push(step);
    }

    pub(super) fn extend(&mut self, steps: impl IntoIterator<Item = Step>) {
        self.steps.extend(steps);
    }

    pub(super) fn print(&self) {
        self.steps.iter().for_each(|step| ui::line(&step.to_string()));
    }

    pub(super) fn execute(self, ground: &Ground) -> Result<Done, Error> {
        let mut unfinished = None;
        for step in &self.steps {
            let asks_systemd = matches!(step, Step::Systemd(_));
            if asks_systemd && unfinished.is_some() {
                continue;
            }
            match step.execute(ground) {
                Err(Error::Service(ServiceError::Command { call, why })) if asks_systemd => {
                    let finish = self.finish.clone();
                    unfinished = Some(ServiceError::Unfinished { done: self.done, call, why, finish });
                }
                other => other?,
            }
        }
        Ok(Done(unfinished))
    }
}

/// Everything was done but, perhaps, systemd's part.
#[derive(Debug)]
#[must_use]
pub(super) struct Done(Option<ServiceError>);

impl Done {
    /// Tells if systemd did not do its part.
    pub(super) fn confirm(self) -> Result<(), Error> {
        self.0.map_or(Ok(()), |error| Err(error.into()))
    }
}
