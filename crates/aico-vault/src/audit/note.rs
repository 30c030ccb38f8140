//! Checkpoints as C2SP signed notes, and the log's verifier key (c2sp.org/signed-note, c2sp.org/tlog-checkpoint).

use aico_crypto::{LogKey, PublicKey, Signature, sha256};
use base64ct::{Base64, Encoding};

use super::tree::Head;
use crate::Error;

/// A log's identifier: the vault's.
pub type LogId = [u8; 16];

/// Longest checkpoint or verifier key in bytes.
pub(super) const MAX_NOTE_BYTES: usize = 4096;

/// A head with a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Which log.
    pub log: LogId,
    /// Its state.
    pub head: Head,
    /// Ed25519 over [`text`].
    pub signature: Signature,
}

/// The name of a log and of its key.
pub(super) fn origin(log: &LogId) -> String {
    log.iter().fold(String::from("aico.local/audit/"), |text, byte| text + &format!("{byte:02x}"))
}

/// What is signed: origin, size, root, a line each.
pub(super) fn text(log: &LogId, head: &Head) -> String {
    format!("{}\n{}\n{}\n", origin(log), head.size, Base64::encode_string(&head.root))
}

/// Four bytes that name a key (c2sp.org/signed-note, Signatures).
fn key_id(log: &LogId, key: &PublicKey) -> [u8; 4] {
    let digest = sha256(&[origin(log).as_bytes(), b"\n\x01", key.as_bytes()]);
    let [a, b, c, d, ..] = digest;
    [a, b, c, d]
}

/// `name+key id+base64(1 ‖ key)`.
pub(super) fn verifier_key(log: &LogId, key: &PublicKey) -> String {
    let id: String = key_id(log, key).iter().map(|byte| format!("{byte:02x}")).collect();
    let encoded = Base64::encode_string(&[&[1], key.as_bytes().as_slice()].concat());
    format!("{}+{id}+{encoded}\n", origin(log))
}

/// Reads a verifier key: which log, and its key.
pub(super) fn parse_verifier_key(line: &str) -> Option<(LogId, PublicKey)> {
    let (name, rest) = line.strip_suffix('\n')?.split_once('+')?;
    let (_, encoded) = rest.split_once('+')?;
    let log = parse_origin(name)?;
    let mut bytes = [0; 33];
    let [1, key @ ..] = Base64::decode(encoded, &mut bytes).ok()? else { return None };
    let key = PublicKey::parse(key.try_into().ok()?).ok()?;
    (verifier_key(&log, &key) == line).then_some((log, key))
}

fn parse_origin(name: &str) -> Option<LogId> {
    let digits = name.strip_prefix("aico.local/audit/")?;
    let mut id = LogId::default();
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != id.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(id)
}

impl Checkpoint {
    /// Signs a head.
    pub(super) fn sign(key: &LogKey, log: LogId, head: Head) -> Result<Self, Error> {
        Ok(Self { log, head, signature: key.sign_note(&text(&log, &head))? })
    }

    /// Whether `key` signed it.
    #[must_use]
    pub fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.verify_note(&text(&self.log, &self.head), &self.signature).is_ok()
    }

    /// The signed note.
    pub(super) fn encode(&self, key: &PublicKey) -> String {
        let signed = [key_id(&self.log, key).as_slice(), &self.signature].concat();
        let (text, origin) = (text(&self.log, &self.head), origin(&self.log));
        format!("{text}\n\u{2014} {origin} {}\n", Base64::encode_string(&signed))
    }

    /// Reads a signed note that was made here: three lines, an empty one, one signature.
    #[must_use]
    pub fn parse(note: &str, key: &PublicKey) -> Option<Self> {
        let (body, signature) = note.split_once("\n\n")?;
        let mut lines = body.split('\n');
        let (origin, size, root) = (lines.next()?, lines.next()?, lines.next()?);
        let log = parse_origin(origin)?;
        let mut root_bytes = [0; 32];
        let root: [u8; 32] = Base64::decode(root, &mut root_bytes).ok()?.try_into().ok()?;
        let encoded =
            signature.strip_prefix("\u{2014} ")?.strip_prefix(origin)?.strip_prefix(' ')?.strip_suffix('\n')?;
        let mut bytes = [0; 68];
        let (_, signature) = Base64::decode(encoded, &mut bytes).ok()?.split_at_checked(4)?;
        let this = Self { log, head: Head { size: size.parse().ok()?, root }, signature: signature.try_into().ok()? };
        // One text has one checkpoint: what does not encode to itself is not one.
        (this.encode(key) == note).then_some(this)
    }
}

#[cfg(test)]
mod tests {
    use aico_crypto::OsRandom;
    use proptest::prelude::*;

    use super::*;

    fn example() -> (PublicKey, Checkpoint) {
        let key = LogKey::make(&OsRandom).unwrap();
        let head = Head { size: 7, root: [9; 32] };
        (key.public().unwrap(), Checkpoint::sign(&key, [5; 16], head).unwrap())
    }

    #[test]
    fn a_checkpoint_is_a_c2sp_signed_note() {
        let (key, checkpoint) = example();
        let note = signed_note::Note::from_bytes(checkpoint.encode(&key).as_bytes()).unwrap();
        let line = verifier_key(&[5; 16], &key);
        let verifier = signed_note::StandardVerifier::new(line.trim_end()).unwrap();
        let (verified, _) = note.verify(&signed_note::VerifierList::new(vec![Box::new(verifier)])).unwrap();
        assert_eq!(verified.len(), 1);
        let theirs = tlog_tiles::Checkpoint::from_bytes(note.text()).unwrap();
        assert_eq!((theirs.size(), theirs.hash().0), (7, [9; 32]));
    }

    #[test]
    fn it_reads_itself_and_no_flipped_bit() {
        let (key, checkpoint) = example();
        let note = checkpoint.encode(&key);
        assert_eq!(Checkpoint::parse(&note, &key).unwrap(), checkpoint);
        assert!(checkpoint.is_signed_by(&key));
        for bit in 0..note.len() * 8 {
            let mut bad = note.clone().into_bytes();
            bad[bit / 8] ^= 1 << (bit % 8);
            let parsed = String::from_utf8(bad).ok().and_then(|text| Checkpoint::parse(&text, &key));
            assert!(!parsed.is_some_and(|c| c.is_signed_by(&key)), "bit {bit}");
        }
    }

    #[test]
    fn a_verifier_key_reads_itself_and_no_flipped_bit() {
        let (key, _) = example();
        let line = verifier_key(&[5; 16], &key);
        assert_eq!(parse_verifier_key(&line), Some(([5; 16], key)));
        for bit in 0..line.len() * 8 {
            let mut bad = line.clone().into_bytes();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(String::from_utf8(bad).ok().and_then(|text| parse_verifier_key(&text)), None, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(text in ".{0,300}") {
            let (key, _) = example();
            prop_assert!(Checkpoint::parse(&text, &key).is_none());
            prop_assert!(parse_verifier_key(&text).is_none());
        }
    }
}
