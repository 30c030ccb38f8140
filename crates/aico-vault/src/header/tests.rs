use aico_crypto::{OsRandom, digest};
use proptest::prelude::*;

use super::*;

fn example() -> (Header, SlotSecret) {
    let (root, key) = (RootKey::make(&OsRandom).unwrap(), SpaceKey::make(&OsRandom).unwrap());
    let secret = SlotSecret::make(&OsRandom).unwrap();
    let copy = secret.hazmat_to_platform(SlotSecret::hazmat_from_platform).unwrap();
    let slot = NewSlot { kind: SlotKind::KeyFile, id: SlotId(1), secret, parameters: vec![7; 5] };
    let system = SystemSpace { id: SpaceId::make(&OsRandom).unwrap(), epoch: 0, key: &key };
    let vault = VaultId::make(&OsRandom).unwrap();
    (Header::make(vault, 9, &root, &system, &[slot], &OsRandom).unwrap(), copy)
}

/// Gives altered bytes a checksum that fits.
fn sum_anew(bytes: &mut [u8]) {
    let end = bytes.len() - 64;
    let sum = digest(&bytes[..end]);
    bytes[end..end + 32].copy_from_slice(&sum);
}

#[test]
fn a_header_survives_and_opens() {
    let (header, secret) = example();
    let back = Header::decode(&header.encode()).unwrap();
    assert_eq!(back, header);
    assert!(back.unlock(SlotId(1), &secret).is_ok());
    let other = SlotSecret::make(&OsRandom).unwrap();
    assert!(matches!(back.unlock(SlotId(1), &other), Err(Error::Locked(_))), "a wrong secret is not damage");
}

#[test]
fn no_cut_and_no_flipped_bit_decodes() {
    let (header, _) = example();
    let good = header.encode();
    for cut in 0..good.len() {
        assert!(Header::decode(&good[..cut]).is_err());
    }
    for bit in 0..(good.len() - 32) * 8 {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(Header::decode(&bad).is_err(), "bit {bit}");
    }
}

#[test]
fn an_altered_header_with_a_good_checksum_does_not_open() {
    let (header, secret) = example();
    let good = header.encode();
    // Behind magic, format, version and length; the authenticator's own bytes too.
    for at in (20..good.len() - 64).chain(good.len() - 32..good.len()) {
        let mut bad = good.clone();
        bad[at] ^= 1;
        sum_anew(&mut bad);
        let opened = Header::decode(&bad).and_then(|header| header.unlock(SlotId(1), &secret).map(drop));
        assert!(opened.is_err(), "byte {at}");
    }
}

#[test]
fn a_newer_format_is_told() {
    let (header, _) = example();
    let mut newer = header.encode();
    newer[9] = 3;
    newer[10..16].copy_from_slice(&[0, 9, 0, 8, 0, 7]);
    sum_anew(&mut newer);
    let error = Header::decode(&newer).unwrap_err();
    assert!(matches!(&error, Error::Newer { found: 3, known: 2, needs: Some(needs), .. } if needs == "9.8.7"));
    assert!(error.to_string().contains("needs aico 9.8.7 or newer"), "{error}");
}

#[test]
fn the_last_slot_stays_and_changes_count() {
    let (mut header, secret) = example();
    let root = header.unlock(SlotId(1), &secret).unwrap();
    assert!(matches!(header.remove_slot(&root, SlotId(1)), Err(Error::Refused(_))));
    let secret = SlotSecret::make(&OsRandom).unwrap();
    let new = NewSlot { kind: SlotKind::SecretService, id: SlotId(2), secret, parameters: Vec::new() };
    header.add_slot(&root, &new, 10, &OsRandom).unwrap();
    assert_eq!((header.revision(), header.slots().len()), (2, 2));
    assert!(header.add_slot(&root, &new, 10, &OsRandom).is_err(), "an identifier twice");
    assert!(header.remove_slot(&root, SlotId(1)).is_err(), "the key file stays while nothing else is a person's");
    header.remove_slot(&root, SlotId(2)).unwrap();
    header.rewrite(&root).unwrap();
    assert_eq!(header.revision(), 4);
    let stranger = RootKey::make(&OsRandom).unwrap();
    assert!(header.rewrite(&stranger).is_err());
}

