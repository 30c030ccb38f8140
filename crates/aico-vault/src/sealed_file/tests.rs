//! `testvectors/vault/sealed-file.json`, which the Python reference computes, and files that somebody has changed.

use std::cell::Cell;

use aico_crypto::{DataKey, OsRandom};
use serde_json::Value;

use super::*;

const VECTORS: &str = include_str!("../../../../testvectors/vault/sealed-file.json");

/// Fixed bytes in the place of random ones, as the vectors say.
struct Fixed(String, Cell<u32>);

impl Random for Fixed {
    fn fill(&self, out: &mut [u8]) -> Result<(), aico_crypto::Error> {
        self.1.set(self.1.get() + 1);
        let bytes = aico_crypto::digest(format!("sealed {} {}", self.0, self.1.get()).as_bytes());
        out.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
        Ok(())
    }
}

fn cost() -> StretchCost {
    StretchCost::decode(&[64u32, 1, 2].map(u32::to_be_bytes).as_flattened().try_into().unwrap()).unwrap()
}

fn passphrase() -> Password {
    Password::parse("correct horse battery staple").unwrap()
}

fn with_passphrase(random: &dyn Random) -> Beginning {
    Beginning::with_passphrase(&passphrase(), cost(), random).unwrap()
}

fn sealed(what: &str, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let random = Fixed(what.to_owned(), Cell::new(0));
    let bytes = seal(&format!("{what}.txt"), with_passphrase(&random), &random, content, &mut out).unwrap();
    assert_eq!(bytes, content.len() as u64);
    out
}

/// Name and content, read to the end.
fn opened(file: &[u8]) -> Result<(String, Vec<u8>), Error> {
    read_all(SealedFile::read(file)?.open(&passphrase())?)
}

fn read_all(mut reader: SealedReader<&[u8]>) -> Result<(String, Vec<u8>), Error> {
    let (mut content, mut chunk) = (Vec::new(), Vec::new());
    loop {
        match reader.next_chunk(&mut chunk) {
            Ok(true) => content.extend_from_slice(&chunk),
            Ok(false) => return Ok((reader.name().to_owned(), content)),
            Err(error) => {
                assert!(chunk.is_empty(), "nothing is given out with an error");
                assert!(reader.next_chunk(&mut chunk).is_err(), "and what comes after it is no end");
                return Err(error);
            }
        }
    }
}

fn unhex(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap().as_bytes();
    digits.as_chunks::<2>().0.iter().map(|p| u8::from_str_radix(str::from_utf8(p).unwrap(), 16).unwrap()).collect()
}

#[test]
fn the_code_seals_and_opens_the_vectors() {
    let vectors: Value = serde_json::from_str(VECTORS).unwrap();
    for given in vectors["files"].as_array().unwrap() {
        let what = given["what"].as_str().unwrap();
        let content = match &given["content"] {
            Value::String(text) => text.clone().into_bytes(),
            zeros => vec![0; zeros.as_u64().unwrap() as usize],
        };
        let file = sealed(what, &content);
        assert_eq!(aico_crypto::digest(&file).to_vec(), unhex(&given["sum"]), "{what}");
        assert_eq!(opened(&file).unwrap(), (given["name"].as_str().unwrap().to_owned(), content));
    }
    for given in vectors["refused"].as_array().unwrap().iter().filter(|given| given["file"].is_string()) {
        assert!(opened(&unhex(&given["file"])).is_err(), "{}", given["reason"]);
    }
}

/// The data key of the vectors, and files under it.
struct Vault {
    wrap: FileWrapKey,
    id: KeyId,
    vault: VaultId,
}

impl Vault {
    fn new() -> Self {
        let data = DataKey::make(&Fixed("data key".to_owned(), Cell::new(0))).unwrap();
        let (id, vault) = (KeyId::from_bytes([0x22; 16]), VaultId::from_bytes([0x11; 16]));
        Self { wrap: data.file_wrap_key(), id, vault }
    }

    fn seal(&self, what: &str, content: &[u8]) -> Vec<u8> {
        let (random, mut out) = (Fixed(what.to_owned(), Cell::new(0)), Vec::new());
        let (front, key) = UnderVault::make(&self.vault, (&self.id, &self.wrap), &random).unwrap();
        seal(&format!("{what}.txt"), Beginning::under_vault(&front, key), &random, content, &mut out).unwrap();
        out
    }

    fn open(&self, file: &[u8]) -> Result<(String, Vec<u8>), Error> {
        let sealed = SealedFile::read(file)?;
        let front = sealed.under_vault().ok_or(Error::Misuse("not under a vault"))?.clone();
        if (front.vault(), front.key_id()) != (self.vault, self.id) {
            return Err(Error::OtherVault(front.vault()));
        }
        // As it goes over the channel.
        assert_eq!(front.to_string().parse::<UnderVault>().unwrap(), front);
        read_all(sealed.open_under_vault(&front.unwrap(&self.wrap)?)?)
    }
}

