//! The configuration that is in force, and what the owner has accepted of the file (`docs/manual/configuration.md`).

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aico_net::{Manner, Speaker};
use aico_policy::Sensitivities;
use aico_proto::{Settings, Terms};
use aico_vault::{Unlocked, Vault};
use tokio::net::TcpListener;

use crate::Error;
use crate::access::now_ms;
use crate::config::{Change, Config, MAX_FILE_BYTES};
use crate::enrolment::Enrolled;

/// The file in the data folder.
const FILE: &str = "security.yaml";
/// The setting that holds the accepted text.
const ACCEPTED: &str = "configuration";

/// What is in force.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    config: Config,
}

/// How the file differs from what is in force.
pub(crate) enum Edit {
    /// Not at all.
    None { sum: String },
    /// By these changes, some of which weaken: they wait for the owner.
    Changes { text: String, changes: Vec<Change>, sum: String },
    /// It is not a configuration.
    Fault { fault: String, sum: String },
}

impl Setup {
    /// Reads the file. At the first start it is accepted as it is: there is nothing yet that it could weaken. Later,
    /// what weakens waits for the owner, and what is wrong is told; the accepted text stays in force.
    pub(crate) fn load(home: &Path, vault: &Vault<Unlocked>) -> Result<Self, Error> {
        let text = read(home)?;
        let Some(accepted) = vault.setting(ACCEPTED)? else {
            // Nothing was ever accepted: of a new vault the file is taken, of an older one what does not weaken.
            let is_new = vault.components()?.is_empty();
            let config = if is_new { parse(home, &text)? } else { Config::default() };
            let kept = if is_new { text.as_str() } else { "" };
            vault.put_setting(ACCEPTED, kept.as_bytes())?;
            let setup = Self { config };
            return if is_new { Ok(setup) } else { setup.follow(home, vault) };
        };
        let accepted = String::from_utf8(accepted).unwrap_or_default();
        // A text that an older version accepted and this one does not know any more gives way to the defaults, which
        // weaken nothing.
        Self { config: Config::parse(&accepted).unwrap_or_default() }.follow(home, vault)
    }

    /// Takes over what the file changes, unless that weakens or is wrong.
    fn follow(self, home: &Path, vault: &Vault<Unlocked>) -> Result<Self, Error> {
        match self.edit(home)? {
            Edit::None { .. } => Ok(self),
            Edit::Fault { fault, .. } => {
                let text = format!("{FILE}: {fault}; what was accepted last stays in force");
                vault.tell_owner(now_ms(), "config.fault", &text)?;
                Ok(self)
            }
            Edit::Changes { changes, .. } if changes.iter().any(|change| change.weakens) => {
                let text = format!("{FILE} was edited and would weaken {}: `aico config show`", names(&changes));
                vault.tell_owner(now_ms(), "config.waits", &text)?;
                Ok(self)
            }
            Edit::Changes { text, .. } => Self::accept(vault, &text, now_ms()),
        }
    }

    /// Makes a text the one in force.
    pub(crate) fn accept(vault: &Vault<Unlocked>, text: &str, now_ms: u64) -> Result<Self, Error> {
        let config = Config::parse(text).map_err(|fault| config_error(Path::new(FILE), &fault))?;
        vault.put_setting(ACCEPTED, text.as_bytes())?;
        vault.tell_owner(now_ms, "config.accepted", &format!("{FILE} was changed and is in force"))?;
        Ok(Self { config })
    }

    /// How the file differs now.
    pub(crate) fn edit(&self, home: &Path) -> Result<Edit, Error> {
        let text = read(home)?;
        let sum: String = aico_crypto::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(match Config::parse(&text) {
            Err(fault) => Edit::Fault { fault: fault.to_string(), sum },
            Ok(next) => match self.config.changes(&next) {
                changes if changes.is_empty() => Edit::None { sum },
                changes => Edit::Changes { text, changes, sum },
            },
        })
    }

    /// What to tell the owner of the file as it is now, if it says something else than what is in force; and its sum.
    pub(crate) fn news(&self, home: &Path) -> Result<(Option<String>, String), Error> {
        Ok(match self.edit(home)? {
            Edit::None { sum } => (None, sum),
            Edit::Fault { fault, sum } => {
                (Some(format!("{FILE} was edited: {fault}; what was accepted last stays in force")), sum)
            }
            Edit::Changes { changes, sum, .. } if changes.iter().any(|change| change.weakens) => {
                (Some(format!("{FILE} was edited and would weaken {}: `aico config show`", names(&changes))), sum)
            }
            Edit::Changes { sum, .. } => (Some(format!("{FILE} was edited; it is taken over at the next start")), sum),
        })
    }

    /// The whole configuration in force, as YAML.
    pub(crate) fn in_force(&self) -> String {
        self.config.to_yaml()
    }

