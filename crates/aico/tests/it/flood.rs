//! Floods: whoever is enrolled is answered, on the Unix socket and over TCP, while others hold the door.
//!
//! The short form runs with all tests; `./dev flood` (`AICO_FLOOD=full`) sends ten thousand. The attackers are processes
//! of their own: this test program again, told by its environment.

use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use aico_crypto::{ComponentKind, HedgeKey, Identity, IdentitySecret, Name, OsRandom};
use aico_net::{Address, Dial, Manner, Speaker, read_backend_id, read_client_key};
use aico_proto::message::{Request, StatusAnswer};
use aico_proto::{Fresh, Initiator, LocalIdentity, Terms};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, UnixStream};

use crate::home::{Home, bytes};

/// For the 99th of a hundred requests of the good client, from connecting to the answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// What the backend may have taken at its peak.
const MOST_KIB: u64 = 150 * 1024;
/// How an attacker process is told what to do: the attack, connections, its number, the address, `backend.id`.
const ORDERS: &str = "AICO_FLOOD_ORDERS";

#[derive(Clone, Copy, Debug)]
enum Attack {
    Silent,
    Garbage,
    Dribble,
    /// Handshakes that are begun, a thousand a second, by somebody who knows the backend's public key.
    Hello,
    /// Handshakes that are begun and not finished, from everywhere, by somebody who knows it.
    Held,
}

impl Attack {
    const ALL: [Self; 5] = [Self::Silent, Self::Garbage, Self::Dribble, Self::Hello, Self::Held];

    fn named(name: &str) -> Self {
        *Self::ALL.iter().find(|attack| format!("{attack:?}") == name).unwrap()
    }
}

/// How much is sent.
#[derive(Clone, Copy)]
struct Size {
    connections: usize,
    processes: usize,
    time: Duration,
}

impl Size {
    fn chosen() -> Self {
        let full = std::env::var("AICO_FLOOD").is_ok_and(|text| text == "full");
        let (connections, seconds) = if full { (10_000, 15) } else { (2_000, 1) };
        let size = Self { connections, processes: 40, time: Duration::from_secs(seconds) };
        // An attacker needs a descriptor a connection and some of its own.
        let most = raise_descriptors().saturating_sub(64) * size.processes;
        if most < connections {
            println!("only {most} connections instead of {connections}: the hard limit on descriptors is too low");
        }
        Self { connections: connections.min(most), ..size }
    }
}

/// Raises the limit on open files as far as it goes; what it is then.
fn raise_descriptors() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let _as_it_was = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |most| usize::try_from(most).unwrap())
}

#[test]
fn whoever_is_enrolled_is_answered_on_the_unix_socket_under_every_flood() {
    let home = Home::running();
    let run = home.data().join("run");
    for attack in Attack::ALL {
        let address = format!("unix:{}", run.join("aico.sock").display());
        hold_out(&home, attack, &address, Address::Local(run.clone()));
    }
}

#[test]
fn whoever_is_enrolled_is_answered_over_tcp_under_every_flood() {
    let (home, address) = crate::tcp::tcp_home("");
    let backend = read_backend_id(&home.data().join("run/backend.id")).unwrap();
    for attack in Attack::ALL {
        hold_out(&home, attack, &format!("tcp:{address}"), Address::Tcp(address, backend.clone()));
    }
}

/// Floods `at` and asks as the command line meanwhile.
fn hold_out(home: &Home, attack: Attack, at: &str, address: Address) {
    let size = Size::chosen();
    let me = Speaker::new(read_client_key(&home.keys().join("clients/cli.key")).unwrap()).unwrap();
    let dial = Dial { address, manner: Manner::of(me.into()), retries: 0 };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut attackers = Attackers::start(home, attack, at, size);
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < size.time {
        let asked = Instant::now();
        runtime.block_on(async {
            let answered = async {
                let mut client = dial.connect().await?;
                let _: StatusAnswer = client.ask(&Request::Status { notices: false }).await?;
                client.close().await
            };
            let answered = tokio::time::timeout(Duration::from_secs(20), answered).await.unwrap();
            answered.unwrap_or_else(|error| panic!("{attack:?} at {at}: request {}: {error}", times.len()));
        });
        times.push(asked.elapsed());
    }
    // And as people meet it.
    home.ok(&["status"]);
    attackers.stop();
    times.sort();
    let (p99, half) = (times[times.len() * 99 / 100], times[times.len() / 2]);
    let peak = peak_kib(home);
    println!(
        "{attack:?} at {}: {} requests, p50 {half:.1?}, p99 {p99:.1?}; the backend's peak {} MiB; {}",
        at.split(':').next().unwrap(),
        times.len(),
        peak / 1024,
        attackers.report,
    );
    assert!(p99 < PATIENCE, "{attack:?} at {at}: p99 {p99:?}");
    assert!(peak < MOST_KIB, "{attack:?} at {at}: {peak} KiB");
}

