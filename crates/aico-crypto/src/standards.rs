//! Vectors of others: Wycheproof (C2SP), RFC 7693, BLAKE2's own, libsodium's construction by a second library. The
//! counts stand here and in `docs/security/primitives.md`; a change of them is looked at.

use std::fmt::Write;

use aws_lc_rs::kem::{DecapsulationKey, ML_KEM_768};
use proptest::prelude::*;
use wycheproof::TestResult::{Acceptable, Invalid, Valid};

use crate::aead::{open_with, seal_with};
use crate::{EncapsulationKey, EphemeralSecret, KemSecret, PublicKey, Secret, TrafficKey};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[test]
fn xchacha20_poly1305_of_wycheproof() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::XChaCha20Poly1305).unwrap();
    let mut run = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        // Another nonce length cannot be said in our types.
        let (Ok(key), Ok(nonce)) = (test.key[..].try_into(), test.nonce[..].try_into()) else {
            assert_eq!(test.result, Invalid);
            continue;
        };
        let key = Secret::<32>::copy_of(key);
        let sealed = [&test.ct[..], &test.tag[..]].concat();
        let opened = open_with(&key, nonce, &test.aad, &sealed);
        match test.result {
            Valid | Acceptable => {
                assert_eq!(opened.unwrap(), test.pt[..], "case {}", test.tc_id);
                assert_eq!(seal_with(&key, nonce, &test.aad, &test.pt).unwrap(), sealed);
            }
            Invalid => assert!(opened.is_err(), "case {}", test.tc_id),
        }
        run += 1;
    }
    assert_eq!(run, XCHACHA_CASES);
}

/// The half that aws-lc does, with nonces that begin with four zero bytes as ours all do.
#[test]
fn chacha20_poly1305_of_wycheproof() {
    use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::ChaCha20Poly1305).unwrap();
    let mut run = 0;
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let Ok(nonce) = Nonce::try_assume_unique_for_key(&test.nonce) else {
            assert_eq!(test.result, Invalid);
            continue;
        };
        let key = LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &test.key).unwrap());
        let mut sealed = [&test.ct[..], &test.tag[..]].concat();
        let opened = key.open_in_place(nonce, Aad::from(&test.aad[..]), &mut sealed);
        match test.result {
            Valid | Acceptable => assert_eq!(*opened.unwrap(), test.pt[..], "case {}", test.tc_id),
            Invalid => assert!(opened.is_err(), "case {}", test.tc_id),
        }
        run += 1;
    }
    assert_eq!(run, CHACHA_CASES);
}

#[test]
fn ed25519_of_wycheproof() {
    let set = wycheproof::eddsa::TestSet::load(wycheproof::eddsa::TestName::Ed25519).unwrap();
    let mut run = 0;
    for group in &set.test_groups {
        let key = PublicKey::parse(group.key.pk[..].try_into().unwrap());
        for test in &group.tests {
            let signature = test.sig[..].try_into().map_err(|_| crate::Error::Failed);
            let verified = signature.and_then(|signature| key.and_then(|key| key.verify_raw(&test.msg, &signature)));
            assert_eq!(verified.is_ok(), test.result == Valid, "case {}: {}", test.tc_id, test.comment);
            run += 1;
        }
    }
    assert_eq!(run, ED25519_CASES);
}

#[test]
fn x25519_of_wycheproof() {
    let set = wycheproof::xdh::TestSet::load(wycheproof::xdh::TestName::X25519).unwrap();
    let (mut run, mut refused) = (0, 0);
    for test in set.test_groups.iter().flat_map(|group| &group.tests) {
        let private: [u8; 32] = test.private_key[..].try_into().unwrap();
        let public: [u8; 32] = test.public_key[..].try_into().unwrap();
        let ours = EphemeralSecret::hazmat_from_bytes(&private).unwrap();
        let own = *ours.public();
        let agreed = ours.agree_as_initiator(&public);
        if test.shared_secret.iter().all(|byte| *byte == 0) {
            assert!(agreed.is_err(), "case {}: the all-zero secret is refused", test.tc_id);
            refused += 1;
        } else {
            let mut hash = blake2b_simd::Params::new().hash_length(64).to_state();
            hash.update(&test.shared_secret).update(&own).update(&public);
            assert_eq!(agreed.unwrap().bytes(), hash.finalize().as_bytes(), "case {}", test.tc_id);
        }
        run += 1;
    }
    assert_eq!((run, refused), (X25519_CASES, X25519_ZERO_CASES));
}

