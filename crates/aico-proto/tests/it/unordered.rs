//! A carrier that loses, repeats and reorders: the window, generations ahead of their KEYUPDATE, epochs that overlap.

use std::time::Duration;

use aico_proto::limits::{GENERATION_AGE, OLD_KEYS, WINDOW_RECORDS};
use aico_proto::{Alert, Error, Initiator, Refusal, Responder, Settings, Terms};
use proptest::prelude::*;

use crate::channel::Pair;
use crate::sides::{backend, cli, fresh};

const UNORDERED: Terms = Terms { padding: aico_proto::Padding::None, unordered: true, hybrid_only: false };
const SECOND: Duration = Duration::from_secs(1);

fn pair() -> Pair {
    let settings =
        Settings { keepalive: Duration::ZERO, idle: 100_000 * SECOND, rotation: 1_000 * SECOND, ..Settings::default() };
    Pair::ready(UNORDERED, false, settings)
}

#[test]
fn both_sides_must_call_the_carrier_the_same() {
    let (client, server) = (cli(), backend());
    for (offered, door) in [(UNORDERED, Terms::default()), (Terms::default(), UNORDERED)] {
        let (_, hello) = Initiator::start(server.identity().clone(), fresh(&client, false), offered);
        let answer = Responder::on_hello(&server, &hello, fresh(&server, false), door);
        assert_eq!(answer.unwrap_err(), Refusal::Alert(Alert::Malformed));
    }
}

#[test]
fn a_record_is_good_once_and_within_the_window() {
    let mut pair = pair();
    let count = WINDOW_RECORDS + 10;
    (0..count).for_each(|n| pair.client.send(&n.to_be_bytes(), SECOND));
    let frames = pair.client.frames();
    let newest = frames.last().unwrap().clone();
    pair.server.take(newest.clone(), SECOND).unwrap();
    pair.server.take(newest, SECOND).unwrap();
    assert_eq!(pair.server.got.len(), 1, "a replay is dropped");
    frames.iter().for_each(|frame| pair.server.take(frame.clone(), SECOND).unwrap());
    assert_eq!(pair.server.got.len() as u64, WINDOW_RECORDS, "what is older than the window is dropped");
    frames.iter().for_each(|frame| pair.server.take(frame.clone(), SECOND).unwrap());
    assert_eq!(pair.server.got.len() as u64, WINDOW_RECORDS, "all of it replayed");
}

#[test]
fn a_lost_key_update_is_survived_and_old_keys_do_not_stay() {
    let mut pair = pair();
    pair.client.send(b"late", SECOND);
    let late = pair.client.frames().remove(0);
    pair.client.send(b"later", SECOND);
    let later = pair.client.frames().remove(0);
    let now = GENERATION_AGE;
    pair.client.send(b"new", now);
    let frames = pair.client.frames();
    assert_eq!(frames.len(), 2, "KEYUPDATE and the record");
    pair.server.take(frames[1].clone(), now).unwrap();
    assert_eq!(pair.server.got, [b"new"], "without the KEYUPDATE");
    pair.server.take(late, now + OLD_KEYS - SECOND).unwrap();
    assert_eq!(pair.server.got.pop().unwrap(), b"late");
    pair.server.take(later, now + OLD_KEYS).unwrap();
    assert_eq!(pair.server.got, [b"new"], "the old key is gone after 30 s");
    // Two generations ahead is one too many.
    pair.client.send(b"a", 2 * now);
    let _lost = pair.client.frames();
    pair.client.send(b"b", 3 * now);
    let frames = pair.client.frames();
    pair.server.take(frames[1].clone(), 3 * now).unwrap();
    assert_eq!(pair.server.got, [b"new"]);
}

#[test]
fn rubbish_is_dropped_until_it_is_too_much() {
    let mut pair = pair();
    pair.client.send(b"good", SECOND);
    let good = pair.client.frames().remove(0);
    let mut bad = good.clone();
    *bad.last_mut().unwrap() ^= 1;
    for _ in 0..(1 << 16) - 1 {
        pair.server.take(bad.clone(), SECOND).unwrap();
    }
    pair.server.take(good, SECOND).unwrap();
    assert_eq!(pair.server.got, [b"good"]);
    assert_eq!(pair.server.take(bad, SECOND), Err(Error::Authentication));
}

#[test]
fn a_rekey_overlaps() {
    let mut pair = pair();
    let now = 1_000 * SECOND;
    pair.server.send(b"old", now);
    let old = pair.server.frames().remove(0);
    pair.client.channel.tick(now, &pair.client.around, &mut pair.client.out).unwrap();
    pair.settle(now).unwrap();
    assert_eq!((pair.client.channel.epoch(), pair.server.channel.epoch()), (1, 1));
    pair.client.take(old.clone(), now + OLD_KEYS - SECOND).unwrap();
    pair.client.take(old, now + OLD_KEYS - SECOND).unwrap();
    assert_eq!(pair.client.got, [b"old"], "late, and once");
    pair.server.send(b"new", now);
    pair.settle(now).unwrap();
    assert_eq!(pair.client.got.len(), 2);
}

proptest! {
    /// Whatever the carrier does, what arrives was sent, and arrives once.
    #[test]
    fn nothing_arrives_twice(order in prop::collection::vec((0..60usize, any::<bool>()), 1..200)) {
        let mut pair = pair();
        // Three generations, so that the order crosses their borders.
        for n in 0..60u32 {
            pair.client.send(&n.to_be_bytes(), GENERATION_AGE * (n / 20));
        }
        let frames = pair.client.frames();
        let now = GENERATION_AGE * 2;
        for (at, flip) in order {
            let mut frame = frames[at].clone();
            if flip {
                let middle = frame.len() / 2;
                frame[middle] ^= 4;
            }
            pair.server.take(frame, now).unwrap();
        }
        let mut got = pair.server.got.clone();
        got.sort();
        got.dedup();
        prop_assert_eq!(got.len(), pair.server.got.len());
        prop_assert!(got.iter().all(|g| u32::from_be_bytes(g.as_slice().try_into().unwrap()) < 60));
    }
}
