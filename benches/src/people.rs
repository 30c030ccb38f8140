//! Two who know each other, a vault of their own, and folders on a real disk.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use aico_crypto::{ComponentKind, HedgeKey, Identity, IdentitySecret, Name, OsRandom};
use aico_net::{Manner, Speaker};
use aico_policy::{Action, Capability, Circumstances, DataPath, Grant, Permit, Principal, Resource, decide};
use aico_proto::{Established, Fresh, Initiator, LocalIdentity, Peer, Responder, Standing, Terms, Trust};
use aico_vault::{Locked, Places, Unlocked, Vault};
use tempfile::TempDir;

pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Trusts everybody.
pub struct Everybody;

impl Trust for Everybody {
    fn standing(&self, _identity: &Identity) -> Standing {
        Standing::Enrolled
    }
}

pub fn identity(kind: ComponentKind, name: &str) -> Result<LocalIdentity> {
    let secret = IdentitySecret::make(&OsRandom)?;
    let identity = Identity::new(kind, *secret.public(), Name::parse(name)?);
    Ok(LocalIdentity::new(secret, identity)?)
}

pub fn manner(kind: ComponentKind, name: &str) -> Result<Manner> {
    Ok(Manner::of(Arc::new(Speaker::new(identity(kind, name)?)?)))
}

/// A client and a backend, without anything between them.
pub struct Pair {
    client: LocalIdentity,
    backend: LocalIdentity,
    hedges: [HedgeKey; 2],
    counter: u64,
}

impl Pair {
    pub fn new() -> Result<Self> {
        let (client, backend) = (identity(ComponentKind::Cli, "cli")?, identity(ComponentKind::Backend, "backend")?);
        let hedges = [client.hedge_key(), backend.hedge_key()];
        Ok(Self { client, backend, hedges, counter: 0 })
    }

    /// One whole handshake: the client's end, the backend's end, and the bytes of the three messages.
    pub fn shake_hands(&mut self, hybrid: bool) -> Result<(Established, Established, [usize; 3])> {
        self.counter += 1;
        let fresh = |hedge| Fresh::make(hedge, &OsRandom, &[7; 16], self.counter);
        let [mine, theirs] = &self.hedges;
        let mine = if hybrid { fresh(mine)?.with_kem()? } else { fresh(mine)? };
        let (initiator, hello) = Initiator::start(self.backend.identity().clone(), mine, Terms::default());
        let answered = Responder::on_hello(&self.backend, &hello, fresh(theirs)?, Terms::default());
        let (responder, reply) = answered.map_err(|refusal| format!("{refusal:?}"))?;
        let (client, finish) = initiator.on_reply(&self.client, &reply)?;
        let backend = responder.on_finish(&finish, &Everybody)?;
        Ok((client, backend, [hello.len(), reply.len(), finish.len()]))
    }
}

/// Where files are written: `AICO_BENCH_DIR`, or beside this program. A temporary folder may lie in memory.
pub fn disk() -> PathBuf {
    let beside = || std::env::current_exe().ok().and_then(|path| Some(path.parent()?.to_owned()));
    std::env::var_os("AICO_BENCH_DIR").map(PathBuf::from).or_else(beside).unwrap_or_else(|| ".".into())
}

pub fn folder() -> Result<TempDir> {
    Ok(tempfile::Builder::new().prefix("aico-").tempdir_in(disk())?)
}

pub fn places(folder: &Path) -> Places {
    Places {
        home: folder.join("home"),
        key_dir: folder.join("keys"),
        bus: None,
        credentials: None,
        tpm: aico_vault::unlock::Tpm::none(),
    }
}

/// An open vault, and somebody whom everything about data is allowed.
pub struct House {
    pub vault: Vault<Unlocked>,
    principal: Principal,
    grants: Vec<Grant>,
}

impl House {
    /// Opens the vault in `folder`, or sets one up.
    pub fn open(folder: &Path) -> Result<Self> {
        let (vault, _) = Vault::<Locked>::at(&places(folder))?.unlock(now_ms())?;
        let (_, backend, _) = Pair::new()?.shake_hands(false)?;
        let Peer::Authenticated(peer) = backend.peer else { return Err("the handshake knows nobody".into()) };
        let grants = vec![Grant::for_enrolment(peer.identity(), 0)];
        Ok(Self { vault, principal: Principal::from_peer(&peer), grants })
    }

    /// Decides and records, as the backend does for every request.
    pub fn permit(&self, action: Action, path: &str) -> Result<Permit> {
        self.permit_for(action, Resource::Value(DataPath::parse(path)?))
    }

    /// The same for something else than a value.
    pub fn permit_for(&self, action: Action, resource: Resource) -> Result<Permit> {
        let capability = Capability::new(action, resource);
        let around = Circumstances { now_ms: now_ms(), ..Circumstances::default() };
        Ok(decide(&self.principal, &self.grants, capability, &around).record(self.vault.log())??)
    }

    pub fn put(&self, path: &str, value: &[u8]) -> Result<()> {
        let mut put = self.vault.begin_put(self.permit(Action::WriteData, path)?, now_ms())?;
        value.chunks(64 * 1024).try_for_each(|piece| put.write(piece))?;
        put.finish()?;
        Ok(())
    }

    /// Reads a value to its end; its length.
    pub fn get(&self, path: &str) -> Result<u64> {
        let mut value = self.vault.get(self.permit(Action::ReadData, path)?)?;
        let (mut chunk, mut bytes) = (Vec::new(), 0);
        while value.next_chunk(&mut chunk)? {
            bytes += chunk.len() as u64;
            std::hint::black_box(&chunk);
        }
        Ok(bytes)
    }
}

pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
