//! Every domain-separation label of the system. Two uses never share one; a test holds that.

/// A label of the keyed BLAKE2b derivation (`docs/spec/channel.md`, Notation): `len(label) ‖ label ‖ context`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(pub(crate) &'static str);

/// A label in front of everything that is signed; it ends with a zero byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignatureLabel(pub(crate) &'static str);

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        impl Label { $($(#[$doc])* pub(crate) const $name: Label = Label($text);)* }
        const LABELS: &[&str] = &[$($text),*];
    };
}

macro_rules! signature_labels {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        impl SignatureLabel { $($(#[$doc])* pub const $name: SignatureLabel = SignatureLabel($text);)* }
        const SIGNATURE_LABELS: &[&str] = &[$($text),*];
    };
}

labels! {
    // The channel (docs/spec/channel.md).
    MAC1 = "mac1";
    HS_KEY_I = "hs key i";
    HS_KEY_R = "hs key r";
    FIN_KEY_I = "fin i";
    FIN_KEY_R = "fin r";
    FIN = "fin";
    MASTER = "master";
    TRAFFIC = "traffic";
    CID = "cid";
    RATCHET = "ratchet";
    EXPORTER = "exporter";
    KEY_UPDATE = "key update";
    HEDGE = "hedge";
    EPHEMERAL = "eph";
    // The vault (docs/spec/vault.md).
    SLOT_KEY = "slot key";
    SLOT_CHECK = "slot check";
    SLOT_EXCHANGE = "slot exchange";
    SLOT_SEAL = "slot seal";
    SLOT_VOUCH = "slot vouch";
    RECOVERY_SLOT = "recovery slot";
    RECOVERY_CHECK = "recovery check";
    SHARE_CHECK = "share check";
    HEADER = "vault header";
    IDENTITY_SEAL = "identity seal";
    STORE_SQLCIPHER = "store sqlcipher";
    STORE_DUCKDB = "store duckdb";
    STORE_ROCKSDB = "store rocksdb";
    FILE_WRAP = "file wrap";
    GRANT_SIGN = "grant signer";
    DATA_VALUE = "data value";
    DATA_FILE_WRAP = "data file wrap";
    // Sealed files (docs/spec/sealed-file.md).
    SEALED_FILE = "sealed file";
    SEALED_CHECK = "sealed check";
    SEALED_NAME = "sealed name";
    // The audit log (docs/spec/audit-log.md).
    LOG_SEAL = "log seal";
    LOG_SIGN = "log signer";
    PSEUDONYM = "pseudonym";
    // The log of a locked vault (docs/spec/audit-log.md, While locked).
    LOCKED_MAC = "locked mac";
    LOCKED_NEXT = "locked next";
}

signature_labels! {
    /// The responder's signature over th3.
    RESPONDER = "AICO-HS1 responder signature\0";
    /// The initiator's signature over th6.
    INITIATOR = "AICO-HS1 initiator signature\0";
    /// The signature of a grant.
    GRANT = "AICO grant signature 1\0";
}

/// All derivation labels and then all signature labels, for the test that none is used twice and for second
/// implementations.
pub const ALL_LABELS: [&[&str]; 2] = [LABELS, SIGNATURE_LABELS];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_label_is_used_twice_or_is_too_long() {
        let all: Vec<&str> = ALL_LABELS.concat();
        let unique: std::collections::BTreeSet<&str> = all.iter().copied().collect();
        assert_eq!(unique.len(), all.len());
        assert!(all.iter().all(|l| !l.is_empty() && l.len() <= 255));
        assert!(SIGNATURE_LABELS.iter().all(|l| l.ends_with('\0')));
    }
}
