//! One pass over the log: names, checkpoint, bundles, tail, then every file's right to be there.

use base64ct::{Base64, Encoding};
use tlog_tiles::HASH_SIZE;

use super::anchor::Witness;
use super::{Expectations, Finding, MAX_FINDINGS, Report, Snapshot, VerifyError, readable};
use crate::audit::Head;
use crate::audit::disk::Disk;
use crate::audit::edge::{BUNDLE, Edge, FullTile, LEVELS, TILE_WIDTH, tile_index, width};
use crate::audit::entry::join;
use crate::audit::layout::Place;
use crate::audit::names::{MAX_NOTE_BYTES, Names, SignedHead};
use crate::audit::read::MAX_BUNDLE_BYTES;
use crate::audit::tail::{self, Replay};
use crate::audit::torn::is_torn;

/// Of a file that must be there.
pub(super) const MISSING: &str = "is missing, or no file of the right size";

/// A pass under way.
pub(super) struct Check<'a> {
    pub(super) disk: &'a Disk,
    pub(super) findings: Vec<Finding>,
    pub(super) notes: Vec<String>,
    /// Entries are missing or contradict everything: what is computed from them says nothing any more.
    pub(super) broken: bool,
}

/// How far the log's parts reach, in entries.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// Where the tail begins.
    pub(super) base: u64,
    /// Up to where the checkpoint vouches for bundles and tiles.
    pub(super) checkpoint: u64,
    /// Up to where there may be bundles and tiles, if a write was interrupted.
    pub(super) bundles: u64,
}

/// What one pass has found.
pub(super) struct Passed {
    /// What the log is, if nothing of `findings` counts.
    pub(super) report: Option<Report>,
    pub(super) findings: Vec<Finding>,
}

impl Passed {
    /// The verdict, if the log stood still.
    pub(super) fn verdict(self) -> Result<Report, VerifyError> {
        match self.report {
            Some(report) if self.findings.is_empty() => Ok(report),
            _ => Err(VerifyError::Findings(self.findings)),
        }
    }
}

/// Checks the log as it was when `snapshot` was taken.
pub(super) fn pass(disk: &Disk, snapshot: &Snapshot, expected: &Expectations) -> Result<Passed, crate::Error> {
    let mut check = Check { disk, findings: Vec::new(), notes: Vec::new(), broken: false };
    let report = check.run(snapshot, expected)?;
    let report = report.map(|report| Report { notes: check.notes, ..report });
    Ok(Passed { report, findings: check.findings })
}

