//! One file a command.

mod audit;
mod data;
mod down;
mod identity;
mod import;
pub(crate) mod service;
mod status;
mod up;

use std::time::Duration;

use crate::args::{Args, AuditCommand, Command, DataCommand, IdentityCommand};
use crate::error::Error;

pub(crate) fn run(args: Args) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
        .map_err(|error| Error::io("start the runtime", error))?;
    let serves = matches!(args.command, Command::Up);
    let done = runtime.block_on(async {
        // Spawned, so that what blocks may do so on a worker.
        let task = tokio::spawn(dispatch(args.command));
        task.await.unwrap_or_else(|crash| Err(Error::io("finish the command", std::io::Error::other(crash))))
    });
    if serves {
        // The vault is closed by whoever drops it last; OpenSSL must still be there then.
        runtime.shutdown_timeout(Duration::from_secs(10));
    } else {
        // A read of standard input that nobody waits for any more must not keep the program.
        runtime.shutdown_background();
    }
    done
}

async fn dispatch(command: Command) -> Result<(), Error> {
    match command {
        Command::Up => up::up().await,
        Command::Status { json } => status::status(json).await,
        Command::Down => down::down().await,
        Command::Data(DataCommand::Put { path, file }) => data::put(&path, &file).await,
        Command::Data(DataCommand::Get { path }) => data::get(&path).await,
        Command::Data(DataCommand::List { prefix, json }) => data::list(prefix, json).await,
        Command::Data(DataCommand::Rm { path }) => data::remove(path).await,
        Command::Data(DataCommand::Import { dir }) => import::import(&dir).await,
        Command::Audit(AuditCommand::Tail { count, json }) => audit::tail(count, json).await,
        Command::Audit(AuditCommand::Verify { require_anchor, checkpoint, json }) => {
            audit::verify(require_anchor, checkpoint.as_deref(), json).await
        }
        Command::Identity(IdentityCommand::Show { json }) => identity::show(json),
        Command::Identity(IdentityCommand::Enrol { file, kind, name }) => identity::enrol(&file, &kind, &name).await,
        Command::Identity(IdentityCommand::Pending { json }) => identity::pending(json).await,
        Command::Identity(IdentityCommand::Approve { fingerprint }) => identity::approve(fingerprint).await,
        Command::Identity(IdentityCommand::Deny { fingerprint }) => identity::deny(fingerprint).await,
        Command::Service(command) => service::service(command),
    }
}
