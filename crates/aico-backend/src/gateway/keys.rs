//! What opens the vault, and the owner's presence.

use aico_crypto::Password;
use aico_policy::{Action, Permit};
use aico_proto::message::{
    AuthAnswer, DoneAnswer, Failure, FailureCode, KeysAnswer, Proof as SentProof, RotateAnswer, Sensitive,
    SessionAnswer, SlotEntry, SlotsAnswer,
};
use aico_vault::unlock::{SlotId, SlotKind};
use aico_vault::{Error as VaultError, KeyChange, Proof, Rotated};
use tokio::task::block_in_place;

use crate::access::{now_ms, system_permit};
use crate::backend::Running;
use crate::error::{bad_request, failure};
use crate::locked::{parse_code, parse_proof};
use crate::sessions::Caller;

/// Checks the owner's proof; a wrong one is recorded and shown.
pub(crate) async fn authenticate(
    running: &Running,
    caller: &mut Caller,
    proof: &SentProof,
    keep: bool,
) -> Result<AuthAnswer, Failure> {
    let proof = parse_proof(proof)?;
    let _one_at_a_time = running.stretching().acquire().await;
    block_in_place(|| check(running, caller, &proof))?;
    Ok(AuthAnswer { session: caller.authenticate(running.sessions(), keep) })
}

fn check(running: &Running, caller: &Caller, proof: &Proof) -> Result<(), Failure> {
    let checked = running.vault().check(proof);
    match &checked {
        Ok(()) => running.record("auth.passed", caller.principal.identity().kind().as_str()),
        Err(VaultError::WrongPassword | VaultError::WrongCode) => {
            let text =
                format!("a wrong password or recovery code was given by `{}`", caller.principal.identity().name());
            let _failed_closed = running.vault().tell_owner(now_ms(), "auth.failed", &text);
        }
        Err(_) => {}
    }
    checked.map_err(|error| failure(&error))
}

pub(crate) fn confirm(caller: &mut Caller) -> Result<DoneAnswer, Failure> {
    if caller.confirm() {
        return Ok(DoneAnswer {});
    }
    let message = "a word counts only if it was typed on a terminal".to_owned();
    let hint = Some("`aico security setup` sets a password instead".to_owned());
    Err(Failure { code: FailureCode::Denied, message, hint })
}

pub(crate) fn session(running: &Running, caller: &Caller) -> Result<SessionAnswer, Failure> {
    Ok(SessionAnswer {
        password: running.vault().is_protected(),
        terminal: caller.has_terminal(),
        remaining_s: caller.session_remaining(running.sessions()).map(|left| left.as_secs()),
    })
}

pub(crate) fn end_session(running: &Running, caller: &Caller) -> Result<DoneAnswer, Failure> {
    caller.end_session(running.sessions());
    Ok(DoneAnswer {})
}

pub(crate) fn slots(running: &Running, caller: &Caller) -> Result<SlotsAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::ReadKeys)?;
        let slots = running.vault().slots(permit).map_err(|error| failure(&error))?;
        let entry = |slot: aico_vault::SlotState| SlotEntry {
            slot: slot.id.0,
            kind: slot.kind.word().to_owned(),
            created_ms: slot.created_ms,
            trouble: slot.trouble,
        };
        Ok(SlotsAnswer { slots: slots.into_iter().map(entry).collect() })
    })
}

pub(crate) async fn set_password(
    running: &Running,
    caller: &Caller,
    password: &Sensitive,
) -> Result<KeysAnswer, Failure> {
    let password = parse_password(password)?;
    let _one_at_a_time = running.stretching().acquire().await;
    changed(running, || {
        let permit = system_permit(running, caller, Action::SetFirstPassword)?;
        let most = running.setup().stretch_memory_mib();
        running.vault().set_first_password(permit, &password, most, now_ms()).map_err(|error| failure(&error))
    })
}

/// The old password is the owner's proof, whatever the session says.
pub(crate) async fn change_password(
    running: &Running,
    caller: &mut Caller,
    (old, new): (&Sensitive, &Sensitive),
    rotate: bool,
) -> Result<KeysAnswer, Failure> {
    let (old, new) = (parse_password(old)?, parse_password(new)?);
    let _one_at_a_time = running.stretching().acquire().await;
    let proof = Proof::Password(old);
    block_in_place(|| check(running, caller, &proof))?;
    caller.authenticate(running.sessions(), false);
    let Proof::Password(old) = proof else { return Err(bad_request("a password")) };
    changed(running, || {
        let permit = key_permit(running, caller)?;
        let most = running.setup().stretch_memory_mib();
        let done = running.vault().change_password(permit, (&old, &new), rotate, most, now_ms());
        done.map_err(|error| failure(&error))
    })
}

