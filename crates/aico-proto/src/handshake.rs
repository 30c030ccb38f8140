//! SIGMA-I in three messages (`docs/spec/channel.md`, Handshake). Both sides are values that each message turns into
//! the next; a failure consumes them, so nothing can be tried twice.

use aico_crypto::{
    Encapsulated, EncapsulationKey, EphemeralSecret, HandshakeSecret, HedgeKey, IDENTITY_BYTES, Identity,
    IdentitySecret, KEM_KEY_BYTES, KemSecret, MasterSecret, Psk, PublicKey, Random, SIGNATURE_BYTES, Signature,
    SignatureLabel, TranscriptHash, X25519_BYTES, same_bytes,
};

use crate::hello::{Hello, Reply, SEALED_IDENTITY_BYTES, encode_finish, parse_finish};
use crate::record::{HalfKeys, Opener, Sealer};
use crate::rekey::Rekeyer;
use crate::{Alert, AuthenticatedPeer, Error, Padding, Peer, Standing, Suite, Terms, Trust, UnenrolledPeer};

/// One side's own identity.
#[derive(Debug)]
pub struct LocalIdentity {
    secret: IdentitySecret,
    identity: Identity,
}

impl LocalIdentity {
    /// Joins an identity with its secret half.
    pub fn new(secret: IdentitySecret, identity: Identity) -> Result<Self, Error> {
        if secret.public() != identity.key() {
            return Err(Error::Misuse("the secret belongs to another identity"));
        }
        Ok(Self { secret, identity })
    }

    /// The public half.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The hedge key for this identity's ephemeral keys.
    #[must_use]
    pub fn hedge_key(&self) -> HedgeKey {
        self.secret.hedge_key()
    }

    /// The secret half, for keeping it.
    #[must_use]
    pub fn secret(&self) -> &IdentitySecret {
        &self.secret
    }
}

/// What one side of one handshake makes afresh.
#[derive(Debug)]
pub struct Fresh {
    nonce: [u8; 32],
    ephemeral: EphemeralSecret,
    kem: Option<KemSecret>,
    encapsulated: Option<Encapsulated>,
}

impl Fresh {
    /// Makes a nonce and a hedged ephemeral key. `counter` differs for every handshake since `boot_id`.
    pub fn make(hedge: &HedgeKey, random: &dyn Random, boot_id: &[u8; 16], counter: u64) -> Result<Self, Error> {
        let mut nonce = [0; 32];
        random.fill(&mut nonce)?;
        let ephemeral = EphemeralSecret::from_seed(hedge.ephemeral_seed(random, boot_id, counter)?)?;
        Ok(Self { nonce, ephemeral, kem: None, encapsulated: None })
    }

    /// Adds an ML-KEM-768 key pair: the initiator then offers the hybrid suite first.
    pub fn with_kem(mut self) -> Result<Self, Error> {
        self.kem = Some(KemSecret::make()?);
        Ok(self)
    }

    /// What stands in a HELLO.
    pub(crate) fn public_parts(&self) -> ([u8; 32], [u8; X25519_BYTES], Option<Box<[u8; KEM_KEY_BYTES]>>) {
        let kem_key = self.kem.as_ref().map(|kem| Box::new(*kem.public()));
        (self.nonce, *self.ephemeral.public(), kem_key)
    }

    /// Known values, for the test vectors.
    #[must_use]
    pub fn hazmat_from_parts(
        nonce: [u8; 32],
        ephemeral: EphemeralSecret,
        kem: Option<KemSecret>,
        encapsulated: Option<Encapsulated>,
    ) -> Self {
        Self { nonce, ephemeral, kem, encapsulated }
    }
}

/// A finished handshake.
#[derive(Debug)]
pub struct Established {
    /// Who is at the other end.
    pub peer: Peer,
    /// Seals what we send.
    pub sealer: Sealer,
    /// Opens what we receive.
    pub opener: Opener,
    /// Renews the keys of both.
    pub rekeyer: Rekeyer,
    /// What was agreed on.
    pub agreed: Agreed,
}

/// What a handshake agrees on; a REKEY keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The suite.
    pub suite: Suite,
    /// How records are padded.
    pub padding: Padding,
    /// Whether the carrier may lose or reorder records.
    pub unordered: bool,
}

/// The client, waiting for the REPLY.
#[derive(Debug)]
pub struct Initiator {
    expected: Identity,
    suites: Vec<Suite>,
    terms: Terms,
    ephemeral: EphemeralSecret,
    kem: Option<KemSecret>,
    th1: TranscriptHash,
    psk: Psk,
    epoch: u16,
}

