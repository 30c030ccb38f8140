//! The two kinds of service, and how systemd calls each.

use std::env;
use std::path::{Path, PathBuf};

use super::owner::Owner;
use super::plan::{Call, Step};
use crate::error::Error;

/// Where the administrator's system units are.
pub(super) const SYSTEM_UNITS: &str = "/etc/systemd/system";

/// Whose service it is.
#[derive(Debug)]
pub(super) enum Kind {
    /// The user's own: it starts at login and protects from nothing that runs as the same user.
    User,
    /// One with a user of its own, for this owner.
    System(Owner),
}

impl Kind {
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::User => "user",
            Self::System(_) => "system",
        }
    }

    pub(super) fn unit_name(&self) -> String {
        match self {
            Self::User => "aico.service".to_owned(),
            Self::System(owner) => format!("{}.service", owner.service_user()),
        }
    }

    pub(super) fn unit_path(&self) -> Result<PathBuf, Error> {
        Ok(self.folder()?.join(self.unit_name()))
    }

    /// What `systemctl enable` makes.
    pub(super) fn link(&self) -> Result<PathBuf, Error> {
        let wants = match self {
            Self::User => "default.target.wants",
            Self::System(_) => "multi-user.target.wants",
        };
        Ok(self.folder()?.join(wants).join(self.unit_name()))
    }

    /// `systemctl WORDS… UNIT`, of the right systemd.
    pub(super) fn systemctl(&self, words: &[&str]) -> Call {
        let mut call = self.call(words);
        call.args.push(self.unit_name());
        call
    }

    /// The same, as a person types it.
    pub(super) fn command(&self, words: &[&str]) -> String {
        let call = self.systemctl(words);
        if call.as_root { format!("sudo {call}") } else { call.to_string() }
    }

    pub(super) fn reload(&self) -> Call {
        self.call(&["daemon-reload"])
    }

    /// What makes systemd take up the unit; one that was there before is started anew.
    pub(super) fn start(&self, again: bool) -> Vec<Step> {
        let rest = if again { vec![vec!["enable"], vec!["restart"]] } else { vec![vec!["enable", "--now"]] };
        let rest = rest.iter().map(|words| self.systemctl(words));
        std::iter::once(self.reload()).chain(rest).map(Step::Systemd).collect()
    }

    fn call(&self, words: &[&str]) -> Call {
        let user = matches!(self, Self::User).then_some("--user");
        let args = user.iter().chain(words).map(|word| (*word).to_owned()).collect();
        Call { program: "systemctl", args, as_root: user.is_none() }
    }

    fn folder(&self) -> Result<PathBuf, Error> {
        match self {
            Self::User => Ok(config_folder()?.join("systemd/user")),
            Self::System(_) => Ok(SYSTEM_UNITS.into()),
        }
    }
}

/// Where systemd, too, looks for the user's settings: a relative `XDG_CONFIG_HOME` does not count.
fn config_folder() -> Result<PathBuf, Error> {
    let set = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let folder = set("XDG_CONFIG_HOME").or_else(|| set("HOME").map(|home| home.join(".config")));
    folder.ok_or_else(|| Error::Usage("neither XDG_CONFIG_HOME nor HOME is set to a full path".to_owned()))
}

pub(super) fn folder_of(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("/")).to_owned()
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
