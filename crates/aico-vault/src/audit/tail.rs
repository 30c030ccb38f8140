//! The tail: durable batches since the last whole bundle (`docs/spec/audit-log.md`, Tail).

use aico_crypto::{LogKey, PublicKey, SIGNATURE_BYTES};

use super::WIDTH;
use super::note::{Checkpoint, LogId};
use super::tree::{Edge, Head, leaf_hash};
use crate::Error;

const MAGIC: &[u8; 8] = b"AICOTAIL";
/// Magic, log, first index.
pub(super) const HEADER_BYTES: usize = 8 + 16 + 8;
/// Root and signature at the end of a batch.
const HEAD_BYTES: usize = 32 + SIGNATURE_BYTES;
/// The largest tail: a bundle of the longest entries, each in a batch of its own.
pub(super) const MAX_TAIL_BYTES: usize = 2 << 20;

/// A tail's first bytes.
pub(super) fn header(log: &LogId, first: u64) -> Vec<u8> {
    [MAGIC.as_slice(), log, &first.to_be_bytes()].concat()
}

/// One batch: length, first index, count, entries, and the signed head of the log that ends with it.
pub(super) fn batch(key: &LogKey, log: LogId, edge: &mut Edge, entries: &[Vec<u8>]) -> Result<Vec<u8>, Error> {
    let mut body = edge.size().to_be_bytes().to_vec();
    body.extend_from_slice(&(entries.len() as u16).to_be_bytes());
    for sealed in entries {
        body.extend_from_slice(&(sealed.len() as u16).to_be_bytes());
        body.extend_from_slice(sealed);
        edge.push(0, leaf_hash(sealed));
    }
    let signed = Checkpoint::sign(key, log, edge.head())?;
    body.extend_from_slice(&signed.head.root);
    body.extend_from_slice(&signed.signature);
    Ok([&(body.len() as u32).to_be_bytes(), body.as_slice()].concat())
}

/// A tail, read and checked.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// Sealed entries from the first index on.
    pub(super) entries: Vec<Vec<u8>>,
    /// Bytes that hold whole batches.
    pub(super) whole_bytes: usize,
    /// Whether a batch follows that was never whole.
    pub(super) torn: bool,
}

/// Reads a tail that continues `edge`, and checks every batch's head.
pub(super) fn read(bytes: &[u8], log: &LogId, key: &PublicKey, edge: &mut Edge) -> Result<Tail, &'static str> {
    let rest = bytes.strip_prefix(header(log, edge.size()).as_slice()).ok_or("its header is wrong")?;
    let mut tail = Tail { whole_bytes: HEADER_BYTES, ..Tail::default() };
    let mut rest = rest;
    while !rest.is_empty() {
        let Some((body, next)) = split_batch(rest) else {
            tail.torn = true;
            break;
        };
        match read_batch(body, log, key, edge) {
            Ok(entries) => tail.entries.extend(entries),
            // A stop may leave the last batch's place without its bytes.
            Err(_) if next.is_empty() && body.ends_with(&[0; SIGNATURE_BYTES]) => {
                tail.torn = true;
                break;
            }
            Err(fault) => return Err(fault),
        }
        if tail.entries.len() as u64 > WIDTH {
            return Err("it has more entries than a bundle");
        }
        tail.whole_bytes += rest.len() - next.len();
        rest = next;
    }
    Ok(tail)
}

/// The first batch and what follows; none where it is cut.
fn split_batch(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_be_bytes(*length) as usize)
}

fn read_batch(body: &[u8], log: &LogId, key: &PublicKey, edge: &mut Edge) -> Result<Vec<Vec<u8>>, &'static str> {
    const SHORT: &str = "a batch is too short";
    let (first, rest) = body.split_first_chunk::<8>().ok_or(SHORT)?;
    let (count, rest) = rest.split_first_chunk::<2>().ok_or(SHORT)?;
    if u64::from_be_bytes(*first) != edge.size() {
        return Err("a batch does not continue the one before it");
    }
    let (mut rest, signed) = rest.split_at_checked(rest.len().checked_sub(HEAD_BYTES).ok_or(SHORT)?).ok_or(SHORT)?;
    // INVARIANT: `edge` moves only with a batch whose head is signed.
    let (mut grown, mut entries) = (edge.clone(), Vec::new());
    for _ in 0..u16::from_be_bytes(*count) {
        let (sealed, next) = split_entry(rest).ok_or("an entry is cut")?;
        grown.push(0, leaf_hash(sealed));
        entries.push(sealed.to_vec());
        rest = next;
    }
    if !rest.is_empty() || entries.is_empty() {
        return Err("a batch has no entries, or bytes behind them");
    }
    let (root, signature) = signed.split_first_chunk::<32>().ok_or(SHORT)?;
    let head: Head = grown.head();
    let signature = signature.try_into().map_err(|_| SHORT)?;
    if *root != head.root || !(Checkpoint { log: *log, head, signature }).is_signed_by(key) {
        return Err("a batch's signed head does not hold");
    }
    *edge = grown;
    Ok(entries)
}

/// The first entry of a batch or a bundle, `length(2) ‖ sealed`, and what follows.
pub(super) fn split_entry(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}
