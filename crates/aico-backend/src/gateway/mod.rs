//! One connection: requests in, one after another, answers out.

mod backup;
mod config;
mod data;
mod export;
mod identities;
mod keys;
mod memory;
mod mount;
mod query;
mod sealed;
mod system;

use std::sync::Arc;

use aico_net::{Error as NetError, Origin, Receiver, Sender, Visitor};
use aico_policy::Principal;
use aico_proto::message::{EnrolAnswer, Failure, FailureCode, Part, PartKind, Request, from_json, to_json};
use aico_proto::{CloseReason, Peer, UnenrolledPeer};
use aico_vault::Looks;
use serde::Serialize;
use tokio::task::block_in_place;

use crate::backend::{End, Running};
use crate::error::bad_request;
use crate::sessions::Caller;

/// Serves one visitor until it leaves, breaks the protocol, or the backend stops.
pub(crate) async fn serve(running: Arc<Running>, mut visitor: Visitor) {
    let _listed = running.list(&visitor);
    let (peer, origin) = (visitor.stream.peer.clone(), visitor.origin);
    let mut line = Line { sender: &mut visitor.stream.sender, receiver: &mut visitor.stream.receiver };
    let ended = match &peer {
        Peer::Authenticated(peer) => {
            let mut caller = Caller::new(Principal::from_peer(peer), origin);
            serve_requests(&running, &mut caller, &mut line).await
        }
        Peer::Unenrolled(peer) => serve_unenrolled(&running, peer, origin, &mut line).await,
    };
    let reason = match ended {
        Ok(reason) => reason,
        Err(error) => close_reason(&error),
    };
    let _gone = visitor.stream.sender.close(reason).await;
}

/// Both halves of a channel.
pub(crate) struct Line<'a> {
    pub(crate) sender: &'a mut Sender,
    pub(crate) receiver: &'a mut Receiver,
}

impl Line<'_> {
    pub(crate) async fn answer(&mut self, answer: &impl Serialize) -> Result<(), NetError> {
        self.sender.send(&[&[PartKind::Answer as u8], &to_json(answer)?]).await
    }

    /// The same, where a value follows.
    pub(crate) async fn begin_answer(&mut self, answer: &impl Serialize) -> Result<(), NetError> {
        self.sender.send_more(&[&[PartKind::Answer as u8], &to_json(answer)?]).await
    }

    pub(crate) async fn fail(&mut self, failure: &Failure) -> Result<(), NetError> {
        self.sender.send(&[&[PartKind::Failure as u8], &to_json(failure)?]).await
    }
}

async fn serve_requests(running: &Running, caller: &mut Caller, line: &mut Line<'_>) -> Result<CloseReason, NetError> {
    let mut stopping = running.stopping();
    loop {
        let plaintext = tokio::select! {
            biased;
            () = stopping.wait() => return Ok(CloseReason::Shutdown),
            received = line.receiver.receive() => received?,
        };
        let Part::Request(json) = Part::parse(plaintext)? else { return Err(NetError::UnexpectedMessage) };
        let Ok(request) = from_json::<Request>(json) else {
            line.fail(&bad_request("this is not a request that this version knows")).await?;
            return Ok(CloseReason::Protocol);
        };
        handle(running, caller, request, line).await?;
    }
}

