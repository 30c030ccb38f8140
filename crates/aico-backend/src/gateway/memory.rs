//! The working memory: what is kept for a while, whole in memory while it passes.

use aico_net::{ABANDONED, Error as NetError};
use aico_policy::{Action, Capability, Resource};
use aico_proto::message::{DoneAnswer, Failure, GetAnswer, MemoryAnswer, MemoryEntry, Part};
use aico_vault::MAX_MEMORY_BYTES;
use tokio::task::block_in_place;
use zeroize::Zeroizing;

use crate::access::{now_ms, permit};
use crate::backend::Running;
use crate::error::{bad_request, failure};
use crate::gateway::Line;
use crate::gateway::data::{PAGE_BYTES, PAGE_ENTRIES, refuse_value, send_value, value_permit};
use crate::sessions::Caller;

pub(crate) async fn put(
    running: &Running,
    caller: &Caller,
    (path, keep_ms): (&str, Option<u64>),
    line: &mut Line<'_>,
) -> Result<(), NetError> {
    let permit = match block_in_place(|| value_permit(running, caller, Action::WriteData, path)) {
        Ok(permit) => permit,
        Err(failure) => return refuse_value(line, &failure).await,
    };
    let mut value = Zeroizing::new(Vec::new());
    loop {
        match Part::parse(line.receiver.receive().await?)? {
            Part::Data(data) if value.len() + data.len() > MAX_MEMORY_BYTES => {
                return refuse_value(line, &bad_request("the working memory takes 1 MiB at a time")).await;
            }
            Part::Data(data) => value.extend_from_slice(data),
            Part::End(length) if length == value.len() as u64 => break,
            Part::End(ABANDONED) => return line.fail(&bad_request("the value was abandoned")).await,
            Part::End(_) => return line.fail(&bad_request("the value was cut: its length is wrong")).await,
            _ => return Err(NetError::UnexpectedMessage),
        }
    }
    let now = now_ms();
    let expires_ms = keep_ms.map(|keep_ms| now.saturating_add(keep_ms));
    match block_in_place(|| running.vault().remember(permit, &value, expires_ms, now)) {
        Ok(()) => line.answer(&DoneAnswer {}).await,
        Err(error) => line.fail(&failure(&error)).await,
    }
}

pub(crate) async fn get(running: &Running, caller: &Caller, path: &str, line: &mut Line<'_>) -> Result<(), NetError> {
    let found = block_in_place(|| {
        let permit = value_permit(running, caller, Action::ReadData, path)?;
        running.vault().recall(permit, now_ms()).map_err(|error| failure(&error))
    });
    let value = match found {
        Ok(value) => Zeroizing::new(value),
        Err(failure) => return line.fail(&failure).await,
    };
    let bytes = value.len() as u64;
    line.begin_answer(&GetAnswer { bytes }).await?;
    let mut pieces = value.chunks(PIECE);
    let next = |piece: &mut Vec<u8>| {
        piece.clear();
        Ok(pieces.next().map(|next| piece.extend_from_slice(next)).is_some())
    };
    send_value(line, bytes, next).await.map(drop)
}

/// Bytes that are sent at a time.
const PIECE: usize = 256 * 1024;

pub(crate) fn list(
    running: &Running,
    caller: &Caller,
    prefix: Option<String>,
    after: Option<String>,
) -> Result<MemoryAnswer, Failure> {
    block_in_place(|| {
        let resource = Resource::Values(prefix.unwrap_or_default());
        let permit = permit(running, caller, Capability::new(Action::ListData, resource))?;
        let found = running.vault().remembered(permit, after.as_deref(), PAGE_ENTRIES, now_ms());
        let (found, more) = found.map_err(|error| failure(&error))?;
        let mut room = PAGE_BYTES;
        let mut answer = MemoryAnswer { entries: Vec::new(), more };
        for entry in found {
            // A control character or a quote takes up to six bytes in JSON.
            let size = 6 * entry.path.len() + 64;
            if size > room {
                answer.more = true;
                break;
            }
            room -= size;
            let aico_vault::Remembered { path, bytes, expires_ms } = entry;
            answer.entries.push(MemoryEntry { path, bytes, expires_ms });
        }
        Ok(answer)
    })
}

pub(crate) fn remove(running: &Running, caller: &Caller, path: &str) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let permit = value_permit(running, caller, Action::RemoveData, path)?;
        running.vault().unremember(permit, now_ms()).map_err(|error| failure(&error))?;
        Ok(DoneAnswer {})
    })
}
