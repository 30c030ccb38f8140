use std::fs;
use std::path::Path;

use aico_vault::unlock::rungs;
use aico_vault::{Front, read_header};

use crate::error::Error;
use crate::owner::confirm_locally;
use crate::places::places;
use crate::ui;

/// Removes the vault and everything that opens it, for ever. The keys go first: what is left of the data after a stop
/// in the middle opens with nothing.
pub(crate) fn reset() -> Result<(), Error> {
    let places = places()?;
    let home = &places.home;
    if !home.join("vault.aico").exists() && !home.join("vault.aico.new").exists() && !home.join("spaces").exists() {
        return Err(aico_vault::Error::NoVault(home.clone()).into());
    }
    let _front = Front::take(home)?;
    ui::line(&format!(
        "This deletes the vault in {} with everything in it.",
        ui::printable(&home.display().to_string())
    ));
    ui::line("Nothing brings it back: not the password, not the recovery code.");
    confirm_locally("delete everything")?;
    if let Ok(header) = read_header(home) {
        for slot in header.slots() {
            if let Some(rung) = rungs(&places).iter().find(|rung| rung.kind() == slot.kind()) {
                let removed = rung.remove(&header.vault(), slot.id());
                removed.unwrap_or_else(|why| ui::error_line(&format!("left in the {}: {why}", slot.kind())));
            }
        }
    }
    for name in ["vault.aico", "vault.aico.new", "locked.log", "spaces", "audit"] {
        remove(&home.join(name))?;
    }
    for name in ["clients/cli.key", "clients/cli.key.revoked"] {
        remove(&places.key_dir.join(name))?;
    }
    remove(&home.join("run"))?;
    ui::line("it is gone; `aico up` sets up a new one. `security.yaml` was left where it is");
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    let removed = match fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    removed.map_err(|error| Error::io(format!("remove {}", path.display()), error))
}