/// "A slot is removed by its id only, and never the last one", and "of key file, password and recovery code at least one
/// always stays", for every kind that a machine keeps.
#[test]
fn no_kind_of_a_machine_can_be_the_last_or_all_that_is_left() {
    let copy = |secret: &SlotSecret| secret.hazmat_to_platform(SlotSecret::hazmat_from_platform).unwrap();
    let kinds = ["secret-service", "tpm2", "systemd-credential", "keychain", "credential-manager"];
    for kind in kinds.map(|word| SlotKind::of_machine(word).unwrap()) {
        let (mut header, file) = example();
        let root = header.unlock(SlotId(1), &file).unwrap();
        let secret = SlotSecret::make(&OsRandom).unwrap();
        let new = NewSlot { kind, id: SlotId(2), secret: copy(&secret), parameters: Vec::new() };
        header.add_slot(&root, &new, 1, &OsRandom).unwrap();
        let header = Header::decode(&header.encode()).unwrap();
        assert!(header.unlock(SlotId(2), &secret).unwrap().is_same(&root), "{kind}");
        let refused = |header: &Header, id| {
            let mut tried = header.clone();
            assert!(matches!(tried.remove_slot(&root, SlotId(id)), Err(Error::Refused(_))), "{kind}: slot {id}");
            assert_eq!(tried, *header, "{kind}: a refusal changes nothing");
        };
        refused(&header, 1);
        // A password takes the key file's place; then it stays in its turn.
        let mut with = header.clone();
        with.add_slot(&root, &password_slot(3, &SlotSecret::make(&OsRandom).unwrap()), 1, &OsRandom).unwrap();
        with.remove_slot(&root, SlotId(1)).unwrap();
        refused(&with, 3);
        with.remove_slot(&root, SlotId(2)).unwrap();
        refused(&with, 3);
        // Such a slot alone, which no program of ours writes.
        let key = SpaceKey::make(&OsRandom).unwrap();
        let system = SystemSpace { id: SpaceId::make(&OsRandom).unwrap(), epoch: 0, key: &key };
        let alone = Header::make(header.vault(), 9, &root, &system, &[new], &OsRandom).unwrap();
        refused(&alone, 2);
    }
}

fn password_slot(id: u8, secret: &SlotSecret) -> NewSlot {
    let secret = secret.hazmat_to_platform(SlotSecret::hazmat_from_platform).unwrap();
    NewSlot { kind: SlotKind::Password, id: SlotId(id), secret, parameters: vec![1; 28] }
}

#[test]
fn a_new_root_key_reaches_every_slot_and_an_old_header_opens_with_the_old_one_only() {
    let (mut header, file) = example();
    let old = header.unlock(SlotId(1), &file).unwrap();
    let password = SlotSecret::make(&OsRandom).unwrap();
    header.add_slot(&old, &password_slot(2, &password), 1, &OsRandom).unwrap();
    let before = header.clone();
    let new = RootKey::make(&OsRandom).unwrap();
    let known = [(SlotId(1), file.hazmat_to_platform(SlotSecret::hazmat_from_platform).unwrap())];
    header.rotate(&old, &new, &known, &OsRandom).unwrap();
    let mut header = Header::decode(&header.encode()).unwrap();
    for (id, secret) in [(1, &file), (2, &password)] {
        assert!(header.unlock(SlotId(id), secret).unwrap().is_same(&new), "slot {id}");
        assert!(before.unlock(SlotId(id), secret).unwrap().is_same(&old), "slot {id} of the old header");
    }
    assert!(header.system_space_key(&new).is_ok() && header.system_space_key(&old).is_err());
    let sealed = header.encode().len();
    assert!(header.rewrap(&new, SlotId(2), &password, &OsRandom).unwrap());
    assert!(!header.rewrap(&new, SlotId(2), &password, &OsRandom).unwrap(), "there is nothing left to do");
    assert_eq!(header.encode().len(), sealed - 32);
    assert!(header.unlock(SlotId(2), &password).unwrap().is_same(&new));
    assert!(header.rewrite(&old).is_err(), "the old root key changes nothing any more");
}

