//! Argon2id (RFC 9106), where a secret that a person remembers enters (`docs/spec/vault.md`, Passwords).

use argon2::{Algorithm, Argon2, Block, Params, Version};
use unicode_normalization::UnicodeNormalization;
use zeroize::{Zeroize, Zeroizing};

use crate::secret::wipe_stack;
use crate::{Error, SealedFileKey, Secret, SlotSecret};

/// Bytes of a salt.
pub const SALT_BYTES: usize = 16;
/// Longest password in bytes.
pub const MAX_PASSWORD_BYTES: usize = 1024;
/// Bytes of an encoded [`StretchCost`].
pub const STRETCH_COST_BYTES: usize = 12;

/// What stretching costs, whoever does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StretchCost {
    memory_mib: u32,
    passes: u32,
    lanes: u32,
}

impl StretchCost {
    /// The *master* set: 1 GiB, 3 passes, 4 lanes.
    pub const MASTER: Self = Self { memory_mib: 1024, passes: 3, lanes: 4 };
    /// The *file* set, for a file that is sealed under a passphrase: 128 MiB, 1 pass, 2 lanes.
    pub const FILE: Self = Self { memory_mib: 128, passes: 1, lanes: 2 };
    /// Least memory in MiB: less is not accepted from anywhere.
    pub const FLOOR_MIB: u32 = 64;
    /// Most memory in MiB that a stored set may ask for.
    const CEILING_MIB: u32 = 4096;
    const MAX_PASSES: u32 = 16;
    const MAX_LANES: u32 = 16;

    /// The *master* set with other memory, within the limits.
    #[must_use]
    pub fn master_with(memory_mib: u32) -> Self {
        Self { memory_mib: memory_mib.clamp(Self::FLOOR_MIB, Self::CEILING_MIB), ..Self::MASTER }
    }

    /// Whether a file from anybody may ask for it: at most 1 GiB, 4 passes and 8 lanes.
    #[must_use]
    pub fn is_bearable(self) -> bool {
        self.memory_mib <= 1024 && self.passes <= 4 && self.lanes <= 8
    }

    /// The memory in MiB.
    #[must_use]
    pub fn memory_mib(self) -> u32 {
        self.memory_mib
    }

    /// Memory in MiB, passes and lanes, each as u32.
    #[must_use]
    pub fn encode(self) -> [u8; STRETCH_COST_BYTES] {
        let mut out = [0; STRETCH_COST_BYTES];
        let fields = [self.memory_mib, self.passes, self.lanes].map(u32::to_be_bytes);
        out.iter_mut().zip(fields.as_flattened()).for_each(|(to, from)| *to = *from);
        out
    }

    /// Reads what [`StretchCost::encode`] wrote; too cheap and too dear ones are refused.
    pub fn decode(bytes: &[u8; STRETCH_COST_BYTES]) -> Result<Self, Error> {
        let (fields, _) = bytes.as_chunks::<4>();
        let [memory_mib, passes, lanes] = fields else { return Err(WHAT) };
        let [memory_mib, passes, lanes] = [memory_mib, passes, lanes].map(|field| u32::from_be_bytes(*field));
        let good = (Self::FLOOR_MIB..=Self::CEILING_MIB).contains(&memory_mib)
            && (1..=Self::MAX_PASSES).contains(&passes)
            && (1..=Self::MAX_LANES).contains(&lanes);
        if good { Ok(Self { memory_mib, passes, lanes }) } else { Err(WHAT) }
    }
}

const WHAT: Error = Error::Text("cost of stretching (64 MiB to 4 GiB, 1 to 16 passes and lanes)");

/// A password as it was typed, in Unicode's normal form C; wiped when dropped.
pub struct Password(Zeroizing<String>);

impl std::fmt::Debug for Password {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Password(..)")
    }
}

