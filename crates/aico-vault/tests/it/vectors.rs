//! `testvectors/vault/` and `testvectors/audit/`: key derivation, a header, a log, computed here from the specification
//! with other libraries than the code uses, and read by the code. `./dev vectors` writes the files anew.

use std::fs;
use std::path::PathBuf;

use aico_crypto::{LogKey, Password, RecoveryCode, SALT_BYTES, SlotSecret, StretchCost};
use argon2::{Algorithm, Argon2, Params, Version};
use base64ct::{Base64, Base64Unpadded, Encoding};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use ed25519_dalek::Signer;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use aico_vault::audit::{self, Anchor, AuditLog, Expectations, LogId};
use aico_vault::{Error, Header, SlotId};

fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../testvectors").join(name)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap().as_bytes();
    digits.as_chunks::<2>().0.iter().map(|p| u8::from_str_radix(str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

/// Fixed bytes that a reader can make again: the front of BLAKE2b-256 of a name.
fn fixed<const N: usize>(name: &str) -> [u8; N] {
    blake2b(32, &[], name.as_bytes())[..N].try_into().unwrap()
}

fn blake2b(bytes: usize, key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut params = blake2b_simd::Params::new();
    params.hash_length(bytes).key(key).hash(message).as_bytes().to_vec()
}

fn kdf(key: &[u8], label: &str, context: &[u8], bytes: usize) -> Vec<u8> {
    blake2b(bytes, key, &[&[label.len() as u8], label.as_bytes(), context].concat())
}

fn seal(key: &[u8], nonce: &[u8; 24], associated: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let cipher = chacha20poly1305::XChaCha20Poly1305::new(key.try_into().unwrap());
    let sealed = cipher.encrypt(nonce.into(), Payload { msg: plaintext, aad: associated }).unwrap();
    [nonce.as_slice(), &sealed].concat()
}

fn role(role: &str, context: &[u8]) -> Vec<u8> {
    [&[role.len() as u8], role.as_bytes(), context].concat()
}

fn wrap(key: &[u8], as_role: &str, context: &[u8], inner: &[u8], nonce: &str) -> Vec<u8> {
    seal(key, &fixed(nonce), &role(as_role, context), inner)
}

/// Compares `value` with the committed file, or writes it.
fn hold(name: &str, value: &Value) {
    if std::env::var_os("AICO_WRITE_VECTORS").is_some() {
        fs::create_dir_all(path(name).parent().unwrap()).unwrap();
        fs::write(path(name), serde_json::to_string_pretty(value).unwrap() + "\n").unwrap();
    }
    let committed: Value = serde_json::from_slice(&fs::read(path(name)).unwrap()).unwrap();
    assert!(committed == *value, "{name} is not what the specification gives; `./dev vectors` writes it anew");
}

/// The 15 words of a code: 128 bits and the first 37 of its check.
fn words(code: &[u8; 16]) -> Vec<&'static str> {
    let check = kdf(code, "recovery check", b"", 5);
    let bits: Vec<u8> = code.iter().chain(&check).flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1)).collect();
    let index = |bits: &[u8]| bits.iter().fold(0usize, |index, bit| index << 1 | usize::from(*bit));
    bits[..165].chunks(11).map(|bits| bip39::Language::English.word_list()[index(bits)]).collect()
}

const PASSWORD: &str = "Gr\u{fc}\u{df}e, 1995";
const COST: [u32; 3] = [64, 1, 4];

/// Id, kind, secret, parameters, wrap.
type SlotParts<'a> = (u8, u8, &'a [u8], Vec<u8>, u8);

struct Secrets {
    key_file: [u8; 32],
    keyring: [u8; 32],
    password: Vec<u8>,
    code: [u8; 16],
    recovery: Vec<u8>,
    root: [u8; 32],
    space: [u8; 32],
    vault: [u8; 16],
    salt: [u8; 16],
}

