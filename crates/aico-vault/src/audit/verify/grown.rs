//! A log that was written to during every pass: what of the findings is its growth, and no damage.

use super::check::{MISSING, Passed};
use super::walk::{EMPTY_FOLDER, STRANGE, is_folder};
use super::{Finding, Snapshot, readable};
use crate::audit::disk::Disk;
use crate::audit::edge::{BUNDLE, tile_hashes, tile_index};
use crate::audit::layout::Place;
use crate::audit::names::{MAX_NOTE_BYTES, Names};
use crate::audit::tail::MAX_TAIL_ENTRIES;

/// `passed` without what comes from the log's growth between `snapshot` and `newer`. Whatever was compared with the entries
/// was compared as it stood at `snapshot`: the report is of that state, and what has come since is for the next check.
pub(super) fn without_growth(mut passed: Passed, snapshot: &Snapshot, newer: &Snapshot, disk: &Disk) -> Passed {
    let Some((from, to)) = sizes(snapshot, newer, disk).filter(|(from, to)| from < to) else { return passed };
    passed.findings.retain(|finding| !is_growth(finding, from, to));
    if let Some(report) = passed.report.as_mut().filter(|_| passed.findings.is_empty()) {
        report.notes.push("it grew while it was checked; what came meanwhile was not looked at".into());
    }
    passed
}

/// What both checkpoints vouch for, in entries.
fn sizes(snapshot: &Snapshot, newer: &Snapshot, disk: &Disk) -> Option<(u64, u64)> {
    let key = readable(disk, Place::Vkey, MAX_NOTE_BYTES).ok().flatten()?;
    let names = std::str::from_utf8(&key).ok().and_then(Names::parse_vkey)?;
    let size = |snapshot: &Snapshot| {
        let note = std::str::from_utf8(snapshot.checkpoint.as_ref()?).ok()?;
        names.parse_note(note).ok().map(|signed| signed.head.size)
    };
    Some((size(snapshot)?, size(newer)?))
}

/// Whether a log that has grown from `from` to `to` entries, and may be growing further, shows this.
fn is_growth(finding: &Finding, from: u64, to: u64) -> bool {
    let most = to.saturating_add(MAX_TAIL_ENTRIES as u64);
    match (finding.what.as_str(), Place::parse(&finding.file)) {
        // A wider tile has taken its place.
        (MISSING, Some(Place::Partial { level, index, width })) => {
            index * BUNDLE + u64::from(width) == tile_hashes(from, level)
        }
        (STRANGE, Some(Place::Bundle(index))) => (from / BUNDLE..most / BUNDLE).contains(&index),
        (STRANGE, Some(Place::Tile { level, index })) => {
            (tile_index(from, level)..tile_index(most, level)).contains(&index)
        }
        (STRANGE, Some(Place::Partial { level, index, width })) => {
            let hashes = index * BUNDLE + u64::from(width);
            level > 0 && (tile_hashes(from, level)..=tile_hashes(most, level)).contains(&hashes)
        }
        (EMPTY_FOLDER, None) => is_folder(&finding.file),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_growth_leaves_is_growth() {
        let finding = |file: &str, what: &str| Finding { file: file.into(), place: String::new(), what: what.into() };
        // From 22 to 23 bundles.
        let is = |file: &str, what: &str| is_growth(&finding(file, what), 22 * 256, 23 * 256);
        assert!(is("tile/1/000.p/22", MISSING) && is("tile/entries/022", STRANGE) && is("tile/0/022", STRANGE));
        assert!(is("tile/1/000.p/23", STRANGE) && is("tile/1/000.p", EMPTY_FOLDER) && is("tile/1", EMPTY_FOLDER));
        let end = 23 + MAX_TAIL_ENTRIES / 256;
        for (file, what) in [
            ("tile/1/000.p/21", MISSING),
            ("tile/1/000.p/23", MISSING),
            ("tile/entries/021", MISSING),
            ("tile/0/021", MISSING),
            ("checkpoint", MISSING),
            ("tile/entries/021", STRANGE),
            ("tile/0/021", STRANGE),
            ("tile/1/000.p/21", STRANGE),
            ("tile/0/022.p/5", STRANGE),
            ("rubbish", STRANGE),
            ("rubbish", EMPTY_FOLDER),
            ("tile/entries/022", "is not what belongs there"),
            ("checkpoint", "is not the root of the entries"),
        ] {
            assert!(!is(file, what), "{file} {what}");
        }
        let [last, beyond] = [end - 1, end].map(|index| format!("tile/entries/{index:03}"));
        assert!(is(&last, STRANGE) && !is(&beyond, STRANGE));
    }
}
