//! One record sealed and opened again, in place, with the two bytes of metadata as associated data.

use std::cell::Cell;
use std::ptr;
use std::time::Duration;

use aico_crypto::{EphemeralSecret, HandshakeSecret, Psk, RecordKey, TAG_BYTES, TranscriptHash};
use aico_proto::Incoming;
use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, KeyInit, XChaCha20Poly1305};
use libsodium_sys as sodium;

use crate::people::{Pair, Result};
use crate::report::{Report, size, time};
use crate::timing::{Clock, Rounds, Side, in_turn};

const SIZES: [usize; 4] = [64, 1024, 16 * 1024, 1024 * 1024];
const GOALS: [f64; 4] = [0.5, 0.9, 1.0, 1.0];
const ROUNDS: usize = 60;
const METADATA: &[u8; 2] = b"{}";
const KEY: [u8; 32] = [9; 32];

pub fn run() -> Result<Report> {
    init_libsodium()?;
    let mut report = Report::default();
    let measured = SIZES.map(measure);
    let measured = measured.into_iter().collect::<Result<Vec<Rounds>>>()?;
    let names: Vec<_> = measured[0].names().collect();
    let head = ["", "64 B", "1 KiB", "16 KiB", "1 MiB"];
    let rows = names.iter().map(|(side, name)| {
        let cells = measured.iter().map(|rounds| time(rounds.nanos(*side).median));
        std::iter::once((*name).to_owned()).chain(cells).collect()
    });
    report.line("Time to seal and open one record, CPU of one thread:");
    report.table(&head, &rows.collect::<Vec<_>>());
    report.line("Our time as a part of theirs, median of the rounds (80 of 100 rounds lie between):");
    let mut rows = Vec::new();
    for ours in 0..2 {
        for (theirs, name) in &names[2..] {
            let cells = measured.iter().map(|rounds| rounds.ratio(ours, *theirs).to_string());
            rows.push(std::iter::once(format!("{} / {name}", names[ours].1)).chain(cells).collect());
        }
    }
    report.table(&head, &rows);
    for ours in 0..2 {
        for (at, bytes) in SIZES.into_iter().enumerate() {
            let what = format!("{} / {}, {}", names[ours].1, names[2].1, size(bytes));
            report.at_most(&what, measured[at].ratio(ours, 2), GOALS[at], "");
        }
    }
    Ok(report)
}

fn measure(bytes: usize) -> Result<Rounds> {
    let counter = Cell::new(0u64);
    let next = || {
        counter.set(counter.get() + 1);
        counter.get()
    };
    let plaintext = vec![5; bytes];
    let key = record_key()?;
    let (client, backend, _) = Pair::new()?.shake_hands(false)?;
    let (mut sealer, mut opener) = (client.sealer, backend.opener);
    let (rust, dry) = (XChaCha20Poly1305::new(&KEY.into()), KEY);

    let mut buffer = plaintext.clone();
    let aead = move || {
        let counter = next();
        key.seal(counter, METADATA, &mut buffer, 0).expect("seals");
        assert_eq!(key.open(counter, METADATA, &mut buffer).expect("opens").len(), bytes);
        buffer.truncate(bytes);
    };
    let (mut frame, parts) = (Vec::new(), plaintext.clone());
    let record = move || {
        frame.clear();
        sealer.seal(&[&parts], &mut frame).expect("seals");
        let opened = opener.open(&mut frame, Duration::ZERO).expect("opens");
        assert!(matches!(opened, Incoming::Application(plaintext) if plaintext.len() == bytes));
    };
    let mut buffer = padded(&plaintext);
    let sodium_x = move || libsodium(&KEY, &Nonce::X(&nonce(next())), &mut buffer, bytes);
    let mut buffer = padded(&plaintext);
    let subkey = KEY;
    let sodium_cached = move || libsodium(&subkey, &Nonce::Ietf(&short_nonce(next())), &mut buffer, bytes);
    let mut buffer = plaintext.clone();
    let rust_crypto = move || {
        let nonce = nonce(next()).into();
        let sealed = rust.encrypt_inout_detached(&nonce, METADATA, InOutBuf::from(buffer.as_mut_slice()));
        let tag = sealed.expect("seals");
        let opened = rust.decrypt_inout_detached(&nonce, METADATA, InOutBuf::from(buffer.as_mut_slice()), &tag);
        opened.expect("opens");
    };
    let mut buffer = plaintext.clone();
    let dryoc = move || {
        use dryoc::classic::crypto_aead_xchacha20poly1305_ietf as aead;
        let (nonce, mut tag) = (nonce(next()), [0; TAG_BYTES]);
        aead::crypto_aead_xchacha20poly1305_ietf_encrypt_detached_inplace(
            &mut buffer,
            &mut tag,
            Some(METADATA),
            &nonce,
            &dry,
        )
        .expect("seals");
        aead::crypto_aead_xchacha20poly1305_ietf_decrypt_detached_inplace(
            &mut buffer,
            &tag,
            Some(METADATA),
            &nonce,
            &dry,
        )
        .expect("opens");
    };
    let mut sides = [
        Side::new("our AEAD", aead),
        Side::new("our record", record),
        Side::new("libsodium", sodium_x),
        Side::new("libsodium, HChaCha20 kept", sodium_cached),
        Side::new("RustCrypto", rust_crypto),
        Side::new("dryoc", dryoc),
    ];
    Ok(in_turn(Clock::Thread, ROUNDS, &mut sides))
}

