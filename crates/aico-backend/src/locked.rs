//! The backend of a locked vault: it has no key, answers `status` and unlocking and nothing else, and writes down what
//! is tried (`docs/spec/requests.md`, While locked).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aico_crypto::{ComponentKind, Identity, IdentitySecret, Name, OsRandom, Password, RecoveryCode};
use aico_net::{
    AlsoUser, BACKEND_ID_NAME, DoorLimits, Error as NetError, Listener, Manner, Origin, Speaker, Visitor,
    write_backend_id,
};
use aico_proto::message::{DoneAnswer, Failure, FailureCode, Part, Request, StatusAnswer, from_json};
use aico_proto::{CloseReason, LocalIdentity, Standing, Trust};
use aico_vault::{Error as VaultError, Found, How, Locked, LockedLog, Opening, Proof, Unlocked, Vault};
use tokio::sync::{mpsc, oneshot};
use tokio::task::block_in_place;

use crate::Error;
use crate::access::now_ms;
use crate::backend::{Start, from_std};
use crate::error::{bad_request, failure};
use crate::gateway::{Line, reply};
use crate::refusals::word;

/// For connections to take their answers before the next stage begins.
const GRACE: Duration = Duration::from_secs(2);

/// How the locked stage ended.
pub(crate) enum LockedEnd {
    /// Somebody stopped it.
    Stopped,
    /// Its owner opened the vault.
    Opened(Box<(Vault<Unlocked>, Opening)>),
    /// The key was right and the stores did not open: locked as before.
    Again(Vault<Locked>),
}

/// Who comes to a locked vault is not looked up: the list is in the vault. On the Unix socket it is the owner's user.
struct AnybodyHere;

impl Trust for AnybodyHere {
    fn standing(&self, identity: &Identity) -> Standing {
        if identity.kind() == ComponentKind::Backend { Standing::Refused } else { Standing::MayEnrol }
    }
}

/// A root key that was found, and who waits to hear what became of it.
struct Asked {
    found: Found,
    answer: oneshot::Sender<Result<(), Failure>>,
}

struct Door {
    vault: Mutex<Option<Vault<Locked>>>,
    log: Mutex<Option<LockedLog>>,
    asked: mpsc::Sender<Asked>,
    fingerprint: String,
    confined_by: Vec<String>,
}

/// An identity for this time alone, for local clients to pin: that of the device is sealed in the vault.
pub(crate) fn identity(start: &Start) -> Result<LocalIdentity, Error> {
    let secret = IdentitySecret::make(&OsRandom)?;
    let identity = Identity::new(ComponentKind::Backend, *secret.public(), Name::parse("locked")?);
    let me = LocalIdentity::new(secret, identity).map_err(Error::Identity)?;
    write_backend_id(&start.run_folder.join(BACKEND_ID_NAME), me.identity(), start.owner.is_some())?;
    Ok(me)
}

/// Serves until the vault is opened or `interrupted` is done.
pub(crate) async fn serve(
    vault: Vault<Locked>,
    me: LocalIdentity,
    start: &Start,
    interrupted: &mut (impl Future<Output = ()> + Unpin),
) -> Result<LockedEnd, Error> {
    let (asked, mut to_open) = mpsc::channel(1);
    // Without a side file nothing can be written down, and the owner can still get in.
    let log = Mutex::new(vault.locked_log().ok());
    let fingerprint = me.identity().fingerprint().to_string();
    let confined_by = start.confinement.by.iter().map(|name| (*name).to_owned()).collect();
    let door = Arc::new(Door { vault: Mutex::new(Some(vault)), log, asked, fingerprint, confined_by });
    door.note("locked.start", "");

    let socket = from_std(start.socket.try_clone().map_err(Error::Socket)?)?;
    let at_door = door.clone();
    let refused = Arc::new(move |origin: Origin, error: &NetError| {
        at_door.note("handshake.refused", &format!("{origin}: {}", word(error)));
    });
    let manner = Manner::of(Arc::new(Speaker::new(me)?));
    let (owner, limits) = (AlsoUser(start.owner), DoorLimits::default());
    let mut listener = Listener::start(socket, owner, manner, Arc::new(AnybodyHere), limits, refused);
    let mut served = tokio::task::JoinSet::new();
    let end = loop {
        tokio::select! {
            () = &mut *interrupted => break LockedEnd::Stopped,
            asked = to_open.recv() => match asked {
                Some(asked) => break door.open(asked, start)?,
                None => break LockedEnd::Stopped,
            },
            visitor = listener.next() => match visitor {
                Some(visitor) => {
                    served.spawn(answer(door.clone(), visitor));
                }
                None => break LockedEnd::Stopped,
            },
            Some(_ended) = served.join_next() => {}
        }
    };
    listener.close();
    let finished = async { while served.join_next().await.is_some() {} };
    let _cut = tokio::time::timeout(GRACE, finished).await;
    served.shutdown().await;
    Ok(end)
}