impl Secrets {
    fn new() -> Self {
        let (salt, mut password) = (fixed("salt"), vec![0; 32]);
        let params = Params::new(COST[0] * 1024, COST[1], COST[2], Some(32)).unwrap();
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        argon2.hash_password_into(PASSWORD.as_bytes(), &salt, &mut password).unwrap();
        let code = fixed("recovery code");
        Self {
            key_file: fixed("key file secret"),
            keyring: fixed("keyring secret"),
            password,
            recovery: kdf(&code, "recovery slot", b"", 32),
            code,
            root: fixed("root key"),
            space: fixed("system space key"),
            vault: fixed("vault id"),
            salt,
        }
    }

    fn parameters(&self) -> Vec<u8> {
        [COST.map(u32::to_be_bytes).as_flattened(), &self.salt].concat()
    }

    fn slots(&self) -> [SlotParts<'_>; 4] {
        [
            (1, 1, &self.key_file, Vec::new(), 2),
            (2, 2, &self.keyring, Vec::new(), 3),
            (3, 3, &self.password, self.parameters(), 2),
            (7, 4, &self.recovery, Vec::new(), 0),
        ]
    }
}

fn x25519_public(secret: &[u8]) -> [u8; 32] {
    let secret: [u8; 32] = secret.try_into().unwrap();
    x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(secret)).to_bytes()
}

fn slot(secrets: &Secrets, (id, kind, secret, parameters, wrap_code): SlotParts<'_>) -> (Value, Vec<u8>) {
    let context = [secrets.vault.as_slice(), &[id, kind], &parameters].concat();
    let key = kdf(secret, "slot key", &context, 32);
    let check = kdf(&key, "slot check", b"", 16);
    let exchange = kdf(&key, "slot exchange", b"", 32);
    let public = x25519_public(&exchange);
    let vouch = kdf(&key, "slot vouch", b"", 32);
    let sealed = wrap_code & 1 == 1;
    let root = if sealed {
        let ephemeral: [u8; 32] = fixed("slot 2 ephemeral");
        let shared = x25519_dalek::StaticSecret::from(ephemeral).diffie_hellman(&public.into());
        let ours = x25519_public(&ephemeral);
        let kx = blake2b(64, &[], &[shared.as_bytes().as_slice(), &ours, &public].concat());
        let wrapping = kdf(&kx, "slot seal", &vouch, 32);
        [ours.to_vec(), wrap(&wrapping, "slot sealed root", &context, &secrets.root, "slot 2 nonce")].concat()
    } else {
        wrap(&key, "slot root", &context, &secrets.root, &format!("slot {id} nonce"))
    };
    let made = 1_795_436_482_000 + u64::from(id);
    let (made_bytes, start) = (made.to_be_bytes(), [kind, id, wrap_code]);
    let length = u16::try_from(parameters.len()).unwrap().to_be_bytes();
    let voucher = match wrap_code {
        0 => Vec::new(),
        _ => wrap(&secrets.root, "root vouch", &context, &vouch, &format!("slot {id} voucher nonce")),
    };
    let parts: [&[u8]; 8] = [&start, &made_bytes, &length, &parameters, &check, &public, &root, &voucher];
    let value = json!({
        "id": id, "kind": kind, "secret": hex(secret), "parameters": hex(&parameters), "context": hex(&context),
        "slot_key": hex(&key), "check": hex(&check), "exchange_secret": hex(&exchange), "exchange_public": hex(&public),
        "sealed": sealed, "vouch_key": hex(&vouch), "voucher": hex(&voucher), "root": hex(&root), "made_ms": made,
    });
    (value, parts.concat())
}

/// The authenticator and the checksum over `front`.
fn finish(front: &[u8], root: &[u8]) -> Vec<u8> {
    let header_key = kdf(root, "vault header", b"", 32);
    let summed = [front, &blake2b(32, &[], front)].concat();
    [summed.as_slice(), &kdf(&header_key, "vault header", &summed, 32)].concat()
}

