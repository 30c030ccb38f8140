use aico_crypto::{ComponentKind, Identity, handshake_mac};
use aico_proto::{Alert, Error, Initiator, Peer, Refusal, Responder, Standing, Suite, Terms};

use crate::sides::{All, Only, backend, cli, fresh, named, open, ready, seal, seal_control, shake, shake_changed};

#[test]
fn both_suites_work_and_sizes_are_the_specified_ones() {
    for (hybrid, sizes) in [(false, [98, 256, 185]), (true, [1284, 1344, 185])] {
        let (client, server) = (cli(), backend());
        let mut shaken = shake(&client, &server, hybrid);
        assert_eq!(shaken.frames.each_ref().map(Vec::len), sizes);
        assert_eq!(shaken.client.agreed.suite, if hybrid { Suite::Hybrid } else { Suite::Classical });
        let (Peer::Authenticated(at_client), Peer::Authenticated(at_server)) =
            (&shaken.client.peer, &shaken.server.peer)
        else {
            unreachable!()
        };
        assert_eq!(at_client.identity(), server.identity());
        assert_eq!(at_server.identity(), client.identity());
        assert_eq!(at_client.channel(), at_server.channel());
        let frame = seal(&mut shaken.client.sealer, b"at once");
        assert_eq!(open(&mut shaken.server.opener, &frame).unwrap(), b"at once");
        let frame = seal_control(&mut shaken.server.sealer, &ready());
        open(&mut shaken.client.opener, &frame).unwrap();
    }
}

#[test]
fn every_flipped_byte_ends_it() {
    let (client, server) = (cli(), backend());
    for (hybrid, sizes) in [(false, [98, 256, 185]), (true, [1284, 1344, 185])] {
        for (which, length) in sizes.into_iter().enumerate() {
            // In the long keys every seventh byte; the sealed parts and headers byte by byte.
            for at in (0..length).filter(|at| !hybrid || *at < 100 || at % 7 == 0 || at + 200 > length) {
                let done = shake_changed(&client, &server, hybrid, |frame, bytes| {
                    if frame == which {
                        bytes[at] ^= 1;
                    }
                });
                assert!(done.is_err(), "frame {which}, byte {at}, hybrid {hybrid}");
            }
        }
    }
}

#[test]
fn every_cut_and_every_added_byte_ends_it() {
    let (client, server) = (cli(), backend());
    for (which, length) in [98, 256, 185].into_iter().enumerate() {
        for cut in 0..length {
            let done = shake_changed(&client, &server, false, |frame, bytes| {
                if frame == which {
                    bytes.truncate(cut);
                }
            });
            assert!(done.is_err(), "frame {which} cut to {cut}");
        }
        let done = shake_changed(&client, &server, false, |frame, bytes| {
            if frame == which {
                bytes.push(0);
            }
        });
        assert!(done.is_err(), "frame {which} longer");
    }
}

#[test]
fn a_captured_handshake_is_worth_nothing_later_or_elsewhere() {
    let (client, server, other) = (cli(), backend(), backend());
    let [hello, reply, finish] = shake(&client, &server, false).frames;
    // At the same server, later: its nonce and ephemeral key are new.
    let (responder, _) = Responder::on_hello(&server, &hello, fresh(&server, false), Terms::default()).unwrap();
    assert!(responder.on_finish(&finish, &All(Standing::Enrolled)).is_err());
    // At another server: it is not even answered.
    assert_eq!(
        Responder::on_hello(&other, &hello, fresh(&other, false), Terms::default()).unwrap_err(),
        Refusal::Silent
    );
    // The server's answer, to another handshake of the same client.
    let (initiator, _) = Initiator::start(server.identity().clone(), fresh(&client, false), Terms::default());
    assert!(initiator.on_reply(&client, &reply).is_err());
}

#[test]
fn frames_are_not_taken_in_the_other_role() {
    let (client, server) = (cli(), backend());
    let [hello, reply, finish] = shake(&client, &server, false).frames;
    for frame in [&hello, &reply, &finish] {
        // Sent back to the client.
        let (initiator, _) = Initiator::start(server.identity().clone(), fresh(&client, false), Terms::default());
        assert!(initiator.on_reply(&client, frame).is_err());
        // Sent to the server in the place of a FINISH.
        let (_, mine) = Initiator::start(server.identity().clone(), fresh(&client, false), Terms::default());
        let (responder, _) = Responder::on_hello(&server, &mine, fresh(&server, false), Terms::default()).unwrap();
        assert!(responder.on_finish(frame, &All(Standing::Enrolled)).is_err());
    }
    for frame in [&reply, &finish] {
        assert_eq!(
            Responder::on_hello(&server, frame, fresh(&server, false), Terms::default()).unwrap_err(),
            Refusal::Silent
        );
    }
}

