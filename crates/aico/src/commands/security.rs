//! `aico security`: what opens the vault, and the owner's session.

use std::io::IsTerminal;

use aico_crypto::{OsRandom, RECOVERY_WORDS, Random, RecoveryCode};
use aico_proto::message::{
    DoneAnswer, KeysAnswer, Proof, Request, RotateAnswer, Sensitive, SessionAnswer, SlotsAnswer, StatusAnswer,
};

use crate::args::{SecurityCommand, SlotsCommand};
use crate::commands::{finish, lock};
use crate::error::Error;
use crate::owner::{self, Owner};
use crate::places::connect;
use crate::ui;

pub(crate) async fn security(command: SecurityCommand, owner: Owner) -> Result<(), Error> {
    match command {
        SecurityCommand::Setup => setup(owner).await,
        SecurityCommand::Passwd { rotate } => passwd(owner, rotate).await,
        SecurityCommand::Rotate { json } => rotate(owner, json).await,
        SecurityCommand::Recovery => recovery(owner).await,
        SecurityCommand::Recover => recover(owner).await,
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

/// Makes a code on the terminal, and nowhere else; its slot exists once two words were typed back.
async fn recovery(mut owner: Owner) -> Result<(), Error> {
    if !owner.has_terminal() || !std::io::stdout().is_terminal() {
        return Err(Error::NoTerminal("a recovery code"));
    }
    let mut client = connect().await?;
    let status: StatusAnswer = client.ask(&Request::Status { notices: false }).await?;
    if status.recovery_code {
        ui::line("There is a recovery code already. This one takes its place: the old paper opens nothing any more.");
    }
    let code = RecoveryCode::make(&OsRandom).map_err(aico_vault::Error::from)?;
    let (shown, asked) = (sheet(&code), two_places()?);
    ui::line(shown.expose());
    for place in asked {
        ui::prompt(&format!("Type word {place} of it: "));
        let typed = Sensitive::new(owner::line()?.trim().to_lowercase());
        let right = code.hazmat_words(|words| words.get(place - 1).is_some_and(|word| *word == typed.expose()));
        if !right {
            let text = "that is not the word; no recovery code was made, write it down and try again";
            return Err(Error::Usage(text.to_owned()));
        }
    }
    let text = code.hazmat_words(|words| Sensitive::new(words.join(" ")));
    let done: KeysAnswer = owner.ask(&mut client, &Request::KeysRecovery { code: text }, "recovery").await?;
    ui::line("the recovery code is in force; keep the paper where a fire or a thief of this machine does not reach it");
    if done.key_file_retired {
        tell(&done);
    }
    finish(client).await
}

/// The code as it can be copied or printed.
fn sheet(code: &RecoveryCode) -> Sensitive {
    code.hazmat_words(|words| {
        let mut out = String::from("Recovery code of this AICO vault. Whoever has it can open the vault.\n\n");
        for (row, chunk) in words.chunks(3).enumerate() {
            for (column, word) in chunk.iter().enumerate() {
                out += &format!("  {:>2}. {word:<10}", row * 3 + column + 1);
            }
            out.push('\n');
        }
        Sensitive::new(out)
    })
}

/// Two different places, by chance, so that nobody learns to skip the paper.
fn two_places() -> Result<[usize; 2], Error> {
    let mut bytes = [0; 2];
    OsRandom.fill(&mut bytes).map_err(aico_vault::Error::from)?;
    let [first, second] = bytes.map(usize::from);
    let first = first % RECOVERY_WORDS;
    let second = (first + 1 + second % (RECOVERY_WORDS - 1)) % RECOVERY_WORDS;
    Ok([first + 1, second + 1])
}

/// A new password by the recovery code; opens a locked vault on the way.
async fn recover(mut owner: Owner) -> Result<(), Error> {
    let code = owner.password("Recovery code (15 words): ")?;
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
