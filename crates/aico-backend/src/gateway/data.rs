//! Values: streamed in and out in constant memory.

use aico_net::{ABANDONED, Error as NetError};
use aico_policy::{Action, Capability, DataPath, Permit, Resource, Sensitivity};
use aico_proto::message::{
    CategoryEntry, DoneAnswer, Failure, ForgetAnswer, GetAnswer, InventoryAnswer, ListAnswer, ListEntry, Part,
    PartKind, PutAnswer,
};
use aico_vault::{Error as VaultError, Put};
use tokio::task::block_in_place;

use crate::access::{now_ms, on_value, permit, system_permit};
use crate::backend::Running;
use crate::error::{bad_request, failure};
use crate::gateway::Line;
use crate::sessions::Caller;

/// Entries on one page of a list: with the longest paths a page stays below a record's limit for JSON.
pub(super) const PAGE_ENTRIES: usize = 200;
/// Categories of one inventory, and readers of a category: what fits into a record's JSON.
const MAX_CATEGORIES: usize = 50;
const MAX_READERS: usize = 8;
const PROTECTION: &str = "SQLCipher (AES-256, HMAC-SHA-256); above 1 MiB AES-256-GCM in chunks of 64 KiB";
/// JSON bytes of a page's entries.
pub(super) const PAGE_BYTES: usize = 48 * 1024;

pub(crate) async fn put(running: &Running, caller: &Caller, path: &str, line: &mut Line<'_>) -> Result<(), NetError> {
    let begun = block_in_place(|| begin_put(running, caller, path));
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

fn begin_put<'a>(running: &'a Running, caller: &Caller, path: &str) -> Result<Put<'a>, Failure> {
    let permit = value_permit(running, caller, Action::WriteData, path)?;
    running.vault().begin_put(permit, now_ms()).map_err(|error| failure(&error))
}

/// Says no at once, and takes the rest of the value off the line so that the channel stays usable.
pub(super) async fn refuse_value(line: &mut Line<'_>, failure: &Failure) -> Result<(), NetError> {
    line.fail(failure).await?;
    loop {
        match Part::parse(line.receiver.receive().await?)? {
            Part::Data(_) => {}
            Part::End(_) => return Ok(()),
            _ => return Err(NetError::UnexpectedMessage),
        }
    }
}

pub(crate) async fn get(running: &Running, caller: &Caller, path: &str, line: &mut Line<'_>) -> Result<(), NetError> {
    let opened = block_in_place(|| {
        let permit = value_permit(running, caller, Action::ReadData, path)?;
        running.vault().get(permit).map_err(|error| failure(&error))
    });
    let mut value = match opened {
        Ok(value) => value,
        Err(failure) => return line.fail(&failure).await,
    };
    line.begin_answer(&GetAnswer { bytes: value.bytes() }).await?;
    let bytes = value.bytes();
    send_value(line, bytes, |chunk| value.next_chunk(chunk)).await.map(drop)
}

/// Sends a value of `bytes`, piece by piece, and its end; false after a failure that was told.
pub(super) async fn send_value(
    line: &mut Line<'_>,
    bytes: u64,
    mut next: impl FnMut(&mut Vec<u8>) -> Result<bool, VaultError>,
) -> Result<bool, NetError> {
    let mut chunk = Vec::new();
    loop {
        match block_in_place(|| next(&mut chunk)) {
            // An empty value is one empty piece, and a data part is never empty.
            Ok(true) if chunk.is_empty() => {}
            Ok(true) => line.sender.send_more(&[&[PartKind::Data as u8], &chunk]).await?,
            Ok(false) => break,
            Err(error) => {
                line.fail(&failure(&error)).await?;
                return Ok(false);
            }
        }
    }
    line.sender.send(&[&[PartKind::End as u8], &bytes.to_be_bytes()]).await?;
    Ok(true)
}

pub(crate) fn list(
    running: &Running,
    caller: &Caller,
    prefix: Option<String>,
    after: Option<String>,
) -> Result<ListAnswer, Failure> {
    block_in_place(|| {
        let resource = Resource::Values(prefix.unwrap_or_default());
        let permit = permit(running, caller, Capability::new(Action::ListData, resource))?;
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

pub(crate) fn remove(running: &Running, caller: &Caller, path: &str) -> Result<DoneAnswer, Failure> {
    block_in_place(|| {
        let permit = value_permit(running, caller, Action::RemoveData, path)?;
        running.vault().remove(permit).map_err(|error| failure(&error))?;
        Ok(DoneAnswer {})
    })
}

/// Destroys keys, and then what they opened.
pub(crate) fn forget(running: &Running, caller: &Caller, prefix: String) -> Result<ForgetAnswer, Failure> {
    let is_name = |name: &str| DataPath::parse(&format!("{name}/x")).is_ok();
    if !prefix.is_empty() && !prefix.strip_suffix('/').is_some_and(is_name) {
        return Err(bad_request("what can be forgotten is `conversations/<id>/`, `<category>/`, or everything"));
    }
    block_in_place(|| {
        let permit = permit(running, caller, Capability::new(Action::Forget, Resource::Values(prefix)))?;
        let values = running.vault().forget(permit).map_err(|error| failure(&error))?;
        Ok(ForgetAnswer { values })
    })
}

pub(super) fn value_permit(running: &Running, caller: &Caller, action: Action, path: &str) -> Result<Permit, Failure> {
    permit(running, caller, on_value(action, path)?)
}

/// What is stored, how it is protected, and who may read it.
pub(crate) fn inventory(running: &Running, caller: &Caller) -> Result<InventoryAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::ReadInventory)?;
        let stored = running.vault().inventory(permit).map_err(|error| failure(&error))?;
        let components = running.vault().components().map_err(|error| failure(&error))?;
        let (everybody, levels) = (running.enrolled().everybody(), running.vault().sensitivities());
        let mut answer = InventoryAnswer { categories: Vec::new(), more: stored.len() > MAX_CATEGORIES };
        for category in stored.into_iter().take(MAX_CATEGORIES) {
            let resource = Resource::Values(format!("{}/", category.name));
            let level = match levels.of(&category.name) {
                Sensitivity::Ordinary => "; ordinary: read with nobody there",
                Sensitivity::Personal => "",
                Sensitivity::Secret => "; secret: padded, and the password is asked for each time",
            };
            let read = Capability::new(Action::ReadData, resource);
            let readers = everybody.iter().filter(|(identity, grant)| grant.covers(identity, &read, now_ms()));
            let shown = |(identity, _): &(aico_crypto::Identity, _)| {
                let component = components.iter().find(|component| component.identity == *identity);
                let name = component.and_then(|component| component.shown_as.clone());
                let name = name.unwrap_or_else(|| identity.name().as_str().to_owned());
                format!("{} `{name}`", identity.kind().as_str())
            };
            answer.categories.push(CategoryEntry {
                category: category.name,
                values: category.values,
                bytes: category.bytes,
                files: category.files,
                protection: format!("{PROTECTION}{level}"),
                readers: readers.map(shown).take(MAX_READERS).collect(),
            });
        }
        Ok(answer)
    })
}
