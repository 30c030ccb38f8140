use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use aico_crypto::{ComponentKind, Identity};
use aico_net::{
    Address, BACKEND_ID_NAME, Dial, Manner, Speaker, read_backend_id, read_client_key, read_component_file,
    write_client_key, write_component_file,
};
use aico_proto::LocalIdentity;
use aico_proto::message::{DoneAnswer, IdentitiesAnswer, PendingAnswer, Request};

use crate::args::IdentityCommand;
use crate::commands::finish;
use crate::error::Error;
use crate::owner::Owner;
use crate::places::{RunPlace, cli_key, connect, make_identity, places, run_place};
use crate::ui;

/// Shows who speaks and to whom; needs no running backend.
fn show(json: bool) -> Result<(), Error> {
    let places = places()?;
    let cli = read_client_key(&places.key_dir.join("clients/cli.key"))?;
    let backend = read_backend_id(&places.home.join("run").join(aico_net::BACKEND_ID_NAME))?;
    let both = [("client", cli.identity()), ("backend", &backend)];
    if json {
        let object: serde_json::Map<_, _> = both.iter().map(|(who, id)| ((*who).to_owned(), as_json(id))).collect();
        ui::line(&serde_json::Value::Object(object).to_string());
        return Ok(());
    }
    for (who, identity) in both {
        let name = ui::printable(identity.name().as_str());
        ui::line(&format!("{who:<8} {} `{name}`", identity.kind().as_str()));
        ui::line(&format!("         fingerprint {}", identity.fingerprint()));
        ui::line(&format!("         public key  {}", identity.key().to_text()));
    }
    Ok(())
}

fn as_json(identity: &Identity) -> serde_json::Value {
    serde_json::json!({
        "kind": identity.kind().as_str(),
        "name": identity.name().as_str(),
        "fingerprint": identity.fingerprint().to_string(),
        "key": identity.key().to_text(),
    })
}

/// Asks to be enrolled, and waits for the owner's word.
async fn enrol(file: &Path, kind: &str, name: &str) -> Result<(), Error> {
    let identity = if file.exists() {
        read_client_key(file)?
    } else {
        let identity = make_identity(parse_kind(kind)?, name)?;
        write_client_key(file, &identity)?;
        identity
    };
    let address = match run_place()? {
        RunPlace::Own(path) => Address::Local(path),
        RunPlace::Service { path, .. } => Address::Service(path),
    };
    let dial = Dial { address, manner: Manner::of(Arc::new(Speaker::new(identity)?)), retries: 0 };
    let mut client = dial.connect().await?;
    client
        .enrol(|fingerprint| {
            ui::line(&format!("waiting for the owner to run: aico identity approve {fingerprint}"));
        })
        .await?;
    ui::line("enrolled");
    Ok(())
}

fn parse_kind(kind: &str) -> Result<ComponentKind, Error> {
    ComponentKind::from_text(kind).map_err(|error| Error::Usage(error.to_string()))
}

/// Lists who waits.
async fn pending(json: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    let answer: PendingAnswer = client.ask(&Request::IdentityPending {}).await?;
    for waiting in &answer.pending {
        if json {
            ui::line(&serde_json::to_string(waiting)?);
        } else {
            let name = ui::printable(&waiting.name);
            ui::line(&format!("{}  {} `{name}`", waiting.fingerprint, waiting.kind));
        }
    }
    finish(client).await
}

/// Lists who is enrolled, and who was revoked.
async fn list(json: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    let answer: IdentitiesAnswer = client.ask(&Request::IdentityList {}).await?;
    for identity in &answer.identities {
        if json {
            ui::line(&serde_json::to_string(identity)?);
            continue;
        }
        let name = ui::printable(identity.shown_as.as_ref().unwrap_or(&identity.name));
        let since = ui::time(identity.since_ms);
        ui::line(&format!(
            "{}  {:<9} {:<8} since {since}  `{name}`",
            identity.fingerprint, identity.state, identity.kind
        ));
    }
    finish(client).await
}

async fn done(request: &Request, word: &str, owner: &mut Owner) -> Result<(), Error> {
    let mut client = connect().await?;
    owner.ask::<DoneAnswer>(&mut client, request, word).await?;
    finish(client).await
}

