//! Ephemeral key exchange: X25519 through libsodium's `crypto_kx` construction, and ML-KEM-768 (FIPS 203).

use aws_lc_rs::agreement::{PrivateKey, UnparsedPublicKey, X25519, agree};
use aws_lc_rs::kem::{Ciphertext, DecapsulationKey, EncapsulationKey as LcEncapsulationKey, ML_KEM_768};
use blake2b_simd::Params;

use crate::{Error, Secret};

/// Bytes of an X25519 public key.
pub const X25519_BYTES: usize = 32;
/// Bytes of an ML-KEM-768 encapsulation key.
pub const KEM_KEY_BYTES: usize = 1184;
/// Bytes of an ML-KEM-768 ciphertext.
pub const KEM_CIPHERTEXT_BYTES: usize = 1088;

/// An X25519 secret that lives for one exchange.
pub struct EphemeralSecret {
    key: PrivateKey,
    public: [u8; X25519_BYTES],
}

impl std::fmt::Debug for EphemeralSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("EphemeralSecret(..)")
    }
}

/// `BLAKE2b-512(X25519(e) ‖ e_I ‖ e_R)`: what `crypto_kx_client_session_keys` gives on the ephemeral keys.
#[derive(Debug)]
pub struct KxSecret(Secret<64>);

impl KxSecret {
    pub(crate) fn bytes(&self) -> &[u8; 64] {
        self.0.bytes()
    }
}

impl EphemeralSecret {
    /// Makes the secret from a seed (see [`crate::HedgeKey`]); the seed is used up.
    pub fn from_seed(seed: Secret<32>) -> Result<Self, Error> {
        let key = PrivateKey::from_private_key(&X25519, seed.bytes()).map_err(|_| Error::Failed)?;
        let computed = key.compute_public_key().map_err(|_| Error::Failed)?;
        let public = computed.as_ref().try_into().map_err(|_| Error::Failed)?;
        Ok(Self { key, public })
    }

    /// A secret with known bytes, for the test vectors.
    pub fn hazmat_from_bytes(bytes: &[u8; 32]) -> Result<Self, Error> {
        Self::from_seed(Secret::copy_of(bytes))
    }

    /// The public key.
    #[must_use]
    pub fn public(&self) -> &[u8; X25519_BYTES] {
        &self.public
    }

    /// The exchange as its initiator. A peer key that yields the all-zero secret is refused.
    pub fn agree_as_initiator(self, responder: &[u8; X25519_BYTES]) -> Result<KxSecret, Error> {
        let initiator = self.public;
        self.agree(responder, &initiator, responder)
    }

    /// The exchange as its responder. A peer key that yields the all-zero secret is refused.
    pub fn agree_as_responder(self, initiator: &[u8; X25519_BYTES]) -> Result<KxSecret, Error> {
        let responder = self.public;
        self.agree(initiator, initiator, &responder)
    }

    fn agree(self, peer: &[u8; 32], initiator: &[u8; 32], responder: &[u8; 32]) -> Result<KxSecret, Error> {
        agree(&self.key, UnparsedPublicKey::new(&X25519, peer), Error::Failed, |shared| {
            if crate::same_bytes(shared, &[0; 32]) {
                return Err(Error::Failed);
            }
            let mut state = Params::new().hash_length(64).to_state();
            state.update(shared).update(initiator).update(responder);
            let mut out = Secret::zero();
            out.bytes_mut().copy_from_slice(state.finalize().as_bytes());
            Ok(KxSecret(out))
        })
    }
}

/// What ML-KEM-768 gave both sides.
#[derive(Debug)]
pub struct SharedKemSecret(Secret<32>);

impl SharedKemSecret {
    pub(crate) fn bytes(&self) -> &[u8; 32] {
        self.0.bytes()
    }
}

/// An ML-KEM-768 decapsulation key that lives for one exchange.
pub struct KemSecret {
    key: DecapsulationKey,
    public: Box<[u8; KEM_KEY_BYTES]>,
}

impl std::fmt::Debug for KemSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KemSecret(..)")
    }
}

impl KemSecret {
    /// Makes a key pair (aws-lc draws the randomness itself).
    pub fn make() -> Result<Self, Error> {
        let key = DecapsulationKey::generate(&ML_KEM_768).map_err(|_| Error::Failed)?;
        let public = key.encapsulation_key().and_then(|k| k.key_bytes()).map_err(|_| Error::Failed)?;
        let public = Box::new(public.as_ref().try_into().map_err(|_| Error::Failed)?);
        Ok(Self { key, public })
    }

    /// A known key pair (2,400 and 1,184 bytes), for the test vectors.
    pub fn hazmat_from_bytes(secret: &[u8], public: &[u8; KEM_KEY_BYTES]) -> Result<Self, Error> {
        let key = DecapsulationKey::new(&ML_KEM_768, secret).map_err(|_| Error::Failed)?;
        Ok(Self { key, public: Box::new(*public) })
    }

    /// The encapsulation key to send.
    #[must_use]
    pub fn public(&self) -> &[u8; KEM_KEY_BYTES] {
        &self.public
    }

