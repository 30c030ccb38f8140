//! `aico doctor`: what opens the vault, what would happen if something were lost today, and what to do.

use std::os::unix::fs::MetadataExt;

use aico_net::{Error as NetError, read_component_file};
use aico_proto::message::{Request, StatusAnswer};
use aico_vault::unlock::{SlotKind, kernel_remembers, rungs};
use aico_vault::{Places, SlotState, read_header, survey};
use serde::Serialize;

use crate::error::Error;
use crate::places::{cli_key, connect, places};
use crate::ui;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Weight {
    Good,
    Advice,
    Problem,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    weight: Weight,
    about: &'static str,
    text: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Debug, Default)]
struct Report(Vec<Finding>);

impl Report {
    fn add(&mut self, weight: Weight, about: &'static str, text: impl Into<String>, hint: Option<&str>) {
        self.0.push(Finding { weight, about, text: text.into(), hint: hint.map(str::to_owned) });
    }
}

/// Looks at everything that can go wrong; fails where something is.
pub(crate) async fn doctor(json: bool) -> Result<(), Error> {
    let places = places()?;
    let mut report = Report::default();
    let slots = look_at_vault(&places, &mut report);
    if let Some(slots) = &slots {
        look_at_losses(slots, &mut report);
        look_at_rungs(&places, slots, &mut report);
        look_at_kernel(&places, slots, &mut report);
    }
    look_at_config(&places, &mut report);
    look_at_identity(&places, slots.is_some(), &mut report);
    look_at_backend(&mut report).await;
    for finding in &report.0 {
        if json {
            ui::line(&serde_json::to_string(finding)?);
            continue;
        }
        let mark = match finding.weight {
            Weight::Good => "ok",
            Weight::Advice => "could be better",
            Weight::Problem => "PROBLEM",
        };
        ui::line(&format!("{:<16} {:<12} {}", mark, finding.about, ui::printable(&finding.text)));
        if let Some(hint) = &finding.hint {
            ui::line(&format!("{:<16} {:<12} -> {}", "", "", ui::printable(hint)));
        }
    }
    match report.0.iter().filter(|finding| finding.weight == Weight::Problem).count() {
        0 => Ok(()),
        problems => Err(Error::Unwell(problems)),
    }
}

/// How the process that has the keys is held.
fn look_at_protection(status: &StatusAnswer, report: &mut Report) {
    let text = super::status::protection(&status.memory, &status.confined_by);
    let hint = match (status.memory.as_str(), status.confined_by.len()) {
        ("unlocked", _) => Some("raise the limit for locked memory (`ulimit -l`), so that keys are never swapped"),
        (_, 0 | 1) => {
            Some("a kernel with Landlock and seccomp (Linux 5.13 or newer) keeps a fault in it from your other files")
        }
        _ => None,
    };
    let weight = if hint.is_some() { Weight::Advice } else { Weight::Good };
    report.add(weight, "protection", text, hint);
}

/// The slots, each tried as far as that goes without the owner.
fn look_at_vault(places: &Places, report: &mut Report) -> Option<Vec<SlotState>> {
    if !places.home.join("vault.aico").exists() {
        if places.home.join("spaces").exists() {
            let hint = "put `vault.aico` back from a backup; without it the stores cannot be opened";
            report.add(Weight::Problem, "header", "`vault.aico` is missing, and encrypted stores are here", Some(hint));
        } else {
            report.add(Weight::Good, "vault", "there is none yet", Some("`aico up` sets one up"));
        }
        return None;
    }
    let (slots, locked) = match survey(places) {
        Ok(surveyed) => surveyed,
        Err(error @ aico_vault::Error::Newer { .. }) => {
            report.add(Weight::Problem, "header", error.to_string(), Some("use the newer program; nothing is changed"));
            return None;
        }
        Err(error) => {
            let hint = "restore `vault.aico` from a backup; keep the damaged file until the vault opens";
            report.add(Weight::Problem, "header", error.to_string(), Some(hint));
            return None;
        }
    };
    if locked {
        report.add(Weight::Advice, "vault", "its owner has locked it", Some("`aico unlock` opens it"));
    }
    for slot in &slots {
        match &slot.trouble {
            None => report.add(Weight::Good, "slot", format!("{}: {}", slot.id, describe(slot.kind)), None),
            Some(why) => {
                let text = format!("{}, {}, does not open the vault now: {why}", slot.id, slot.kind);
                report.add(Weight::Problem, "slot", text, Some(&way_back(slot, &slots)));
            }
        }
    }
    Some(slots)
}

