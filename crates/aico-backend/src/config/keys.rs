//! Every key of `security.yaml`, once.

use std::net::SocketAddr;

use aico_policy::DataPath;

use super::ConfigError;
use super::tree::Node;
use super::value::Value;

/// Longest file in bytes.
pub const MAX_FILE_BYTES: usize = 64 * 1024;
const MAX_WORD_BYTES: usize = 1024;
const MAX_CATEGORIES: usize = 100;

/// A key: where it stands, what it takes, and when a change of it weakens.
pub(super) struct Key {
    pub(super) path: &'static str,
    pub(super) kind: Kind,
    default: Default,
    weaker: Weaker,
    /// One line for people: what it does.
    pub(super) doc: &'static str,
}

/// What a key takes.
pub(super) enum Kind {
    Number {
        min: u64,
        max: u64,
    },
    Flag,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Some of these words.
    SomeOf(&'static [&'static str]),
    /// Names of categories.
    Categories,
    /// A loopback address and port.
    Loopback,
    Path,
    /// One word and no other, for a reason.
    OnlyWord(&'static str, &'static str),
    /// One of the two, for a reason.
    OnlyFlag(bool, &'static str),
    /// Nothing, for a reason.
    Refused(&'static str),
}

enum Default {
    Nothing,
    Number(u64),
    Flag(bool),
    Word(&'static str),
    Words(&'static [&'static str]),
}

/// When a change protects less.
enum Weaker {
    Never,
    Longer,
    Less,
    /// `true` to `false`.
    Off,
    /// To a word that stands earlier in the key's list.
    Earlier,
    /// A word more than before.
    Added,
    /// A word less.
    Removed,
    /// Set where it was not, or to another value.
    Set,
}

const SUITE: &str = "it is the only one spoken; the algorithms of a channel are not chosen by configuration";
const FULL_HANDSHAKE: &str =
    "there is no resumption and no early data: a full handshake takes a fifth of a millisecond";
const ORDER: &str = "the Unix socket and TCP keep order, so a record out of order is an attack";
const SEALED: &str = "the backend's identity lies sealed in the vault; `aico identity export` makes files for clients";

macro_rules! key {
    ($path:expr, $kind:expr, $default:expr, $weaker:expr, $doc:literal) => {
        Key { path: $path, kind: $kind, default: $default, weaker: $weaker, doc: $doc }
    };
}

macro_rules! client_keys {
    ($name:literal) => {
        [
            key!(
                concat!("security.components.", $name, ".identity_file"),
                Kind::Path,
                Default::Nothing,
                Weaker::Never,
                "its identity, from `aico identity export`"
            ),
            key!(
                concat!("security.components.", $name, ".backend_address"),
                Kind::Loopback,
                Default::Nothing,
                Weaker::Never,
                "reaches the backend by TCP instead of the Unix socket"
            ),
            key!(
                concat!("security.components.", $name, ".auto_reconnect"),
                Kind::Flag,
                Default::Flag(true),
                Weaker::Never,
                "connects again after a lost connection"
            ),
            key!(
                concat!("security.components.", $name, ".security_level"),
                Kind::OneOf(LEVELS),
                Default::Word("standard"),
                Weaker::Earlier,
                "`high`: offers the hybrid key exchange alone"
            ),
        ]
    };
}

const LEVELS: &[&str] = &["standard", "high"];
const PADDING: &[&str] = &["none", "padme", "power-of-two"];
const SKEW: &[&str] = &["report", "refuse"];
const COMPONENTS: &[&str] = &["frontend", "cli", "studio", "plugin"];

const FIRST: [Key; 18] = [
    key!(
        "security.transport.encryption",
        Kind::OnlyWord("xchacha20poly1305", SUITE),
        Default::Word("xchacha20poly1305"),
        Weaker::Never,
        "how records are sealed"
    ),
    key!(
        "security.transport.key_exchange",
        Kind::OnlyWord("x25519", SUITE),
        Default::Word("x25519"),
        Weaker::Never,
        "how keys are agreed on; ML-KEM-768 is mixed in beside it"
    ),
    key!(
        "security.transport.authentication",
        Kind::OnlyWord("ed25519", SUITE),
        Default::Word("ed25519"),
        Weaker::Never,
        "how identities sign"
    ),
    key!(
        "security.transport.post_quantum",
        Kind::Flag,
        Default::Flag(true),
        Weaker::Off,
        "clients offer ML-KEM-768 beside X25519"
    ),
    key!(
        "security.transport.session_timeout",
        Kind::Number { min: 60, max: 86_400 },
        Default::Number(3600),
        Weaker::Longer,
        "seconds without a request or answer after which a channel is forgotten"
    ),
    key!(
        "security.transport.key_rotation_interval",
        Kind::Number { min: 60, max: 86_400 },
        Default::Number(86_400),
        Weaker::Longer,
        "seconds after which a channel gets new ephemeral keys (REKEY)"
    ),
    key!(
        "security.transport.max_message_size",
        Kind::Number { min: 65_536, max: 16_777_216 },
        Default::Number(16_777_216),
        Weaker::Never,
        "longest plaintext of a record, in bytes"
    ),
    key!(
        "security.transport.handshake_timeout",
        Kind::Number { min: 1, max: 300 },
        Default::Number(30),
        Weaker::Longer,
        "seconds for a whole handshake"
    ),
    key!(
        "security.transport.keepalive_interval",
        Kind::Number { min: 0, max: 3600 },
        Default::Number(60),
        Weaker::Never,
        "seconds between signs of life, 0 for none; three missed ones end a channel"
    ),
    key!(
        "security.transport.connection_retry_limit",
        Kind::Number { min: 0, max: 100 },
        Default::Number(3),
        Weaker::Never,
        "how often a client tries to connect again"
    ),
    key!(
        "security.transport.require_fresh_handshake",
        Kind::OnlyFlag(true, FULL_HANDSHAKE),
        Default::Flag(true),
        Weaker::Never,
        "every connection is a full handshake"
    ),
    key!(
        "security.transport.allow_key_reuse",
        Kind::OnlyFlag(false, FULL_HANDSHAKE),
        Default::Flag(false),
        Weaker::Never,
        "no key serves two connections"
    ),
    key!(
        "security.transport.enforce_message_ordering",
        Kind::OnlyFlag(true, ORDER),
        Default::Flag(true),
        Weaker::Never,
        "records come in order, once"
    ),
    key!(
        "security.transport.clock_skew",
        Kind::OneOf(SKEW),
        Default::Word("report"),
        Weaker::Earlier,
        "`refuse` ends a channel whose clocks are 30 seconds apart"
    ),
    key!(
        "security.transport.padding",
        Kind::OneOf(PADDING),
        Default::Word("none"),
        Weaker::Earlier,
        "how the sizes of records are hidden on TCP"
    ),
    key!(
        "security.components.backend.listen_address",
        Kind::Loopback,
        Default::Nothing,
        Weaker::Set,
        "answers TCP there, for enrolled identities; port 0 lets the system choose"
    ),
    key!(
        "security.components.backend.allowed_components",
        Kind::SomeOf(COMPONENTS),
        Default::Words(COMPONENTS),
        Weaker::Added,
        "the kinds of components that may connect"
    ),
    key!(
        "security.components.backend.security_level",
        Kind::OneOf(LEVELS),
        Default::Word("standard"),
        Weaker::Earlier,
        "`high`: the hybrid key exchange is required, and TCP is padded"
    ),
];

const REFUSED: [Key; 1] = [key!(
    "security.components.backend.identity_file",
    Kind::Refused(SEALED),
    Default::Nothing,
    Weaker::Never,
    "refused: the identity is in the vault"
)];

const VAULT: [Key; 3] = [
    key!(
        "security.vault.lock_on_suspend",
        Kind::Flag,
        Default::Flag(false),
        Weaker::Off,
        "locks the vault when the machine goes to sleep"
    ),
    key!(
        "security.vault.stretch_memory",
        Kind::Number { min: 64, max: 4096 },
        Default::Number(1024),
        Weaker::Less,
        "MiB of memory that stretching a password may take at most"
    ),
    key!(
        "security.vault.rotation_days",
        Kind::Number { min: 1, max: 3650 },
        Default::Number(90),
        Weaker::Longer,
        "days after which every store gets a new key, in the background"
    ),
];

const DATA: [Key; 2] = [
    key!(
        "security.data.ordinary",
        Kind::Categories,
        Default::Words(&[]),
        Weaker::Added,
        "categories that the command line reads without a password"
    ),
    key!(
        "security.data.secret",
        Kind::Categories,
        Default::Words(&[]),
        Weaker::Removed,
        "categories that ask for the password each time, and hide the sizes of what is in them"
    ),
];

/// The keys in the order in which they are shown.
pub(super) static KEYS: std::sync::LazyLock<Vec<Key>> = std::sync::LazyLock::new(|| {
    let clients = client_keys!("frontend").into_iter().chain(client_keys!("cli")).chain(client_keys!("studio"));
    FIRST.into_iter().chain(REFUSED).chain(clients).chain(VAULT).chain(DATA).collect()
});

impl Key {
    pub(super) fn is_refused(&self) -> bool {
        matches!(self.kind, Kind::Refused(_))
    }

    pub(super) fn default_value(&self) -> Value {
        match self.default {
            Default::Nothing => Value::Absent,
            Default::Number(number) => Value::Number(number),
            Default::Flag(flag) => Value::Flag(flag),
            Default::Word(word) => Value::Word(word.to_owned()),
            Default::Words(words) => Value::Words(words.iter().map(|word| (*word).to_owned()).collect()),
        }
    }

    /// The key's own name.
    pub(super) fn name(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, name)| name)
    }

    /// Reads a value; what is wrong with one says what is allowed.
    pub(super) fn read(&self, node: &Node) -> Result<Value, ConfigError> {
        let name = self.name();
        if let Kind::Refused(reason) = self.kind {
            return Err(
                node.error(format!("`{name}` cannot be set here: {reason}"), Some("remove the line".to_owned()))
            );
        }
        if matches!(node, Node::Empty { .. }) {
            return Ok(self.default_value());
        }
        let wanted = self.wanted();
        let wrong = |found: &str| node.error(format!("`{name}` is {found}, and has to be {wanted}"), None);
        if let Kind::SomeOf(words) = self.kind {
            return self.read_words(node, words);
        }
        if let Kind::Categories = self.kind {
            return self.read_categories(node);
        }
        let Node::Scalar { text, quoted, .. } = node else { return Err(wrong("a list or has keys below it")) };
        let shown = format!("`{}`", text.chars().take(60).collect::<String>());
        match self.kind {
            Kind::Number { min, max } if !quoted => {
                let number = text.parse::<u64>().ok().filter(|number| (min..=max).contains(number));
                number.map(Value::Number).ok_or_else(|| wrong(&shown))
            }
            Kind::Flag if !quoted => flag(text).map(Value::Flag).ok_or_else(|| wrong(&shown)),
            Kind::OneOf(words) if words.contains(&text.as_str()) => Ok(Value::Word(text.clone())),
            Kind::Loopback => self.read_loopback(node, text),
            Kind::Path if !text.is_empty() && text.len() <= MAX_WORD_BYTES => Ok(Value::Word(text.clone())),
            Kind::OnlyWord(word, _) if text == word => Ok(Value::Word(text.clone())),
            Kind::OnlyFlag(only, _) if !quoted && flag(text) == Some(only) => Ok(Value::Flag(only)),
            Kind::OnlyWord(_, reason) | Kind::OnlyFlag(_, reason) => {
                Err(node.error(format!("`{name}` is {shown}, and has to be {wanted}: {reason}"), None))
            }
            _ => Err(wrong(&shown)),
        }
    }

    fn read_words(&self, node: &Node, words: &'static [&'static str]) -> Result<Value, ConfigError> {
        let (name, wanted) = (self.name(), self.wanted());
        let Node::List { items, .. } = node else {
            return Err(node.error(format!("`{name}` has to be {wanted}"), None));
        };
        let mut found: Vec<String> = Vec::new();
        for item in items {
            match item {
                Node::Scalar { text, .. } if words.contains(&text.as_str()) => found.push(text.clone()),
                other => return Err(other.error(format!("`{name}` has to be {wanted}"), None)),
            }
        }
        if !found.iter().any(|word| word == "cli") {
            let hint = Some("without the command line nobody could change it back".to_owned());
            return Err(node.error(format!("`{name}` has to contain `cli`"), hint));
        }
        let ordered = words.iter().filter(|word| found.iter().any(|f| f == *word));
        Ok(Value::Words(ordered.map(|word| (*word).to_owned()).collect()))
    }

    fn read_categories(&self, node: &Node) -> Result<Value, ConfigError> {
        let wrong = |node: &Node| node.error(format!("`{}` has to be {}", self.name(), self.wanted()), None);
        let Node::List { items, .. } = node else { return Err(wrong(node)) };
        let is_name = |text: &str| !text.contains('/') && DataPath::parse(&format!("{text}/x")).is_ok();
        let mut found = Vec::new();
        for item in items {
            match item {
                Node::Scalar { text, .. } if is_name(text) && found.len() < MAX_CATEGORIES => found.push(text.clone()),
                other => return Err(wrong(other)),
            }
        }
        found.sort();
        found.dedup();
        Ok(Value::Words(found))
    }

    fn read_loopback(&self, node: &Node, text: &str) -> Result<Value, ConfigError> {
        let name = self.name();
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() => Ok(Value::Word(address.to_string())),
            Ok(_) => Err(node.error(
                format!("`{name}` is not a loopback address: until devices can be paired nothing listens beyond this machine"),
                Some("127.0.0.1:8771 is such an address".to_owned()),
            )),
            Err(_) => Err(node.error(format!("`{name}` has to be {}", self.wanted()), None)),
        }
    }

    /// What is allowed, in words.
    fn wanted(&self) -> String {
        match &self.kind {
            Kind::Number { min, max } => format!("a number from {min} to {max}"),
            Kind::Flag => "`true` or `false`".to_owned(),
            Kind::OneOf(words) => format!("one of {}", words.join(", ")),
            Kind::SomeOf(words) => format!("a list of some of {}", words.join(", ")),
            Kind::Categories => format!("a list of at most {MAX_CATEGORIES} categories, as [diary, health]"),
            Kind::Loopback => "a loopback address and a port, as 127.0.0.1:8771".to_owned(),
            Kind::Path => "a path".to_owned(),
            Kind::OnlyWord(word, _) => format!("`{word}`"),
            Kind::OnlyFlag(flag, _) => format!("`{flag}`"),
            Kind::Refused(_) => "left out".to_owned(),
        }
    }

    /// Whether going from one value to the other protects less.
    pub(super) fn weakens(&self, from: &Value, to: &Value) -> bool {
        match (&self.weaker, from, to) {
            (Weaker::Longer, Value::Number(from), Value::Number(to)) => to > from,
            (Weaker::Less, Value::Number(from), Value::Number(to)) => to < from,
            (Weaker::Off, Value::Flag(from), Value::Flag(to)) => *from && !to,
            (Weaker::Earlier, Value::Word(from), Value::Word(to)) => {
                let place = |word: &String| match self.kind {
                    Kind::OneOf(words) => words.iter().position(|w| w == word),
                    _ => None,
                };
                place(to) < place(from)
            }
            (Weaker::Added, Value::Words(from), Value::Words(to)) => to.iter().any(|word| !from.contains(word)),
            (Weaker::Removed, Value::Words(from), Value::Words(to)) => from.iter().any(|word| !to.contains(word)),
            (Weaker::Set, from, to) => *to != Value::Absent && from != to,
            _ => false,
        }
    }

    /// A value that a file may hold, for the example.
    #[cfg(test)]
    pub(super) fn example(&self) -> String {
        match self.default_value() {
            Value::Absent if matches!(self.kind, Kind::Loopback) => "\"127.0.0.1:8771\"".to_owned(),
            Value::Absent => "\"~/.config/aico/clients/other.key\"".to_owned(),
            value => value.to_string(),
        }
    }
}

fn flag(text: &str) -> Option<bool> {
    match text {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

/// The key below `prefix` that is written most alike.
pub(super) fn nearest(prefix: &str, name: &str) -> Option<String> {
    let below = |key: &Key| {
        let rest = if prefix.is_empty() { Some(key.path) } else { key.path.strip_prefix(prefix)?.strip_prefix('.') };
        rest.map(|rest| rest.split('.').next().unwrap_or(rest).to_owned())
    };
    let near = KEYS.iter().filter(|key| !key.is_refused()).filter_map(below);
    let alike = near.map(|candidate| (strsim::osa_distance(name, &candidate), candidate));
    // A word that has nothing in common with any is not a slip of the finger.
    alike.filter(|(distance, candidate)| *distance <= candidate.len() / 2).min().map(|(_, candidate)| candidate)
}
