//! A recovery code in shares, any `threshold` of which restore it (`docs/spec/vault.md`, Shares).

use std::convert::Infallible;
use std::fmt;

use rand_core::{TryCryptoRng, TryRng};
use vsss_rs::Gf256;
use zeroize::{Zeroize, Zeroizing};

use crate::kdf::{kdf, same_bytes};
use crate::recovery::CODE_BYTES;
use crate::secret::wipe_stack;
use crate::words::{self, WordFault};
use crate::{Error, Label, Random, RecoveryCode, Secret};

/// Words of a share.
pub const SHARE_WORDS: usize = 21;
/// Most shares of a code.
pub const MAX_SHARES: u8 = 16;
/// What is shared: the code, the 37 bits of its checksum, three zeros.
const SHARED_BYTES: usize = CODE_BYTES + 5;
/// Version, threshold, index, set.
const HEAD_BYTES: usize = 4;
const VERSION: u8 = 1;

/// How a code is split: `count` shares, any `threshold` of which restore it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    threshold: u8,
    count: u8,
}

impl Split {
    /// 2 ≤ threshold ≤ count ≤ 16.
    #[must_use]
    pub fn new(threshold: u8, count: u8) -> Option<Self> {
        (2 <= threshold && threshold <= count && count <= MAX_SHARES).then_some(Self { threshold, count })
    }

    /// How many shares restore the code.
    #[must_use]
    pub fn threshold(self) -> u8 {
        self.threshold
    }

    /// How many shares there are.
    #[must_use]
    pub fn count(self) -> u8 {
        self.count
    }
}

/// One share: what it says of itself, and its 21 bytes.
#[derive(Debug)]
pub struct Share(Secret<{ HEAD_BYTES + SHARED_BYTES }>);

/// Why a share is not taken, for the person who typed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShareFault {
    /// Its words are not those of a share.
    Words(WordFault),
    /// A newer version made it.
    Newer,
    /// It belongs to another set than those before it.
    OtherSet,
    /// This one, by its number, is there already.
    Again(u8),
    /// There are not enough of them yet.
    TooFew,
    /// Together they are no recovery code.
    Unfit,
}

impl std::error::Error for ShareFault {}

impl fmt::Display for ShareFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Words(fault) => fault.fmt(f),
            Self::Newer => f.write_str("a newer version of the program made this share"),
            Self::OtherSet => f.write_str("this share is of another set: they were not made together"),
            Self::Again(index) => write!(f, "share {index} was given already"),
            Self::TooFew => f.write_str("there are not enough shares yet"),
            Self::Unfit => f.write_str("these shares make no recovery code: one of them is not what was made"),
        }
    }
}

impl Share {
    /// Reads a share as a person types it, like a recovery code.
    pub fn parse(text: &str) -> Result<Self, ShareFault> {
        let share = words::parse::<_, SHARE_WORDS>(text, Label::SHARE_CHECK).map(Self).map_err(ShareFault::Words)?;
        let [first, ..] = share.0.bytes();
        if first >> 4 != VERSION || share.threshold() < 2 { Err(ShareFault::Newer) } else { Ok(share) }
    }

