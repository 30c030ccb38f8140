//! Keys under keys: XChaCha20-Poly1305 with a random nonce, bound to the roles and the place (`docs/spec/vault.md`).

use crate::aead::{open_random, seal_random};
use crate::{Error, NONCE_BYTES, Random, Secret, TAG_BYTES};

/// What sealing adds to the sealed bytes.
pub const SEALED_OVERHEAD_BYTES: usize = NONCE_BYTES + TAG_BYTES;
/// Bytes of a wrapped 32-byte key.
pub const WRAPPED_BYTES: usize = 32 + SEALED_OVERHEAD_BYTES;

/// `nonce(24) ‖ ciphertext(32) ‖ tag(16)`; associated data: `len(role) ‖ role ‖ context`.
pub(crate) fn wrap(
    wrapping: &Secret<32>,
    role: &str,
    context: &[u8],
    key: &Secret<32>,
    random: &dyn Random,
) -> Result<[u8; WRAPPED_BYTES], Error> {
    let sealed = seal_random(wrapping, &place(role, context), key.bytes(), random)?;
    sealed.try_into().map_err(|_| Error::Failed)
}

/// Opens what [`wrap`] sealed.
pub(crate) fn unwrap(wrapping: &Secret<32>, role: &str, context: &[u8], wrapped: &[u8]) -> Result<Secret<32>, Error> {
    let bytes = zeroize::Zeroizing::new(open_random(wrapping, &place(role, context), wrapped)?);
    Secret::copy_of_slice(&bytes)
}

fn place(role: &str, context: &[u8]) -> Vec<u8> {
    let mut out = vec![role.len() as u8];
    out.extend_from_slice(role.as_bytes());
    out.extend_from_slice(context);
    out
}
