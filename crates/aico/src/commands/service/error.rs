use std::path::PathBuf;

/// Why a service was not installed, removed or looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    #[error("only root can do this")]
    NotRoot,
    #[error("run by `sudo`, it would make a service of root's")]
    Sudo,
    #[error("nobody says whose service it is")]
    NoOwner,
    #[error("`{0}` cannot own a service: {1}")]
    Owner(String, &'static str),
    #[error("there is no user `{0}`")]
    NoSuchUser(String),
    #[error("there is a user `{user}` that was not made for this: {why}")]
    ForeignUser { user: String, why: &'static str },
    #[error("the {what} `{text}` cannot stand in a unit: {why}")]
    Text { what: &'static str, text: String, why: &'static str },
    #[error("{} was not written by `aico service install`; nothing was changed", .0.display())]
    Foreign(PathBuf),
    #[error("{} is not a folder of `{user}`; it was left as it is", .path.display())]
    ForeignFolder { path: PathBuf, user: String },
    #[error("`{call}` did not work: {why}")]
    Command { call: String, why: String },
    #[error("{done}, but `{call}` did not work: {why}")]
    Unfinished { done: &'static str, call: String, why: String, finish: String },
}

impl ServiceError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::NotRoot => 6,
            Self::Sudo | Self::NoOwner | Self::Owner(..) | Self::NoSuchUser(_) | Self::Text { .. } => 2,
            _ => 1,
        }
    }

    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::NotRoot => "run it with `sudo`, or as root with `--owner USER`",
            Self::Sudo => "run it without `sudo`, or with `--system` for one that has a user of its own",
            Self::NoOwner | Self::Owner(..) => "name a person's user: `--owner USER`",
            Self::NoSuchUser(_) => "`getent passwd` lists the users of this machine",
            Self::ForeignUser { .. } => "rename or remove that user, or choose another owner",
            Self::Text { .. } => "choose another place for it: AICO_HOME and AICO_KEY_DIR name the folders",
            Self::Foreign(_) => "move it away and try again, or keep it: it is yours to change",
            Self::ForeignFolder { .. } => "move it away and try again",
            Self::Command { .. } => return None,
            Self::Unfinished { finish, .. } => return Some(format!("where systemd runs, `{finish}` finishes it")),
        };
        Some(hint.to_owned())
    }
}
