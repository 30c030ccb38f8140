//! Both sides of a comparison in turn, many short batches, so that a noisy machine is noisy for both.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// How long one batch of one side takes, about.
const BATCH: Duration = Duration::from_millis(4);

/// Which time counts.
#[derive(Clone, Copy)]
pub enum Clock {
    /// What passes on the wall.
    Wall,
    /// What this thread computes; others on the same machine do not count.
    Thread,
    /// What all threads of this process compute.
    Process,
}

impl Clock {
    pub fn now(self) -> Duration {
        let id = match self {
            Self::Wall => ClockId::Monotonic,
            Self::Thread => ClockId::ThreadCPUTime,
            Self::Process => ClockId::ProcessCPUTime,
        };
        let now = clock_gettime(id);
        Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).unwrap_or(0))
    }

    pub fn time<T>(self, f: impl FnOnce() -> T) -> (Duration, T) {
        let began = self.now();
        let value = f();
        (self.now() - began, value)
    }
}

/// One of the things compared; `run` does it once.
pub struct Side<'a> {
    pub name: &'static str,
    pub run: Box<dyn FnMut() + 'a>,
}

impl<'a> Side<'a> {
    pub fn new(name: &'static str, run: impl FnMut() + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// Runs every side once a round, in batches of about [`BATCH`], beginning with another side each time.
pub fn in_turn(clock: Clock, rounds: usize, sides: &mut [Side<'_>]) -> Rounds {
    let batches: Vec<u32> = sides.iter_mut().map(|side| batch(clock, side)).collect();
    let mut measured = Rounds::new(sides.iter().map(|side| side.name));
    for round in 0..rounds {
        for turn in 0..sides.len() {
            let at = (round + turn) % sides.len();
            let (side, batch) = (&mut sides[at], batches[at]);
            let (took, ()) = clock.time(|| (0..batch).for_each(|_| (side.run)()));
            measured.nanos[at].push(took.as_nanos() as f64 / f64::from(batch));
        }
    }
    measured
}

/// How often a side is run for one batch; warms it up, too.
fn batch(clock: Clock, side: &mut Side<'_>) -> u32 {
    let mut times = 1;
    loop {
        let (took, ()) = clock.time(|| (0..times).for_each(|_| (side.run)()));
        if took >= BATCH / 4 {
            let once = (took / times).max(Duration::from_nanos(1));
            return u32::try_from(BATCH.as_nanos() / once.as_nanos()).unwrap_or(u32::MAX).max(1);
        }
        times *= 2;
    }
}

/// What was measured, round by round.
pub struct Rounds {
    names: Vec<&'static str>,
    nanos: Vec<Vec<f64>>,
}

impl Rounds {
    pub fn new(names: impl Iterator<Item = &'static str>) -> Self {
        let names: Vec<_> = names.collect();
        let nanos = names.iter().map(|_| Vec::new()).collect();
        Self { names, nanos }
    }

    /// Takes in what one side needed for one thing, in one round.
    pub fn add(&mut self, side: usize, took: Duration) {
        self.nanos[side].push(took.as_nanos() as f64);
    }

    /// Takes in another number than a time.
    pub fn add_number(&mut self, side: usize, number: f64) {
        self.nanos[side].push(number);
    }

    pub fn names(&self) -> impl Iterator<Item = (usize, &'static str)> {
        self.names.iter().copied().enumerate()
    }

    /// Nanoseconds of one run of a side.
    pub fn nanos(&self, side: usize) -> Spread {
        Spread::of(self.nanos[side].clone())
    }

    /// How long `side` takes of what `other` takes, round by round.
    pub fn ratio(&self, side: usize, other: usize) -> Spread {
        let pairs = self.nanos[side].iter().zip(&self.nanos[other]);
        Spread::of(pairs.map(|(a, b)| a / b).collect())
    }
}

/// The median, and between what the middle 80 of 100 lie.
#[derive(Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub median: f64,
    pub high: f64,
    pub p99: f64,
}

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at =
            |part: f64| values.get(((values.len() - 1) as f64 * part).round() as usize).copied().unwrap_or(f64::NAN);
        Self { low: at(0.1), median: at(0.5), high: at(0.9), p99: at(0.99) }
    }

    /// The same in another unit.
    pub fn times(self, factor: f64) -> Self {
        let [low, median, high, p99] = [self.low, self.median, self.high, self.p99].map(|number| number * factor);
        Self { low, median, high, p99 }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2}–{:.2})", self.median, self.low, self.high)
    }
}
