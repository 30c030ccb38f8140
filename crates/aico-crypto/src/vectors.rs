//! The committed vectors, value by value: `testvectors/` was computed with other libraries.

use serde_json::Value;

use crate::aead::{open_random, open_with};
use crate::kdf::HandshakeSecret;
use crate::{
    ChannelKey, ComponentKind, DataKey, EncapsulationKey, EphemeralSecret, Error, FileKey, FileWrapKey, Fingerprint,
    Gathering, GrantKey, HeaderKey, IdentitySecret, KemSecret, LockedKey, LogKey, Name, OsRandom, Password, Psk,
    PublicKey, RecoveryCode, RootKey, Secret, Share, SignatureLabel, SlotSecret, SpaceKey, StoreKey, TranscriptHash,
    WordFault, digest, handshake_mac, sha256,
};

const CLASSICAL: &str = include_str!("../../../testvectors/channel/handshake-classical.json");
const HYBRID: &str = include_str!("../../../testvectors/channel/handshake-hybrid.json");
const KEYS: &str = include_str!("../../../testvectors/vault/keys.json");
const SHARES: &str = include_str!("../../../testvectors/vault/recovery-shares.json");

fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn unhex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap().as_bytes();
    digits
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn secret<const N: usize>(value: &Value) -> Secret<N> {
    Secret::copy_of_slice(&unhex(value)).unwrap()
}

fn derived<'a>(vectors: &'a Value, label: &str) -> &'a Value {
    vectors["derived"].as_array().unwrap().iter().find(|entry| entry["label"] == label).unwrap()
}

fn wrapped<'a>(vectors: &'a Value, role: &str) -> &'a Value {
    vectors["wrapped"].as_array().unwrap().iter().find(|entry| entry["role"] == role).unwrap()
}

#[test]
fn every_value_of_a_handshake() {
    for vectors in [CLASSICAL, HYBRID] {
        let v = read(vectors);
        let party = |side: &str, part: &str| unhex(&v[side][part]);
        let responder = IdentitySecret::from_seed(secret(&v["responder"]["identity_seed"])).unwrap();
        let initiator = IdentitySecret::from_seed(secret(&v["initiator"]["identity_seed"])).unwrap();
        let hello = unhex(&v["hello"]);
        let (before, mac1) = hello.split_at(hello.len() - 16);
        assert_eq!(handshake_mac(responder.public(), before), mac1);

        let th1 = TranscriptHash::of(b'1', &[&hello]);
        assert_eq!(th1.as_bytes()[..], unhex(&v["th1"]));
        let reply = unhex(&v["reply"]);
        let th2 = TranscriptHash::of(b'2', &[th1.as_bytes(), &reply[..reply.len() - 176]]);
        assert_eq!(th2.as_bytes()[..], unhex(&v["th2"]));
        let secret_of = |side: &str| {
            EphemeralSecret::hazmat_from_bytes(party(side, "ephemeral_secret")[..].try_into().unwrap()).unwrap()
        };
        let public = |side: &str| <[u8; 32]>::try_from(&party(side, "ephemeral_public")[..]).unwrap();
        let kx = secret_of("initiator").agree_as_initiator(&public("responder")).unwrap();
        assert_eq!(kx.bytes()[..], unhex(&v["kx"]));
        let kem = v["ml_kem_768"].as_object().map(|kem| {
            let key = KemSecret::hazmat_from_bytes(&unhex(&kem["dk"]), unhex(&kem["ek"])[..].try_into().unwrap());
            key.unwrap().decapsulate(unhex(&kem["ct"])[..].try_into().unwrap()).unwrap()
        });
        let hs = HandshakeSecret::extract(&Psk::none(), kem.as_ref(), &kx, &th2);
        let identity = |key: ChannelKey, sealed: &[u8], associated: &[u8]| key.open_once(associated, sealed).unwrap();
        let inside = identity(hs.responder_key(&th2), &reply[reply.len() - 176..], th2.as_bytes());
        assert_eq!(inside, unhex(&v["sealed_plaintext_r"]));
        let again = hs.responder_key(&th2).seal_once(th2.as_bytes(), &inside).unwrap();
        assert_eq!(again, reply[reply.len() - 176..]);

        let next = |k: u8, before: &TranscriptHash, more: &str| {
            let hash = TranscriptHash::of(k, &[before.as_bytes(), &unhex(&v[more])]);
            assert_eq!(hash.as_bytes()[..], unhex(&v[format!("th{}", char::from(k))]));
            hash
        };
        let id_r = &inside[..64];
        let th3 = TranscriptHash::of(b'3', &[th2.as_bytes(), id_r]);
        assert_eq!(th3.as_bytes()[..], unhex(&v["th3"]));
        assert_eq!(responder.sign(SignatureLabel::RESPONDER, th3.as_bytes()).unwrap()[..], unhex(&v["sig_r"]));
        let th4 = next(b'4', &th3, "sig_r");
        assert_eq!(hs.responder_fin(&th2, &th4)[..], unhex(&v["fin_r"]));
        let th5 = next(b'5', &th4, "fin_r");
        let finish = unhex(&v["finish"]);
        let inside = identity(hs.initiator_key(&th2), &finish[9..], th5.as_bytes());
        assert_eq!(inside, unhex(&v["sealed_plaintext_i"]));
        let th6 = TranscriptHash::of(b'6', &[th5.as_bytes(), &inside[..64]]);
        assert_eq!(initiator.sign(SignatureLabel::INITIATOR, th6.as_bytes()).unwrap()[..], unhex(&v["sig_i"]));
        let th7 = next(b'7', &th6, "sig_i");
        assert_eq!(hs.initiator_fin(&th2, &th7)[..], unhex(&v["fin_i"]));
        let th8 = next(b'8', &th7, "fin_i");
        let ms = hs.into_master(&th8);
        let (to_initiator, to_responder) = ms.traffic_keys(0);
        assert_eq!(to_initiator.0.bytes()[..], unhex(&v["traffic_responder_to_initiator"]));
        assert_eq!(to_responder.0.bytes()[..], unhex(&v["traffic_initiator_to_responder"]));
        let (cid_i, cid_r) = ms.channel_ids(0);
        assert_eq!((cid_i.to_vec(), cid_r.to_vec()), (unhex(&v["cid_i"]), unhex(&v["cid_r"])));
        assert_eq!(ms.exporter(0)[..], unhex(&v["exporter"]));
    }
}

