//! The recovery code: 15 words that open a vault without anything else (`docs/spec/vault.md`, Recovery code).

use crate::kdf::kdf;
use crate::words::{self, WordFault};
use crate::{Error, Label, Random, Secret, SlotSecret};

/// Words of a recovery code.
pub const RECOVERY_WORDS: usize = 15;
/// Bytes of randomness in it.
pub(crate) const CODE_BYTES: usize = 16;

/// 128 random bits. With 37 bits of checksum they make 15 words of the English list of BIP 39 (a list, not a wallet).
#[derive(Debug)]
pub struct RecoveryCode(pub(crate) Secret<CODE_BYTES>);

impl RecoveryCode {
    /// Makes a random code.
    pub fn make(random: &dyn Random) -> Result<Self, Error> {
        Secret::make(random).map(Self)
    }

    /// Hands the 15 words to `show`.
    pub fn hazmat_words<T>(&self, show: impl FnOnce(&[&'static str; RECOVERY_WORDS]) -> T) -> T {
        words::show(&self.0, Label::RECOVERY_CHECK, show)
    }

    /// Reads a code as a person types it: any case, any separators, numbers between the words, or only the first four
    /// letters of each.
    pub fn parse(text: &str) -> Result<Self, WordFault> {
        words::parse::<CODE_BYTES, RECOVERY_WORDS>(text, Label::RECOVERY_CHECK).map(Self)
    }

    /// The slot's secret. The code is random, so there is nothing to stretch.
    #[must_use]
    pub fn slot_secret(&self) -> SlotSecret {
        SlotSecret(kdf(self.0.bytes(), Label::RECOVERY_SLOT, &[]))
    }
}

#[cfg(test)]
mod tests {
    use bip39::Language;
    use proptest::prelude::*;

    use super::*;
    use crate::OsRandom;
    use crate::words::MAX_TEXT_BYTES;

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
