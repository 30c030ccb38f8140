//! What the owner allowed, signed (`docs/spec/vault.md`, Grants).

use aico_crypto::{ComponentKind, GrantKey, Identity, PublicKey, Signature};
use serde::{Deserialize, Serialize};

use crate::{Action, Capability, Error, Level};

/// Longest encoded grant in bytes.
pub const MAX_GRANT_BYTES: usize = 4096;

/// What one component may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    to: PublicKey,
    actions: Vec<Action>,
    /// `None`: every category.
    categories: Option<Vec<String>>,
    purpose: String,
    from_ms: u64,
    /// `None`: until it is revoked.
    until_ms: Option<u64>,
}

impl Grant {
    /// What an identity gets when the owner enrols it: by its kind, and never more than that kind needs.
    #[must_use]
    pub fn for_enrolment(identity: &Identity, now_ms: u64) -> Self {
        let actions = actions_of(identity.kind());
        let purpose = format!("enrolled as {}", identity.kind().as_str());
        Self { to: *identity.key(), actions, categories: None, purpose, from_ms: now_ms, until_ms: None }
    }

    /// Whether it is what enrolling gives an identity of this kind: by this version, neither more nor less.
    #[must_use]
    pub fn is_of_enrolment(&self, kind: ComponentKind) -> bool {
        let wanted = actions_of(kind);
        wanted.len() == self.actions.len() && wanted.iter().all(|action| self.actions.contains(action))
    }

    /// What it allows.
    #[must_use]
    pub fn actions(&self) -> &[Action] {
        &self.actions
    }

    /// The same grant for some categories only.
    #[must_use]
    pub fn limited_to(mut self, categories: &[&str]) -> Self {
        self.categories = Some(categories.iter().map(|c| (*c).to_owned()).collect());
        self
    }

    /// The same grant with an end, in milliseconds since 1970.
    #[must_use]
    pub fn until(mut self, until_ms: u64) -> Self {
        self.until_ms = Some(until_ms);
        self
    }

    /// Who holds it.
    #[must_use]
    pub fn to(&self) -> &PublicKey {
        &self.to
    }

    /// Whether it allows `capability` to `identity` now.
    #[must_use]
    pub fn covers(&self, identity: &Identity, capability: &Capability, now_ms: u64) -> bool {
        let in_time = self.from_ms <= now_ms && self.until_ms.is_none_or(|until| now_ms < until);
        let in_categories = match (&self.categories, capability.resource.category()) {
            (None, _) => true,
            (Some(allowed), Some(category)) => allowed.iter().any(|c| c == category),
            (Some(_), None) => capability.action.level() != Level::UserData,
        };
        self.to == *identity.key() && self.actions.contains(&capability.action) && in_time && in_categories
    }

    /// Encodes and signs it.
    pub fn sign(&self, key: &GrantKey) -> Result<SignedGrant, Error> {
        let text = GrantText {
            aico_grant: 1,
            to: self.to.to_text(),
            actions: self.actions.iter().map(|a| a.as_str().to_owned()).collect(),
            categories: self.categories.clone(),
            purpose: self.purpose.clone(),
            from_ms: self.from_ms,
            until_ms: self.until_ms,
        };
        let bytes = serde_json::to_vec(&text).map_err(|_| Error::GrantForm("it does not encode"))?;
        let signature = key.sign(&bytes).map_err(|_| Error::GrantSignature)?;
        Ok(SignedGrant { bytes, signature })
    }
}

/// What each kind of component is there for (`docs/spec/requests.md`, Roles).
fn actions_of(kind: ComponentKind) -> Vec<Action> {
    use Action::{ListData, ReadAudit, ReadConfig, ReadData, ReadInventory, ReadStatus, RemoveData, WriteData};
    match kind {
        ComponentKind::Cli => Action::ALL.to_vec(),
        ComponentKind::Frontend => vec![ReadData, WriteData, ListData, RemoveData, ReadStatus],
        ComponentKind::Studio => vec![ReadStatus, ReadAudit, ListData, ReadInventory, ReadConfig],
        ComponentKind::Backend | ComponentKind::Plugin => Vec::new(),
    }
}

/// Whether an `initiator` of this kind has business with a `responder` of that kind: the channels of the system.
#[must_use]
pub fn may_connect(initiator: ComponentKind, responder: ComponentKind) -> bool {
    use ComponentKind::{Backend, Cli, Frontend, Plugin, Studio};
    matches!((initiator, responder), (Frontend | Cli | Studio | Plugin, Backend) | (Cli, Studio))
}

/// A grant as it is kept: the bytes that were signed, and the signature over exactly those.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedGrant {
    /// JSON, as signed.
    pub bytes: Vec<u8>,
    /// Ed25519 over the grant label and the bytes.
    pub signature: Signature,
}

impl SignedGrant {
    /// The grant, if `signer` signed it.
    pub fn verify(&self, signer: &PublicKey) -> Result<Grant, Error> {
        if self.bytes.len() > MAX_GRANT_BYTES {
            return Err(Error::GrantForm("it has more than 4 KiB"));
        }
        let label = aico_crypto::SignatureLabel::GRANT;
        signer.verify(label, &self.bytes, &self.signature).map_err(|_| Error::GrantSignature)?;
        let text: GrantText =
            serde_json::from_slice(&self.bytes).map_err(|_| Error::GrantForm("it does not decode"))?;
        text.decode()
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GrantText {
    aico_grant: u8,
    to: String,
    actions: Vec<String>,
    categories: Option<Vec<String>>,
    purpose: String,
    from_ms: u64,
    until_ms: Option<u64>,
}

impl GrantText {
    fn decode(self) -> Result<Grant, Error> {
        if self.aico_grant != 1 {
            return Err(Error::GrantForm("it is of another version"));
        }
        let to = PublicKey::from_text(&self.to).map_err(|_| Error::GrantForm("its holder is not a key"))?;
        let actions: Option<Vec<Action>> = self.actions.iter().map(|word| Action::from_text(word)).collect();
        let actions = actions.ok_or(Error::GrantForm("it names an unknown action"))?;
        let Self { categories, purpose, from_ms, until_ms, .. } = self;
        Ok(Grant { to, actions, categories, purpose, from_ms, until_ms })
    }
}
