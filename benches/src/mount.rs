//! Mounted files beside the bare disk and gocryptfs, which is the usual encrypted file system through FUSE.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::people::{Result, folder, places};
use crate::report::{Report, time};
use crate::start::{Backend, program};
use crate::timing::{Clock, Rounds};

const ROUNDS: usize = 6;
const LARGE: usize = 256 << 20;
const READS: u64 = 4000;
const SMALL: usize = 1000;
const BLOCK: usize = 4096;
const PATIENCE: Duration = Duration::from_secs(20);
const WHAT: [&str; 6] = [
    "write 256 MiB, sync",
    "read 256 MiB, nothing in memory",
    "read 4 KiB anywhere, nothing in memory",
    "write 4 KiB anywhere, sync after 100",
    "make 1,000 files of 4 KiB, sync",
    "list and read 1,000 files, nothing in memory",
];

pub fn run() -> Result<Report> {
    let (mut report, folder) = (Report::default(), folder()?);
    let bare = folder.path().join("bare");
    fs::create_dir(&bare)?;
    let backend = Backend::start(folder.path())?;
    let ours = Mount::ours(folder.path())?;
    let theirs = Mount::gocryptfs(folder.path())?;
    let mut sides = vec![("aico mount", ours.dir.clone()), ("the disk", bare)];
    match &theirs {
        Some(theirs) => sides.push(("gocryptfs", theirs.dir.clone())),
        None => report.line("`gocryptfs` is not installed here."),
    }
    let names = || sides.iter().map(|(name, _)| *name);
    let mut measured = [(); WHAT.len()].map(|()| Rounds::new(names()));
    for round in 0..ROUNDS {
        for turn in 0..sides.len() {
            let side = (round + turn) % sides.len();
            for (rounds, took) in measured.iter_mut().zip(once(&sides[side].1)?) {
                rounds.add(side, took);
            }
        }
    }
    if let Some(theirs) = theirs {
        theirs.end()?;
    }
    ours.end()?;
    backend.stop()?;
    let mut heads: Vec<&str> = vec![""];
    heads.extend(names());
    heads.push("ours / the disk");
    heads.extend((sides.len() > 2).then_some("ours / gocryptfs"));
    let row = |(name, rounds): (&str, &Rounds)| {
        let times = (0..sides.len()).map(|side| time(rounds.nanos(side).median));
        let ratios = (1..sides.len()).map(|side| rounds.ratio(0, side).to_string());
        std::iter::once(name.to_owned()).chain(times).chain(ratios).collect()
    };
    report.table(&heads, &WHAT.into_iter().zip(&measured).map(row).collect::<Vec<_>>());
    if sides.len() > 2 {
        for (name, rounds) in WHAT.into_iter().zip(&measured) {
            report.at_most(&format!("{name}: ours / gocryptfs"), rounds.ratio(0, 2), 1.0, "");
        }
    }
    Ok(report)
}

