//! The backend's door: a Unix socket with limits on whoever has not proved anything yet.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aico_proto::{Peer, Trust};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::endpoint::PeerProcess;
use crate::{Error, SecureStream, Speaker};

/// How much the door carries at once.
#[derive(Clone, Copy, Debug)]
pub struct DoorLimits {
    /// Connections whose handshake is not over.
    pub half_open: usize,
    /// The same, of one process.
    pub half_open_per_process: usize,
    /// Connections that finished their handshake.
    pub connections: usize,
    /// The same, of one process.
    pub connections_per_process: usize,
}

impl Default for DoorLimits {
    fn default() -> Self {
        Self { half_open: 64, half_open_per_process: 8, connections: 256, connections_per_process: 64 }
    }
}

/// A connection that has been let in. Dropping it frees its place.
#[derive(Debug)]
pub struct Visitor {
    /// The channel.
    pub stream: SecureStream,
    /// The process at the other end.
    pub process: PeerProcess,
    _place: Place,
}

/// Accepts connections, shakes hands, and hands over who has proved an identity.
#[derive(Debug)]
pub struct Listener {
    visitors: mpsc::Receiver<Visitor>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Listener {
    /// Starts to accept. `trust` is asked anew for every handshake; `failed` hears of handshakes that failed.
    pub fn start<T, F>(socket: UnixListener, me: Arc<Speaker>, trust: Arc<T>, limits: DoorLimits, failed: F) -> Self
    where
        T: Trust + Send + Sync + 'static,
        F: Fn(PeerProcess, &Error) + Send + Sync + 'static,
    {
        let (let_in, visitors) = mpsc::channel(limits.connections);
        let door = Arc::new(Door { me, trust, limits, failed, let_in, seats: Arc::default() });
        let accepting = tokio::spawn(async move {
            loop {
                match socket.accept().await {
                    Ok((stream, _address)) => door.clone().meet(stream),
                    // Out of descriptors or memory: wait for some to come back instead of spinning.
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        Self { visitors, accepting }
    }

    /// The next visitor; `None` once the door is closed.
    pub async fn next(&mut self) -> Option<Visitor> {
        self.visitors.recv().await
    }

    /// Accepts nobody any more; whoever has been let in stays.
    pub fn close(&mut self) {
        self.accepting.abort();
        self.visitors.close();
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

struct Door<T, F> {
    me: Arc<Speaker>,
    trust: Arc<T>,
    limits: DoorLimits,
    failed: F,
    let_in: mpsc::Sender<Visitor>,
    seats: Arc<Seats>,
}

impl<T, F> Door<T, F>
where
    T: Trust + Send + Sync + 'static,
    F: Fn(PeerProcess, &Error) + Send + Sync + 'static,
{
    /// Looks at who connects and shakes hands on a task of its own. Another user gets nothing, and nor does anybody
    /// where there is no place.
    fn meet(self: Arc<Self>, stream: UnixStream) {
        let Ok(process) = PeerProcess::of(&stream) else { return };
        if !process.is_our_user() {
            let refused = std::io::Error::from(std::io::ErrorKind::PermissionDenied);
            (self.failed)(process, &Error::io("let another user in", refused));
            return;
        }
        let limits = &self.limits;
        let place = self.seats.take(Room::HalfOpen, process, limits.half_open, limits.half_open_per_process);
        let Some(place) = place else { return };
        tokio::spawn(async move {
            match SecureStream::accept(stream, &self.me, &*self.trust).await {
                Ok(stream) => self.let_in(stream, process, place).await,
                Err(error) => (self.failed)(process, &error),
            }
        });
    }

    async fn let_in(&self, mut stream: SecureStream, process: PeerProcess, half_open: Place) {
        drop(half_open);
        let limits = &self.limits;
        // Somebody unenrolled never takes more places than the half-open ones.
        let (most, most_of_one) = match stream.peer {
            Peer::Authenticated(_) => (limits.connections, limits.connections_per_process),
            Peer::Unenrolled(_) => (limits.half_open, limits.half_open_per_process),
        };
        match self.seats.take(Room::Open, process, most, most_of_one) {
            Some(place) => {
                let visitor = Visitor { stream, process, _place: place };
                // Nobody takes visitors any more: the backend is stopping, and the stream ends here.
                let _gone = self.let_in.send(visitor).await;
            }
            None => {
                let _gone = stream.sender.close(aico_proto::CloseReason::Limit).await;
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Room {
    HalfOpen,
    Open,
}

/// Who sits where, by process.
#[derive(Debug, Default)]
struct Seats(Mutex<HashMap<(Room, PeerProcess), usize>>);

impl Seats {
    fn take(self: &Arc<Self>, room: Room, process: PeerProcess, most: usize, most_of_one: usize) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let all: usize = taken.iter().filter(|((r, _), _)| *r == room).map(|(_, count)| count).sum();
        let own = taken.entry((room, process)).or_default();
        if all >= most || *own >= most_of_one {
            return None;
        }
        *own += 1;
        Some(Place { seats: self.clone(), key: (room, process) })
    }
}

/// One seat, free again when dropped.
#[derive(Debug)]
struct Place {
    seats: Arc<Seats>,
    key: (Room, PeerProcess),
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.seats.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = taken.get_mut(&self.key) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}
