//! One connection: requests in, one after another, answers out.

mod data;
mod system;

use std::sync::Arc;

use aico_net::{Error as NetError, Receiver, Sender, Visitor};
use aico_policy::Principal;
use aico_proto::message::{Failure, FailureCode, Part, PartKind, Request, from_json, to_json};
use aico_proto::{CloseReason, Peer, UnenrolledPeer};
use serde::Serialize;

use crate::backend::Running;
use crate::error::bad_request;

/// Serves one visitor until it leaves, breaks the protocol, or the backend stops.
pub(crate) async fn serve(running: Arc<Running>, mut visitor: Visitor) {
    let peer = visitor.stream.peer.clone();
    let mut line = Line { sender: &mut visitor.stream.sender, receiver: &mut visitor.stream.receiver };
    let ended = match &peer {
        Peer::Authenticated(peer) => serve_requests(&running, &Principal::from_peer(peer), &mut line).await,
        Peer::Unenrolled(peer) => serve_unenrolled(&running, peer, &mut line).await,
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

    pub(crate) async fn fail(&mut self, failure: &Failure) -> Result<(), NetError> {
        self.sender.send(&[&[PartKind::Failure as u8], &to_json(failure)?]).await
    }
}

async fn serve_requests(
    running: &Running,
    principal: &Principal,
    line: &mut Line<'_>,
) -> Result<CloseReason, NetError> {
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
        handle(running, principal, request, line).await?;
    }
}

async fn handle(
    running: &Running,
    principal: &Principal,
    request: Request,
    line: &mut Line<'_>,
) -> Result<(), NetError> {
    match request {
        Request::DataPut { path } => data::put(running, principal, &path, line).await,
        Request::DataGet { path } => data::get(running, principal, &path, line).await,
        Request::DataList { prefix, after } => reply(line, data::list(running, principal, prefix, after)).await,
        Request::DataRemove { path } => reply(line, data::remove(running, principal, &path)).await,
        Request::Status {} => reply(line, system::status(running, principal)).await,
        Request::AuditTail { count } => reply(line, system::audit_tail(running, principal, count)).await,
        Request::AuditAnchor {} => reply(line, system::audit_anchor(running, principal)).await,
        Request::IdentityPending {} => reply(line, system::pending(running, principal)).await,
        Request::IdentityApprove { fingerprint } => {
            reply(line, system::approve(running, principal, &fingerprint)).await
        }
        Request::IdentityDeny { fingerprint } => reply(line, system::deny(running, principal, &fingerprint)).await,
        Request::SystemStop {} => {
            let answer = system::stop(running, principal);
            let allowed = answer.is_ok();
            reply(line, answer).await?;
            if allowed {
                running.stop();
            }
            Ok(())
        }
        Request::Enrol {} => line.fail(&bad_request("this identity is enrolled already")).await,
    }
}

async fn reply(line: &mut Line<'_>, answer: Result<impl Serialize, Failure>) -> Result<(), NetError> {
    match answer {
        Ok(answer) => line.answer(&answer).await,
        Err(failure) => line.fail(&failure).await,
    }
}

/// Somebody unenrolled may ask to be enrolled, once; anything else is denied, recorded, and ends the channel.
async fn serve_unenrolled(
    running: &Running,
    peer: &UnenrolledPeer,
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
    running.record("enrol.asked", peer.identity().kind().as_str());
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
        // A CLOSE is answered with the same reason.
        NetError::Closed(reason) => *reason,
        NetError::Channel(error) => CloseReason::for_error(error),
        _ => CloseReason::Protocol,
    }
}
