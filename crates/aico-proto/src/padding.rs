//! Padding policies (`docs/spec/channel.md`, Padding): how much of a record's size its plaintext shows.

use crate::Error;
use crate::limits::MAX_PLAINTEXT_BYTES;

/// Shortest padded plaintext.
const FLOOR_BYTES: usize = 256;
const MARK: u8 = 0x80;

/// How plaintexts are padded before they are sealed. The order is that of the codes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Padding {
    /// Not at all.
    #[default]
    None,
    /// To the lengths of Padmé, at least 256 bytes: at most 12 % more above that.
    Padme,
    /// To powers of two, at least 256 bytes.
    PowerOfTwo,
}

impl Padding {
    pub(crate) fn code(self) -> u16 {
        self as u16
    }

    pub(crate) fn from_code(code: u16) -> Option<Self> {
        [Self::None, Self::Padme, Self::PowerOfTwo].into_iter().find(|policy| policy.code() == code)
    }

    /// Bytes of a padded plaintext of `plaintext` bytes.
    #[must_use]
    pub fn padded(self, plaintext: usize) -> usize {
        let marked = plaintext.saturating_add(1).max(FLOOR_BYTES);
        match self {
            Self::None => plaintext,
            Self::Padme => padme(marked),
            Self::PowerOfTwo => marked.checked_next_power_of_two().unwrap_or(usize::MAX),
        }
    }

    /// The longest plaintext that fits into a padded one of `limit` bytes.
    #[must_use]
    pub fn longest(self, limit: usize) -> usize {
        match self {
            Self::None => limit,
            Self::Padme => (0..=limit).rev().find(|n| self.padded(*n) <= limit).unwrap_or_default(),
            Self::PowerOfTwo => limit.checked_ilog2().map_or(0, |bits| (1usize << bits).saturating_sub(1)),
        }
    }

    /// Appends what makes `plaintext` bytes at the end of `out` a padded plaintext.
    pub(crate) fn pad(self, plaintext: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let padded = self.padded(plaintext);
        if padded > MAX_PLAINTEXT_BYTES {
            return Err(Error::Misuse("a record of more than 16 MiB"));
        }
        if self != Self::None {
            out.push(MARK);
            out.resize(out.len() + padded - plaintext - 1, 0);
        }
        Ok(())
    }

    /// Takes the padding off. One that this policy would not have made is refused.
    pub(crate) fn strip(self, padded: &mut [u8]) -> Result<&mut [u8], Error> {
        if self == Self::None {
            return Ok(padded);
        }
        let length = padded.len();
        let end = padded.iter().rposition(|byte| *byte != 0);
        match end.and_then(|end| Some((end, padded.split_at_mut_checked(end)?))) {
            Some((end, (plaintext, [MARK, ..]))) if self.padded(end) == length => Ok(plaintext),
            _ => Err(Error::Malformed("padding")),
        }
    }
}

/// Padmé (Nikitin et al., "Reducing Metadata Leakage from Encrypted Files and Communication with PURBs", 2019): of the
/// length's binary digits only the first log₂ log₂ many may differ from zero.
fn padme(length: usize) -> usize {
    let exponent = length.max(2).ilog2();
    let kept = exponent.ilog2() + 1;
    let mask = (1usize << (exponent - kept)) - 1;
    length.saturating_add(mask) & !mask
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const POLICIES: [Padding; 3] = [Padding::None, Padding::Padme, Padding::PowerOfTwo];

    #[test]
    fn sizes_are_those_of_the_specification() {
        for (plaintext, padme, power) in [
            (0, 256, 256),
            (255, 256, 256),
            (256, 272, 512),
            (1_000, 1_024, 1_024),
            (1_024, 1_088, 2_048),
            (10_000, 10_240, 16_384),
            (1_000_000, 1_015_808, 1 << 20),
        ] {
            assert_eq!(Padding::Padme.padded(plaintext), padme, "{plaintext}");
            assert_eq!(Padding::PowerOfTwo.padded(plaintext), power, "{plaintext}");
            assert_eq!(Padding::None.padded(plaintext), plaintext);
        }
    }

    #[test]
    fn few_sizes_remain() {
        let sizes = |policy: Padding| {
            let all = std::iter::successors(Some(0), |n| Some(policy.padded(*n)).filter(|n| *n < MAX_PLAINTEXT_BYTES));
            all.skip(1).collect::<BTreeSet<_>>().len() + 1
        };
        assert_eq!(sizes(Padding::PowerOfTwo), 17);
        assert!((200..400).contains(&sizes(Padding::Padme)), "{}", sizes(Padding::Padme));
    }

    #[test]
    fn the_longest_fits_and_one_more_does_not() {
        for policy in POLICIES {
            for limit in [300, 65_536, 1_000_000, MAX_PLAINTEXT_BYTES] {
                let longest = policy.longest(limit);
                assert!(policy.padded(longest) <= limit && policy.padded(longest + 1) > limit, "{policy:?} {limit}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_padded_comes_back(plaintext in prop::collection::vec(any::<u8>(), 0..3000), which in 0..3usize) {
            let policy = POLICIES[which];
            let mut padded = plaintext.clone();
            policy.pad(plaintext.len(), &mut padded).unwrap();
            prop_assert_eq!(padded.len(), policy.padded(plaintext.len()));
            prop_assert_eq!(policy.strip(&mut padded).unwrap(), &plaintext);
        }

        #[test]
        fn other_lengths_and_other_bytes_are_refused(n in 0..3000usize, more in 1..600usize, which in 1..3usize) {
            let policy = POLICIES[which];
            let mut longer = vec![7; n];
            policy.pad(n, &mut longer).unwrap();
            longer.resize(longer.len() + more, 0);
            prop_assert!(policy.strip(&mut longer).is_err());
            prop_assert!(policy.strip(&mut vec![0; n]).is_err());
            prop_assert!(policy.strip(&mut vec![1; n]).is_err());
        }

        #[test]
        fn padme_costs_at_most_twelve_percent(n in 256..MAX_PLAINTEXT_BYTES) {
            let padded = Padding::Padme.padded(n);
            prop_assert!(padded > n && padded as f64 <= (n + 1) as f64 * 1.12);
        }
    }
}
