//! Ed25519, strict: no small-order point, no encoding that is not canonical.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};

use crate::{Error, Secret, SignatureLabel};

/// Bytes of a public key.
pub const PUBLIC_KEY_BYTES: usize = 32;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// An Ed25519 signature.
pub type Signature = [u8; SIGNATURE_BYTES];

/// An Ed25519 public key whose encoding is canonical and whose order is not small.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; PUBLIC_KEY_BYTES]);

impl PublicKey {
    /// Takes a key in, or refuses it. That it is a point of the curve at all shows when it verifies something.
    pub fn parse(bytes: &[u8; PUBLIC_KEY_BYTES]) -> Result<Self, Error> {
        if canonical(bytes) && !small_order(bytes) { Ok(Self(*bytes)) } else { Err(Error::Failed) }
    }

    /// The 32 bytes of RFC 8032.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; PUBLIC_KEY_BYTES] {
        &self.0
    }

    /// Verifies a signature over `label ‖ message`.
    pub fn verify(&self, label: SignatureLabel, message: &[u8], signature: &Signature) -> Result<(), Error> {
        self.verify_raw(&labelled(label, message), signature)
    }

    /// Verifies a signature over a message whose format separates itself (a C2SP signed note).
    pub fn verify_note(&self, text: &str, signature: &Signature) -> Result<(), Error> {
        self.verify_raw(text.as_bytes(), signature)
    }

    pub(crate) fn verify_raw(&self, message: &[u8], signature: &Signature) -> Result<(), Error> {
        let (commitment, _) = signature.split_first_chunk::<32>().ok_or(Error::Failed)?;
        if small_order(commitment) {
            return Err(Error::Failed);
        }
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).map_err(|_| Error::Failed)
    }

    /// The text form: `ed25519:` and 64 hexadecimal digits.
    #[must_use]
    pub fn to_text(&self) -> String {
        self.0.iter().fold(String::from("ed25519:"), |text, byte| text + &format!("{byte:02x}"))
    }

    /// Reads the text form.
    pub fn from_text(text: &str) -> Result<Self, Error> {
        const WHAT: Error = Error::Text("public key (want `ed25519:` and 64 hexadecimal digits)");
        let digits = text.strip_prefix("ed25519:").ok_or(WHAT)?;
        if digits.len() != 2 * PUBLIC_KEY_BYTES || !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(WHAT);
        }
        let mut bytes = [0; PUBLIC_KEY_BYTES];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().as_chunks::<2>().0) {
            let pair = std::str::from_utf8(pair).map_err(|_| WHAT)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| WHAT)?;
        }
        Self::parse(&bytes)
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.to_text())
    }
}

/// An Ed25519 signing key; its role is given by the type around it.
///
/// aws-lc's key pair stands on the ordinary heap, so it is made for each signature and wiped after it: that costs one
/// multiplication (some 10 µs), and keeps a key that lives for years in the memory for secrets.
pub(crate) struct SigningKey {
    seed: Secret<32>,
    public: PublicKey,
}

impl SigningKey {
    pub(crate) fn from_seed(seed: Secret<32>) -> Result<Self, Error> {
        let bytes = pair(&seed)?.public_key().as_ref().try_into().map_err(|_| Error::Failed)?;
        Ok(Self { public: PublicKey::parse(&bytes)?, seed })
    }

    pub(crate) fn seed(&self) -> &Secret<32> {
        &self.seed
    }

    pub(crate) fn public(&self) -> &PublicKey {
        &self.public
    }

    pub(crate) fn sign(&self, label: SignatureLabel, message: &[u8]) -> Result<Signature, Error> {
        self.sign_raw(&labelled(label, message))
    }

    pub(crate) fn sign_raw(&self, message: &[u8]) -> Result<Signature, Error> {
        pair(&self.seed)?.sign(message).as_ref().try_into().map_err(|_| Error::Failed)
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SigningKey({:?})", self.public)
    }
}

fn pair(seed: &Secret<32>) -> Result<Ed25519KeyPair, Error> {
    Ed25519KeyPair::from_seed_unchecked(seed.bytes()).map_err(|_| Error::Failed)
}

fn labelled(label: SignatureLabel, message: &[u8]) -> Vec<u8> {
    [label.0.as_bytes(), message].concat()
}