    /// How sensitive which categories are.
    pub(crate) fn sensitivities(&self) -> Sensitivities {
        self.config.sensitivities()
    }

    /// Age of the stores' keys at which they get new ones.
    pub(crate) fn rotation_interval(&self) -> std::time::Duration {
        self.config.rotation_interval()
    }

    pub(crate) fn stretch_memory_mib(&self) -> u32 {
        self.config.stretch_memory_mib()
    }

    /// The bus that tells of the machine going to sleep, where the owner wants to hear of it.
    pub(crate) fn sleep_bus(&self) -> Option<String> {
        let bus = || std::env::var("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or_else(|_| crate::suspend::SYSTEM_BUS.to_owned());
        self.config.lock_on_suspend().then(bus)
    }

    /// Lets only the allowed kinds of components in.
    pub(crate) fn apply(&self, enrolled: &Enrolled) {
        enrolled.allow(self.config.allowed_components());
    }

    /// How channels over the Unix socket are: never padded, nobody watches there.
    pub(crate) fn local_manner(&self, me: Arc<Speaker>) -> Manner {
        self.manner(me, Terms { hybrid_only: self.config.is_high("backend"), ..Terms::default() })
    }

    /// How channels over TCP are.
    pub(crate) fn tcp_manner(&self, me: Arc<Speaker>) -> Manner {
        let hybrid_only = self.config.is_high("backend");
        self.manner(me, Terms { padding: self.config.padding(), unordered: false, hybrid_only })
    }

    fn manner(&self, me: Arc<Speaker>, terms: Terms) -> Manner {
        Manner { me, terms, settings: settings(&self.config) }
    }

    /// Listens where the owner wants TCP.
    pub(crate) fn bind_tcp(&self) -> Result<Option<TcpListener>, Error> {
        let Some(address) = self.config.listen_address() else { return Ok(None) };
        let bound = std::net::TcpListener::bind(address).and_then(|socket| {
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        });
        bound.map(Some).map_err(|error| {
            Error::Socket(std::io::Error::new(error.kind(), format!("listening at {address}: {error}")))
        })
    }
}

/// How channels live under a configuration.
#[must_use]
pub fn settings(config: &Config) -> Settings {
    Settings {
        idle: config.session_timeout(),
        keepalive: config.keepalive(),
        rotation: config.key_rotation_interval(),
        handshake: config.handshake_timeout(),
        max_plaintext: config.max_message_size(),
        refuse_clock_skew: config.refuses_clock_skew(),
    }
}

/// The configuration as its file has it, for tools that run beside the backend.
pub fn read_config(home: &Path) -> Result<Config, Error> {
    parse(home, &read(home)?)
}

fn parse(home: &Path, text: &str) -> Result<Config, Error> {
    Config::parse(text).map_err(|fault| config_error(&home.join(FILE), &fault))
}

fn config_error(path: &Path, fault: &crate::config::ConfigError) -> Error {
    Error::Config { path: path.to_owned(), fault: fault.to_string(), hint: fault.hint.clone() }
}

/// The file's text; none is an empty one.
fn read(home: &Path) -> Result<String, Error> {
    let path: PathBuf = home.join(FILE);
    let bad = |fault: String| Error::Config { path: path.clone(), fault, hint: None };
    let mut bytes = Vec::new();
    match File::open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(bad(error.to_string())),
        Ok(file) => {
            file.take(MAX_FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(|error| bad(error.to_string()))?
        }
    };
    String::from_utf8(bytes).map_err(|_| bad("it is not UTF-8 text".to_owned()))
}

fn names(changes: &[Change]) -> String {
    let weaker: Vec<&str> = changes.iter().filter(|change| change.weakens).map(|change| change.key).collect();
    weaker.join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aico_proto::Padding;

    use super::*;

    /// Each key of the transport section reaches the channels; what it does there is tested with them.
    #[test]
    fn the_configuration_reaches_the_channels() {
        let text = "security:\n  transport:\n    session_timeout: 601\n    key_rotation_interval: 602\n    \
                    max_message_size: 70000\n    handshake_timeout: 7\n    keepalive_interval: 8\n    \
                    clock_skew: refuse\n    padding: power-of-two\n    connection_retry_limit: 9\n";
        let config = Config::parse(text).unwrap();
        let seconds = Duration::from_secs;
        let wanted = Settings {
            idle: seconds(601),
            rotation: seconds(602),
            max_plaintext: 70_000,
            handshake: seconds(7),
            keepalive: seconds(8),
            refuse_clock_skew: true,
        };
        assert_eq!(settings(&config), wanted);
        assert_eq!((config.padding(), config.connection_retry_limit()), (Padding::PowerOfTwo, 9));
        assert_eq!(settings(&Config::default()), Settings::default());
        let high = Config::parse("security:\n  components:\n    backend:\n      security_level: high\n").unwrap();
        assert_eq!(high.padding(), Padding::Padme, "high pads TCP at least so");
    }
}
