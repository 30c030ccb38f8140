//! The backend's doors: a Unix socket, and TCP where the owner wants it, with limits on whoever has not proved anything
//! yet.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use aico_crypto::Identity;
use aico_proto::{Peer, Standing, Trust};
use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::endpoint::PeerProcess;
use crate::handover::{self, Descriptors};
use crate::link::Wire;
use crate::seats::{Place, Seats};
use crate::{Error, Manner, SecureStream};

/// How long an address that did not know us is left outside.
const BACK_OFF: Duration = Duration::from_secs(30);
/// Addresses that are remembered for that.
const MAX_LEFT_OUTSIDE: usize = 1024;
/// Connections that wait in the kernel; the standard library asks for 128 over TCP, which a burst overruns, and then a
/// client's kernel waits a second before it tries again.
const BACKLOG: i32 = 4096;

/// How much the door carries at once.
#[derive(Clone, Copy, Debug)]
pub struct DoorLimits {
    /// Connections that have not shown that they know us; as many again whose handshake goes on. Where they are all
    /// taken, the next one displaces the oldest of those who have the most.
    pub half_open: usize,
    /// The same, of one process or address.
    pub half_open_of_one: usize,
    /// Connections that finished their handshake with an identity that is not enrolled.
    pub unenrolled: usize,
    /// The same, of one process or address.
    pub unenrolled_of_one: usize,
    /// Connections that finished their handshake.
    pub connections: usize,
    /// The same, of one process or address.
    pub connections_of_one: usize,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self {
            half_open: 128,
            half_open_of_one: 8,
            unenrolled: 64,
            unenrolled_of_one: 8,
            connections: 256,
            connections_of_one: 64,
        }
    }
}

/// Where a connection comes from, as the operating system says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// A process of this machine, through the Unix socket.
    Process(PeerProcess),
    /// An address, through TCP; of IPv6 only the network counts.
    Address(IpAddr),
}

impl Origin {
    fn of_address(address: IpAddr) -> Self {
        Self::Address(match address {
            IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
                Some(v4) => v4.into(),
                None => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            },
            v4 => v4,
        })
    }

    /// The process, where it came through the Unix socket.
    #[must_use]
    pub fn process(&self) -> Option<PeerProcess> {
        match self {
            Self::Process(process) => Some(*process),
            Self::Address(_) => None,
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process(PeerProcess { uid, pid }) => write!(f, "user {uid}, process {pid}"),
            Self::Address(address) => write!(f, "address {address}"),
        }
    }
}

/// A connection that has been let in. Dropping it frees its place.
#[derive(Debug)]
pub struct Visitor {
    /// The channel.
    pub stream: SecureStream,
    /// Where it comes from.
    pub origin: Origin,
    _place: Place,
}

/// Who may use the Unix socket, beside the backend's own user.
#[derive(Clone, Copy, Debug, Default)]
pub struct AlsoUser(pub Option<u32>);

/// Hears of connections that got nowhere.
pub type Refused = Arc<dyn Fn(Origin, &Error) + Send + Sync>;

/// Accepts connections, shakes hands, and hands over who has proved an identity.
pub struct Listener {
    visitors: mpsc::Receiver<Visitor>,
    door: Arc<Door>,
    accepting: Vec<tokio::task::JoinHandle<()>>,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({} doors)", self.accepting.len())
    }
}

impl Listener {
    /// Starts to accept at the Unix socket. `trust` is asked anew for every handshake; `refused` hears of those that
    /// failed.
    #[must_use]
    pub fn start(
        socket: UnixListener,
        also: AlsoUser,
        manner: Manner,
        trust: Arc<dyn Trust + Send + Sync>,
        limits: DoorLimits,
        refused: Refused,
    ) -> Self {
        let (let_in, visitors) = mpsc::channel(limits.connections);
        let door = Arc::new(Door::new(manner, trust, limits, refused, let_in));
        let accepting = tokio::spawn(accept_unix(door.clone(), socket, also));
        Self { visitors, door, accepting: vec![accepting] }
    }

    /// Accepts at a TCP socket too: only identities that are enrolled, the others get silence. It speaks in a manner of
    /// its own and has places of its own, so that it cannot starve the Unix socket.
    pub fn add_tcp(&mut self, socket: TcpListener, manner: Manner) {
        let door = &*self.door;
        // With the shorter queue it works too.
        let _shorter_then = rustix::net::listen(&socket, BACKLOG);
        let trust: Arc<dyn Trust + Send + Sync> = Arc::new(EnrolledOnly(door.trust.clone()));
        let (limits, refused, let_in) = (door.limits, door.refused.clone(), door.let_in.clone());
        let door = Door::new(manner, trust, limits, refused, let_in);
        self.accepting.push(tokio::spawn(accept_tcp(Arc::new(door), socket)));
    }

    /// Takes descriptors at the Unix socket, too: those that `expected` expects. Once.
    pub fn take_descriptors(&self, expected: Arc<Descriptors>) {
        let _only_the_first = self.door.descriptors.set(expected);
    }

    /// The next visitor; `None` once the door is closed.
    pub async fn next(&mut self) -> Option<Visitor> {
        self.visitors.recv().await
    }

