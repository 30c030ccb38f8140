//! A decision with its record: a read, whose record may wait, and a write, whose record is on disk first.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::thread::sleep;
use std::time::Duration;

use aico_policy::Action;
use rustix::fs::{FallocateFlags, fallocate, fdatasync};

use crate::people::{House, Result, folder};
use crate::report::{Report, time};
use crate::timing::{Clock, Rounds, Spread};

const READS: usize = 4000;
/// Reads that follow on each other; the log then gets the time to write them down, as it would between requests.
const BURST: usize = 200;
const WRITES: usize = 1000;
/// What one decision's record adds to the log, about.
const RECORD_BYTES: usize = 512;

pub fn run() -> Result<Report> {
    let folder = folder()?;
    let house = House::open(folder.path())?;
    let decide = |action| -> Result<()> { Ok(house.vault.note_use(house.permit(action, "diary/monday")?)?) };
    let file = OpenOptions::new().write(true).create_new(true).open(folder.path().join("sync"))?;
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, (WRITES * RECORD_BYTES) as u64)?;
    let mut end = 0;
    let mut sync = || -> Result<()> {
        file.write_all_at(&[1; RECORD_BYTES], end)?;
        end += RECORD_BYTES as u64;
        Ok(fdatasync(&file)?)
    };

    let mut reads = Rounds::new(["a read: decided and recorded in memory"].into_iter());
    for read in 0..READS {
        if read % BURST == 0 {
            sleep(Duration::from_millis(40));
        }
        let (took, done) = Clock::Wall.time(|| decide(Action::ReadData));
        done?;
        reads.add(0, took);
    }
    let names = ["a write: decided and recorded on disk", "appending 512 B and one fdatasync"];
    let mut writes = Rounds::new(names.into_iter());
    for _ in 0..WRITES {
        let (took, done) = Clock::Wall.time(|| decide(Action::WriteData));
        done?;
        writes.add(0, took);
        let (took, done) = Clock::Wall.time(&mut sync);
        done?;
        writes.add(1, took);
    }

    let mut report = Report::default();
    let row = |rounds: &Rounds, side, name: &str| {
        let Spread { low, median, high, p99 } = rounds.nanos(side);
        std::iter::once(name.to_owned()).chain([median, low, high, p99].map(time)).collect()
    };
    let rows = reads.names().map(|(side, name)| row(&reads, side, name));
    let rows = rows.chain(writes.names().map(|(side, name)| row(&writes, side, name)));
    report.table(&["", "p50", "p10", "p90", "p99"], &rows.collect::<Vec<_>>());
    let ratio = writes.nanos(0).median / writes.nanos(1).median;
    report.line(&format!("A write's decision takes {} of one sync, in turn.", writes.ratio(0, 1)));
    report.at_most("a read, p50", reads.nanos(0).times(1e-3), 50.0, " µs");
    report.at_most("a write / one fdatasync, p50", ratio, 1.3, "");
    Ok(report)
}
