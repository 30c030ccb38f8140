//! Every value on its way out, in one request (`docs/spec/requests.md`, Export).

use aico_net::Error as NetError;
use aico_policy::Action;
use aico_proto::message::{DoneAnswer, ExportAnswer, ListEntry};
use aico_vault::{Export, ExportedValue};
use tokio::task::block_in_place;

use crate::access::system_permit;
use crate::backend::Running;
use crate::error::failure;
use crate::gateway::Line;
use crate::gateway::data::send_value;
use crate::sessions::Caller;

pub(crate) async fn export(running: &Running, caller: &Caller, line: &mut Line<'_>) -> Result<(), NetError> {
    let begun = block_in_place(|| {
        let permit = system_permit(running, caller, Action::ExportData)?;
        let export = running.vault().export(permit).map_err(|error| failure(&error))?;
        let (values, bytes) = export.total().map_err(|error| failure(&error))?;
        Ok((export, ExportAnswer { values, bytes }))
    });
    let (mut export, head) = match begun {
        Ok(begun) => begun,
        Err(failure) => return line.fail(&failure).await,
    };
    line.answer(&head).await?;
    while let Some(value) = next(&mut export, line).await? {
        let Some(mut value) = value else { return Ok(()) };
        let bytes = value.bytes();
        if !send_value(line, bytes, |chunk| value.next_chunk(chunk)).await? {
            return Ok(());
        }
    }
    drop(export);
    line.answer(&DoneAnswer {}).await
}

/// The next value, announced; `Some(None)` after a failure that was told.
async fn next(export: &mut Export<'_>, line: &mut Line<'_>) -> Result<Option<Option<ExportedValue>>, NetError> {
    match block_in_place(|| export.next_value()) {
        Ok(None) => Ok(None),
        Ok(Some((entry, value))) => {
            let path = entry.path.as_str().to_owned();
            line.begin_answer(&ListEntry { path, bytes: value.bytes(), changed_ms: entry.changed_ms }).await?;
            Ok(Some(Some(value)))
        }
        Err(error) => {
            line.fail(&failure(&error)).await?;
            Ok(Some(None))
        }
    }
}
