//! Keys of files that are sealed under the vault; their content stays with the client (`docs/spec/requests.md`, Sealed files).

use aico_policy::Action;
use aico_proto::message::{Failure, OpenFileAnswer, SealFileAnswer, Sensitive};
use aico_vault::sealed_file::UnderVault;
use tokio::task::block_in_place;

use crate::access::system_permit;
use crate::backend::Running;
use crate::error::{bad_request, failure};
use crate::sessions::Caller;

pub(crate) fn seal(running: &Running, caller: &Caller) -> Result<SealFileAnswer, Failure> {
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::SealFile)?;
        let (front, key) = running.vault().seal_file(permit).map_err(|error| failure(&error))?;
        Ok(SealFileAnswer { header: front.to_string(), key: text(&key) })
    })
}

pub(crate) fn open(running: &Running, caller: &Caller, header: &str) -> Result<OpenFileAnswer, Failure> {
    let front: UnderVault = header.parse().map_err(|error: aico_vault::Error| bad_request(error.to_string()))?;
    block_in_place(|| {
        let permit = system_permit(running, caller, Action::OpenFile)?;
        let key = running.vault().open_file(permit, &front).map_err(|error| failure(&error))?;
        Ok(OpenFileAnswer { key: text(&key) })
    })
}

fn text(key: &aico_crypto::FileKey) -> Sensitive {
    key.hazmat_to_client(|digits| Sensitive::new(digits.to_owned()))
}
