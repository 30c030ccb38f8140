//! What carries one channel: a task that owns the socket and the channel's state, between two bounded queues.
//!
//! One task does both directions, so keys, counters and clocks need no lock, and what the protocol says on its own
//! (signs of life, new keys, goodbyes) goes on while a value streams either way.

use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use aico_proto::limits::{DATA_RECORD_BYTES, MAX_FRAME_BYTES, MAX_PLAINTEXT_BYTES};
use aico_proto::{Channel, CloseReason, Error as ProtoError, Received};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader, ReadHalf, WriteHalf};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::sleep_until;
use zeroize::Zeroize;

use crate::Error;
use crate::secure_stream::Around;

/// For one frame to pass once it has begun.
const FRAME_TIMEOUT: Duration = Duration::from_secs(60);
/// For the other side to take our CLOSE and say its own.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes that wait for the reader of a channel: two records of a value. The last one may go beyond.
const WAITING_BYTES: usize = 2 * DATA_RECORD_BYTES;
const READ_BUFFER_BYTES: usize = 16 * 1024;
/// Plaintexts up to this length are wiped: requests may hold a password. Wiping whole values would cost as much as
/// sealing them.
const WIPED_BYTES: usize = 4 * 1024;
/// No more than this is allocated ahead of what has arrived.
const STEP_BYTES: usize = 64 * 1024;

/// A byte stream that can carry a channel.
pub trait Wire: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Wire for T {}

pub(crate) enum Command {
    /// Records, written at once.
    Send(Vec<Vec<u8>>),
    /// Answered once everything before it has been written.
    Flush(oneshot::Sender<()>),
    Close(CloseReason),
}

/// A record's plaintext, where it stands in its frame.
pub(crate) struct Plaintext {
    frame: Vec<u8>,
    range: Range<usize>,
    /// Its part of what may wait.
    waits: Option<OwnedSemaphorePermit>,
}

impl Drop for Plaintext {
    fn drop(&mut self) {
        wipe_short(&mut self.frame);
    }
}

fn wipe_short(bytes: &mut Vec<u8>) {
    if bytes.len() <= WIPED_BYTES {
        bytes.zeroize();
    }
}

impl Plaintext {
    /// It waits no longer, and makes room for others.
    pub(crate) fn taken(mut self) -> Self {
        self.waits = None;
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.frame.get(self.range.clone()).unwrap_or_default()
    }
}

/// What others see of a link.
#[derive(Debug)]
pub(crate) struct LinkState {
    began: Instant,
    ended: OnceLock<Ended>,
    cut: Notify,
    cut_reason: OnceLock<CloseReason>,
    /// The longest plaintext that the other side takes; 0 until READY.
    max_plaintext: watch::Sender<usize>,
    received: AtomicU64,
    sent: AtomicU64,
    /// Milliseconds since `began`.
    used_ms: AtomicU64,
    epoch: AtomicU16,
}

/// How a link ended.
#[derive(Clone, Debug)]
enum Ended {
    Closed(CloseReason),
    Channel(ProtoError),
    Silence,
    Timeout(&'static str),
    Io(io::ErrorKind, String),
}

/// Figures of one connection, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Since the handshake.
    pub age: Duration,
    /// Since the last application record.
    pub idle: Duration,
    /// Bytes that came, with everything around them.
    pub received: u64,
    /// Bytes that were sent.
    pub sent: u64,
    /// How often the keys were renewed by REKEY.
    pub epoch: u16,
}

impl LinkState {
    pub(crate) fn error(&self) -> Error {
        match self.ended.get() {
            Some(Ended::Closed(reason)) => Error::Closed(*reason),
            Some(Ended::Channel(error)) => Error::Channel(error.clone()),
            Some(Ended::Silence) => Error::Silence,
            Some(Ended::Timeout(what)) => Error::Timeout(what),
            Some(Ended::Io(kind, text)) => Error::io("keep the connection", io::Error::new(*kind, text.clone())),
            None => Error::Channel(ProtoError::Truncated),
        }
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let age = self.began.elapsed();
        let used = Duration::from_millis(self.used_ms.load(Ordering::Relaxed));
        Traffic {
            age,
            idle: age.saturating_sub(used),
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            epoch: self.epoch.load(Ordering::Relaxed),
        }
    }

