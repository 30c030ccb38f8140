//! What is kept outside the TPM: `1 ‖ name of the storage key(34) ‖ len(2) ‖ public ‖ len(2) ‖ private`.

const FORMAT: u8 = 1;
/// A name is the hash's number and the hash: SHA-256.
const NAME_BYTES: usize = 34;
const MAX_PUBLIC_BYTES: usize = 128;
const MAX_PRIVATE_BYTES: usize = 512;

/// A sealed object's parts, and the name of the key that wraps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sealed {
    pub(crate) storage_key: Vec<u8>,
    pub(crate) public: Vec<u8>,
    pub(crate) private: Vec<u8>,
}

impl Sealed {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        out.extend_from_slice(&self.storage_key);
        for part in [&self.public, &self.private] {
            // No TPM's part has 64 KiB: its own length has two bytes.
            out.extend_from_slice(&u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }

    /// Exactly what [`Sealed::to_bytes`] gives, within the limits.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let rest = bytes.strip_prefix(&[FORMAT])?;
        let (storage_key, rest) = rest.split_at_checked(NAME_BYTES)?;
        let (public, rest) = part(rest, MAX_PUBLIC_BYTES)?;
        let (private, rest) = part(rest, MAX_PRIVATE_BYTES)?;
        let [storage_key, public, private] = [storage_key, public, private].map(<[u8]>::to_vec);
        rest.is_empty().then_some(Self { storage_key, public, private })
    }
}

fn part(bytes: &[u8], most: usize) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<2>()?;
    let length = usize::from(u16::from_be_bytes(*length));
    (1..=most).contains(&length).then(|| rest.split_at_checked(length))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_exactly_and_nothing_else_is() {
        let sealed = Sealed { storage_key: vec![7; NAME_BYTES], public: vec![1; 78], private: vec![2; 200] };
        let bytes = sealed.to_bytes();
        assert_eq!(Sealed::parse(&bytes), Some(sealed.clone()));
        for length in 0..bytes.len() {
            assert_eq!(Sealed::parse(bytes.get(..length).unwrap_or_default()), None, "cut at {length}");
        }
        assert_eq!(Sealed::parse(&[bytes.as_slice(), &[0]].concat()), None, "something behind it");
        for (public, private) in [(0, 9), (9, 0), (MAX_PUBLIC_BYTES + 1, 9), (9, MAX_PRIVATE_BYTES + 1)] {
            let (public, private) = (vec![1; public], vec![2; private]);
            assert_eq!(Sealed::parse(&Sealed { public, private, ..sealed.clone() }.to_bytes()), None);
        }
    }
}