fn header() -> Value {
    let secrets = Secrets::new();
    let (slots, bytes): (Vec<Value>, Vec<Vec<u8>>) =
        secrets.slots().into_iter().map(|parts| slot(&secrets, parts)).unzip();
    let space: [u8; 16] = fixed("system space id");
    let place = [secrets.vault.as_slice(), &space, &3u32.to_be_bytes()].concat();
    let wrapped = wrap(&secrets.root, "root space", &place, &secrets.space, "space nonce");
    let body = [
        secrets.vault.as_slice(),
        &41u64.to_be_bytes(),
        &[1],
        &1_795_436_482_000u64.to_be_bytes(),
        &space,
        &3u32.to_be_bytes(),
        &wrapped,
        &[4],
        &bytes.concat(),
    ]
    .concat();
    let length = u32::try_from(body.len()).unwrap();
    let front = [b"AICOVLT1".as_slice(), &[0, 2, 0, 0, 0, 2, 0, 0], &length.to_be_bytes(), &body].concat();
    let good = finish(&front, &secrets.root);
    let edit = |at: usize, byte: u8| {
        let mut front = front.clone();
        front[at] ^= byte;
        front
    };
    let summed = |front: &[u8]| [front, &blake2b(32, &[], front), &good[good.len() - 32..]].concat();
    let newer = finish(&[&front[..8], &[0, 3, 0, 9, 0, 8, 0, 7], &front[16..]].concat(), &secrets.root);
    let flipped = |at: usize| {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        bytes
    };
    let planted = |wrap_code: u8| {
        // Everything but the slot's secret, and a root key of somebody else's.
        let theirs = Secrets { root: fixed("another root key"), ..Secrets::new() };
        let (_, mut slot) = slot(&theirs, (2, 2, &theirs.keyring, Vec::new(), wrap_code));
        if wrap_code == 3 {
            // Sealed to the public key with a vouch key that is not the slot's.
            let public: [u8; 32] = unhex(&slots[1]["exchange_public"]).try_into().unwrap();
            let ephemeral: [u8; 32] = fixed("a stranger's ephemeral");
            let shared = x25519_dalek::StaticSecret::from(ephemeral).diffie_hellman(&public.into());
            let ours = x25519_public(&ephemeral);
            let kx = blake2b(64, &[], &[shared.as_bytes().as_slice(), &ours, &public].concat());
            let key = kdf(&kx, "slot seal", &fixed::<32>("a stranger's vouch key"), 32);
            let context = unhex(&slots[1]["context"]);
            let sealed = wrap(&key, "slot sealed root", &context, &theirs.root, "a stranger's nonce");
            let end = slot.len() - 72;
            slot.splice(end - 104..end, [ours.as_slice(), &sealed].concat());
        }
        let wrapped = wrap(&theirs.root, "root space", &place, &theirs.space, "space nonce");
        let count = [1];
        let parts: [&[u8]; 4] = [&body[..53], &wrapped, &count, &slot];
        let body = parts.concat();
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        finish(&[&front[..16], &length, &body].concat(), &theirs.root)
    };
    let unvouched = {
        let mut header = planted(1);
        // As a version without vouchers wrote it: what wrap 1 says, and no voucher.
        let end = header.len() - 64 - 72;
        header.drain(end..header.len() - 64);
        let length = u32::try_from(header.len() - 64 - 20).unwrap().to_be_bytes();
        header.splice(16..20, length);
        finish(&header[..header.len() - 64], &fixed::<32>("another root key"))
    };
    let refused = [
        ("planted", "a root key that a stranger sealed to slot 2, whose secret is to be tried", planted(3), "planted"),
        ("unvouched", "the same without a voucher, as unreleased versions sealed", unvouched, "planted"),
        ("cut", "the last byte is missing", good[..good.len() - 1].to_vec(), "damaged"),
        ("longer", "a byte behind the end", [good.as_slice(), &[0]].concat(), "damaged"),
        ("magic", "another file", flipped(0), "damaged"),
        ("checksum", "a flipped bit of the body", flipped(40), "damaged"),
        ("authenticator", "a flipped bit of the authenticator", flipped(good.len() - 1), "damaged"),
        ("revision", "the revision set back, with a checksum that fits", summed(&edit(43, 1)), "damaged"),
        ("locked", "the owner's lock set, with a checksum that fits", summed(&edit(44, 2)), "damaged"),
        ("flags", "a flag that nobody knows", finish(&edit(44, 0x80), &secrets.root), "damaged"),
        ("slots", "more slots than there are", finish(&edit(145, 1), &secrets.root), "damaged"),
        ("length", "a length that lies", finish(&edit(19, 1), &secrets.root), "damaged"),
        ("newer", "a format of a later version, which says what reads it", newer, "newer"),
    ];
    let refused: Vec<Value> = refused
        .into_iter()
        .map(|(name, why, bytes, is)| json!({"name": name, "why": why, "header": hex(&bytes), "is": is}))
        .collect();
    json!({
        "about": "docs/spec/vault.md, Header and Slots. Random bytes are BLAKE2b-256 of a name, cut to their length.",
        "password": PASSWORD,
        "password_decomposed": "Gru\u{308}\u{df}e, 1995",
        "wrong_password": "Gr\u{fc}sse, 1995",
        "recovery_words": words(&secrets.code),
        "root_key": hex(&secrets.root), "system_space_key": hex(&secrets.space),
        "vault_id": hex(&secrets.vault), "revision": 41, "flags": 1, "system_space_id": hex(&space), "epoch": 3,
        "slots": slots, "header": hex(&good), "refused": refused,
    })
}

