//! Where everything lies, and how the backend is reached.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use aico_backend::config::Config;
use aico_backend::{read_config, settings};
use aico_crypto::{ComponentKind, Identity, IdentitySecret, Name, OsRandom};
use aico_net::{
    Address, BACKEND_ID_NAME, Client, Dial, Manner, SOCKET_NAME, Speaker, read_backend_id, read_component_file,
    write_client_key,
};
use aico_proto::{LocalIdentity, Terms};
use aico_vault::Places;
use aico_vault::unlock::Tpm;

use crate::error::Error;

/// The data folder and the key folder, from the environment or the user's defaults.
pub(crate) fn places() -> Result<Places, Error> {
    let home = folder("AICO_HOME", "XDG_DATA_HOME", ".local/share")?;
    let key_dir = folder("AICO_KEY_DIR", "XDG_CONFIG_HOME", ".config")?;
    Ok(Places { home, key_dir, bus: bus(), tpm: tpm(), credentials: set("CREDENTIALS_DIRECTORY") })
}

/// The run folder: socket and `backend.id`.
#[derive(Clone, Debug)]
pub(crate) enum RunPlace {
    /// In the data folder, of our own user.
    Own(PathBuf),
    /// Of a service that has a user of its own and answers its owner.
    Service { path: PathBuf, owner: Option<u32> },
}

impl RunPlace {
    pub(crate) fn path(&self) -> PathBuf {
        let (Self::Own(path) | Self::Service { path, .. }) = self;
        path.clone()
    }

    pub(crate) fn owner(&self) -> Option<u32> {
        if let Self::Service { owner, .. } = self { *owner } else { None }
    }
}

/// Where socket and `backend.id` are.
pub(crate) fn run_place() -> Result<RunPlace, Error> {
    match set("AICO_RUN_DIR") {
        None => Ok(RunPlace::Own(places()?.home.join("run"))),
        Some(path) => {
            let owner = env::var("AICO_OWNER_UID").ok().map(|text| text.parse::<u32>());
            let owner =
                owner.transpose().map_err(|_| Error::Usage("AICO_OWNER_UID is not a user's number".to_owned()))?;
            Ok(RunPlace::Service { path, owner })
        }
    }
}

/// Where the command line's own identity is kept.
pub(crate) fn cli_key(places: &Places, config: &Config) -> Result<PathBuf, Error> {
    match config.identity_file("cli") {
        Some(path) => at_home(path),
        None => Ok(places.key_dir.join("clients/cli.key")),
    }
}

/// How the command line reaches the backend.
pub(crate) fn dial() -> Result<Dial, Error> {
    let (places, run) = (places()?, run_place()?);
    // A wrong file is the backend's and `aico config check`'s to tell; it must not keep the owner from asking.
    let config = read_config(&places.home).unwrap_or_default();
    let key = cli_key(&places, &config)?;
    let socket = run.path().join(SOCKET_NAME);
    let tcp = config.backend_address("cli");
    if !key.exists() && tcp.is_none() && !socket.exists() {
        // Where nothing runs, that is the news, not that there is no identity yet.
        return Err(aico_net::Error::NotRunning(socket.display().to_string()).into());
    }
    let (identity, pinned) = match read_component_file(&key) {
        // A locked vault does not look up who comes, and makes a new identity for us when it opens.
        Err(_) if !key.exists() && is_locked(&run) => (make_identity(ComponentKind::Cli, "cli")?, None),
        read => read?,
    };
    let address = match (tcp, run) {
        (Some(address), run) => {
            let pinned = pinned.map_or_else(|| read_backend_id(&run.path().join(BACKEND_ID_NAME)), Ok)?;
            Address::Tcp(address, pinned)
        }
        (None, RunPlace::Own(path)) => Address::Local(path),
        (None, RunPlace::Service { path, .. }) => Address::Service(path),
    };
    let terms = Terms { padding: config.padding(), unordered: false, hybrid_only: config.is_high("cli") };
    let terms = if tcp.is_some() { terms } else { Terms { padding: aico_proto::Padding::None, ..terms } };
    let speaker = Speaker::new(identity)?;
    let speaker = if config.post_quantum() || terms.hybrid_only { speaker } else { speaker.classical() };
    let manner = Manner { me: Arc::new(speaker), terms, settings: settings(&config) };
    let retries = if config.auto_reconnect("cli") { config.connection_retry_limit() } else { 0 };
    Ok(Dial { address, manner, retries })
}