pub(crate) async fn recover(
    running: &Running,
    caller: &mut Caller,
    code: &Sensitive,
    password: &Sensitive,
) -> Result<KeysAnswer, Failure> {
    let password = parse_password(password)?;
    let proof = Proof::Recovery(parse_code(code.expose())?);
    let _one_at_a_time = running.stretching().acquire().await;
    block_in_place(|| check(running, caller, &proof))?;
    caller.authenticate(running.sessions(), false);
    let Proof::Recovery(code) = proof else { return Err(bad_request("a recovery code")) };
    changed(running, || {
        let permit = key_permit(running, caller)?;
        let most = running.setup().stretch_memory_mib();
        running.vault().recover(permit, &code, &password, most, now_ms()).map_err(|error| failure(&error))
    })
}

pub(crate) fn put_recovery(running: &Running, caller: &Caller, code: &Sensitive) -> Result<KeysAnswer, Failure> {
    let code = parse_code(code.expose())?;
    changed(running, || {
        let permit = key_permit(running, caller)?;
        running.vault().put_recovery(permit, &code, now_ms()).map_err(|error| failure(&error))
    })
}

pub(crate) fn add_slot(running: &Running, caller: &Caller, kind: &str) -> Result<DoneAnswer, Failure> {
    let kind = SlotKind::of_machine(kind).ok_or_else(|| {
        let kinds = "`key-file`, `secret-service`, `systemd-credential`, `tpm2`, `keychain` or `credential-manager`";
        bad_request(format!("a slot that can be added is {kinds}"))
    })?;
    block_in_place(|| {
        let permit = key_permit(running, caller)?;
        running.vault().add_slot(permit, kind, now_ms()).map_err(|error| failure(&error))?;
        Ok(DoneAnswer {})
    })
}

pub(crate) fn remove_slot(running: &Running, caller: &Caller, slot: u8) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let permit = key_permit(running, caller)?;
        let slots = running.vault().remove_slot(permit, SlotId(slot), now_ms());
        slots.map_err(|error| failure(&error))?;
        running.sessions().end_all();
        Ok(DoneAnswer {})
    })
}

pub(crate) fn clear_stored(running: &Running, caller: &Caller) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let permit = key_permit(running, caller)?;
        running.vault().clear_stored_keys(permit, now_ms()).map_err(|error| failure(&error))?;
        Ok(DoneAnswer {})
    })
}

/// Complete when this returns; a stop of the backend ends it early, and the next start goes on.
pub(crate) fn rotate(running: &Running, caller: &Caller) -> Result<RotateAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::RotateKeys)?;
        let go_on = &mut |progress| running.goes_on_with("rotation", &progress);
        let rotated = running.vault().rotate(permit, now_ms(), go_on);
        running.note_work(None);
        let Rotated { epoch, bytes, damaged, took_ms } = rotated.map_err(|error| failure(&error))?;
        Ok(RotateAnswer { epoch, bytes, damaged, took_ms })
    })
}

pub(crate) fn lock(running: &Running, caller: &Caller) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::Lock)?;
        running.vault().note_locked(permit).map_err(|error| failure(&error))?;
        Ok(DoneAnswer {})
    })
}

/// After a change of what opens the vault nobody has a session any more.
fn changed(running: &Running, change: impl FnOnce() -> Result<KeyChange, Failure>) -> Result<KeysAnswer, Failure> {
    let KeyChange { key_file_retired, memory_mib } = block_in_place(change)?;
    running.sessions().end_all();
    Ok(KeysAnswer { key_file_retired, memory_mib })
}

fn key_permit(running: &Running, caller: &Caller) -> Result<Permit, Failure> {
    system_permit(running, caller, Action::ManageKeys)
}

fn parse_password(text: &Sensitive) -> Result<Password, Failure> {
    Password::parse(text.expose()).map_err(|error| bad_request(error.to_string()))
}