fn key_file_text(secret: &[u8]) -> String {
    format!("AICO-SLOT-1-{}", Base64Unpadded::encode_string(secret))
}

fn keys() -> Value {
    let secrets = Secrets::new();
    let space: [u8; 16] = fixed("owner's space id");
    let place = [secrets.vault.as_slice(), &space, &0u32.to_be_bytes()].concat();
    let (owner, log): ([u8; 32], [u8; 32]) = (fixed("owner's space key"), fixed("log key"));
    let data: [u8; 32] = fixed("data key");
    let derive = |of: &str, key: &[u8], label: &str, context: &[u8], bytes: usize| json!({ "of": of, "key": hex(key), "label": label, "context": hex(context), "out": hex(&kdf(key, label, context, bytes)) });
    let wrapped = |as_role: &str, key: &[u8], context: &[u8], inner: &[u8]| {
        let nonce = format!("{as_role} nonce");
        json!({ "role": as_role, "key": hex(key), "context": hex(context), "inner": hex(inner), "nonce": hex(&fixed::<24>(&nonce)),
                "wrapped": hex(&wrap(key, as_role, context, inner, &nonce)) })
    };
    let named = |name: &str| [secrets.vault.as_slice(), name.as_bytes()].concat();
    let locked: [u8; 32] = fixed("locked key");
    let event = br#"{"at_ms":1795436482000,"detail":"a wrong password","what":"unlock.failed"}"#;
    json!({
        "about": "docs/spec/vault.md, Keys. KDF is keyed BLAKE2b over len(label) | label | context.",
        "derived": [
            derive("the recovery code", &secrets.code, "recovery slot", b"", 32),
            derive("the recovery code's checksum", &secrets.code, "recovery check", b"", 5),
            derive("the header's authenticator", &secrets.root, "vault header", b"", 32),
            derive("the device's identity", &secrets.root, "identity seal", b"", 32),
            derive("SQLCipher's raw key", &owner, "store sqlcipher", b"", 32),
            derive("what wraps file keys of older programs", &owner, "file wrap", b"", 32),
            derive("what seals values in the database", &data, "data value", b"", 32),
            derive("what wraps file keys", &data, "data file wrap", b"", 32),
            derive("sealing audit entries", &log, "log seal", b"", 32),
            derive("signing audit heads, an Ed25519 seed", &log, "log signer", b"", 32),
            derive("signing grants, an Ed25519 seed", &fixed::<32>("grant key"), "grant signer", b"", 32),
            derive("a value's pseudonym in the log", &fixed::<32>("pseudonym key"), "pseudonym", b"notes/a", 16),
            derive("a line of a locked vault's log", &locked, "locked mac", event, 32),
            derive("the key of its next line", &locked, "locked next", b"", 32),
        ],
        "wrapped": [
            wrapped("root space", &secrets.root, &place, &owner),
            wrapped("space log", &secrets.space, &named("log"), &log),
            wrapped("space grant", &secrets.space, &named("grant"), &fixed::<32>("grant key")),
            wrapped("space pseudonym", &secrets.space, &named("pseudonym"), &fixed::<32>("pseudonym key")),
            wrapped("space locked", &secrets.space, &named("locked"), &locked),
            wrapped("space data", &owner, &[secrets.vault.as_slice(), &space, &fixed::<16>("data key id")].concat(), &data),
            wrapped("space file", &kdf(&data, "data file wrap", b"", 32), &fixed::<16>("file id"), &fixed::<32>("file key")),
        ],
        "value": {
            "place": hex(&[space.as_slice(), b"notes/a"].concat()),
            "value": hex(b"a value"),
            "sealed": hex(&seal(&kdf(&data, "data value", b"", 32), &fixed("value nonce"), &[space.as_slice(), b"notes/a"].concat(), b"a value")),
        },
        "identity": {
            "seed": hex(&fixed::<32>("device identity")),
            "sealed": hex(&seal(&kdf(&secrets.root, "identity seal", b"", 32), &fixed("identity nonce"), b"device identity",
                                &fixed::<32>("device identity"))),
        },
        "password": {
            "text": PASSWORD, "utf8_nfc": hex(PASSWORD.as_bytes()), "memory_mib": COST[0], "passes": COST[1],
            "lanes": COST[2], "salt": hex(&secrets.salt), "slot_secret": hex(&secrets.password),
        },
        "recovery": { "code": hex(&secrets.code), "words": words(&secrets.code), "slot_secret": hex(&secrets.recovery) },
        "key_file": { "secret": hex(&secrets.key_file), "text": key_file_text(&secrets.key_file) },
    })
}

