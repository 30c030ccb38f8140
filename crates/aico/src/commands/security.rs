//! `aico security`: what opens the vault, and the owner's session.

use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, SystemTime};

use aico_crypto::{Gathering, OsRandom, Random, RecoveryCode, Share, Split};
use aico_proto::message::{
    DoneAnswer, KeysAnswer, Proof, Request, RotateAnswer, Sensitive, SessionAnswer, SlotsAnswer, StatusAnswer,
};

use crate::args::{SecurityCommand, SlotsCommand};
use crate::commands::kit::{Paper, Target};
use crate::commands::{finish, lock};
use crate::error::Error;
use crate::owner::{self, Owner};
use crate::places::{connect, places};
use crate::ui;

pub(crate) async fn security(command: SecurityCommand, owner: Owner) -> Result<(), Error> {
    match command {
        SecurityCommand::Setup => setup(owner).await,
        SecurityCommand::Passwd { rotate } => passwd(owner, rotate).await,
        SecurityCommand::Rotate { json } => rotate(owner, json).await,
        SecurityCommand::Recovery { split, kit } => recovery(owner, split, kit.as_deref()).await,
        SecurityCommand::Recover { shares } => recover(owner, shares).await,
        SecurityCommand::Session { json } => session(json).await,
        SecurityCommand::Clear { stored_keys } => clear(owner, stored_keys).await,
        SecurityCommand::Slots(command) => slots(command, owner).await,
    }
}

async fn setup(mut owner: Owner) -> Result<(), Error> {
    let mut client = connect().await?;
    let status: StatusAnswer = client.ask(&Request::Status { notices: false }).await?;
    if status.password {
        return Err(Error::Usage("there is a password already; `aico security passwd` changes it".to_owned()));
    }
    let password = owner.new_password()?;
    let done: KeysAnswer = client.ask(&Request::KeysSetPassword { password }).await?;
    ui::line("the password is set");
    tell(&done);
    if !status.recovery_code {
        ui::line("`aico security recovery` makes a code for the day on which it is forgotten");
    }
    finish(client).await
}

async fn passwd(mut owner: Owner, rotate: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    let old = owner.password("Old password: ")?;
    let new = owner.new_password()?;
    let done: KeysAnswer = client.ask(&Request::KeysChangePassword { old, new, rotate }).await?;
    ui::line("the password is changed; no data was touched");
    tell(&done);
    if rotate {
        ui::line("there is a new root key: an older copy of `vault.aico` opens nothing that is written from now on");
    }
    finish(client).await
}

async fn rotate(mut owner: Owner, json: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    let done: RotateAnswer = owner.ask(&mut client, &Request::KeysRotate {}, "rotate").await?;
    if json {
        ui::line(&serde_json::to_string(&done)?);
    } else {
        let took = std::time::Duration::from_millis(done.took_ms);
        ui::line(&format!("every store has a new key, number {}; {:.1} s", done.epoch, took.as_secs_f64()));
        if done.damaged > 0 {
            ui::error_line(&format!(
                "{} damaged values kept their old keys: `aico vault verify` names them",
                done.damaged
            ));
        }
    }
    finish(client).await
}

fn tell(done: &KeysAnswer) {
    if done.memory_mib > 0 {
        ui::line(&format!("stretching it takes {} MiB of memory on this machine", done.memory_mib));
    }
    if done.key_file_retired {
        ui::line("the key file was removed: the keyring restarts the backend, and you hold a way in");
    } else if done.memory_mib > 0 {
        ui::line("the key file stays where it is the only way to restart without you; `aico doctor` says more");
    }
}

/// Makes a code on the terminal, and on the pages of a kit, and nowhere else; its slot exists once two words of it, or one
/// of each of its shares, were typed back.
async fn recovery(mut owner: Owner, split: Option<Split>, kit: Option<&Path>) -> Result<(), Error> {
    if !owner.has_terminal() || !std::io::stdout().is_terminal() {
        return Err(Error::NoTerminal("a recovery code"));
    }
    let target = kit.map(Target::new).transpose()?;
    let mut client = connect().await?;
    let status: StatusAnswer = client.ask(&Request::Status { notices: false }).await?;
    if status.recovery_code {
        ui::line("There is a recovery code already. This one takes its place: the old paper opens nothing any more.");
    }
    let code = RecoveryCode::make(&OsRandom).map_err(aico_vault::Error::from)?;
    let papers = match split {
        None => vec![Paper::of_code(&code)],
        Some(split) => {
            let shares = code.split(split, &OsRandom).map_err(aico_vault::Error::from)?;
            shares.iter().map(|share| Paper::of_share(share, split)).collect()
        }
    };
    let written = target.map(|target| target.write(&papers, &vault_name(&status), &today())).transpose()?;
    if let Some(kit) = kit.filter(|_| written.is_some()) {
        ui::line(&format!(
            "To be printed now, and checked against what follows: {}\n",
            ui::printable(&kit.display().to_string())
        ));
    }
    let words = if split.is_some() { 1 } else { 2 };
    for paper in &papers {
        ui::line(paper.sheet().expose());
        have_typed_back(paper, words)?;
    }
    let text = Paper::of_code(&code).words().clone();
    let done: KeysAnswer = owner.ask(&mut client, &Request::KeysRecovery { code: text }, "recovery").await?;
    ui::line(match split {
        None => {
            "the recovery code is in force; keep the paper where a fire or a thief of this machine does not reach it"
        }
        Some(_) => "the recovery code is in force; give each share to somebody else, and keep none beside this machine",
    });
    for file in written.map(|written| written.keep()).unwrap_or_default() {
        ui::line(&format!(
            "holds the secret, unencrypted: print it, then delete it: {}",
            ui::printable(&file.display().to_string())
        ));
    }
    if done.key_file_retired {
        tell(&done);
    }
    finish(client).await
}

