//! Which counters have been (`docs/spec/channel.md`, Unordered carriers): strictly one after the other, or a window.

use crate::limits::{MAX_COUNTER, WINDOW_RECORDS};

const WORD_BITS: u64 = u64::BITS as u64;
/// One word more than the window: the newest word fills up while the oldest is still asked for (RFC 6479).
const WORDS: usize = (WINDOW_RECORDS / WORD_BITS) as usize + 1;

/// The counters that one generation has seen.
#[derive(Debug)]
pub(crate) enum Replay {
    /// The next counter is the only one that is good.
    Ordered {
        next: u64,
    },
    Window(Box<Window>),
}

#[derive(Debug)]
pub(crate) struct Window {
    /// One more than the highest counter so far.
    end: u64,
    seen: [u64; WORDS],
}

impl Replay {
    pub(crate) fn ordered() -> Self {
        Self::Ordered { next: 0 }
    }

    pub(crate) fn window() -> Self {
        Self::Window(Box::new(Window { end: 0, seen: [0; WORDS] }))
    }

    /// Whether a record with this counter may still be opened.
    pub(crate) fn admits(&self, counter: u64) -> bool {
        counter <= MAX_COUNTER
            && match self {
                Self::Ordered { next } => counter == *next,
                Self::Window(window) => window.admits(counter),
            }
    }

    /// Takes note of a record that opened.
    pub(crate) fn note(&mut self, counter: u64) {
        match self {
            Self::Ordered { next } => *next = counter.saturating_add(1),
            Self::Window(window) => window.note(counter),
        }
    }
}

impl Window {
    fn admits(&self, counter: u64) -> bool {
        if counter >= self.end {
            return true;
        }
        let (word, bit) = place(counter);
        self.end - counter <= WINDOW_RECORDS && self.seen.get(word).is_some_and(|bits| bits & bit == 0)
    }

    fn note(&mut self, counter: u64) {
        if counter >= self.end {
            let old = self.end.checked_sub(1).map_or(0, |last| last / WORD_BITS + 1);
            let new = counter / WORD_BITS;
            for fresh in (old..=new).rev().take(WORDS) {
                if let Some(bits) = self.seen.get_mut((fresh % WORDS as u64) as usize) {
                    *bits = 0;
                }
            }
            self.end = counter.saturating_add(1);
        }
        let (word, bit) = place(counter);
        if let Some(bits) = self.seen.get_mut(word) {
            *bits |= bit;
        }
    }
}

fn place(counter: u64) -> (usize, u64) {
    ((counter / WORD_BITS % WORDS as u64) as usize, 1 << (counter % WORD_BITS))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_window_is_2048_wide() {
        let mut window = Replay::window();
        window.note(5000);
        assert!(!window.admits(5000));
        assert!(window.admits(5000 - 2047) && !window.admits(5000 - 2048));
        assert!(window.admits(MAX_COUNTER) && !window.admits(MAX_COUNTER + 1));
    }

    proptest! {
        /// The window against the plainest thing that does the same.
        #[test]
        fn no_counter_is_good_twice(steps in prop::collection::vec(0u64..6000, 1..400), base in 0u64..1 << 40) {
            let (mut window, mut seen, mut end) = (Replay::window(), BTreeSet::new(), 0);
            for counter in steps.into_iter().map(|step| base + step) {
                let good = counter >= end || (end - counter <= WINDOW_RECORDS && !seen.contains(&counter));
                prop_assert_eq!(window.admits(counter), good, "{}", counter);
                if good {
                    window.note(counter);
                    seen.insert(counter);
                    end = end.max(counter + 1);
                }
            }
        }
    }
}