impl Check<'_> {
    fn run(&mut self, snapshot: &Snapshot, expected: &Expectations) -> Result<Option<Report>, crate::Error> {
        let Some(names) = self.names(expected)? else { return Ok(None) };
        let checkpoint = self.checkpoint(snapshot, &names);
        let base = self.tail_header(snapshot, &names);
        let Some((base, size)) = self.compare_ends(base, checkpoint.map(|signed| signed.head.size)) else {
            return Ok(None);
        };
        let mut witness = Witness::new(size, expected.anchor.as_ref(), &names, self);
        let mut edge = Edge::default();
        witness.see(&edge);
        self.bundles(base, size, &mut edge, &mut witness)?;
        let replay = self.tail(snapshot, edge, &names, &mut witness);
        let end = replay.edge.size();
        let extent = Extent { base, checkpoint: size, bundles: size.max(end / BUNDLE * BUNDLE) };
        self.unpublished(&replay, extent)?;
        self.edge_tiles(&witness, extent)?;
        self.compare_heads(&witness, checkpoint.as_ref(), end);
        self.walk(&replay, extent)?;
        Ok(Some(report(&replay, &names, expected, &witness)))
    }

    /// Reads the verifier key; without it nothing can be said of signatures.
    fn names(&mut self, expected: &Expectations) -> Result<Option<Names>, crate::Error> {
        let Some(bytes) = self.need(Place::Vkey, MAX_NOTE_BYTES)? else { return Ok(None) };
        let names = std::str::from_utf8(&bytes).ok().and_then(Names::parse_vkey);
        match &names {
            None => self.find(Place::Vkey, "", "is not the verifier key of an audit log"),
            Some(names) if expected.key.is_some_and(|key| key != *names.key()) => {
                self.find(Place::Vkey, "", "is not the vault's key: the log was signed by somebody else");
            }
            Some(_) => {}
        }
        Ok(names)
    }

    fn checkpoint(&mut self, snapshot: &Snapshot, names: &Names) -> Option<SignedHead> {
        let Some(bytes) = &snapshot.checkpoint else {
            self.find(Place::Checkpoint, "", "is missing");
            return None;
        };
        let signed = std::str::from_utf8(bytes).map_err(|_| "is not text").and_then(|note| names.parse_note(note));
        match signed {
            Ok(signed) if signed.head.size.is_multiple_of(BUNDLE) => return Some(signed),
            Ok(_) => self.find(Place::Checkpoint, "", "does not end at a full bundle"),
            Err(what) => self.find(Place::Checkpoint, "", what),
        }
        None
    }

    fn tail_header(&mut self, snapshot: &Snapshot, names: &Names) -> Option<u64> {
        let header = snapshot.tail.as_ref().map(|bytes| tail::parse_header(bytes, names.log_id()));
        let base = header.unwrap_or(Err("is missing"));
        base.map_err(|what| self.find(Place::Tail, "", what)).ok()
    }

    /// Where the tail begins and where the checkpoint ends; one stands in for the other if that is damaged.
    fn compare_ends(&mut self, base: Option<u64>, size: Option<u64>) -> Option<(u64, u64)> {
        let (begins, ends) = (base.or(size)?, size.or(base)?);
        if begins > ends {
            let place = format!("entry {ends}");
            self.find(Place::Checkpoint, &place, &format!("is older than the tail, which begins at entry {begins}"));
            return Some((begins, begins));
        }
        Some((begins, ends))
    }

    fn tail(&mut self, snapshot: &Snapshot, edge: Edge, names: &Names, witness: &mut Witness<'_>) -> Replay {
        let bytes = snapshot.tail.as_deref().filter(|bytes| tail::parse_header(bytes, names.log_id()).is_ok());
        if self.broken {
            return Replay { edge, ..Replay::default() };
        }
        let replay = tail::replay(bytes.unwrap_or_default(), edge, names, &mut |edge| witness.see(edge));
        if let Some(flaw) = replay.flaw {
            let torn = is_torn(bytes.unwrap_or_default(), flaw.batch_at, replay.edge.size());
            let what =
                if torn { "the log ends in an incomplete record; start the backend to repair it" } else { flaw.what };
            self.find(Place::Tail, &format!("byte {}", flaw.at), what);
        }
        replay
    }

    /// Bundles and tiles that the tail holds as well: those the checkpoint vouches for must be there, the rest may.
    fn unpublished(&mut self, replay: &Replay, extent: Extent) -> Result<(), crate::Error> {
        for (index, entries) in (extent.base / BUNDLE..).zip(replay.entries.as_chunks::<TILE_WIDTH>().0) {
            let must = index < extent.checkpoint / BUNDLE;
            self.compare(Place::Bundle(index), &join(entries), MAX_BUNDLE_BYTES, must)?;
        }
        for tile in &replay.tiles {
            let must = tile.index < tile_index(extent.checkpoint, tile.level);
            self.compare_tile(tile, must)?;
        }
        if extent.base != extent.bundles {
            self.notes.push("a write was interrupted; the backend finishes it when it starts".into());
        }
        Ok(())
    }

    /// The partial tiles that belong to the checkpoint.
    fn edge_tiles(&mut self, witness: &Witness<'_>, extent: Extent) -> Result<(), crate::Error> {
        let Some(edge) = witness.edge_at_checkpoint().filter(|_| !self.broken) else { return Ok(()) };
        let size = extent.checkpoint;
        for level in 1..LEVELS {
            if let Some(place) = Place::tile(level, tile_index(size, level), width(size, level)) {
                self.compare(place, edge.level(level), TILE_WIDTH * HASH_SIZE, true)?;
            }
        }
        Ok(())
    }

    fn compare_heads(&mut self, witness: &Witness<'_>, checkpoint: Option<&SignedHead>, end: u64) {
        if self.broken {
            return;
        }
        if let Some(SignedHead { head, .. }) = checkpoint {
            match witness.edge_at_checkpoint() {
                None => self.find(Place::Tail, &format!("entry {end}"), "ends before the checkpoint"),
                Some(edge) if edge.root() != head.root => {
                    self.find(Place::Checkpoint, "root", "is not the root of the entries");
                }
                Some(_) => {}
            }
        }
        witness.compare_anchor(end, self);
    }

    /// Compares a full tile with its file.
    pub(super) fn compare_tile(&mut self, tile: &FullTile, must: bool) -> Result<(), crate::Error> {
        let place = Place::Tile { level: tile.level, index: tile.index };
        self.compare(place, &tile.hashes, TILE_WIDTH * HASH_SIZE, must)
    }

    /// Compares a file with what it must hold; whether it must exist is said too.
    pub(super) fn compare(
        &mut self,
        place: Place,
        wanted: &[u8],
        limit: usize,
        must: bool,
    ) -> Result<(), crate::Error> {
        let found = if must { self.need(place, limit)? } else { readable(self.disk, place, limit)? };
        if let Some(found) = found.filter(|found| found != wanted) {
            let at = found.iter().zip(wanted).take_while(|(found, wanted)| found == wanted).count();
            self.find(place, &format!("byte {at}"), "is not what belongs there");
        }
        Ok(())
    }

    /// A file that must be there.
    pub(super) fn need(&mut self, place: Place, limit: usize) -> Result<Option<Vec<u8>>, crate::Error> {
        let bytes = readable(self.disk, place, limit)?;
        if bytes.is_none() {
            self.find(place, "", MISSING);
        }
        Ok(bytes)
    }

    pub(super) fn find(&mut self, file: Place, at: &str, what: &str) {
        self.find_at(file.path(), at, what);
    }

    pub(super) fn find_at(&mut self, file: String, at: &str, what: &str) {
        if !self.is_full() {
            self.findings.push(Finding { file, place: at.into(), what: what.into() });
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.findings.len() >= MAX_FINDINGS
    }
}

fn report(replay: &Replay, names: &Names, expected: &Expectations, witness: &Witness<'_>) -> Report {
    let head = Head { size: replay.edge.size(), root: replay.edge.root() };
    Report {
        size: head.size,
        root: Base64::encode_string(&head.root),
        key: *names.key(),
        key_expected: expected.key.is_some(),
        anchored: witness.anchored(),
        notes: Vec::new(),
    }
}
