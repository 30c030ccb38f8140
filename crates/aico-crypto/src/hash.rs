//! BLAKE2b without a key: digests and the transcript hash.

use blake2b_simd::{Params, State};

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;

/// A BLAKE2b-256 digest.
pub type Digest = [u8; DIGEST_BYTES];

/// BLAKE2b-256 of `bytes`.
#[must_use]
pub fn digest(bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new();
    hasher.update(bytes);
    hasher.finish()
}

/// BLAKE2b-256 of a stream.
#[derive(Clone, Debug)]
pub struct Hasher(State);

impl Hasher {
    /// A fresh state.
    #[must_use]
    pub fn new() -> Self {
        Self(Params::new().hash_length(DIGEST_BYTES).to_state())
    }

    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes so far.
    #[must_use]
    pub fn finish(&self) -> Digest {
        let mut out = [0; DIGEST_BYTES];
        out.copy_from_slice(self.0.finalize().as_bytes());
        out
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

/// SHA-256 of the concatenation of `parts`: for formats of others that ask for it (RFC 6962 trees, C2SP key ids).
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> Digest {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    parts.iter().for_each(|part| context.update(part));
    let mut out = [0; DIGEST_BYTES];
    out.copy_from_slice(context.finish().as_ref());
    out
}

/// One value of the handshake's transcript: `H_k(parts…)` = BLAKE2b-512 with the personalisation `AICO-HS1-th` ‖ k
/// (`docs/spec/channel.md`, Transcript).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TranscriptHash([u8; 64]);

impl TranscriptHash {
    /// Hashes the concatenation of `parts` as step `k` (one ASCII character).
    #[must_use]
    pub fn of(k: u8, parts: &[&[u8]]) -> Self {
        let mut personal = *b"AICO-HS1-th\0\0\0\0\0";
        personal[11] = k;
        let mut state = Params::new().hash_length(64).personal(&personal).to_state();
        for part in parts {
            state.update(part);
        }
        let mut out = [0; 64];
        out.copy_from_slice(state.finalize().as_bytes());
        Self(out)
    }

    /// The 64 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }
}
