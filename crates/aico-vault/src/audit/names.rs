//! A log's name, its verifier key, and its checkpoints as C2SP signed notes (`docs/spec/audit-log.md`, Names and
//! signatures).

use aico_crypto::sha256;
use aico_crypto::{LogKey, PUBLIC_KEY_BYTES, PublicKey, SIGNATURE_BYTES, Signature};
use base64ct::{Base64, Encoding};

use super::{Head, LogId};
use crate::Error;

/// Most bytes of a checkpoint or verifier key that is read.
pub(super) const MAX_NOTE_BYTES: usize = 16 * 1024;

const ORIGIN_PREFIX: &str = "aico.local/audit/";
/// C2SP's signature type of Ed25519.
const ED25519: u8 = 1;
const KEY_ID_BYTES: usize = 4;

/// A head and the log's signature over its text.
#[derive(Clone, Copy, Debug)]
pub(super) struct SignedHead {
    pub(super) head: Head,
    pub(super) signature: Signature,
}

/// What names a log: its identifier and its public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    log_id: LogId,
    key: PublicKey,
}

impl Names {
    pub(super) fn new(log_id: LogId, key: PublicKey) -> Self {
        Self { log_id, key }
    }

    pub(super) fn log_id(&self) -> LogId {
        self.log_id
    }

    pub(super) fn key(&self) -> &PublicKey {
        &self.key
    }

    /// The origin line of checkpoints, which is also the key's name.
    pub(super) fn origin(&self) -> String {
        format!("{ORIGIN_PREFIX}{}", self.log_id)
    }

    /// The verifier key: name, key id and key, and a line feed.
    pub(super) fn vkey(&self) -> String {
        let id = self.key_id().iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        format!("{}+{id}+{}\n", self.origin(), Base64::encode_string(&self.typed_key()))
    }

    /// Reads the exact form that [`Names::vkey`] gives.
    pub(super) fn parse_vkey(text: &str) -> Option<Self> {
        let mut parts = text.strip_suffix('\n')?.splitn(3, '+');
        let log_id = parse_log_id(parts.next()?.strip_prefix(ORIGIN_PREFIX)?)?;
        let mut typed = [0; 1 + PUBLIC_KEY_BYTES];
        let typed = Base64::decode(parts.nth(1)?, &mut typed).ok()?;
        let key = typed.get(1..)?.first_chunk()?;
        let names = Self::new(log_id, PublicKey::parse(key).ok()?);
        (names.vkey() == text).then_some(names)
    }

    /// The text that is signed: origin, size, root, each with a line feed.
    pub(super) fn text(&self, head: &Head) -> String {
        format!("{}\n{}\n{}\n", self.origin(), head.size, Base64::encode_string(&head.root))
    }

    /// Signs a head.
    pub(super) fn sign(&self, head: Head, key: &LogKey) -> Result<SignedHead, Error> {
        Ok(SignedHead { head, signature: key.sign_note(&self.text(&head))? })
    }

    /// Whether the signature is this log's.
    pub(super) fn signed(&self, signed: &SignedHead) -> bool {
        self.key.verify_note(&self.text(&signed.head), &signed.signature).is_ok()
    }

    /// The checkpoint: the text and one signature line.
    pub(super) fn note(&self, signed: &SignedHead) -> String {
        let signature = [self.key_id().as_slice(), &signed.signature].concat();
        format!("{}\n\u{2014} {} {}\n", self.text(&signed.head), self.origin(), Base64::encode_string(&signature))
    }

    /// Reads a checkpoint of this log: the exact form of [`Names::note`], and a good signature.
    pub(super) fn parse_note(&self, note: &str) -> Result<SignedHead, &'static str> {
        let signed = self.find_signature(note)?;
        if self.note(&signed) == note { Ok(signed) } else { Err("is not in the form in which it was written") }
    }

    /// Reads a checkpoint that may carry others' signatures as well; this log's must be there and good.
    pub(super) fn find_signature(&self, note: &str) -> Result<SignedHead, &'static str> {
        let (text, signatures) = note.split_once("\n\n").ok_or("is not a signed note")?;
        let head = parse_text(text).ok_or("is not a checkpoint")?;
        if self.text(&head) != format!("{text}\n") {
            return Err("is the checkpoint of another log");
        }
        let ours = |line| Some(SignedHead { head, signature: self.parse_signature(line)? });
        let signed = signatures.lines().find_map(ours).ok_or("has no signature of the log's key")?;
        if self.signed(&signed) { Ok(signed) } else { Err("has a bad signature") }
    }

    fn parse_signature(&self, line: &str) -> Option<Signature> {
        let digits = line.strip_prefix("\u{2014} ")?.strip_prefix(&self.origin())?.strip_prefix(' ')?;
        let mut bytes = [0; KEY_ID_BYTES + SIGNATURE_BYTES];
        let bytes = Base64::decode(digits, &mut bytes).ok()?;
        let (id, signature) = bytes.split_first_chunk()?;
        if *id == self.key_id() { signature.try_into().ok() } else { None }
    }

    fn key_id(&self) -> [u8; KEY_ID_BYTES] {
        let hash = sha256(&[self.origin().as_bytes(), b"\n", &self.typed_key()]);
        hash.first_chunk().copied().unwrap_or_default()
    }

    fn typed_key(&self) -> Vec<u8> {
        [&[ED25519], self.key.as_bytes().as_slice()].concat()
    }
}