/// Whether the backend in this run folder waits for its owner.
fn is_locked(run: &RunPlace) -> bool {
    read_backend_id(&run.path().join(BACKEND_ID_NAME)).is_ok_and(|backend| backend.name().as_str() == "locked")
}

/// A connection to the backend, as the command line.
pub(crate) async fn connect() -> Result<Client, Error> {
    if let RunPlace::Service { path, .. } = run_place()? {
        enrol_at_service(&path).await?;
    }
    Ok(dial()?.connect().await?)
}

/// The owner of a service has no identity there yet: it is made here, and the first one is let in.
async fn enrol_at_service(run_folder: &Path) -> Result<(), Error> {
    let places = places()?;
    let key = cli_key(&places, &Config::default())?;
    if key.exists() {
        return Ok(());
    }
    let identity = make_identity(ComponentKind::Cli, "cli")?;
    let manner = Manner::of(Arc::new(Speaker::new(identity)?));
    let dial = Dial { address: Address::Service(run_folder.to_owned()), manner, retries: 0 };
    let waits = |fingerprint: &str| {
        crate::ui::error_line(&format!("waiting for the owner to run: aico identity approve {fingerprint}"));
    };
    dial.connect().await?.enrol(waits).await?;
    let folder = key.parent().unwrap_or(&places.key_dir);
    std::fs::create_dir_all(folder).map_err(|error| Error::io(format!("make {}", folder.display()), error))?;
    write_client_key(&key, dial.manner.me.identity())?;
    Ok(())
}

/// A new identity.
pub(crate) fn make_identity(kind: ComponentKind, name: &str) -> Result<LocalIdentity, Error> {
    let name = Name::parse(name).map_err(|error| Error::Usage(error.to_string()))?;
    let secret = IdentitySecret::make(&OsRandom).map_err(aico_vault::Error::from)?;
    let identity = Identity::new(kind, *secret.public(), name);
    Ok(LocalIdentity::new(secret, identity).map_err(aico_net::Error::from)?)
}

/// `~/` is the user's home folder.
fn at_home(path: PathBuf) -> Result<PathBuf, Error> {
    match path.strip_prefix("~") {
        Ok(rest) => {
            let home = set("HOME").ok_or_else(|| Error::Usage("HOME is not set".to_owned()))?;
            Ok(home.join(rest))
        }
        Err(_) => Ok(path),
    }
}

fn set(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// `$ours`, or `aico` in `$base`, or `aico` in `fallback` below the home folder.
fn folder(ours: &str, base: &str, fallback: &str) -> Result<PathBuf, Error> {
    let chosen = set(ours)
        .or_else(|| set(base).map(|base| base.join("aico")))
        .or_else(|| set("HOME").map(|home| home.join(fallback).join("aico")))
        .ok_or_else(|| Error::Usage(format!("neither {ours} nor HOME is set")))?;
    std::path::absolute(&chosen).map_err(|error| Error::io(format!("resolve {}", chosen.display()), error))
}

/// The TPM: one connection a process, so that the worker's is open before it is confined.
fn tpm() -> Tpm {
    static TPM: OnceLock<Tpm> = OnceLock::new();
    TPM.get_or_init(|| Tpm::at(env::var("AICO_TPM").ok().as_deref())).clone()
}

/// The session bus, if this session has one.
fn bus() -> Option<String> {
    let address = env::var("DBUS_SESSION_BUS_ADDRESS").ok().filter(|address| !address.is_empty());
    address.or_else(|| {
        let socket = PathBuf::from(env::var_os("XDG_RUNTIME_DIR")?).join("bus");
        socket.exists().then(|| format!("unix:path={}", socket.display()))
    })
}