#[test]
fn the_code_seals_and_opens_the_vectors_under_a_vault() {
    let (vault, vectors) = (Vault::new(), serde_json::from_str::<Value>(VECTORS).unwrap());
    assert_eq!(vault.vault.as_bytes(), unhex(&vectors["vault"]["vault"]).as_slice());
    assert_eq!(vault.id.as_bytes(), unhex(&vectors["vault"]["data key id"]).as_slice());
    for given in vectors["vault"]["files"].as_array().unwrap() {
        let content = given["content"].as_str().unwrap().as_bytes();
        let file = vault.seal(given["what"].as_str().unwrap(), content);
        assert_eq!(file, unhex(&given["file"]));
        assert_eq!(vault.open(&file).unwrap(), (given["name"].as_str().unwrap().to_owned(), content.to_vec()));
    }
    for given in vectors["vault"]["refused"].as_array().unwrap() {
        assert!(vault.open(&unhex(&given["file"])).is_err(), "{}", given["reason"]);
    }
}

/// Each byte of it, each length, and the parts of two files put together.
#[test]
fn no_change_of_a_file_under_a_vault_is_given_out() {
    let (vault, content) = (Vault::new(), vec![5; CHUNK_BYTES + 9]);
    let (file, other) = (vault.seal("one", &content), vault.seal("other", &content));
    let header = 159 + "one.txt".len();
    let small = vault.seal("one", b"short");
    for at in 0..small.len() {
        for bit in [1, 0x80] {
            let mut bad = small.clone();
            bad[at] ^= bit;
            assert!(vault.open(&bad).is_err(), "byte {at}");
        }
        assert!(vault.open(&small[..at]).is_err(), "cut to {at}");
    }
    let body = &file[header..];
    let (first, last) = body.split_at(SEALED_CHUNK_BYTES);
    let front = &file[..header];
    let of_other = &other[159 + "other.txt".len()..];
    let named = [&file[..UNDER_VAULT_BYTES], &other[UNDER_VAULT_BYTES..]].concat();
    let fronted = [&other[..UNDER_VAULT_BYTES], &file[UNDER_VAULT_BYTES..]].concat();
    for (bad, why) in [
        ([front, last, first].concat(), "another order"),
        ([front, first].concat(), "without its end"),
        ([front, last].concat(), "without its beginning"),
        ([front, body, last].concat(), "more of it"),
        ([front, of_other].concat(), "the content of another file"),
        ([front, &of_other[..SEALED_CHUNK_BYTES], last].concat(), "a chunk of another file"),
        (named, "the name of another file"),
        (fronted, "the key of another file"),
    ] {
        assert!(vault.open(&bad).is_err(), "{why}");
    }
    assert_eq!(vault.open(&file).unwrap().1, content);
    // What opens it is bound in as well.
    for mode in 0..=255 {
        let mut bad = small.clone();
        bad[12] = mode;
        assert_eq!(vault.open(&bad).is_ok(), mode == VAULT);
        assert!(SealedFile::read(bad.as_slice()).and_then(|sealed| sealed.open(&passphrase())).is_err());
    }
}

#[test]
fn only_a_front_is_taken_for_one() {
    let front = &Vault::new().seal("one", b"")[..UNDER_VAULT_BYTES];
    let text: String = front.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(text.parse::<UnderVault>().unwrap().to_string(), text);
    let passphrase: String = sealed("hello", b"")[..117].iter().map(|byte| format!("{byte:02x}")).collect();
    for bad in ["", &text[1..], &text[2..], &format!("{text}00"), &text.to_uppercase(), &"é".repeat(117), &passphrase]
    {
        assert!(bad.parse::<UnderVault>().is_err(), "{bad}");
    }
}