    /// Accepts nobody any more; whoever has been let in stays.
    pub fn close(&mut self) {
        self.accepting.iter().for_each(tokio::task::JoinHandle::abort);
        self.visitors.close();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

/// Nobody enrols from afar.
struct EnrolledOnly(Arc<dyn Trust + Send + Sync>);

impl Trust for EnrolledOnly {
    fn standing(&self, identity: &Identity) -> Standing {
        match self.0.standing(identity) {
            Standing::Enrolled => Standing::Enrolled,
            _ => Standing::Refused,
        }
    }
}

async fn accept_unix(door: Arc<Door>, socket: UnixListener, also: AlsoUser) {
    loop {
        match socket.accept().await {
            Ok((stream, _address)) => {
                if let Some(process) = door.known_user(&stream, also) {
                    door.clone().meet_local(stream, process);
                }
                // Whoever has come gets a turn before the next one takes its seat.
                tokio::task::yield_now().await;
            }
            // Out of descriptors or memory: wait for some to come back instead of spinning.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn accept_tcp(door: Arc<Door>, socket: TcpListener) {
    loop {
        match socket.accept().await {
            Ok((stream, address)) => {
                let origin = Origin::of_address(address.ip());
                if !door.is_outside(origin) {
                    let _slower_then = stream.set_nodelay(true);
                    door.clone().meet(stream, origin);
                }
                tokio::task::yield_now().await;
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

struct Door {
    manner: Manner,
    trust: Arc<dyn Trust + Send + Sync>,
    limits: DoorLimits,
    refused: Refused,
    let_in: mpsc::Sender<Visitor>,
    seats: Arc<Seats>,
    outside: Mutex<HashMap<Origin, Instant>>,
    descriptors: OnceLock<Arc<Descriptors>>,
}

impl Door {
    fn new(
        manner: Manner,
        trust: Arc<dyn Trust + Send + Sync>,
        limits: DoorLimits,
        refused: Refused,
        let_in: mpsc::Sender<Visitor>,
    ) -> Self {
        let (seats, outside, descriptors) = (Arc::default(), Mutex::default(), OnceLock::new());
        Self { manner, trust, limits, refused, let_in, seats, outside, descriptors }
    }

    /// Another user than ours, or the one beside it, gets nothing.
    fn known_user(&self, stream: &UnixStream, also: AlsoUser) -> Option<PeerProcess> {
        let process = PeerProcess::of(stream).ok()?;
        if !process.is_our_user() && also.0 != Some(process.uid) {
            let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            (self.refused)(Origin::Process(process), &Error::io("let another user in", refused));
            return None;
        }
        Some(process)
    }

    /// Shakes hands on a task of its own, for as long as nobody else needs the seat more.
    fn meet<S: Wire>(self: Arc<Self>, stream: S, origin: Origin) {
        let place = self.arrive(origin);
        tokio::spawn(async move { self.shake_hands(stream, origin, place).await });
    }

    /// The same at the Unix socket, where somebody may hand a descriptor over instead.
    fn meet_local(self: Arc<Self>, stream: UnixStream, process: PeerProcess) {
        let origin = Origin::Process(process);
        let place = self.arrive(origin);
        tokio::spawn(async move {
            let Some(expected) = self.descriptors.get() else { return self.shake_hands(stream, origin, place).await };
            let patience = self.manner.settings.handshake;
            let first = async { timeout(patience, handover::brings_one(&stream)).await.ok()?.ok() };
            let first = tokio::select! {
                first = first => first,
                () = place.displaced() => None,
            };
            match first {
                Some(false) => self.shake_hands(stream, origin, place).await,
                Some(true) => {
                    let taken = timeout(patience, handover::take(&stream, process, expected)).await;
                    let taken = taken.unwrap_or(Err(Error::Timeout("handing a descriptor over")));
                    taken.unwrap_or_else(|error| (self.refused)(origin, &error));
                }
                None => (self.refused)(origin, &Error::Timeout("shaking hands")),
            }
        });
    }

    fn arrive(&self, origin: Origin) -> Place {
        self.seats.arrive(origin, self.limits.half_open, self.limits.half_open_of_one)
    }

    async fn shake_hands<S: Wire>(&self, stream: S, origin: Origin, place: Place) {
        let known = || place.knows_us(self.limits.half_open, self.limits.half_open_of_one);
        let shaken = tokio::select! {
            shaken = SecureStream::accept_by(stream, &self.manner, self.trust.clone(), known) => shaken,
            () = place.displaced() => Err(Error::Timeout("shaking hands")),
        };
        match shaken {
            Ok(stream) => self.let_in(stream, origin, place).await,
            Err(error) => {
                if matches!((origin, &error), (Origin::Address(_), Error::Stranger)) {
                    self.leave_outside(origin);
                }
                (self.refused)(origin, &error);
            }
        }
    }

    async fn let_in(&self, mut stream: SecureStream, origin: Origin, half_open: Place) {
        drop(half_open);
        let limits = &self.limits;
        let (most, most_of_one) = match stream.peer {
            Peer::Authenticated(_) => (limits.connections, limits.connections_of_one),
            Peer::Unenrolled(_) => (limits.unenrolled, limits.unenrolled_of_one),
        };
        match self.seats.enter(origin, most, most_of_one) {
            Some(place) => {
                let visitor = Visitor { stream, origin, _place: place };
                // Nobody takes visitors any more: the backend is stopping, and the stream ends here.
                let _gone = self.let_in.send(visitor).await;
            }
            None => {
                let _gone = stream.sender.close(aico_proto::CloseReason::Limit).await;
            }
        }
    }

    fn is_outside(&self, origin: Origin) -> bool {
        let outside = self.outside.lock().unwrap_or_else(PoisonError::into_inner);
        outside.get(&origin).is_some_and(|since| since.elapsed() < BACK_OFF)
    }

    fn leave_outside(&self, origin: Origin) {
        let mut outside = self.outside.lock().unwrap_or_else(PoisonError::into_inner);
        outside.retain(|_, since| since.elapsed() < BACK_OFF);
        if outside.len() < MAX_LEFT_OUTSIDE {
            outside.insert(origin, Instant::now());
        }
    }
}