/// The peak memory of the process that has the keys.
fn peak_kib(home: &Home) -> u64 {
    let text = std::fs::read_to_string(home.data().join("run/worker.lock")).unwrap();
    let pid = text.trim().strip_prefix("process ").unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse().unwrap()
}

/// The processes that attack; they end with this.
struct Attackers {
    children: Vec<Child>,
    report: String,
}

impl Attackers {
    fn start(home: &Home, attack: Attack, at: &str, size: Size) -> Self {
        // One address, or one process, for what is to come from one.
        let processes = if matches!(attack, Attack::Hello) { 1 } else { size.processes };
        let backend = home.data().join("run/backend.id");
        let each = size.connections / processes;
        let spawn = |number: usize| {
            let orders = format!("{attack:?} {each} {number} {at} {}", backend.display());
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "flood::an_attacker", "--nocapture", "--test-threads=1"]).env(ORDERS, orders);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
        };
        let mut children: Vec<Child> = (0..processes).map(spawn).collect();
        for child in &mut children {
            wait_for(child, "at it");
        }
        Self { children, report: String::new() }
    }

    /// Ends them; what they did together is in `report`.
    fn stop(&mut self) {
        let mut done = [0; 2];
        self.children.iter_mut().for_each(|child| drop(child.stdin.take()));
        for child in &mut self.children {
            let line = wait_for(child, "connections");
            let numbers = line.split(' ').filter_map(|word| word.parse::<usize>().ok());
            done.iter_mut().zip(numbers).for_each(|(sum, number)| *sum += number);
            let _ended = child.wait();
        }
        self.report = format!("{} connections were made, {} of them got an answer", done[0], done[1]);
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ended_already = child.kill();
            let _ended_already = child.wait();
        }
    }
}

/// The line in which a child says `what`. Read byte by byte: what follows it is for the next call.
fn wait_for(child: &mut Child, what: &str) -> String {
    let output = child.stdout.as_mut().unwrap();
    let mut lines = BufReader::with_capacity(1, output).lines();
    lines.find_map(|line| line.ok().filter(|line| line.contains(what))).unwrap()
}

/// Not a test of its own: the attackers of the others, which start it with [`ORDERS`].
#[test]
fn an_attacker() {
    let Ok(orders) = std::env::var(ORDERS) else { return };
    let orders: Vec<&str> = orders.splitn(5, ' ').collect();
    let (attack, count) = (Attack::named(orders[0]), orders[1].parse().unwrap());
    let attacker = Attacker {
        attack,
        number: orders[2].parse().unwrap(),
        address: orders[3].to_owned(),
        hello: hello(Path::new(orders[4])),
        made: AtomicUsize::new(0),
        answered: AtomicUsize::new(0),
    };
    raise_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(Arc::new(attacker).run(count));
}

struct Attacker {
    attack: Attack,
    number: usize,
    address: String,
    hello: Vec<u8>,
    made: AtomicUsize,
    answered: AtomicUsize,
}

impl Attacker {
    async fn run(self: Arc<Self>, count: usize) {
        match self.attack {
            Attack::Hello => drop(tokio::spawn(self.clone().a_thousand_a_second())),
            _ => (0..count).for_each(|index| drop(tokio::spawn(self.clone().again_and_again(index)))),
        }
        // Under way before the good client comes.
        while self.made.load(Ordering::Relaxed) < count / 10 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        println!("\nat it");
        let told = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
        let _ended = told.await;
        let (made, answered) = (self.made.load(Ordering::Relaxed), self.answered.load(Ordering::Relaxed));
        println!("\n{made} connections, {answered} answers");
        std::process::exit(0);
    }

