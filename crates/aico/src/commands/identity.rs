use std::path::Path;

use aico_crypto::{ComponentKind, Identity, IdentitySecret, Name, OsRandom};
use aico_net::{Dial, Speaker, read_backend_id, read_client_key, write_client_key};
use aico_proto::LocalIdentity;
use aico_proto::message::{DoneAnswer, PendingAnswer, Request};

use crate::error::Error;
use crate::places::{connect, places};
use crate::ui;

/// Shows who speaks and to whom; needs no running backend.
pub(crate) fn show(json: bool) -> Result<(), Error> {
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
pub(crate) async fn enrol(file: &Path, kind: &str, name: &str) -> Result<(), Error> {
    let identity = if file.exists() { read_client_key(file)? } else { make(file, kind, name)? };
    let run = places()?.home.join("run");
    let mut client = Dial::local(&run, Speaker::new(identity)?).connect().await?;
    client
        .enrol(|fingerprint| {
            ui::line(&format!("waiting for the owner to run: aico identity approve {fingerprint}"));
        })
        .await?;
    ui::line("enrolled");
    Ok(())
}

fn make(file: &Path, kind: &str, name: &str) -> Result<LocalIdentity, Error> {
    let usage = |error: aico_crypto::Error| Error::Usage(error.to_string());
    let (kind, name) = (ComponentKind::from_text(kind).map_err(usage)?, Name::parse(name).map_err(usage)?);
    let secret = IdentitySecret::make(&OsRandom).map_err(aico_vault::Error::from)?;
    let identity = Identity::new(kind, *secret.public(), name);
    let local = LocalIdentity::new(secret, identity).map_err(aico_net::Error::from)?;
    write_client_key(file, &local)?;
    Ok(local)
}

/// Lists who waits.
pub(crate) async fn pending(json: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    let answer: PendingAnswer = client.ask(&Request::IdentityPending {}).await?;
    let _gone = client.close().await;
    for waiting in &answer.pending {
        if json {
            ui::line(&serde_json::to_string(waiting)?);
        } else {
            let name = ui::printable(&waiting.name);
            ui::line(&format!("{}  {} `{name}`", waiting.fingerprint, waiting.kind));
        }
    }
    Ok(())
}

/// Lets one in.
pub(crate) async fn approve(fingerprint: String) -> Result<(), Error> {
    decide(&Request::IdentityApprove { fingerprint }).await
}

/// Turns one away.
pub(crate) async fn deny(fingerprint: String) -> Result<(), Error> {
    decide(&Request::IdentityDeny { fingerprint }).await
}

async fn decide(request: &Request) -> Result<(), Error> {
    let mut client = connect().await?;
    client.ask::<DoneAnswer>(request).await?;
    let _gone = client.close().await;
    Ok(())
}