#[test]
fn an_identity_does_not_talk_to_itself() {
    let server = backend();
    let done = shake_changed(&server, &server, false, |_, _| {});
    assert_eq!(done.err(), Some(Error::WrongPeer));
}

#[test]
fn whoever_does_not_know_the_server_gets_silence() {
    let (client, server, imagined) = (cli(), backend(), backend());
    let (_, hello) = Initiator::start(imagined.identity().clone(), fresh(&client, true), Terms::default());
    assert!(!Responder::is_meant(server.identity().key(), &hello));
    assert_eq!(
        Responder::on_hello(&server, &hello, fresh(&server, false), Terms::default()).unwrap_err(),
        Refusal::Silent
    );
}

#[test]
fn another_identity_than_the_expected_one_is_refused() {
    let (client, server) = (cli(), backend());
    // The right key under another name or kind: the server is not who was meant.
    let key = *server.identity().key();
    let renamed = Identity::new(ComponentKind::Backend, key, aico_crypto::Name::parse("backup").unwrap());
    let rekinded = Identity::new(ComponentKind::Plugin, key, server.identity().name().clone());
    for expected in [renamed, rekinded] {
        let (initiator, hello) = Initiator::start(expected, fresh(&client, false), Terms::default());
        let (_, reply) = Responder::on_hello(&server, &hello, fresh(&server, false), Terms::default()).unwrap();
        assert_eq!(initiator.on_reply(&client, &reply).err(), Some(Error::WrongPeer));
    }
    // An impostor that knows the server's public key, so that mac1 holds, answers with a key of its own.
    let impostor = backend();
    let (initiator, mut hello) = Initiator::start(server.identity().clone(), fresh(&client, false), Terms::default());
    sign_anew(&mut hello, &impostor);
    let (_, reply) = Responder::on_hello(&impostor, &hello, fresh(&impostor, false), Terms::default()).unwrap();
    assert!(initiator.on_reply(&client, &reply).is_err());
}

/// Gives a HELLO a mac1 for another responder.
fn sign_anew(hello: &mut Vec<u8>, responder: &aico_proto::LocalIdentity) {
    hello.truncate(hello.len() - 16);
    let mac = handshake_mac(responder.identity().key(), hello);
    hello.extend_from_slice(&mac);
}

#[test]
fn trust_decides_who_comes_in() {
    let (client, other, server) = (cli(), cli(), backend());
    let finish = |client: &aico_proto::LocalIdentity, trust: &dyn aico_proto::Trust| {
        let (initiator, hello) = Initiator::start(server.identity().clone(), fresh(client, false), Terms::default());
        let (responder, reply) = Responder::on_hello(&server, &hello, fresh(&server, false), Terms::default()).unwrap();
        let (_, finish) = initiator.on_reply(client, &reply).unwrap();
        responder.on_finish(&finish, trust)
    };
    let trust = Only(client.identity().clone());
    assert!(finish(&client, &trust).is_ok());
    assert_eq!(finish(&other, &trust).err(), Some(Error::UnknownPeer));
    let waiting = finish(&other, &All(Standing::MayEnrol)).unwrap();
    assert!(matches!(waiting.peer, Peer::Unenrolled(peer) if peer.identity() == other.identity()));
    // The same key under another name is somebody unknown.
    let renamed = named(ComponentKind::Cli, "another");
    assert_eq!(finish(&renamed, &trust).err(), Some(Error::UnknownPeer));
}