#[test]
fn every_key_of_the_tree() {
    let v = read(KEYS);
    let open = |role: &str| {
        let entry = wrapped(&v, role);
        (unhex(&entry["wrapped"]), unhex(&entry["context"]), unhex(&entry["inner"]), secret::<32>(&entry["key"]))
    };
    let (bytes, context, inner, key) = open("root space");
    let root = RootKey(key);
    let space: SpaceKey = root.unwrap_space(&bytes, &context).unwrap();
    assert_eq!(space.0.bytes()[..], inner);
    assert!(root.is_same(&root) && !root.is_same(&RootKey::make(&OsRandom).unwrap()));

    let header: HeaderKey = root.header_key();
    let probe = header.authenticate(b"a header");
    assert!(header.verify(b"a header", &probe).is_ok() && header.verify(b"another", &probe).is_err());
    assert_eq!(header.0.bytes()[..], unhex(&derived(&v, "vault header")["out"]));

    let store: StoreKey = space.store_key();
    assert_eq!(store.0.bytes()[..], unhex(&derived(&v, "store sqlcipher")["out"]));
    let old: FileWrapKey = space.file_wrap_key();
    assert_eq!(old.0.bytes()[..], unhex(&derived(&v, "file wrap")["out"]));
    let (bytes, context, inner, _) = open("space data");
    let data: DataKey = space.unwrap_data(&bytes, &context).unwrap();
    assert_eq!(data.0.bytes()[..], inner);
    let (place, sealed) = (unhex(&v["value"]["place"]), unhex(&v["value"]["sealed"]));
    assert_eq!(data.open_value(&place, &sealed).unwrap(), unhex(&v["value"]["value"]));
    assert!(data.open_value(b"elsewhere", &sealed).is_err());
    let files: FileWrapKey = data.file_wrap_key();
    let (bytes, context, inner, _) = open("space file");
    let file: FileKey = files.unwrap_file(&bytes, &context).unwrap();
    assert_eq!(file.0.bytes()[..], inner);

    let (bytes, context, _, key) = open("space log");
    let system = SpaceKey(key);
    let log: LogKey = system.unwrap_log(&bytes, &context).unwrap();
    assert_eq!(log.seal_key().0.bytes()[..], unhex(&derived(&v, "log seal")["out"]));
    let signer = IdentitySecret::from_seed(secret(&derived(&v, "log signer")["out"])).unwrap();
    assert_eq!(log.public().unwrap(), *signer.public());
    let note = log.sign_note("a head\n").unwrap();
    assert!(log.public().unwrap().verify_note("a head\n", &note).is_ok());
    assert!(log.public().unwrap().verify_note("another head\n", &note).is_err());

    let (bytes, context, ..) = open("space grant");
    let grants: GrantKey = system.unwrap_grant(&bytes, &context).unwrap();
    let signer = IdentitySecret::from_seed(secret(&derived(&v, "grant signer")["out"])).unwrap();
    assert_eq!(grants.public().unwrap(), *signer.public());

    let (bytes, context, ..) = open("space pseudonym");
    let entry = derived(&v, "pseudonym");
    let pseudonyms = system.unwrap_pseudonym(&bytes, &context).unwrap();
    assert_eq!(pseudonyms.pseudonym(&unhex(&entry["context"]))[..], unhex(&entry["out"]));

    let (bytes, context, ..) = open("space locked");
    let locked: LockedKey = system.unwrap_locked(&bytes, &context).unwrap();
    let entry = derived(&v, "locked mac");
    assert_eq!(locked.authenticate(&unhex(&entry["context"]))[..], unhex(&entry["out"]));
    assert_eq!(locked.into_next().0.bytes()[..], unhex(&derived(&v, "locked next")["out"]));

    let device = root.identity_seal_key().open(&unhex(&v["identity"]["sealed"])).unwrap();
    assert_eq!(device.seed()[..], unhex(&v["identity"]["seed"]));
}