const LOG: [u8; 16] = [0x5a; 16];

/// RFC 6962, section 2.1.
fn tree(leaves: &[[u8; 32]]) -> [u8; 32] {
    match leaves {
        [] => Sha256::digest(b"").into(),
        [leaf] => *leaf,
        more => {
            let (left, right) = more.split_at(more.len().next_power_of_two() / 2);
            Sha256::new().chain_update([1]).chain_update(tree(left)).chain_update(tree(right)).finalize().into()
        }
    }
}

fn list(entries: &[Vec<u8>]) -> Vec<u8> {
    entries
        .iter()
        .flat_map(|entry| [&u16::try_from(entry.len()).unwrap().to_be_bytes(), entry.as_slice()].concat())
        .collect()
}

struct Log {
    seal_key: Vec<u8>,
    signer: ed25519_dalek::SigningKey,
    origin: String,
}

impl Log {
    fn new() -> Self {
        let key: [u8; 32] = fixed("log key");
        let seed: [u8; 32] = kdf(&key, "log signer", b"", 32).try_into().unwrap();
        Self {
            seal_key: kdf(&key, "log seal", b"", 32),
            signer: ed25519_dalek::SigningKey::from_bytes(&seed),
            origin: format!("aico.local/audit/{}", hex(&LOG)),
        }
    }

    fn key_id(&self) -> [u8; 4] {
        let digest = Sha256::new().chain_update(&self.origin).chain_update([b'\n', 1]);
        digest.chain_update(self.signer.verifying_key().as_bytes()).finalize()[..4].try_into().unwrap()
    }

    fn vkey(&self) -> String {
        let key = [&[1], self.signer.verifying_key().as_bytes().as_slice()].concat();
        format!("{}+{}+{}\n", self.origin, hex(&self.key_id()), Base64::encode_string(&key))
    }

    fn text(&self, leaves: &[[u8; 32]]) -> String {
        format!("{}\n{}\n{}\n", self.origin, leaves.len(), Base64::encode_string(&tree(leaves)))
    }

    fn checkpoint(&self, leaves: &[[u8; 32]]) -> String {
        let text = self.text(leaves);
        let signature = [self.key_id().as_slice(), &self.signer.sign(text.as_bytes()).to_bytes()].concat();
        format!("{text}\n\u{2014} {} {}\n", self.origin, Base64::encode_string(&signature))
    }