impl Door {
    fn note(&self, word: &str, detail: &str) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = log.as_mut().is_some_and(|log| block_in_place(|| log.note(now_ms(), word, detail)).is_err());
        if failed {
            *log = None;
        }
    }

    /// Opens the stores; whoever asked hears how it went.
    fn open(&self, asked: Asked, start: &Start) -> Result<LockedEnd, Error> {
        let vault = self.vault.lock().unwrap_or_else(PoisonError::into_inner).take();
        let vault = vault.ok_or(VaultError::LockedByOwner)?;
        match block_in_place(|| vault.enter(asked.found, now_ms())) {
            Ok(opened) => {
                let _gone = asked.answer.send(Ok(()));
                Ok(LockedEnd::Opened(Box::new(opened)))
            }
            Err(error) => {
                self.note("unlock.failed", "the key was right, and the stores did not open");
                let _gone = asked.answer.send(Err(failure(&error)));
                let again = block_in_place(|| Vault::<Locked>::at_as_worker(&start.places))?;
                Ok(LockedEnd::Again(again))
            }
        }
    }

    /// Finds the root key, one attempt at a time.
    fn find(&self, how: How<'_>) -> Result<Found, Failure> {
        let found = block_in_place(|| {
            let vault = self.vault.lock().unwrap_or_else(PoisonError::into_inner);
            let vault = vault.as_ref().ok_or(VaultError::LockedByOwner)?;
            vault.find(how, now_ms())
        });
        found.map_err(|error| {
            self.note("unlock.failed", unlock_word(&error));
            failure(&error)
        })
    }

    async fn unlock(&self, how: How<'_>) -> Result<(), Failure> {
        let found = self.find(how)?;
        let (answer, answered) = oneshot::channel();
        let gone = |_| Failure { code: FailureCode::Stopping, message: "it is stopping".to_owned(), hint: None };
        self.asked.send(Asked { found, answer }).await.map_err(|_| gone(()))?;
        answered.await.map_err(|_| gone(()))?
    }
}

fn unlock_word(error: &VaultError) -> &'static str {
    match error {
        VaultError::WrongPassword => "a wrong password",
        VaultError::WrongCode => "a wrong recovery code",
        VaultError::LockedByOwner => "without a password or recovery code",
        VaultError::Memory { .. } => "not enough memory",
        _ => "something else failed",
    }
}

async fn answer(door: Arc<Door>, mut visitor: Visitor) {
    let origin = visitor.origin;
    let mut line = Line { sender: &mut visitor.stream.sender, receiver: &mut visitor.stream.receiver };
    let ended = answer_requests(&door, origin, &mut line).await;
    let reason = match ended {
        Ok(reason) => reason,
        Err(NetError::Closed(reason)) => reason,
        Err(_) => CloseReason::Protocol,
    };
    let _gone = visitor.stream.sender.close(reason).await;
}

async fn answer_requests(door: &Door, origin: Origin, line: &mut Line<'_>) -> Result<CloseReason, NetError> {
    loop {
        let Part::Request(json) = Part::parse(line.receiver.receive().await?)? else {
            return Err(NetError::UnexpectedMessage);
        };
        let Ok(request) = from_json::<Request>(json) else {
            line.fail(&bad_request("this is not a request that this version knows")).await?;
            return Ok(CloseReason::Protocol);
        };
        match request {
            Request::Status { .. } => line.answer(&door.status()).await?,
            Request::Unlock { proof } => {
                let done = match proof.map(|proof| parse_proof(&proof)).transpose() {
                    Ok(None) => door.unlock(How::ByMachine).await,
                    Ok(Some(proof)) => door.unlock(How::ByOwner(&proof)).await,
                    Err(failure) => Err(failure),
                };
                let opened = done.is_ok();
                reply(line, done.map(|()| DoneAnswer {})).await?;
                if opened {
                    return Ok(CloseReason::Shutdown);
                }
            }
            _ => {
                door.note("request.refused", &origin.to_string());
                let message = "the vault is locked".to_owned();
                let hint = Some("`aico unlock` opens it".to_owned());
                line.fail(&Failure { code: FailureCode::Locked, message, hint }).await?;
                // A value may follow what was asked for; nobody takes it.
                return Ok(CloseReason::Shutdown);
            }
        }
    }
}

impl Door {
    fn status(&self) -> StatusAnswer {
        StatusAnswer {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint: self.fingerprint.clone(),
            locked: true,
            unlocked_by: String::new(),
            weakest_slot: String::new(),
            recovery_code: false,
            password: false,
            tcp: None,
            data_bytes: 0,
            values: 0,
            audit_entries: 0,
            uptime_s: 0,
            connections: 0,
            memory: crate::confine::memory().to_owned(),
            confined_by: self.confined_by.clone(),
            work: None,
            notices: Vec::new(),
        }
    }
}

/// What the owner typed, in its form.
pub(crate) fn parse_proof(proof: &aico_proto::message::Proof) -> Result<Proof, Failure> {
    use aico_proto::message::Proof as Sent;
    match proof {
        Sent::Password(text) => {
            Password::parse(text.expose()).map(Proof::Password).map_err(|error| bad_request(error.to_string()))
        }
        Sent::RecoveryCode(text) => parse_code(text.expose()).map(Proof::Recovery),
    }
}

/// A recovery code; what is wrong with one is said.
pub(crate) fn parse_code(text: &str) -> Result<RecoveryCode, Failure> {
    RecoveryCode::parse(text).map_err(|fault| {
        let hint = Some("compare it with the paper, word by word; nothing was changed".to_owned());
        Failure { code: FailureCode::WrongProof, message: fault.to_string(), hint }
    })
}
