use std::fmt;

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Not set, where there is no default.
    Absent,
    Number(u64),
    Flag(bool),
    Word(String),
    Words(Vec<String>),
}

/// As YAML writes it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("not set"),
            Self::Number(number) => write!(f, "{number}"),
            Self::Flag(flag) => write!(f, "{flag}"),
            Self::Word(word) => quoted(word, f),
            Self::Words(words) => write!(f, "[{}]", words.join(", ")),
        }
    }
}

/// A double-quoted scalar; control characters never get this far.
fn quoted(word: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"");
    write!(f, "\"{escaped}\"")
}
