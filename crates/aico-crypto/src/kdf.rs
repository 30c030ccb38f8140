//! The keyed BLAKE2b derivation and the channel's key schedule (`docs/spec/channel.md`, Key schedule).

use blake2b_simd::Params;
use subtle::ConstantTimeEq;

use crate::kx::{KxSecret, SharedKemSecret};
use crate::{Error, IdentitySecret, Label, PublicKey, Random, Secret, TrafficKey, TranscriptHash};

/// `KDF(key, label, context, N)`: BLAKE2b with `N` bytes of output, keyed, over `len(label) ‖ label ‖ context`.
pub(crate) fn kdf<const N: usize>(key: &[u8], label: Label, context: &[&[u8]]) -> Secret<N> {
    let mut state = Params::new().hash_length(N).key(key).to_state();
    let name = label.0.as_bytes();
    state.update(&[name.len() as u8]).update(name);
    for part in context {
        state.update(part);
    }
    let mut out = Secret::zero();
    out.bytes_mut().copy_from_slice(state.finalize().as_bytes());
    out
}

/// A 32-byte key of the handshake or the record layer that has no narrower type.
#[derive(Debug)]
pub struct ChannelKey(pub(crate) Secret<32>);

/// A pre-shared secret that is mixed into the handshake: the ratchet of the epoch before; [`Psk::none`] is 32 zero
/// bytes.
#[derive(Debug)]
pub struct Psk(Secret<32>);

impl Psk {
    /// No pre-shared secret.
    #[must_use]
    pub fn none() -> Self {
        Self(Secret::zero())
    }
}

/// `mac1`: proof that the sender of a HELLO knows the responder's identity.
#[must_use]
pub fn handshake_mac(responder: &PublicKey, bytes: &[u8]) -> [u8; 16] {
    let key = TranscriptHash::of(b'm', &[responder.as_bytes()]);
    let (key, _) = key.as_bytes().split_at(32);
    *kdf::<16>(key, Label::MAC1, &[bytes]).bytes()
}

/// `hs`: what both sides know once the ephemeral keys have met.
#[derive(Debug)]
pub struct HandshakeSecret(Secret<64>);

impl HandshakeSecret {
    /// `BLAKE2b-512(key = psk, "AICO-HS1 extract" ‖ [ss] ‖ kx ‖ th2)`.
    #[must_use]
    pub fn extract(psk: &Psk, kem: Option<&SharedKemSecret>, kx: &KxSecret, th2: &TranscriptHash) -> Self {
        let mut state = Params::new().hash_length(64).key(psk.0.bytes()).to_state();
        state.update(b"AICO-HS1 extract");
        if let Some(shared) = kem {
            state.update(shared.bytes());
        }
        state.update(kx.bytes()).update(th2.as_bytes());
        let mut out = Secret::zero();
        out.bytes_mut().copy_from_slice(state.finalize().as_bytes());
        Self(out)
    }

    /// The key of the responder's encrypted identity (`k_R`).
    #[must_use]
    pub fn responder_key(&self, th2: &TranscriptHash) -> ChannelKey {
        ChannelKey(kdf(self.0.bytes(), Label::HS_KEY_R, &[th2.as_bytes()]))
    }

    /// The key of the initiator's encrypted identity (`k_I`).
    #[must_use]
    pub fn initiator_key(&self, th2: &TranscriptHash) -> ChannelKey {
        ChannelKey(kdf(self.0.bytes(), Label::HS_KEY_I, &[th2.as_bytes()]))
    }

    /// `fin_R` over th4.
    #[must_use]
    pub fn responder_fin(&self, th2: &TranscriptHash, th4: &TranscriptHash) -> [u8; 32] {
        self.fin(Label::FIN_KEY_R, th2, th4)
    }

    /// `fin_I` over th7.
    #[must_use]
    pub fn initiator_fin(&self, th2: &TranscriptHash, th7: &TranscriptHash) -> [u8; 32] {
        self.fin(Label::FIN_KEY_I, th2, th7)
    }

    fn fin(&self, label: Label, th2: &TranscriptHash, over: &TranscriptHash) -> [u8; 32] {
        let key = kdf::<32>(self.0.bytes(), label, &[th2.as_bytes()]);
        *kdf::<32>(key.bytes(), Label::FIN, &[over.as_bytes()]).bytes()
    }

    /// `ms`, bound to th8; consumes the handshake secret.
    #[must_use]
    pub fn into_master(self, th8: &TranscriptHash) -> MasterSecret {
        MasterSecret(kdf(self.0.bytes(), Label::MASTER, &[th8.as_bytes()]))
    }
}