impl Initiator {
    /// Starts a handshake with the one responder that is `expected`; the bytes are the HELLO.
    #[must_use]
    pub fn start(expected: Identity, fresh: Fresh, terms: Terms) -> (Self, Vec<u8>) {
        let suites = match (&fresh.kem, terms.hybrid_only) {
            (None, _) => vec![Suite::Classical],
            (Some(_), false) => vec![Suite::Hybrid, Suite::Classical],
            (Some(_), true) => vec![Suite::Hybrid],
        };
        let hello = Hello::offer(&suites, terms, &fresh);
        let frame = hello.encode(expected.key());
        (Self::waiting(expected, suites, terms, fresh, &frame, Psk::none(), 0), frame)
    }

    /// Starts the handshake of `epoch` inside a channel, with nothing to choose from.
    pub(crate) fn restart(
        expected: Identity,
        fresh: Fresh,
        agreed: Agreed,
        ratchet: Psk,
        epoch: u16,
    ) -> (Self, Vec<u8>) {
        let terms = agreed.terms();
        let frame = Hello::offer(&[agreed.suite], terms, &fresh).encode_inside();
        (Self::waiting(expected, vec![agreed.suite], terms, fresh, &frame, ratchet, epoch), frame)
    }

    fn waiting(
        expected: Identity,
        suites: Vec<Suite>,
        terms: Terms,
        fresh: Fresh,
        frame: &[u8],
        psk: Psk,
        epoch: u16,
    ) -> Self {
        let th1 = TranscriptHash::of(b'1', &[frame]);
        let Fresh { ephemeral, kem, .. } = fresh;
        Self { expected, suites, terms, ephemeral, kem, th1, psk, epoch }
    }

    /// Checks the REPLY; the bytes are the FINISH, after which records may follow at once.
    pub fn on_reply(self, me: &LocalIdentity, frame: &[u8]) -> Result<(Established, Vec<u8>), Error> {
        let expected = self.expected.clone();
        let (keys, agreed, finish) = self.conclude(me, frame)?;
        let peer = Peer::Authenticated(AuthenticatedPeer::from_handshake(expected, keys.exporter));
        Ok((keys.established(peer, agreed, Side::Initiator)?, finish))
    }

    /// The keys of the epoch, what was agreed on, and the FINISH.
    pub(crate) fn conclude(self, me: &LocalIdentity, frame: &[u8]) -> Result<(EpochKeys, Agreed, Vec<u8>), Error> {
        let (reply, open, sealed) = Reply::parse(frame, &self.suites, self.terms)?;
        let th2 = TranscriptHash::of(b'2', &[self.th1.as_bytes(), open]);
        let shared = match (&reply.kem_ciphertext, self.kem) {
            (Some(ciphertext), Some(kem)) => Some(kem.decapsulate(ciphertext)?),
            _ => None,
        };
        let kx = self.ephemeral.agree_as_initiator(&reply.ephemeral)?;
        let hs = HandshakeSecret::extract(&self.psk, shared.as_ref(), &kx, &th2);

        let theirs = SealedIdentity::open(&hs.responder_key(&th2).open_once(th2.as_bytes(), sealed)?)?;
        if theirs.identity.encode() != self.expected.encode() {
            return Err(Error::WrongPeer);
        }
        let th5 = theirs.verify(SignatureLabel::RESPONDER, *b"345", &th2, |th4| hs.responder_fin(&th2, th4))?;

        let initiator_key = hs.initiator_key(&th2);
        let fin = |th7: &TranscriptHash| hs.initiator_fin(&th2, th7);
        let (mine, th8) = SealedIdentity::make(me, SignatureLabel::INITIATOR, *b"678", &th5, fin)?;
        let finish = encode_finish(&initiator_key.seal_once(th5.as_bytes(), &mine)?);

        let keys = EpochKeys::derive(&hs.into_master(&th8), self.epoch);
        let agreed = Agreed { suite: reply.suite, padding: reply.padding, unordered: reply.unordered };
        Ok((keys, agreed, finish))
    }
}

/// Why a HELLO gets no REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The sender does not know our identity: it gets nothing, not even an alert.
    Silent,
    /// The sender knows us and is told.
    Alert(Alert),
}

/// The server, waiting for the FINISH.
#[derive(Debug)]
pub struct Responder {
    me: [u8; IDENTITY_BYTES],
    hs: HandshakeSecret,
    th2: TranscriptHash,
    th5: TranscriptHash,
    agreed: Agreed,
    epoch: u16,
}

impl Responder {
    /// Whether the sender of `hello` knows `responder`: what a server checks before it spends anything.
    #[must_use]
    pub fn is_meant(responder: &PublicKey, hello: &[u8]) -> bool {
        Hello::knows(responder, hello)
    }

