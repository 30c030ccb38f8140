//! The recovery code: 15 words that open a vault without anything else (`docs/spec/vault.md`, Recovery code).

use std::fmt;

use bip39::Language;
use zeroize::Zeroizing;

use crate::kdf::kdf;
use crate::{Error, Label, Random, Secret, SlotSecret};

/// Words of a recovery code.
pub const RECOVERY_WORDS: usize = 15;
/// Bytes of randomness in it.
const CODE_BYTES: usize = 16;
const WORD_BITS: usize = 11;
/// Longest text that is read.
const MAX_TEXT_BYTES: usize = 1024;

/// 128 random bits. With 37 bits of checksum they make 15 words of the English list of BIP 39 (a list, not a wallet).
#[derive(Debug)]
pub struct RecoveryCode(Secret<CODE_BYTES>);

/// Why a text is not a recovery code, for the person who typed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordFault {
    /// There are this many words instead of 15.
    Count(usize),
    /// The word at this place (from 1) is not in the list; this one is the nearest.
    Unknown(usize, &'static str),
    /// The word at this place (from 1) is in the list and does not fit the others.
    Wrong(usize),
    /// The words at this place and the next (from 1) stand in each other's place.
    Swapped(usize),
    /// More than one word is wrong.
    Several,
}

impl fmt::Display for WordFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "a recovery code has {RECOVERY_WORDS} words, these are {count}"),
            Self::Unknown(place, nearest) => {
                write!(f, "word {place} is not one of the list; did you mean `{nearest}`?")
            }
            Self::Wrong(place) => write!(f, "word {place} does not fit the others"),
            Self::Swapped(place) => write!(f, "words {place} and {} are in each other's place", place + 1),
            Self::Several => f.write_str("more than one word is wrong, or this is another code"),
        }
    }
}

impl RecoveryCode {
    /// Makes a random code.
    pub fn make(random: &dyn Random) -> Result<Self, Error> {
        Secret::make(random).map(Self)
    }

    /// Hands the 15 words to `show`.
    pub fn hazmat_words<T>(&self, show: impl FnOnce(&[&'static str; RECOVERY_WORDS]) -> T) -> T {
        let list = Language::English.word_list();
        let indices = self.indices();
        let mut words = [""; RECOVERY_WORDS];
        for (word, index) in words.iter_mut().zip(indices.iter()) {
            *word = list.get(usize::from(*index)).copied().unwrap_or_default();
        }
        let shown = show(&words);
        // Where the words stood in the list is the code, too.
        words.fill("");
        std::hint::black_box(&words);
        shown
    }

    /// Reads a code as a person types it: any case, any separators, numbers between the words, or only the first four
    /// letters of each.
    pub fn parse(text: &str) -> Result<Self, WordFault> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(WordFault::Count(text.split_whitespace().count()));
        }
        let lower = Zeroizing::new(text.to_lowercase());
        let words: Vec<&str> = lower.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
        let mut indices = Zeroizing::new([0; RECOVERY_WORDS]);
        if words.len() != RECOVERY_WORDS {
            return Err(WordFault::Count(words.len()));
        }
        for ((place, word), index) in (1..).zip(&words).zip(indices.iter_mut()) {
            *index = find(word).ok_or_else(|| WordFault::Unknown(place, nearest(word)))?;
        }
        Self::from_indices(&indices).ok_or_else(|| fault_in(&indices))
    }

    /// The slot's secret. The code is random, so there is nothing to stretch.
    #[must_use]
    pub fn slot_secret(&self) -> SlotSecret {
        SlotSecret(kdf(self.0.bytes(), Label::RECOVERY_SLOT, &[]))
    }

    /// 128 bits of code, then 37 bits of checksum, in elevens.
    fn indices(&self) -> Zeroizing<[u16; RECOVERY_WORDS]> {
        let check = kdf::<5>(self.0.bytes(), Label::RECOVERY_CHECK, &[]);
        let bits = |n: usize| {
            let byte = self.0.bytes().iter().chain(check.bytes()).nth(n / 8).copied().unwrap_or_default();
            u16::from(byte >> (7 - n % 8) & 1)
        };
        let mut out = Zeroizing::new([0; RECOVERY_WORDS]);
        for (at, index) in out.iter_mut().enumerate() {
            *index = (0..WORD_BITS).fold(0, |word, bit| word << 1 | bits(at * WORD_BITS + bit));
        }
        out
    }

    fn from_indices(indices: &[u16; RECOVERY_WORDS]) -> Option<Self> {
        let mut code = Secret::<CODE_BYTES>::zero();
        for (n, byte) in code.bytes_mut().iter_mut().enumerate() {
            *byte = (n * 8..n * 8 + 8).fold(0, |byte, bit| {
                let word = indices.get(bit / WORD_BITS).copied().unwrap_or_default();
                byte << 1 | (word >> (WORD_BITS - 1 - bit % WORD_BITS) & 1) as u8
            });
        }
        let code = Self(code);
        (*code.indices() == *indices).then_some(code)
    }
}