/// Words at different places, by chance, so that nobody learns to skip the paper.
fn have_typed_back(paper: &Paper, words: usize) -> Result<(), Error> {
    let mut bytes = [0; 2];
    OsRandom.fill(&mut bytes).map_err(aico_vault::Error::from)?;
    let [first, second] = bytes.map(usize::from);
    let (first, count) = (first % paper.count(), paper.count());
    for place in [first, (first + 1 + second % (count - 1)) % count].into_iter().take(words) {
        ui::prompt(&format!("Type word {} of {}: ", place + 1, paper.name()));
        let typed = Sensitive::new(owner::line()?.trim().to_lowercase());
        if !paper.has(typed.expose(), place + 1) {
            let text = "that is not the word; no recovery code was made, write it down and try again";
            return Err(Error::Usage(text.to_owned()));
        }
    }
    Ok(())
}

/// What a kit says it belongs to. The header of a service's vault cannot be read.
fn vault_name(status: &StatusAnswer) -> String {
    let header = places().ok().and_then(|places| aico_vault::read_header(&places.home).ok());
    header.map_or_else(|| format!("vault of {}", status.fingerprint), |header| header.vault().to_string())
}

fn today() -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let time = ui::time(now.as_millis() as u64);
    time.split(' ').next().unwrap_or_default().to_owned()
}

/// A new password by the recovery code or its shares; opens a locked vault on the way.
async fn recover(mut owner: Owner, shares: bool) -> Result<(), Error> {
    let code = if shares { gather(&mut owner)? } else { owner.password("Recovery code (15 words): ")? };
    let password = owner.new_password()?;
    let mut client = connect().await?;
    let status: StatusAnswer = client.ask(&Request::Status { notices: false }).await?;
    if status.locked {
        let proof = Some(Proof::RecoveryCode(code.clone()));
        client.ask::<DoneAnswer>(&Request::Unlock { proof }).await?;
        client = lock::reconnect().await?;
    }
    let done: KeysAnswer = client.ask(&Request::KeysRecover { code, password }).await?;
    ui::line("the new password is set; the recovery code stays good");
    tell(&done);
    finish(client).await
}

/// Asks for shares until there are enough of them. At a terminal one that is not taken may be typed again.
fn gather(owner: &mut Owner) -> Result<Sensitive, Error> {
    let mut gathering = Gathering::default();
    loop {
        let typed = owner.password("Share (21 words): ")?;
        match Share::parse(typed.expose()).and_then(|share| gathering.add(share)) {
            Ok((there, wanted)) if there == wanted => return Ok(Paper::of_code(&gathering.restore()?).words().clone()),
            Ok((there, wanted)) => ui::error_line(&format!("{there} of {wanted} so far")),
            Err(fault) if owner.has_file() => return Err(fault.into()),
            Err(fault) => ui::error_line(&fault.to_string()),
        }
    }
}

async fn session(json: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    let answer: SessionAnswer = client.ask(&Request::SessionStatus {}).await?;
    if json {
        ui::line(&serde_json::to_string(&answer)?);
    } else {
        ui::line(&match (answer.password, answer.terminal, answer.remaining_s) {
            (false, ..) => "no password is set: your account on this machine is the proof".to_owned(),
            (true, false, _) => "no session without a terminal: each command authenticates itself".to_owned(),
            (true, true, None) => "no session; the next command that needs one asks for the password".to_owned(),
            (true, true, Some(left)) => format!("a session is open for {} from its last use", ui::span(left)),
        });
    }
    finish(client).await
}

async fn clear(mut owner: Owner, stored_keys: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    if stored_keys {
        owner.ask::<DoneAnswer>(&mut client, &Request::KeysClearStored {}, "stored keys").await?;
        ui::line("the stored keys are removed: the next start waits for `aico unlock`");
    } else {
        client.ask::<DoneAnswer>(&Request::SessionEnd {}).await?;
        ui::line("no session is open");
    }
    finish(client).await
}

async fn slots(command: SlotsCommand, mut owner: Owner) -> Result<(), Error> {
    let mut client = connect().await?;
    match command {
        SlotsCommand::List { json } => {
            let answer: SlotsAnswer = client.ask(&Request::KeysSlots {}).await?;
            for slot in &answer.slots {
                if json {
                    ui::line(&serde_json::to_string(slot)?);
                    continue;
                }
                let trouble = slot.trouble.as_ref().map(|why| format!("  does not open: {}", ui::printable(why)));
                let made = ui::time(slot.created_ms);
                ui::line(&format!("{:>3}  {:<16} made {made}{}", slot.slot, slot.kind, trouble.unwrap_or_default()));
            }
        }
        SlotsCommand::Add { kind } => {
            owner.ask::<DoneAnswer>(&mut client, &Request::KeysAddSlot { kind }, "add").await?;
            ui::line("the slot is added");
        }
        SlotsCommand::Remove { slot } => {
            owner.ask::<DoneAnswer>(&mut client, &Request::KeysRemoveSlot { slot }, "remove").await?;
            ui::line("the slot is removed");
        }
    }
    finish(client).await
}