/// Everything once on one file system.
fn once(on: &Path) -> Result<[Duration; WHAT.len()]> {
    let (large, many) = (on.join("large"), on.join("many"));
    let piece: Vec<u8> = (0..1 << 20).map(|at: usize| (at * 31 + at / 251) as u8).collect();
    let timed = |f: &mut dyn FnMut() -> Result<()>| {
        let (took, done) = Clock::Wall.time(f);
        done.map(|()| took)
    };
    let write = timed(&mut || {
        let mut file = File::create(&large)?;
        (0..LARGE / piece.len()).try_for_each(|_| file.write_all(&piece))?;
        Ok(file.sync_all()?)
    })?;
    forget();
    let mut room = vec![0; 128 * 1024];
    let read = timed(&mut || {
        let mut file = File::open(&large)?;
        while file.read(&mut room)? > 0 {}
        Ok(())
    })?;
    forget();
    let blocks = (LARGE / BLOCK) as u64;
    let place = |at: u64| at * 7919 % blocks * BLOCK as u64;
    let anywhere = timed(&mut || {
        let file = File::open(&large)?;
        Ok((0..READS).try_for_each(|at| file.read_exact_at(&mut room[..BLOCK], place(at)))?)
    })?;
    let overwrite = timed(&mut || {
        let file = File::options().write(true).open(&large)?;
        for at in 0..READS / 4 {
            file.write_all_at(&piece[..BLOCK], place(at))?;
            if at % 100 == 99 {
                file.sync_data()?;
            }
        }
        Ok(())
    })?;
    fs::create_dir(&many)?;
    let make = timed(&mut || {
        (0..SMALL).try_for_each(|at| fs::write(many.join(at.to_string()), &piece[..BLOCK]))?;
        let folder = File::open(&many)?;
        Ok(rustix::fs::syncfs(&folder).map_err(std::io::Error::from)?)
    })?;
    forget();
    let list = timed(&mut || {
        for entry in fs::read_dir(&many)? {
            let entry = entry?;
            let _looked = entry.metadata()?;
            fs::read(entry.path())?;
        }
        Ok(())
    })?;
    fs::remove_dir_all(&many)?;
    fs::remove_file(&large)?;
    Ok([write, read, anywhere / READS as u32, overwrite / (READS / 4) as u32, make, list])
}

/// The kernel forgets what it has read, if root asks. Else it remembers for all sides.
fn forget() {
    let _not_root = fs::write("/proc/sys/vm/drop_caches", "3");
}

/// Something mounted, by a process in the foreground.
struct Mount {
    child: Child,
    dir: PathBuf,
}

impl Mount {
    fn ours(folder: &Path) -> Result<Self> {
        let (dir, places) = (folder.join("ours"), places(folder));
        let mut command = Command::new(program());
        command.arg("mount").arg(&dir).env("AICO_HOME", &places.home).env("AICO_KEY_DIR", &places.key_dir);
        Self::begin(command, dir)
    }

    fn gocryptfs(folder: &Path) -> Result<Option<Self>> {
        let (dir, sealed, password) =
            (folder.join("theirs"), folder.join("gocryptfs"), folder.join("gocryptfs-password"));
        fs::create_dir(&sealed)?;
        fs::write(&password, "correct horse")?;
        let init = Command::new("gocryptfs").args(["-q", "-init", "-passfile"]).args([&password, &sealed]).status();
        if !init.is_ok_and(|status| status.success()) {
            return Ok(None);
        }
        let mut command = Command::new("gocryptfs");
        command.args(["-q", "-fg", "-passfile"]).args([&password, &sealed, &dir]);
        Self::begin(command, dir).map(Some)
    }

    fn begin(mut command: Command, dir: PathBuf) -> Result<Self> {
        fs::create_dir(&dir)?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let (mount, began) = (Self { child, dir }, Instant::now());
        while !mount.is_there()? {
            if began.elapsed() > PATIENCE {
                return Err(format!("nothing is mounted on {}", mount.dir.display()).into());
            }
            sleep(Duration::from_millis(5));
        }
        Ok(mount)
    }

    fn is_there(&self) -> Result<bool> {
        Ok(fs::read_to_string("/proc/self/mounts")?.contains(&format!(" {} ", self.dir.display())))
    }

    fn end(mut self) -> Result<()> {
        let pid = Pid::from_raw(self.child.id().cast_signed()).ok_or("no process")?;
        kill_process(pid, Signal::TERM)?;
        self.child.wait()?;
        Ok(())
    }
}

impl Drop for Mount {
    /// After an error nothing is left mounted.
    fn drop(&mut self) {
        if self.is_there().unwrap_or(true) {
            let _gone = Command::new("fusermount3").args(["-u", "-z"]).arg(&self.dir).status();
        }
        let _ended_already = self.child.kill().and_then(|()| self.child.wait());
    }
}
