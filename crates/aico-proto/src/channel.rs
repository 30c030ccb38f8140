//! A channel with its two halves, its clocks and its new keys (`docs/spec/channel.md`, How a channel lives).
//!
//! Pure: the caller brings frames, the time, and what has to be made fresh; it takes away bytes to send. `now` is any
//! clock that does not go back, the same one for the life of a channel.

use std::ops::Range;
use std::time::Duration;

use crate::limits::{MAX_CLOCK_SKEW, MAX_PLAINTEXT_BYTES, REKEY_PATIENCE, SILENT_INTERVALS};
use crate::record::plaintext_start;
use crate::{
    CloseReason, Control, Error, Established, Fresh, Incoming, LocalIdentity, Opener, Peer, Ready, Rekeyer, Sealer,
    Trust,
};

/// What the owner sets for channels (`docs/manual/configuration.md`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Without an application record, after which the channel is forgotten.
    pub idle: Duration,
    /// Between signs of life; zero for none.
    pub keepalive: Duration,
    /// Age of an epoch's keys at which REKEY is due.
    pub rotation: Duration,
    /// For a handshake, the first one and those inside the channel.
    pub handshake: Duration,
    /// Longest padded plaintext that we take, in bytes.
    pub max_plaintext: usize,
    /// Whether clocks that are 30 s apart end the channel.
    pub refuse_clock_skew: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(3600),
            keepalive: Duration::from_secs(60),
            rotation: Duration::from_secs(24 * 3600),
            handshake: Duration::from_secs(30),
            max_plaintext: MAX_PLAINTEXT_BYTES,
            refuse_clock_skew: false,
        }
    }
}

/// What a channel needs from outside.
pub trait Surroundings: Trust {
    /// Our own identity.
    fn me(&self) -> &LocalIdentity;
    /// A nonce and an ephemeral key, with ML-KEM-768 where `hybrid`.
    fn fresh(&self, hybrid: bool) -> Result<Fresh, Error>;
    /// Milliseconds since 1970.
    fn clock_ms(&self) -> u64;
}

/// What a frame brought.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// An application record; its plaintext stands in this part of the frame.
    Application(Range<usize>),
    /// The responder's READY of the first epoch.
    Ready(Ready),
    /// The other side's last word; ours has been sealed if it had not been yet.
    Closed(CloseReason),
    /// Something between the two channels alone.
    Nothing,
}

/// An open channel.
#[derive(Debug)]
pub struct Channel {
    peer: Peer,
    agreed: crate::Agreed,
    sealer: Sealer,
    opener: Opener,
    rekeyer: Rekeyer,
    settings: Settings,
    /// Longest padded plaintext that the other side takes.
    their_max: usize,
    /// Whether READY has been sent or has come.
    is_ready: bool,
    /// When an application record passed last, in either direction.
    used: Duration,
    heard: Duration,
    said: Duration,
    generation_began: Duration,
    epoch_began: Duration,
    /// Since when new keys are due.
    rekey_due: Option<Duration>,
    /// When the responder asked for them.
    asked: Option<Duration>,
}

