//! Secrets as words of the English list of BIP 39, with a checksum that says which word is wrong.

use std::fmt;

use bip39::Language;
use zeroize::Zeroizing;

use crate::kdf::kdf;
use crate::{Label, RECOVERY_WORDS, SHARE_WORDS, Secret};

const WORD_BITS: usize = 11;
/// Longest text that is read.
pub(crate) const MAX_TEXT_BYTES: usize = 1024;

/// Why a text is not a recovery code or a share of one, for the person who typed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WordFault {
    /// There are this many words instead of 15, or 21 of a share.
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
            Self::Count(count) => {
                write!(f, "a recovery code has {RECOVERY_WORDS} words, a share {SHARE_WORDS}; these are {count}")
            }
            Self::Unknown(place, nearest) => {
                write!(f, "word {place} is not one of the list; did you mean `{nearest}`?")
            }
            Self::Wrong(place) => write!(f, "word {place} does not fit the others"),
            Self::Swapped(place) => write!(f, "words {place} and {} are in each other's place", place + 1),
            Self::Several => f.write_str("more than one word is wrong, or this is another code"),
        }
    }
}

/// Hands the words of `payload` to `show`.
pub(crate) fn show<const BYTES: usize, const WORDS: usize, T>(
    payload: &Secret<BYTES>,
    label: Label,
    show: impl FnOnce(&[&'static str; WORDS]) -> T,
) -> T {
    let list = Language::English.word_list();
    let mut words = [""; WORDS];
    for (word, index) in words.iter_mut().zip(indices::<BYTES, WORDS>(payload, label).iter()) {
        *word = list.get(usize::from(*index)).copied().unwrap_or_default();
    }
    let shown = show(&words);
    // Where the words stood in the list is the secret, too.
    words.fill("");
    std::hint::black_box(&words);
    shown
}

/// Reads words as a person types them.
pub(crate) fn parse<const BYTES: usize, const WORDS: usize>(
    text: &str,
    label: Label,
) -> Result<Secret<BYTES>, WordFault> {
    if text.len() > MAX_TEXT_BYTES {
        return Err(WordFault::Count(text.split_whitespace().count()));
    }
    let lower = Zeroizing::new(text.to_lowercase());
    let words: Vec<&str> = lower.split(|c: char| !c.is_alphabetic()).filter(|word| !word.is_empty()).collect();
    let mut indices = Zeroizing::new([0; WORDS]);
    if words.len() != WORDS {
        return Err(WordFault::Count(words.len()));
    }
    for ((place, word), index) in (1..).zip(&words).zip(indices.iter_mut()) {
        *index = find(word).ok_or_else(|| WordFault::Unknown(place, nearest(word)))?;
    }
    from_indices(&indices, label).ok_or_else(|| fault_in::<BYTES, WORDS>(&indices, label))
}

/// The payload, then as many bits of its checksum as fill the words, in elevens.
fn indices<const BYTES: usize, const WORDS: usize>(payload: &Secret<BYTES>, label: Label) -> Zeroizing<[u16; WORDS]> {
    let check = kdf::<5>(payload.bytes(), label, &[]);
    let bits = |n: usize| {
        let byte = payload.bytes().iter().chain(check.bytes()).nth(n / 8).copied().unwrap_or_default();
        u16::from(byte >> (7 - n % 8) & 1)
    };
    let mut out = Zeroizing::new([0; WORDS]);
    for (at, index) in out.iter_mut().enumerate() {
        *index = (0..WORD_BITS).fold(0, |word, bit| word << 1 | bits(at * WORD_BITS + bit));
    }
    out
}

fn from_indices<const BYTES: usize, const WORDS: usize>(indices: &[u16; WORDS], label: Label) -> Option<Secret<BYTES>> {
    let mut payload = Secret::<BYTES>::zero();
    for (n, byte) in payload.bytes_mut().iter_mut().enumerate() {
        *byte = (n * 8..n * 8 + 8).fold(0, |byte, bit| {
            let word = indices.get(bit / WORD_BITS).copied().unwrap_or_default();
            byte << 1 | (word >> (WORD_BITS - 1 - bit % WORD_BITS) & 1) as u8
        });
    }
    (*self::indices::<BYTES, WORDS>(&payload, label) == *indices).then_some(payload)
}

/// The one change of a word, or swap of two neighbours, that makes the words whole.
fn fault_in<const BYTES: usize, const WORDS: usize>(indices: &[u16; WORDS], label: Label) -> WordFault {
    let is_whole = |indices: &[u16; WORDS]| from_indices::<BYTES, WORDS>(indices, label).is_some();
    let mut tried = Zeroizing::new(*indices);
    for at in 0..WORDS - 1 {
        tried.swap(at, at + 1);
        if is_whole(&tried) {
            return WordFault::Swapped(at + 1);
        }
        tried.swap(at, at + 1);
    }
    for (place, original) in (1..).zip(indices) {
        for word in 0..1 << WORD_BITS {
            tried.iter_mut().skip(place - 1).take(1).for_each(|slot| *slot = word);
            if is_whole(&tried) {
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
    use super::*;

    #[test]
    fn the_nearest_word_is_the_one_with_the_fewest_changes() {
        for (a, b, wanted) in
            [("", "abc", 3), ("abc", "", 3), ("zoo", "zoo", 0), ("kitten", "sitting", 3), ("ab", "ba", 2)]
        {
            assert_eq!(distance(a, b), wanted, "{a} {b}");
        }
    }
}
