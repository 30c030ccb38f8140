//! One file a command.

mod audit;
mod backup;
mod config;
mod data;
mod doctor;
mod down;
mod export;
mod file;
mod forget;
mod identity;
mod import;
mod kit;
mod lock;
mod memory;
mod mount;
mod query;
mod reset;
mod security;
pub(crate) mod service;
mod status;
pub(crate) mod tables;
mod up;
mod vault;

use std::io::IsTerminal;
use std::path::Path;
use std::time::Duration;

use aico_backend::confine::Confinement;
use aico_net::Client;
use aico_proto::message::{Request, StatusAnswer};

use crate::args::{Args, AuditCommand, Command, DataCommand, FileCommand, MemoryCommand, VaultCommand};
use crate::error::Error;
use crate::owner::Owner;
use crate::ui;

pub(crate) fn run(args: Args) -> Result<(), Error> {
    let stdin_is_data = match &args.command {
        Command::Data(DataCommand::Put { file, .. })
        | Command::Memory(MemoryCommand::Put { file, .. })
        | Command::File(FileCommand::Seal { file, .. } | FileCommand::Open { file, .. } | FileCommand::Cat { file }) => {
            file == Path::new("-")
        }
        _ => false,
    };
    let owner = Owner::new(args.password_file.as_deref(), stdin_is_data)?;
    // The filters bind the threads that are started under them.
    let confinement = match args.command {
        Command::Worker { .. } => up::confine_worker()?,
        _ => Confinement::default(),
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
        .map_err(|error| Error::io("start the runtime", error))?;
    let serves = matches!(args.command, Command::Worker { .. });
    let done = runtime.block_on(async {
        // Spawned, so that what blocks may do so on a worker.
        let task = tokio::spawn(dispatch(args.command, owner, confinement));
        task.await.unwrap_or_else(|crash| Err(Error::io("finish the command", std::io::Error::other(crash))))
    });
    // Every thread ends before the libraries below do: a thread that ends while OpenSSL cleans up damages the heap. The vault is
    // closed by whoever drops it last; a read of standard input that nobody waits for any more must not keep a client.
    runtime.shutdown_timeout(if serves { Duration::from_secs(10) } else { Duration::from_millis(300) });
    done
}

/// Shows the owner what happened since the last contact, and says goodbye.
pub(crate) async fn finish(mut client: Client) -> Result<(), Error> {
    if std::io::stderr().is_terminal()
        && let Ok(status) = client.ask::<StatusAnswer>(&Request::Status { notices: true }).await
    {
        status.notices.iter().for_each(|notice| ui::error_line(&format!("note: {}", ui::printable(notice))));
    }
    let _gone = client.close().await;
    Ok(())
}

async fn dispatch(command: Command, owner: Owner, confinement: Confinement) -> Result<(), Error> {
    match command {
        Command::Up => up::up().await,
        Command::Worker { parent } => up::worker(parent, confinement).await,
        Command::Status { json, connections: false } => status::status(json).await,
        Command::Status { json, connections: true } => status::connections(json).await,
        Command::Down => down::down().await,
        Command::Lock => lock::lock().await,
        Command::Unlock { recovery } => lock::unlock(owner, recovery).await,
        Command::Backup(command) => backup::backup(command, owner).await,
        Command::MountGuard { dir, device } => tokio::task::block_in_place(|| mount::guard(dir, device)),
        Command::Mount { dir, read_only } => mount::mount(&dir, read_only, owner).await,
        Command::Forget(command) => forget::forget(command, owner).await,
        Command::Security(command) => security::security(command, owner).await,
        Command::Doctor { json } => doctor::doctor(json).await,
        Command::Config(command) => config::config(command, owner).await,
        Command::Reset => reset::reset(),
        Command::Service(command) => service::service(command),
        Command::Data(command) => data(command, owner).await,
        Command::Memory(command) => memory::memory(command, owner).await,
        Command::File(command) => tokio::task::block_in_place(|| file::file(&command, owner)),
        Command::Vault(VaultCommand::Verify { json }) => vault::verify(json, owner),
        Command::Import(command) => tables::import(command, owner).await,
        Command::Audit(AuditCommand::Tail { count, json }) => audit::tail(count, json).await,
        Command::Audit(AuditCommand::Verify { require_anchor, checkpoint, json }) => {
            audit::verify(require_anchor, checkpoint.as_deref(), json).await
        }
        Command::Query { sql, json } => query::query(sql, json).await,
        Command::Identity(command) => identity::identity(command, owner).await,
    }
}

async fn data(command: DataCommand, owner: Owner) -> Result<(), Error> {
    match command {
        DataCommand::Put { path, file } => data::put(&path, &file).await,
        DataCommand::Get { path } => data::get(&path, owner).await,
        DataCommand::List { prefix, json } => data::list(prefix, json, owner).await,
        DataCommand::Rm { path } => data::remove(path, owner).await,
        DataCommand::Import { dir } => import::import(&dir).await,
        DataCommand::Export { dir } => export::export(&dir, owner).await,
        DataCommand::Inventory { json } => export::inventory(json, owner).await,
    }
}
