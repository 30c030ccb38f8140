//! The tail: an append-only file of batches behind the last full bundle (`docs/spec/audit-log.md`, The tail).

use aico_crypto::SIGNATURE_BYTES;

use super::edge::{BUNDLE, Edge, FullTile};
use super::entry::{MAX_SEALED_BYTES, Sealed, join, split};
use super::names::{Names, SignedHead};
use super::{Head, LogId};
use aico_crypto::sha256;

/// Most entries that the tail holds.
pub(super) const MAX_TAIL_ENTRIES: usize = 4096;
/// Most bytes of a tail: every entry of the longest form, in a batch of its own.
pub(super) const MAX_TAIL_BYTES: usize =
    HEADER_BYTES + MAX_TAIL_ENTRIES * (BATCH_HEADER_BYTES + 2 + MAX_SEALED_BYTES + SIGNED_BYTES);

/// The first bytes of a tail; the last of them is the format's number.
pub(super) const MAGIC: &[u8; 8] = b"aicotal\x01";
/// The first bytes of a batch.
pub(super) const BATCH_MAGIC: &[u8; 8] = b"aicobat\x01";
/// Bytes in front of the first batch.
pub(super) const HEADER_BYTES: usize = 40;
/// Bytes in front of a batch's entries.
pub(super) const BATCH_HEADER_BYTES: usize = 32;
/// Bytes behind a batch's entries: root and signature.
pub(super) const SIGNED_BYTES: usize = 32 + SIGNATURE_BYTES;

const CHECK_BYTES: usize = 8;

/// Where and why the tail stops being one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Flaw {
    /// Offset in the file.
    pub(super) at: usize,
    /// Offset of the batch that it is in.
    pub(super) batch_at: usize,
    pub(super) what: &'static str,
}

/// The header of a tail whose first entry is `base`.
pub(super) fn header(log: LogId, base: u64) -> Vec<u8> {
    let mut bytes = [MAGIC.as_slice(), log.as_bytes(), &base.to_be_bytes()].concat();
    bytes.extend_from_slice(&check(&bytes));
    bytes
}

/// Reads the header of this log's tail: the index of its first entry.
pub(super) fn parse_header(bytes: &[u8], log: LogId) -> Result<u64, &'static str> {
    let header = bytes.first_chunk::<HEADER_BYTES>().ok_or("is cut inside its header")?;
    let (fields, found) = header.split_at(HEADER_BYTES - CHECK_BYTES);
    let (front, base) = fields.split_last_chunk::<8>().ok_or("is cut inside its header")?;
    let base = u64::from_be_bytes(*base);
    match () {
        () if !front.starts_with(MAGIC) => Err("does not start as a tail"),
        () if found != check(fields) => Err("is damaged in its header"),
        () if !front.ends_with(log.as_bytes()) => Err("is the tail of another log"),
        () if !base.is_multiple_of(BUNDLE) => Err("does not start at a full bundle"),
        () => Ok(base),
    }
}

/// The format's number of something that starts like a tail.
pub(super) fn format_of(bytes: &[u8]) -> Option<u8> {
    let (name, rest) = bytes.split_at_checked(MAGIC.len() - 1)?;
    if MAGIC.starts_with(name) { rest.first().copied() } else { None }
}

/// One batch: its entries from index `first` on, under a signed head.
pub(super) fn batch<'a>(
    first: u64,
    entries: impl ExactSizeIterator<Item = &'a Sealed>,
    signed: &SignedHead,
) -> Vec<u8> {
    let count = entries.len() as u32;
    let list = join(entries);
    let mut bytes = Vec::with_capacity(BATCH_HEADER_BYTES + list.len() + SIGNED_BYTES);
    bytes.extend_from_slice(BATCH_MAGIC);
    bytes.extend_from_slice(&first.to_be_bytes());
    bytes.extend_from_slice(&count.to_be_bytes());
    bytes.extend_from_slice(&(list.len() as u32).to_be_bytes());
    bytes.extend_from_slice(&check(&bytes));
    bytes.extend_from_slice(&list);
    bytes.extend_from_slice(&signed.head.root);
    bytes.extend_from_slice(&signed.signature);
    bytes
}

/// The fields of a batch's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) first: u64,
    pub(super) count: usize,
    /// Bytes of the list of entries.
    pub(super) list_bytes: usize,
}

impl BatchHeader {
    /// Reads a header; `None` if its own check does not hold.
    pub(super) fn parse(bytes: &[u8]) -> Option<Self> {
        let (fields, rest) = bytes.split_first_chunk::<{ BATCH_HEADER_BYTES - CHECK_BYTES }>()?;
        if rest.first_chunk() != Some(&check(fields)) {
            return None;
        }
        let rest = fields.strip_prefix(BATCH_MAGIC)?;
        let (first, rest) = rest.split_first_chunk()?;
        let (count, rest) = rest.split_first_chunk()?;
        Some(Self {
            first: u64::from_be_bytes(*first),
            count: u32::from_be_bytes(*count) as usize,
            list_bytes: u32::from_be_bytes(*rest.first_chunk()?) as usize,
        })
    }

