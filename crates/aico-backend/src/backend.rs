use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aico_crypto::{ComponentKind, Fingerprint, Identity, IdentitySecret, Name, OsRandom, PublicKey};
use aico_net::{
    AlsoUser, BACKEND_ID_NAME, Descriptors, DoorLimits, LinkHandle, Listener, Origin, RunFolder, Speaker, Visitor,
    read_client_key, write_backend_id, write_client_key,
};
use aico_policy::{Action, AuditSink, Capability, Circumstances, Event, Grant, Principal, Resource, What, decide};
use aico_proto::message::WorkEntry;
use aico_proto::{Agreed, CloseReason, LocalIdentity};
use aico_vault::{Error as VaultError, Found, How, Locked, Opening, Places, Progress, Unlocked, Vault};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, block_in_place};

use crate::Error;
use crate::access::now_ms;
use crate::confine::{Confinement, close_the_network};
use crate::enrolment::{Enrolled, Waiting};
use crate::gateway;
use crate::locked::{self, LockedEnd};
use crate::refusals::Refusals;
use crate::sessions::Sessions;
use crate::setup::Setup;

/// How long a stop waits for requests that were accepted.
const GRACE: Duration = Duration::from_secs(30);
/// How long a lock does.
const LOCK_GRACE: Duration = Duration::from_secs(1);
/// How often the configuration file is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// How long after a failure new keys are tried again without being asked for.
const TRY_AGAIN: Duration = Duration::from_secs(600);
/// The command line's own key in the key folder.
const CLI_KEY: &str = "clients/cli.key";
/// The setting that says that the owner of a service has come.
const OWNER_CAME: &str = "owner's command line";

/// What a backend starts with.
#[derive(Debug)]
pub struct Start {
    /// Where the vault lies.
    pub places: Places,
    /// The run folder: socket and `backend.id`.
    pub run_folder: PathBuf,
    /// The listening Unix socket.
    pub socket: UnixListener,
    /// The user whom the socket answers beside our own, of a system service.
    pub owner: Option<u32>,
    /// What holds this process in.
    pub confinement: Confinement,
}

/// What a backend tells whoever started it.
#[derive(Debug)]
pub enum News<'a> {
    /// The vault is open and requests are answered.
    Open {
        /// How it was opened.
        opening: &'a Opening,
        /// What a person compares.
        fingerprint: Fingerprint,
        /// Where TCP is answered.
        tcp: Option<SocketAddr>,
        /// What the owner has not been shown yet.
        notices: Vec<String>,
    },
    /// The vault is locked; only its owner opens it.
    Locked {
        /// Why this machine does not.
        why: String,
    },
}

/// How serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Somebody stopped it.
    Stopped,
    /// The owner locked the vault: this process ends, and the next one starts without a key in its memory.
    Locked,
}

