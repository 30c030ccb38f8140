//! A hostile proxy between a real client and a real door, on real sockets. From a seed, which is printed and can be given
//! back in `AICO_PROXY_SEED`, it splits, joins, delays, truncates, swallows, drops, repeats, reorders and flips.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aico_crypto::{ComponentKind, Identity, OsRandom, Random};
use aico_net::{AlsoUser, DoorLimits, Error, Listener, Manner, SecureStream, Visitor, Wire};
use aico_proto::{CloseReason, Settings};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::{Everybody, manner};

/// Exchanges on each carrier; they run side by side.
const CASES: u64 = 120;
/// Records of one exchange.
const RECORDS: u64 = 8;
/// The longest that the channel's own time-outs let anything last: a handshake of two seconds, then six seconds of
/// silence, then two for a goodbye.
const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test(flavor = "multi_thread")]
async fn through_a_hostile_proxy_an_exchange_is_right_or_ends_with_an_error_on_unix_sockets() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("door");
    let door = Door::open(UnixListener::bind(&path).unwrap(), None);
    run(door, Carrier::Unix { door: path, folder: folder.path().to_owned() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn through_a_hostile_proxy_an_exchange_is_right_or_ends_with_an_error_over_tcp() {
    let folder = tempfile::tempdir().unwrap();
    let unused = UnixListener::bind(folder.path().join("unused")).unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let door = socket.local_addr().unwrap();
    run(Door::open(unused, Some(socket)), Carrier::Tcp { door }).await;
}

fn seed() -> u64 {
    let chosen = std::env::var("AICO_PROXY_SEED").ok().map(|text| text.parse().unwrap());
    let mut random = [0; 8];
    OsRandom.fill(&mut random).unwrap();
    let seed = chosen.unwrap_or(u64::from_be_bytes(random));
    println!("AICO_PROXY_SEED={seed}");
    seed
}

async fn run(door: Door, carrier: Carrier) {
    let (seed, carrier) = (seed(), Arc::new(carrier));
    let (mut cases, mut outcomes) = (JoinSet::new(), [0; 2]);
    for number in 0..CASES {
        let case = Case { number, seed: seed ^ number, carrier: carrier.clone(), backend: door.identity.clone() };
        cases.spawn(async move { case.run().await });
        if cases.len() >= 16 {
            outcomes[usize::from(cases.join_next().await.unwrap().unwrap())] += 1;
        }
    }
    while let Some(right) = cases.join_next().await {
        outcomes[usize::from(right.unwrap())] += 1;
    }
    println!("{} exchanges came out right, {} ended with an error", outcomes[1], outcomes[0]);
    assert!(outcomes[0] > 10 && outcomes[1] > 10, "the proxy harms some and lets some pass");
    door.close().await;
}

/// A door whose visitors get back what they send, changed so that it cannot be their own.
struct Door {
    identity: Identity,
    serving: tokio::task::JoinHandle<()>,
    faults: Arc<Mutex<Vec<String>>>,
    stop: Arc<tokio::sync::Notify>,
}

impl Door {
    fn open(unix: UnixListener, tcp: Option<TcpListener>) -> Self {
        let (manner, identity) = manner(ComponentKind::Backend, settings());
        let limits = DoorLimits { half_open_of_one: 64, ..DoorLimits::default() };
        let (also, trust) = (AlsoUser::default(), Arc::new(Everybody));
        let mut listener = Listener::start(unix, also, manner.clone(), trust, limits, Arc::new(|_, _: &Error| ()));
        if let Some(tcp) = tcp {
            listener.add_tcp(tcp, manner);
        }
        let faults = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(tokio::sync::Notify::new());
        let (seen, stopping) = (faults.clone(), stop.clone());
        let serving = tokio::spawn(async move {
            let mut served = JoinSet::new();
            loop {
                tokio::select! {
                    visitor = listener.next() => drop(served.spawn(echo(visitor.unwrap(), seen.clone()))),
                    () = stopping.notified() => break,
                }
            }
            while served.join_next().await.is_some() {}
        });
        Self { identity, serving, faults, stop }
    }

    /// Every channel ends by itself, and none brought a wrong byte.
    async fn close(self) {
        self.stop.notify_one();
        timeout(PATIENCE, self.serving).await.unwrap_or_else(|_| panic!("the door hangs on a channel")).unwrap();
        assert_eq!(*self.faults.lock().unwrap(), Vec::<String>::new());
    }
}

async fn echo(visitor: Visitor, faults: Arc<Mutex<Vec<String>>>) {
    let SecureStream { mut sender, mut receiver, .. } = visitor.stream;
    let mut expected = 0;
    while let Ok(record) = receiver.receive().await {
        let case = record.first_chunk().map_or(0, |case| u64::from_be_bytes(*case));
        if record != content(case, expected) {
            faults.lock().unwrap().push(format!("case {case}: record {expected} is not what was sent"));
        }
        if sender.send(&[&turned(record)]).await.is_err() {
            return;
        }
        expected += 1;
    }
    let _gone = sender.close(CloseReason::Normal).await;
}

/// The record of this number: nothing else is right in its place.
fn content(case: u64, number: u64) -> Vec<u8> {
    let mut chance = Chance(case.wrapping_mul(31) ^ number);
    let length = if chance.below(4) == 0 { chance.below(70_000) } else { chance.below(300) };
    let rest = std::iter::repeat_with(|| chance.next() as u8).take(length as usize);
    case.to_be_bytes().into_iter().chain(number.to_be_bytes()).chain(rest).collect()
}

fn turned(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ 0x5a).collect()
}

fn settings() -> Settings {
    let seconds = Duration::from_secs;
    Settings { handshake: seconds(2), keepalive: seconds(2), idle: seconds(10), ..Settings::default() }
}

/// How the door is reached.
enum Carrier {
    Unix { door: PathBuf, folder: PathBuf },
    Tcp { door: SocketAddr },
}

struct Case {
    number: u64,
    seed: u64,
    carrier: Arc<Carrier>,
    backend: Identity,
}

impl Case {
    /// Whether the exchange came out right. It has to where the proxy did no harm.
    async fn run(self) -> bool {
        let harmed = Arc::new(AtomicBool::new(false));
        let exchanged = match &*self.carrier {
            Carrier::Unix { door, folder } => {
                let path = folder.join(self.number.to_string());
                let (proxy, door) = (UnixListener::bind(&path).unwrap(), door.clone());
                let (seed, harms) = (self.seed, harmed.clone());
                tokio::spawn(async move {
                    let (left, _) = proxy.accept().await.unwrap();
                    between(left, UnixStream::connect(door).await.unwrap(), seed, harms).await;
                });
                self.bounded(UnixStream::connect(path).await.unwrap()).await
            }
            Carrier::Tcp { door } => {
                let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let address = proxy.local_addr().unwrap();
                let (seed, harms, number, door) = (self.seed, harmed.clone(), self.number, *door);
                tokio::spawn(async move {
                    let (left, _) = proxy.accept().await.unwrap();
                    // From an address of its own, which the door may leave outside.
                    let mine = Ipv4Addr::from(u32::from(Ipv4Addr::LOCALHOST) + 1 + number as u32);
                    let socket = TcpSocket::new_v4().unwrap();
                    socket.bind((mine, 0).into()).unwrap();
                    between(left, socket.connect(door).await.unwrap(), seed, harms).await;
                });
                self.bounded(TcpStream::connect(address).await.unwrap()).await
            }
        };
        if let Err(error) = &exchanged {
            let harmed = harmed.load(Ordering::Relaxed);
            assert!(harmed, "case {}: nothing was changed, and the exchange ended with {error}", self.number);
        }
        let clean = match &*self.carrier {
            Carrier::Unix { door, .. } => self.bounded(UnixStream::connect(door).await.unwrap()).await,
            Carrier::Tcp { door } => self.bounded(TcpStream::connect(door).await.unwrap()).await,
        };
        clean.unwrap_or_else(|error| panic!("case {}: the next clean connection: {error}", self.number));
        exchanged.is_ok()
    }

    async fn bounded(&self, stream: impl Wire) -> Result<(), Error> {
        let done = timeout(PATIENCE, self.exchange(stream)).await;
        done.unwrap_or_else(|_| panic!("case {}: the client hangs", self.number))
    }

    /// Sends everything and takes what comes back; a record that comes is the right one.
    async fn exchange(&self, stream: impl Wire) -> Result<(), Error> {
        let (manner, _): (Manner, _) = manner(ComponentKind::Cli, settings());
        let stream = SecureStream::connect(stream, &manner, self.backend.clone()).await?;
        let SecureStream { mut sender, mut receiver, .. } = stream;
        let send = async {
            for number in 0..RECORDS {
                sender.send(&[&content(self.number, number)]).await?;
            }
            Ok::<_, Error>(())
        };
        let receive = async {
            for number in 0..RECORDS {
                let record = receiver.receive().await?;
                assert!(record == turned(&content(self.number, number)), "case {}: record {number}", self.number);
            }
            Ok::<_, Error>(())
        };
        tokio::try_join!(send, receive)?;
        sender.close(CloseReason::Normal).await?;
        match receiver.receive().await {
            Err(Error::Closed(CloseReason::Normal)) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => panic!("case {}: more than was sent", self.number),
        }
    }
}

/// What the proxy does to a direction, once, where this byte of it comes by; to as many bytes as are there then.
struct Harm {
    at: u64,
    kind: Kind,
    bytes: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    Flip,
    Drop,
    Repeat,
    Swap,
    /// Ends both directions.
    Cut,
    /// Forwards nothing more of this direction and ends nothing.
    Swallow,
}

const KINDS: [Kind; 6] = [Kind::Flip, Kind::Drop, Kind::Repeat, Kind::Swap, Kind::Cut, Kind::Swallow];

async fn between(left: impl Wire, right: impl Wire, seed: u64, harmed: Arc<AtomicBool>) {
    let (mut chance, cut) = (Chance(seed), tokio::sync::Notify::new());
    let ((from_left, to_left), (from_right, to_right)) = (tokio::io::split(left), tokio::io::split(right));
    let mut direction = || Direction::chosen(&mut chance);
    let (there, back) = (direction(), direction());
    tokio::select! {
        _ = async { tokio::join!(there.pump(from_left, to_right, &cut, &harmed), back.pump(from_right, to_left, &cut, &harmed)) } => {}
        () = cut.notified() => {}
    }
}

struct Direction {
    chance: Chance,
    harms: Vec<Harm>,
    /// The longest piece, the longest delay before one in milliseconds, and how long to gather before forwarding.
    piece: u64,
    delay: u64,
    gather: u64,
}

impl Direction {
    fn chosen(chance: &mut Chance) -> Self {
        let count = [0, 0, 1, 2][chance.below(4) as usize];
        let mut harm = |_| {
            // Half of them while hands are shaken.
            let at = if chance.below(2) == 0 { chance.below(1600) } else { chance.below(100_000) };
            let bytes = 1 + if chance.below(2) == 0 { chance.below(8) } else { chance.below(3000) } as usize;
            Harm { at, kind: KINDS[chance.below(6) as usize], bytes }
        };
        let mut harms: Vec<Harm> = (0..count).map(&mut harm).collect();
        harms.sort_by_key(|harm| std::cmp::Reverse(harm.at));
        let piece = [1 + chance.below(40), 1 + chance.below(4000), 1 << 20][chance.below(3) as usize];
        // Slow, and never so slow that a living side is taken for a silent one.
        let delay = if piece > 1000 { chance.below(20) } else { 0 };
        Self {
            chance: Chance(chance.next()),
            harms,
            piece,
            delay,
            gather: [0, chance.below(30)][chance.below(2) as usize],
        }
    }

    async fn pump(
        mut self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        cut: &tokio::sync::Notify,
        harmed: &AtomicBool,
    ) {
        let (mut buffer, mut passed) = (Vec::new(), 0);
        loop {
            buffer.reserve(1 << 17);
            match from.read_buf(&mut buffer).await {
                Ok(1..) => {}
                _ => {
                    let _gone = to.shutdown().await;
                    return;
                }
            }
            let gather = Duration::from_millis(self.gather);
            while !gather.is_zero() && matches!(timeout(gather, from.read_buf(&mut buffer)).await, Ok(Ok(1..))) {
                if buffer.len() > 1 << 16 {
                    break;
                }
            }
            let began = passed;
            passed += buffer.len() as u64;
            let mut out = std::mem::take(&mut buffer);
            // From the last to the first, so that the places before it stay where they are.
            let (now, later): (Vec<Harm>, Vec<Harm>) = self.harms.into_iter().partition(|harm| harm.at < passed);
            self.harms = later;
            let mut ends = None;
            for harm in now {
                let at = harm.at.saturating_sub(began) as usize;
                if harm.does(&mut out, at) {
                    harmed.store(true, Ordering::Relaxed);
                }
                if matches!(harm.kind, Kind::Cut | Kind::Swallow) {
                    ends = Some(harm.kind);
                }
            }
            if !self.forward(&out, &mut to).await {
                return;
            }
            match ends {
                Some(Kind::Cut) => return cut.notify_one(),
                Some(_) => drop(tokio::io::copy(&mut from, &mut tokio::io::sink()).await),
                None => {}
            }
        }
    }

    /// In pieces, with pauses.
    async fn forward(&mut self, bytes: &[u8], to: &mut (impl AsyncWrite + Unpin)) -> bool {
        let mut rest = bytes;
        while !rest.is_empty() {
            let (piece, more) = rest.split_at(rest.len().min(1 + self.chance.below(self.piece) as usize));
            rest = more;
            if to.write_all(piece).await.is_err() || to.flush().await.is_err() {
                return false;
            }
            match self.delay {
                0 => tokio::task::yield_now().await,
                most => sleep(Duration::from_millis(self.chance.below(most) / 8)).await,
            }
        }
        true
    }
}

impl Harm {
    /// Whether it changed what the other side gets.
    fn does(&self, bytes: &mut Vec<u8>, at: usize) -> bool {
        let at = at.min(bytes.len());
        let count = self.bytes.min(bytes.len() - at);
        let before = bytes.clone();
        match self.kind {
            Kind::Flip => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << (self.bytes % 8)),
            Kind::Drop => drop(bytes.drain(at..at + count)),
            Kind::Repeat => bytes.extend_from_within(at..at + count),
            Kind::Swap => bytes[at..at + count].rotate_left(count / 2),
            Kind::Cut | Kind::Swallow => {
                bytes.truncate(at);
                return true;
            }
        }
        before != *bytes
    }
}

/// Chance that a seed repeats.
struct Chance(u64);

impl Chance {
    /// `splitmix64`.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}
