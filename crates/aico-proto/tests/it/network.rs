//! A network that loses, repeats, reorders, flips and cuts.

use proptest::prelude::*;

use crate::sides::{channel, open, seal};

/// What happens to the frame at this place.
#[derive(Clone, Copy, Debug)]
enum Harm {
    None,
    Drop,
    Repeat,
    SwapWithNext,
    Flip(usize),
    Cut(usize),
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        8 => Just(Harm::None),
        1 => Just(Harm::Drop),
        1 => Just(Harm::Repeat),
        1 => Just(Harm::SwapWithNext),
        1 => any::<usize>().prop_map(Harm::Flip),
        1 => any::<usize>().prop_map(Harm::Cut),
    ]
}

proptest! {
    #[test]
    fn what_arrives_is_a_prefix_of_what_was_sent(harms in prop::collection::vec(harm(), 1..40)) {
        let mut shaken = channel();
        let sent: Vec<Vec<u8>> = (0..harms.len()).map(|n| vec![n as u8; n * 3]).collect();
        let mut frames: Vec<Vec<u8>> = sent.iter().map(|text| seal(&mut shaken.client.sealer, text)).collect();
        let mut wire = Vec::new();
        for (at, harm) in harms.iter().enumerate() {
            let mut frame = frames[at].clone();
            match harm {
                Harm::None => wire.push(frame),
                Harm::Drop => {}
                Harm::Repeat => wire.extend([frame.clone(), frame]),
                Harm::SwapWithNext => {
                    if at + 1 < frames.len() {
                        frames.swap(at, at + 1);
                    }
                    wire.push(frames[at].clone());
                }
                Harm::Flip(bit) => {
                    let bit = bit % (frame.len() * 8);
                    frame[bit / 8] ^= 1 << (bit % 8);
                    wire.push(frame);
                }
                Harm::Cut(length) => {
                    frame.truncate(length % frame.len());
                    wire.push(frame);
                }
            }
        }
        let arrived: Vec<Vec<u8>> = wire.iter().map_while(|frame| open(&mut shaken.server.opener, frame).ok()).collect();
        prop_assert!(sent.starts_with(&arrived));
        let unharmed = harms.iter().take_while(|harm| matches!(harm, Harm::None)).count();
        prop_assert!(arrived.len() >= unharmed);
        // After the first failure nothing opens any more.
        for frame in &wire {
            if arrived.len() < wire.len() {
                prop_assert!(open(&mut shaken.server.opener, frame).is_err());
            }
        }
    }
}