/// Opens the vault, or waits until its owner does, and serves it until `interrupted` is done, a client stops it, or it
/// is locked.
pub async fn serve(start: Start, news: impl Fn(News<'_>), interrupted: impl Future<Output = ()>) -> Result<End, Error> {
    tokio::pin!(interrupted);
    let mut vault = block_in_place(|| Vault::<Locked>::at_as_worker(&start.places))?;
    let (vault, opening) = loop {
        let why = match block_in_place(|| open_by_itself(&vault)) {
            Ok(found) => break block_in_place(|| vault.enter(found, now_ms()))?,
            Err(error) if waits_for_owner(&vault, &error) => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        let me = locked::identity(&start)?;
        news(News::Locked { why });
        match locked::serve(vault, me, &start, &mut interrupted).await? {
            LockedEnd::Stopped => return Ok(End::Stopped),
            LockedEnd::Opened(opened) => break *opened,
            LockedEnd::Again(again) => vault = again,
        }
    };
    let backend = Backend::open(start, vault, opening)?;
    let notices = backend.running.vault.notices()?.into_iter().map(|notice| notice.text).collect();
    let fingerprint = backend.running.fingerprint.clone();
    news(News::Open { opening: &backend.opening, fingerprint, tcp: backend.running.tcp, notices });
    backend.serve(interrupted).await
}

fn open_by_itself(vault: &Vault<Locked>) -> Result<Found, VaultError> {
    vault.find(How::AtStart, now_ms())
}

/// Whether the owner can open what the machine does not.
fn waits_for_owner(vault: &Vault<Locked>, error: &VaultError) -> bool {
    match error {
        VaultError::LockedByOwner => true,
        VaultError::Locked(_) => vault.header().is_ok_and(|header| header.is_held_by_a_person()),
        _ => false,
    }
}

/// A backend with an open vault.
struct Backend {
    running: Arc<Running>,
    listener: Listener,
    opening: Opening,
    run_folder: PathBuf,
}

impl Backend {
    fn open(start: Start, vault: Vault<Unlocked>, opening: Opening) -> Result<Self, Error> {
        let Start { places, run_folder, socket, owner, confinement } = start;
        let own = own_identity(vault.device_identity()?)?;
        let folder = if owner.is_some() { RunFolder::of_service(&run_folder) } else { RunFolder::open(&run_folder) }?;
        let setup = block_in_place(|| {
            let setup = Setup::load(&places.home, &vault)?;
            enrol_command_line(&places, &vault, &own)?;
            refresh_grants(&vault, &own)?;
            Ok::<_, Error>(setup)
        })?;
        let enrolled = Arc::new(Enrolled::default());
        for component in vault.components()? {
            enrolled.add(component.identity, component.grant.verify(&vault.grant_signer()?)?);
        }
        vault.revoked()?.iter().for_each(|(identity, _)| enrolled.revoke(*identity.key()));
        setup.apply(&enrolled);
        vault.set_sensitivities(setup.sensitivities());
        write_backend_id(&folder.file(BACKEND_ID_NAME), own.identity(), owner.is_some())?;

        let fingerprint = own.identity().fingerprint();
        let me = Arc::new(Speaker::new(own)?);
        let tcp = setup.bind_tcp()?;
        let running = Arc::new(Running {
            fingerprint,
            vault,
            config_seen: Mutex::new(setup.news(&places.home).map(|(_, sum)| sum).unwrap_or_default()),
            places,
            owner,
            confinement,
            enrolled: enrolled.clone(),
            waiting: Arc::default(),
            sessions: Sessions::default(),
            stretching: Semaphore::new(1),
            showing: Semaphore::new(1),
            asking: Semaphore::new(1),
            mounting: Semaphore::new(1),
            descriptors: Arc::default(),
            connections: Mutex::default(),
            next_connection: AtomicU64::new(0),
            tcp: tcp.as_ref().and_then(|socket| socket.local_addr().ok()),
            setup: Mutex::new(setup.clone()),
            work: Mutex::default(),
            end: watch::Sender::new(None),
            started: Instant::now(),
            left_bare: Mutex::default(),
            work_failed: Mutex::default(),
        });
        running.record("backend.start", env!("CARGO_PKG_VERSION"));
        let refusals = Refusals::new(running.clone());
        let refused = Arc::new(move |origin, error: &aico_net::Error| refusals.note(origin, error));
        let socket = from_std(socket)?;
        let manner = setup.local_manner(me.clone());
        let mut listener = Listener::start(socket, AlsoUser(owner), manner, enrolled, DoorLimits::default(), refused);
        listener.take_descriptors(running.descriptors.clone());
        if let Some(socket) = tcp {
            listener.add_tcp(socket, setup.tcp_manner(me));
        }
        if running.confinement.by.contains(&"seccomp") {
            close_the_network().map_err(Error::Confinement)?;
        }
        Ok(Self { running, listener, opening, run_folder })
    }

    async fn serve(mut self, interrupted: impl Future<Output = ()>) -> Result<End, Error> {
        let mut stopping = self.running.stopping();
        let mut served = tokio::task::JoinSet::new();
        let asleep = self.running.sleeping();
        tokio::pin!(interrupted, asleep);
        let mut held_sleep = None;
        let mut look = tokio::time::interval(LOOK);
        let mut work = None;
        loop {
            tokio::select! {
                () = &mut interrupted => break,
                () = stopping.wait() => break,
                held = &mut asleep, if held_sleep.is_none() => {
                    held_sleep = Some(held);
                    let running = self.running.clone();
                    block_in_place(|| running.lock_for_sleep());
                }
                _ = look.tick() => {
                    block_in_place(|| self.running.look_at_config());
                    if work.as_ref().is_none_or(JoinHandle::is_finished) && block_in_place(|| self.running.work_is_due()) {
                        let running = self.running.clone();
                        work = Some(tokio::task::spawn_blocking(move || running.work()));
                    }
                }
                visitor = self.listener.next() => match visitor {
                    Some(visitor) => {
                        served.spawn(gateway::serve(self.running.clone(), visitor));
                    }
                    None => break,
                },
                Some(_ended) = served.join_next() => {}
            }
        }
        self.listener.close();
        self.running.end(End::Stopped);
        let end = self.running.ended();
        if end == End::Locked {
            self.running.cut_all(CloseReason::Shutdown);
        }
        let finished = async { while served.join_next().await.is_some() {} };
        let grace = if end == End::Locked { LOCK_GRACE } else { GRACE };
        let _cut = tokio::time::timeout(grace, finished).await;
        served.shutdown().await;
        if let Some(work) = work {
            let _stopped = work.await;
        }
        block_in_place(|| {
            if end == End::Stopped {
                let _gone = std::fs::remove_file(self.run_folder.join(aico_net::SOCKET_NAME));
            }
            let word = if end == End::Locked { "backend.lock" } else { "backend.stop" };
            let what = What::System { word, detail: String::new() };
            self.running.vault.close(&Event { at_ms: now_ms(), who: None, what }).map_err(Error::from)
        })?;
        drop(held_sleep);
        Ok(end)
    }
}

/// A socket of the standard library, made ready for the runtime.
pub(crate) fn from_std(socket: UnixListener) -> Result<tokio::net::UnixListener, Error> {
    let ready = socket.set_nonblocking(true).and_then(|()| tokio::net::UnixListener::from_std(socket));
    ready.map_err(Error::Socket)
}

/// One connection that finished its handshake.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) identity: Identity,
    pub(crate) origin: Origin,
    pub(crate) agreed: Agreed,
    pub(crate) handle: LinkHandle,
}

/// What the connections share.
#[derive(Debug)]
pub(crate) struct Running {
    vault: Vault<Unlocked>,
    places: Places,
    owner: Option<u32>,
    confinement: Confinement,
    enrolled: Arc<Enrolled>,
    waiting: Arc<Waiting>,
    sessions: Sessions,
    stretching: Semaphore,
    showing: Semaphore,
    asking: Semaphore,
    mounting: Semaphore,
    descriptors: Arc<Descriptors>,
    connections: Mutex<BTreeMap<u64, Connection>>,
    next_connection: AtomicU64,
    fingerprint: Fingerprint,
    tcp: Option<SocketAddr>,
    setup: Mutex<Setup>,
    /// What goes on in the background.
    work: Mutex<Option<WorkEntry>>,
    /// The sum of the configuration file that the owner was last told of.
    config_seen: Mutex<String>,
    end: watch::Sender<Option<End>>,
    started: Instant,
    /// When new keys could not be made last.
    left_bare: Mutex<Option<Instant>>,
    work_failed: Mutex<Option<Instant>>,
}

impl Running {
    pub(crate) fn vault(&self) -> &Vault<Unlocked> {
        &self.vault
    }

    pub(crate) fn places(&self) -> &Places {
        &self.places
    }

    pub(crate) fn confinement(&self) -> &Confinement {
        &self.confinement
    }

    pub(crate) fn enrolled(&self) -> &Enrolled {
        &self.enrolled
    }

    pub(crate) fn waiting(&self) -> &Arc<Waiting> {
        &self.waiting
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    /// Stretching a password takes much memory: one at a time.
    pub(crate) fn stretching(&self) -> &Semaphore {
        &self.stretching
    }

    /// One question over the access history at a time.
    pub(crate) fn asking(&self) -> &Semaphore {
        &self.asking
    }

    /// Notices are shown to one at a time.
    pub(crate) fn showing(&self) -> &Semaphore {
        &self.showing
    }

    /// There is one mount at a time.
    pub(crate) fn mounting(&self) -> &Semaphore {
        &self.mounting
    }

    /// The descriptors that are expected.
    pub(crate) fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    pub(crate) fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        self.tcp
    }

    pub(crate) fn setup(&self) -> Setup {
        self.setup.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn replace_setup(&self, setup: Setup) {
        setup.apply(&self.enrolled);
        self.vault.set_sensitivities(setup.sensitivities());
        *self.setup.lock().unwrap_or_else(PoisonError::into_inner) = setup;
    }

    /// Whether this is the first command line of the recorded owner of a service: it is let in without a question, as
    /// the first one of a backend that runs as its owner is.
    pub(crate) fn is_owners_first(&self, identity: &Identity, origin: Origin) -> bool {
        let owner = self.owner.filter(|owner| origin.process().is_some_and(|process| process.uid == *owner));
        let first = matches!(self.vault.setting(OWNER_CAME), Ok(None));
        owner.is_some() && first && identity.kind() == ComponentKind::Cli
    }

    /// Enrols it; there is no second one.
    pub(crate) fn enrol_owners_first(&self, identity: &Identity) -> Result<(), Error> {
        self.vault.put_setting(OWNER_CAME, identity.key().as_bytes())?;
        enrol_itself(&self.vault, &own_identity(self.vault.device_identity()?)?, identity)?;
        self.enrolled.add(identity.clone(), Grant::for_enrolment(identity, now_ms()));
        let text = format!("the owner's command line was enrolled: {}", identity.fingerprint());
        Ok(self.vault.tell_owner(now_ms(), "identity.owner-enrolled", &text)?)
    }

    /// Takes a connection into the list for as long as the guard lives.
    pub(crate) fn list(self: &Arc<Self>, visitor: &Visitor) -> Listed {
        let number = self.next_connection.fetch_add(1, Ordering::Relaxed);
        let connection = Connection {
            identity: visitor.stream.peer.identity().clone(),
            origin: visitor.origin,
            agreed: visitor.stream.agreed,
            handle: visitor.stream.handle(),
        };
        // Revoked between the handshake and here: the list is what a revocation cuts.
        if self.enrolled.is_revoked(connection.identity.key()) {
            connection.handle.cut(CloseReason::Revoked);
        }
        self.lock_connections().insert(number, connection);
        Listed { running: self.clone(), number }
    }

    /// Every connection, the oldest first.
    pub(crate) fn connections(&self) -> Vec<Connection> {
        self.lock_connections().values().cloned().collect()
    }

    /// Ends the connections of one identity, whatever they are doing.
    pub(crate) fn cut_identity(&self, key: &PublicKey) {
        let connections = self.connections();
        let of_key = connections.iter().filter(|connection| connection.identity.key() == key);
        of_key.for_each(|connection| connection.handle.cut(CloseReason::Revoked));
    }

    fn cut_all(&self, reason: CloseReason) {
        self.connections().iter().for_each(|connection| connection.handle.cut(reason));
    }

    fn lock_connections(&self) -> std::sync::MutexGuard<'_, BTreeMap<u64, Connection>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records something about the system. A log that cannot take it has failed closed, and says so itself.
    pub(crate) fn record(&self, word: &'static str, detail: &str) {
        let what = What::System { word, detail: detail.to_owned() };
        let _failed_closed = self.vault.log().record(&Event { at_ms: now_ms(), who: None, what });
    }

    /// Ends the serving, the first time: no further request is accepted.
    pub(crate) fn end(&self, end: End) {
        self.end.send_if_modified(|ended| {
            let first = ended.is_none();
            *ended = ended.or(Some(end));
            first
        });
    }

    fn ended(&self) -> End {
        self.end.borrow().unwrap_or(End::Stopped)
    }

    pub(crate) fn stopping(&self) -> Stopping {
        Stopping(self.end.subscribe())
    }

    /// Returns when the machine is about to sleep and the owner wants the vault locked then; what it returns holds the
    /// sleep back.
    async fn sleeping(&self) -> Option<std::os::fd::OwnedFd> {
        match self.setup().sleep_bus() {
            Some(bus) => match crate::suspend::until_sleep(&bus).await {
                Ok(held) => Some(held),
                Err(error) => {
                    self.record("suspend.unknown", &error.to_string());
                    std::future::pending().await
                }
            },
            None => std::future::pending().await,
        }
    }

    /// Records and tells an edit of the configuration file, once.
    fn look_at_config(&self) {
        let Ok((text, sum)) = self.setup().news(&self.places.home) else { return };
        let mut seen = self.config_seen.lock().unwrap_or_else(PoisonError::into_inner);
        if std::mem::replace(&mut *seen, sum.clone()) != sum
            && let Some(text) = text
        {
            let _failed_closed = self.vault.tell_owner(now_ms(), "config.edited", &text);
        }
    }

    /// Whether what takes long may go on.
    pub(crate) fn goes_on(&self) -> bool {
        self.end.borrow().is_none()
    }

    /// Whether stores are to be sealed anew, and that has not just failed.
    fn work_is_due(&self) -> bool {
        let failed = *self.work_failed.lock().unwrap_or_else(PoisonError::into_inner);
        if failed.is_some_and(|failed| failed.elapsed() < TRY_AGAIN) {
            return false;
        }
        self.rotation_is_due() || self.padding_is_due()
    }

    fn padding_is_due(&self) -> bool {
        // What is damaged stays as it is: it is not looked at over and over.
        let left = *self.left_bare.lock().unwrap_or_else(PoisonError::into_inner);
        left.is_none_or(|left| left.elapsed() >= TRY_AGAIN) && matches!(self.vault.to_be_padded(), Ok(Some(_)))
    }

    fn rotation_is_due(&self) -> bool {
        let begun = matches!(self.vault.is_rotation_under_way(), Ok(true));
        let after = self.setup().rotation_interval();
        let age = || Ok::<_, VaultError>(Duration::from_millis(now_ms().saturating_sub(self.vault.rotated_ms()?)));
        begun || age().is_ok_and(|age| age >= after)
    }

    /// Does what is due.
    fn work(&self) {
        let padded = match self.padding_is_due() {
            true => self.vault.pad_secrets(now_ms(), &mut |progress| self.goes_on_with("padding", &progress)),
            false => Ok(0),
        };
        if matches!(padded, Ok(1..)) {
            *self.left_bare.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        }
        let rotated = padded.and_then(|_| match self.rotation_is_due() {
            true => {
                let go_on = &mut |progress| self.goes_on_with("rotation", &progress);
                self.vault.continue_rotation(now_ms(), go_on).map(drop)
            }
            false => Ok(()),
        });
        self.note_work(None);
        match rotated {
            Ok(()) | Err(VaultError::Stopped) => {}
            Err(error) => {
                self.record("keys.rotation-failed", &error.to_string());
                *self.work_failed.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
            }
        }
    }

    /// Notes how far something long is; whether it may go on.
    pub(crate) fn goes_on_with(&self, what: &str, progress: &Progress) -> bool {
        let Progress { part, done, of } = *progress;
        self.note_work(Some(WorkEntry { what: what.to_owned(), part: part.to_owned(), done, of }));
        self.goes_on()
    }

    pub(crate) fn note_work(&self, work: Option<WorkEntry>) {
        *self.work.lock().unwrap_or_else(PoisonError::into_inner) = work;
    }

    /// What goes on in the background.
    pub(crate) fn work_now(&self) -> Option<WorkEntry> {
        self.work.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn lock_for_sleep(&self) {
        match self.vault.lock_itself() {
            Ok(()) => self.end(End::Locked),
            Err(_) => self.record("suspend.not-locked", "the header could not be written"),
        }
    }
}

/// A connection's place in the list.
pub(crate) struct Listed {
    running: Arc<Running>,
    number: u64,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.running.lock_connections().remove(&self.number);
    }
}

/// Tells when the backend stops.
pub(crate) struct Stopping(watch::Receiver<Option<End>>);

impl Stopping {
    /// Returns once it does. Safe to cancel.
    pub(crate) async fn wait(&mut self) {
        // The sender lives as long as the backend: gone means stopped.
        let _stopped = self.0.wait_for(Option::is_some).await;
    }
}

fn own_identity(secret: IdentitySecret) -> Result<LocalIdentity, Error> {
    let identity = Identity::new(ComponentKind::Backend, *secret.public(), Name::parse("backend")?);
    LocalIdentity::new(secret, identity).map_err(Error::Identity)
}

/// The command line needs no set-up: its key is made here, by whoever could open the vault, and enrolled before anybody
/// can connect. A key that is there and not enrolled is enrolled too, and the owner is told; one that was revoked is
/// put aside and made anew.
fn enrol_command_line(places: &Places, vault: &Vault<Unlocked>, own: &LocalIdentity) -> Result<(), Error> {
    let path = places.key_dir.join(CLI_KEY);
    let mut cli = if path.exists() { read_client_key(&path)? } else { make_command_line(places)? };
    if vault.revoked()?.iter().any(|(identity, _)| identity.key() == cli.identity().key()) {
        std::fs::rename(&path, path.with_extension("key.revoked")).map_err(Error::Socket)?;
        cli = make_command_line(places)?;
    }
    let known = vault.components()?;
    if known.iter().any(|component| component.identity == *cli.identity()) {
        return Ok(());
    }
    if !known.is_empty() {
        let text = format!("a command line was enrolled at the start: {}", cli.identity().fingerprint());
        vault.tell_owner(now_ms(), "identity.enrolled-at-start", &text)?;
    }
    enrol_itself(vault, own, cli.identity())
}

/// Gives everybody what this version gives their kind: a grant of an older version knows fewer actions.
fn refresh_grants(vault: &Vault<Unlocked>, own: &LocalIdentity) -> Result<(), Error> {
    let signer = vault.grant_signer()?;
    for component in vault.components()? {
        if !component.grant.verify(&signer)?.is_of_enrolment(component.identity.kind()) {
            enrol_itself(vault, own, &component.identity)?;
        }
    }
    Ok(())
}

fn enrol_itself(vault: &Vault<Unlocked>, own: &LocalIdentity, identity: &Identity) -> Result<(), Error> {
    let capability = Capability::new(Action::Enrol, Resource::Component(*identity.key()));
    let around = Circumstances { now_ms: now_ms(), ..Circumstances::default() };
    let decision = decide(&Principal::from_own_identity(own), &[], capability, &around);
    if let Ok(permit) = decision.record(vault.log())? {
        vault.enrol(permit, identity, &Grant::for_enrolment(identity, now_ms()), now_ms())?;
    }
    Ok(())
}

fn make_command_line(places: &Places) -> Result<LocalIdentity, Error> {
    let secret = IdentitySecret::make(&OsRandom)?;
    let identity = Identity::new(ComponentKind::Cli, *secret.public(), Name::parse("cli")?);
    let cli = LocalIdentity::new(secret, identity).map_err(Error::Identity)?;
    // The key folder may be lost together with everything in it.
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&places.key_dir);
    made.map_err(Error::Socket)?;
    RunFolder::create(&places.key_dir.join("clients"))?;
    write_client_key(&places.key_dir.join(CLI_KEY), &cli)?;
    Ok(cli)
}