    fn entry(&self, index: u64, text: &str) -> Vec<u8> {
        let mut padded = text.as_bytes().to_vec();
        padded.push(0x80);
        padded.resize(padded.len().next_multiple_of(64), 0);
        let place = [LOG.as_slice(), &index.to_be_bytes()].concat();
        seal(&self.seal_key, &fixed(&format!("entry {index} nonce")), &place, &padded)
    }

    fn batch(&self, first: usize, entries: &[Vec<u8>], leaves: &[[u8; 32]]) -> Vec<u8> {
        let list = list(&entries[first..]);
        let head = [
            b"aicobat\x01".as_slice(),
            &(first as u64).to_be_bytes(),
            &u32::try_from(entries.len() - first).unwrap().to_be_bytes(),
            &u32::try_from(list.len()).unwrap().to_be_bytes(),
        ]
        .concat();
        let signature = self.signer.sign(self.text(leaves).as_bytes()).to_bytes();
        [head.as_slice(), &Sha256::digest(&head)[..8], &list, &tree(leaves), &signature].concat()
    }

    /// The files of a log of `texts`, whose tail has a batch up to each of `ends`.
    fn files(&self, texts: &[String], ends: &[usize]) -> Vec<(String, Vec<u8>)> {
        let entries: Vec<Vec<u8>> = texts.iter().enumerate().map(|(at, text)| self.entry(at as u64, text)).collect();
        let leaf = |entry: &Vec<u8>| Sha256::new().chain_update([0]).chain_update(entry).finalize().into();
        let leaves: Vec<[u8; 32]> = entries.iter().map(leaf).collect();
        let bundled = entries.len() / 256 * 256;
        let start = [b"aicotal\x01".as_slice(), &LOG, &(bundled as u64).to_be_bytes()].concat();
        let mut tail = [start.as_slice(), &Sha256::digest(&start)[..8]].concat();
        let mut from = bundled;
        for end in ends {
            tail.extend(self.batch(from, &entries[..*end], &leaves[..*end]));
            from = *end;
        }
        let mut files = vec![
            ("checkpoint".to_owned(), self.checkpoint(&leaves[..bundled]).into_bytes()),
            ("tail".to_owned(), tail),
            ("vkey".to_owned(), self.vkey().into_bytes()),
        ];
        for bundle in 0..bundled / 256 {
            let range = bundle * 256..(bundle + 1) * 256;
            files.push((format!("tile/entries/{bundle:03}"), list(&entries[range.clone()])));
            files.push((format!("tile/0/{bundle:03}"), leaves[range].concat()));
        }
        if bundled > 0 {
            let roots: Vec<[u8; 32]> = leaves[..bundled].chunks(256).map(tree).collect();
            files.push((format!("tile/1/000.p/{}", roots.len()), roots.concat()));
        }
        files
    }
}