fn describe(kind: SlotKind) -> &'static str {
    match kind {
        SlotKind::KeyFile => "the key file opens the vault; it protects copies of the data, not the whole disk",
        SlotKind::SecretService => "the session's keyring opens the vault",
        SlotKind::Tpm2 => "this machine's TPM opens the vault, while Secure Boot is as it was",
        SlotKind::SystemdCredential => "the credential that systemd gives to the service opens the vault",
        SlotKind::Keychain => "the login keychain opens the vault",
        SlotKind::CredentialManager => "the Credential Manager opens the vault",
        SlotKind::Password => "the password opens the vault",
        SlotKind::RecoveryCode => "the recovery code opens the vault",
        _ => "not used by this version",
    }
}

/// How the owner gets around a slot that fails.
fn way_back(slot: &SlotState, slots: &[SlotState]) -> String {
    let works = |kind| slots.iter().any(|slot| slot.kind == kind && slot.trouble.is_none());
    let anew = format!("`aico security slots remove {}` and `aico security slots add {}`", slot.id.0, slot.kind.word());
    let held = |slot: &SlotState| matches!(slot.kind, SlotKind::Password | SlotKind::RecoveryCode);
    if slots.iter().any(|slot| !held(slot) && slot.trouble.is_none()) {
        return format!(
            "mend that; another slot opens the vault until then. What does not come back is made anew: {anew}"
        );
    }
    if works(SlotKind::Password) {
        return format!("mend that, or `aico up`, then `aico unlock` with the password; {anew} make it anew");
    }
    if works(SlotKind::RecoveryCode) {
        return "mend that, or `aico up`, then `aico security recover` with the recovery code sets a new password"
            .to_owned();
    }
    let only = match slot.kind {
        SlotKind::KeyFile => {
            "put the key file back (AICO_KEY_DIR must be the folder of the first start); nothing else opens the vault"
        }
        _ => "mend that and start again; nothing else opens the vault",
    };
    only.to_owned()
}

/// What today's loss of one thing would mean.
fn look_at_losses(slots: &[SlotState], report: &mut Report) {
    let has = |kind| slots.iter().any(|slot| slot.kind == kind && slot.trouble.is_none());
    let keyrings = [SlotKind::SecretService, SlotKind::Keychain, SlotKind::CredentialManager];
    let (file, keyring, tpm) = (has(SlotKind::KeyFile), keyrings.into_iter().any(has), has(SlotKind::Tpm2));
    // A service's own: what a doctor outside of it is not given counts as lost.
    let credential = has(SlotKind::SystemdCredential);
    let (password, code) = (has(SlotKind::Password), has(SlotKind::RecoveryCode));
    let held = password || code;
    let disk = "the data would be lost: there is no copy of it elsewhere that this program knows of";
    report.add(Weight::Advice, "lost disk", disk, Some("copy the data folder elsewhere; it stays encrypted"));
    if file && !held && !keyring && !tpm && !credential {
        let hint = "`aico security recovery` makes a code on paper, `aico security setup` sets a password";
        report.add(Weight::Advice, "lost key file", "the data would be lost: nothing else opens the vault", Some(hint));
    } else if file {
        report.add(Weight::Good, "lost key file", "something else opens the vault", None);
    }
    for (what, there, others) in [
        ("lost keyring", keyring, file || held || tpm || credential),
        ("lost TPM", tpm, file || held || keyring || credential),
        ("lost credential", credential, file || held || keyring || tpm),
    ] {
        let hint = "`aico security recovery` makes a code on paper";
        match (there, others) {
            (true, true) => report.add(Weight::Good, what, "something else opens the vault", None),
            (true, false) => report.add(Weight::Problem, what, "the data would be lost", Some(hint)),
            (false, _) => {}
        }
    }
    match (password, code, file || keyring || tpm || credential) {
        (true, true, _) => {
            report.add(
                Weight::Good,
                "lost password",
                "the recovery code sets a new one: `aico security recover`",
                None,
            );
        }
        (true, false, true) => {
            let text = "this machine still opens the vault, but nobody could change the password";
            report.add(Weight::Advice, "lost password", text, Some("`aico security recovery` makes a code on paper"));
        }
        (true, false, false) => {
            let hint = "`aico security recovery` makes a code on paper";
            report.add(Weight::Problem, "lost password", "the data would be lost", Some(hint));
        }
        (false, ..) => {}
    }
}

