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
            Self::Words(words) => {
                f.write_str("[")?;
                for (at, word) in words.iter().enumerate() {
                    f.write_str(if at == 0 { "" } else { ", " })?;
                    // A word that YAML could take for something else is quoted.
                    let plain = |c: char| c.is_ascii_lowercase() || c == '-';
                    let special =
                        ["true", "false", "null", "yes", "no", "on", "off", "y", "n"].contains(&word.as_str());
                    if !word.is_empty() && word.chars().all(plain) && !word.starts_with('-') && !special {
                        f.write_str(word)?;
                    } else {
                        quoted(word, f)?;
                    }
                }
                f.write_str("]")
            }
        }
    }
}

/// A double-quoted scalar; control characters never get this far.
fn quoted(word: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"");
    write!(f, "\"{escaped}\"")
}
