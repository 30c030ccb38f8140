//! Many components and a backend in a world of their own: its clock, its network and its accidents come from one seed.
//!
//! `AICO_SIMULATION_SEED` plays one world again; a failure prints it. `AICO_SIMULATION_WORLDS` plays more of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use aico_proto::{CloseReason, Error, Settings, Terms};

use crate::channel::{End, Pair};

/// Components that talk to the backend at once.
const PEERS: usize = 12;
/// Simulated time of a world.
const LENGTH: Duration = Duration::from_secs(2 * 3600);
const ROTATION: Duration = Duration::from_secs(600);

/// xorshift64*.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    /// True once in `n` times.
    fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Side {
    Client,
    Server,
}

/// What happens next, at a time of this world; the number keeps the order of what happens at once.
enum Happens {
    Arrives(Side, Vec<u8>),
    Speaks(Side),
    Ticks(Side),
}

/// One connection after another of one component, and what both ends know.
struct Line {
    pair: Pair,
    unordered: bool,
    /// Counts connections: what was on the way in an older one is gone.
    connection: u64,
    sent: BTreeMap<(u64, bool), Vec<Vec<u8>>>,
    /// How much of `got` was looked at, and which messages have come.
    seen: [usize; 2],
    come: [BTreeSet<usize>; 2],
    /// When the last frame of a direction arrives: an ordered carrier does not overtake.
    last: [Duration; 2],
    /// Whether anything was done to this connection's bytes.
    harmed: bool,
    /// Whether a side has said its CLOSE.
    closing: bool,
}

struct World {
    numbers: Numbers,
    now: Duration,
    events: BTreeMap<(Duration, u64), (usize, u64, Happens)>,
    number: u64,
    lines: Vec<Line>,
    delivered: u64,
    connections: u64,
    epochs: u64,
    ended: BTreeMap<String, u64>,
}

fn settings() -> Settings {
    Settings {
        rotation: ROTATION,
        keepalive: Duration::from_secs(60),
        idle: Duration::from_secs(1800),
        ..Settings::default()
    }
}

fn connect(numbers: &mut Numbers, unordered: bool, now: Duration) -> Pair {
    Pair::at(Terms { unordered, ..Terms::default() }, numbers.once_in(3), settings(), now)
}

