//! A channel over a byte stream: a length before each frame, the handshake, then records both ways.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aico_crypto::{HedgeKey, Identity, OsRandom, Random, TAG_BYTES};
use aico_proto::limits::{MAX_FRAME_BYTES, MAX_HANDSHAKE_FRAME_BYTES, MAX_PLAINTEXT_BYTES};
use aico_proto::{
    CloseReason, Control, Error as ProtoError, Established, Fresh, Incoming, Initiator, LocalIdentity, Opener, Peer,
    Ready, Refusal, Responder, Sealer, Trust,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::Error;

/// For the whole handshake.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// Without any record, after which a channel is forgotten.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// For one frame to pass once it has begun.
const FRAME_TIMEOUT: Duration = Duration::from_secs(60);
/// After which a channel ends, so that its keys do not live on.
const ROTATION: Duration = Duration::from_secs(24 * 3600);

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

    fn fresh(&self) -> Result<Fresh, ProtoError> {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        Fresh::make(&self.hedge, &OsRandom, &self.boot_id, counter)
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

/// An open channel with a known peer.
#[derive(Debug)]
pub struct SecureStream {
    /// Who is at the other end.
    pub peer: Peer,
    /// Sends records.
    pub sender: Sender,
    /// Receives records.
    pub receiver: Receiver,
}

impl SecureStream {
    /// Shakes hands as the client with the one backend that is `expected`.
    pub async fn connect(stream: UnixStream, me: &Speaker, expected: Identity) -> Result<Self, Error> {
        timeout(HANDSHAKE_TIMEOUT, Self::connect_now(stream, me, expected))
            .await
            .map_err(|_| Error::Timeout("shaking hands"))?
    }

    async fn connect_now(mut stream: UnixStream, me: &Speaker, expected: Identity) -> Result<Self, Error> {
        let fresh = me.fresh()?;
        let fresh = if me.hybrid { fresh.with_kem()? } else { fresh };
        let (initiator, hello) = Initiator::start(expected, fresh);
        write_frame(&mut stream, &hello).await?;
        let mut frame = Vec::new();
        if !read_frame(&mut stream, MAX_HANDSHAKE_FRAME_BYTES, &mut frame).await? {
            return Err(Error::Silence);
        }
        let (established, finish) = initiator.on_reply(&me.identity, &frame)?;
        write_frame(&mut stream, &finish).await?;
        Ok(Self::new(stream, established))
    }

    /// Shakes hands as the server. Whoever does not know `me` gets no byte.
    pub async fn accept(stream: UnixStream, me: &Speaker, trust: &(dyn Trust + Sync)) -> Result<Self, Error> {
        timeout(HANDSHAKE_TIMEOUT, Self::accept_now(stream, me, trust))
            .await
            .map_err(|_| Error::Timeout("shaking hands"))?
    }

    async fn accept_now(mut stream: UnixStream, me: &Speaker, trust: &(dyn Trust + Sync)) -> Result<Self, Error> {
        let mut frame = Vec::new();
        if !read_frame(&mut stream, MAX_HANDSHAKE_FRAME_BYTES, &mut frame).await? {
            return Err(Error::Silence);
        }
        if !Responder::is_meant(me.identity.identity().key(), &frame) {
            return Err(ProtoError::Authentication.into());
        }
        let (responder, reply) = match Responder::on_hello(&me.identity, &frame, me.fresh()?) {
            Ok(answer) => answer,
            Err(refusal) => return Err(refuse(&mut stream, refusal).await),
        };
        write_frame(&mut stream, &reply).await?;
        if !read_frame(&mut stream, MAX_HANDSHAKE_FRAME_BYTES, &mut frame).await? {
            return Err(Error::Silence);
        }
        let mut this = Self::new(stream, responder.on_finish(&frame, trust)?);
        this.sender.control(&Control::Ready(ready())).await?;
        Ok(this)
    }

    fn new(stream: UnixStream, established: Established) -> Self {
        let (read, write) = stream.into_split();
        let Established { peer, sealer, opener, .. } = established;
        let now = Instant::now();
        let sender = Sender { write, sealer, out: Vec::new(), started: now, generation: now };
        Self { peer, sender, receiver: Receiver { read, opener, frame: Vec::new() } }
    }
}

async fn refuse(stream: &mut UnixStream, refusal: Refusal) -> Error {
    match refusal {
        Refusal::Silent => ProtoError::Authentication.into(),
        Refusal::Alert(alert) => {
            let sent = write_frame(stream, &alert.encode()).await;
            sent.err().unwrap_or(Error::Channel(ProtoError::Malformed("HELLO")))
        }
    }
}

fn ready() -> Ready {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Ready {
        clock_ms: u64::try_from(clock.as_millis()).unwrap_or(u64::MAX),
        max_plaintext: MAX_PLAINTEXT_BYTES as u32,
        idle_s: IDLE_TIMEOUT.as_secs() as u32,
        keepalive_s: 0,
        rotation_s: ROTATION.as_secs() as u32,
    }
}

/// The sending half.
#[derive(Debug)]
pub struct Sender {
    write: OwnedWriteHalf,
    sealer: Sealer,
    out: Vec<u8>,
    started: Instant,
    generation: Instant,
}

impl Sender {
    /// Sends one application record whose plaintext is `parts`. Not safe to cancel: a dropped call cuts a frame.
    pub async fn send(&mut self, parts: &[&[u8]]) -> Result<(), Error> {
        if self.started.elapsed() >= ROTATION {
            return Err(ProtoError::UsedUp.into());
        }
        if self.sealer.key_update_due(self.generation.elapsed()) {
            self.control(&Control::KeyUpdate).await?;
            self.generation = Instant::now();
        }
        self.begin();
        self.sealer.seal(parts, &mut self.out)?;
        self.flush().await
    }

    /// Sends one control record. Not safe to cancel.
    pub async fn control(&mut self, control: &Control) -> Result<(), Error> {
        self.begin();
        self.sealer.seal_control(control, &mut self.out)?;
        self.flush().await
    }

    /// Says goodbye; nothing can be sent after it.
    pub async fn close(&mut self, reason: CloseReason) -> Result<(), Error> {
        self.control(&Control::Close(reason)).await?;
        self.write.shutdown().await.map_err(|error| Error::io("close the connection", error))
    }

    fn begin(&mut self) {
        self.out.clear();
        self.out.extend_from_slice(&[0; 4]);
    }

    async fn flush(&mut self) -> Result<(), Error> {
        let bytes = self.out.len().saturating_sub(4) as u32;
        if let Some(length) = self.out.first_chunk_mut::<4>() {
            *length = bytes.to_be_bytes();
        }
        let sent = timeout(FRAME_TIMEOUT, self.write.write_all(&self.out)).await;
        sent.map_err(|_| Error::Timeout("sending"))?.map_err(|error| Error::io("send", error))
    }
}

/// The receiving half.
#[derive(Debug)]
pub struct Receiver {
    read: OwnedReadHalf,
    opener: Opener,
    frame: Vec<u8>,
}

impl Receiver {
    /// The plaintext of the next application record; control records are dealt with on the way. Fails with
    /// [`Error::Closed`] after a CLOSE, with `Truncated` where the stream was cut.
    pub async fn receive(&mut self) -> Result<&[u8], Error> {
        loop {
            let more = timeout(IDLE_TIMEOUT, read_frame(&mut self.read, MAX_FRAME_BYTES, &mut self.frame));
            if !more.await.map_err(|_| Error::Closed(CloseReason::Idle))?? {
                return Err(match self.opener.end_of_stream() {
                    Ok(reason) => Error::Closed(reason),
                    Err(cut) => cut.into(),
                });
            }
            let total = self.frame.len();
            let plaintext = match self.opener.open(&mut self.frame)? {
                Incoming::Application(plaintext) => plaintext.len(),
                Incoming::Control(Control::Close(reason)) => return Err(Error::Closed(reason)),
                Incoming::Control(_) => continue,
            };
            // The plaintext stands in the place of the ciphertext, the tag behind it.
            let end = total.saturating_sub(TAG_BYTES);
            let range = end.saturating_sub(plaintext)..end;
            return self.frame.get(range).ok_or(Error::UnexpectedMessage);
        }
    }
}

async fn write_frame(stream: &mut UnixStream, frame: &[u8]) -> Result<(), Error> {
    let bytes = [&(frame.len() as u32).to_be_bytes(), frame].concat();
    stream.write_all(&bytes).await.map_err(|error| Error::io("send", error))
}

/// Reads one frame of at most `limit` bytes; false at the end of the stream between frames. Nothing is allocated
/// before the length has been checked, and no more than what has arrived and one step.
async fn read_frame<R>(stream: &mut R, limit: usize, frame: &mut Vec<u8>) -> Result<bool, Error>
where
    R: tokio::io::AsyncRead + Unpin,
{
    const STEP_BYTES: usize = 64 * 1024;
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
    let body = async {
        while frame.len() < length {
            let start = frame.len();
            frame.resize(length.min(start + STEP_BYTES.max(start)), 0);
            let rest = frame.get_mut(start..).unwrap_or_default();
            stream.read_exact(rest).await?;
        }
        Ok(())
    };
    match timeout(FRAME_TIMEOUT, body).await.map_err(|_| Error::Timeout("receiving"))? {
        Ok(()) => Ok(true),
        Err(error) if error_is_eof(&error) => Err(ProtoError::Truncated.into()),
        Err(error) => Err(Error::io("receive", error)),
    }
}

fn error_is_eof(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::UnexpectedEof
}