/// The one change of a word, or swap of two neighbours, that makes the code whole.
fn fault_in(indices: &[u16; RECOVERY_WORDS]) -> WordFault {
    let mut tried = Zeroizing::new(*indices);
    for at in 0..RECOVERY_WORDS - 1 {
        tried.swap(at, at + 1);
        if RecoveryCode::from_indices(&tried).is_some() {
            return WordFault::Swapped(at + 1);
        }
        tried.swap(at, at + 1);
    }
    for (place, original) in (1..).zip(indices) {
        for word in 0..1 << WORD_BITS {
            tried.iter_mut().skip(place - 1).take(1).for_each(|slot| *slot = word);
            if RecoveryCode::from_indices(&tried).is_some() {
                return WordFault::Wrong(place);
            }
        }
        tried.iter_mut().skip(place - 1).take(1).for_each(|slot| *slot = *original);
    }
    WordFault::Several
}

/// The word's number; its first four letters are enough.
fn find(word: &str) -> Option<u16> {
    let exact = Language::English.find_word(word);
    exact.or_else(|| match Language::English.words_by_prefix(word) {
        [only] if word.len() >= 4 => Language::English.find_word(only),
        _ => None,
    })
}

/// The word of the list with the fewest letters to change.
fn nearest(word: &str) -> &'static str {
    Language::English.word_list().iter().copied().min_by_key(|candidate| distance(word, candidate)).unwrap_or_default()
}

/// Levenshtein's distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (to, above) in b.iter().zip(row.iter_mut().skip(1)) {
            let cost = (diagonal + usize::from(from != *to)).min(left + 1).min(*above + 1);
            (diagonal, left) = (*above, cost);
            *above = cost;
        }
        row.iter_mut().take(1).for_each(|first| *first = i + 1);
    }
    row.last().copied().unwrap_or(a.chars().count())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::OsRandom;

    fn words(code: &RecoveryCode) -> Vec<String> {
        code.hazmat_words(|words| words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn parse(words: &[String]) -> Result<RecoveryCode, WordFault> {
        RecoveryCode::parse(&words.join(" "))
    }

    #[test]
    fn a_code_survives_however_it_is_written() {
        for _ in 0..50 {
            let code = RecoveryCode::make(&OsRandom).unwrap();
            let written = words(&code);
            let numbered: Vec<String> =
                (1..).zip(&written).map(|(n, w)| format!("{n}. {}", w.to_uppercase())).collect();
            let short: Vec<String> = written.iter().map(|w| w.chars().take(4).collect()).collect();
            for text in [written.join(" "), written.join("-"), numbered.join("\n"), short.join(",  ")] {
                assert!(RecoveryCode::parse(&text).unwrap().0.same_as(&code.0), "{text}");
            }
        }
    }

    #[test]
    fn four_letters_are_enough_and_three_are_not() {
        let alone = |word: &str| word.len() > 3 && Language::English.words_by_prefix(&word[..3]).len() == 1;
        let (mut written, at) = std::iter::repeat_with(|| words(&RecoveryCode::make(&OsRandom).unwrap()))
            .find_map(|written| written.iter().position(|word| alone(word)).map(|at| (written, at)))
            .unwrap();
        let word = written[at].clone();
        written[at] = word[..4].to_owned();
        assert!(parse(&written).is_ok());
        written[at] = word[..3].to_owned();
        assert!(matches!(parse(&written), Err(WordFault::Unknown(place, _)) if place == at + 1), "{word}");
    }

    #[test]
    fn the_longest_text_is_read() {
        let code = RecoveryCode::make(&OsRandom).unwrap();
        let text = |bytes| format!("{:bytes$}", words(&code).join(" "));
        assert!(RecoveryCode::parse(&text(MAX_TEXT_BYTES)).is_ok());
        assert!(RecoveryCode::parse(&text(MAX_TEXT_BYTES + 1)).is_err());
    }

    #[test]
    fn the_nearest_word_is_the_one_with_the_fewest_changes() {
        for (a, b, wanted) in
            [("", "abc", 3), ("abc", "", 3), ("zoo", "zoo", 0), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), wanted, "{a} {b}");
        }
    }

    #[test]
    fn a_wrong_word_is_pointed_at() {
        let code = RecoveryCode::make(&OsRandom).unwrap();
        let written = words(&code);
        for at in 0..RECOVERY_WORDS {
            let mut changed = written.clone();
            changed[at] = if written[at] == "zoo" { "abandon" } else { "zoo" }.to_owned();
            assert_eq!(parse(&changed).unwrap_err(), WordFault::Wrong(at + 1));
            changed[at] = "zooo".to_owned();
            assert_eq!(parse(&changed).unwrap_err(), WordFault::Unknown(at + 1, "zoo"));
        }
        let mut swapped = written.clone();
        swapped.swap(6, 7);
        assert_eq!(parse(&swapped).unwrap_err(), WordFault::Swapped(7));
        assert_eq!(parse(&written[1..]).unwrap_err(), WordFault::Count(14));
        assert_eq!(parse(&words(&RecoveryCode(Secret::zero()))).map(drop), Ok(()));
    }

    #[test]
    fn two_wrong_words_are_not_taken_for_one() {
        let code = RecoveryCode::make(&OsRandom).unwrap();
        let mut written = words(&code);
        (written[2], written[9]) = ("zoo".to_owned(), "zebra".to_owned());
        assert_eq!(parse(&written).unwrap_err(), WordFault::Several);
    }

    proptest! {
        #[test]
        fn nothing_that_is_typed_makes_it_panic(text in "\\PC{0,200}") {
            let _ = RecoveryCode::parse(&text);
        }
    }
}