    /// Bytes of the whole batch.
    pub(super) fn batch_bytes(&self) -> usize {
        BATCH_HEADER_BYTES + self.list_bytes + SIGNED_BYTES
    }
}

fn check(fields: &[u8]) -> [u8; CHECK_BYTES] {
    sha256(&[fields]).first_chunk().copied().unwrap_or_default()
}

/// What a tail's batches amount to, up to the first flaw.
#[derive(Default)]
pub(super) struct Replay {
    /// The tree behind the last good batch.
    pub(super) edge: Edge,
    /// The entries of all good batches.
    pub(super) entries: Vec<Sealed>,
    /// The tiles that they completed.
    pub(super) tiles: Vec<FullTile>,
    /// The head of the last good batch.
    pub(super) signed: Option<SignedHead>,
    /// Number of good batches.
    pub(super) batches: usize,
    /// Why it stopped before the end.
    pub(super) flaw: Option<Flaw>,
}

/// Reads and checks all batches of a tail whose header is good, on top of the tree that ends where the tail begins.
/// `seen` is shown the tree after every entry.
pub(super) fn replay(bytes: &[u8], edge: Edge, names: &Names, seen: &mut dyn FnMut(&Edge)) -> Replay {
    let mut replay = Replay { edge, ..Replay::default() };
    let mut at = HEADER_BYTES;
    while at < bytes.len() {
        match parse_batch(bytes, at, replay.edge.size()).and_then(|batch| replay.take(&batch, names, seen)) {
            Ok(end) => at = end,
            Err((at_flaw, what)) => {
                replay.flaw = Some(Flaw { at: at_flaw, batch_at: at, what });
                break;
            }
        }
    }
    replay
}

struct Batch<'a> {
    entries: Vec<&'a [u8]>,
    root: [u8; 32],
    signature: [u8; SIGNATURE_BYTES],
    root_at: usize,
}

type At<T> = Result<T, (usize, &'static str)>;

fn parse_batch(bytes: &[u8], at: usize, first: u64) -> At<Batch<'_>> {
    let rest = bytes.get(at..).unwrap_or_default();
    let header = BatchHeader::parse(rest).ok_or((at, "does not start as a batch"))?;
    if header.first != first || header.count == 0 || header.count > MAX_TAIL_ENTRIES {
        return Err((at, "is not the batch that belongs here"));
    }
    let (_, body) = rest.split_at_checked(BATCH_HEADER_BYTES).ok_or((at, "does not start as a batch"))?;
    let (list, signed) =
        body.split_at_checked(header.list_bytes).ok_or((bytes.len(), "ends in an incomplete record"))?;
    let (list_at, root_at) = (at + BATCH_HEADER_BYTES, at + BATCH_HEADER_BYTES + list.len());
    let (root, rest) = signed.split_first_chunk().ok_or((bytes.len(), "ends in an incomplete record"))?;
    let (signature, _) = rest.split_first_chunk().ok_or((bytes.len(), "ends in an incomplete record"))?;
    let entries = split(list, header.count).map_err(|offset| (list_at + offset, "is not a list of entries"))?;
    Ok(Batch { entries, root: *root, signature: *signature, root_at })
}

impl Replay {
    /// Takes one batch in, or nothing of it; returns the offset behind it.
    fn take(&mut self, batch: &Batch<'_>, names: &Names, seen: &mut dyn FnMut(&Edge)) -> At<usize> {
        if self.entries.len() + batch.entries.len() > MAX_TAIL_ENTRIES {
            return Err((batch.root_at, "holds more entries than a tail may"));
        }
        let (mut edge, mut tiles, mut entries) =
            (self.edge.clone(), Vec::new(), Vec::with_capacity(batch.entries.len()));
        for bytes in &batch.entries {
            let entry = Sealed::new(bytes.to_vec());
            tiles.extend(edge.push(entry.leaf));
            entries.push(entry);
            seen(&edge);
        }
        let signed = SignedHead { head: Head { size: edge.size(), root: batch.root }, signature: batch.signature };
        if edge.root() != batch.root {
            return Err((batch.root_at, "does not hold the entries that its signed head names"));
        }
        if !names.signed(&signed) {
            return Err((batch.root_at + batch.root.len(), "has a bad signature"));
        }
        (self.edge, self.signed, self.batches) = (edge, Some(signed), self.batches + 1);
        self.tiles.append(&mut tiles);
        self.entries.append(&mut entries);
        Ok(batch.root_at + SIGNED_BYTES)
    }
}
