//! Tables as people read them.

use std::fmt::Write;

use crate::timing::Spread;

/// What one subcommand found.
#[derive(Default)]
pub struct Report {
    pub text: String,
    pub goals: Vec<Goal>,
}

/// A number, or the median of many and how far they lie apart.
pub enum Found {
    Number(f64),
    Spread(Spread),
}

impl From<f64> for Found {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<Spread> for Found {
    fn from(spread: Spread) -> Self {
        Self::Spread(spread)
    }
}

/// What was wanted, and what came.
pub struct Goal {
    pub wanted: String,
    pub found: String,
    pub met: bool,
}

impl Report {
    /// Adds a table; the first column is text, the others stand to the right.
    pub fn table(&mut self, head: &[&str], rows: &[Vec<String>]) {
        let rule = head.iter().enumerate().map(|(at, _)| if at == 0 { "---" } else { "---:" });
        let _ = writeln!(self.text, "| {} |", head.join(" | "));
        let _ = writeln!(self.text, "| {} |", rule.collect::<Vec<_>>().join(" | "));
        for row in rows {
            let _ = writeln!(self.text, "| {} |", row.join(" | "));
        }
        self.text.push('\n');
    }

    pub fn line(&mut self, text: &str) {
        let _ = writeln!(self.text, "{text}\n");
    }

    /// Notes a goal: a number that must be at most `limit`.
    pub fn at_most(&mut self, what: &str, found: impl Into<Found>, limit: f64, unit: &str) {
        self.goal(format!("{what}: at most {limit}{unit}"), found.into(), unit, |found| found <= limit);
    }

    /// Notes a goal: a number that must be at least `limit`.
    pub fn at_least(&mut self, what: &str, found: impl Into<Found>, limit: f64, unit: &str) {
        self.goal(format!("{what}: at least {limit}{unit}"), found.into(), unit, |found| found >= limit);
    }

    fn goal(&mut self, wanted: String, found: Found, unit: &str, is_met: impl Fn(f64) -> bool) {
        let (text, number) = match found {
            Found::Number(number) => (format!("{number:.2}{unit}"), number),
            Found::Spread(spread) => (format!("{spread}{unit}"), spread.median),
        };
        self.goals.push(Goal { wanted, found: text, met: is_met(number) });
    }

    /// The tables, and under them the goals.
    pub fn markdown(&self) -> String {
        let mut whole = Self { text: self.text.clone(), goals: Vec::new() };
        if !self.goals.is_empty() {
            whole.table(&["goal", "found", ""], &self.goals.iter().map(Goal::row).collect::<Vec<_>>());
        }
        whole.text.trim_end().to_owned() + "\n"
    }
}

impl Goal {
    pub fn row(&self) -> Vec<String> {
        let verdict = if self.met { "met" } else { "**missed**" };
        vec![self.wanted.clone(), self.found.clone(), verdict.to_owned()]
    }
}

/// Nanoseconds with a fitting unit.
pub fn time(nanos: f64) -> String {
    match nanos {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e5 => format!("{:.2} µs", n / 1e3),
        n if n < 1e6 => format!("{:.0} µs", n / 1e3),
        n if n < 1e9 => format!("{:.2} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

pub fn size(bytes: usize) -> String {
    match bytes {
        b if b >= 1 << 20 => format!("{} MiB", b >> 20),
        b if b >= 1 << 10 => format!("{} KiB", b >> 10),
        b => format!("{b} B"),
    }
}
