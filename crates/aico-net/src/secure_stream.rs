//! A channel over a byte stream: a length before each frame, the handshake, then records both ways.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aico_crypto::{HedgeKey, Identity, OsRandom, Random};
use aico_proto::limits::MAX_HANDSHAKE_FRAME_BYTES;
use aico_proto::{
    Agreed, Channel, CloseReason, Error as ProtoError, Established, Fresh, Initiator, LocalIdentity, Peer, Refusal,
    Responder, Settings, Standing, Surroundings, Terms, Trust,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::Error;
use crate::link::{self, Command, Ends, LinkState, Plaintext, Traffic, Wire};

/// A component's identity and what it makes fresh ephemeral keys from.
#[derive(Debug)]
pub struct Speaker {
    identity: LocalIdentity,
    hedge: HedgeKey,
    boot_id: [u8; 16],
    counter: AtomicU64,
    hybrid: bool,
}

impl Speaker {
    /// Speaks as `identity`, with ML-KEM-768 beside X25519.
    pub fn new(identity: LocalIdentity) -> Result<Self, Error> {
        let hedge = identity.hedge_key();
        Ok(Self { identity, hedge, boot_id: boot_id()?, counter: AtomicU64::new(0), hybrid: true })
    }

    /// Offers X25519 alone.
    #[must_use]
    pub fn classical(mut self) -> Self {
        self.hybrid = false;
        self
    }

    /// Who speaks.
    #[must_use]
    pub fn identity(&self) -> &LocalIdentity {
        &self.identity
    }

    fn fresh(&self, hybrid: bool) -> Result<Fresh, ProtoError> {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        let fresh = Fresh::make(&self.hedge, &OsRandom, &self.boot_id, counter)?;
        if hybrid { fresh.with_kem() } else { Ok(fresh) }
    }
}

/// Names this boot of the machine; random where the system does not tell.
fn boot_id() -> Result<[u8; 16], Error> {
    let mut id = [0; 16];
    match std::fs::read_to_string("/proc/sys/kernel/random/boot_id") {
        Ok(text) => {
            let digits = aico_crypto::digest(text.trim().as_bytes());
            id.iter_mut().zip(digits).for_each(|(to, from)| *to = from);
        }
        Err(_) => OsRandom.fill(&mut id).map_err(ProtoError::from)?,
    }
    Ok(id)
}

/// What is the same for all channels of a door or of a client.
#[derive(Clone, Debug)]
pub struct Manner {
    /// Who we are.
    pub me: Arc<Speaker>,
    /// What we offer or ask for.
    pub terms: Terms,
    /// How channels live.
    pub settings: Settings,
}

impl Manner {
    /// Speaks as `me`, with the defaults of everything.
    #[must_use]
    pub fn of(me: Arc<Speaker>) -> Self {
        Self { me, terms: Terms::default(), settings: Settings::default() }
    }
}

/// What a channel asks for while it lives.
pub(crate) struct Around {
    me: Arc<Speaker>,
    trust: Arc<dyn Trust + Send + Sync>,
}

impl Trust for Around {
    fn standing(&self, identity: &Identity) -> Standing {
        self.trust.standing(identity)
    }
}

impl Surroundings for Around {
    fn me(&self) -> &LocalIdentity {
        &self.me.identity
    }

    fn fresh(&self, hybrid: bool) -> Result<Fresh, ProtoError> {
        self.me.fresh(hybrid)
    }

    fn clock_ms(&self) -> u64 {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(clock.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A client trusts nobody to come to it.
struct Nobody;

impl Trust for Nobody {
    fn standing(&self, _identity: &Identity) -> Standing {
        Standing::Refused
    }
}

/// An open channel with a known peer.
#[derive(Debug)]
pub struct SecureStream {
    /// Who is at the other end.
    pub peer: Peer,
    /// What was agreed on.
    pub agreed: Agreed,
    /// Sends records.
    pub sender: Sender,
    /// Receives records.
    pub receiver: Receiver,
}

impl SecureStream {
    /// Shakes hands as the client with the one backend that is `expected`.
    pub async fn connect<S: Wire>(stream: S, manner: &Manner, expected: Identity) -> Result<Self, Error> {
        let patience = manner.settings.handshake;
        let shaken = timeout(patience, Self::connect_now(stream, manner, expected)).await;
        shaken.map_err(|_| Error::Timeout("shaking hands"))?
    }

    async fn connect_now<S: Wire>(mut stream: S, manner: &Manner, expected: Identity) -> Result<Self, Error> {
        let me = &manner.me;
        let (initiator, hello) = Initiator::start(expected, me.fresh(me.hybrid)?, manner.terms);
        write_frame(&mut stream, &hello).await?;
        let mut frame = Vec::new();
        if !read_frame(&mut stream, MAX_HANDSHAKE_FRAME_BYTES, &mut frame).await? {
            return Err(Error::Silence);
        }
        let (established, finish) = initiator.on_reply(&me.identity, &frame)?;
        write_frame(&mut stream, &finish).await?;
        Self::start(stream, established, manner, Arc::new(Nobody))
    }

    /// Shakes hands as the server. Whoever does not know us gets no byte.
    pub async fn accept<S: Wire>(
        stream: S,
        manner: &Manner,
        trust: Arc<dyn Trust + Send + Sync>,
    ) -> Result<Self, Error> {
        Self::accept_by(stream, manner, trust, || ()).await
    }

    /// The same; `known` hears that the other side knows us.
    pub(crate) async fn accept_by<S: Wire>(
        stream: S,
        manner: &Manner,
        trust: Arc<dyn Trust + Send + Sync>,
        known: impl FnOnce(),
    ) -> Result<Self, Error> {
        let patience = manner.settings.handshake;
        let shaken = timeout(patience, Self::accept_now(stream, manner, trust, known)).await;
        shaken.map_err(|_| Error::Timeout("shaking hands"))?
    }

    async fn accept_now<S: Wire>(
        mut stream: S,
        manner: &Manner,
        trust: Arc<dyn Trust + Send + Sync>,
        known: impl FnOnce(),
    ) -> Result<Self, Error> {
        let me = &manner.me;
        let mut frame = Vec::new();
        if !read_frame(&mut stream, MAX_HANDSHAKE_FRAME_BYTES, &mut frame).await? {
            return Err(Error::Silence);
        }
        if !Responder::is_meant(me.identity.identity().key(), &frame) {
            return Err(Error::Stranger);
        }
        known();
        let (responder, reply) = match Responder::on_hello(&me.identity, &frame, me.fresh(false)?, manner.terms) {
            Ok(answer) => answer,
            Err(refusal) => return Err(refuse(&mut stream, refusal).await),
        };
        write_frame(&mut stream, &reply).await?;
        if !read_frame(&mut stream, MAX_HANDSHAKE_FRAME_BYTES, &mut frame).await? {
            return Err(Error::Silence);
        }
        let established = responder.on_finish(&frame, &*trust)?;
        Self::start(stream, established, manner, trust)
    }

    fn start<S: Wire>(
        stream: S,
        established: Established,
        manner: &Manner,
        trust: Arc<dyn Trust + Send + Sync>,
    ) -> Result<Self, Error> {
        let around = Around { me: manner.me.clone(), trust };
        let (mut out, began) = (Vec::new(), Instant::now());
        let channel = Channel::new(established, manner.settings, &around, Duration::ZERO, &mut out)?;
        let (peer, agreed) = (channel.peer().clone(), channel.agreed());
        let Ends { commands, incoming, state } = link::start(stream, channel, around, out, began);
        let sender = Sender { commands, state: state.clone(), held: Vec::new(), held_bytes: 0 };
        Ok(Self { peer, agreed, sender, receiver: Receiver { incoming, state, current: None } })
    }

    /// A handle that can end the channel from elsewhere, and sees how much it carries.
    #[must_use]
    pub fn handle(&self) -> LinkHandle {
        LinkHandle(self.sender.state.clone())
    }
}

async fn refuse<S: Wire>(stream: &mut S, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Silent => ProtoError::Authentication.into(),
        Refusal::Alert(alert) => {
            let sent = write_frame(stream, &alert.encode()).await;
            sent.err().unwrap_or(Error::Channel(ProtoError::Malformed("HELLO")))
        }
    }
}

/// One channel, seen from elsewhere.
#[derive(Clone, Debug)]
pub struct LinkHandle(Arc<LinkState>);

impl LinkHandle {
    /// Ends the channel now, whatever it is doing; the other side is told `reason` if it still reads.
    pub fn cut(&self, reason: CloseReason) {
        self.0.cut(reason);
    }

    /// How much it has carried.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.0.traffic()
    }
}

/// Plaintext that waits to be written with the record behind it.
const HELD_BYTES: usize = 16 * 1024;

/// The sending half.
#[derive(Debug)]
pub struct Sender {
    commands: mpsc::Sender<Command>,
    state: Arc<LinkState>,
    held: Vec<Vec<u8>>,
    held_bytes: usize,
}

impl Sender {
    /// Sends one application record whose plaintext is `parts`. It is queued when this returns; safe to cancel.
    pub async fn send(&mut self, parts: &[&[u8]]) -> Result<(), Error> {
        let room = self.commands.reserve().await.map_err(|_| self.state.error())?;
        self.held.push(parts.concat());
        self.held_bytes = 0;
        room.send(Command::Send(std::mem::take(&mut self.held)));
        Ok(())
    }

    /// The same for a record that others follow at once: short ones are held back and written together with the next
    /// one, or by [`Sender::push`], [`Sender::flush`] and [`Sender::close`].
    pub async fn send_more(&mut self, parts: &[&[u8]]) -> Result<(), Error> {
        let bytes: usize = parts.iter().map(|part| part.len()).sum();
        if self.held_bytes.saturating_add(bytes) > HELD_BYTES {
            return self.send(parts).await;
        }
        self.held_bytes += bytes;
        self.held.push(parts.concat());
        Ok(())
    }

    /// Whether records are held back.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Sends what is held back, because what follows it is not there yet. Safe to cancel.
    pub async fn push(&mut self) -> Result<(), Error> {
        if self.holds() {
            let room = self.commands.reserve().await.map_err(|_| self.state.error())?;
            self.held_bytes = 0;
            room.send(Command::Send(std::mem::take(&mut self.held)));
        }
        Ok(())
    }

    /// Waits until everything that was sent is with the operating system.
    pub async fn flush(&mut self) -> Result<(), Error> {
        let (done, flushed) = oneshot::channel();
        self.command(Command::Flush(done)).await?;
        flushed.await.map_err(|_| self.state.error())
    }

    /// Says goodbye; nothing can be sent after it.
    pub async fn close(&mut self, reason: CloseReason) -> Result<(), Error> {
        self.command(Command::Close(reason)).await
    }

    /// The longest plaintext of a record that the other side takes, in bytes; a client learns it from READY and waits.
    pub async fn max_plaintext(&self) -> usize {
        self.state.max_plaintext().await
    }

    async fn command(&mut self, command: Command) -> Result<(), Error> {
        self.push().await?;
        self.commands.send(command).await.map_err(|_| self.state.error())
    }
}

/// The receiving half.
pub struct Receiver {
    incoming: mpsc::UnboundedReceiver<Plaintext>,
    state: Arc<LinkState>,
    current: Option<Plaintext>,
}

impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Receiver(..)")
    }
}