fn parse_text(text: &str) -> Option<Head> {
    let mut lines = text.split('\n').skip(1);
    let size = lines.next()?.parse().ok()?;
    let mut root = [0; 32];
    let decoded = Base64::decode(lines.next()?, &mut root).ok()?.len();
    (decoded == root.len() && lines.next().is_none()).then_some(Head { size, root })
}

fn parse_log_id(digits: &str) -> Option<LogId> {
    let mut id = [0; 16];
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    if pairs.len() != id.len() || !rest.is_empty() {
        return None;
    }
    for (byte, pair) in id.iter_mut().zip(pairs) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(LogId(id))
}

#[cfg(test)]
mod tests {
    use aico_crypto::OsRandom;
    use proptest::prelude::*;
    use signed_note::{Note, StandardVerifier, VerifierList};
    use tlog_tiles::Checkpoint;

    use super::*;

    fn signed(size: u64) -> (Names, String) {
        let key = LogKey::make(&OsRandom).unwrap();
        let names = Names::new(LogId([0xab; 16]), key.public().unwrap());
        let note = names.note(&names.sign(Head { size, root: [size as u8; 32] }, &key).unwrap());
        (names, note)
    }

    #[test]
    fn signed_note_accepts_our_checkpoints_and_refuses_altered_ones() {
        let (names, note) = signed(600);
        let verifiers = || {
            let vkey = names.vkey();
            VerifierList::new(vec![Box::new(StandardVerifier::new(vkey.trim_end()).unwrap())])
        };
        let theirs = Note::from_bytes(note.as_bytes()).unwrap();
        let (good, unknown) = theirs.verify(&verifiers()).unwrap();
        assert_eq!((good.len(), unknown.len()), (1, 0));
        let checkpoint = Checkpoint::from_bytes(theirs.text()).unwrap();
        assert_eq!((checkpoint.origin(), checkpoint.size()), (names.origin().as_str(), 600));
        assert_eq!(checkpoint.hash().0, [600u64 as u8; 32]);
        let altered = note.replacen("600", "601", 1);
        assert!(Note::from_bytes(altered.as_bytes()).unwrap().verify(&verifiers()).is_err());
    }

    #[test]
    fn every_flipped_bit_of_a_note_and_a_vkey_is_noticed() {
        let (names, note) = signed(512);
        assert_eq!(names.parse_note(&note).unwrap().head.size, 512);
        for (text, note_not_vkey) in [(note, true), (names.vkey(), false)] {
            for bit in 0..text.len() * 8 {
                let mut bad = text.clone().into_bytes();
                bad[bit / 8] ^= 1 << (bit % 8);
                let Ok(bad) = String::from_utf8(bad) else { continue };
                if note_not_vkey {
                    assert!(names.parse_note(&bad).is_err(), "{bad}");
                } else {
                    assert_ne!(Names::parse_vkey(&bad), Some(names.clone()), "{bad}");
                }
            }
            for cut in (0..text.len()).filter(|cut| text.is_char_boundary(*cut)) {
                assert!(names.parse_note(&text[..cut]).is_err() && Names::parse_vkey(&text[..cut]).is_none());
            }
        }
    }

    #[test]
    fn a_cosigned_checkpoint_is_an_anchor_but_not_the_stored_form() {
        let (names, note) = signed(3);
        let (other, other_note) = signed(3);
        let cosigned = format!("{note}\u{2014} witness.example AAAAAAAA\n");
        assert_eq!(names.find_signature(&cosigned).unwrap().head.size, 3);
        assert!(names.parse_note(&cosigned).is_err());
        assert!(names.find_signature(&other_note).is_err(), "another key under the same name");
        assert_ne!(names.vkey(), other.vkey());
    }

    proptest! {
        #[test]
        fn rubbish_is_never_more_than_an_error(text in "\\PC{0,300}", lines in "(aico.local/audit/[0-9a-f]{32}\n[0-9]{0,22}\n[A-Za-z0-9+/=]{0,60}\n\n. ?[a-z./0-9]{0,60} [A-Za-z0-9+/=]{0,100}\n){1,2}") {
            let (names, _) = signed(1);
            prop_assert!(names.parse_note(&text).is_err() && names.parse_note(&lines).is_err());
            prop_assert!(Names::parse_vkey(&text).is_none() && Names::parse_vkey(&lines).is_none());
        }
    }
}