impl Channel {
    /// A channel from a finished handshake. The responder's READY is appended to `out`.
    pub fn new(
        established: Established,
        settings: Settings,
        around: &dyn Surroundings,
        now: Duration,
        out: &mut Vec<u8>,
    ) -> Result<Self, Error> {
        let Established { peer, sealer, opener, rekeyer, agreed } = established;
        let mut channel = Self {
            peer,
            agreed,
            sealer,
            opener,
            rekeyer,
            settings,
            their_max: MAX_PLAINTEXT_BYTES,
            is_ready: false,
            used: now,
            heard: now,
            said: now,
            generation_began: now,
            epoch_began: now,
            rekey_due: None,
            asked: None,
        };
        if !channel.rekeyer.starts() {
            channel.say_ready(around, now, out)?;
        }
        Ok(channel)
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// What was agreed on.
    #[must_use]
    pub fn agreed(&self) -> crate::Agreed {
        self.agreed
    }

    /// How often the keys were renewed by REKEY.
    #[must_use]
    pub fn epoch(&self) -> u16 {
        self.rekeyer.epoch()
    }

    /// The longest plaintext that can be sent in one record.
    #[must_use]
    pub fn max_plaintext(&self) -> usize {
        self.agreed.padding.longest(self.their_max)
    }

    /// Appends an application record to `out`, each frame with its length in front.
    pub fn send(&mut self, parts: &[&[u8]], now: Duration, out: &mut Vec<u8>) -> Result<(), Error> {
        let plaintext = parts.iter().map(|part| part.len()).sum();
        if self.agreed.padding.padded(plaintext) > self.their_max {
            return Err(Error::Misuse("a record that is longer than the other side takes"));
        }
        if self.sealer.key_update_due(now.saturating_sub(self.generation_began)) {
            self.say(&Control::KeyUpdate, now, out)?;
            self.generation_began = now;
        }
        framed(out, |out| self.sealer.seal(parts, out))?;
        (self.used, self.said) = (now, now);
        Ok(())
    }

    /// Opens one frame in place; answers that the protocol asks for are appended to `out`. After an error the channel
    /// is over: [`Channel::close`] with [`CloseReason::for_error`] says so.
    pub fn receive(
        &mut self,
        frame: &mut [u8],
        now: Duration,
        around: &dyn Surroundings,
        out: &mut Vec<u8>,
    ) -> Result<Received, Error> {
        let start = plaintext_start(frame).unwrap_or_default();
        let control = match self.opener.open(frame, now)? {
            Incoming::Application(plaintext)
                if self.agreed.padding.padded(plaintext.len()) > self.settings.max_plaintext =>
            {
                return Err(Error::Malformed("a record that is longer than we take"));
            }
            Incoming::Application(plaintext) => {
                (self.used, self.heard) = (now, now);
                return Ok(Received::Application(start..start + plaintext.len()));
            }
            Incoming::Dropped => return Ok(Received::Nothing),
            Incoming::Control(control) => control,
        };
        self.heard = now;
        match control {
            Control::Ready(ready) => return self.on_ready(ready, now, around),
            Control::Close(reason) => {
                self.close(reason, now, out);
                return Ok(Received::Closed(reason));
            }
            // Who has said CLOSE says no more. FINISH alone still counts: the answer to CLOSE comes in the epoch behind it.
            Control::RekeyRequest | Control::RekeyHello(_) | Control::RekeyReply(_) if self.sealer.is_closed() => {}
            Control::RekeyRequest if !self.rekeyer.starts() => return Err(Error::Unexpected("a REKEY request")),
            Control::RekeyRequest if self.rekeyer.is_under_way() => {}
            Control::RekeyRequest => self.start_rekey(now, around, out)?,
            Control::RekeyHello(_) | Control::RekeyReply(_) | Control::RekeyFinish(_) => {
                self.rekey(control, now, around, out).map_err(|_| Error::RekeyFailed)?;
            }
            Control::Error { .. } | Control::KeyUpdate | Control::Keepalive | Control::RekeyEnd => {}
        }
        Ok(Received::Nothing)
    }

    /// The caller does not read now, so silence says nothing of the other side.
    pub fn paused(&mut self, now: Duration) {
        self.heard = now;
    }

    /// Does what time asks for: a sign of life, new keys. Fails when the channel has to end. After our CLOSE nothing is
    /// asked for any more; how long to wait for the answer is the caller's to say.
    pub fn tick(&mut self, now: Duration, around: &dyn Surroundings, out: &mut Vec<u8>) -> Result<(), Error> {
        let since = |then: Duration| now.saturating_sub(then);
        let Settings { idle, keepalive, handshake, rotation, .. } = self.settings;
        if self.sealer.is_closed() {
            return Ok(());
        }
        if since(self.used) >= idle {
            return Err(Error::Idle);
        }
        if !self.is_ready {
            return if since(self.heard) >= handshake { Err(Error::Silent) } else { Ok(()) };
        }
        if !keepalive.is_zero() && since(self.heard) >= keepalive * SILENT_INTERVALS {
            return Err(Error::Silent);
        }
        if since(self.epoch_began) >= rotation || self.sealer.rekey_due() {
            let due = *self.rekey_due.get_or_insert(now);
            if since(due) >= REKEY_PATIENCE || self.asked.is_some_and(|asked| since(asked) >= handshake) {
                return Err(Error::RekeyFailed);
            }
            if self.rekeyer.starts() && !self.rekeyer.is_under_way() {
                self.start_rekey(now, around, out)?;
            } else if !self.rekeyer.starts() && !self.rekeyer.is_under_way() && self.asked.is_none() {
                self.say(&Control::RekeyRequest, now, out)?;
                self.asked = Some(now);
            }
        }
        if !keepalive.is_zero() && since(self.said) >= keepalive {
            self.say(&Control::Keepalive, now, out)?;
        }
        Ok(())
    }

    /// When [`Channel::tick`] has something to do next; [`Duration::MAX`] for never.
    #[must_use]
    pub fn next_tick(&self) -> Duration {
        let Settings { idle, keepalive, rotation, handshake, .. } = self.settings;
        if self.sealer.is_closed() {
            return Duration::MAX;
        }
        let mut next = self.used.saturating_add(idle);
        if !self.is_ready {
            return next.min(self.heard.saturating_add(handshake));
        }
        if !keepalive.is_zero() {
            next = next.min(self.said.saturating_add(keepalive));
            next = next.min(self.heard.saturating_add(keepalive * SILENT_INTERVALS));
        }
        match self.rekey_due {
            Some(due) => {
                let asked = self.asked.map_or(Duration::MAX, |asked| asked.saturating_add(handshake));
                next.min(due.saturating_add(REKEY_PATIENCE)).min(asked)
            }
            None if self.sealer.rekey_due() => self.said,
            None => next.min(self.epoch_began.saturating_add(rotation)),
        }
    }

    /// Appends CLOSE, if it was not sent yet.
    pub fn close(&mut self, reason: CloseReason, now: Duration, out: &mut Vec<u8>) {
        if !self.sealer.is_closed() {
            // Nothing can be done where even this fails: the stream ends without it.
            let _cut = self.say(&Control::Close(reason), now, out);
        }
    }

    /// What the end of the stream means: fine after a CLOSE, [`Error::Truncated`] otherwise.
    pub fn end_of_stream(&self) -> Result<CloseReason, Error> {
        self.opener.end_of_stream()
    }

    fn say(&mut self, control: &Control, now: Duration, out: &mut Vec<u8>) -> Result<(), Error> {
        self.said = now;
        framed(out, |out| self.sealer.seal_control(control, out))
    }

    fn say_ready(&mut self, around: &dyn Surroundings, now: Duration, out: &mut Vec<u8>) -> Result<(), Error> {
        let seconds = |span: Duration| u32::try_from(span.as_secs()).unwrap_or(u32::MAX);
        let ready = Ready {
            clock_ms: around.clock_ms(),
            max_plaintext: u32::try_from(self.settings.max_plaintext).unwrap_or(u32::MAX),
            idle_s: seconds(self.settings.idle),
            keepalive_s: seconds(self.settings.keepalive),
            rotation_s: seconds(self.settings.rotation),
        };
        self.is_ready = true;
        self.say(&Control::Ready(ready), now, out)
    }

    fn on_ready(&mut self, ready: Ready, now: Duration, around: &dyn Surroundings) -> Result<Received, Error> {
        if self.rekeyer.on_ready() {
            self.epoch_entered(now);
            return Ok(Received::Nothing);
        }
        if self.settings.refuse_clock_skew && skew(ready.clock_ms, around.clock_ms()) > MAX_CLOCK_SKEW {
            return Err(Error::ClockSkew);
        }
        self.is_ready = true;
        self.their_max = MAX_PLAINTEXT_BYTES.min(ready.max_plaintext as usize);
        let seconds = |s: u32| Duration::from_secs(u64::from(s));
        // Zero seconds stand for less than one: the other side's own clock decides then.
        let shorter = |ours: Duration, theirs: u32| if theirs == 0 { ours } else { ours.min(seconds(theirs)) };
        self.settings.idle = shorter(self.settings.idle, ready.idle_s);
        self.settings.rotation = shorter(self.settings.rotation, ready.rotation_s);
        self.settings.keepalive = seconds(ready.keepalive_s);
        Ok(Received::Ready(ready))
    }

    fn start_rekey(&mut self, now: Duration, around: &dyn Surroundings, out: &mut Vec<u8>) -> Result<(), Error> {
        let hybrid = self.agreed.suite == crate::Suite::Hybrid;
        let hello = self.rekeyer.start(around.fresh(hybrid)?)?;
        self.rekey_due.get_or_insert(now);
        self.say(&hello, now, out)
    }

    fn rekey(
        &mut self,
        message: Control,
        now: Duration,
        around: &dyn Surroundings,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let Self { sealer, opener, rekeyer, .. } = self;
        match message {
            Control::RekeyHello(hello) => {
                let reply = rekeyer.on_hello(around.me(), around.fresh(false)?, &hello)?;
                self.say(&reply, now, out)
            }
            Control::RekeyReply(reply) => {
                framed(out, |out| rekeyer.on_reply(around.me(), &reply, (sealer, opener), now, out))?;
                (self.generation_began, self.said) = (now, now);
                if !self.rekeyer.is_under_way() {
                    self.epoch_entered(now);
                }
                Ok(())
            }
            Control::RekeyFinish(finish) => {
                framed(out, |out| rekeyer.on_finish(&finish, around, (sealer, opener), now, out))?;
                self.epoch_entered(now);
                if self.sealer.is_closed() { Ok(()) } else { self.say_ready(around, now, out) }
            }
            _ => Ok(()),
        }
    }

    fn epoch_entered(&mut self, now: Duration) {
        (self.epoch_began, self.generation_began) = (now, now);
        (self.rekey_due, self.asked) = (None, None);
    }
}

fn skew(a: u64, b: u64) -> Duration {
    Duration::from_millis(a.abs_diff(b))
}

/// Appends one frame with its length in front; nothing where `seal` fails.
fn framed(out: &mut Vec<u8>, seal: impl FnOnce(&mut Vec<u8>) -> Result<(), Error>) -> Result<(), Error> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    if let Err(error) = seal(out) {
        out.truncate(start);
        return Err(error);
    }
    let length = (out.len() - start - 4) as u32;
    if let Some(place) = out.get_mut(start..).and_then(|frame| frame.first_chunk_mut::<4>()) {
        *place = length.to_be_bytes();
    }
    Ok(())
}