    /// Recovers the shared secret. A wrong ciphertext gives an unrelated secret (implicit rejection), not an error.
    pub fn decapsulate(self, ciphertext: &[u8; KEM_CIPHERTEXT_BYTES]) -> Result<SharedKemSecret, Error> {
        let shared = self.key.decapsulate(Ciphertext::from(ciphertext.as_slice())).map_err(|_| Error::Failed)?;
        Ok(SharedKemSecret(Secret::copy_of_slice(shared.as_ref())?))
    }
}

/// A peer's encapsulation key that passed the modulus check of FIPS 203, section 7.2.
#[derive(Debug)]
pub struct EncapsulationKey(LcEncapsulationKey);

/// The result of an encapsulation.
#[derive(Debug)]
pub struct Encapsulated {
    /// What goes to the peer.
    pub ciphertext: Box<[u8; KEM_CIPHERTEXT_BYTES]>,
    /// What both sides then share.
    pub shared: SharedKemSecret,
}

impl Encapsulated {
    /// A known result, for the test vectors.
    #[must_use]
    pub fn hazmat_from_bytes(ciphertext: &[u8; KEM_CIPHERTEXT_BYTES], shared: &[u8; 32]) -> Self {
        Self { ciphertext: Box::new(*ciphertext), shared: SharedKemSecret(Secret::copy_of(shared)) }
    }
}

impl EncapsulationKey {
    /// Checks and loads a key.
    pub fn parse(bytes: &[u8; KEM_KEY_BYTES]) -> Result<Self, Error> {
        let (coefficients, _seed) = bytes.split_at(KEM_KEY_BYTES - 32);
        if !coefficients.as_chunks::<3>().0.iter().all(reduced) {
            return Err(Error::Failed);
        }
        LcEncapsulationKey::new(&ML_KEM_768, bytes).map(Self).map_err(|_| Error::Failed)
    }

    /// Makes a shared secret for the key's owner (aws-lc draws the randomness itself).
    pub fn encapsulate(&self) -> Result<Encapsulated, Error> {
        let (ciphertext, shared) = self.0.encapsulate().map_err(|_| Error::Failed)?;
        Ok(Encapsulated {
            ciphertext: Box::new(ciphertext.as_ref().try_into().map_err(|_| Error::Failed)?),
            shared: SharedKemSecret(Secret::copy_of_slice(shared.as_ref())?),
        })
    }
}

/// Whether the two 12-bit coefficients in three bytes are below the modulus.
fn reduced(&[a, b, c]: &[u8; 3]) -> bool {
    const MODULUS: u16 = 3329;
    let first = u16::from(a) | (u16::from(b & 0x0f) << 8);
    let second = u16::from(b >> 4) | (u16::from(c) << 4);
    first < MODULUS && second < MODULUS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsRandom;

    fn ephemeral() -> EphemeralSecret {
        EphemeralSecret::from_seed(Secret::make(&OsRandom).unwrap()).unwrap()
    }

    #[test]
    fn both_sides_agree_and_roles_matter() {
        let seeds = [[3; 32], [4; 32]].map(|s| move || EphemeralSecret::hazmat_from_bytes(&s).unwrap());
        let (i, r) = (*seeds[0]().public(), *seeds[1]().public());
        let a = seeds[0]().agree_as_initiator(&r).unwrap();
        let b = seeds[1]().agree_as_responder(&i).unwrap();
        assert!(a.0.same_as(&b.0));
        assert!(!a.0.same_as(&seeds[0]().agree_as_responder(&r).unwrap().0));
    }

    #[test]
    fn equals_x25519_dalek() {
        let ours = EphemeralSecret::hazmat_from_bytes(&[3; 32]).unwrap();
        let theirs = x25519_dalek::StaticSecret::from([3; 32]);
        assert_eq!(ours.public(), x25519_dalek::PublicKey::from(&theirs).as_bytes());
    }

    #[test]
    fn small_order_points_are_refused() {
        for point in curve25519_dalek::constants::EIGHT_TORSION {
            let u = point.to_montgomery().to_bytes();
            assert!(ephemeral().agree_as_initiator(&u).is_err(), "{u:?}");
            assert!(ephemeral().agree_as_responder(&u).is_err(), "{u:?}");
        }
    }

    #[test]
    fn kem_round_trip_and_oracle() {
        let secret = KemSecret::make().unwrap();
        let key = EncapsulationKey::parse(secret.public()).unwrap();
        let sent = key.encapsulate().unwrap();
        let got = secret.decapsulate(&sent.ciphertext).unwrap();
        assert!(got.0.same_as(&sent.shared.0));
    }

    #[test]
    fn an_unreduced_encapsulation_key_is_refused() {
        // FIPS 203, section 7.2: every coefficient is below 3329.
        let good = *KemSecret::make().unwrap().public();
        for (offset, triple) in [(0, [0x01, 0x0d, 0]), (3, [0, 0xf0, 0xff]), (1149, [0xff, 0xff, 0xff])] {
            let mut bad = good;
            bad[offset..offset + 3].copy_from_slice(&triple);
            assert!(EncapsulationKey::parse(&bad).is_err());
        }
        let mut edge = good;
        edge[0..3].copy_from_slice(&[0x00, 0x0d, 0]);
        assert!(EncapsulationKey::parse(&edge).is_ok(), "3328 is reduced");
    }
}