impl Receiver {
    /// The plaintext of the next application record. Fails with [`Error::Closed`] after a CLOSE, with `Truncated` where
    /// the stream was cut. Safe to cancel.
    pub async fn receive(&mut self) -> Result<&[u8], Error> {
        match self.incoming.recv().await {
            Some(plaintext) => Ok(self.current.insert(plaintext.taken()).bytes()),
            None => Err(self.state.error()),
        }
    }
}

async fn write_frame<S: Wire>(stream: &mut S, frame: &[u8]) -> Result<(), Error> {
    let bytes = [&(frame.len() as u32).to_be_bytes(), frame].concat();
    stream.write_all(&bytes).await.map_err(|error| Error::io("send", error))
}

/// Reads one handshake frame of at most `limit` bytes; false at the end of the stream. Nothing is allocated before the
/// length has been checked.
async fn read_frame<S: Wire>(stream: &mut S, limit: usize, frame: &mut Vec<u8>) -> Result<bool, Error> {
    let mut length = [0; 4];
    let mut have = 0;
    while have < length.len() {
        let rest = length.get_mut(have..).unwrap_or_default();
        match stream.read(rest).await.map_err(|error| Error::io("receive", error))? {
            0 if have == 0 => return Ok(false),
            0 => return Err(ProtoError::Truncated.into()),
            more => have += more,
        }
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(ProtoError::Malformed("a frame that is too long").into());
    }
    frame.clear();
    frame.resize(length, 0);
    match stream.read_exact(frame).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Err(ProtoError::Truncated.into()),
        Err(error) => Err(Error::io("receive", error)),
    }
}
