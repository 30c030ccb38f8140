//! Values: streamed in and out in constant memory.

use aico_net::{ABANDONED, Error as NetError};
use aico_policy::{Action, Capability, Permit, Principal, Resource};
use aico_proto::message::{DoneAnswer, Failure, GetAnswer, ListAnswer, ListEntry, Part, PartKind, PutAnswer};
use aico_vault::Put;
use tokio::task::block_in_place;

use crate::access::{now_ms, on_value, permit};
use crate::backend::Running;
use crate::error::{bad_request, failure};
use crate::gateway::Line;

/// Entries on one page of a list: with the longest paths a page stays below a record's limit for JSON.
const PAGE_ENTRIES: usize = 200;
/// JSON bytes of a page's entries.
const PAGE_BYTES: usize = 48 * 1024;

pub(crate) async fn put(
    running: &Running,
    principal: &Principal,
    path: &str,
    line: &mut Line<'_>,
) -> Result<(), NetError> {
    let begun = block_in_place(|| begin_put(running, principal, path));
    let mut value = match begun {
        Ok(value) => value,
        Err(failure) => return refuse_value(line, &failure).await,
    };
    let mut bytes = 0;
    loop {
        match Part::parse(line.receiver.receive().await?)? {
            Part::Data(data) => {
                bytes += data.len() as u64;
                if let Err(error) = block_in_place(|| value.write(data)) {
                    drop(value);
                    return refuse_value(line, &failure(&error)).await;
                }
            }
            Part::End(length) if length == bytes => break,
            Part::End(ABANDONED) => return line.fail(&bad_request("the value was abandoned")).await,
            Part::End(_) => return line.fail(&bad_request("the value was cut: its length is wrong")).await,
            _ => return Err(NetError::UnexpectedMessage),
        }
    }
    match block_in_place(|| value.finish()) {
        Ok(stored) => line.answer(&PutAnswer { bytes: stored.bytes, replaced: stored.replaced }).await,
        Err(error) => line.fail(&failure(&error)).await,
    }
}

fn begin_put<'a>(running: &'a Running, principal: &Principal, path: &str) -> Result<Put<'a>, Failure> {
    let permit = value_permit(running, principal, Action::WriteData, path)?;
    running.vault().begin_put(permit, now_ms()).map_err(|error| failure(&error))
}

/// Says no at once, and takes the rest of the value off the line so that the channel stays usable.
async fn refuse_value(line: &mut Line<'_>, failure: &Failure) -> Result<(), NetError> {
    line.fail(failure).await?;
    loop {
        match Part::parse(line.receiver.receive().await?)? {
            Part::Data(_) => {}
            Part::End(_) => return Ok(()),
            _ => return Err(NetError::UnexpectedMessage),
        }
    }
}

pub(crate) async fn get(
    running: &Running,
    principal: &Principal,
    path: &str,
    line: &mut Line<'_>,
) -> Result<(), NetError> {
    let opened = block_in_place(|| {
        let permit = value_permit(running, principal, Action::ReadData, path)?;
        running.vault().get(permit).map_err(|error| failure(&error))
    });
    let mut value = match opened {
        Ok(value) => value,
        Err(failure) => return line.fail(&failure).await,
    };
    line.answer(&GetAnswer { bytes: value.bytes() }).await?;
    let mut chunk = Vec::new();
    loop {
        match block_in_place(|| value.next_chunk(&mut chunk)) {
            // An empty value is one empty piece, and a data part is never empty.
            Ok(true) if chunk.is_empty() => {}
            Ok(true) => line.sender.send(&[&[PartKind::Data as u8], &chunk]).await?,
            Ok(false) => break,
            Err(error) => return line.fail(&failure(&error)).await,
        }
    }
    line.sender.send(&[&[PartKind::End as u8], &value.bytes().to_be_bytes()]).await
}

pub(crate) fn list(
    running: &Running,
    principal: &Principal,
    prefix: Option<String>,
    after: Option<String>,
) -> Result<ListAnswer, Failure> {
    block_in_place(|| {
        let resource = Resource::Values(prefix.unwrap_or_default());
        let permit = permit_for(running, principal, Capability::new(Action::ListData, resource))?;
        let found = running.vault().list(permit, after.as_deref(), PAGE_ENTRIES + 1);
        let found = found.map_err(|error| failure(&error))?;
        let mut room = PAGE_BYTES;
        let mut answer = ListAnswer { entries: Vec::new(), more: false };
        for entry in found {
            // A control character or a quote takes up to six bytes in JSON.
            let size = 6 * entry.path.as_str().len() + 64;
            if answer.entries.len() == PAGE_ENTRIES || size > room {
                answer.more = true;
                break;
            }
            room -= size;
            let path = entry.path.as_str().to_owned();
            answer.entries.push(ListEntry { path, bytes: entry.bytes, changed_ms: entry.changed_ms });
        }
        Ok(answer)
    })
}

pub(crate) fn remove(running: &Running, principal: &Principal, path: &str) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let permit = value_permit(running, principal, Action::RemoveData, path)?;
        running.vault().remove(permit).map_err(|error| failure(&error))?;
        Ok(DoneAnswer {})
    })
}

fn value_permit(running: &Running, principal: &Principal, action: Action, path: &str) -> Result<Permit, Failure> {
    permit_for(running, principal, on_value(action, path)?)
}

fn permit_for(running: &Running, principal: &Principal, capability: Capability) -> Result<Permit, Failure> {
    permit(running.vault(), running.enrolled(), principal, capability)
}
