use std::time::Duration;

use aico_proto::limits::{GENERATION_AGE, MAX_FRAME_BYTES, MAX_METADATA_BYTES};
use aico_proto::{CloseReason, Control, Error, Incoming, RECORD_OVERHEAD_BYTES};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};

use crate::sides::{backend, channel, cli, open, ready, seal, seal_control, shake};

#[test]
fn records_have_the_specified_form() {
    let mut shaken = channel();
    let frame = seal(&mut shaken.client.sealer, b"hello");
    assert_eq!(frame.len(), 5 + RECORD_OVERHEAD_BYTES);
    assert_eq!(&frame[..10], b"AICO-MSG\x01\x00");
    assert_eq!(&frame[10..14], [0; 4], "epoch and generation");
    assert_eq!(&frame[24..38], b"\0\0\0\0\0\0\0\0\0\0\0\x02{}");
    assert_eq!(seal(&mut shaken.client.sealer, b"")[24..32], 1u64.to_be_bytes());
}

#[test]
fn a_replayed_record_is_refused() {
    let mut shaken = channel();
    let frame = seal(&mut shaken.client.sealer, b"once");
    assert!(open(&mut shaken.server.opener, &frame).is_ok());
    assert_eq!(open(&mut shaken.server.opener, &frame), Err(Error::Order));
    let next = seal(&mut shaken.client.sealer, b"next");
    assert!(open(&mut shaken.server.opener, &next).is_err(), "the first failure is the last");
}

#[test]
fn a_reordered_or_skipped_record_is_refused() {
    let mut shaken = channel();
    let _first = seal(&mut shaken.client.sealer, b"1");
    let second = seal(&mut shaken.client.sealer, b"2");
    assert_eq!(open(&mut shaken.server.opener, &second), Err(Error::Order));
}

#[test]
fn a_record_is_refused_by_its_sender_and_by_another_channel() {
    let (mut shaken, mut other) = (channel(), channel());
    let frame = seal(&mut shaken.client.sealer, b"x");
    assert_eq!(open(&mut other.server.opener, &frame), Err(Error::Order));
    assert_eq!(open(&mut shaken.client.opener, &frame), Err(Error::Order));
}

#[test]
fn every_flipped_byte_and_every_cut_is_noticed() {
    let length = 20 + RECORD_OVERHEAD_BYTES;
    for at in 0..length {
        let mut shaken = channel();
        let mut frame = seal(&mut shaken.client.sealer, &[7; 20]);
        frame[at] ^= 1;
        assert!(open(&mut shaken.server.opener, &frame).is_err(), "byte {at}");
        let mut shaken = channel();
        let frame = seal(&mut shaken.client.sealer, &[7; 20]);
        assert!(open(&mut shaken.server.opener, &frame[..at]).is_err(), "cut to {at}");
    }
    let mut shaken = channel();
    let mut frame = seal(&mut shaken.client.sealer, &[7; 20]);
    frame.push(0);
    assert!(open(&mut shaken.server.opener, &frame).is_err(), "longer");
}

#[test]
fn lengths_that_lie_are_refused_before_anything_is_done() {
    for metadata in [MAX_METADATA_BYTES as u32 + 1, u32::MAX, 60] {
        let mut shaken = channel();
        let mut frame = seal(&mut shaken.client.sealer, b"x");
        frame[32..36].copy_from_slice(&metadata.to_be_bytes());
        assert!(matches!(open(&mut shaken.server.opener, &frame), Err(Error::Malformed(_))), "{metadata}");
    }
    let mut shaken = channel();
    assert!(matches!(open(&mut shaken.server.opener, &vec![0; MAX_FRAME_BYTES + 1]), Err(Error::Malformed(_))));
    let mut out = Vec::new();
    assert!(matches!(channel().client.sealer.seal(&[&vec![0; (16 << 20) + 1]], &mut out), Err(Error::Misuse(_))));
}

#[test]
fn nothing_comes_before_ready_and_ready_comes_once() {
    let mut shaken = shake(&cli(), &backend(), false);
    assert!(shaken.server.sealer.seal(&[b"early"], &mut Vec::new()).is_err(), "the server owes it");
    let frame = seal_control(&mut shaken.server.sealer, &ready());
    let frame_again = seal_control(&mut shaken.server.sealer, &ready());
    open(&mut shaken.client.opener, &frame).unwrap();
    assert!(matches!(open(&mut shaken.client.opener, &frame_again), Err(Error::Unexpected(_))));
    let mut shaken = channel();
    let frame = seal_control(&mut shaken.client.sealer, &ready());
    assert!(matches!(open(&mut shaken.server.opener, &frame), Err(Error::Unexpected(_))), "the client sends none");
    // The server's half of another channel, whose client has not seen READY: not even CLOSE is taken.
    let mut shaken = shake(&cli(), &backend(), false);
    let _lost = seal_control(&mut shaken.server.sealer, &ready());
    let close = seal_control(&mut shaken.server.sealer, &Control::Close(CloseReason::Normal));
    assert!(open(&mut shaken.client.opener, &close).is_err());
}