    /// Ends the link from outside.
    pub(crate) fn cut(&self, reason: CloseReason) {
        let _cut_before = self.cut_reason.set(reason);
        self.cut.notify_one();
    }

    /// The longest plaintext that can be sent, once READY has told it or the link has ended.
    pub(crate) async fn max_plaintext(&self) -> usize {
        let mut told = self.max_plaintext.subscribe();
        told.wait_for(|bytes| *bytes > 0).await.map(|bytes| *bytes).unwrap_or_default()
    }

    fn end(&self, how: Ended) {
        let _first_reason_counts = self.ended.set(how);
        // Whoever waits for READY waits in vain.
        self.max_plaintext.send_if_modified(|bytes| {
            let waited = *bytes == 0;
            *bytes = if waited { MAX_PLAINTEXT_BYTES } else { *bytes };
            waited
        });
    }
}

/// The two queues' other ends.
pub(crate) struct Ends {
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) incoming: mpsc::UnboundedReceiver<Plaintext>,
    pub(crate) state: Arc<LinkState>,
}

/// Starts a link. `out` is what the channel has to say already, `began` its clock's zero.
pub(crate) fn start<S: Wire>(stream: S, channel: Channel, around: Around, out: Vec<u8>, began: Instant) -> Ends {
    let (read, write) = tokio::io::split(stream);
    let (commands, to_do) = mpsc::channel(1);
    let (delivered, incoming) = mpsc::unbounded_channel();
    let ready = if out.is_empty() { 0 } else { channel.max_plaintext() };
    let state = Arc::new(LinkState {
        began,
        ended: OnceLock::new(),
        cut: Notify::new(),
        cut_reason: OnceLock::new(),
        max_plaintext: watch::Sender::new(ready),
        received: AtomicU64::new(0),
        sent: AtomicU64::new(0),
        used_ms: AtomicU64::new(0),
        epoch: AtomicU16::new(0),
    });
    let link = Link {
        read: BufReader::with_capacity(READ_BUFFER_BYTES, read),
        write,
        channel,
        around,
        to_do,
        delivered,
        room: Arc::new(Semaphore::new(WAITING_BYTES)),
        state: state.clone(),
        frame: Vec::new(),
        frame_began: None,
        out,
        written: 0,
        write_began: None,
        closing: None,
        deaf: false,
        at_end: false,
        unused: false,
        shut: false,
    };
    tokio::spawn(link.run());
    Ends { commands, incoming, state }
}

struct Link<S> {
    read: BufReader<ReadHalf<S>>,
    write: WriteHalf<S>,
    channel: Channel,
    around: Around,
    to_do: mpsc::Receiver<Command>,
    delivered: mpsc::UnboundedSender<Plaintext>,
    /// Bytes that may still wait for the reader.
    room: Arc<Semaphore>,
    state: Arc<LinkState>,
    /// The length and what has come of the frame behind it.
    frame: Vec<u8>,
    frame_began: Option<Instant>,
    out: Vec<u8>,
    written: usize,
    write_began: Option<Instant>,
    /// When CLOSE was sealed: what is left to write is written, and then the other side's CLOSE is waited for.
    closing: Option<Instant>,
    /// Whether what still comes counts for nothing.
    deaf: bool,
    /// Whether the other side's stream has ended; what is left to write is still written.
    at_end: bool,
    /// Whether the sender was dropped.
    unused: bool,
    shut: bool,
}

/// What woke the link.
enum Woke {
    Read(io::Result<usize>),
    Written(io::Result<usize>),
    Asked(Option<Command>),
    Room,
    Cut,
    Time,
}

impl<S: Wire> Link<S> {
    async fn run(mut self) {
        while self.step().await {}
    }

