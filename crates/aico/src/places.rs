//! Where everything lies.

use std::env;
use std::path::PathBuf;

use aico_net::{Client, Dial, Speaker, read_client_key};
use aico_vault::Places;

use crate::error::Error;

/// The data folder and the key folder, from the environment or the user's defaults.
pub(crate) fn places() -> Result<Places, Error> {
    let home = folder("AICO_HOME", "XDG_DATA_HOME", ".local/share")?;
    let key_dir = folder("AICO_KEY_DIR", "XDG_CONFIG_HOME", ".config")?;
    Ok(Places { home, key_dir, bus: bus() })
}

/// A connection to the backend, as the command line.
pub(crate) async fn connect() -> Result<Client, Error> {
    let places = places()?;
    let identity = read_client_key(&places.key_dir.join("clients/cli.key"));
    let run = places.home.join("run");
    // Where nothing runs, that is the news, not that there is no identity yet.
    let identity = match identity {
        Err(_) if !run.join(aico_net::SOCKET_NAME).exists() => {
            let socket = run.join(aico_net::SOCKET_NAME).display().to_string();
            return Err(aico_net::Error::NotRunning(socket).into());
        }
        other => other?,
    };
    Ok(Dial::local(&run, Speaker::new(identity)?).connect().await?)
}

/// `$ours`, or `aico` in `$base`, or `aico` in `fallback` below the home folder.
fn folder(ours: &str, base: &str, fallback: &str) -> Result<PathBuf, Error> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let chosen = set(ours)
        .or_else(|| set(base).map(|base| base.join("aico")))
        .or_else(|| set("HOME").map(|home| home.join(fallback).join("aico")))
        .ok_or_else(|| Error::Usage(format!("neither {ours} nor HOME is set")))?;
    std::path::absolute(&chosen).map_err(|error| Error::io(format!("resolve {}", chosen.display()), error))
}

/// The session bus, if this session has one.
fn bus() -> Option<String> {
    let address = env::var("DBUS_SESSION_BUS_ADDRESS").ok().filter(|address| !address.is_empty());
    address.or_else(|| {
        let socket = PathBuf::from(env::var_os("XDG_RUNTIME_DIR")?).join("bus");
        socket.exists().then(|| format!("unix:path={}", socket.display()))
    })
}
