//! What the numbers were made on.

use std::fs::read_to_string;
use std::path::Path;
use std::process::Command;

use crate::people::disk;
use crate::report::Report;

pub fn describe() -> Report {
    let mut report = Report::default();
    let row = |what: &str, found: Option<String>| vec![what.to_owned(), found.unwrap_or_else(|| "unknown".to_owned())];
    let cores = std::thread::available_parallelism().ok().map(|cores| cores.to_string());
    let rows = [
        row("CPU", field("/proc/cpuinfo", "model name")),
        row("cores", cores),
        row("memory", field("/proc/meminfo", "MemTotal").and_then(|kib| gib(&kib))),
        row("kernel", read_to_string("/proc/sys/kernel/osrelease").ok().map(|text| text.trim().to_owned())),
        row("file system", file_system(&disk())),
        row("rustc", output("rustc", &["--version"])),
        row("C compiler", output("cc", &["--version"])),
        row("load before", read_to_string("/proc/loadavg").ok().and_then(|text| Some(text.split(' ').next()?.into()))),
    ];
    report.table(&["machine", ""], &rows);
    report
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn gib(kib: &str) -> Option<String> {
    let kib: f64 = kib.split(' ').next()?.parse().ok()?;
    Some(format!("{:.1} GiB", kib / (1024.0 * 1024.0)))
}

/// The kind of the file system at `path`, and what it lies on.
fn file_system(path: &Path) -> Option<String> {
    let path = path.canonicalize().ok()?;
    let mounts = read_to_string("/proc/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ');
        let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
        path.starts_with(at).then(|| (at.len(), format!("{kind} on {device}")))
    });
    mounts.max_by_key(|(depth, _)| *depth).map(|(_, text)| text)
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.lines().next()?.to_owned())
}