#[test]
fn each_fault_has_its_name() {
    let file = sealed("hello", b"hello");
    let changed = |at: usize, to: &[u8]| {
        let mut file = file.clone();
        file[at..at + to.len()].copy_from_slice(to);
        SealedFile::read(file.as_slice()).and_then(|sealed| sealed.open(&passphrase())).map(drop).unwrap_err()
    };
    assert!(matches!(changed(0, b"X"), Error::Damaged { .. }));
    assert!(matches!(changed(8, &[0, 0, 0, 7]), Error::Newer { found: 7, known: 1, .. }));
    assert!(
        matches!(changed(12, &[3]), Error::Newer { found: 2, known: 1, .. }),
        "a way of opening that is not known yet"
    );
    for costs in [[1025u32, 1, 2], [64, 5, 2], [64, 1, 9]] {
        let costs = costs.map(u32::to_be_bytes);
        assert!(matches!(changed(13, costs.as_flattened()), Error::Refused(_)), "{costs:?}");
    }
    assert!(matches!(changed(13, &[0, 0, 0, 63]), Error::Damaged { .. }));
    assert!(matches!(changed(25, &[file[25] ^ 1]), Error::WrongPassword));
    assert!(matches!(changed(57, &[file[57] ^ 1]), Error::Damaged { .. }));
    assert!(matches!(changed(131, &[file[131] ^ 1]), Error::Damaged { .. }));
    let other = Password::parse("incorrect horse").unwrap();
    assert!(matches!(SealedFile::read(file.as_slice()).unwrap().open(&other), Err(Error::WrongPassword)));
    for name in ["", &"n".repeat(256)] {
        assert!(seal(name, with_passphrase(&OsRandom), &OsRandom, &b""[..], io::sink()).is_err());
    }
}

#[test]
fn no_change_of_the_content_is_given_out() {
    // One stretching for all: what is changed stands behind the header.
    let content: Vec<u8> = (0..3 * CHUNK_BYTES + 100).map(|n| (n % 251) as u8).collect();
    let file = sealed("many chunks", &content);
    let header = 171 + "many chunks.txt".len();
    let key = || {
        let (parameters, rest) = file.split_at(PARAMETERS_BYTES);
        let salt = parameters.last_chunk().unwrap();
        let sealed_key = passphrase().stretch_for_file(salt, cost()).unwrap();
        sealed_key.unwrap_file(&rest[CHECK_BYTES..CHECK_BYTES + WRAPPED_BYTES], &file[..57]).unwrap()
    };
    let key = key();
    let read = |body: &[u8]| {
        let cipher = key.chunk_cipher(&file[..header]).unwrap();
        let mut from = io::Cursor::new(body.to_vec());
        let mut next = Vec::new();
        read_up_to(&mut from, SEALED_CHUNK_BYTES, &mut next).unwrap();
        let mut reader = SealedReader { name: String::new(), cipher, from, next, index: 0, state: State::Reading };
        let (mut out, mut chunk) = (Vec::new(), Vec::new());
        loop {
            match reader.next_chunk(&mut chunk) {
                Ok(true) => out.extend_from_slice(&chunk),
                Ok(false) => return (out, true),
                Err(_) => return (out, false),
            }
        }
    };
    let body = &file[header..];
    assert_eq!(read(body), (content.clone(), true));
    let refused = |body: &[u8], why: &str| {
        let (out, whole) = read(body);
        assert!(!whole && content.starts_with(&out), "{why}");
    };
    for at in (0..body.len()).step_by(997).chain([body.len() - 1]) {
        let mut body = body.to_vec();
        body[at] ^= 1;
        refused(&body, "a flipped bit");
    }
    for cut in (0..body.len()).step_by(1009).chain((1..4).map(|n| n * SEALED_CHUNK_BYTES)) {
        refused(&body[..cut], "a cut");
    }
    refused(&[body, &[0]].concat(), "a byte more");
    refused(&[body, body].concat(), "twice");
    let (first, rest) = body.split_at(SEALED_CHUNK_BYTES);
    let (second, rest) = rest.split_at(SEALED_CHUNK_BYTES);
    refused(&[second, first, rest].concat(), "another order");
    refused(&[first, rest].concat(), "one less");
    refused(&[first, second, second, rest].concat(), "one twice");
}

/// Gives a byte at a time, as a slow pipe does.
struct Drip<'a>(&'a [u8]);

impl Read for Drip<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let bytes = out.len().min(1).min(self.0.len());
        let (now, rest) = self.0.split_at(bytes);
        out[..bytes].copy_from_slice(now);
        self.0 = rest;
        Ok(bytes)
    }
}

#[test]
fn a_slow_pipe_gives_the_same_file() {
    let content = vec![7; CHUNK_BYTES + 3];
    let file = sealed("slow", &content);
    let mut out = Vec::new();
    let random = Fixed("slow".to_owned(), Cell::new(0));
    seal("slow.txt", with_passphrase(&random), &random, Drip(&content), &mut out).unwrap();
    assert!(out == file);
    let mut reader = SealedFile::read(Drip(&file)).unwrap().open(&passphrase()).unwrap();
    let (mut back, mut chunk) = (Vec::new(), Vec::new());
    while reader.next_chunk(&mut chunk).unwrap() {
        back.extend_from_slice(&chunk);
    }
    assert!(back == content);
}
