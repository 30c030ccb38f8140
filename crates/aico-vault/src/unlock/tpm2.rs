//! A secret that this machine's TPM sealed: its slot holds all that there is outside the TPM.

use aico_crypto::SlotSecret;
use aico_ffi_tpm::{Fault, Tpm};

use super::{Rung, SlotId, SlotKind, Why};
use crate::header::VaultId;

/// A secret sealed to the TPM 2.0 and the Secure Boot state (`docs/spec/vault.md`, TPM 2.0).
#[derive(Debug)]
pub struct Tpm2 {
    tpm: Tpm,
}

impl Tpm2 {
    /// Seals to this TPM.
    #[must_use]
    pub fn new(tpm: Tpm) -> Self {
        Self { tpm }
    }
}

impl Rung for Tpm2 {
    fn kind(&self) -> SlotKind {
        SlotKind::Tpm2
    }

    fn store(&self, _vault: &VaultId, _slot: SlotId, secret: &SlotSecret) -> Result<Vec<u8>, Why> {
        secret.hazmat_to_platform(|text| self.tpm.seal(text.as_bytes())).map_err(why)
    }

    fn load(&self, _vault: &VaultId, _slot: SlotId, parameters: &[u8]) -> Result<SlotSecret, Why> {
        let bytes = self.tpm.unseal(parameters).map_err(why)?;
        let text = std::str::from_utf8(&bytes).ok();
        let secret = text.and_then(|text| SlotSecret::hazmat_from_platform(text).ok());
        secret.ok_or_else(|| why(Fault::Malformed))
    }

    fn available(&self) -> Result<(), Why> {
        self.tpm.connect().map_err(why)
    }

    fn remove(&self, _vault: &VaultId, _slot: SlotId) -> Result<(), Why> {
        // It went with the slot; the TPM keeps nothing.
        Ok(())
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn why(fault: Fault) -> Why {
    if fault.is_absence() { Why::absence(fault.to_string()) } else { Why::new(fault.to_string()) }
}