fn end(line: &mut Line, side: Side) -> &mut End {
    match side {
        Side::Client => &mut line.pair.client,
        Side::Server => &mut line.pair.server,
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut numbers = Numbers(seed.wrapping_mul(2).wrapping_add(1));
        let line = |at| {
            let unordered = at % 3 == 0;
            Line {
                pair: connect(&mut numbers, unordered, Duration::ZERO),
                unordered,
                connection: 0,
                sent: BTreeMap::new(),
                seen: [0; 2],
                come: [BTreeSet::new(), BTreeSet::new()],
                last: [Duration::ZERO; 2],
                harmed: false,
                closing: false,
            }
        };
        let lines = (0..PEERS).map(line).collect();
        let (now, events, ended) = (Duration::ZERO, BTreeMap::new(), BTreeMap::new());
        let mut world = Self { numbers, now, events, number: 0, lines, delivered: 0, connections: 0, epochs: 0, ended };
        (0..PEERS).for_each(|at| world.begin(at));
        world
    }

    fn at(&mut self, when: Duration, line: usize, happens: Happens) {
        self.number += 1;
        let connection = self.lines[line].connection;
        self.events.insert((when, self.number), (line, connection, happens));
    }

    fn soon(&mut self, most_ms: u64) -> Duration {
        self.now + Duration::from_millis(1 + self.numbers.below(most_ms))
    }

    /// A connection's first moments.
    fn begin(&mut self, at: usize) {
        self.connections += 1;
        let line = &mut self.lines[at];
        (line.seen, line.come, line.last) = ([0; 2], [BTreeSet::new(), BTreeSet::new()], [self.now; 2]);
        (line.harmed, line.closing) = (false, false);
        for side in [Side::Client, Side::Server] {
            let when = self.soon(5_000);
            self.at(when, at, Happens::Speaks(side));
            let when = self.soon(1_000);
            self.at(when, at, Happens::Ticks(side));
            self.carry(at, side);
        }
    }

    /// A channel ended, and its component comes again.
    fn again(&mut self, at: usize, why: &str) {
        *self.ended.entry(why.to_owned()).or_insert(0) += 1;
        let line = &mut self.lines[at];
        self.epochs += u64::from(line.pair.client.channel.epoch());
        line.connection += 1;
        let unordered = line.unordered;
        self.lines[at].pair = connect(&mut self.numbers, unordered, self.now);
        self.begin(at);
    }

    /// Puts what one end has said on its way to the other.
    fn carry(&mut self, at: usize, from: Side) {
        let frames = end(&mut self.lines[at], from).frames();
        let to = if from == Side::Client { Side::Server } else { Side::Client };
        for mut frame in frames {
            let unordered = self.lines[at].unordered;
            let mut copies = 1;
            if unordered {
                copies = [0, 2, 1, 1, 1, 1, 1, 1, 1, 1][self.numbers.below(10) as usize];
                if self.numbers.once_in(40) {
                    let bit = self.numbers.below(frame.len() as u64 * 8) as usize;
                    frame[bit / 8] ^= 1 << (bit % 8);
                }
            } else if self.numbers.once_in(400) {
                // On a stream, whatever happens to a byte happens to everything behind it.
                self.lines[at].harmed = true;
                match self.numbers.below(3) {
                    0 => frame.truncate(self.numbers.below(frame.len() as u64) as usize),
                    1 => {
                        let bit = self.numbers.below(frame.len() as u64 * 8) as usize;
                        frame[bit / 8] ^= 1 << (bit % 8);
                    }
                    _ => copies = 2 * self.numbers.below(2),
                }
            }
            for _ in 0..copies {
                // Two ways and the ticks between them stay below the time-out of a handshake.
                let late = if self.numbers.once_in(50) { 12_000 } else { 80 };
                let mut when = self.soon(late);
                if !unordered {
                    when = when.max(self.lines[at].last[to as usize]);
                    self.lines[at].last[to as usize] = when;
                }
                self.at(when, at, Happens::Arrives(to, frame.clone()));
            }
        }
    }

    fn step(&mut self, at: usize, happens: Happens) {
        let now = self.now;
        let (side, done) = match happens {
            Happens::Arrives(side, frame) => {
                let done = end(&mut self.lines[at], side).take(frame, now);
                self.look(at, side);
                (side, done)
            }
            Happens::Speaks(_) if self.lines[at].closing => return,
            Happens::Speaks(side) if self.numbers.once_in(150) => {
                self.lines[at].closing = true;
                let End { channel, out, .. } = end(&mut self.lines[at], side);
                channel.close(CloseReason::Normal, now, out);
                (side, Ok(()))
            }
            Happens::Speaks(side) => {
                let line = &mut self.lines[at];
                let sent = line.sent.entry((line.connection, side == Side::Client)).or_default();
                let text = format!("{side:?} {at} of connection {}: {}", line.connection, sent.len()).into_bytes();
                // Before READY has come nothing but a request may be said; a refusal is not sent.
                let text_sent = match side {
                    Side::Client => line.pair.client.channel.send(&[&text], now, &mut line.pair.client.out),
                    Side::Server => line.pair.server.channel.send(&[&text], now, &mut line.pair.server.out),
                };
                if text_sent.is_ok() {
                    sent.push(text);
                }
                let pause = if self.numbers.once_in(30) { 2_400_000 } else { 20_000 };
                let when = self.soon(pause);
                self.at(when, at, Happens::Speaks(side));
                (side, text_sent)
            }
            Happens::Ticks(side) => {
                let End { channel, around, out, .. } = end(&mut self.lines[at], side);
                let done = channel.tick(now, around, out);
                let next = channel.next_tick().max(now + Duration::from_millis(1));
                // A machine that is busy ticks late.
                let when = next.saturating_add(Duration::from_millis(self.numbers.below(500)));
                self.at(when, at, Happens::Ticks(side));
                (side, done)
            }
        };
        self.carry(at, side);
        match done {
            Ok(()) if end(&mut self.lines[at], side).closed.is_some() => {
                let reason = end(&mut self.lines[at], side).closed.unwrap();
                self.nothing_is_missing(at, side);
                self.again(at, &format!("closed: {reason:?}"));
            }
            Ok(()) => {}
            Err(error) => {
                let line = &self.lines[at];
                let expected = match error {
                    Error::Idle => true,
                    Error::Misuse(_) => false,
                    _ => line.harmed || line.unordered,
                };
                assert!(expected, "{error} on a line that nobody harmed ({side:?} {at})");
                let kind = format!("{error:?}");
                self.again(at, kind.split(['(', ' ']).next().unwrap());
            }
        }
    }

    /// Whatever was delivered is what the other end sent in this connection: each once, and in order on a stream.
    fn look(&mut self, at: usize, side: Side) {
        let line = &mut self.lines[at];
        let sent = line.sent.entry((line.connection, side == Side::Server)).or_default();
        let got = match side {
            Side::Client => &line.pair.client.got,
            Side::Server => &line.pair.server.got,
        };
        for text in &got[line.seen[side as usize]..] {
            let number = sent.iter().position(|known| known == text);
            let number = number.unwrap_or_else(|| panic!("{:?} was never sent", String::from_utf8_lossy(text)));
            let come = &mut line.come[side as usize];
            assert!(line.unordered || number == come.len(), "message {number} after {}", come.len());
            assert!(come.insert(number), "message {number} came twice");
            self.delivered += 1;
        }
        line.seen[side as usize] = got.len();
    }

    /// An end is told from a cut: behind a CLOSE that came on a stream, everything said before it has come too.
    fn nothing_is_missing(&mut self, at: usize, side: Side) {
        let line = &mut self.lines[at];
        let sent = line.sent.entry((line.connection, side == Side::Server)).or_default();
        let come = line.come[side as usize].len();
        assert!(line.unordered || come == sent.len(), "{come} of {} messages before CLOSE", sent.len());
    }

    fn play(&mut self) {
        while let Some(((when, _), (line, connection, happens))) = self.events.pop_first() {
            if when > LENGTH {
                return;
            }
            self.now = when;
            if self.lines[line].connection == connection {
                self.step(line, happens);
            }
        }
    }
}

