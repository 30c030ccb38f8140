use aico_crypto::Password;
use aico_vault::{Checked, Content, Error as VaultError, How, Locked, Places, Proof, Vault};
use serde_json::json;

use crate::error::Error;
use crate::owner::Owner;
use crate::places::places;
use crate::ui;

/// Reads and authenticates everything that the vault holds, without a backend.
pub(crate) fn verify(json: bool, owner: Owner) -> Result<(), Error> {
    verify_at(&places()?, json, owner)
}

/// The same of a vault in another place.
pub(crate) fn verify_at(places: &Places, json: bool, mut owner: Owner) -> Result<(), Error> {
    if !places.home.exists() {
        return Err(VaultError::NoVault(places.home.clone()).into());
    }
    let vault = Vault::<Locked>::at(places)?;
    let mut wrong = 0;
    let mut found = |checked: Checked| {
        wrong += usize::from(checked.state.is_err());
        ui::line(&if json { as_json(&checked) } else { as_text(&checked) });
    };
    match tokio::task::block_in_place(|| vault.verify(How::AtStart, &mut found)) {
        // Its owner has locked it, or this machine keeps nothing that opens it.
        Err(VaultError::LockedByOwner | VaultError::Locked(_)) if owner.can_be_asked() => {
            let password = owner.password("Password: ")?;
            let password = Password::parse(password.expose()).map_err(|error| Error::Usage(error.to_string()))?;
            let proof = Proof::Password(password);
            tokio::task::block_in_place(|| vault.verify(How::ByOwner(&proof), &mut found))?;
        }
        verified => verified?,
    }
    if wrong > 0 {
        return Err(Error::NotIntact(wrong));
    }
    if !json {
        ui::line("everything is intact");
    }
    Ok(())
}

fn as_text(checked: &Checked) -> String {
    let Checked { part, state } = checked;
    let told = match state {
        Ok(Content::Bytes(bytes)) => format!("intact, {}", ui::size(*bytes)),
        Ok(Content::Values(count, bytes)) => format!("intact, {count} with {}", ui::size(*bytes)),
        Ok(Content::Entries(count, true)) => format!("intact, {count} entries, anchored"),
        Ok(Content::Entries(count, false)) => format!("intact in itself, {count} entries, not anchored"),
        Err(why) => format!("DAMAGED: {why}"),
    };
    ui::printable(&format!("{part}: {told}"))
}

fn as_json(checked: &Checked) -> String {
    let mut line = json!({ "part": checked.part, "intact": checked.state.is_ok() });
    let more = match &checked.state {
        Ok(Content::Bytes(bytes)) => json!({ "bytes": bytes }),
        Ok(Content::Values(count, bytes)) => json!({ "values": count, "bytes": bytes }),
        Ok(Content::Entries(count, anchored)) => json!({ "entries": count, "anchored": anchored }),
        Err(why) => json!({ "damage": why }),
    };
    if let (Some(line), Some(more)) = (line.as_object_mut(), more.as_object()) {
        line.extend(more.clone());
    }
    line.to_string()
}
