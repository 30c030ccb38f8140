use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aico_crypto::{ComponentKind, Fingerprint, Identity, IdentitySecret, Name, OsRandom};
use aico_net::{
    AlsoUser, BACKEND_ID_NAME, DoorLimits, Listener, Manner, RunFolder, Speaker, read_client_key, write_backend_id,
    write_client_key,
};
use aico_policy::{Action, AuditSink, Capability, Event, Grant, Principal, Resource, What, decide};
use aico_proto::LocalIdentity;
use aico_vault::{Locked, Opening, Places, Unlocked, Vault};
use tokio::sync::watch;
use tokio::task::block_in_place;

use crate::Error;
use crate::access::now_ms;
use crate::enrolment::{Enrolled, Waiting};
use crate::gateway;
use crate::refusals::Refusals;

/// How long a stop waits for requests that were accepted.
const GRACE: Duration = Duration::from_secs(30);
/// The command line's own key in the key folder.
const CLI_KEY: &str = "clients/cli.key";

/// A backend that listens.
#[derive(Debug)]
pub struct Backend {
    running: Arc<Running>,
    listener: Listener,
    opening: Opening,
    socket: PathBuf,
}

impl Backend {
    /// Sets up or opens the vault, enrols the command line at the first start, and listens.
    pub async fn start(places: Places) -> Result<Self, Error> {
        let run = places.home.join("run");
        let (vault, opening, speaker, enrolled, notices) = block_in_place(|| open(&places))?;
        let folder = RunFolder::create(&run)?;
        write_backend_id(&run.join(BACKEND_ID_NAME), speaker.identity().identity())?;
        let socket = folder.listen()?;

        let (stop, _) = watch::channel(false);
        let running = Arc::new(Running {
            fingerprint: speaker.identity().identity().fingerprint(),
            vault,
            enrolled: Arc::new(enrolled),
            waiting: Arc::default(),
            stop,
            connections: AtomicU32::new(0),
            notices: Mutex::new(notices),
            started: Instant::now(),
        });
        running.record("backend.start", env!("CARGO_PKG_VERSION"));
        let refusals = Refusals::new(running.clone());
        let refused = Arc::new(move |origin, error: &aico_net::Error| refusals.note(origin, error));
        let (trust, limits) = (running.enrolled.clone(), DoorLimits::default());
        let manner = Manner::of(Arc::new(speaker));
        let listener = Listener::start(socket, AlsoUser(None), manner, trust, limits, refused);
        Ok(Self { running, listener, opening, socket: folder.socket() })
    }

    /// How the vault was opened.
    #[must_use]
    pub fn opening(&self) -> &Opening {
        &self.opening
    }

    /// What a person compares.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.running.fingerprint
    }

    /// Where it listens.
    #[must_use]
    pub fn socket(&self) -> &PathBuf {
        &self.socket
    }

    /// Serves until `interrupted` is done or a client stops it; then finishes what was accepted and closes the vault.
    pub async fn serve(mut self, interrupted: impl Future<Output = ()>) -> Result<(), Error> {
        let mut stopping = self.running.stopping();
        let mut served = tokio::task::JoinSet::new();
        tokio::pin!(interrupted);
        loop {
            tokio::select! {
                () = &mut interrupted => break,
                () = stopping.wait() => break,
                visitor = self.listener.next() => match visitor {
                    Some(visitor) => {
                        let running = self.running.clone();
                        served.spawn(async move {
                            running.connections.fetch_add(1, Ordering::Relaxed);
                            gateway::serve(running.clone(), visitor).await;
                            running.connections.fetch_sub(1, Ordering::Relaxed);
                        });
                    }
                    None => break,
                },
                Some(_ended) = served.join_next() => {}
            }
        }
        self.listener.close();
        self.running.stop();
        let finished = async { while served.join_next().await.is_some() {} };
        let _cut = tokio::time::timeout(GRACE, finished).await;
        served.shutdown().await;
        block_in_place(|| {
            let _gone = std::fs::remove_file(&self.socket);
            let what = What::System { word: "backend.stop", detail: String::new() };
            self.running.vault.close(&Event { at_ms: now_ms(), who: None, what }).map_err(Error::from)
        })
    }
}