    /// Answers a HELLO; the bytes are the REPLY.
    pub fn on_hello(me: &LocalIdentity, frame: &[u8], fresh: Fresh, terms: Terms) -> Result<(Self, Vec<u8>), Refusal> {
        if !Hello::knows(me.identity.key(), frame) {
            return Err(Refusal::Silent);
        }
        let hello = Hello::parse(frame).map_err(Refusal::Alert)?;
        let agreed = hello.agree(terms).map_err(Refusal::Alert)?;
        let th1 = TranscriptHash::of(b'1', &[frame]);
        Self::answer(me, &hello, &th1, fresh, agreed, &Psk::none(), 0).map_err(|_| Refusal::Silent)
    }

    /// Answers the HELLO of `epoch` inside a channel: the same terms, the old epoch's ratchet.
    pub(crate) fn on_inside(
        me: &LocalIdentity,
        frame: &[u8],
        fresh: Fresh,
        agreed: Agreed,
        ratchet: &Psk,
        epoch: u16,
    ) -> Result<(Self, Vec<u8>), Error> {
        let hello = Hello::parse_inside(frame)?;
        if hello.suites != [agreed.suite] || (hello.padding, hello.unordered) != (agreed.padding, agreed.unordered) {
            return Err(Error::Malformed("a REKEY with other terms"));
        }
        let th1 = TranscriptHash::of(b'1', &[frame]);
        Self::answer(me, &hello, &th1, fresh, agreed, ratchet, epoch)
    }

    fn answer(
        me: &LocalIdentity,
        hello: &Hello,
        th1: &TranscriptHash,
        fresh: Fresh,
        agreed: Agreed,
        psk: &Psk,
        epoch: u16,
    ) -> Result<(Self, Vec<u8>), Error> {
        let Agreed { suite, padding, unordered } = agreed;
        let encapsulated = match (suite, &hello.kem_key, fresh.encapsulated) {
            (Suite::Hybrid, Some(_), Some(known)) => Some(known),
            (Suite::Hybrid, Some(key), None) => Some(EncapsulationKey::parse(key)?.encapsulate()?),
            _ => None,
        };
        let (kem_ciphertext, shared) = encapsulated.map(|e| (e.ciphertext, e.shared)).unzip();
        let ephemeral = *fresh.ephemeral.public();
        let reply = Reply { suite, padding, unordered, nonce: fresh.nonce, ephemeral, kem_ciphertext };
        let mut frame = reply.encode();
        let th2 = TranscriptHash::of(b'2', &[th1.as_bytes(), &frame]);
        let kx = fresh.ephemeral.agree_as_responder(&hello.ephemeral)?;
        let hs = HandshakeSecret::extract(psk, shared.as_ref(), &kx, &th2);

        let fin = |th4: &TranscriptHash| hs.responder_fin(&th2, th4);
        let (mine, th5) = SealedIdentity::make(me, SignatureLabel::RESPONDER, *b"345", &th2, fin)?;
        frame.extend_from_slice(&hs.responder_key(&th2).seal_once(th2.as_bytes(), &mine)?);
        Ok((Self { me: me.identity.encode(), hs, th2, th5, agreed, epoch }, frame))
    }

    /// Checks the FINISH. An identity that `trust` refuses gets no answer.
    pub fn on_finish(self, frame: &[u8], trust: &dyn Trust) -> Result<Established, Error> {
        let agreed = self.agreed;
        let (keys, identity, standing) = self.conclude(frame, trust)?;
        let peer = match standing {
            Standing::Enrolled => Peer::Authenticated(AuthenticatedPeer::from_handshake(identity, keys.exporter)),
            _ => Peer::Unenrolled(UnenrolledPeer::from_handshake(identity)),
        };
        keys.established(peer, agreed, Side::Responder)
    }

    /// The keys of the epoch, and whose they are.
    pub(crate) fn conclude(self, frame: &[u8], trust: &dyn Trust) -> Result<(EpochKeys, Identity, Standing), Error> {
        let sealed = parse_finish(frame)?;
        let opened = self.hs.initiator_key(&self.th2).open_once(self.th5.as_bytes(), sealed)?;
        let theirs = SealedIdentity::open(&opened)?;
        if same_bytes(&theirs.identity.encode(), &self.me) {
            return Err(Error::WrongPeer);
        }
        let standing = trust.standing(&theirs.identity);
        if standing == Standing::Refused {
            return Err(Error::UnknownPeer);
        }
        let fin = |th7: &TranscriptHash| self.hs.initiator_fin(&self.th2, th7);
        let th8 = theirs.verify(SignatureLabel::INITIATOR, *b"678", &self.th5, fin)?;

        Ok((EpochKeys::derive(&self.hs.into_master(&th8), self.epoch), theirs.identity, standing))
    }
}

/// `ID ‖ signature ‖ fin`, opened but not yet believed.
struct SealedIdentity {
    identity: Identity,
    signature: Signature,
    fin: [u8; 32],
}

