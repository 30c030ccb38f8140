//! One unlock method's place in the header (`docs/spec/vault.md`, Slots).

use std::fmt;

use aico_crypto::{Random, RootKey, SEALED_ROOT_BYTES, SlotSecret, WRAPPED_BYTES, seal_root_to_slot};

use super::{VaultId, damaged};
use crate::Error;

/// Bytes of a slot's check value.
pub(super) const CHECK_BYTES: usize = 16;
/// Bytes of a slot's public key.
pub(super) const EXCHANGE_BYTES: usize = 32;
/// The most bytes that an unlock method may keep in its slot. Our choice: a sealed TPM object has about 400.
pub(super) const MAX_PARAMETER_BYTES: usize = 1024;

const UNVOUCHED: &str = "a slot of an older version has not been used by this one yet, so a new root key cannot be given to it: \
                         open the vault by it once, or remove it";

/// How a slot's secret is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SlotKind {
    /// In a file that only its owner may read.
    KeyFile,
    /// In the session's keyring.
    SecretService,
    /// Stretched from a password.
    Password,
    /// Stretched from a code on paper.
    RecoveryCode,
    /// Sealed to this machine's TPM 2.0.
    Tpm2,
    /// In a systemd credential of the system unit.
    SystemdCredential,
    /// In the login keychain of macOS.
    Keychain,
    /// In the Credential Manager of Windows.
    CredentialManager,
}

impl SlotKind {
    pub(super) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.to_byte() == byte)
    }

    const ALL: [Self; 8] = [
        Self::KeyFile,
        Self::SecretService,
        Self::Password,
        Self::RecoveryCode,
        Self::Tpm2,
        Self::SystemdCredential,
        Self::Keychain,
        Self::CredentialManager,
    ];

    pub(super) fn to_byte(self) -> u8 {
        match self {
            Self::KeyFile => 1,
            Self::SecretService => 2,
            Self::Password => 3,
            Self::RecoveryCode => 4,
            Self::Tpm2 => 5,
            Self::SystemdCredential => 6,
            Self::Keychain => 7,
            Self::CredentialManager => 8,
        }
    }

    /// The kind as one word, for programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::KeyFile => "key-file",
            Self::SecretService => "secret-service",
            Self::Password => "password",
            Self::RecoveryCode => "recovery-code",
            Self::Tpm2 => "tpm2",
            Self::SystemdCredential => "systemd-credential",
            Self::Keychain => "keychain",
            Self::CredentialManager => "credential-manager",
        }
    }

    /// The kind that a machine keeps and that has this [`SlotKind::word`].
    #[must_use]
    pub fn of_machine(word: &str) -> Option<Self> {
        let held = |kind: &Self| matches!(kind, Self::Password | Self::RecoveryCode);
        Self::ALL.into_iter().find(|kind| kind.word() == word && !held(kind))
    }

    /// Its place on the ladder: more is harder to take together with a copy of the disk.
    #[must_use]
    pub fn strength(self) -> u8 {
        match self {
            Self::KeyFile => 1,
            Self::SecretService | Self::Keychain | Self::CredentialManager => 2,
            Self::SystemdCredential => 3,
            Self::Tpm2 => 4,
            Self::Password => 5,
            Self::RecoveryCode => 6,
        }
    }
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::KeyFile => "key file",
            Self::SecretService => "Secret Service",
            Self::Password => "password",
            Self::RecoveryCode => "recovery code",
            Self::Tpm2 => "TPM 2.0",
            Self::SystemdCredential => "systemd credential",
            Self::Keychain => "Keychain",
            Self::CredentialManager => "Credential Manager",
        })
    }
}

/// The root key in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WrappedRoot {
    /// Under the slot's key.
    UnderSlotKey([u8; WRAPPED_BYTES]),
    /// Sealed to the slot's public key, because its secret was not at hand when the root key was made.
    SealedToSlot([u8; SEALED_ROOT_BYTES]),
}

/// The slot's key to vouch with, under the root key. A slot that was made before there was one, and not used since, has
/// none.
pub(super) type Voucher = Option<[u8; WRAPPED_BYTES]>;

impl WrappedRoot {
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::UnderSlotKey(bytes) => bytes,
            Self::SealedToSlot(bytes) => bytes,
        }
    }
}

/// Names a slot within its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u8);

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot-{}", self.0)
    }
}

/// A slot to be made: its secret is already kept by its method.
#[derive(Debug)]
pub struct NewSlot {
    /// Which method keeps the secret.
    pub kind: SlotKind,
    /// Unique within the header.
    pub id: SlotId,
    /// What the method keeps.
    pub secret: SlotSecret,
    /// What the method wants to find again, at most 1 KiB.
    pub parameters: Vec<u8>,
}

/// One unlock method and the root key wrapped for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    pub(super) kind: SlotKind,
    pub(super) id: SlotId,
    pub(super) created_ms: u64,
    pub(super) parameters: Vec<u8>,
    pub(super) check: [u8; CHECK_BYTES],
    pub(super) exchange: [u8; EXCHANGE_BYTES],
    pub(super) root: WrappedRoot,
    pub(super) voucher: Voucher,
}

