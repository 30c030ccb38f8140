//! `security.yaml` (`docs/manual/configuration.md`): what the owner can set, checked before anything of it counts.
//!
//! One table describes every key; parser, defaults, schema and comparison walk it, so they cannot say different things.

mod keys;
mod schema;
mod tree;
mod value;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use aico_crypto::ComponentKind;
use aico_policy::Sensitivities;
use aico_proto::Padding;

pub use keys::MAX_FILE_BYTES;
pub use schema::json_schema;

use keys::{KEYS, Key, nearest};
use tree::Node;
use value::Value;

/// A configuration: every key has a value, given or default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    values: BTreeMap<&'static str, Value>,
}

/// Why a text is not a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ConfigError {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong there.
    pub message: String,
    /// What to write instead.
    pub hint: Option<String>,
}

/// One key that differs between two configurations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The key, with dots.
    pub key: &'static str,
    /// Its value before.
    pub from: String,
    /// And after.
    pub to: String,
    /// Whether the system protects less with it.
    pub weakens: bool,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, from, to, weakens } = self;
        write!(f, "{key}: {from} -> {to}{}", if *weakens { " (weakens)" } else { "" })
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { values: KEYS.iter().map(|key| (key.path, key.default_value())).collect() }
    }
}

impl Config {
    /// Reads a configuration; an empty text is all defaults.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let mut config = Self::default();
        let Some(root) = tree::parse(text)? else { return Ok(config) };
        config.take(&root, "")?;
        Ok(config)
    }

    /// Takes everything below `prefix` in.
    fn take(&mut self, node: &Node, prefix: &str) -> Result<(), ConfigError> {
        let Node::Map { entries, .. } = node else {
            let what = if prefix.is_empty() { "the file" } else { prefix };
            return Err(node.error(format!("`{what}` holds keys and values"), None));
        };
        for entry in entries {
            let path = if prefix.is_empty() { entry.key.clone() } else { format!("{prefix}.{}", entry.key) };
            if let Some(key) = KEYS.iter().find(|key| key.path == path) {
                self.values.insert(key.path, key.read(&entry.value)?);
            } else if KEYS.iter().any(|key| key.path.strip_prefix(&path).is_some_and(|rest| rest.starts_with('.'))) {
                if !matches!(entry.value, Node::Empty { .. }) {
                    self.take(&entry.value, &path)?;
                }
            } else {
                let hint = nearest(prefix, &entry.key).map(|key| format!("did you mean `{key}`?"));
                return Err(entry.error(format!("there is no key `{path}`"), hint));
            }
        }
        Ok(())
    }

    /// The whole configuration as YAML; [`Config::parse`] reads it back.
    #[must_use]
    pub fn to_yaml(&self) -> String {
        let mut out = String::new();
        let mut open: Vec<&str> = Vec::new();
        for key in KEYS.iter().filter(|key| !key.is_refused()) {
            let parts: Vec<&str> = key.path.split('.').collect();
            let Some((name, folders)) = parts.split_last() else { continue };
            let same = open.iter().zip(folders).take_while(|(a, b)| a == b).count();
            for (depth, folder) in folders.iter().enumerate().skip(same) {
                out += &format!("{}{folder}:\n", "  ".repeat(depth));
            }
            open = folders.to_vec();
            let indent = "  ".repeat(folders.len());
            match self.value(key.path) {
                Value::Absent => out += &format!("{indent}# {name}:\n"),
                value => out += &format!("{indent}{name}: {value}\n"),
            }
        }
        out
    }

    /// What differs in `next`.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Vec<Change> {
        let change = |key: &Key| {
            let (from, to) = (self.value(key.path), next.value(key.path));
            (from != to).then(|| {
                let (weakens, from, to) = (key.weakens(from, to), from.to_string(), to.to_string());
                Change { key: key.path, from, to, weakens }
            })
        };
        KEYS.iter().filter_map(change).collect()
    }

    fn value(&self, path: &str) -> &Value {
        self.values.get(path).unwrap_or(&Value::Absent)
    }

    fn number(&self, path: &str) -> u64 {
        if let Value::Number(number) = self.value(path) { *number } else { 0 }
    }

    fn flag(&self, path: &str) -> bool {
        matches!(self.value(path), Value::Flag(true))
    }

    fn word(&self, path: &str) -> Option<&str> {
        if let Value::Word(word) = self.value(path) { Some(word) } else { None }
    }

    fn seconds(&self, path: &str) -> Duration {
        Duration::from_secs(self.number(path))
    }

    /// Time without a request or answer after which a channel is forgotten.
    #[must_use]
    pub fn session_timeout(&self) -> Duration {
        self.seconds("security.transport.session_timeout")
    }

    /// Age of a channel's keys at which REKEY is due.
    #[must_use]
    pub fn key_rotation_interval(&self) -> Duration {
        self.seconds("security.transport.key_rotation_interval")
    }

    /// Longest plaintext of a record, in bytes.
    #[must_use]
    pub fn max_message_size(&self) -> usize {
        usize::try_from(self.number("security.transport.max_message_size")).unwrap_or(usize::MAX)
    }

    /// For the whole handshake.
    #[must_use]
    pub fn handshake_timeout(&self) -> Duration {
        self.seconds("security.transport.handshake_timeout")
    }

    /// Between signs of life; zero for none.
    #[must_use]
    pub fn keepalive(&self) -> Duration {
        self.seconds("security.transport.keepalive_interval")
    }

    /// How often a client tries again.
    #[must_use]
    pub fn connection_retry_limit(&self) -> u32 {
        u32::try_from(self.number("security.transport.connection_retry_limit")).unwrap_or(u32::MAX)
    }

    /// Whether clients offer ML-KEM-768 beside X25519.
    #[must_use]
    pub fn post_quantum(&self) -> bool {
        self.flag("security.transport.post_quantum")
    }

    /// Whether clocks that are 30 s apart end a channel.
    #[must_use]
    pub fn refuses_clock_skew(&self) -> bool {
        self.word("security.transport.clock_skew") == Some("refuse")
    }

    /// How TCP is padded.
    #[must_use]
    pub fn padding(&self) -> Padding {
        let set = match self.word("security.transport.padding") {
            Some("padme") => Padding::Padme,
            Some("power-of-two") => Padding::PowerOfTwo,
            _ => Padding::None,
        };
        if self.is_high("backend") { set.max(Padding::Padme) } else { set }
    }

    /// Where the backend answers TCP, if at all.
    #[must_use]
    pub fn listen_address(&self) -> Option<SocketAddr> {
        self.word("security.components.backend.listen_address")?.parse().ok()
    }

    /// The kinds of components that may connect.
    #[must_use]
    pub fn allowed_components(&self) -> Vec<ComponentKind> {
        match self.value("security.components.backend.allowed_components") {
            Value::Words(words) => words.iter().filter_map(|word| ComponentKind::from_text(word).ok()).collect(),
            _ => Vec::new(),
        }
    }

    /// Whether a component (`backend`, `frontend`, `cli`, `studio`) has security level `high`.
    #[must_use]
    pub fn is_high(&self, component: &str) -> bool {
        self.word(&format!("security.components.{component}.security_level")) == Some("high")
    }

    /// The identity file of a client component; `~/` is the caller's.
    #[must_use]
    pub fn identity_file(&self, component: &str) -> Option<PathBuf> {
        self.word(&format!("security.components.{component}.identity_file")).map(PathBuf::from)
    }

    /// Where a client component reaches the backend by TCP.
    #[must_use]
    pub fn backend_address(&self, component: &str) -> Option<SocketAddr> {
        self.word(&format!("security.components.{component}.backend_address"))?.parse().ok()
    }

    /// Whether a client component connects again by itself.
    #[must_use]
    pub fn auto_reconnect(&self, component: &str) -> bool {
        self.flag(&format!("security.components.{component}.auto_reconnect"))
    }

    /// Age of the stores' keys at which they get new ones.
    #[must_use]
    pub fn rotation_interval(&self) -> Duration {
        self.seconds("security.vault.rotation_days").saturating_mul(24 * 60 * 60)
    }

    /// How sensitive which categories are.
    #[must_use]
    pub fn sensitivities(&self) -> Sensitivities {
        let names = |path| if let Value::Words(words) = self.value(path) { words.clone() } else { Vec::new() };
        Sensitivities::new(names("security.data.ordinary"), names("security.data.secret"))
    }

    /// Whether the vault is locked when the machine goes to sleep.
    #[must_use]
    pub fn lock_on_suspend(&self) -> bool {
        self.flag("security.vault.lock_on_suspend")
    }

    /// MiB of memory that stretching a password may take at most.
    #[must_use]
    pub fn stretch_memory_mib(&self) -> u32 {
        u32::try_from(self.number("security.vault.stretch_memory")).unwrap_or(u32::MAX)
    }
}