    async fn again_and_again(self: Arc<Self>, index: usize) {
        let held = matches!(self.attack, Attack::Held);
        // Of the handshakes, too, a thousand a second from forty processes: what two processors can do.
        let (first, pause) = if held { (index as u64 * 40, 10_000) } else { (0, 500 + index as u64 % 500) };
        tokio::time::sleep(Duration::from_millis(first)).await;
        loop {
            self.once(index).await;
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn a_thousand_a_second(self: Arc<Self>) {
        let mut tick = tokio::time::interval(Duration::from_millis(1));
        loop {
            tick.tick().await;
            let this = self.clone();
            tokio::spawn(async move { this.once(0).await });
        }
    }

    /// Connects and attacks until the other side ends it.
    async fn once(&self, index: usize) {
        if let Some(path) = self.address.strip_prefix("unix:") {
            let mut connected = UnixStream::connect(path).await;
            // Not refused: so many wait that there is no room for one more.
            while connected.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
                connected = UnixStream::connect(path).await;
            }
            self.attack(connected.unwrap()).await;
        } else if let Some(address) = self.address.strip_prefix("tcp:") {
            let address: SocketAddr = address.parse().unwrap();
            let socket = TcpSocket::new_v4().unwrap();
            // 127.0.0.2 and up, eight connections each; another network for each attack, so that none finds the door shut
            // because of the one before.
            let network = (self.attack as u32) << 16;
            let host = u32::from(Ipv4Addr::LOCALHOST) + network + 1 + (self.number * 1_000 + index / 8) as u32;
            socket.bind(SocketAddr::from((Ipv4Addr::from(host), 0))).unwrap();
            if let Ok(stream) = socket.connect(address).await {
                self.attack(stream).await;
            }
        }
    }

    async fn attack(&self, mut stream: impl AsyncRead + AsyncWrite + Unpin) {
        self.made.fetch_add(1, Ordering::Relaxed);
        let mut answer = [0; 256];
        match self.attack {
            Attack::Silent => {}
            Attack::Garbage => {
                let made = self.made.load(Ordering::Relaxed);
                let length = if made.is_multiple_of(2) { 98 } else { u32::MAX };
                let garbage = [&length.to_be_bytes()[..], &bytes(self.number as u64, 200)].concat();
                let _refused = stream.write_all(&garbage).await;
            }
            Attack::Dribble => {
                let mut read = [0];
                for byte in self.hello.chunks(1) {
                    let closed = tokio::time::timeout(Duration::from_secs(1), stream.read(&mut read)).await;
                    if closed.is_ok() || stream.write_all(byte).await.is_err() {
                        return;
                    }
                }
            }
            Attack::Hello | Attack::Held => {
                let _refused = stream.write_all(&self.hello).await;
            }
        }
        // Held until the other side ends it.
        let mut answered = false;
        while matches!(stream.read(&mut answer).await, Ok(1..)) {
            answered = true;
            if matches!(self.attack, Attack::Hello) {
                break;
            }
        }
        self.answered.fetch_add(usize::from(answered), Ordering::Relaxed);
    }
}

/// A HELLO that the backend answers. It may be said any number of times.
fn hello(backend: &Path) -> Vec<u8> {
    let secret = IdentitySecret::make(&OsRandom).unwrap();
    let identity = Identity::new(ComponentKind::Cli, *secret.public(), Name::parse("somebody").unwrap());
    let hedge: HedgeKey = LocalIdentity::new(secret, identity).unwrap().hedge_key();
    let fresh = Fresh::make(&hedge, &OsRandom, &[0; 16], 0).unwrap().with_kem().unwrap();
    let (_, hello) = Initiator::start(read_backend_id(backend).unwrap(), fresh, Terms::default());
    [&(hello.len() as u32).to_be_bytes()[..], &hello].concat()
}
