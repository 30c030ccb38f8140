use aico_crypto::Identity;

/// What the trust store says of an identity that wants to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Enrolled under exactly this kind, key and name, and not revoked.
    Enrolled,
    /// Unknown, but at a door where it may ask to be enrolled: the Unix socket, from the same user.
    MayEnrol,
    /// Unknown, revoked, or known under another kind or name.
    Refused,
}

/// Looks an identity up before its signature counts.
pub trait Trust {
    /// The standing of `identity` at this door.
    fn standing(&self, identity: &Identity) -> Standing;
}

/// Proof that an enrolled identity is at the other end. Only evidence makes it: here, a finished handshake.
#[derive(Clone)]
pub struct AuthenticatedPeer {
    identity: Identity,
    channel: [u8; 32],
}

impl AuthenticatedPeer {
    pub(crate) fn from_handshake(identity: Identity, channel: [u8; 32]) -> Self {
        Self { identity, channel }
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The channel's exporter: the same at both ends, different for every channel.
    #[must_use]
    pub fn channel(&self) -> &[u8; 32] {
        &self.channel
    }
}

impl std::fmt::Debug for AuthenticatedPeer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuthenticatedPeer({:?}, ..)", self.identity)
    }
}

/// An identity that proved its key but is not enrolled: it may ask for that, and nothing else.
#[derive(Clone, Debug)]
pub struct UnenrolledPeer {
    identity: Identity,
}

impl UnenrolledPeer {
    pub(crate) fn from_handshake(identity: Identity) -> Self {
        Self { identity }
    }

    /// Who it says it is, with a key that it holds.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.identity
    }
}

/// Who finished the handshake.
#[derive(Clone, Debug)]
pub enum Peer {
    /// Somebody we know.
    Authenticated(AuthenticatedPeer),
    /// Somebody who may ask to be enrolled.
    Unenrolled(UnenrolledPeer),
}

impl Peer {
    /// Who it is, or says it is with a key that it holds.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        match self {
            Self::Authenticated(peer) => peer.identity(),
            Self::Unenrolled(peer) => peer.identity(),
        }
    }
}
