use aico_crypto::{Fingerprint, Identity};
use aico_proto::{AuthenticatedPeer, LocalIdentity};

/// A component acting: for the owner, or for itself. Only evidence makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    identity: Identity,
    itself: bool,
}

impl Principal {
    /// The component at the other end of a channel.
    #[must_use]
    pub fn from_peer(peer: &AuthenticatedPeer) -> Self {
        Self { identity: peer.identity().clone(), itself: false }
    }

    /// This very process, which holds the secret of its own identity.
    #[must_use]
    pub fn from_own_identity(own: &LocalIdentity) -> Self {
        Self { identity: own.identity().clone(), itself: true }
    }

    /// The component's identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether it is this very process.
    #[must_use]
    pub fn is_itself(&self) -> bool {
        self.itself
    }

    /// The component's fingerprint.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.identity.fingerprint()
    }
}