#[test]
fn ml_kem_768_of_wycheproof() {
    use wycheproof::mlkem::{TestName, TestSet};
    let mut run = 0;
    // Encapsulation keys: those that FIPS 203 refuses are refused.
    for test in TestSet::load(TestName::MlKem768Encaps).unwrap().test_groups.iter().flat_map(|group| &group.tests) {
        let key: Option<&[u8; 1184]> = test.encaps_key.as_ref().and_then(|key| key[..].try_into().ok());
        let taken = key.is_some_and(|key| EncapsulationKey::parse(key).is_ok());
        assert_eq!(taken, test.result != Invalid, "case {}: {}", test.tc_id, test.comment);
        run += 1;
    }
    // Decapsulation, with keys of a second library: aws-lc takes no seed.
    for test in TestSet::load(TestName::MlKem768).unwrap().test_groups.iter().flat_map(|group| &group.tests) {
        let Some(seed) = test.seed.as_ref().and_then(|seed| <[u8; 64]>::try_from(&seed[..]).ok()) else { continue };
        let (secret, public) = expanded(&seed);
        assert!(test.encaps_key.as_ref().is_none_or(|key| key[..] == public));
        let Some(ciphertext) = test.ct.as_ref().and_then(|ct| <&[u8; 1088]>::try_from(&ct[..]).ok()) else {
            assert_eq!(test.result, Invalid, "another length cannot be said in our types");
            continue;
        };
        let ours = KemSecret::hazmat_from_bytes(&secret, &public).unwrap();
        let shared = ours.decapsulate(ciphertext).unwrap();
        assert_eq!(shared.bytes()[..], test.shared_secret.as_ref().unwrap()[..], "case {}", test.tc_id);
        run += 1;
    }
    // Decapsulation keys that contradict themselves: aws-lc refuses what FIPS 203, section 7.3, refuses.
    for test in TestSet::load(TestName::MlKem768SemiExpandedDecaps).unwrap().test_groups.iter().flat_map(|g| &g.tests) {
        let key = test.decaps_key.as_ref().and_then(|key| DecapsulationKey::new(&ML_KEM_768, key).ok());
        let ciphertext = test.ct.as_ref().map(|ct| aws_lc_rs::kem::Ciphertext::from(&ct[..]));
        let shared = key.zip(ciphertext).and_then(|(key, ciphertext)| key.decapsulate(ciphertext).ok());
        match test.result {
            // Only a key that is read back would need this check, and none of ours ever is.
            Invalid => continue,
            _ => assert_eq!(shared.unwrap().as_ref(), &test.shared_secret.as_ref().unwrap()[..], "case {}", test.tc_id),
        }
        run += 1;
    }
    assert_eq!(run, ML_KEM_CASES);
}

/// The expanded decapsulation key and the encapsulation key of a seed, by RustCrypto.
fn expanded(seed: &[u8; 64]) -> ([u8; 2400], [u8; 1184]) {
    #[expect(deprecated, reason = "aws-lc takes the expanded key, not the seed")]
    use ml_kem::ExpandedKeyEncoding;
    use ml_kem::KeyExport;
    let key = ml_kem::DecapsulationKey768::from_seed((*seed).into());
    let public = key.encapsulation_key().to_bytes();
    #[expect(deprecated, reason = "aws-lc takes the expanded key, not the seed")]
    let secret = key.to_expanded_bytes();
    (secret[..].try_into().unwrap(), public[..].try_into().unwrap())
}