async fn handle(running: &Running, caller: &mut Caller, request: Request, line: &mut Line<'_>) -> Result<(), NetError> {
    match request {
        Request::DataPut { path } => data::put(running, caller, &path, line).await,
        Request::DataGet { path } => data::get(running, caller, &path, line).await,
        Request::DataExport {} => export::export(running, caller, line).await,
        Request::BackupCopy {} => backup::copy(running, caller, line).await,
        Request::DataList { prefix, after } => reply(line, data::list(running, caller, prefix, after)).await,
        Request::DataRemove { path } => reply(line, data::remove(running, caller, &path)).await,
        Request::MemoryPut { path, keep_ms } => memory::put(running, caller, (&path, keep_ms), line).await,
        Request::MemoryGet { path } => memory::get(running, caller, &path, line).await,
        Request::MemoryList { prefix, after } => reply(line, memory::list(running, caller, prefix, after)).await,
        Request::MemoryRemove { path } => reply(line, memory::remove(running, caller, &path)).await,
        Request::DataInventory {} => reply(line, data::inventory(running, caller)).await,
        Request::Status { notices } => system::status(running, caller, notices, line).await,
        Request::Connections {} => reply(line, system::connections(running, caller)).await,
        Request::AuditTail { count } => reply(line, system::audit_tail(running, caller, count)).await,
        Request::Query { sql } => query::query(running, caller, &sql, line).await,
        Request::AuditAnchor {} => reply(line, system::audit_anchor(running, caller)).await,
        Request::Auth { proof, keep } => reply(line, keys::authenticate(running, caller, &proof, keep).await).await,
        Request::Confirm {} => reply(line, keys::confirm(caller)).await,
        Request::SessionStatus {} => reply(line, keys::session(running, caller)).await,
        Request::SessionEnd {} => reply(line, keys::end_session(running, caller)).await,
        Request::KeysSlots {} => reply(line, keys::slots(running, caller)).await,
        Request::KeysSetPassword { password } => {
            reply(line, keys::set_password(running, caller, &password).await).await
        }
        Request::KeysChangePassword { old, new, rotate } => {
            reply(line, keys::change_password(running, caller, (&old, &new), rotate).await).await
        }
        Request::KeysRecovery { code } => reply(line, keys::put_recovery(running, caller, &code)).await,
        Request::KeysRecover { code, password } => {
            reply(line, keys::recover(running, caller, &code, &password).await).await
        }
        Request::KeysAddSlot { kind } => reply(line, keys::add_slot(running, caller, &kind)).await,
        Request::KeysRemoveSlot { slot } => reply(line, keys::remove_slot(running, caller, slot)).await,
        Request::KeysClearStored {} => reply(line, keys::clear_stored(running, caller)).await,
        Request::KeysRotate {} => reply(line, keys::rotate(running, caller)).await,
        Request::DataForget { prefix } => reply(line, data::forget(running, caller, prefix)).await,
        Request::FilesMount { read_only, user, group } => {
            mount::mount(running, caller, Looks { read_only, user, group }, line).await
        }
        Request::FilesSeal {} => reply(line, sealed::seal(running, caller)).await,
        Request::FilesOpen { header } => reply(line, sealed::open(running, caller, &header)).await,
        Request::Lock {} => reply_and_end(running, line, keys::lock(running, caller), End::Locked).await,
        Request::Unlock { .. } => line.fail(&bad_request("the vault is not locked")).await,
        Request::IdentityPending {} => reply(line, identities::pending(running, caller)).await,
        Request::IdentityApprove { fingerprint } => {
            reply(line, identities::approve(running, caller, &fingerprint)).await
        }
        Request::IdentityDeny { fingerprint } => reply(line, identities::deny(running, caller, &fingerprint)).await,
        Request::IdentityList {} => reply(line, identities::list(running, caller)).await,
        Request::IdentityAdd { kind, name, key } => {
            reply(line, identities::add(running, caller, &kind, &name, &key)).await
        }
        Request::IdentityRename { fingerprint, name } => {
            reply(line, identities::rename(running, caller, &fingerprint, &name)).await
        }
        Request::IdentityRevoke { fingerprint } => {
            let revoked = identities::revoke(running, caller, &fingerprint);
            let key = revoked.as_ref().ok().copied();
            let told = reply(line, revoked.map(|_| aico_proto::message::DoneAnswer {})).await;
            let _gone = line.sender.flush().await;
            key.iter().for_each(|key| running.cut_identity(key));
            told
        }
        Request::ConfigShow {} => reply(line, config::show(running, caller)).await,
        Request::ConfigAccept { sum } => reply(line, config::accept(running, caller, &sum)).await,
        Request::SystemStop {} => reply_and_end(running, line, system::stop(running, caller), End::Stopped).await,
        Request::Enrol {} => line.fail(&bad_request("this identity is enrolled already")).await,
    }
}

pub(crate) async fn reply(line: &mut Line<'_>, answer: Result<impl Serialize, Failure>) -> Result<(), NetError> {
    match answer {
        Ok(answer) => line.answer(&answer).await,
        Err(failure) => line.fail(&failure).await,
    }
}

async fn reply_and_end(
    running: &Running,
    line: &mut Line<'_>,
    answer: Result<impl Serialize, Failure>,
    end: End,
) -> Result<(), NetError> {
    let allowed = answer.is_ok();
    reply(line, answer).await?;
    if allowed {
        // Whoever asked may have left already; it was asked for all the same.
        let _gone = line.sender.flush().await;
        running.end(end);
    }
    Ok(())
}

/// Somebody unenrolled may ask to be enrolled, once; anything else is denied, recorded, and ends the channel.
async fn serve_unenrolled(
    running: &Running,
    peer: &UnenrolledPeer,
    origin: Origin,
    line: &mut Line<'_>,
) -> Result<CloseReason, NetError> {
    let first = Part::parse(line.receiver.receive().await?)?;
    let asks = matches!(first, Part::Request(json) if from_json::<Request>(json) == Ok(Request::Enrol {}));
    if !asks {
        running.record("enrol.refused", "an unenrolled identity asked for something else");
        let message = "this identity is not enrolled: it may only ask for that".to_owned();
        let hint = Some("`aico identity enrol` asks for it".to_owned());
        line.fail(&Failure { code: FailureCode::Denied, message, hint }).await?;
        return Ok(CloseReason::Protocol);
    }
    if running.is_owners_first(peer.identity(), origin) {
        let fingerprint = peer.identity().fingerprint().to_string();
        let answer = |state: &str| EnrolAnswer { state: state.to_owned(), fingerprint: fingerprint.clone() };
        line.answer(&answer("waiting")).await?;
        let done = block_in_place(|| running.enrol_owners_first(peer.identity()));
        let failed = |_| Failure { code: FailureCode::Failed, message: "enrolling failed".to_owned(), hint: None };
        reply(line, done.map(|()| answer("enrolled")).map_err(failed)).await?;
        return Ok(CloseReason::Normal);
    }
    running.record("enrol.asked", &format!("{}, {origin}", peer.identity().kind().as_str()));
    let waiting = running.waiting().clone();
    let mut stopping = running.stopping();
    let decided = {
        let announced = async |answer| line.answer(&answer).await.is_ok();
        let wait = waiting.wait(peer.identity(), announced);
        tokio::select! {
            () = stopping.wait() => return Ok(CloseReason::Shutdown),
            decided = wait => decided,
        }
    };
    reply(line, decided).await?;
    Ok(CloseReason::Normal)
}

/// What the other side is told when a connection ends badly.
fn close_reason(error: &NetError) -> CloseReason {
    match error {
        NetError::Closed(reason) => *reason,
        NetError::Channel(error) => CloseReason::for_error(error),
        _ => CloseReason::Protocol,
    }
}
