//! The system itself: status, connections, the audit log, stopping.

use std::time::Duration;

use aico_crypto::ComponentKind;
use aico_net::Error as NetError;
use aico_policy::Action;
use aico_proto::message::{
    AnchorAnswer, AuditAnswer, AuditEntry, ConnectionEntry, ConnectionsAnswer, DoneAnswer, Failure, StatusAnswer,
};
use aico_proto::{CloseReason, Suite};
use base64ct::{Base64, Encoding};
use tokio::task::block_in_place;

use crate::access::system_permit;
use crate::backend::{Connection, Running};
use crate::error::{bad_request, failure};
use crate::gateway::Line;
use crate::sessions::Caller;

/// Most entries in one answer.
const MAX_TAIL: u32 = 100;
/// Notices in one answer; the rest comes with the next.
const MAX_NOTICES: usize = 20;
/// How long one who asks for notices waits for another to have read them.
const PATIENCE: Duration = Duration::from_secs(1);
/// Connections in one answer: what fits into a record's JSON.
const MAX_CONNECTIONS: usize = 150;

/// How the backend is. Notices are forgotten once they are on their way to the owner's own tool.
pub(crate) async fn status(
    running: &Running,
    caller: &Caller,
    notices: bool,
    line: &mut Line<'_>,
) -> Result<(), NetError> {
    // Two who ask at once are not both shown the same; one who does not read holds nobody up.
    let showing = tokio::time::timeout(PATIENCE, running.showing().acquire());
    let _one_at_a_time = if notices { Some(showing.await) } else { None };
    let (answer, shown) = match block_in_place(|| status_now(running, caller, notices)) {
        Ok(answered) => answered,
        Err(failure) => return line.fail(&failure).await,
    };
    line.answer(&answer).await?;
    match line.sender.flush().await {
        // Whoever says goodbye has read the answer.
        Ok(()) | Err(NetError::Closed(CloseReason::Normal)) => {}
        Err(error) => return Err(error),
    }
    if let Some(number) = shown {
        // What cannot be forgotten is shown once more.
        let _shown_again = block_in_place(|| running.vault().forget_notices(number));
    }
    Ok(())
}

fn status_now(running: &Running, caller: &Caller, notices: bool) -> Result<(StatusAnswer, Option<i64>), Failure> {
    let permit = system_permit(running, caller, Action::ReadStatus)?;
    let state = running.vault().state(permit).map_err(|error| failure(&error))?;
    // Only the owner's own tool takes them: another client could swallow them.
    let is_owners_tool = caller.principal.identity().kind() == ComponentKind::Cli;
    let notices = if is_owners_tool && notices {
        running.vault().notices().map_err(|error| failure(&error))?
    } else {
        Vec::new()
    };
    let shown: Vec<_> = notices.into_iter().take(MAX_NOTICES).collect();
    let last = shown.last().map(|notice| notice.number);
    let answer = StatusAnswer {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fingerprint: running.fingerprint().to_string(),
        locked: false,
        unlocked_by: state.unlocked_by,
        weakest_slot: state.weakest_slot,
        recovery_code: state.recovery_code,
        password: state.password,
        tcp: running.tcp().map(|address| address.to_string()),
        data_bytes: state.data_bytes,
        values: state.values,
        audit_entries: state.audit_entries,
        uptime_s: running.uptime().as_secs(),
        connections: u32::try_from(running.connections().len()).unwrap_or(u32::MAX),
        memory: crate::confine::memory().to_owned(),
        confined_by: running.confinement().by.iter().map(|name| (*name).to_owned()).collect(),
        work: running.work_now(),
        notices: shown.into_iter().map(|notice| notice.text).collect(),
    };
    Ok((answer, last))
}

/// Who is connected, and how much they have said.
pub(crate) fn connections(running: &Running, caller: &Caller) -> Result<ConnectionsAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::ReadStatus)?;
        running.vault().note_use(permit).map_err(|error| failure(&error))?;
        let entry = |connection: Connection| {
            let traffic = connection.handle.traffic();
            ConnectionEntry {
                kind: connection.identity.kind().as_str().to_owned(),
                name: connection.identity.name().as_str().to_owned(),
                fingerprint: connection.identity.fingerprint().to_string(),
                origin: connection.origin.to_string(),
                age_s: traffic.age.as_secs(),
                idle_s: traffic.idle.as_secs(),
                received: traffic.received,
                sent: traffic.sent,
                suite: if connection.agreed.suite == Suite::Hybrid { "hybrid" } else { "classical" }.to_owned(),
                rekeys: traffic.epoch,
            }
        };
        let connections = running.connections().into_iter().take(MAX_CONNECTIONS).map(entry).collect();
        Ok(ConnectionsAnswer { connections })
    })
}

pub(crate) fn audit_tail(running: &Running, caller: &Caller, count: u32) -> Result<AuditAnswer, Failure> {
    if count == 0 || count > MAX_TAIL {
        return Err(bad_request("`count` is 1 to 100"));
    }
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::ReadAudit)?;
        let events = running.vault().audit_tail(permit, u64::from(count)).map_err(|error| failure(&error))?;
        let entries = events.into_iter().map(|(index, event)| AuditEntry { index, event }).collect();
        Ok(AuditAnswer { entries })
    })
}

pub(crate) fn audit_anchor(running: &Running, caller: &Caller) -> Result<AnchorAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::ReadAudit)?;
        let anchor = running.vault().anchor(permit).map_err(|error| failure(&error))?;
        let (size, root) = anchor.head.map_or((0, String::new()), |h| (h.size, Base64::encode_string(&h.root)));
        Ok(AnchorAnswer { key: anchor.key.to_text(), size, root })
    })
}

pub(crate) fn stop(running: &Running, caller: &Caller) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::Stop)?;
        running.vault().note_use(permit).map_err(|error| failure(&error))?;
        Ok(DoneAnswer {})
    })
}