fn folder(files: &[(String, Vec<u8>)]) -> Value {
    files
        .iter()
        .map(|(name, bytes)| (name.clone(), Value::from(Base64::encode_string(bytes))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn log() -> Value {
    let log = Log::new();
    let event = |n: usize| {
        format!(r#"{{"at_ms":{},"what":"test","detail":"{}"}}"#, 1_795_436_482_000 + n as u64, "x".repeat(n % 90))
    };
    let long: Vec<String> = (0..261).map(event).collect();
    let short: Vec<String> = long[..5].to_vec();
    let good = log.files(&short, &[2, 3, 5]);
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let mut files = good.clone();
        change(&mut files.iter_mut().find(|(file, _)| file == name).unwrap().1);
        files
    };
    let older = log.files(&short[..3], &[2, 3]);
    let big = log.files(&long, &[258, 261]);
    let without = |name: &str| big.iter().filter(|(file, _)| file != name).cloned().collect::<Vec<_>>();
    let changed = |name: &str, at: usize| {
        let mut files = big.clone();
        files.iter_mut().find(|(file, _)| file == name).unwrap().1[at] ^= 1;
        files
    };
    let refused = [
        ("entry", "a flipped bit in a sealed entry of the tail", with("tail", &|tail| tail[100] ^= 1)),
        (
            "root",
            "a flipped bit in a batch's root",
            with("tail", &|tail| {
                let at = tail.len() - 70;
                tail[at] ^= 1;
            }),
        ),
        (
            "signature",
            "a flipped bit in the last signature",
            with("tail", &|tail| {
                let at = tail.len() - 1;
                tail[at] ^= 1;
            }),
        ),
        ("cut", "the last byte of the tail is missing", with("tail", &|tail| tail.truncate(tail.len() - 1))),
        ("tail", "another log's tail", with("tail", &|tail| tail[8] ^= 1)),
        ("vkey", "another spelling of the key", with("vkey", &|vkey| vkey.push(b'\n'))),
        ("checkpoint", "a size that was not signed", with("checkpoint", &|text| text[50] = b'7')),
        ("extra", "a file that is not the log's", [good.clone(), vec![("tile/9".to_owned(), vec![1])]].concat()),
        ("bundle", "a flipped bit in a bundle", changed("tile/entries/000", 5000)),
        ("tile", "a flipped bit in a tile", changed("tile/0/000", 17)),
        ("missing", "a tile is missing", without("tile/0/000")),
        ("partial", "a flipped bit in a partial tile", changed("tile/1/000.p/1", 0)),
    ];
    let refused: Vec<Value> =
        refused.iter().map(|(name, why, files)| json!({"name": name, "why": why, "files": folder(files)})).collect();
    let anchor = |texts: &[String]| {
        let entries = texts.iter().enumerate().map(|(at, text)| log.entry(at as u64, text));
        let leaves: Vec<[u8; 32]> =
            entries.map(|entry| Sha256::new().chain_update([0]).chain_update(entry).finalize().into()).collect();
        json!({ "size": leaves.len(), "root": hex(&tree(&leaves)), "checkpoint": log.checkpoint(&leaves) })
    };
    json!({
        "about": "docs/spec/audit-log.md. Files are base64. Entries of the second log are those of the first and more, made the same way.",
        "log_id": hex(&LOG), "log_key": hex(&fixed::<32>("log key")), "seal_key": hex(&log.seal_key),
        "signer_seed": hex(&log.signer.to_bytes()), "vkey": log.vkey(),
        "logs": [
            { "why": "five entries in three batches", "entries": short, "files": folder(&good), "head": anchor(&short) },
            { "why": "a full bundle and five entries behind it", "entries": long, "files": folder(&big), "head": anchor(&long) },
        ],
        "rolled_back": {
            "why": "the first log as it was after three entries: good by itself, refused with the anchor",
            "files": folder(&older), "anchor": anchor(&short),
        },
        "refused": refused,
    })
}

#[test]
fn the_committed_vectors_are_the_computed_ones() {
    hold("vault/keys.json", &keys());
    hold("vault/header.json", &header());
    hold("audit/log.json", &log());
}

#[test]
fn the_code_reads_the_header_of_the_vectors() {
    let vectors = header();
    let good = Header::decode(&unhex(&vectors["header"])).unwrap();
    assert_eq!(good.encode(), unhex(&vectors["header"]));
    assert_eq!((good.revision(), good.recovery_confirmed(), good.is_locked()), (41, true, false));
    let expected = unhex(&vectors["root_key"]);
    let probe = kdf(&kdf(&expected, "vault header", b"", 32), "vault header", b"probe", 32);
    let secrets = Secrets::new();
    let salt: [u8; SALT_BYTES] = secrets.salt;
    let cost = StretchCost::decode(secrets.parameters().first_chunk().unwrap()).unwrap();
    let stretch = |text: &Value| Password::parse(text.as_str().unwrap()).unwrap().stretch(&salt, cost).unwrap();
    let from = |secret: &[u8]| SlotSecret::hazmat_from_platform(&key_file_text(secret)).unwrap();
    let words = words(&secrets.code).join(" ");
    let opened = [
        (1, from(&secrets.key_file)),
        (2, from(&secrets.keyring)),
        (3, stretch(&vectors["password"])),
        (3, stretch(&vectors["password_decomposed"])),
        (7, RecoveryCode::parse(&words).unwrap().slot_secret()),
    ];
    for (id, secret) in opened {
        let root = good.unlock(SlotId(id), &secret).unwrap();
        assert_eq!(root.header_key().authenticate(b"probe").as_slice(), probe, "slot {id}");
        good.system_space_key(&root).unwrap();
    }
    let wrong = good.unlock(SlotId(3), &stretch(&vectors["wrong_password"]));
    assert!(matches!(wrong, Err(Error::WrongPassword)), "{wrong:?}");
    for bad in vectors["refused"].as_array().unwrap() {
        let bytes = unhex(&bad["header"]);
        if bad["is"] == "planted" {
            let opened = Header::decode(&bytes).unwrap().unlock(SlotId(2), &from(&secrets.keyring));
            assert!(opened.is_err(), "{}: somebody else's vault opens", bad["name"]);
            continue;
        }
        let error =
            Header::decode(&bytes).and_then(|header| header.unlock(SlotId(1), &from(&secrets.key_file)).map(drop));
        match bad["is"].as_str().unwrap() {
            "newer" => assert!(matches!(error, Err(Error::Newer { .. })), "{bad}: {error:?}"),
            _ => assert!(matches!(error, Err(Error::Damaged { .. })), "{}: {error:?}", bad["name"]),
        }
    }
}

fn lay_out(files: &Value) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, bytes) in files.as_object().unwrap() {
        let path = folder.path().join("audit").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, Base64::decode_vec(bytes.as_str().unwrap()).unwrap()).unwrap();
    }
    folder
}

