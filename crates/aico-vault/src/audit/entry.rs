//! Entries: padding, sealing, and the list form that bundles and batches share (`docs/spec/audit-log.md`, Entries).

use aico_crypto::{LogSealKey, NONCE_BYTES, Random, TAG_BYTES};
use tlog_tiles::{Hash, record_hash};

use super::LogId;
use crate::Error;

/// Most bytes of an entry, before padding and sealing.
pub const MAX_ENTRY_BYTES: usize = 4096;

/// Entries are padded to a multiple of this.
const PADDING_BYTES: usize = 64;
const OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;
const MIN_SEALED_BYTES: usize = OVERHEAD_BYTES + PADDING_BYTES;
/// Most bytes of a sealed entry.
pub(super) const MAX_SEALED_BYTES: usize = OVERHEAD_BYTES + MAX_ENTRY_BYTES + PADDING_BYTES;

/// One sealed entry and the hash of its leaf.
#[derive(Clone, Debug)]
pub(super) struct Sealed {
    pub(super) bytes: Vec<u8>,
    pub(super) leaf: Hash,
}

impl Sealed {
    /// Takes sealed bytes in.
    pub(super) fn new(bytes: Vec<u8>) -> Self {
        let leaf = record_hash(&bytes);
        Self { bytes, leaf }
    }

    /// Pads and seals `entry` for its place.
    pub(super) fn seal(
        key: &LogSealKey,
        log: LogId,
        index: u64,
        entry: &[u8],
        random: &dyn Random,
    ) -> Result<Self, Error> {
        Ok(Self::new(key.seal(&place(log, index), &pad(entry)?, random)?))
    }
}

/// Opens sealed bytes that stand at `index`.
pub(super) fn open(key: &LogSealKey, log: LogId, index: u64, sealed: &[u8]) -> Result<Vec<u8>, Error> {
    let not_ours = || Error::damaged("the audit log", format!("entry {index} does not open"));
    let mut entry = key.open(&place(log, index), sealed).map_err(|_| not_ours())?;
    let end = entry.iter().rposition(|byte| *byte != 0).ok_or_else(not_ours)?;
    if entry.get(end) != Some(&0x80) {
        return Err(not_ours());
    }
    entry.truncate(end);
    Ok(entry)
}

fn pad(entry: &[u8]) -> Result<Vec<u8>, Error> {
    if entry.len() > MAX_ENTRY_BYTES {
        return Err(Error::Misuse("an audit entry has at most 4096 bytes"));
    }
    let mut padded = entry.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(PADDING_BYTES), 0);
    Ok(padded)
}

fn place(log: LogId, index: u64) -> [u8; 24] {
    let mut place = [0; 24];
    let (front, back) = place.split_at_mut(16);
    front.copy_from_slice(log.as_bytes());
    back.copy_from_slice(&index.to_be_bytes());
    place
}

/// The list form: each entry behind its length, two bytes, most significant first.
pub(super) fn join<'a>(entries: impl IntoIterator<Item = &'a Sealed>) -> Vec<u8> {
    let mut list = Vec::new();
    for entry in entries {
        // INVARIANT: a sealed entry has at most MAX_SEALED_BYTES bytes, which fits.
        list.extend_from_slice(&u16::try_from(entry.bytes.len()).unwrap_or(u16::MAX).to_be_bytes());
        list.extend_from_slice(&entry.bytes);
    }
    list
}

/// Reads exactly `count` entries that fill `list`; an error is the offset at which it stops being a list.
pub(super) fn split(list: &[u8], count: usize) -> Result<Vec<&[u8]>, usize> {
    let mut entries = Vec::with_capacity(count.min(list.len() / MIN_SEALED_BYTES + 1));
    let mut rest = list;
    for _ in 0..count {
        let at = list.len() - rest.len();
        let (length, behind) = rest.split_first_chunk::<2>().ok_or(at)?;
        let length = usize::from(u16::from_be_bytes(*length));
        if !(MIN_SEALED_BYTES..=MAX_SEALED_BYTES).contains(&length)
            || !(length - OVERHEAD_BYTES).is_multiple_of(PADDING_BYTES)
        {
            return Err(at);
        }
        let (entry, behind) = behind.split_at_checked(length).ok_or(at)?;
        entries.push(entry);
        rest = behind;
    }
    if rest.is_empty() { Ok(entries) } else { Err(list.len() - rest.len()) }
}

#[cfg(test)]
mod tests {
    use aico_crypto::{LogKey, OsRandom};
    use proptest::prelude::*;

    use super::*;

    const LOG: LogId = LogId([1; 16]);

    #[test]
    fn lengths_say_little_and_entries_survive() {
        let key = LogKey::make(&OsRandom).unwrap().seal_key();
        for (bytes, sealed_bytes) in [(0, 104), (1, 104), (63, 104), (64, 168), (127, 168), (128, 232), (4096, 4200)] {
            let entry = vec![0; bytes];
            let sealed = Sealed::seal(&key, LOG, 9, &entry, &OsRandom).unwrap();
            assert_eq!(sealed.bytes.len(), sealed_bytes, "{bytes}");
            assert_eq!(open(&key, LOG, 9, &sealed.bytes).unwrap(), entry);
            assert!(open(&key, LOG, 8, &sealed.bytes).is_err(), "another place");
            assert!(open(&key, LogId([2; 16]), 9, &sealed.bytes).is_err(), "another log");
        }
        assert!(Sealed::seal(&key, LOG, 0, &[0; MAX_ENTRY_BYTES + 1], &OsRandom).is_err());
    }

    #[test]
    fn a_list_is_read_back_and_every_cut_is_noticed() {
        let key = LogKey::make(&OsRandom).unwrap().seal_key();
        let entries: Vec<Sealed> =
            (0..3).map(|index| Sealed::seal(&key, LOG, index, b"entry", &OsRandom).unwrap()).collect();
        let list = join(&entries);
        let back = split(&list, 3).unwrap();
        assert!(back.iter().zip(&entries).all(|(a, b)| *a == b.bytes));
        assert!((0..list.len()).all(|cut| split(&list[..cut], 3).is_err()));
        assert_eq!(split(&list, 2), Err(2 * 106));
        assert_eq!(split(&list, 4), Err(3 * 106));
    }

    proptest! {
        #[test]
        fn rubbish_is_never_more_than_an_error(list in prop::collection::vec(any::<u8>(), 0..9000), count in 0..5000usize) {
            if let Ok(entries) = split(&list, count) {
                prop_assert_eq!(entries.len(), count);
            }
        }
    }
}
