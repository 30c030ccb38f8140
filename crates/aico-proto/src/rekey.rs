//! REKEY: the handshake again, inside the channel (`docs/spec/channel.md`, REKEY).

use std::time::Duration;

use aico_crypto::{Identity, Psk};

use crate::handshake::{Agreed, EpochKeys, Side};
use crate::{Control, Error, Fresh, Initiator, LocalIdentity, Opener, Responder, Sealer, Standing, Trust};

/// Where a REKEY stands.
#[derive(Debug)]
enum Step {
    /// None is under way.
    Resting,
    /// The initiator waits for the REPLY.
    SentHello(Initiator),
    /// The responder waits for the FINISH.
    SentReply(Responder),
    /// The initiator sends in the new epoch and waits for READY.
    SentFinish,
}

/// One side's part in renewing the keys of a channel. What it seals and switches, it does to the halves it is given.
#[derive(Debug)]
pub struct Rekeyer {
    side: Side,
    peer: Identity,
    agreed: Agreed,
    epoch: u16,
    ratchet: Psk,
    step: Step,
}

impl Rekeyer {
    pub(crate) fn new(side: Side, peer: Identity, agreed: Agreed, ratchet: Psk) -> Self {
        Self { side, peer, agreed, epoch: 0, ratchet, step: Step::Resting }
    }

    /// The epoch that this side sends in.
    #[must_use]
    pub fn epoch(&self) -> u16 {
        self.epoch
    }

    /// Whether a REKEY is under way.
    #[must_use]
    pub fn is_under_way(&self) -> bool {
        !matches!(self.step, Step::Resting)
    }

    /// Whether this side is the one that starts.
    #[must_use]
    pub fn starts(&self) -> bool {
        self.side == Side::Initiator
    }

    /// Starts one, as the initiator; the HELLO is to be sealed now.
    pub fn start(&mut self, fresh: Fresh) -> Result<Control, Error> {
        if self.is_under_way() || !self.starts() {
            return Err(Error::Misuse("a REKEY that may not start now"));
        }
        let (ratchet, epoch) = (self.take_ratchet(), self.next_epoch()?);
        let (initiator, hello) = Initiator::restart(self.peer.clone(), fresh, self.agreed, ratchet, epoch);
        self.step = Step::SentHello(initiator);
        Ok(Control::RekeyHello(hello))
    }

    /// Answers the initiator's HELLO; the REPLY is to be sealed now.
    pub fn on_hello(&mut self, me: &LocalIdentity, fresh: Fresh, hello: &[u8]) -> Result<Control, Error> {
        if self.is_under_way() || self.starts() {
            return Err(Error::Unexpected("a REKEY HELLO"));
        }
        let (epoch, agreed) = (self.next_epoch()?, self.agreed);
        let (responder, reply) = Responder::on_inside(me, hello, fresh, agreed, &self.ratchet, epoch)?;
        self.step = Step::SentReply(responder);
        Ok(Control::RekeyReply(reply))
    }

    /// Checks the responder's REPLY, seals the FINISH as the last record of the old epoch, and switches.
    pub fn on_reply(
        &mut self,
        me: &LocalIdentity,
        reply: &[u8],
        (sealer, opener): (&mut Sealer, &mut Opener),
        now: Duration,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let Step::SentHello(initiator) = std::mem::replace(&mut self.step, Step::Resting) else {
            return Err(Error::Unexpected("a REKEY REPLY"));
        };
        let (keys, agreed, finish) = initiator.conclude(me, reply)?;
        if agreed != self.agreed {
            return Err(Error::Malformed("a REKEY with other terms"));
        }
        sealer.seal_control(&Control::RekeyFinish(finish), out)?;
        self.enter(keys, sealer, opener, now)?;
        // Where READY may be lost, nobody waits for it.
        self.step = if self.agreed.unordered { Step::Resting } else { Step::SentFinish };
        Ok(())
    }

    /// Checks the initiator's FINISH, seals REKEY_END as the last record of the old epoch, and switches; READY is to be
    /// sealed now.
    pub fn on_finish(
        &mut self,
        finish: &[u8],
        trust: &dyn Trust,
        (sealer, opener): (&mut Sealer, &mut Opener),
        now: Duration,
        out: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let Step::SentReply(responder) = std::mem::replace(&mut self.step, Step::Resting) else {
            return Err(Error::Unexpected("a REKEY FINISH"));
        };
        let (keys, identity, standing) = responder.conclude(finish, trust)?;
        if identity != self.peer || standing == Standing::Refused {
            return Err(Error::WrongPeer);
        }
        // After CLOSE nothing more comes in any epoch, and that is known.
        if !sealer.is_closed() {
            sealer.seal_control(&Control::RekeyEnd, out)?;
        }
        self.enter(keys, sealer, opener, now)
    }

    /// Takes note of the responder's READY; false where it belongs to no REKEY.
    pub(crate) fn on_ready(&mut self) -> bool {
        let finished = matches!(self.step, Step::SentFinish);
        if finished {
            self.step = Step::Resting;
        }
        finished
    }

    fn enter(&mut self, keys: EpochKeys, sealer: &mut Sealer, opener: &mut Opener, now: Duration) -> Result<(), Error> {
        let (sending, receiving, ratchet) = keys.split(self.side);
        let i_answer = !self.starts();
        sealer.next_epoch(sending, i_answer)?;
        opener.next_epoch(receiving, !i_answer, now)?;
        self.epoch = self.next_epoch()?;
        self.ratchet = ratchet;
        Ok(())
    }

    fn next_epoch(&self) -> Result<u16, Error> {
        self.epoch.checked_add(1).ok_or(Error::UsedUp)
    }

    fn take_ratchet(&mut self) -> Psk {
        std::mem::replace(&mut self.ratchet, Psk::none())
    }
}
