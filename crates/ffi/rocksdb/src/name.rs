//! The names that RocksDB gives to files, and what they say of their content.

use std::path::Path;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Table = 1,
    Log = 2,
    Manifest = 3,
    Current = 4,
    Identity = 5,
    Options = 6,
}

/// What a file's key is bound to. CURRENT, IDENTITY and OPTIONS have no number: RocksDB writes them under another first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) kind: Kind,
    pub(crate) number: u64,
}

impl Name {
    /// `None` for a file that is not RocksDB's, or that it has no business with here.
    pub(crate) fn parse(name: &str) -> Option<Self> {
        let named = |kind, number| Some(Self { kind, number });
        match name {
            "CURRENT" => return named(Kind::Current, 0),
            "IDENTITY" => return named(Kind::Identity, 0),
            _ => {}
        }
        if let Some(number) = name.strip_prefix("MANIFEST-") {
            return named(Kind::Manifest, parse_number(number)?);
        }
        if let Some(number) = name.strip_prefix("OPTIONS-") {
            return parse_number(number.strip_suffix(".dbtmp").unwrap_or(number)).and(named(Kind::Options, 0));
        }
        let (number, kind) = name.split_once('.')?;
        match (kind, parse_number(number)?) {
            ("sst", number) => named(Kind::Table, number),
            ("log", number) => named(Kind::Log, number),
            // RocksDB keeps temporary file 0 for IDENTITY; the others become CURRENT.
            ("dbtmp", 0) => named(Kind::Identity, 0),
            ("dbtmp", _) => named(Kind::Current, 0),
            _ => None,
        }
    }

    /// Whether the file grows while it is in use. The others are written once, from beginning to end.
    pub(crate) fn grows(self) -> bool {
        matches!(self.kind, Kind::Log | Kind::Manifest)
    }
}

/// The last part of `path`, for messages.
pub(crate) fn last_part(path: &Path) -> &str {
    path.file_name().and_then(|name| name.to_str()).unwrap_or("")
}

fn parse_number(digits: &str) -> Option<u64> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_say_kind_and_number() {
        let parsed = |name| Name::parse(name).map(|name| (name.kind, name.number));
        assert_eq!(parsed("000012.sst"), Some((Kind::Table, 12)));
        assert_eq!(parsed("000004.log"), Some((Kind::Log, 4)));
        assert_eq!(parsed("MANIFEST-000005"), Some((Kind::Manifest, 5)));
        assert_eq!(parsed("OPTIONS-000007"), parsed("OPTIONS-000006.dbtmp"));
        assert_eq!(parsed("CURRENT"), parsed("000005.dbtmp"));
        assert_eq!(parsed("IDENTITY"), parsed("000000.dbtmp"));
        for other in ["LOG", "LOCK", "", "x.sst", ".sst", "1.blob", "MANIFEST-", "MANIFEST--1", "+1.sst", "1.sst.sst"] {
            assert_eq!(parsed(other), None, "{other}");
        }
        assert_eq!(parsed("99999999999999999999999.sst"), None);
    }
}