/// What the connections share.
#[derive(Debug)]
pub(crate) struct Running {
    vault: Vault<Unlocked>,
    enrolled: Arc<Enrolled>,
    waiting: Arc<Waiting>,
    fingerprint: Fingerprint,
    stop: watch::Sender<bool>,
    connections: AtomicU32,
    notices: Mutex<Vec<String>>,
    started: Instant,
}

impl Running {
    pub(crate) fn vault(&self) -> &Vault<Unlocked> {
        &self.vault
    }

    pub(crate) fn enrolled(&self) -> &Enrolled {
        &self.enrolled
    }

    pub(crate) fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }

    pub(crate) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn connections(&self) -> u32 {
        self.connections.load(Ordering::Relaxed)
    }

    /// What the owner has not been shown yet.
    pub(crate) fn take_notices(&self) -> Vec<String> {
        std::mem::take(&mut *self.notices.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Records something about the system. A log that cannot take it has failed closed, and says so itself.
    pub(crate) fn record(&self, word: &'static str, detail: &str) {
        let what = What::System { word, detail: detail.to_owned() };
        let _failed_closed = self.vault.log().record(&Event { at_ms: now_ms(), who: None, what });
    }

    /// Ends the serving: no further request is accepted.
    pub(crate) fn stop(&self) {
        self.stop.send_replace(true);
    }

    pub(crate) fn stopping(&self) -> Stopping {
        Stopping(self.stop.subscribe())
    }
}

/// Tells when the backend stops.
pub(crate) struct Stopping(watch::Receiver<bool>);

impl Stopping {
    /// Returns once it does. Safe to cancel.
    pub(crate) async fn wait(&mut self) {
        // The sender lives as long as the backend: gone means stopped.
        let _stopped = self.0.wait_for(|stop| *stop).await;
    }
}

type Opened = (Vault<Unlocked>, Opening, Speaker, Enrolled, Vec<String>);

fn open(places: &Places) -> Result<Opened, Error> {
    let (vault, opening) = Vault::<Locked>::at(places)?.unlock(now_ms())?;
    let own = own_identity(vault.device_identity()?)?;
    let mut notices = Vec::new();
    enrol_command_line(places, &vault, &own, &mut notices)?;
    let enrolled = Enrolled::default();
    for (identity, signed) in vault.components()? {
        enrolled.add(identity, signed.verify(&vault.grant_signer()?)?);
    }
    Ok((vault, opening, Speaker::new(own)?, enrolled, notices))
}

fn own_identity(secret: IdentitySecret) -> Result<LocalIdentity, Error> {
    let identity = Identity::new(ComponentKind::Backend, *secret.public(), Name::parse("backend")?);
    LocalIdentity::new(secret, identity).map_err(Error::Identity)
}

/// The command line needs no set-up: its key is made here, by whoever could open the vault, and enrolled before anybody
/// can connect. A key that is there and not enrolled is enrolled too, and the owner is told.
fn enrol_command_line(
    places: &Places,
    vault: &Vault<Unlocked>,
    own: &LocalIdentity,
    notices: &mut Vec<String>,
) -> Result<(), Error> {
    let path = places.key_dir.join(CLI_KEY);
    let cli = if path.exists() { read_client_key(&path)? } else { make_command_line(places)? };
    let known = vault.components()?;
    if known.iter().any(|(identity, _)| identity == cli.identity()) {
        return Ok(());
    }
    if !known.is_empty() {
        notices.push(format!("a command line was enrolled at the start: {}", cli.identity().fingerprint()));
    }
    let capability = Capability::new(Action::Enrol, Resource::Component(*cli.identity().key()));
    let decision = decide(&Principal::from_own_identity(own), &[], capability, now_ms());
    if let Ok(permit) = decision.record(vault.log())? {
        let grant = Grant::for_enrolment(cli.identity(), now_ms());
        vault.enrol(permit, cli.identity(), &grant, now_ms())?;
    }
    Ok(())
}

fn make_command_line(places: &Places) -> Result<LocalIdentity, Error> {
    let secret = IdentitySecret::make(&OsRandom)?;
    let identity = Identity::new(ComponentKind::Cli, *secret.public(), Name::parse("cli")?);
    let cli = LocalIdentity::new(secret, identity).map_err(Error::Identity)?;
    RunFolder::create(&places.key_dir.join("clients"))?;
    write_client_key(&places.key_dir.join(CLI_KEY), &cli)?;
    Ok(cli)
}
