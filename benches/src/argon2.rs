//! Argon2id with the *master* costs: what unlocking by a password takes.

use std::process::Command;
use std::time::Duration;

use aico_crypto::{Password, SALT_BYTES, StretchCost};

use crate::people::Result;
use crate::report::{Report, time};
use crate::timing::{Clock, Rounds};

const SIDES: [&str; 3] = ["ours", "C reference, for this processor", "C reference, Debian's"];

pub fn run() -> Result<Report> {
    let mut report = Report::default();
    let mut rows = Vec::new();
    for (mib, rounds) in [(64, 12), (StretchCost::MASTER.memory_mib(), 4)] {
        let (wall, cpu) = measure(mib, rounds)?;
        for (name, rounds) in [("wall", &wall), ("CPU", &cpu)] {
            let times = rounds.names().map(|(side, _)| time(rounds.nanos(side).median));
            let ratios = [1, 2].map(|other| rounds.ratio(0, other).to_string());
            let first = format!("{mib} MiB, 3 passes, 4 lanes: {name}");
            rows.push(std::iter::once(first).chain(times).chain(ratios).collect());
        }
        for (side, name) in cpu.names().skip(1) {
            report.at_most(&format!("{mib} MiB, CPU, ours / {name}"), cpu.ratio(0, side), 0.85, "");
        }
    }
    report.table(&["", SIDES[0], SIDES[1], SIDES[2], "ours / the first", "ours / the second"], &rows);
    Ok(report)
}

fn measure(mib: u32, times: usize) -> Result<(Rounds, Rounds)> {
    let (mut wall, mut cpu) = (Rounds::new(SIDES.into_iter()), Rounds::new(SIDES.into_iter()));
    for _ in 0..times {
        let turns = [ours(mib)?, reference("argon2-reference", mib)?, reference("argon2-debian", mib)?];
        for (side, (on_wall, on_cpu)) in turns.into_iter().enumerate() {
            wall.add(side, on_wall);
            cpu.add(side, on_cpu);
        }
    }
    Ok((wall, cpu))
}

/// Wall and CPU time of one stretch.
fn ours(mib: u32) -> Result<(Duration, Duration)> {
    let password = Password::parse("correct horse battery staple")?;
    let stretch = || password.stretch(&[3; SALT_BYTES], StretchCost::master_with(mib));
    let (wall, (cpu, done)) = Clock::Wall.time(|| Clock::Process.time(stretch));
    done?;
    Ok((wall, cpu))
}

/// The same of the C reference, measured by itself in a process of its own.
fn reference(program: &str, mib: u32) -> Result<(Duration, Duration)> {
    let output = Command::new(std::env::current_exe()?.with_file_name(program)).arg(mib.to_string()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let mut nanos = text.split_whitespace().map(|number| number.parse().map(Duration::from_nanos));
    match (nanos.next(), nanos.next()) {
        (Some(wall), Some(cpu)) => Ok((wall?, cpu?)),
        _ => Err(format!("the C reference failed: {}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}