#[test]
fn what_a_person_holds() {
    let v = read(KEYS);
    let words: Vec<&str> =
        v["recovery"]["words"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let code = RecoveryCode::parse(&words.join(" ")).unwrap();
    assert_eq!(code.slot_secret().0.bytes()[..], unhex(&v["recovery"]["slot_secret"]));
    assert!(code.hazmat_words(|shown| shown[..] == words[..]));
    let file = SlotSecret::hazmat_from_platform(v["key_file"]["text"].as_str().unwrap()).unwrap();
    assert_eq!(file.0.bytes()[..], unhex(&v["key_file"]["secret"]));
    let password = Password::parse(v["password"]["text"].as_str().unwrap()).unwrap();
    assert_eq!(password.length(), 11);
    let cost = ["memory_mib", "passes", "lanes"].map(|name| v["password"][name].as_u64().unwrap() as u32);
    let cost = crate::StretchCost::decode(cost.map(u32::to_be_bytes).as_flattened().try_into().unwrap()).unwrap();
    let stretched = password.stretch(unhex(&v["password"]["salt"])[..].try_into().unwrap(), cost).unwrap();
    assert_eq!(stretched.0.bytes()[..], unhex(&v["password"]["slot_secret"]));
}

#[test]
fn shares_of_a_recovery_code() {
    let v = read(SHARES);
    let text = |words: &Value| words.as_str().unwrap().to_owned();
    for split in v["splits"].as_array().unwrap() {
        let written = split["shares"].as_array().unwrap();
        let read = |at: usize| Share::parse(&text(&written[at]["words"])).unwrap();
        let threshold = split["threshold"].as_u64().unwrap() as usize;
        for from in 0..written.len() {
            let share = read(from);
            assert_eq!(
                (u64::from(share.index()), usize::from(share.threshold()), u64::from(share.set())),
                (from as u64 + 1, threshold, split["set"].as_u64().unwrap())
            );
            assert_eq!(share.hazmat_share_words(|words| words.join(" ")), text(&written[from]["words"]));
            let mut gathering = Gathering::default();
            for n in 0..threshold {
                gathering.add(read((from + n) % written.len())).unwrap();
            }
            let code = gathering.restore().unwrap();
            assert_eq!(code.hazmat_words(|words| words.join(" ")), text(&v["code_words"]));
        }
    }
    for refused in v["refused"].as_array().unwrap() {
        let mut gathering = Gathering::default();
        let mut words = refused["shares"].as_array().unwrap().iter();
        let taken = words.try_for_each(|words| gathering.add(Share::parse(&text(words))?).map(drop));
        assert!(taken.and_then(|()| gathering.restore().map(drop)).is_err(), "{}", refused["reason"]);
    }
}

#[test]
fn entries_open_at_their_place_only() {
    let key = LogKey::make(&OsRandom).unwrap().seal_key();
    let sealed = key.seal(b"place", b"entry", &OsRandom).unwrap();
    assert_eq!(key.open(b"place", &sealed).unwrap(), b"entry");
    assert!(key.open(b"elsewhere", &sealed).is_err());
    assert_eq!(open_random(&key.0, b"place", &sealed).unwrap(), b"entry");
}

#[test]
fn a_channel_key_opens_what_it_sealed() {
    let key = || ChannelKey(Secret::copy_of(&[9; 32]));
    let sealed = key().seal_once(b"ad", b"identity").unwrap();
    assert_eq!(key().open_once(b"ad", &sealed).unwrap(), b"identity");
    assert_eq!(open_with(&Secret::copy_of(&[9; 32]), &[0; 24], b"ad", &sealed).unwrap(), b"identity");
    assert!(key().open_once(b"other", &sealed).is_err());
}

#[test]
fn digests_of_the_standards() {
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let text: String = sha256(&[b"a", b"bc"]).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text, abc, "FIPS 180-4");
    assert_eq!(digest(b"abc")[..4], [0xbd, 0xdd, 0x81, 0x3c], "BLAKE2b-256, RFC 7693");
}

