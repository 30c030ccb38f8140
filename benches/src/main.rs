//! `aico-bench [NAME…] [--write]`: what AICO Security costs beside what else could have been used
//! (`docs/benchmarks.md`). Run it by `./dev bench`.

mod argon2;
mod audit;
mod bytes;
mod data;
mod decide;
mod handshake;
mod machine;
mod mount;
mod people;
mod report;
mod request;
mod seal;
mod start;
mod store;
mod timing;

use std::fs;
use std::time::Instant;

use people::Result;
use report::Report;

const DOCUMENT: &str = "docs/benchmarks.md";

type Row = (&'static str, fn() -> Result<Report>);

const ROWS: [Row; 11] = [
    ("seal", seal::run),
    ("handshake", handshake::run),
    ("bytes", bytes::run),
    ("request", request::run),
    ("data", data::run),
    ("store", store::run),
    ("mount", mount::run),
    ("argon2", argon2::run),
    ("audit", audit::run),
    ("start", start::run),
    ("decide", decide::run),
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (options, names): (Vec<_>, Vec<_>) = arguments.iter().partition(|argument| argument.starts_with('-'));
    let known = ROWS.map(|(name, _)| name).join(", ");
    if options.iter().any(|option| *option != "--write")
        || names.iter().any(|name| !ROWS.iter().any(|(row, _)| row == name))
    {
        return Err(format!("usage: ./dev bench [NAME…] [--write], where NAME is one of {known}").into());
    }
    let machine = machine::describe().markdown();
    println!("{machine}");
    let mut document = if options.is_empty() { None } else { Some(fs::read_to_string(DOCUMENT)?) };
    let mut note = |name: &str, text: &str| match &mut document {
        Some(document) => replace(document, name, text),
        None => Ok(()),
    };
    let mut goals = Report::default();
    for (name, run) in ROWS.iter().filter(|(name, _)| names.is_empty() || names.iter().any(|wanted| wanted == name)) {
        let began = Instant::now();
        let report = run().map_err(|error| format!("{name}: {error}"))?;
        let text = report.markdown();
        println!("## {name}\n\n{text}\n({:.0} s)\n", began.elapsed().as_secs_f64());
        note(name, &text)?;
        goals.goals.extend(report.goals);
    }
    if names.is_empty() {
        note("machine", &machine)?;
        note("goals", &goals.markdown())?;
    }
    if let Some(document) = document {
        fs::write(DOCUMENT, document)?;
    }
    Ok(())
}

/// Puts `text` between the markers of `name`.
fn replace(document: &mut String, name: &str, text: &str) -> Result<()> {
    let (begin, end) = (format!("<!-- bench {name} -->\n"), format!("<!-- end {name} -->"));
    let from = document.find(&begin).ok_or_else(|| format!("{DOCUMENT} has no place for {name}"))? + begin.len();
    let to = document[from..].find(&end).ok_or_else(|| format!("{DOCUMENT} has no end of {name}"))? + from;
    document.replace_range(from..to, &format!("\n{text}\n"));
    Ok(())
}