/// Somebody who can write the folder and has no secret makes a vault of their own behind the owner's password.
#[test]
fn a_header_that_a_stranger_sealed_to_a_slots_public_key_does_not_open() {
    let (mut header, file) = example();
    let root = header.unlock(SlotId(1), &file).unwrap();
    let password = SlotSecret::make(&OsRandom).unwrap();
    header.add_slot(&root, &password_slot(2, &password), 1, &OsRandom).unwrap();
    // All that the stranger sees of the slot, and a root key of the stranger's own.
    let (mut theirs, their_file) = example();
    let their_root = theirs.unlock(SlotId(1), &their_file).unwrap();
    let seen = header.slots()[1].clone();
    let their_own = SlotSecret::make(&OsRandom).unwrap();
    theirs.vault = header.vault;
    let mut forged = Slot::make(&header.vault, &password_slot(2, &their_own), 1, &their_root, &OsRandom).unwrap();
    (forged.check, forged.exchange, forged.parameters) = (seen.check, seen.exchange, seen.parameters);
    theirs.slots.push(forged);
    let new = RootKey::make(&OsRandom).unwrap();
    let known = [(SlotId(1), their_file)];
    theirs.slots.remove(0);
    theirs.system.wrapped_key = their_root
        .wrap_space(&SpaceKey::make(&OsRandom).unwrap(), &space_context(&theirs.vault, &theirs.system.id, 0), &OsRandom)
        .unwrap();
    theirs.authenticate(&their_root);
    theirs.rotate(&their_root, &new, &known, &OsRandom).unwrap();
    let planted = Header::decode(&theirs.encode()).unwrap();
    assert!(planted.unlock(SlotId(2), &password).is_err(), "the owner's password opens somebody else's vault");

    // Without a voucher at all: as an unreleased version of this program sealed.
    assert!(planted.slots[0].voucher.is_some());
    theirs.slots[0].voucher = None;
    theirs.authenticate(&new);
    let planted = Header::decode(&theirs.encode()).unwrap();
    assert!(matches!(planted.unlock(SlotId(2), &password), Err(Error::Locked(_))));
}

#[test]
fn a_slot_without_a_voucher_gets_one_when_it_is_used_and_no_new_root_key_before() {
    let (mut header, file) = example();
    let root = header.unlock(SlotId(1), &file).unwrap();
    let password = SlotSecret::make(&OsRandom).unwrap();
    header.add_slot(&root, &password_slot(2, &password), 1, &OsRandom).unwrap();
    header.slots[1].voucher = None;
    header.authenticate(&root);
    let mut header = Header::decode(&header.encode()).unwrap();
    let new = RootKey::make(&OsRandom).unwrap();
    let refused = header.rotate(&root, &new, &[(SlotId(1), file)], &OsRandom);
    assert!(matches!(refused, Err(Error::Refused(_))), "{refused:?}");
    assert!(header.unlock(SlotId(2), &password).is_ok(), "nothing was changed");
    assert!(header.rewrap(&root, SlotId(2), &password, &OsRandom).unwrap());
    assert!(!header.rewrap(&root, SlotId(2), &password, &OsRandom).unwrap());
}

#[test]
fn the_key_file_goes_only_when_a_person_holds_a_way_in() {
    let (mut header, file) = example();
    let root = header.unlock(SlotId(1), &file).unwrap();
    let secret = SlotSecret::make(&OsRandom).unwrap();
    header.add_slot(&root, &password_slot(2, &secret), 1, &OsRandom).unwrap();
    header.remove_slot(&root, SlotId(1)).unwrap();
    assert!(matches!(header.remove_slot(&root, SlotId(2)), Err(Error::Refused(_))), "the last one");
    let code = NewSlot {
        kind: SlotKind::RecoveryCode,
        id: SlotId(3),
        secret: SlotSecret::make(&OsRandom).unwrap(),
        parameters: Vec::new(),
    };
    header.put_recovery(&root, &code, 1, &OsRandom).unwrap();
    assert!(header.recovery_confirmed());
    header.remove_slot(&root, SlotId(2)).unwrap();
    assert!(header.is_held_by_a_person());
}

#[test]
fn a_lock_is_part_of_what_is_authenticated() {
    let (mut header, file) = example();
    let root = header.unlock(SlotId(1), &file).unwrap();
    header.set_locked(&root, true).unwrap();
    let mut bytes = header.encode();
    assert!(Header::decode(&bytes).unwrap().is_locked());
    assert_eq!(bytes[44], 2, "the flags");
    bytes[44] = 0;
    sum_anew(&mut bytes);
    assert!(matches!(Header::decode(&bytes).unwrap().unlock(SlotId(1), &file), Err(Error::Damaged { .. })));
}

proptest! {
    #[test]
    fn rubbish_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..600), at in 14usize..200) {
        prop_assert!(Header::decode(&bytes).is_err());
        let mut spliced = example().0.encode();
        for (to, from) in spliced[at..].iter_mut().zip(&bytes) {
            *to = *from;
        }
        if spliced.len() > 78 {
            sum_anew(&mut spliced);
            let _any_answer = Header::decode(&spliced);
        }
    }
}