impl Password {
    /// Takes a password: 1 to 1,024 bytes, no control characters.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.is_empty() || text.len() > MAX_PASSWORD_BYTES || text.chars().any(char::is_control) {
            return Err(Error::Text("password (1 to 1,024 bytes without control characters)"));
        }
        let mut normal = Zeroizing::new(String::with_capacity(4 * text.len()));
        normal.extend(text.nfc());
        Ok(Self(normal))
    }

    /// How many characters it has.
    #[must_use]
    pub fn length(&self) -> usize {
        self.0.chars().count()
    }

    /// Stretches it to a slot's secret. Takes `cost.memory_mib()` MiB, which are wiped, and seconds: keep it off threads
    /// that others wait for, and one at a time. Fails with [`Error::Memory`] where the memory is not to be had.
    pub fn stretch(&self, salt: &[u8; SALT_BYTES], cost: StretchCost) -> Result<SlotSecret, Error> {
        self.stretched(salt, cost).map(SlotSecret)
    }

    /// Stretches it to the key of a sealed file, as [`Password::stretch`] does for a slot.
    pub fn stretch_for_file(&self, salt: &[u8; SALT_BYTES], cost: StretchCost) -> Result<SealedFileKey, Error> {
        self.stretched(salt, cost).map(|secret| SealedFileKey::of(&secret))
    }

    fn stretched(&self, salt: &[u8; SALT_BYTES], cost: StretchCost) -> Result<Secret<32>, Error> {
        stretch(self.0.as_bytes(), salt, cost)
    }
}

pub(crate) fn stretch(password: &[u8], salt: &[u8; SALT_BYTES], cost: StretchCost) -> Result<Secret<32>, Error> {
    let memory_kib = cost.memory_mib.checked_mul(1024).ok_or(Error::Memory)?;
    let params = Params::new(memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| WHAT)?;
    let mut arena = Arena::of(params.block_count())?;
    let mut secret = Secret::<32>::zero();
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let done = argon2.hash_password_into_with_memory(password, salt, secret.bytes_mut(), &mut arena.0);
    wipe_stack();
    done.map_err(|_| Error::Failed)?;
    Ok(secret)
}

/// Argon2's working memory: the library does not wipe its own.
struct Arena(Vec<Block>);

impl Arena {
    fn of(blocks: usize) -> Result<Self, Error> {
        let mut memory = Vec::new();
        memory.try_reserve_exact(blocks).map_err(|_| Error::Memory)?;
        aico_ffi_memory::leave_out_of_dumps(memory.spare_capacity_mut());
        memory.resize(blocks, Block::default());
        Ok(Self(memory))
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(Zeroize::zeroize);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_outside_the_limits_are_refused() {
        assert_eq!(StretchCost::decode(&StretchCost::MASTER.encode()).unwrap(), StretchCost::MASTER);
        for bad in [[63, 3, 4], [4097, 3, 4], [64, 0, 4], [64, 17, 4], [64, 3, 0], [u32::MAX, 3, 4], [64, 3, 17]] {
            let bytes = bad.map(u32::to_be_bytes);
            assert!(StretchCost::decode(bytes.as_flattened().try_into().unwrap()).is_err(), "{bad:?}");
        }
        assert_eq!(StretchCost::master_with(1).memory_mib(), 64);
    }

    #[test]
    fn a_password_is_the_same_however_it_was_typed() {
        let stretch = |text: &str| {
            Password::parse(text).unwrap().stretch(&[7; SALT_BYTES], StretchCost::master_with(64)).unwrap()
        };
        assert!(stretch("caf\u{e9}").0.same_as(&stretch("cafe\u{301}").0));
        assert!(!stretch("cafe").0.same_as(&stretch("caf\u{e9}").0));
        for bad in ["", "a\nb", &"x".repeat(1025)] {
            assert!(Password::parse(bad).is_err());
        }
    }

    /// RFC 9106, section 5.3, has the only vector with four lanes; the parameters of the library are those.
    #[test]
    fn the_library_gives_the_vector_of_the_rfc() {
        let params = argon2::ParamsBuilder::new()
            .m_cost(32)
            .t_cost(3)
            .p_cost(4)
            .data(argon2::AssociatedData::new(&[4; 12]).unwrap())
            .build()
            .unwrap();
        let argon2 = Argon2::new_with_secret(&[3; 8], Algorithm::Argon2id, Version::V0x13, params.clone()).unwrap();
        let (mut out, mut arena) = ([0; 32], Arena::of(params.block_count()).unwrap());
        argon2.hash_password_into_with_memory(&[1; 32], &[2; 16], &mut out, &mut arena.0).unwrap();
        let expected = "0d640df58d78766c08c037a34a8b53c9d01ef0452d75b65eb52520e96b01e659";
        assert_eq!(out.iter().map(|byte| format!("{byte:02x}")).collect::<String>(), expected);
    }
}
