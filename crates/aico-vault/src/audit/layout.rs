//! The files of a log and their names (`docs/spec/audit-log.md`, Files).

use super::edge::{BUNDLE, LEVELS};

/// One file of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The C2SP verifier key.
    Vkey,
    /// The newest checkpoint at a full bundle.
    Checkpoint,
    /// The durable batches behind the last full bundle.
    Tail,
    /// 256 sealed entries.
    Bundle(u64),
    /// 256 hashes.
    Tile { level: u8, index: u64 },
    /// The first `width` hashes of a tile that is not full yet.
    Partial { level: u8, index: u64, width: u8 },
}

/// Ends the name of a file that is being written.
pub(super) const UNFINISHED: &str = ".tmp";

impl Place {
    /// The tile at `index` of `level` with its first `width` hashes; none has no file.
    pub(super) fn tile(level: u8, index: u64, width: usize) -> Option<Self> {
        match u8::try_from(width) {
            Ok(0) => None,
            Ok(width) => Some(Self::Partial { level, index, width }),
            Err(_) => Some(Self::Tile { level, index }),
        }
    }

    /// The path inside the log's folder.
    pub(super) fn path(&self) -> String {
        match self {
            Self::Vkey => "vkey".into(),
            Self::Checkpoint => "checkpoint".into(),
            Self::Tail => "tail".into(),
            Self::Bundle(index) => format!("tile/entries/{}", number(*index)),
            Self::Tile { level, index } => format!("tile/{level}/{}", number(*index)),
            Self::Partial { level, index, width } => format!("{}/{width}", partial_folder(*level, *index)),
        }
    }

    /// Reads a path back; only the exact form that [`Place::path`] gives is one.
    pub(super) fn parse(path: &str) -> Option<Self> {
        let place = match path {
            "vkey" => Self::Vkey,
            "checkpoint" => Self::Checkpoint,
            "tail" => Self::Tail,
            _ => parse_tile(path.strip_prefix("tile/")?)?,
        };
        (place.path() == path).then_some(place)
    }
}

/// The folder of the partial forms of a tile.
pub(super) fn partial_folder(level: u8, index: u64) -> String {
    format!("tile/{level}/{}.p", number(index))
}

/// A number in groups of three digits, each but the last behind an `x`.
fn number(index: u64) -> String {
    let (rest, last) = (index / 1000, index % 1000);
    if rest == 0 { format!("{last:03}") } else { format!("{}/{last:03}", groups(rest)) }
}

fn groups(index: u64) -> String {
    let (rest, last) = (index / 1000, index % 1000);
    if rest == 0 { format!("x{last:03}") } else { format!("{}/x{last:03}", groups(rest)) }
}

fn parse_tile(path: &str) -> Option<Place> {
    let (level, rest) = path.split_once('/')?;
    if level == "entries" {
        return Some(Place::Bundle(parse_number(rest)?));
    }
    let level = level.parse().ok().filter(|level| *level < LEVELS)?;
    match rest.split_once(".p/") {
        None => Some(Place::Tile { level, index: parse_number(rest)? }),
        Some((index, width)) => {
            Some(Place::Partial { level, index: parse_number(index)?, width: width.parse().ok().filter(|w| *w > 0)? })
        }
    }
}

/// Reads the groups; that they are the canonical ones is the caller's comparison.
fn parse_number(text: &str) -> Option<u64> {
    text.split('/').try_fold(0u64, |number, group| {
        let digits: u16 = group.trim_start_matches('x').parse().ok().filter(|digits| *digits < 1000)?;
        number.checked_mul(1000)?.checked_add(u64::from(digits)).filter(|number| *number <= u64::MAX / BUNDLE)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tlog_tiles::Tile;

    use super::*;

    #[test]
    fn names_are_those_of_tlog_tiles() {
        for index in [0, 1, 255, 999, 1000, 123_456, 1_234_067, u64::MAX / BUNDLE] {
            let theirs = Tile::new(8, 0, index, 256, false).path().replacen("tile/8/", "tile/", 1);
            assert_eq!(Place::Tile { level: 0, index }.path(), theirs);
            let theirs = Tile::new(8, 1, index, 7, false).path().replacen("tile/8/", "tile/", 1);
            assert_eq!(Place::Partial { level: 1, index, width: 7 }.path(), theirs);
            let theirs = Tile::new(8, 0, index, 256, true).path().replacen("tile/8/data/", "tile/entries/", 1);
            assert_eq!(Place::Bundle(index).path(), theirs);
        }
    }

    #[test]
    fn only_the_exact_name_is_read_back() {
        for place in [
            Place::Tail,
            Place::Bundle(1_234_067),
            Place::Tile { level: 7, index: 0 },
            Place::Partial { level: 1, index: 12, width: 255 },
        ] {
            assert_eq!(Place::parse(&place.path()), Some(place));
        }
        for bad in [
            "",
            "tail ",
            "Tail",
            "tile",
            "tile/",
            "tile/0",
            "tile/0/0",
            "tile/0/0000",
            "tile/8/000",
            "tile/00/000",
            "tile/0/000.p/0",
            "tile/0/000.p/256",
            "tile/0/000.p/01",
            "tile/0/000.p",
            "tile/entries/000.p/1",
            "tile/entries/x000/001",
            "tile/entries/001/002",
            "tile/0/+01",
            "tile/0/x999/x999/x999/x999/x999/x999/999",
            "tile/0/000.tmp",
            "tile/data/000",
        ] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn rubbish_is_never_more_than_no_place(path in "[tile/entrisx0-9.p+]{0,60}") {
            if let Some(place) = Place::parse(&path) {
                prop_assert_eq!(place.path(), path);
            }
        }
    }
}