/// Whether a better way came to this machine after the vault was set up, and why each other one is not used.
fn look_at_rungs(places: &Places, slots: &[SlotState], report: &mut Report) {
    for rung in rungs(places) {
        let (about, text) = match rung.kind() {
            SlotKind::SecretService => ("keyring", "a keyring runs here, and the vault does not use it"),
            SlotKind::Keychain => ("keychain", "the login keychain is open, and the vault does not use it"),
            SlotKind::CredentialManager => {
                ("Credential Manager", "the Credential Manager answers, and the vault does not use it")
            }
            SlotKind::Tpm2 => ("TPM", "this machine has a TPM 2.0, and the vault does not use it"),
            SlotKind::SystemdCredential => ("credential", "systemd gives one, and the vault does not use it"),
            _ => continue,
        };
        if slots.iter().any(|slot| slot.kind == rung.kind()) {
            continue;
        }
        match rung.available() {
            Ok(()) => {
                let hint = format!("`aico security slots add {}` uses it", rung.kind().word());
                report.add(Weight::Advice, about, text, Some(&hint));
            }
            Err(why) => report.add(Weight::Good, about, format!("not used: {why}"), None),
        }
    }
}

/// Whether the kernel spares the next start the way to the keyring.
fn look_at_kernel(places: &Places, slots: &[SlotState], report: &mut Report) {
    let Ok(header) = read_header(&places.home) else { return };
    if !slots.iter().any(|slot| slot.kind == SlotKind::SecretService) {
        return;
    }
    let text = match kernel_remembers(&header.vault()) {
        Ok(true) => "it remembers the keyring's secret for this login session: a start needs no D-Bus".to_owned(),
        Ok(false) => "it remembers nothing of this vault; a start that asks the keyring lets it".to_owned(),
        Err(why) => format!("not used, every start asks the keyring: {why}"),
    };
    report.add(Weight::Good, "kernel", text, None);
}

fn look_at_config(places: &Places, report: &mut Report) {
    match aico_backend::read_config(&places.home) {
        Ok(_) => report.add(Weight::Good, "config", "`security.yaml` is good, or there is none", None),
        Err(error) => {
            report.add(
                Weight::Problem,
                "config",
                error.to_string(),
                Some("`aico config check` says what is allowed there"),
            );
        }
    }
    if let Ok(metadata) = std::fs::metadata(&places.key_dir)
        && metadata.mode() & 0o022 != 0
    {
        let text = format!("others can write to the key folder {}", places.key_dir.display());
        report.add(
            Weight::Problem,
            "key folder",
            text,
            Some("`chmod 700` closes it; until then the key file there opens nothing"),
        );
    }
}

/// The command line's own identity: without it nothing answers, and a start makes a new one.
fn look_at_identity(places: &Places, has_vault: bool, report: &mut Report) {
    let config = aico_backend::read_config(&places.home).unwrap_or_default();
    let Ok(path) = cli_key(places, &config) else { return };
    match read_component_file(&path) {
        Ok((identity, _)) => {
            report.add(
                Weight::Good,
                "identity",
                format!("the command line is {}", identity.identity().fingerprint()),
                None,
            );
        }
        Err(_) if !has_vault => {}
        Err(NetError::IdentityFile { why, .. }) => {
            let hint = "stop the backend (Ctrl-C, or `kill` its process) and `aico up` again: whoever can open the vault \
                        gets a new identity, and it is recorded and shown";
            report.add(Weight::Problem, "identity", format!("{}: {why}", path.display()), Some(hint));
        }
        Err(error) => report.add(Weight::Problem, "identity", error.to_string(), None),
    }
}

async fn look_at_backend(report: &mut Report) {
    let asked = async {
        let mut client = connect().await?;
        let status: StatusAnswer = client.ask(&Request::Status { notices: false }).await?;
        let _gone = client.close().await;
        Ok::<_, Error>(status)
    };
    match asked.await {
        Ok(status) if status.locked => {
            report.add(Weight::Advice, "backend", "it runs, and the vault is locked", Some("`aico unlock` opens it"));
        }
        Ok(status) => {
            report.add(Weight::Good, "backend", format!("it runs; unlocked by {}", status.unlocked_by), None);
            look_at_protection(&status, report);
        }
        Err(Error::Net(NetError::NotRunning(_))) => {
            report.add(Weight::Good, "backend", "it does not run", Some("`aico up` starts it"));
        }
        Err(error @ Error::Net(NetError::Silence)) => {
            let hint = "it does not know this client: was the identity revoked or replaced? Stop the backend and `aico up` \
                        again enrols the one that is there";
            report.add(Weight::Problem, "backend", error.to_string(), Some(hint));
        }
        Err(error) => report.add(Weight::Problem, "backend", error.to_string(), None),
    }
}