/// The log key of the vectors.
pub(crate) fn vector_log_key() -> LogKey {
    log_key(&json!({ "log_key": hex(&fixed::<32>("log key")) }))
}

fn log_key(vectors: &Value) -> LogKey {
    // The key as the system space keeps it.
    let secrets = Secrets::new();
    let space = Header::decode(&unhex(&header()["header"])).unwrap();
    let from = SlotSecret::hazmat_from_platform(&key_file_text(&secrets.key_file)).unwrap();
    let space = space.system_space_key(&space.unlock(SlotId(1), &from).unwrap()).unwrap();
    let wrapped = &keys()["wrapped"][1];
    assert_eq!(wrapped["inner"], vectors["log_key"]);
    space.unwrap_log(&unhex(&wrapped["wrapped"]), &unhex(&wrapped["context"])).unwrap()
}

#[test]
fn the_code_verifies_and_opens_the_logs_of_the_vectors() {
    let vectors = log();
    let verify = |files: &Value, anchor: Option<&Value>| {
        let folder = lay_out(files);
        let anchor = anchor.map(|anchor| Anchor::Checkpoint(anchor["checkpoint"].as_str().unwrap().to_owned()));
        audit::verify(&folder.path().join("audit"), &Expectations { anchor, ..Default::default() }).map_err(drop)
    };
    for good in vectors["logs"].as_array().unwrap() {
        assert!(verify(&good["files"], Some(&good["head"])).is_ok(), "{}", good["why"]);
        let folder = lay_out(&good["files"]);
        let log = AuditLog::open(&folder.path().join("audit"), log_key(&vectors), LogId::from_bytes(LOG)).unwrap();
        let head = log.head();
        assert_eq!(
            (head.size, hex(&head.root)),
            (good["head"]["size"].as_u64().unwrap(), good["head"]["root"].as_str().unwrap().to_owned())
        );
        let entries = log.entries(0, head.size).unwrap();
        for ((_, entry), text) in entries.iter().zip(good["entries"].as_array().unwrap()) {
            assert_eq!(entry, text.as_str().unwrap().as_bytes());
        }
    }
    let back = &vectors["rolled_back"];
    assert!(verify(&back["files"], None).is_ok() && verify(&back["files"], Some(&back["anchor"])).is_err());
    for bad in vectors["refused"].as_array().unwrap() {
        assert!(verify(&bad["files"], None).is_err(), "{}", bad["name"]);
    }
}
