//! Keys and primitives.
//!
//! Every key has a type of its own, named after its role, and its bytes stay inside this crate: what has to cross into
//! a C library or a keyring goes through a closure whose name starts with `hazmat_`. Primitives come from libraries
//! (aws-lc-rs, RustCrypto, blake2b_simd); this crate chooses and arranges them.
//!
//! The crate is pure: no file, socket, clock or thread of its own. Randomness is an argument ([`Random`]); the exception
//! is ML-KEM, whose library draws its own. Argon2id's library uses threads while it stretches a [`Password`].
//!
//! ```
//! use aico_crypto::{OsRandom, RootKey, SlotSecret};
//! let (root, slot) = (RootKey::make(&OsRandom)?, SlotSecret::make(&OsRandom)?);
//! let wrapped = slot.slot_key(b"vault and slot").wrap_root(&root, b"vault and slot", &OsRandom)?;
//! assert!(slot.slot_key(b"vault and slot").unwrap_root(&wrapped, b"vault and slot").is_ok());
//! assert!(slot.slot_key(b"another slot").unwrap_root(&wrapped, b"another slot").is_err());
//! # Ok::<(), aico_crypto::Error>(())
//! ```

pub use aico_ffi_memory::{Protection, protection};

mod aead;
mod block;
mod error;
mod hash;
mod identity;
mod kdf;
mod kx;
mod label;
mod python;
mod random;
mod recovery;
mod secret;
mod share;
mod sign;
#[cfg(test)]
mod standards;
mod stream;
mod stretch;
mod tree;
#[cfg(test)]
mod vectors;
mod words;
mod wrap;

pub use aead::{NONCE_BYTES, RecordKey, TAG_BYTES, TrafficKey};
pub use block::{BLOCK_BYTES, BlockCipher, SEALED_BLOCK_BYTES};
pub use error::Error;
pub use hash::{DIGEST_BYTES, Digest, Hasher, TranscriptHash, digest, sha256};
pub use identity::{ComponentKind, Fingerprint, IDENTITY_BYTES, Identity, IdentitySecret, MAX_NAME_BYTES, Name};
pub use kdf::{ChannelKey, HandshakeSecret, HedgeKey, MasterSecret, Psk, handshake_mac, same_bytes};
pub use kx::{
    Encapsulated, EncapsulationKey, EphemeralSecret, KEM_CIPHERTEXT_BYTES, KEM_KEY_BYTES, KemSecret, KxSecret,
    SharedKemSecret, X25519_BYTES,
};
pub use label::{ALL_LABELS, Label, SignatureLabel};
pub use python::{PythonFiles, PythonMaster, PythonPages, PythonPurpose};
pub use random::{OsRandom, Random};
pub use recovery::{RECOVERY_WORDS, RecoveryCode};
pub use secret::Secret;
pub use share::{Gathering, MAX_SHARES, SHARE_WORDS, Share, ShareFault, Split};
pub use sign::{PUBLIC_KEY_BYTES, PublicKey, SIGNATURE_BYTES, Signature};
pub use stream::{CHUNK_BYTES, ChunkCipher, SEALED_CHUNK_BYTES};
pub use stretch::{MAX_PASSWORD_BYTES, Password, SALT_BYTES, STRETCH_COST_BYTES, StretchCost};
pub use tree::{
    DataKey, FileKey, FileWrapKey, GrantKey, HeaderKey, HistoryKey, IdentitySealKey, LockedKey, LogKey, LogSealKey,
    MemoryKey, PseudonymKey, RootKey, SEALED_ROOT_BYTES, SealedFileKey, SlotKey, SlotSecret, SpaceKey, StoreKey,
    VouchKey, seal_root_to_slot,
};
pub use words::WordFault;
pub use wrap::{SEALED_OVERHEAD_BYTES, WRAPPED_BYTES};