#[test]
fn close_is_the_last_word_and_its_absence_is_a_cut() {
    let mut shaken = channel();
    assert_eq!(shaken.server.opener.end_of_stream(), Err(Error::Truncated));
    let frame = seal_control(&mut shaken.client.sealer, &Control::Close(CloseReason::Shutdown));
    assert!(shaken.client.sealer.seal(&[b"x"], &mut Vec::new()).is_err());
    open(&mut shaken.server.opener, &frame).unwrap();
    assert_eq!(shaken.server.opener.end_of_stream(), Ok(CloseReason::Shutdown));
    assert!(matches!(open(&mut shaken.server.opener, &frame), Err(Error::Unexpected(_))));
}

#[test]
fn keys_move_on_and_do_not_come_back() {
    let mut shaken = channel();
    assert!(!shaken.client.sealer.key_update_due(Duration::ZERO));
    assert!(shaken.client.sealer.key_update_due(GENERATION_AGE));
    for generation in 1..=5u16 {
        let update = seal_control(&mut shaken.client.sealer, &Control::KeyUpdate);
        open(&mut shaken.server.opener, &update).unwrap();
        let frame = seal(&mut shaken.client.sealer, b"new");
        assert_eq!(frame[12..14], generation.to_be_bytes());
        assert_eq!(frame[24..32], [0; 8], "the counter starts anew");
        assert_eq!(open(&mut shaken.server.opener, &frame).unwrap(), b"new");
    }
    // A record of the old generation, held back.
    let held = seal(&mut shaken.client.sealer, b"held");
    let mut other = channel();
    let held_too = seal(&mut other.client.sealer, b"held");
    let update = seal_control(&mut other.client.sealer, &Control::KeyUpdate);
    assert!(open(&mut other.server.opener, &update).is_err(), "an update that skips a record");
    assert!(open(&mut other.server.opener, &held_too).is_err());
    assert!(open(&mut shaken.server.opener, &held).is_ok());
}

#[test]
fn a_kind_cannot_be_changed() {
    let mut shaken = channel();
    let mut frame = seal(&mut shaken.client.sealer, &[1, 0, 0]);
    frame[9] = 1;
    assert_eq!(open(&mut shaken.server.opener, &frame), Err(Error::Authentication));
}

#[test]
fn control_bodies_survive_and_rubbish_does_not() {
    let text = "é".repeat(600);
    let controls =
        [Control::Keepalive, Control::Error { code: 7, text: "no".into() }, Control::Close(CloseReason::Other(4711))];
    let mut shaken = channel();
    for control in &controls {
        let mut frame = seal_control(&mut shaken.client.sealer, control);
        assert!(
            matches!(shaken.server.opener.open(&mut frame, Duration::ZERO).unwrap(), Incoming::Control(got) if got == *control)
        );
    }
    let mut shaken = channel();
    let mut frame = seal_control(&mut shaken.client.sealer, &Control::Error { code: 1, text });
    let Incoming::Control(Control::Error { text, .. }) = shaken.server.opener.open(&mut frame, Duration::ZERO).unwrap()
    else {
        unreachable!()
    };
    assert_eq!(text.len(), 1024, "cut between characters");
}

#[test]
fn any_libsodium_opens_a_record() {
    // The keys are those of the vectors, so that the oracle can know them.
    let vectors: serde_json::Value = crate::vectors::read("records.json");
    let key = crate::vectors::unhex(&vectors["key_initiator_to_responder"]);
    let frame = crate::vectors::unhex(&vectors["records"][0]["frame"]);
    let cipher = chacha20poly1305::XChaCha20Poly1305::new(key.as_slice().try_into().unwrap());
    let metadata = u32::from_be_bytes(frame[32..36].try_into().unwrap()) as usize;
    let payload = Payload { msg: &frame[36 + metadata..], aad: &frame[36..36 + metadata] };
    let plaintext = cipher.decrypt(frame[8..32].try_into().unwrap(), payload).unwrap();
    assert_eq!(plaintext, crate::vectors::unhex(&vectors["records"][0]["plaintext"]));
}

proptest::proptest! {
    #[test]
    fn rubbish_never_opens(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300), splice in 0..60usize) {
        let mut shaken = channel();
        let good = seal(&mut shaken.client.sealer, &[3; 40]);
        assert!(open(&mut channel().server.opener, &bytes).is_err());
        let mut mixed = good[..splice].to_vec();
        mixed.extend_from_slice(&bytes);
        if mixed != good {
            assert!(open(&mut shaken.server.opener, &mixed).is_err());
        }
    }
}