/// `ms`: the secret of one DH epoch, dropped as soon as its keys are derived.
#[derive(Debug)]
pub struct MasterSecret(Secret<64>);

impl MasterSecret {
    /// The traffic keys of `epoch`: (responder to initiator, initiator to responder), in `crypto_kx` order.
    #[must_use]
    pub fn traffic_keys(&self, epoch: u16) -> (TrafficKey, TrafficKey) {
        let both = kdf::<64>(self.0.bytes(), Label::TRAFFIC, &[&epoch.to_be_bytes()]);
        let (mut to_initiator, mut to_responder) = (Secret::zero(), Secret::zero());
        let (first, second) = both.bytes().split_at(32);
        to_initiator.bytes_mut().copy_from_slice(first);
        to_responder.bytes_mut().copy_from_slice(second);
        (TrafficKey(to_initiator), TrafficKey(to_responder))
    }

    /// The channel identifiers of `epoch`: (in records of the initiator, in records of the responder). Not secret.
    #[must_use]
    pub fn channel_ids(&self, epoch: u16) -> ([u8; 10], [u8; 10]) {
        let both = kdf::<20>(self.0.bytes(), Label::CID, &[&epoch.to_be_bytes()]);
        let (mut initiator, mut responder) = ([0; 10], [0; 10]);
        let (first, second) = both.bytes().split_at(10);
        initiator.copy_from_slice(first);
        responder.copy_from_slice(second);
        (initiator, responder)
    }

    /// What the next epoch's handshake uses in the place of a pre-shared secret.
    #[must_use]
    pub fn ratchet(&self, epoch: u16) -> Psk {
        Psk(kdf(self.0.bytes(), Label::RATCHET, &[&epoch.to_be_bytes()]))
    }

    /// 32 bytes that name this channel to both sides and to nobody else: what other protocols bind to.
    #[must_use]
    pub fn exporter(&self, epoch: u16) -> [u8; 32] {
        *kdf::<32>(self.0.bytes(), Label::EXPORTER, &[&epoch.to_be_bytes()]).bytes()
    }
}

impl TrafficKey {
    /// The key of the next generation; the old one is wiped.
    #[must_use]
    pub fn into_next(self, epoch: u16, generation: u16) -> Self {
        self.ahead(epoch, generation)
    }

    /// The key of the next generation beside this one: for carriers where its records may come first.
    #[must_use]
    pub fn ahead(&self, epoch: u16, generation: u16) -> Self {
        TrafficKey(kdf(self.0.bytes(), Label::KEY_UPDATE, &[&epoch.to_be_bytes(), &generation.to_be_bytes()]))
    }
}

/// Hedges ephemeral keys against a generator that repeats itself (`docs/spec/channel.md`, Hedged ephemerals).
#[derive(Debug)]
pub struct HedgeKey(Secret<32>);

impl IdentitySecret {
    /// The hedge key of this identity.
    #[must_use]
    pub fn hedge_key(&self) -> HedgeKey {
        HedgeKey(kdf(self.seed(), Label::HEDGE, &[]))
    }
}

impl HedgeKey {
    /// `KDF(hedge, "eph", random(32) ‖ boot id ‖ counter)`: the seed of an ephemeral key.
    pub fn ephemeral_seed(&self, random: &dyn Random, boot_id: &[u8; 16], counter: u64) -> Result<Secret<32>, Error> {
        let fresh = Secret::<32>::make(random)?;
        Ok(kdf(self.0.bytes(), Label::EPHEMERAL, &[fresh.bytes(), boot_id, &counter.to_be_bytes()]))
    }
}

/// Compares two authenticators in constant time.
#[must_use]
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_contexts_separate() {
        let key = [7; 32];
        let a = kdf::<32>(&key, Label::FIN, &[b"x"]);
        assert!(!a.same_as(&kdf(&key, Label::FIN, &[b"y"])));
        assert!(!a.same_as(&kdf(&key, Label::MASTER, &[b"x"])));
        assert!(!a.same_as(&kdf(&[8; 32], Label::FIN, &[b"x"])));
    }

    #[test]
    fn a_broken_generator_alone_repeats_no_ephemeral() {
        struct Stuck;
        impl Random for Stuck {
            fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
                out.fill(1);
                Ok(())
            }
        }
        let hedge = IdentitySecret::make(&crate::OsRandom).unwrap().hedge_key();
        let seed = |boot: u8, counter| hedge.ephemeral_seed(&Stuck, &[boot; 16], counter).unwrap();
        assert!(!seed(0, 1).same_as(&seed(0, 2)));
        assert!(!seed(0, 1).same_as(&seed(1, 1)));
        assert!(seed(0, 1).same_as(&seed(0, 1)));
    }
}