    /// Hands the 21 words to `show`.
    pub fn hazmat_share_words<T>(&self, show: impl FnOnce(&[&'static str; SHARE_WORDS]) -> T) -> T {
        words::show(&self.0, Label::SHARE_CHECK, show)
    }

    /// How many shares restore the code.
    #[must_use]
    pub fn threshold(&self) -> u8 {
        let [first, ..] = self.0.bytes();
        (first & 15) + 1
    }

    /// Its number, from 1.
    #[must_use]
    pub fn index(&self) -> u8 {
        let [_, second, ..] = self.0.bytes();
        (second >> 4) + 1
    }

    /// The set's number: 20 random bits, the same in all shares that were made together.
    #[must_use]
    pub fn set(&self) -> u32 {
        let [_, a, b, c, ..] = *self.0.bytes();
        u32::from_be_bytes([0, a & 15, b, c])
    }
}

impl RecoveryCode {
    /// Splits the code over GF(2⁸), with coefficients and a set's number from `random`.
    pub fn split(&self, split: Split, random: &dyn Random) -> Result<Vec<Share>, Error> {
        let mut set = [0; 3];
        random.fill(&mut set)?;
        let [a, b, c] = set;
        let mut draws = Draws { random, failed: None };
        let (threshold, count) = (usize::from(split.threshold), usize::from(split.count));
        let made = Gf256::split_bytes(threshold, count, self.shared().bytes(), &mut draws);
        wipe_stack();
        let made = Zeroizing::new(made.map_err(|_| Error::Failed)?);
        if let Some(error) = draws.failed {
            return Err(error);
        }
        let shares = (0..).zip(made.iter()).map(|(index, made)| {
            let mut share = Secret::zero();
            let (head, rest) = share.bytes_mut().split_at_mut(HEAD_BYTES);
            head.copy_from_slice(&[VERSION << 4 | (split.threshold - 1), index << 4 | a & 15, b, c]);
            // The library puts the share's number in front.
            match made.as_slice() {
                [number, bytes @ ..] if *number == index + 1 && bytes.len() == rest.len() => {
                    rest.copy_from_slice(bytes)
                }
                _ => return Err(Error::Failed),
            }
            Ok(Share(share))
        });
        shares.collect()
    }

    fn shared(&self) -> Secret<SHARED_BYTES> {
        let mut shared = Secret::zero();
        let (code, check) = shared.bytes_mut().split_at_mut(CODE_BYTES);
        code.copy_from_slice(self.0.bytes());
        check.copy_from_slice(kdf::<5>(self.0.bytes(), Label::RECOVERY_CHECK, &[]).bytes());
        check.iter_mut().skip(4).for_each(|last| *last &= 0xf8);
        shared
    }
}

/// Shares of one code, one after the other.
#[derive(Debug, Default)]
pub struct Gathering(Vec<Share>);

impl Gathering {
    /// Takes one more; how many are there, and how many it takes.
    pub fn add(&mut self, share: Share) -> Result<(usize, usize), ShareFault> {
        if self.0.iter().any(|there| (there.set(), there.threshold()) != (share.set(), share.threshold())) {
            return Err(ShareFault::OtherSet);
        }
        if self.0.iter().any(|there| there.index() == share.index()) {
            return Err(ShareFault::Again(share.index()));
        }
        let wanted = usize::from(share.threshold());
        self.0.push(share);
        Ok((self.0.len(), wanted))
    }

    /// The code, whose own checksum says that the shares fit together.
    pub fn restore(&self) -> Result<RecoveryCode, ShareFault> {
        let wanted = self.0.first().map_or(2, |share| usize::from(share.threshold()));
        if self.0.len() < wanted {
            return Err(ShareFault::TooFew);
        }
        let points = self.0.iter().map(|share| {
            let mut point = Vec::with_capacity(1 + SHARED_BYTES);
            point.push(share.index());
            point.extend_from_slice(share.0.bytes().split_at(HEAD_BYTES).1);
            point
        });
        let points: Zeroizing<Vec<Vec<u8>>> = Zeroizing::new(points.collect());
        let shared = Gf256::combine_bytes(points.as_slice()).map(Zeroizing::new).map_err(|_| ShareFault::Unfit)?;
        wipe_stack();
        let code = shared.first_chunk::<CODE_BYTES>().ok_or(ShareFault::Unfit)?;
        let code = RecoveryCode(Secret::copy_of(code));
        if same_bytes(code.shared().bytes(), &shared) { Ok(code) } else { Err(ShareFault::Unfit) }
    }
}

/// Our randomness in the library's form, which cannot say that there is none: `failed` does.
struct Draws<'a> {
    random: &'a dyn Random,
    failed: Option<Error>,
}

impl TryRng for Draws<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = Zeroizing::new([0; 4]);
        self.try_fill_bytes(&mut *bytes)?;
        Ok(u32::from_le_bytes(*bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = Zeroizing::new([0; 8]);
        self.try_fill_bytes(&mut *bytes)?;
        Ok(u64::from_le_bytes(*bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        if let Err(error) = self.random.fill(out) {
            out.zeroize();
            self.failed = Some(error);
        }
        Ok(())
    }
}

impl TryCryptoRng for Draws<'_> {}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::OsRandom;

    fn made(threshold: u8, count: u8) -> (RecoveryCode, Vec<Share>) {
        let code = RecoveryCode::make(&OsRandom).unwrap();
        let shares = code.split(Split::new(threshold, count).unwrap(), &OsRandom).unwrap();
        (code, shares)
    }

    fn words(share: &Share) -> Vec<String> {
        share.hazmat_share_words(|words| words.iter().map(|word| (*word).to_owned()).collect())
    }

    /// The shares as they are read off paper, in this order.
    fn restore(shares: &[&Share]) -> Result<RecoveryCode, ShareFault> {
        let mut gathering = Gathering::default();
        for share in shares {
            gathering.add(Share::parse(&words(share).join(" "))?)?;
        }
        gathering.restore()
    }

    #[test]
    fn a_split_has_limits() {
        for (threshold, count) in [(0, 0), (0, 2), (1, 1), (1, 3), (3, 2), (2, 17), (17, 17), (255, 255)] {
            assert!(Split::new(threshold, count).is_none(), "{threshold} of {count}");
        }
        assert!(Split::new(2, 2).is_some() && Split::new(16, 16).is_some());
    }

    #[test]
    fn any_threshold_of_them_restore_the_code_and_fewer_do_not() {
        for (threshold, count) in [(2, 2), (2, 3), (3, 5), (5, 5), (2, 16), (16, 16)] {
            let (code, shares) = made(threshold, count);
            assert_eq!(shares.len(), usize::from(count));
            let sets = 0u32..1 << count;
            // Every set of exactly as many, and of one fewer.
            for set in sets.filter(|set| (u32::from(threshold) - 1..=u32::from(threshold)).contains(&set.count_ones()))
            {
                let chosen: Vec<&Share> =
                    (0..).zip(&shares).filter(|(at, _)| set >> at & 1 == 1).map(|(_, share)| share).collect();
                match restore(&chosen) {
                    Ok(restored) => assert!(set.count_ones() == u32::from(threshold) && restored.0.same_as(&code.0)),
                    Err(fault) => assert_eq!((fault, set.count_ones()), (ShareFault::TooFew, u32::from(threshold) - 1)),
                }
            }
        }
    }

    #[test]
    fn the_order_does_not_matter_and_more_than_enough_is_enough() {
        let (code, shares) = made(3, 5);
        let backwards: Vec<&Share> = shares.iter().rev().collect();
        assert!(restore(&backwards).unwrap().0.same_as(&code.0));
    }

    #[test]
    fn a_share_says_what_it_is() {
        let (_, shares) = made(3, 5);
        for (index, share) in (1..).zip(&shares) {
            assert_eq!((share.index(), share.threshold(), share.set()), (index, 3, shares[0].set()));
        }
        let others: BTreeSet<u32> = (0..50).map(|_| made(2, 2).1[0].set()).collect();
        assert!(others.len() > 45 && others.iter().all(|set| *set < 1 << 20));
    }

    #[test]
    fn shares_of_two_sets_and_one_share_twice_are_told() {
        let (code, ours) = made(2, 3);
        let again = code.split(Split::new(2, 3).unwrap(), &OsRandom).unwrap();
        assert_eq!(restore(&[&ours[0], &again[1]]).unwrap_err(), ShareFault::OtherSet);
        assert_eq!(restore(&[&ours[2], &ours[2]]).unwrap_err(), ShareFault::Again(3));
        assert_eq!(restore(&[]).unwrap_err(), ShareFault::TooFew);
    }

    /// A share with good words that was never made: the code's own checksum does not hold.
    #[test]
    fn a_made_up_share_makes_no_code() {
        let (_, mut shares) = made(3, 3);
        for at in HEAD_BYTES..HEAD_BYTES + SHARED_BYTES {
            shares[1].0.bytes_mut()[at] ^= 4;
            assert_eq!(restore(&shares.iter().collect::<Vec<_>>()).unwrap_err(), ShareFault::Unfit, "{at}");
            shares[1].0.bytes_mut()[at] ^= 4;
        }
        shares[1].0.bytes_mut()[0] = VERSION << 4 | 1;
        assert_eq!(restore(&shares.iter().collect::<Vec<_>>()).unwrap_err(), ShareFault::OtherSet, "another threshold");
        for first in [2 << 4 | 2, 2, VERSION << 4] {
            shares[1].0.bytes_mut()[0] = first;
            assert_eq!(restore(&[&shares[1]]).unwrap_err(), ShareFault::Newer, "{first}");
        }
    }

    #[test]
    fn a_wrong_word_is_pointed_at() {
        // Not a random one: with one in fifty thousand another word would fit, too.
        let code = RecoveryCode(Secret::copy_of(&[7; CODE_BYTES]));
        let shares = code.split(Split::new(2, 2).unwrap(), &Told(Cell::new(0), |draw| draw as u8)).unwrap();
        let written = words(&shares[1]);
        let fault = |words: &[String]| match Share::parse(&words.join(" ")) {
            Err(ShareFault::Words(fault)) => Some(fault),
            _ => None,
        };
        for at in 0..SHARE_WORDS {
            let mut changed = written.clone();
            changed[at] = if written[at] == "zoo" { "abandon" } else { "zoo" }.to_owned();
            assert_eq!(fault(&changed), Some(WordFault::Wrong(at + 1)));
        }
        let at = (0..SHARE_WORDS - 1).find(|at| written[*at] != written[at + 1]).unwrap();
        let mut swapped = written.clone();
        swapped.swap(at, at + 1);
        assert_eq!(fault(&swapped), Some(WordFault::Swapped(at + 1)));
        assert_eq!(fault(&written[..15]), Some(WordFault::Count(15)));
        let code = RecoveryCode::make(&OsRandom).unwrap().hazmat_words(|words| words.join(" "));
        assert!(matches!(Share::parse(&code), Err(ShareFault::Words(WordFault::Count(15)))));
        assert!(matches!(RecoveryCode::parse(&written.join(" ")), Err(WordFault::Count(SHARE_WORDS))));
    }

    /// Coefficients that are told what to be: byte `n` of the code gets `next(n)`, which counts draws.
    struct Told<F: Fn(usize) -> u8>(Cell<usize>, F);

    impl<F: Fn(usize) -> u8> Random for Told<F> {
        fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
            out.fill(0);
            // The first draw is the set's number.
            if let (Some(first), Some(draw)) = (out.first_mut(), self.0.get().checked_sub(1)) {
                *first = (self.1)(draw);
            }
            self.0.set(self.0.get() + 1);
            Ok(())
        }
    }

    /// Fewer shares than the threshold: whatever the code is, every value of theirs comes from exactly one choice of
    /// coefficients. As the coefficients are uniform, those shares are too, and say nothing.
    #[test]
    fn fewer_shares_than_the_threshold_say_nothing() {
        for byte in [0u8, 1, 0x53, 0xff] {
            let code = RecoveryCode(Secret::copy_of(&[byte; CODE_BYTES]));
            // 2 of 3: each share by itself takes all 256 values once.
            let mut seen = vec![BTreeSet::new(); 3];
            for a in 0..=255 {
                let shares = code.split(Split::new(2, 3).unwrap(), &Told(Cell::new(0), |_| a)).unwrap();
                (0..3).for_each(|at| assert!(seen[at].insert(shares[at].0.bytes()[HEAD_BYTES])));
            }
            // 3 of 4: each two of them take all 65,536 pairs once. All bytes of the code are alike, and each gets
            // coefficients of its own, so that one splitting tries sixteen.
            let mut seen = vec![vec![false; 1 << 16]; 6];
            for from in (0..1 << 16).step_by(CODE_BYTES) {
                let told = |draw: usize| {
                    let pair = (from + draw / 2) % (1 << 16);
                    (pair >> (8 * (draw % 2))) as u8
                };
                let shares = code.split(Split::new(3, 4).unwrap(), &Told(Cell::new(0), told)).unwrap();
                for at in HEAD_BYTES..HEAD_BYTES + CODE_BYTES {
                    let value = |share: usize| usize::from(shares[share].0.bytes()[at]);
                    for (n, (one, two)) in [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)].into_iter().enumerate() {
                        let pair = value(one) << 8 | value(two);
                        assert!(!std::mem::replace(&mut seen[n][pair], true), "{one} {two}");
                    }
                }
            }
            assert!(seen.iter().flatten().all(|seen| *seen));
        }
    }

