//! Who speaks: a component's Ed25519 key, kind and name (`docs/spec/channel.md`, Identities).

use std::fmt;

use crate::sign::SigningKey;
use crate::{Error, PublicKey, Random, Secret, Signature, SignatureLabel};

/// Bytes of an encoded identity.
pub const IDENTITY_BYTES: usize = 64;
/// Longest name in bytes.
pub const MAX_NAME_BYTES: usize = 31;

/// What a component is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum ComponentKind {
    /// The backend, which holds the vault.
    Backend = 1,
    /// An app.
    Frontend = 2,
    /// The command line.
    Cli = 3,
    /// The web page.
    Studio = 4,
    /// A plugin's host.
    Plugin = 5,
}

impl ComponentKind {
    const ALL: [(Self, &str); 5] = [
        (Self::Backend, "backend"),
        (Self::Frontend, "frontend"),
        (Self::Cli, "cli"),
        (Self::Studio, "studio"),
        (Self::Plugin, "plugin"),
    ];

    /// The kind's word.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, word)| word)
    }

    /// The kind with this word.
    pub fn from_text(word: &str) -> Result<Self, Error> {
        let found = Self::ALL.iter().find(|(_, w)| *w == word);
        found.map(|(kind, _)| *kind).ok_or(Error::Identity("unknown kind of component"))
    }

    fn from_byte(byte: u8) -> Result<Self, Error> {
        let found = Self::ALL.iter().find(|(kind, _)| *kind as u8 == byte);
        found.map(|(kind, _)| *kind).ok_or(Error::Identity("unknown kind of component"))
    }
}

/// A component's name: 1 to 31 bytes of UTF-8 without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(String);

impl Name {
    /// Checks a name.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() || text.len() > MAX_NAME_BYTES {
            return Err(Error::Identity("a name has 1 to 31 bytes"));
        }
        if text.chars().any(char::is_control) {
            return Err(Error::Identity("a name has no control characters"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A component's public identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    kind: ComponentKind,
    key: PublicKey,
    name: Name,
}

impl Identity {
    /// Puts an identity together.
    #[must_use]
    pub fn new(kind: ComponentKind, key: PublicKey, name: Name) -> Self {
        Self { kind, key, name }
    }

    /// Reads `kind(1) ‖ key(32) ‖ name(31, zero-padded)`.
    pub fn decode(bytes: &[u8; IDENTITY_BYTES]) -> Result<Self, Error> {
        let [kind, rest @ ..] = bytes;
        let (key, name) = rest.split_first_chunk::<32>().ok_or(Error::Identity("too short"))?;
        let used = name.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
        let (name, _zeros) = name.split_at(used);
        let name = std::str::from_utf8(name).map_err(|_| Error::Identity("the name is not UTF-8"))?;
        Ok(Self::new(ComponentKind::from_byte(*kind)?, PublicKey::parse(key)?, Name::parse(name)?))
    }

    /// The 64 bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; IDENTITY_BYTES] {
        let mut out = [0; IDENTITY_BYTES];
        let name = self.name.0.as_bytes();
        let parts = [self.kind as u8].into_iter().chain(*self.key.as_bytes()).chain(name.iter().copied());
        out.iter_mut().zip(parts).for_each(|(to, from)| *to = from);
        out
    }

    /// What the component is.
    #[must_use]
    pub fn kind(&self) -> ComponentKind {
        self.kind
    }

    /// Its public key.
    #[must_use]
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What a person compares.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.key)
    }
}

/// 160 bits of BLAKE2b-256 of a public key, as eight groups of four characters (RFC 4648 base32, lower case).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The fingerprint of `key`.
    #[must_use]
    pub fn of(key: &PublicKey) -> Self {
        const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
        let digest = crate::digest(key.as_bytes());
        let (bytes, _) = digest.split_at(20);
        let mut text = String::new();
        for (group, five) in bytes.as_chunks::<5>().0.iter().enumerate() {
            let bits = five.iter().fold(0u64, |bits, byte| (bits << 8) | u64::from(*byte));
            for place in (0..8).rev() {
                if place == 7 && group > 0 || place == 3 {
                    text.push('-');
                }
                let character = ALPHABET.get((bits >> (5 * place)) as usize & 31).copied().unwrap_or(b'?');
                text.push(char::from(character));
            }
        }
        Self(text)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A component's identity with its secret half.
#[derive(Debug)]
pub struct IdentitySecret {
    signer: SigningKey,
}

impl IdentitySecret {
    /// Makes a new identity key.
    pub fn make(random: &dyn Random) -> Result<Self, Error> {
        Self::from_seed(Secret::make(random)?)
    }

    pub(crate) fn from_seed(seed: Secret<32>) -> Result<Self, Error> {
        SigningKey::from_seed(seed).map(|signer| Self { signer })
    }

    pub(crate) fn seed(&self) -> &[u8; 32] {
        self.signer.seed().bytes()
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        self.signer.public()
    }

    /// Signs `label ‖ message`.
    pub fn sign(&self, label: SignatureLabel, message: &[u8]) -> Result<Signature, Error> {
        self.signer.sign(label, message)
    }

    /// Hands the 64 hexadecimal digits of the seed to `write`, for a component's own identity file.
    pub fn hazmat_to_file<T>(&self, write: impl FnOnce(&str) -> T) -> T {
        crate::tree::with_hex(self.signer.seed(), write)
    }

    /// Reads what [`IdentitySecret::hazmat_to_file`] gave.
    pub fn hazmat_from_file(digits: &str) -> Result<Self, Error> {
        Self::from_seed(crate::tree::from_hex(digits).map_err(|_| Error::Text("identity key"))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OsRandom;

    fn identity(name: &str) -> Identity {
        let key = *IdentitySecret::make(&OsRandom).unwrap().public();
        Identity::new(ComponentKind::Cli, key, Name::parse(name).unwrap())
    }

    #[test]
    fn round_trip() {
        for name in ["c", "thirty-one bytes, as it happens", "日記"] {
            let id = identity(name);
            assert_eq!(Identity::decode(&id.encode()).unwrap(), id);
        }
    }

    #[test]
    fn hostile_encodings_are_refused() {
        let good = identity("cli").encode();
        let with = |at: usize, byte: u8| {
            let mut bad = good;
            bad[at] = byte;
            Identity::decode(&bad)
        };
        for kind in [0, 6, 0x7f, 0xff] {
            assert!(with(0, kind).is_err());
        }
        assert!(with(33, 0).is_err(), "a zero byte inside the name");
        assert!(with(34, 0xff).is_err(), "not UTF-8");
        assert!(with(34, 0x1b).is_err(), "an escape");
        let mut nameless = good;
        nameless[33..].fill(0);
        assert!(Identity::decode(&nameless).is_err());
        let mut small = good;
        small[1..33].fill(0);
        assert!(Identity::decode(&small).is_err());
    }

    #[test]
    fn fingerprint_is_the_documented_one() {
        let key = *IdentitySecret::from_seed(Secret::copy_of(&[1; 32])).unwrap().public();
        let text = Fingerprint::of(&key).to_string();
        assert_eq!(text.len(), 39);
        assert!(
            text.split('-')
                .all(|g| g.len() == 4 && g.bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b)))
        );
        assert_eq!(text, "yxrb-vmoj-6ybc-3aod-wjpd-inwl-p4o7-o74w");
    }
}