#[test]
fn in_every_world_what_arrives_is_what_was_sent() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("AICO_SIMULATION_SEED");
    let worlds = number("AICO_SIMULATION_WORLDS").unwrap_or(if first.is_some() { 1 } else { 6 });
    let mut epochs = 0;
    for world in 0..worlds {
        // Fixed worlds, so that a build is red or green by its code and not by its luck.
        let seed = first.unwrap_or(20_261_123) + world;
        let result = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            world.play();
            (world.delivered, world.connections, world.epochs, world.ended)
        });
        match result {
            Ok((delivered, connections, renewed, ended)) => {
                assert!(delivered > 1_000 && connections > PEERS as u64, "seed {seed}: {delivered}, {connections}");
                println!(
                    "seed {seed}: {delivered} delivered, {connections} connections, {renewed} renewals, {ended:?}"
                );
                epochs += renewed;
            }
            Err(panic) => {
                eprintln!("AICO_SIMULATION_SEED={seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(epochs > 0, "keys are renewed in these worlds");
}

/// So that a printed seed is worth something.
#[test]
fn the_world_repeats_itself() {
    let play = || {
        let mut world = World::new(7);
        world.play();
        (world.delivered, world.connections, world.epochs, world.now)
    };
    assert_eq!(play(), play());
}
