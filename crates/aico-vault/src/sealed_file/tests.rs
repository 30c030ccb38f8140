//! `testvectors/vault/sealed-file.json`, which the Python reference computes, and files that somebody has changed.

use std::cell::Cell;

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

fn sealed(what: &str, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let random = Fixed(what.to_owned(), Cell::new(0));
    let bytes = seal(&format!("{what}.txt"), (&passphrase(), cost()), &random, content, &mut out).unwrap();
    assert_eq!(bytes, content.len() as u64);
    out
}

/// Name and content, read to the end.
fn opened(file: &[u8]) -> Result<(String, Vec<u8>), Error> {
    let mut reader = SealedFile::read(file)?.open(&passphrase())?;
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
        matches!(changed(12, &[2]), Error::Newer { found: 2, known: 1, .. }),
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
    assert!(seal("", (&passphrase(), cost()), &aico_crypto::OsRandom, &b""[..], io::sink()).is_err());
    assert!(seal(&"n".repeat(256), (&passphrase(), cost()), &aico_crypto::OsRandom, &b""[..], io::sink()).is_err());
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
    seal("slow.txt", (&passphrase(), cost()), &random, Drip(&content), &mut out).unwrap();
    assert!(out == file);
    let mut reader = SealedFile::read(Drip(&file)).unwrap().open(&passphrase()).unwrap();
    let (mut back, mut chunk) = (Vec::new(), Vec::new());
    while reader.next_chunk(&mut chunk).unwrap() {
        back.extend_from_slice(&chunk);
    }
    assert!(back == content);
}