    /// Waits for one thing and does it; false at the end.
    async fn step(&mut self) -> bool {
        let pending = self.written < self.out.len();
        if self.closing.is_some() && !pending && !self.shut {
            self.shut = true;
            let _gone = self.write.shutdown().await;
            if self.channel.end_of_stream().is_ok() {
                return false;
            }
        }
        if self.at_end && !pending {
            return false;
        }
        let has_room = !self.at_end && self.has_room();
        let wake = self.next_wake();
        let woke = {
            let Self { read, write, frame, to_do, delivered, out, written, state, deaf, at_end, unused, room, .. } =
                self;
            let wanted = if *deaf { STEP_BYTES } else { missing(frame).clamp(1, STEP_BYTES.max(frame.len())) };
            frame.reserve(wanted);
            let mut limited = read.take(wanted as u64);
            tokio::select! {
                read = limited.read_buf(frame), if has_room => Woke::Read(read),
                sent = write.write(out.get(*written..).unwrap_or_default()), if pending => Woke::Written(sent),
                asked = to_do.recv(), if !pending && !*unused => Woke::Asked(asked),
                _permit = room.acquire(), if !has_room && !*at_end => Woke::Room,
                () = delivered.closed(), if !has_room && !*at_end => Woke::Room,
                () = state.cut.notified() => Woke::Cut,
                () = sleep_until(wake.into()) => Woke::Time,
            }
        };
        match woke {
            Woke::Read(Ok(0)) => self.stream_ended(),
            Woke::Read(Ok(bytes)) => {
                self.state.received.fetch_add(bytes as u64, Ordering::Relaxed);
                self.take_in()
            }
            Woke::Written(Ok(bytes)) => {
                self.wrote(bytes);
                true
            }
            Woke::Read(Err(error)) | Woke::Written(Err(error)) => {
                // A reset in the place of READY is a refusal: what we had sent already was not read.
                let refused = *self.state.max_plaintext.borrow() == 0;
                let how = if refused { Ended::Silence } else { Ended::Io(error.kind(), error.to_string()) };
                self.failed(how)
            }
            Woke::Asked(Some(command)) => self.act(command),
            // The sender was dropped without a goodbye: that is a cut.
            Woke::Asked(None) if self.closing.is_none() => self.failed(Ended::Channel(ProtoError::Truncated)),
            Woke::Asked(None) => {
                self.unused = true;
                true
            }
            Woke::Room => true,
            Woke::Cut => {
                let reason = self.state.cut_reason.get().copied().unwrap_or(CloseReason::Normal);
                self.say_goodbye(reason);
                self.go_deaf(Ended::Closed(reason));
                true
            }
            Woke::Time => self.on_time(),
        }
    }

    fn now(&self) -> Duration {
        self.state.began.elapsed()
    }

    fn next_wake(&self) -> Instant {
        let tick = if self.closing.is_some() { Duration::MAX } else { self.channel.next_tick() };
        let tick = self.state.began.checked_add(tick);
        let after = |began: Option<Instant>, span| began.and_then(|began| began.checked_add(span));
        let deadlines = [
            tick,
            after(self.frame_began, FRAME_TIMEOUT),
            after(self.write_began, FRAME_TIMEOUT),
            after(self.closing, LINGER),
        ];
        let far = Instant::now() + Duration::from_secs(24 * 3600);
        deadlines.into_iter().flatten().min().unwrap_or(far).min(far)
    }

    fn on_time(&mut self) -> bool {
        let late = |began: Option<Instant>, span| began.is_some_and(|began| began.elapsed() >= span);
        if late(self.closing, LINGER) {
            self.state.end(Ended::Channel(ProtoError::Truncated));
            return false;
        }
        if late(self.write_began, FRAME_TIMEOUT) {
            return self.failed(Ended::Timeout("sending"));
        }
        if late(self.frame_began, FRAME_TIMEOUT) {
            return self.failed(Ended::Timeout("receiving"));
        }
        if self.closing.is_none() && self.channel.next_tick() <= self.now() {
            let now = self.now();
            if !self.has_room() {
                self.channel.paused(now);
            }
            if let Err(error) = self.channel.tick(now, &self.around, &mut self.out) {
                self.broken(error);
            }
            self.note_out();
        }
        true
    }

