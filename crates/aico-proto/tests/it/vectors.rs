//! `testvectors/channel/`: every message and record with every intermediate value, computed here from the
//! specification with other libraries than the code uses, and compared with what the code makes of the same inputs.
//!
//! `./dev vectors` writes the files, and the examples in `docs/spec/channel.md`, anew.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use aico_crypto::{ComponentKind, Encapsulated, EphemeralSecret, Identity, IdentitySecret, KemSecret, Name};
use aico_proto::{
    CloseReason, Control, Error, Established, Fresh, Incoming, Initiator, LocalIdentity, Padding, Ready, Responder,
    Standing, Terms,
};
use blake2b_simd::Params;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use ed25519_dalek::Signer;
#[expect(deprecated, reason = "aws-lc and many other libraries take the expanded key, not the seed")]
use ml_kem::ExpandedKeyEncoding;
use ml_kem::KeyExport;
use serde_json::{Value, json};

use crate::sides::{All, open, ready, seal, seal_control};

pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

pub(crate) fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(root().join("testvectors/channel").join(name)).unwrap()).unwrap()
}

pub(crate) fn unhex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap().as_bytes();
    digits.as_chunks::<2>().0.iter().map(|p| u8::from_str_radix(str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

fn hex(bytes: &[u8]) -> Value {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into()
}

/// Fixed bytes that a reader can make again: BLAKE2b-256 of a name.
fn fixed(name: &str) -> [u8; 32] {
    Params::new().hash_length(32).hash(name.as_bytes()).as_bytes().try_into().unwrap()
}

pub(crate) fn h(k: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut personal = *b"AICO-HS1-th\0\0\0\0\0";
    personal[11] = k;
    Params::new().hash_length(64).personal(&personal).hash(&parts.concat()).as_bytes().to_vec()
}

pub(crate) fn kdf(key: &[u8], label: &str, context: &[u8], bytes: usize) -> Vec<u8> {
    let message = [&[label.len() as u8], label.as_bytes(), context].concat();
    Params::new().hash_length(bytes).key(key).hash(&message).as_bytes().to_vec()
}

fn aead(key: &[u8], nonce: &[u8], ad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let cipher = chacha20poly1305::XChaCha20Poly1305::new(key.try_into().unwrap());
    cipher.encrypt(nonce.try_into().unwrap(), Payload { msg: plaintext, aad: ad }).unwrap()
}

struct Party {
    seed: [u8; 32],
    kind: ComponentKind,
    name: &'static str,
    ephemeral: [u8; 32],
    nonce: [u8; 32],
}

impl Party {
    /// With the identity of `name` and what it makes fresh in `epoch`.
    fn new(kind: ComponentKind, name: &'static str, epoch: u16) -> Self {
        let part = |what| fixed(&format!("{name} {what}"));
        let fresh = |what| if epoch == 0 { part(what) } else { fixed(&format!("{name} {what} of epoch {epoch}")) };
        Self { seed: part("identity"), kind, name, ephemeral: fresh("ephemeral"), nonce: fresh("nonce") }
    }

    fn signing(&self) -> ed25519_dalek::SigningKey {
        ed25519_dalek::SigningKey::from_bytes(&self.seed)
    }

    fn identity_bytes(&self) -> Vec<u8> {
        let mut id = vec![self.kind as u8];
        id.extend(self.signing().verifying_key().to_bytes());
        id.extend(self.name.as_bytes());
        id.resize(64, 0);
        id
    }

    fn local(&self) -> LocalIdentity {
        let digits = hex(&self.seed);
        let secret = IdentitySecret::hazmat_from_file(digits.as_str().unwrap()).unwrap();
        let identity = Identity::new(self.kind, *secret.public(), Name::parse(self.name).unwrap());
        LocalIdentity::new(secret, identity).unwrap()
    }

    fn ephemeral(&self) -> EphemeralSecret {
        EphemeralSecret::hazmat_from_bytes(&self.ephemeral).unwrap()
    }

    fn ephemeral_public(&self) -> [u8; 32] {
        x25519_dalek::PublicKey::from(&x25519_dalek::StaticSecret::from(self.ephemeral)).to_bytes()
    }
}

struct Kem {
    seed: Vec<u8>,
    dk: Vec<u8>,
    ek: Vec<u8>,
    ct: Vec<u8>,
    ss: Vec<u8>,
}

#[expect(deprecated, reason = "as above")]
fn kem(epoch: u16) -> Kem {
    let fixed = |name: &str| if epoch == 0 { fixed(name) } else { fixed(&format!("{name} of epoch {epoch}")) };
    let seed: Vec<u8> = [fixed("kem d"), fixed("kem z")].concat();
    let dk = ml_kem::DecapsulationKey768::from_seed(seed.as_slice().try_into().unwrap());
    let message = fixed("kem m");
    let (ct, ss) = dk.encapsulation_key().encapsulate_deterministic(&message.into());
    let ek = dk.encapsulation_key().to_bytes().to_vec();
    Kem { seed, dk: dk.to_expanded_bytes().to_vec(), ek, ct: ct.to_vec(), ss: ss.to_vec() }
}

fn parties(epoch: u16) -> (Party, Party) {
    (Party::new(ComponentKind::Cli, "cli", epoch), Party::new(ComponentKind::Backend, "backend", epoch))
}

/// The whole handshake from the specification.
fn handshake(hybrid: bool) -> Value {
    exchange(hybrid, 0, &[0; 32])
}

/// The REKEY that follows it.
fn rekey(hybrid: bool) -> Value {
    exchange(hybrid, 1, &unhex(&handshake(hybrid)["ratchet"]))
}

/// M1 to M3 of an epoch. Behind the first they stand inside the channel: one suite, no mac1, the ratchet as the psk.
fn exchange(hybrid: bool, epoch: u16, psk: &[u8]) -> Value {
    let (i, r) = parties(epoch);
    let kem = hybrid.then(|| kem(epoch));
    let (id_i, id_r) = (i.identity_bytes(), r.identity_bytes());
    let block = |bytes: Option<&Vec<u8>>| {
        let bytes = bytes.cloned().unwrap_or_default();
        [(bytes.len() as u16).to_be_bytes().to_vec(), bytes].concat()
    };
    let suites: &[u8] = match (hybrid, epoch) {
        (true, 0) => &[2, 0, 2, 0, 1],
        (true, _) => &[1, 0, 2],
        (false, _) => &[1, 0, 1],
    };
    let mut m1 = [b"AICO-HS1\x01\x01\x01", suites, &[0, 0], &i.nonce, &i.ephemeral_public()].concat();
    m1.extend(block(kem.as_ref().map(|k| &k.ek)));
    let mac1_key = h(b'm', &[&id_r[1..33]])[..32].to_vec();
    let mac1 = if epoch == 0 { kdf(&mac1_key, "mac1", &m1, 16) } else { vec![0; 16] };
    m1.extend(&mac1);
    let mut m2 =
        [b"AICO-HS1\x02\x01\x00", &[if hybrid { 2 } else { 1 }, 0, 0][..], &r.nonce, &r.ephemeral_public()].concat();
    m2.extend(block(kem.as_ref().map(|k| &k.ct)));

    let th1 = h(b'1', &[&m1]);
    let th2 = h(b'2', &[&th1, &m2]);
    let secret = x25519_dalek::StaticSecret::from(i.ephemeral);
    let shared = secret.diffie_hellman(&x25519_dalek::PublicKey::from(r.ephemeral_public())).to_bytes();
    let kx_input = [shared.as_slice(), &i.ephemeral_public(), &r.ephemeral_public()].concat();
    let kx = Params::new().hash_length(64).hash(&kx_input).as_bytes().to_vec();
    let ss = kem.as_ref().map(|k| k.ss.clone()).unwrap_or_default();
    let hs_input = [b"AICO-HS1 extract".as_slice(), &ss, &kx, &th2].concat();
    let hs = Params::new().hash_length(64).key(psk).hash(&hs_input).as_bytes().to_vec();
    let [k_i, k_r, f_i, f_r] = ["hs key i", "hs key r", "fin i", "fin r"].map(|label| kdf(&hs, label, &th2, 32));
    let th3 = h(b'3', &[&th2, &id_r]);
    let sig_r = r.signing().sign(&[b"AICO-HS1 responder signature\0".as_slice(), &th3].concat()).to_bytes();
    let th4 = h(b'4', &[&th3, &sig_r]);
    let fin_r = kdf(&f_r, "fin", &th4, 32);
    let th5 = h(b'5', &[&th4, &fin_r]);
    let plain_r = [id_r.as_slice(), &sig_r, &fin_r].concat();
    m2.extend(aead(&k_r, &[0; 24], &th2, &plain_r));
    let th6 = h(b'6', &[&th5, &id_i]);
    let sig_i = i.signing().sign(&[b"AICO-HS1 initiator signature\0".as_slice(), &th6].concat()).to_bytes();
    let th7 = h(b'7', &[&th6, &sig_i]);
    let fin_i = kdf(&f_i, "fin", &th7, 32);
    let th8 = h(b'8', &[&th7, &fin_i]);
    let plain_i = [id_i.as_slice(), &sig_i, &fin_i].concat();
    let m3 = [b"AICO-HS1\x03".as_slice(), &aead(&k_i, &[0; 24], &th5, &plain_i)].concat();
    let ms = kdf(&hs, "master", &th8, 64);
    let [traffic, cid, ratchet, exporter] = [("traffic", 64), ("cid", 20), ("ratchet", 32), ("exporter", 32)]
        .map(|(label, n)| kdf(&ms, label, &epoch.to_be_bytes(), n));
    let party = |p: &Party| {
        json!({ "identity_seed": hex(&p.seed), "kind": p.kind as u8, "name": p.name, "identity": hex(&p.identity_bytes()),
                "ephemeral_secret": hex(&p.ephemeral), "ephemeral_public": hex(&p.ephemeral_public()), "nonce": hex(&p.nonce) })
    };
    let kem = kem.map(
        |k| json!({ "seed": hex(&k.seed), "dk": hex(&k.dk), "ek": hex(&k.ek), "ct": hex(&k.ct), "ss": hex(&k.ss) }),
    );
    let suite = if hybrid { "hybrid" } else { "classical" };
    let about = if epoch == 0 {
        format!("a {suite} handshake, every value of docs/spec/channel.md; hexadecimal")
    } else {
        format!(
            "the REKEY in the channel of handshake-{suite}.json, every value; hello, reply and finish are the bodies of control records 4, 5 and 6, end is the responder's last record of the old epoch; hexadecimal"
        )
    };
    json!({
        "about": about,
        "reason": "both roles have to compute each value as it stands here", "epoch": epoch,
        "initiator": party(&i), "responder": party(&r), "ml_kem_768": kem, "psk": hex(psk),
        "mac1_key": hex(&mac1_key), "mac1": hex(&mac1),
        "th1": hex(&th1), "th2": hex(&th2), "th3": hex(&th3), "th4": hex(&th4), "th5": hex(&th5), "th6": hex(&th6),
        "th7": hex(&th7), "th8": hex(&th8), "x25519": hex(&shared), "kx": hex(&kx), "hs": hex(&hs),
        "k_i": hex(&k_i), "k_r": hex(&k_r), "f_i": hex(&f_i), "f_r": hex(&f_r),
        "sig_r": hex(&sig_r), "fin_r": hex(&fin_r), "sealed_plaintext_r": hex(&plain_r),
        "sig_i": hex(&sig_i), "fin_i": hex(&fin_i), "sealed_plaintext_i": hex(&plain_i),
        "ms": hex(&ms), "traffic_responder_to_initiator": hex(&traffic[..32]),
        "traffic_initiator_to_responder": hex(&traffic[32..]),
        "cid_i": hex(&cid[..10]), "cid_r": hex(&cid[10..]), "ratchet": hex(&ratchet), "exporter": hex(&exporter),
        "hello": hex(&m1), "reply": hex(&m2), "finish": hex(&m3),
    })
}

/// The code's own handshake over the same inputs: frames and both ends.
fn production(vector: &Value) -> ([Vec<u8>; 3], Established, Established) {
    let (i, r) = parties(0);
    let (client, server) = (i.local(), r.local());
    let [fresh_i, fresh_r] = fresh_of(vector, &i, &r);
    let (initiator, hello) = Initiator::start(server.identity().clone(), fresh_i, Terms::default());
    let (responder, reply) = Responder::on_hello(&server, &hello, fresh_r, Terms::default()).unwrap();
    let (at_client, finish) = initiator.on_reply(&client, &reply).unwrap();
    let at_server = responder.on_finish(&finish, &All(Standing::Enrolled)).unwrap();
    ([hello, reply, finish], at_client, at_server)
}

/// What both sides of a vector make fresh.
fn fresh_of(vector: &Value, i: &Party, r: &Party) -> [Fresh; 2] {
    let kem = &vector["ml_kem_768"];
    let part = |name: &str| unhex(&kem[name]);
    let (secret, encapsulated) = if kem.is_null() {
        (None, None)
    } else {
        let secret = KemSecret::hazmat_from_bytes(&part("dk"), part("ek").as_slice().try_into().unwrap()).unwrap();
        let (ct, ss) = (part("ct"), part("ss"));
        (
            Some(secret),
            Some(Encapsulated::hazmat_from_bytes(ct.as_slice().try_into().unwrap(), ss.as_slice().try_into().unwrap())),
        )
    };
    let fresh_i = Fresh::hazmat_from_parts(i.nonce, i.ephemeral(), secret, None);
    [fresh_i, Fresh::hazmat_from_parts(r.nonce, r.ephemeral(), None, encapsulated)]
}

/// One record from the specification.
fn record(key: &[u8], cid: &[u8], kind: u8, generation: u16, counter: u64, plaintext: &[u8]) -> Vec<u8> {
    record_in(0, key, cid, (kind, generation, counter), plaintext)
}

fn record_in(epoch: u16, key: &[u8], cid: &[u8], place: (u8, u16, u64), plaintext: &[u8]) -> Vec<u8> {
    let (kind, generation, counter) = place;
    let mut frame = b"AICO-MSG\x01".to_vec();
    frame.push(kind);
    frame.extend(epoch.to_be_bytes());
    frame.extend(generation.to_be_bytes());
    frame.extend(cid);
    frame.extend(counter.to_be_bytes());
    let nonce = frame[8..32].to_vec();
    frame.extend(b"\0\0\0\x02{}");
    frame.extend(aead(key, &nonce, b"{}", plaintext));
    frame
}

fn records() -> Value {
    let shaken = handshake(false);
    let (key, cid) = (unhex(&shaken["traffic_initiator_to_responder"]), unhex(&shaken["cid_i"]));
    let next = kdf(&key, "key update", &[0, 0, 0, 1], 32);
    let entry = |reason: &str, kind: u8, generation: u16, counter: u64, plaintext: &[u8]| {
        let used = if generation == 0 { &key } else { &next };
        json!({ "reason": reason, "kind": kind, "generation": generation, "counter": counter, "plaintext": hex(plaintext),
                "frame": hex(&record(used, &cid, kind, generation, counter, plaintext)) })
    };
    let good = [
        entry("the first record, right after FINISH", 0, 0, 0, b"\x01{\"op\":\"status\"}"),
        entry("an empty plaintext", 0, 0, 1, b""),
        entry("a control record shares the counter", 1, 0, 2, &[8]),
        entry("KEYUPDATE is the last of its generation", 1, 0, 3, &[3]),
        entry("the next generation counts from 0", 0, 1, 0, b"under the next key"),
        entry("CLOSE is the last record", 1, 1, 1, &[1, 0, 0]),
    ];
    let first = record(&key, &cid, 0, 0, 0, b"x");
    let changed = |at: usize| {
        let mut frame = first.clone();
        frame[at] ^= 1;
        frame
    };
    let other = record(&key, &[9; 10], 0, 0, 0, b"x");
    let bad = [
        ("another magic", changed(0)),
        ("another wire version", changed(8)),
        ("an unknown kind", record(&key, &cid, 2, 0, 0, b"x")),
        ("another epoch", changed(11)),
        ("a generation without its KEYUPDATE", record(&next, &cid, 0, 1, 0, b"x")),
        ("another channel", other),
        ("a counter that skips one", record(&key, &cid, 0, 0, 1, b"x")),
        ("metadata of more than 16 KiB announced", changed(34)),
        ("metadata longer than the frame", changed(35)),
        ("altered metadata", changed(36)),
        ("altered ciphertext", changed(38)),
        ("an altered tag", changed(first.len() - 1)),
        ("a control record of an unknown type", record(&key, &cid, 1, 0, 0, &[200])),
        ("REKEY_END without a REKEY, and from the initiator", record(&key, &cid, 1, 0, 0, &[10])),
        ("REKEY_END with a body", record(&key, &cid, 1, 0, 0, &[10, 0])),
        ("READY from the initiator", record(&key, &cid, 1, 0, 0, &[0; 25])),
        ("an attestation, which this version does not speak", record(&key, &cid, 1, 0, 0, &[9, 0])),
        ("REKEY_REQ with a body", record(&key, &cid, 1, 0, 0, &[7, 0])),
        ("KEYUPDATE with a body", record(&key, &cid, 1, 0, 0, &[3, 0])),
    ];
    let refused: Vec<Value> =
        bad.iter().map(|(reason, frame)| json!({ "reason": reason, "frame": hex(frame) })).collect();
    json!({
        "about": "records that the initiator of handshake-classical.json sends, in order; hexadecimal",
        "key_initiator_to_responder": hex(&key), "key_generation_1": hex(&next), "cid_i": hex(&cid),
        "records": good,
        "refused_about": "each is refused by a responder that has received nothing yet, and ends the channel",
        "refused": refused,
    })
}

fn controls() -> [(&'static str, Control, Vec<u8>); 6] {
    let ready = Ready {
        clock_ms: 1_795_435_200_000,
        max_plaintext: 16_777_216,
        idle_s: 3600,
        keepalive_s: 0,
        rotation_s: 86_400,
    };
    let ready_body = [
        &[0][..],
        &1_795_435_200_000u64.to_be_bytes(),
        &16_777_216u32.to_be_bytes(),
        &3600u32.to_be_bytes(),
        &[0; 4],
        &86_400u32.to_be_bytes(),
    ];
    let error = Control::Error { code: 0, text: "no".to_owned() };
    [
        ("READY", Control::Ready(ready), ready_body.concat()),
        ("ERROR with a text", error, b"\x02\0\0no".to_vec()),
        ("KEEPALIVE", Control::Keepalive, vec![8]),
        ("KEYUPDATE", Control::KeyUpdate, vec![3]),
        ("CLOSE, the side is stopping", Control::Close(CloseReason::Shutdown), vec![1, 0, 6]),
        ("CLOSE with a reason that nobody knows yet", Control::Close(CloseReason::Other(600)), vec![1, 2, 88]),
    ]
}

fn control() -> Value {
    let shaken = handshake(false);
    let (key, cid) = (unhex(&shaken["traffic_responder_to_initiator"]), unhex(&shaken["cid_r"]));
    let frames = controls().into_iter().zip(0u64..).map(|((reason, _, body), counter)| {
        // What follows KEYUPDATE is under the next key; CLOSE ends the channel, so each stands for itself.
        let (key, generation, counter) =
            if counter > 3 { (kdf(&key, "key update", &[0, 0, 0, 1], 32), 1, 0) } else { (key.clone(), 0, counter) };
        let frame = record(&key, &cid, 1, generation, counter, &body);
        json!({ "reason": reason, "generation": generation, "counter": counter, "plaintext": hex(&body), "frame": hex(&frame) })
    });
    json!({
        "about": "control records of the responder of handshake-classical.json; the last two are each the first of generation 1",
        "key_responder_to_initiator": hex(&key), "cid_r": hex(&cid), "records": frames.collect::<Vec<_>>(),
    })
}

/// `plaintext ‖ 0x80 ‖ 0…` to the length that `policy` gives, from the specification.
fn padded_length(policy: u16, plaintext: usize) -> usize {
    let wanted = (plaintext + 1).max(256);
    if policy == 2 {
        return (1..).map(|bits| 1 << bits).find(|size| *size >= wanted).unwrap();
    }
    let exponent = (wanted as f64).log2().floor() as u32;
    let step = 1usize << (exponent - ((f64::from(exponent)).log2().floor() as u32 + 1));
    wanted.div_ceil(step) * step
}

fn padding() -> Value {
    let shaken = handshake(false);
    let (key, cid) = (unhex(&shaken["traffic_initiator_to_responder"]), unhex(&shaken["cid_i"]));
    let lengths = [0, 1, 255, 256, 257, 1000, 1023, 1024, 4095, 4096, 65_535, 65_536, 1_000_000, 16_777_215];
    let sizes: Vec<Value> = lengths
        .iter()
        .map(|n| json!({ "plaintext": n, "padme": padded_length(1, *n), "power_of_two": padded_length(2, *n) }))
        .collect();
    let mut plaintext = b"hello\x80".to_vec();
    plaintext.resize(256, 0);
    json!({
        "about": "lengths in bytes of padded plaintexts, and a record of a channel with policy 1 under the keys of handshake-classical.json",
        "reason": "a receiver refuses every other length", "sizes": sizes,
        "plaintext": hex(b"hello"), "padded": hex(&plaintext), "frame": hex(&record(&key, &cid, 0, 0, 0, &plaintext)),
    })
}

/// The first records of epoch 1 in both directions: what shows that the new keys are in use.
fn first_of_epoch_1() -> Value {
    let shaken = rekey(false);
    let value = |name: &str| unhex(&shaken[name]);
    let up = record_in(1, &value("traffic_initiator_to_responder"), &value("cid_i"), (0, 0, 0), b"after REKEY");
    let (_, _, ready) = &controls()[0];
    let down = record_in(1, &value("traffic_responder_to_initiator"), &value("cid_r"), (1, 0, 0), ready);
    json!({ "initiator": { "plaintext": hex(b"after REKEY"), "frame": hex(&up) },
            "responder": { "plaintext": hex(ready), "frame": hex(&down) } })
}

fn rekey_with_records(hybrid: bool) -> Value {
    let mut value = rekey(hybrid);
    let old = handshake(hybrid);
    let [key, cid] = ["traffic_responder_to_initiator", "cid_r"].map(|name| unhex(&old[name]));
    // Behind READY and the record with REPLY.
    value["end"] = json!({ "counter": 2, "plaintext": hex(&[10]), "frame": hex(&record(&key, &cid, 1, 0, 2, &[10])) });
    if !hybrid {
        value["first_records"] = first_of_epoch_1();
    }
    value
}

fn all() -> [(&'static str, Value); 7] {
    [
        ("rekey-classical.json", rekey_with_records(false)),
        ("rekey-hybrid.json", rekey_with_records(true)),
        ("padding.json", padding()),
        ("handshake-classical.json", handshake(false)),
        ("handshake-hybrid.json", handshake(true)),
        ("records.json", records()),
        ("control.json", control()),
    ]
}

/// Hexadecimal in lines of 32 bytes, as the specification shows it.
fn lines(title: &str, value: &Value) -> String {
    let digits = value.as_str().unwrap();
    let lines = digits.as_bytes().chunks(64).map(|line| format!("    {}\n", str::from_utf8(line).unwrap()));
    format!("{title} ({} bytes):\n\n{}\n", digits.len() / 2, lines.collect::<String>())
}

/// The specification with its examples filled in.
fn with_examples(text: &str) -> String {
    let (shaken, records, control) = (handshake(false), records(), control());
    let handshake_text =
        ["hello", "reply", "finish", "th8", "exporter"].map(|name| lines(name, &shaken[name])).concat();
    let examples = [
        ("handshake-classical", handshake_text),
        ("record", lines("the first record of the initiator", &records["records"][0]["frame"])),
        ("control-close", lines("CLOSE of the responder, reason 6", &control["records"][4]["frame"])),
    ];
    examples.iter().fold(text.to_owned(), |text, (name, example)| {
        let (start, end) = (format!("<!-- example: {name} -->\n"), format!("<!-- end of {name} -->\n"));
        let (before, rest) = text.split_once(&start).unwrap();
        let after = rest.split_once(&end).map_or(rest, |(_, after)| after);
        format!("{before}{start}\n{example}{end}{after}")
    })
}

#[test]
fn the_committed_vectors_and_examples_are_the_computed_ones() {
    let spec = root().join("docs/spec/channel.md");
    let text = fs::read_to_string(&spec).unwrap();
    if std::env::var_os("AICO_WRITE_VECTORS").is_some() {
        fs::create_dir_all(root().join("testvectors/channel")).unwrap();
        for (name, value) in all() {
            let json = serde_json::to_string_pretty(&value).unwrap() + "\n";
            fs::write(root().join("testvectors/channel").join(name), json).unwrap();
        }
        fs::write(spec, with_examples(&text)).unwrap();
        return;
    }
    for (name, value) in all() {
        assert!(read(name) == value, "{name} is not what the specification gives; `./dev vectors` writes it anew");
    }
    assert!(
        with_examples(&text) == text,
        "the examples in the specification are old; `./dev vectors` writes them anew"
    );
}

#[test]
fn the_code_speaks_the_vectors() {
    for name in ["handshake-classical.json", "handshake-hybrid.json"] {
        let vector = read(name);
        let (frames, client, server) = production(&vector);
        for (frame, name) in frames.iter().zip(["hello", "reply", "finish"]) {
            assert!(*frame == unhex(&vector[name]), "{name}");
        }
        for side in [client, server] {
            let aico_proto::Peer::Authenticated(peer) = side.peer else { unreachable!() };
            assert_eq!(peer.channel().to_vec(), unhex(&vector["exporter"]));
        }
    }
}

#[test]
fn the_code_renews_keys_as_the_vectors_do() {
    for suite in ["classical", "hybrid"] {
        let (_, mut client, mut server) = production(&read(&format!("handshake-{suite}.json")));
        let vector = read(&format!("rekey-{suite}.json"));
        let first = seal_control(&mut server.sealer, &ready());
        open(&mut client.opener, &first).unwrap();
        let (i, r) = parties(1);
        let [fresh_i, fresh_r] = fresh_of(&vector, &i, &r);
        let body = |control: Control| match control {
            Control::RekeyHello(body) | Control::RekeyReply(body) | Control::RekeyFinish(body) => body,
            other => unreachable!("{other:?}"),
        };
        let hello = body(client.rekeyer.start(fresh_i).unwrap());
        let reply = body(server.rekeyer.on_hello(&r.local(), fresh_r, &hello).unwrap());
        open(&mut client.opener, &seal_control(&mut server.sealer, &Control::RekeyReply(reply.clone()))).unwrap();
        let mut frame = Vec::new();
        let halves = (&mut client.sealer, &mut client.opener);
        client.rekeyer.on_reply(&i.local(), &reply, halves, Duration::ZERO, &mut frame).unwrap();
        let Incoming::Control(finish) = server.opener.open(&mut frame, Duration::ZERO).unwrap() else { unreachable!() };
        let finish = body(finish);
        for (message, name) in [(&hello, "hello"), (&reply, "reply"), (&finish, "finish")] {
            assert!(*message == unhex(&vector[name]), "{suite} {name}");
        }
        let halves = (&mut server.sealer, &mut server.opener);
        let mut end = Vec::new();
        server.rekeyer.on_finish(&finish, &All(Standing::Enrolled), halves, Duration::ZERO, &mut end).unwrap();
        assert_eq!(end, unhex(&vector["end"]["frame"]), "{suite}");
        open(&mut client.opener, &end).unwrap();
        if suite == "classical" {
            let records = &vector["first_records"];
            assert_eq!(seal(&mut client.sealer, b"after REKEY"), unhex(&records["initiator"]["frame"]));
            assert_eq!(open(&mut server.opener, &unhex(&records["initiator"]["frame"])).unwrap(), b"after REKEY");
            open(&mut client.opener, &unhex(&records["responder"]["frame"])).unwrap();
            let (_, ready, _) = &controls()[0];
            assert_eq!(seal_control(&mut server.sealer, ready), unhex(&records["responder"]["frame"]));
        }
    }
}

#[test]
fn the_code_pads_as_the_vectors_do() {
    let vector = read("padding.json");
    for size in vector["sizes"].as_array().unwrap() {
        let plaintext = size["plaintext"].as_u64().unwrap() as usize;
        assert_eq!(Padding::Padme.padded(plaintext) as u64, size["padme"], "{plaintext}");
        assert_eq!(Padding::PowerOfTwo.padded(plaintext) as u64, size["power_of_two"], "{plaintext}");
    }
}

#[test]
fn the_code_seals_and_opens_the_records_of_the_vectors() {
    let vectors = read("records.json");
    let (_, mut client, mut server) = production(&read("handshake-classical.json"));
    for entry in vectors["records"].as_array().unwrap() {
        let (frame, plaintext) = (unhex(&entry["frame"]), unhex(&entry["plaintext"]));
        let sealed = match (entry["kind"].as_u64().unwrap(), plaintext.first()) {
            (0, _) => seal(&mut client.sealer, &plaintext),
            (_, Some(8)) => seal_control(&mut client.sealer, &Control::Keepalive),
            (_, Some(3)) => seal_control(&mut client.sealer, &Control::KeyUpdate),
            _ => seal_control(&mut client.sealer, &Control::Close(CloseReason::Normal)),
        };
        assert_eq!(sealed, frame, "{}", entry["reason"]);
        let opened = open(&mut server.opener, &frame).unwrap();
        assert!(entry["kind"] == 1 || opened == plaintext);
    }
    for entry in vectors["refused"].as_array().unwrap() {
        let (_, _, mut server) = production(&read("handshake-classical.json"));
        let refused = open(&mut server.opener, &unhex(&entry["frame"]));
        assert!(refused.is_err(), "{}", entry["reason"]);
        assert!(!matches!(refused, Err(Error::Misuse(_))));
    }
}

#[test]
fn the_code_reads_the_control_records_of_the_vectors() {
    let vectors = read("control.json");
    for (number, (reason, control, _)) in controls().iter().enumerate() {
        let (_, mut client, mut server) = production(&read("handshake-classical.json"));
        if number > 0 {
            let first = seal_control(&mut server.sealer, &ready());
            open(&mut client.opener, &first).unwrap();
        }
        for before in 1..number.min(4) {
            let frame = unhex(&vectors["records"][before]["frame"]);
            open(&mut client.opener, &frame).unwrap();
        }
        let mut frame = unhex(&vectors["records"][number]["frame"]);
        let mut opener = client.opener;
        let Incoming::Control(got) = opener.open(&mut frame, Duration::ZERO).unwrap() else { unreachable!() };
        assert_eq!(got, *control, "{reason}");
    }
}

/// A handshake of the code up to one frame that somebody else makes: with the right ephemeral keys, and whatever
/// `identity`, `signature` and `fin` they like. `after_signature` is the step whose hash the `fin` is over.
fn forged(vector: &Value, side: char, signature: &[u8], fin: Option<&[u8]>) -> Vec<u8> {
    let value = |name: &str| unhex(&vector[format!("{name}_{side}")]);
    let (before, steps) = if side == 'r' { ("th2", b"34") } else { ("th5", b"67") };
    let before = unhex(&vector[before]);
    let identity = value("sealed_plaintext")[..64].to_vec();
    let signed = h(steps[0], &[&before, &identity]);
    let honest = kdf(&value("f"), "fin", &h(steps[1], &[&signed, signature]), 32);
    let plain = [identity.as_slice(), signature, fin.unwrap_or(&honest)].concat();
    aead(&value("k"), &[0; 24], &before, &plain)
}

#[test]
fn whoever_has_the_keys_of_the_exchange_and_no_identity_is_refused() {
    let vector = read("handshake-classical.json");
    let (i, r) = parties(0);
    let (client, server) = (i.local(), r.local());
    let (sig_i, sig_r, other) = (unhex(&vector["sig_i"]), unhex(&vector["sig_r"]), vec![7; 64]);
    let reply = |sealed: Vec<u8>| {
        let fresh = Fresh::hazmat_from_parts(i.nonce, i.ephemeral(), None, None);
        let (initiator, _) = Initiator::start(server.identity().clone(), fresh, Terms::default());
        let open = &unhex(&vector["reply"])[..80];
        initiator.on_reply(&client, &[open, &sealed].concat()).map(drop)
    };
    let finish = |sealed: Vec<u8>| {
        let fresh = Fresh::hazmat_from_parts(r.nonce, r.ephemeral(), None, None);
        let (responder, _) = Responder::on_hello(&server, &unhex(&vector["hello"]), fresh, Terms::default()).unwrap();
        let frame = [b"AICO-HS1\x03".as_slice(), &sealed].concat();
        responder.on_finish(&frame, &All(Standing::Enrolled)).map(drop)
    };
    assert_eq!(reply(forged(&vector, 'r', &sig_r, None)), Ok(()), "the control: this is how a REPLY is made");
    assert_eq!(finish(forged(&vector, 'i', &sig_i, None)), Ok(()), "the control: this is how a FINISH is made");
    for signature in [&other, &sig_i] {
        assert_eq!(reply(forged(&vector, 'r', signature, None)), Err(Error::Authentication), "no signature of R");
    }
    for signature in [&other, &sig_r] {
        assert_eq!(finish(forged(&vector, 'i', signature, None)), Err(Error::Authentication), "no signature of I");
    }
    let wrong = [9; 32];
    assert_eq!(reply(forged(&vector, 'r', &sig_r, Some(&wrong))), Err(Error::Authentication), "no confirmation of R");
    assert_eq!(finish(forged(&vector, 'i', &sig_i, Some(&wrong))), Err(Error::Authentication), "no confirmation of I");
}

#[test]
fn a_responder_that_sends_data_before_ready_is_refused() {
    let vector = read("handshake-classical.json");
    let (key, cid) = (unhex(&vector["traffic_responder_to_initiator"]), unhex(&vector["cid_r"]));
    let (_, mut client, _) = production(&vector);
    let early = record(&key, &cid, 0, 0, 0, b"early");
    assert!(matches!(open(&mut client.opener, &early), Err(Error::Unexpected(_))));
}
