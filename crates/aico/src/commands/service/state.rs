//! What is installed, and whether it runs.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ground::{Ground, There};
use super::kind::{Kind, SYSTEM_UNITS};
use super::owner::Owner;
use super::unit;
use crate::error::Error;
use crate::ui;

/// Most system units of ours that are looked for.
const MAX_UNITS: usize = 100;
const UNKNOWN: &str = "unknown";

/// An installed service, as `--json` shows it.
#[derive(Debug, Serialize)]
struct Installed {
    kind: &'static str,
    unit: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    enabled: String,
    active: String,
    data: Option<String>,
    keys: Option<String>,
    #[serde(skip)]
    journal: String,
}

/// Shows every service that `install` has made here.
pub(super) fn status(json: bool, ground: &Ground) -> Result<(), Error> {
    let user_path = Kind::User.unit_path()?;
    let user = ground.look(&user_path);
    let foreign = user == There::Foreign;
    let mut found = Vec::new();
    if let There::Ours(text) = user {
        found.push(installed(&Kind::User, user_path.clone(), &text, ground));
    }
    for (owner, path, text) in system_units(ground) {
        found.push(installed(&Kind::System(owner), path, &text, ground));
    }
    let hint = hint(&found, foreign.then_some(user_path.as_path()));
    if json {
        let value = serde_json::json!({ "installed": !found.is_empty(), "services": found, "hint": hint });
        ui::line(&value.to_string());
        return Ok(());
    }
    if found.is_empty() {
        ui::line("not installed");
    }
    for service in &found {
        show(service);
    }
    ui::line(&format!("hint: {}", ui::printable(&hint)));
    Ok(())
}

/// Our system units: whose, where, and their text.
pub(super) fn system_units(ground: &Ground) -> Vec<(Owner, PathBuf, String)> {
    let Ok(entries) = fs::read_dir(ground.at(Path::new(SYSTEM_UNITS))) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let ours = names.filter_map(|name| {
        let owner = Owner::parse(name.strip_prefix("aico-")?.strip_suffix(".service")?).ok()?;
        let path = Path::new(SYSTEM_UNITS).join(&name);
        match ground.look(&path) {
            There::Ours(text) => Some((owner, path, text)),
            _ => None,
        }
    });
    let mut ours: Vec<_> = ours.take(MAX_UNITS).collect();
    ours.sort_by(|one, other| one.1.cmp(&other.1));
    ours
}

fn installed(kind: &Kind, unit: PathBuf, text: &str, ground: &Ground) -> Installed {
    let ask = |word| if ground.is_real() { asked(kind, word) } else { UNKNOWN.to_owned() };
    let owner = match kind {
        Kind::User => None,
        Kind::System(owner) => Some(owner.to_string()),
    };
    let journal = match kind {
        Kind::User => format!("journalctl --user -u {}", kind.unit_name()),
        Kind::System(_) => format!("sudo journalctl -u {}", kind.unit_name()),
    };
    let [data, keys] = ["AICO_HOME", "AICO_KEY_DIR"].map(|name| unit::environment(text, name));
    Installed {
        kind: kind.word(),
        unit,
        owner,
        enabled: ask("is-enabled"),
        active: ask("is-active"),
        data,
        keys,
        journal,
    }
}

/// systemd's one word, whatever its exit code.
fn asked(kind: &Kind, word: &str) -> String {
    let mut call = kind.systemctl(&[word]);
    // Anybody may ask.
    call.as_root = false;
    let answer = call.output().ok().and_then(|output| first_word(&output.stdout));
    answer.unwrap_or_else(|| UNKNOWN.to_owned())
}

/// A state's name: small letters and dashes.
fn first_word(output: &[u8]) -> Option<String> {
    let line = output.split(|byte| *byte == b'\n').next()?;
    let is_word = (1..=32).contains(&line.len()) && line.iter().all(|b| b.is_ascii_lowercase() || *b == b'-');
    is_word.then(|| String::from_utf8_lossy(line).into_owned())
}

fn hint(found: &[Installed], foreign: Option<&Path>) -> String {
    let Some(first) = found.first() else {
        return match foreign {
            Some(path) => format!("{} is there, but `aico service install` has not written it", path.display()),
            None => "`aico service install` starts the backend at every login; `sudo aico service install --system` \
                     gives it a user of its own"
                .to_owned(),
        };
    };
    if let Some(silent) = found.iter().find(|service| service.active == UNKNOWN) {
        return format!("systemd does not answer here, so nobody knows whether {} runs", silent.unit.display());
    }
    if let Some(stopped) = found.iter().find(|service| service.active != "active") {
        return format!("`{}` says why it does not run", stopped.journal);
    }
    if found.iter().all(|service| service.kind == "user") {
        return "it does not protect from programs of your own user; `sudo aico service install --system` does"
            .to_owned();
    }
    match &first.owner {
        Some(owner) if found.len() == 1 => format!("programs of `{owner}` find it by AICO_RUN_DIR=/run/aico-{owner}"),
        _ => "programs find a system service by AICO_RUN_DIR=/run/aico-OWNER".to_owned(),
    }
}

fn show(service: &Installed) {
    let folder = |path: &Option<String>| path.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let kind = match &service.owner {
        Some(owner) => format!("{}, of `{owner}`", service.kind),
        None => service.kind.to_owned(),
    };
    for (word, text) in [
        ("kind", kind),
        ("unit", service.unit.display().to_string()),
        ("enabled", service.enabled.clone()),
        ("active", service.active.clone()),
        ("data", folder(&service.data)),
        ("keys", folder(&service.keys)),
    ] {
        ui::line(&format!("{word:<8} {}", ui::printable(&text)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_word_is_taken_and_nothing_else_is() {
        assert_eq!(first_word(b"active\n"), Some("active".to_owned()));
        assert_eq!(first_word(b"linked-runtime\nmore"), Some("linked-runtime".to_owned()));
        for bad in [&b""[..], b"\n", b"Failed to connect", b"\xff", b"a\x1b[2J", &[b'a'; 33]] {
            assert_eq!(first_word(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(answer in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = first_word(&answer);
        }
    }
}
