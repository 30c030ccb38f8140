//! A copy of the vault on its way out, in one request (`docs/spec/requests.md`, Copy).

use aico_net::Error as NetError;
use aico_policy::Action;
use aico_proto::message::{DoneAnswer, ExportAnswer, ListEntry};
use tokio::task::block_in_place;

use crate::access::{now_ms, system_permit};
use crate::backend::Running;
use crate::error::failure;
use crate::gateway::Line;
use crate::gateway::data::send_value;
use crate::sessions::Caller;

pub(crate) async fn copy(running: &Running, caller: &Caller, line: &mut Line<'_>) -> Result<(), NetError> {
    let gathered = block_in_place(|| {
        let permit = system_permit(running, caller, Action::Backup)?;
        running.vault().copy(permit, now_ms(), &mut || running.goes_on()).map_err(|error| failure(&error))
    });
    let mut copy = match gathered {
        Ok(copy) => copy,
        Err(failure) => return line.fail(&failure).await,
    };
    let (values, bytes) = copy.remaining();
    line.answer(&ExportAnswer { values, bytes }).await?;
    loop {
        match block_in_place(|| copy.next_file()) {
            Ok(None) => break,
            Ok(Some(mut file)) => {
                let (path, bytes) = (file.path.clone(), file.bytes);
                line.begin_answer(&ListEntry { path, bytes, changed_ms: 0 }).await?;
                if !send_value(line, bytes, |chunk| file.next_chunk(chunk)).await? {
                    return Ok(());
                }
            }
            Err(error) => return line.fail(&failure(&error)).await,
        }
    }
    block_in_place(|| drop(copy));
    line.answer(&DoneAnswer {}).await
}