#[test]
fn a_man_in_the_middle_cannot_downgrade() {
    let (client, server) = (cli(), backend());
    // He knows the server's public key, strips the hybrid offer and makes mac1 good again.
    let done = shake_changed(&client, &server, true, |frame, bytes| {
        if frame == 0 {
            let classical = [b"AICO-HS1\x01\x01\x01\x01\x00\x01\x00\x00", &bytes[18..82], &[0, 0]].concat();
            *bytes = [classical, vec![0; 16]].concat();
            sign_anew(bytes, &server);
        }
    });
    assert_eq!(done.err(), Some(Error::Authentication), "the transcripts differ");
    // He answers with a suite that was not offered, or another version.
    for (at, value, wanted) in [(9, 2, Error::Version), (11, 2, Error::Suite), (11, 7, Error::Suite)] {
        let done = shake_changed(&client, &server, false, |frame, bytes| {
            if frame == 1 {
                bytes[at] = value;
            }
        });
        assert_eq!(done.err(), Some(wanted));
    }
}

#[test]
fn a_server_knows_whether_it_is_meant() {
    let (client, server) = (cli(), backend());
    let (_, mut hello) = Initiator::start(server.identity().clone(), fresh(&client, false), Terms::default());
    assert!(Responder::is_meant(server.identity().key(), &hello));
    assert!(!Responder::is_meant(backend().identity().key(), &hello));
    hello[20] ^= 1;
    assert!(!Responder::is_meant(server.identity().key(), &hello));
}

#[test]
fn an_answer_with_flags_that_were_not_offered_is_refused() {
    let (client, server) = (cli(), backend());
    let flags_at = 8 + 1 + 1 + 2;
    for flags in [1, 2, 4, 5] {
        let done = shake_changed(&client, &server, false, |frame, bytes| {
            if frame == 1 {
                bytes[flags_at + 1] = flags;
            }
        });
        assert_eq!(done.err(), Some(Error::Malformed("flags that were not offered")), "{flags}");
    }
}

#[test]
fn a_rekey_keeps_version_suite_flags_and_has_no_mac() {
    // docs/spec/channel.md: "Both sides MUST refuse a REKEY with another version, suite, flags or identity than those of the
    // channel, or whose mac1 is not zero."
    let (client, server) = (cli(), backend());
    let mut shaken = shake(&client, &server, false);
    let aico_proto::Control::RekeyHello(hello) = shaken.client.rekeyer.start(fresh(&client, false)).unwrap() else {
        unreachable!()
    };
    let (version_at, suite_at, flags_at, mac_at) = (10, 13, 15, hello.len() - 16);
    let mut answer = |hello: &[u8]| shaken.server.rekeyer.on_hello(&server, fresh(&server, false), hello);
    let changes = [(version_at, 2), (suite_at, 2), (flags_at, 1), (flags_at, 2), (flags_at, 4), (flags_at, 5)];
    for (at, value) in changes.into_iter().chain((mac_at..hello.len()).map(|at| (at, 1))) {
        let mut changed = hello.clone();
        assert_ne!(changed[at], value);
        changed[at] = value;
        assert!(answer(&changed).is_err(), "byte {at} is {value}");
    }
    assert!(answer(&hello).is_ok());
    assert!(answer(&hello).is_err(), "one at a time");
    assert!(shaken.client.rekeyer.start(fresh(&client, false)).is_err(), "one at a time");
    // Only the initiator starts, and only the responder answers.
    let mut other = shake(&client, &server, false);
    assert!(other.server.rekeyer.start(fresh(&server, false)).is_err());
    assert!(other.client.rekeyer.on_hello(&client, fresh(&client, false), &hello).is_err());
}

#[test]
fn a_key_has_its_length_and_no_other() {
    let (client, server) = (cli(), backend());
    let (_, hello) = Initiator::start(server.identity().clone(), fresh(&client, true), Terms::default());
    let length_at = hello.len() - 16 - 1184 - 2;
    for length in [1183u16, 1185, 1, u16::MAX] {
        let mut hello = hello.clone();
        hello[length_at..length_at + 2].copy_from_slice(&length.to_be_bytes());
        sign_anew(&mut hello, &server);
        let answer = Responder::on_hello(&server, &hello, fresh(&server, false), Terms::default());
        assert_eq!(answer.err(), Some(Refusal::Alert(Alert::Malformed)), "{length}");
    }
}