/// A new identity for this client: enrolled by the old one, which is revoked by the new one.
async fn regenerate(mut owner: Owner) -> Result<(), Error> {
    let places = places()?;
    let key = cli_key(&places, &aico_backend::read_config(&places.home).unwrap_or_default())?;
    let old = read_client_key(&key)?;
    let new = make_identity(old.identity().kind(), old.identity().name().as_str())?;
    let mut client = connect().await?;
    owner.ask::<DoneAnswer>(&mut client, &add_request(&new), "regenerate").await?;
    let _gone = client.close().await;
    write_client_key(&key, &new)?;
    let fingerprint = old.identity().fingerprint().to_string();
    done(&Request::IdentityRevoke { fingerprint }, "regenerate", &mut owner).await?;
    ui::line(&format!("this client is {} from now on; the old identity is revoked", new.identity().fingerprint()));
    Ok(())
}

/// Makes and enrols an identity for a component that runs elsewhere.
async fn export(file: &Path, kind: &str, name: &str, mut owner: Owner) -> Result<(), Error> {
    if file.exists() {
        return Err(Error::Usage(format!("{} is there already; name a new file", file.display())));
    }
    let identity = make_identity(parse_kind(kind)?, name)?;
    let backend = read_backend_id(&run_place()?.path().join(BACKEND_ID_NAME))?;
    let mut client = connect().await?;
    owner.ask::<DoneAnswer>(&mut client, &add_request(&identity), "export").await?;
    write_component_file(file, &identity, &backend)?;
    ui::line(&format!("{} is enrolled; whoever has the file can speak in its name", identity.identity().fingerprint()));
    finish(client).await
}

fn add_request(identity: &LocalIdentity) -> Request {
    let identity = identity.identity();
    Request::IdentityAdd {
        kind: identity.kind().as_str().to_owned(),
        name: identity.name().as_str().to_owned(),
        key: identity.key().to_text(),
    }
}

/// Makes an exported identity the command line's own.
fn import(file: &Path) -> Result<(), Error> {
    let (identity, backend) = read_component_file(file)?;
    if identity.identity().kind() != ComponentKind::Cli {
        let kind = identity.identity().kind().as_str();
        let text = format!("this is the identity of a {kind}: give the file to that component (`identity_file`)");
        return Err(Error::Usage(text));
    }
    let key = places()?.key_dir.join("clients/cli.key");
    if key.exists() {
        return Err(Error::Usage(format!("there is an identity in {} already; move it away first", key.display())));
    }
    let folder = key.parent().unwrap_or(Path::new("."));
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| Error::io(format!("make {}", folder.display()), error))?;
    match backend {
        Some(backend) => write_component_file(&key, &identity, &backend)?,
        None => write_client_key(&key, &identity)?,
    }
    ui::line(&format!("the command line is {} from now on", identity.identity().fingerprint()));
    Ok(())
}

pub(crate) async fn identity(command: IdentityCommand, mut owner: Owner) -> Result<(), Error> {
    match command {
        IdentityCommand::Show { json } => show(json),
        IdentityCommand::Enrol { file, kind, name } => enrol(&file, &kind, &name).await,
        IdentityCommand::Pending { json } => pending(json).await,
        IdentityCommand::List { json } => list(json).await,
        IdentityCommand::Approve { fingerprint } => {
            done(&Request::IdentityApprove { fingerprint }, "approve", &mut owner).await
        }
        IdentityCommand::Deny { fingerprint } => done(&Request::IdentityDeny { fingerprint }, "deny", &mut owner).await,
        IdentityCommand::Rename { fingerprint, name } => {
            done(&Request::IdentityRename { fingerprint, name }, "rename", &mut owner).await
        }
        IdentityCommand::Revoke { fingerprint } => {
            done(&Request::IdentityRevoke { fingerprint }, "revoke", &mut owner).await
        }
        IdentityCommand::Regenerate => regenerate(owner).await,
        IdentityCommand::Export { file, kind, name } => export(&file, &kind, &name, owner).await,
        IdentityCommand::Import { file } => import(&file),
    }
}