    /// Coefficients must be even and odd, zero and not: a library that leaves some out leaks.
    #[test]
    fn coefficients_are_uniform() {
        let code = RecoveryCode(Secret::zero());
        let mut seen = [0u32; 256];
        for _ in 0..4_000 {
            let shares = code.split(Split::new(2, 2).unwrap(), &OsRandom).unwrap();
            // Of a zero byte the first share is the coefficient.
            let (_, bytes) = shares[0].0.bytes().split_at(HEAD_BYTES);
            bytes[..CODE_BYTES].iter().for_each(|value| seen[usize::from(*value)] += 1);
        }
        // 64,000 draws, 250 of each: 8 standard deviations.
        assert!(seen.iter().all(|count| (125..375).contains(count)), "{seen:?}");
    }

    struct Broken(Cell<u32>);

    impl Random for Broken {
        fn fill(&self, out: &mut [u8]) -> Result<(), Error> {
            out.fill(7);
            self.0.set(self.0.get().wrapping_sub(1));
            if self.0.get() == 0 { Err(Error::Random) } else { Ok(()) }
        }
    }

    #[test]
    fn without_randomness_there_are_no_shares() {
        for draws in 1..=1 + 2 * SHARED_BYTES as u32 {
            let code = RecoveryCode(Secret::zero());
            let split = code.split(Split::new(3, 4).unwrap(), &Broken(Cell::new(draws)));
            assert_eq!(split.map(drop), Err(Error::Random), "{draws}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_is_typed_makes_it_panic(text in "\\PC{0,300}") {
            let _ = Share::parse(&text);
        }
    }
}