impl Slot {
    /// Wraps `root` for a method.
    pub(super) fn make(
        vault: &VaultId,
        new: &NewSlot,
        created_ms: u64,
        root: &RootKey,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        if new.parameters.len() > MAX_PARAMETER_BYTES {
            return Err(Error::Misuse("the parameters of a slot have at most 1024 bytes"));
        }
        let context = context(vault, new.id, new.kind, &new.parameters);
        let key = new.secret.slot_key(&context);
        Ok(Self {
            kind: new.kind,
            id: new.id,
            created_ms,
            parameters: new.parameters.clone(),
            check: key.check_value(),
            exchange: key.exchange_public()?,
            root: WrappedRoot::UnderSlotKey(key.wrap_root(root, &context, random)?),
            voucher: Some(root.wrap_vouch(&key.vouch_key(), &context, random)?),
        })
    }

    /// Which method keeps the secret.
    #[must_use]
    pub fn kind(&self) -> SlotKind {
        self.kind
    }

    /// The slot's name within the header.
    #[must_use]
    pub fn id(&self) -> SlotId {
        self.id
    }

    /// When the slot was made, in milliseconds since 1970.
    #[must_use]
    pub fn created_ms(&self) -> u64 {
        self.created_ms
    }

    /// What the method keeps in the header.
    #[must_use]
    pub fn parameters(&self) -> &[u8] {
        &self.parameters
    }

    /// The public key to which a new root key can be sealed.
    #[must_use]
    pub fn exchange_public(&self) -> &[u8; EXCHANGE_BYTES] {
        &self.exchange
    }

    /// How the root key and the voucher stand in the header.
    pub(super) fn wrap_code(&self) -> u8 {
        match (&self.root, &self.voucher) {
            (WrappedRoot::UnderSlotKey(_), None) => 0,
            (WrappedRoot::SealedToSlot(_), None) => 1,
            (WrappedRoot::UnderSlotKey(_), Some(_)) => 2,
            (WrappedRoot::SealedToSlot(_), Some(_)) => 3,
        }
    }

    /// The same slot with another root key, without its secret.
    fn resealed(&self, vault: &VaultId, old: &RootKey, new: &RootKey, random: &dyn Random) -> Result<Self, Error> {
        let context = context(vault, self.id, self.kind, &self.parameters);
        let voucher = self.voucher.ok_or(Error::Refused(UNVOUCHED))?;
        let vouch = old.unwrap_vouch(&voucher, &context).map_err(|_| damaged("a slot's voucher does not open"))?;
        let sealed = seal_root_to_slot(&self.exchange, &vouch, new, &context, random)?;
        let voucher = Some(new.wrap_vouch(&vouch, &context, random)?);
        Ok(Self { root: WrappedRoot::SealedToSlot(sealed), voucher, ..self.clone() })
    }

    /// The same slot with the root key under its own key.
    pub(super) fn wrapped(
        &self,
        vault: &VaultId,
        secret: &SlotSecret,
        root: &RootKey,
        random: &dyn Random,
    ) -> Result<Self, Error> {
        let context = context(vault, self.id, self.kind, &self.parameters);
        let key = secret.slot_key(&context);
        if !key.matches(&self.check) {
            return Err(Error::Misuse("the secret of another slot"));
        }
        let root_wrapped = WrappedRoot::UnderSlotKey(key.wrap_root(root, &context, random)?);
        let voucher = Some(root.wrap_vouch(&key.vouch_key(), &context, random)?);
        Ok(Self { root: root_wrapped, voucher, ..self.clone() })
    }

    /// The same slot with another root key, by its secret if that is `known`.
    pub(super) fn with_root(
        &self,
        vault: &VaultId,
        (old, new): (&RootKey, &RootKey),
        known: &[(SlotId, SlotSecret)],
        random: &dyn Random,
    ) -> Result<Self, Error> {
        match known.iter().find(|(id, _)| *id == self.id) {
            Some((_, secret)) => self.wrapped(vault, secret, new, random),
            None => self.resealed(vault, old, new, random),
        }
    }

    /// Whether the slot should be written anew, now that its secret is at hand.
    pub(super) fn is_to_be_renewed(&self) -> bool {
        matches!(self.root, WrappedRoot::SealedToSlot(_)) || self.voucher.is_none()
    }

    pub(super) fn unwrap_root(&self, vault: &VaultId, secret: &SlotSecret) -> Result<RootKey, Error> {
        let context = context(vault, self.id, self.kind, &self.parameters);
        let key = secret.slot_key(&context);
        if !key.matches(&self.check) {
            return Err(match self.kind {
                SlotKind::Password => Error::WrongPassword,
                SlotKind::RecoveryCode => Error::WrongCode,
                _ => Error::Locked(format!("the secret is not that of {}", self.id)),
            });
        }
        let root = match &self.root {
            WrappedRoot::UnderSlotKey(wrapped) => key.unwrap_root(wrapped, &context),
            // Sealed before sealing was vouched for: anybody could have made it.
            WrappedRoot::SealedToSlot(_) if self.voucher.is_none() => {
                let text = "nothing shows who sealed the root key to this slot; open the vault by another one and set this anew";
                return Err(Error::Locked(text.to_owned()));
            }
            WrappedRoot::SealedToSlot(sealed) => key.open_sealed_root(sealed, &context),
        };
        root.map_err(|_| damaged(format!("{} does not open under its own secret", self.id)))
    }
}

/// `vault id ‖ slot id ‖ kind ‖ parameters`.
fn context(vault: &VaultId, id: SlotId, kind: SlotKind, parameters: &[u8]) -> Vec<u8> {
    let mut out = vault.as_bytes().to_vec();
    out.extend_from_slice(&[id.0, kind.to_byte()]);
    out.extend_from_slice(parameters);
    out
}
