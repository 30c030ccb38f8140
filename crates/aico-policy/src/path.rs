use std::fmt;

use crate::Error;

/// Longest path in bytes.
pub const MAX_PATH_BYTES: usize = 1024;

/// The category whose second segment names a conversation.
pub const CONVERSATIONS: &str = "conversations";

/// Where a value lies: `category/name…` (`docs/spec/requests.md`, Paths).
///
/// UTF-8 of at most 1,024 bytes; at least two segments between single slashes; no segment is empty, `.` or `..`; no
/// zero byte. Two paths are the same when their bytes are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DataPath(String);

impl DataPath {
    /// Checks a path.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > MAX_PATH_BYTES {
            return Err(Error::Path("it has more than 1,024 bytes"));
        }
        if text.contains('\0') {
            return Err(Error::Path("it has a zero byte"));
        }
        if !text.contains('/') {
            return Err(Error::Path("it has no category (want `category/name`)"));
        }
        if text.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return Err(Error::Path("a part between slashes is empty, `.` or `..`"));
        }
        Ok(Self(text.to_owned()))
    }

    /// The part before the first slash.
    #[must_use]
    pub fn category(&self) -> &str {
        self.0.split_once('/').map_or(&self.0, |(category, _)| category)
    }

    /// The part behind the first slash.
    #[must_use]
    pub fn name(&self) -> &str {
        self.0.split_once('/').map_or("", |(_, name)| name)
    }

    /// What it is forgotten with: `conversations/<id>`, or its category.
    #[must_use]
    pub fn keeper(&self) -> &str {
        match self.0.split_once('/') {
            Some((CONVERSATIONS, name)) => {
                let id = name.split_once('/').map_or(name, |(id, _)| id);
                self.0.get(..CONVERSATIONS.len() + 1 + id.len()).unwrap_or(&self.0)
            }
            _ => self.category(),
        }
    }

    /// The whole path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DataPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn good_paths() {
        for good in ["a/b", "notes/2026/11/diary.md", "日記/秘密", "a/..b", "a/b c\n"] {
            let path = DataPath::parse(good).unwrap();
            assert_eq!(format!("{}/{}", path.category(), path.name()), good);
        }
    }

    #[test]
    fn a_conversation_is_forgotten_alone_and_everything_else_with_its_category() {
        let keeper = |path| DataPath::parse(path).unwrap().keeper().to_owned();
        assert_eq!(keeper("conversations/7"), "conversations/7");
        assert_eq!(keeper("conversations/7/2026/a"), "conversations/7");
        assert_eq!(keeper("conversationsx/7/a"), "conversationsx");
        assert_eq!(keeper("notes/7/a"), "notes");
    }

    #[test]
    fn hostile_paths() {
        let long = format!("a/{}", "x".repeat(MAX_PATH_BYTES));
        for bad in ["", "a", "/", "/a", "a/", "a//b", "../a", "a/../b", "a/.", "a/b\0", &long] {
            assert!(DataPath::parse(bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn a_path_is_what_was_parsed(text in ".{0,80}") {
            if let Ok(path) = DataPath::parse(&text) {
                prop_assert_eq!(path.as_str(), &text);
                prop_assert!(!path.category().is_empty() && !path.name().is_empty());
            }
        }
    }
}