/// A record key as a handshake leaves it.
fn record_key() -> Result<RecordKey> {
    let (a, b) = (EphemeralSecret::hazmat_from_bytes(&[1; 32])?, EphemeralSecret::hazmat_from_bytes(&[2; 32])?);
    let (kx, th) = (a.agree_as_initiator(b.public())?, TranscriptHash::of(b'2', &[b"bench"]));
    let master = HandshakeSecret::extract(&Psk::none(), None, &kx, &th).into_master(&th);
    Ok(master.traffic_keys(0).0.record_key(&[7; 16])?)
}

fn padded(plaintext: &[u8]) -> Vec<u8> {
    [plaintext, &[0; TAG_BYTES]].concat()
}

fn nonce(counter: u64) -> [u8; 24] {
    let mut nonce = [7; 24];
    nonce[16..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

fn short_nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

#[expect(unsafe_code, reason = "libsodium is C")]
fn init_libsodium() -> Result<()> {
    // SAFETY: may be called at any time, more than once; called here before anything else of libsodium.
    if unsafe { sodium::sodium_init() } < 0 { Err("libsodium does not start".into()) } else { Ok(()) }
}

type Seal =
    unsafe extern "C" fn(*mut u8, *mut u64, *const u8, u64, *const u8, u64, *const u8, *const u8, *const u8) -> i32;
type Open =
    unsafe extern "C" fn(*mut u8, *mut u64, *mut u8, *const u8, u64, *const u8, u64, *const u8, *const u8) -> i32;

/// One of libsodium's ciphers with its nonce.
enum Nonce<'a> {
    X(&'a [u8; 24]),
    /// For a key that HChaCha20 has gone over already.
    Ietf(&'a [u8; 12]),
}

/// Seals the first `bytes` of `buffer` in place, with the tag behind them, and opens them again.
#[expect(unsafe_code, reason = "libsodium is C")]
fn libsodium(key: &[u8; 32], nonce: &Nonce<'_>, buffer: &mut [u8], bytes: usize) {
    assert_eq!(buffer.len(), bytes + TAG_BYTES);
    let (seal, open, n): (Seal, Open, _) = match nonce {
        Nonce::X(nonce) => (
            sodium::crypto_aead_xchacha20poly1305_ietf_encrypt,
            sodium::crypto_aead_xchacha20poly1305_ietf_decrypt,
            nonce.as_ptr(),
        ),
        Nonce::Ietf(nonce) => (
            sodium::crypto_aead_chacha20poly1305_ietf_encrypt,
            sodium::crypto_aead_chacha20poly1305_ietf_decrypt,
            nonce.as_ptr(),
        ),
    };
    let (text, ad, null, k) = (buffer.as_mut_ptr(), METADATA.as_ptr(), ptr::null_mut(), key.as_ptr());
    // SAFETY: `text` points to `bytes` and room for the tag, as was just checked; input and output may be the same; the
    // lengths of metadata and key are those of their arrays, and that of the nonce is its cipher's; null is allowed where
    // it is given.
    let failed = unsafe {
        seal(text, null, text, bytes as u64, ad, 2, ptr::null(), n, k)
            | open(text, null, ptr::null_mut(), text, buffer.len() as u64, ad, 2, n, k)
    };
    assert_eq!(failed, 0);
}