#[test]
fn offers_that_break_the_rules_are_answered_with_an_alert() {
    let (client, server) = (cli(), backend());
    let offer = |change: &dyn Fn(&mut Vec<u8>), hybrid| {
        let (_, mut hello) = Initiator::start(server.identity().clone(), fresh(&client, hybrid), Terms::default());
        change(&mut hello);
        sign_anew(&mut hello, &server);
        Responder::on_hello(&server, &hello, fresh(&server, false), Terms::default()).map(drop)
    };
    let alert = |alert| Err(Refusal::Alert(alert));
    assert_eq!(offer(&|_| {}, true), Ok(()));
    assert_eq!(offer(&|h| h[10] = 9, false), alert(Alert::Version), "a version that nobody speaks");
    assert_eq!(offer(&|h| h[13] = 9, false), alert(Alert::Suite), "a suite that nobody speaks");
    for flags in [3, 4, 0x80] {
        assert_eq!(offer(&|h| h[15] = flags, false), alert(Alert::Malformed), "flags {flags}");
    }
    assert_eq!(offer(&|h| h[15] = 2, false), Ok(()), "a padding policy may be offered");
    assert_eq!(offer(&|h| h[15] = 2, true), alert(Alert::Malformed), "a suite twice");
    assert_eq!(offer(&|h| h[13] = 9, true), alert(Alert::Malformed), "a key without its suite");
    assert_eq!(
        offer(&|h| h[84..87].fill(0xff), true),
        alert(Alert::Malformed),
        "an encapsulation key that is not reduced"
    );
    assert_eq!(offer(&|h| h.insert(98, 0), false), alert(Alert::Malformed), "bytes behind the end");
    assert_eq!(offer(&|h| h[9] = 255, false), alert(Alert::Malformed), "a count that lies");
    assert_eq!(offer(&|h| h[48..80].fill(0), false), Err(Refusal::Silent), "a point of small order");
}

#[test]
fn alerts_are_told_and_change_nothing() {
    let (client, server) = (cli(), backend());
    for alert in [Alert::Version, Alert::Suite, Alert::Malformed, Alert::Busy, Alert::Other(200)] {
        let (initiator, _) = Initiator::start(server.identity().clone(), fresh(&client, false), Terms::default());
        assert_eq!(initiator.on_reply(&client, &alert.encode()).err(), Some(Error::Refused(alert)));
    }
}

#[test]
fn no_two_handshakes_share_anything() {
    let (client, server) = (cli(), backend());
    let shaken: Vec<_> = (0..20).map(|_| shake(&client, &server, false)).collect();
    let parts = shaken.iter().flat_map(|s| {
        let Peer::Authenticated(peer) = &s.client.peer else { unreachable!() };
        [
            s.frames[0][16..48].to_vec(),
            s.frames[0][48..80].to_vec(),
            s.frames[1][14..46].to_vec(),
            peer.channel().to_vec(),
        ]
    });
    let unique: std::collections::BTreeSet<_> = parts.collect();
    assert_eq!(unique.len(), 80);
}

#[test]
fn an_enrolled_man_in_the_middle_cannot_speak_for_another() {
    let (client, thief, server) = (cli(), cli(), backend());
    // The client means to speak to the thief; he passes its FINISH on to the server.
    let (initiator, _) = Initiator::start(thief.identity().clone(), fresh(&client, false), Terms::default());
    let (at_server, hello) = Initiator::start(server.identity().clone(), fresh(&thief, false), Terms::default());
    let (responder, reply) = Responder::on_hello(&server, &hello, fresh(&server, false), Terms::default()).unwrap();
    assert!(initiator.on_reply(&client, &reply).is_err(), "the server's REPLY does not pass for the thief's");
    let (_, finish) = at_server.on_reply(&thief, &reply).unwrap();
    let established = responder.on_finish(&finish, &All(Standing::Enrolled)).unwrap();
    assert!(matches!(established.peer, Peer::Authenticated(peer) if peer.identity() == thief.identity()));
}

proptest::proptest! {
    #[test]
    fn rubbish_never_panics_and_never_passes(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..2000)) {
        let (client, server) = (cli(), backend());
        let mut hello = [b"AICO-HS1\x01".to_vec(), bytes.clone(), vec![0; 16]].concat();
        sign_anew(&mut hello, &server);
        for frame in [&bytes, &hello] {
            if let Ok((responder, _)) = Responder::on_hello(&server, frame, fresh(&server, false), Terms::default()) {
                assert!(responder.on_finish(&bytes, &All(Standing::Enrolled)).is_err());
            }
        }
        let (initiator, _) = Initiator::start(server.identity().clone(), fresh(&client, false), Terms::default());
        assert!(initiator.on_reply(&client, &bytes).is_err());
    }
}