/// Whether the y coordinate is below the field's prime 2^255 - 19. The sign bit is not part of it.
fn canonical(bytes: &[u8; 32]) -> bool {
    let [low, middle @ .., high] = bytes;
    *low < 0xed || middle.iter().any(|b| *b != 0xff) || high & 0x7f != 0x7f
}

/// Whether the encoding is one of the eight points of small order, in any encoding a decoder might accept.
fn small_order(bytes: &[u8; 32]) -> bool {
    /// The y coordinates 0, 1, -1 and the two of order 8, and the encodings p and p + 1 of the first two.
    const Y: [[u8; 32]; 7] = {
        let mut y = [[0; 32]; 7];
        y[1][0] = 1;
        y[2] = [0xff; 32];
        y[2][0] = 0xec;
        y[2][31] = 0x7f;
        y[3] = [
            0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98, 0xf0, 0xd5, 0xdf,
            0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53, 0xfc, 0x05,
        ];
        y[4] = [
            0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67, 0x0f, 0x2a, 0x20,
            0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac, 0x03, 0x7a,
        ];
        y[5] = [0xff; 32];
        y[5][0] = 0xed;
        y[5][31] = 0x7f;
        y[6] = [0xff; 32];
        y[6][0] = 0xee;
        y[6][31] = 0x7f;
        y
    };
    let mut unsigned = *bytes;
    if let Some(last) = unsigned.last_mut() {
        *last &= 0x7f;
    }
    Y.contains(&unsigned)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::Signer;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn small_order_keys_are_refused_in_every_encoding() {
        for point in curve25519_dalek::constants::EIGHT_TORSION {
            let bytes = point.compress().to_bytes();
            assert!(PublicKey::parse(&bytes).is_err(), "{bytes:02x?}");
            let mut flipped = bytes;
            flipped[31] ^= 0x80;
            assert!(PublicKey::parse(&flipped).is_err(), "{flipped:02x?}");
        }
    }

    #[test]
    fn keys_that_are_not_canonical_are_refused() {
        for low in 0xed..=0xff {
            for high in [0x7f, 0xff] {
                let mut bytes = [0xff; 32];
                (bytes[0], bytes[31]) = (low, high);
                assert!(PublicKey::parse(&bytes).is_err());
            }
        }
    }

    #[test]
    fn a_signature_with_s_plus_l_is_refused() {
        let key = SigningKey::from_seed(Secret::copy_of(&[5; 32])).unwrap();
        let mut signature = key.sign_raw(b"m").unwrap();
        assert!(key.public().verify_raw(b"m", &signature).is_ok());
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let mut carry = 0;
        for (s, l) in signature[32..].iter_mut().zip(order) {
            let sum = u16::from(*s) + u16::from(l) + carry;
            (*s, carry) = (sum as u8, sum >> 8);
        }
        assert!(key.public().verify_raw(b"m", &signature).is_err());
    }

    #[test]
    fn labels_separate_signatures() {
        let key = SigningKey::from_seed(Secret::copy_of(&[5; 32])).unwrap();
        let signature = key.sign(SignatureLabel::INITIATOR, b"m").unwrap();
        assert!(key.public().verify(SignatureLabel::INITIATOR, b"m", &signature).is_ok());
        assert!(key.public().verify(SignatureLabel::RESPONDER, b"m", &signature).is_err());
    }

    #[test]
    fn text_form_round_trips_and_refuses_rubbish() {
        let key = *SigningKey::from_seed(Secret::copy_of(&[5; 32])).unwrap().public();
        assert_eq!(PublicKey::from_text(&key.to_text()).unwrap(), key);
        for bad in ["", "ed25519:", "ed25519:zz", &key.to_text()[1..], &format!("{}0", key.to_text()), "ed25519:+1"] {
            assert!(PublicKey::from_text(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn equals_dalek(seed: [u8; 32], message in prop::collection::vec(any::<u8>(), 0..300)) {
            let ours = SigningKey::from_seed(Secret::copy_of(&seed)).unwrap();
            let theirs = ed25519_dalek::SigningKey::from_bytes(&seed);
            prop_assert_eq!(*ours.public().as_bytes(), theirs.verifying_key().to_bytes());
            let signature = ours.sign_raw(&message).unwrap();
            prop_assert_eq!(signature, theirs.sign(&message).to_bytes());
            prop_assert!(theirs.verifying_key().verify_strict(&message, &signature.into()).is_ok());
        }
    }
}