    /// Acts on a frame once it is whole.
    fn take_in(&mut self) -> bool {
        if self.deaf {
            self.frame.clear();
        }
        if self.frame.len() < 4 {
            return true;
        }
        let length = frame_length(&self.frame);
        if length > MAX_FRAME_BYTES {
            self.broken(ProtoError::Malformed("a frame that is too long"));
            return true;
        }
        if self.frame.len() < 4 + length {
            self.frame_began.get_or_insert_with(Instant::now);
            return true;
        }
        self.frame_began = None;
        let mut frame = std::mem::take(&mut self.frame);
        let now = self.now();
        let body = frame.get_mut(4..).unwrap_or_default();
        match self.channel.receive(body, now, &self.around, &mut self.out) {
            Ok(Received::Application(range)) => {
                self.state.used_ms.store(now.as_millis() as u64, Ordering::Relaxed);
                let bytes = frame.len().clamp(1, self.room.available_permits().max(1));
                let waits = self.room.clone().try_acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).ok();
                let plaintext = Plaintext { frame, range: range.start + 4..range.end + 4, waits };
                // Perhaps nobody reads any more.
                let _gone = self.delivered.send(plaintext);
            }
            Ok(Received::Ready(_)) => {
                let _nobody_waits = self.state.max_plaintext.send_replace(self.channel.max_plaintext());
            }
            Ok(Received::Closed(reason)) => {
                self.state.end(Ended::Closed(reason));
                self.deliver_end();
                self.closing.get_or_insert_with(Instant::now);
            }
            Ok(Received::Nothing) => self.state.epoch.store(self.channel.epoch(), Ordering::Relaxed),
            Err(error) => self.broken(error),
        }
        self.note_out();
        !(self.shut && self.channel.end_of_stream().is_ok())
    }

    fn act(&mut self, command: Command) -> bool {
        let now = self.now();
        match command {
            // After a goodbye nothing is sent any more.
            Command::Send(_) if self.closing.is_some() => {}
            Command::Send(mut records) => {
                self.state.used_ms.store(now.as_millis() as u64, Ordering::Relaxed);
                let mut all = records.iter();
                let sent = all.try_for_each(|plaintext| self.channel.send(&[plaintext], now, &mut self.out));
                records.iter_mut().for_each(wipe_short);
                if let Err(error) = sent {
                    self.broken(error);
                }
            }
            // Commands are taken only while nothing waits to be written.
            Command::Flush(done) => drop(done.send(())),
            Command::Close(reason) => self.say_goodbye(reason),
        }
        self.note_out();
        true
    }

    /// The channel is over by its own rules: the other side is told.
    fn broken(&mut self, error: ProtoError) {
        self.say_goodbye(CloseReason::for_error(&error));
        self.go_deaf(match error {
            ProtoError::Idle => Ended::Closed(CloseReason::Idle),
            error => Ended::Channel(error),
        });
    }

    fn go_deaf(&mut self, how: Ended) {
        self.state.end(how);
        self.deliver_end();
        self.frame.clear();
        (self.deaf, self.frame_began) = (true, None);
    }

    fn say_goodbye(&mut self, reason: CloseReason) {
        let now = self.now();
        self.channel.close(reason, now, &mut self.out);
        self.closing.get_or_insert_with(Instant::now);
        self.note_out();
    }

    /// The socket is over.
    fn failed(&mut self, how: Ended) -> bool {
        self.state.end(how);
        false
    }

    fn stream_ended(&mut self) -> bool {
        let how = match self.channel.end_of_stream() {
            _ if !self.frame.is_empty() => Ended::Channel(ProtoError::Truncated),
            Ok(reason) => Ended::Closed(reason),
            Err(_) if *self.state.max_plaintext.borrow() == 0 => Ended::Silence,
            Err(cut) => Ended::Channel(cut),
        };
        self.state.end(how);
        self.deliver_end();
        self.closing.get_or_insert_with(Instant::now);
        self.at_end = true;
        true
    }

    /// Nothing more comes for the reader: what waits there is still read, then it sees the end.
    fn deliver_end(&mut self) {
        let (closed, _) = mpsc::unbounded_channel();
        self.delivered = closed;
    }

    /// Whether what comes may be read; where nobody listens any more, it may.
    fn has_room(&self) -> bool {
        self.room.available_permits() > 0 || self.delivered.is_closed()
    }

    fn note_out(&mut self) {
        if self.written < self.out.len() {
            self.write_began.get_or_insert_with(Instant::now);
        }
    }

    fn wrote(&mut self, bytes: usize) {
        self.state.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.written += bytes;
        if self.written == self.out.len() {
            self.out.clear();
            (self.written, self.write_began) = (0, None);
        }
    }
}

fn frame_length(frame: &[u8]) -> usize {
    frame.first_chunk::<4>().map_or(0, |length| u32::from_be_bytes(*length) as usize)
}

/// Bytes that the frame still lacks: first of its length, then of its body.
fn missing(frame: &[u8]) -> usize {
    match frame.len() {
        have @ 0..4 => 4 - have,
        have => (4 + frame_length(frame)).saturating_sub(have),
    }
}