impl SealedIdentity {
    fn open(bytes: &[u8]) -> Result<Self, Error> {
        let (identity, rest) = bytes.split_first_chunk::<IDENTITY_BYTES>().ok_or(Error::Authentication)?;
        let (signature, rest) = rest.split_first_chunk::<SIGNATURE_BYTES>().ok_or(Error::Authentication)?;
        let fin = rest.try_into().map_err(|_| Error::Authentication)?;
        let identity = Identity::decode(identity).map_err(|_| Error::Authentication)?;
        Ok(Self { identity, signature: *signature, fin })
    }

    /// Signs and confirms our identity: the bytes to seal, and the transcript after them. `steps` are the numbers of
    /// the three transcript hashes on the way.
    fn make(
        me: &LocalIdentity,
        label: SignatureLabel,
        steps: [u8; 3],
        before: &TranscriptHash,
        fin: impl FnOnce(&TranscriptHash) -> [u8; 32],
    ) -> Result<(Vec<u8>, TranscriptHash), Error> {
        let [with_identity, with_signature, with_fin] = steps;
        let identity = me.identity.encode();
        let signed = TranscriptHash::of(with_identity, &[before.as_bytes(), &identity]);
        let signature = me.secret.sign(label, signed.as_bytes())?;
        let confirmed = TranscriptHash::of(with_signature, &[signed.as_bytes(), &signature]);
        let fin = fin(&confirmed);
        let after = TranscriptHash::of(with_fin, &[confirmed.as_bytes(), &fin]);
        let mut bytes = Vec::with_capacity(SEALED_IDENTITY_BYTES);
        [identity.as_slice(), &signature, &fin].iter().for_each(|part| bytes.extend_from_slice(part));
        Ok((bytes, after))
    }

    /// Checks signature and confirmation; the transcript after them.
    fn verify(
        &self,
        label: SignatureLabel,
        steps: [u8; 3],
        before: &TranscriptHash,
        fin: impl FnOnce(&TranscriptHash) -> [u8; 32],
    ) -> Result<TranscriptHash, Error> {
        let [with_identity, with_signature, with_fin] = steps;
        let signed = TranscriptHash::of(with_identity, &[before.as_bytes(), &self.identity.encode()]);
        self.identity.key().verify(label, signed.as_bytes(), &self.signature)?;
        let confirmed = TranscriptHash::of(with_signature, &[signed.as_bytes(), &self.signature]);
        if !same_bytes(&fin(&confirmed), &self.fin) {
            return Err(Error::Authentication);
        }
        Ok(TranscriptHash::of(with_fin, &[confirmed.as_bytes(), &self.fin]))
    }
}

impl Agreed {
    fn terms(self) -> Terms {
        Terms { padding: self.padding, unordered: self.unordered, hybrid_only: self.suite == Suite::Hybrid }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Initiator,
    Responder,
}

/// What one DH epoch derives from its master secret, which is then dropped.
pub(crate) struct EpochKeys {
    to_initiator: aico_crypto::TrafficKey,
    to_responder: aico_crypto::TrafficKey,
    initiator_id: [u8; 10],
    responder_id: [u8; 10],
    exporter: [u8; 32],
    ratchet: Psk,
    epoch: u16,
}

impl EpochKeys {
    fn derive(ms: &MasterSecret, epoch: u16) -> Self {
        let (to_initiator, to_responder) = ms.traffic_keys(epoch);
        let (initiator_id, responder_id) = ms.channel_ids(epoch);
        let (exporter, ratchet) = (ms.exporter(epoch), ms.ratchet(epoch));
        Self { to_initiator, to_responder, initiator_id, responder_id, exporter, ratchet, epoch }
    }

    /// What `side` sends under, what it receives under, and the secret for the next epoch.
    pub(crate) fn split(self, side: Side) -> (HalfKeys, HalfKeys, Psk) {
        let epoch = self.epoch;
        let initiator = HalfKeys { key: self.to_responder, channel_id: self.initiator_id, epoch };
        let responder = HalfKeys { key: self.to_initiator, channel_id: self.responder_id, epoch };
        match side {
            Side::Initiator => (initiator, responder, self.ratchet),
            Side::Responder => (responder, initiator, self.ratchet),
        }
    }

    fn established(self, peer: Peer, agreed: Agreed, side: Side) -> Result<Established, Error> {
        let (sending, receiving, ratchet) = self.split(side);
        let i_answer = side == Side::Responder;
        Ok(Established {
            sealer: Sealer::new(sending, agreed.padding, i_answer)?,
            opener: Opener::new(receiving, agreed.padding, agreed.unordered, !i_answer)?,
            rekeyer: Rekeyer::new(side, peer.identity().clone(), agreed, ratchet),
            peer,
            agreed,
        })
    }
}
