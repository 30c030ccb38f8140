//! The identifiers of vaults and spaces.

use std::fmt;
use std::str::FromStr;

use aico_crypto::Random;

use crate::Error;

/// Bytes of an identifier.
pub(crate) const ID_BYTES: usize = 16;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal, $wrong:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; ID_BYTES]);

        impl $name {
            /// Makes a random identifier.
            pub fn make(random: &dyn Random) -> Result<Self, Error> {
                let mut bytes = [0; ID_BYTES];
                random.fill(&mut bytes)?;
                Ok(Self(bytes))
            }

            /// The identifier with these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; ID_BYTES]) -> Self {
                Self(bytes)
            }

            /// The 16 bytes.
            #[must_use]
            pub fn as_bytes(&self) -> &[u8; ID_BYTES] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = Error;

            /// Reads the text form; upper-case digits are refused.
            fn from_str(text: &str) -> Result<Self, Error> {
                text.strip_prefix($prefix).and_then(from_hex).map(Self).ok_or(Error::Misuse($wrong))
            }
        }
    };
}

id! {
    /// Names a vault for its whole life: `vault-` and 32 hexadecimal digits (`docs/spec/vault.md`, Header).
    VaultId, "vault-", "not a vault's identifier (want `vault-` and 32 hexadecimal digits)"
}
id! {
    /// Names a space: `space-` and 32 hexadecimal digits (`docs/spec/vault.md`, Header).
    SpaceId, "space-", "not a space's identifier (want `space-` and 32 hexadecimal digits)"
}

impl VaultId {
    /// The first 8 digits: enough for a person to tell vaults apart, not for a program.
    #[must_use]
    pub fn short(&self) -> String {
        self.0.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Exactly `N` bytes, as lower-case hexadecimal digits.
pub(crate) fn from_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    let (pairs, []) = digits.as_bytes().as_chunks::<2>() else { return None };
    if pairs.len() != N {
        return None;
    }
    for (byte, [high, low]) in out.iter_mut().zip(pairs) {
        *byte = (nibble(*high)? << 4) | nibble(*low)?;
    }
    Some(out)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_say_the_same() {
        let id = VaultId::from_bytes(*b"\x00\x01\xfe\xff456789abcdef");
        let text = id.to_string();
        assert_eq!(text, "vault-0001feff343536373839616263646566");
        assert_eq!(text.parse::<VaultId>().unwrap(), id);
        assert_eq!(id.short(), "0001feff");
        assert!(text.parse::<SpaceId>().is_err());
        for bad in ["", "vault-", "vault-00", &text.to_uppercase(), &format!("{text}0"), &format!("{text}00")] {
            assert!(bad.parse::<VaultId>().is_err(), "{bad}");
        }
    }
}
