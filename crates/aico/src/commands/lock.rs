use std::time::{Duration, Instant};

use aico_net::Client;
use aico_proto::message::{DoneAnswer, Failure, FailureCode, Proof, Request, SessionAnswer, StatusAnswer};

use crate::commands::finish;
use crate::error::Error;
use crate::owner::Owner;
use crate::places::connect;
use crate::ui;

/// For the worker to be replaced, or to open its stores.
const PATIENCE: Duration = Duration::from_secs(30);

/// Locks the vault, and returns when the process that had the keys is gone.
pub(crate) async fn lock() -> Result<(), Error> {
    let mut client = connect().await?;
    match client.ask::<DoneAnswer>(&Request::Lock {}).await {
        Err(error) if error.failure_code() == Some(FailureCode::Locked) => {
            ui::line("it is locked already");
            return Ok(());
        }
        answered => answered?,
    };
    let _gone = client.close().await;
    until(true).await?;
    ui::line("locked");
    Ok(())
}

/// Opens a locked vault; says so where it is not locked.
pub(crate) async fn unlock(mut owner: Owner, recovery: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    let status: StatusAnswer = client.ask(&Request::Status { notices: false }).await?;
    if !status.locked {
        ui::line("it is not locked");
        return finish(client).await;
    }
    let proof = if recovery { Some(Proof::RecoveryCode(owner.password("Recovery code (15 words): ")?)) } else { None };
    let asked = match proof {
        Some(proof) => client.ask::<DoneAnswer>(&Request::Unlock { proof: Some(proof) }).await,
        // Where neither password nor recovery code was ever set, asking is enough.
        None if !needs_password() => client.ask(&Request::Unlock { proof: None }).await,
        None => Err(needs_one()),
    };
    match asked {
        Err(error) if error.failure_code() == Some(FailureCode::Locked) => {
            let proof = Some(Proof::Password(owner.password("Password: ")?));
            client.ask::<DoneAnswer>(&Request::Unlock { proof }).await?;
        }
        asked => {
            asked?;
        }
    }
    let _gone = client.close().await;
    until(false).await?;
    ui::line("unlocked");
    finish(connect().await?).await
}

/// Whether the header says that only its owner opens it. It cannot be read where the backend has a user of its own.
fn needs_password() -> bool {
    let header = crate::places::places().map(|places| aico_vault::read_header(&places.home));
    matches!(header, Ok(Ok(header)) if header.is_held_by_a_person())
}

fn needs_one() -> aico_net::Error {
    let message = "the vault is locked".to_owned();
    aico_net::Error::Failure(Failure { code: FailureCode::Locked, message, hint: None })
}

/// Connects to the backend that has just been unlocked.
pub(crate) async fn reconnect() -> Result<Client, Error> {
    until(false).await?;
    connect().await
}

/// Waits until the backend is locked, or is not.
async fn until(locked: bool) -> Result<(), Error> {
    let began = Instant::now();
    loop {
        let state = async {
            let mut client = connect().await?;
            let answer = client.ask::<SessionAnswer>(&Request::SessionStatus {}).await;
            let _gone = client.close().await;
            match answer {
                Err(error) if error.failure_code() == Some(FailureCode::Locked) => Ok(true),
                Err(error) => Err(Error::from(error)),
                Ok(_) => Ok(false),
            }
        };
        match state.await {
            Ok(now) if now == locked => return Ok(()),
            // In between, nobody answers, or with an identity that has just gone.
            _ if began.elapsed() < PATIENCE => tokio::time::sleep(Duration::from_millis(50)).await,
            Ok(_) => return Err(Error::StillRunning),
            Err(error) => return Err(error),
        }
    }
}