#[test]
fn kinds_and_names_have_one_text() {
    let all = [ComponentKind::Backend, ComponentKind::Cli];
    for kind in all {
        assert_eq!(ComponentKind::from_text(kind.as_str()).unwrap(), kind);
    }
    assert_eq!(all.map(ComponentKind::as_str), ["backend", "cli"]);
    assert!(ComponentKind::from_text("xyzzy").is_err());
    let name = Name::parse("kitchen").unwrap();
    assert_eq!((name.as_str(), name.to_string().as_str()), ("kitchen", "kitchen"));
    let key = |seed| *IdentitySecret::from_seed(Secret::copy_of(&[seed; 32])).unwrap().public();
    assert_ne!(Fingerprint::of(&key(1)), Fingerprint::of(&key(2)));
}

/// The largest y below the prime, and keys that look like it in part.
#[test]
fn keys_near_the_prime_are_taken_where_they_are_canonical() {
    let with = |low: u8, middle: u8, high: u8| {
        let mut bytes = [0xff; 32];
        (bytes[0], bytes[15], bytes[31]) = (low, middle, high);
        PublicKey::parse(&bytes).is_ok()
    };
    assert!(with(0xeb, 0xff, 0x7f), "p - 2");
    assert!(with(0xff, 0xfe, 0x7f) && with(0xff, 0xff, 0x7e) && with(0xed, 0xff, 0x3f));
    assert!(!with(0xee, 0xff, 0x7f) && !with(0xff, 0xff, 0xff));
}

#[test]
fn both_coefficients_of_a_triple_are_looked_at() {
    let good = *KemSecret::make().unwrap().public();
    let with = |triple: [u8; 3]| {
        let mut key = good;
        key[3..6].copy_from_slice(&triple);
        EncapsulationKey::parse(&key).is_ok()
    };
    // 3328 = 0xd00 is the last; 3329 = 0xd01 is not reduced.
    assert!(with([0x00, 0x0d, 0x00]) && with([0x00, 0x00, 0xd0]) && with([0xff, 0xfc, 0xcf]));
    assert!(!with([0x01, 0x0d, 0x00]) && !with([0x00, 0x10, 0xd0]) && !with([0x00, 0xf0, 0xff]));
}

#[test]
fn texts_at_their_limits() {
    assert!(Password::parse(&"x".repeat(1024)).is_ok());
    assert!(SlotSecret::hazmat_from_platform("AICO-SLOT-1-").is_err());
    let seed = "0f".repeat(32);
    let there = IdentitySecret::hazmat_from_file(&seed).unwrap();
    assert!(there.hazmat_to_file(|digits| digits == seed));
    for bad in [&seed[2..], &format!("{}zz", &seed[2..]), &format!("{seed}00"), &format!("+{}", &seed[1..])] {
        assert!(matches!(IdentitySecret::hazmat_from_file(bad), Err(Error::Text(_))), "{bad}");
    }
    // One byte more than a code may have in any spelling.
    let words = "abandon ".repeat(15);
    assert!(!matches!(RecoveryCode::parse(&words), Err(WordFault::Count(_))));
    assert!(matches!(RecoveryCode::parse(&format!("{words}{}", " ".repeat(1000))), Err(WordFault::Count(15))));
    assert_eq!(WordFault::Swapped(3).to_string(), "words 3 and 4 are in each other's place");
}
