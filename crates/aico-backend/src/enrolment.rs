//! Who is enrolled, and who waits to be (`docs/spec/requests.md`, Enrolment).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use aico_crypto::{ComponentKind, Identity, PublicKey};
use aico_policy::{Grant, may_connect};
use aico_proto::message::{EnrolAnswer, Failure, FailureCode, PendingEntry};
use aico_proto::{Standing, Trust};
use tokio::sync::oneshot;

/// Identities that wait at a time.
const MAX_PENDING: usize = 16;
/// How long one waits.
const PATIENCE: Duration = Duration::from_secs(600);

/// The enrolled components with their grants, as the vault holds them, and who was revoked.
#[derive(Debug, Default)]
pub(crate) struct Enrolled {
    all: RwLock<HashMap<PublicKey, (Identity, Grant)>>,
    revoked: RwLock<HashSet<PublicKey>>,
    /// The kinds that may connect; every kind where there is none.
    allowed: RwLock<Option<Vec<ComponentKind>>>,
}

impl Enrolled {
    pub(crate) fn add(&self, identity: Identity, grant: Grant) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        all.insert(*identity.key(), (identity, grant));
    }

    /// Its key is never good again.
    pub(crate) fn revoke(&self, key: PublicKey) {
        self.revoked.write().unwrap_or_else(PoisonError::into_inner).insert(key);
        self.all.write().unwrap_or_else(PoisonError::into_inner).remove(&key);
    }

    pub(crate) fn is_revoked(&self, key: &PublicKey) -> bool {
        self.revoked.read().unwrap_or_else(PoisonError::into_inner).contains(key)
    }

    /// Lets only these kinds connect.
    pub(crate) fn allow(&self, kinds: Vec<ComponentKind>) {
        *self.allowed.write().unwrap_or_else(PoisonError::into_inner) = Some(kinds);
    }

    /// Whether a component of this kind may connect at all.
    pub(crate) fn is_allowed(&self, kind: ComponentKind) -> bool {
        let allowed = self.allowed.read().unwrap_or_else(PoisonError::into_inner);
        may_connect(kind, ComponentKind::Backend) && allowed.as_ref().is_none_or(|kinds| kinds.contains(&kind))
    }

    /// The enrolled identity with this fingerprint.
    pub(crate) fn by_fingerprint(&self, fingerprint: &str) -> Option<Identity> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        let mut identities = all.values().map(|(identity, _)| identity);
        identities.find(|identity| identity.fingerprint().to_string() == fingerprint).cloned()
    }

    /// Everybody with their grant.
    pub(crate) fn everybody(&self) -> Vec<(Identity, Grant)> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The grants of `identity`; none where it is not enrolled (any more).
    pub(crate) fn grants(&self, identity: &Identity) -> Vec<Grant> {
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(identity.key()).map(|(_, grant)| grant.clone()).into_iter().collect()
    }
}

impl Trust for Enrolled {
    fn standing(&self, identity: &Identity) -> Standing {
        if self.is_revoked(identity.key()) || !self.is_allowed(identity.kind()) {
            return Standing::Refused;
        }
        let all = self.all.read().unwrap_or_else(PoisonError::into_inner);
        match all.get(identity.key()) {
            Some((known, _)) if known == identity => Standing::Enrolled,
            Some(_) => Standing::Refused,
            None => Standing::MayEnrol,
        }
    }
}

/// Identities that wait for the owner, in memory only.
#[derive(Debug, Default)]
pub(crate) struct Waiting(Mutex<HashMap<String, (Identity, oneshot::Sender<bool>)>>);

impl Waiting {
    /// Waits for the owner's word on `identity`. `announced` is called once it can be seen.
    pub(crate) async fn wait<F>(self: &Arc<Self>, identity: &Identity, announced: F) -> Result<EnrolAnswer, Failure>
    where
        F: AsyncFnOnce(EnrolAnswer) -> bool,
    {
        let fingerprint = identity.fingerprint().to_string();
        let (decide, decided) = oneshot::channel();
        self.put(&fingerprint, identity, decide)?;
        let place = Place { waiting: self.clone(), fingerprint: fingerprint.clone() };
        let answer = |state: &str| EnrolAnswer { state: state.to_owned(), fingerprint: fingerprint.clone() };
        if !announced(answer("waiting")).await {
            return Err(refused(FailureCode::Failed, "the client is gone"));
        }
        let decided = tokio::time::timeout(PATIENCE, decided).await;
        drop(place);
        match decided {
            Ok(Ok(true)) => Ok(answer("enrolled")),
            Ok(_) => Err(refused(FailureCode::Denied, "the owner said no")),
            Err(_) => Err(refused(FailureCode::Expired, "nobody decided within ten minutes")),
        }
    }

    fn put(&self, fingerprint: &str, identity: &Identity, decide: oneshot::Sender<bool>) -> Result<(), Failure> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.contains_key(fingerprint) || all.len() >= MAX_PENDING {
            return Err(refused(FailureCode::Busy, "this identity waits already, or too many do"));
        }
        all.insert(fingerprint.to_owned(), (identity.clone(), decide));
        Ok(())
    }

    /// Who waits.
    pub(crate) fn list(&self) -> Vec<PendingEntry> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = |(fingerprint, (identity, _)): (&String, &(Identity, _))| PendingEntry {
            kind: identity.kind().as_str().to_owned(),
            name: identity.name().as_str().to_owned(),
            fingerprint: fingerprint.clone(),
        };
        all.iter().map(entry).collect()
    }

    /// Takes one out, so that it can be decided on.
    pub(crate) fn take(&self, fingerprint: &str) -> Option<(Identity, oneshot::Sender<bool>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(fingerprint)
    }

    pub(crate) fn identity(&self, fingerprint: &str) -> Option<Identity> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(fingerprint).map(|(identity, _)| identity.clone())
    }
}

/// One who waits; gone when dropped.
struct Place {
    waiting: Arc<Waiting>,
    fingerprint: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let _decided_already = self.waiting.take(&self.fingerprint);
    }
}

fn refused(code: FailureCode, message: &str) -> Failure {
    Failure { code, message: message.to_owned(), hint: None }
}