/// RFC 7693, appendix A and E: the digest of "abc", and the self-test over 6 × 6 lengths with and without a key.
#[test]
fn blake2b_of_rfc_7693() {
    let abc = "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1\
               7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923";
    assert_eq!(hex(blake2b_simd::blake2b(b"abc").as_bytes()), abc);

    let sequence = |length: usize, seed: u32| {
        let (mut a, mut b) = (0xdead_4bad_u32.wrapping_mul(seed), 1u32);
        let step = |_| {
            let next = a.wrapping_add(b);
            (a, b) = (b, next);
            (next >> 24) as u8
        };
        (0..length).map(step).collect::<Vec<u8>>()
    };
    let mut all = blake2b_simd::Params::new().hash_length(32).to_state();
    for out in [20usize, 32, 48, 64] {
        for length in [0usize, 3, 128, 129, 255, 1024] {
            let message = sequence(length, length as u32);
            let mut params = blake2b_simd::Params::new();
            params.hash_length(out);
            all.update(params.hash(&message).as_bytes());
            all.update(params.key(&sequence(out, out as u32)).hash(&message).as_bytes());
        }
    }
    assert_eq!(hex(all.finalize().as_bytes()), "c23a7800d98123bd10f506c61e29da5603d763b8bbad2e737f5e765a7bccd475");
}

proptest! {
    /// Each primitive against a second library, on what the vectors do not cover: our keyed, personalised hashes.
    #[test]
    fn blake2b_equals_rustcrypto(key in prop::collection::vec(any::<u8>(), 1..=64), text in prop::collection::vec(any::<u8>(), 0..600)) {
        use blake2::digest::{KeyInit, Mac};
        let ours = blake2b_simd::Params::new().hash_length(32).key(&key).hash(&text).as_bytes().to_vec();
        let theirs = blake2::Blake2bMac::<blake2::digest::consts::U32>::new_from_slice(&key).unwrap().chain_update(&text);
        prop_assert_eq!(ours, theirs.finalize().into_bytes().to_vec());
    }

    /// The cached step of HChaCha20 changes nothing: a record key's output is XChaCha20-Poly1305.
    #[test]
    fn record_keys_equal_rustcrypto(key: [u8; 32], prefix: [u8; 16], counter: u64, text in prop::collection::vec(any::<u8>(), 0..300)) {
        use chacha20poly1305::aead::{Aead, KeyInit, Payload};
        let record = TrafficKey(Secret::copy_of(&key)).record_key(&prefix).unwrap();
        let mut ours = text.clone();
        record.seal(counter, b"ad", &mut ours, 0).unwrap();
        let nonce: [u8; 24] = [prefix.as_slice(), &counter.to_be_bytes()].concat().try_into().unwrap();
        let theirs = chacha20poly1305::XChaCha20Poly1305::new(&key.into());
        prop_assert_eq!(ours, theirs.encrypt(&nonce.into(), Payload { msg: &text, aad: b"ad" }).unwrap());
    }
}

/// Argon2id by a second library, with several lanes (libsodium has one).
#[test]
fn argon2id_equals_a_second_library() {
    for (memory_kib, passes, lanes) in [(64, 1, 1), (256, 3, 4), (1024, 2, 8)] {
        let config = argon2_second::Config {
            variant: argon2_second::Variant::Argon2id,
            mem_cost: memory_kib,
            time_cost: passes,
            lanes,
            hash_length: 32,
            ..argon2_second::Config::original()
        };
        let theirs = argon2_second::hash_raw(b"password", b"sixteen bytes ok", &config).unwrap();
        let params = argon2::Params::new(memory_kib, passes, lanes, Some(32)).unwrap();
        let ours = argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
        let mut out = [0; 32];
        ours.hash_password_into(b"password", b"sixteen bytes ok", &mut out).unwrap();
        assert_eq!(theirs, out);
    }
}

const XCHACHA_CASES: usize = 306;
const CHACHA_CASES: usize = 316;
const ED25519_CASES: usize = 151;
const X25519_CASES: usize = 518;
const X25519_ZERO_CASES: usize = 31;
const ML_KEM_CASES: usize = 429;
