//! Sealed files (`docs/spec/sealed-file.md`): one file under a passphrase, for somebody without the vault.
//!
//! Both directions take memory for two chunks, whatever the length.

use std::io::{self, Read, Write};
use std::mem;

use aico_crypto::{
    CHUNK_BYTES, ChunkCipher, FileKey, Password, Random, SALT_BYTES, SEALED_CHUNK_BYTES, SEALED_OVERHEAD_BYTES,
    STRETCH_COST_BYTES, SealedFileKey, StretchCost, WRAPPED_BYTES,
};

use crate::Error;

const MAGIC: &[u8; 8] = b"AICOSEA1";
const FORMAT: u32 = 1;
const PASSPHRASE: u8 = 1;
const CHECK_BYTES: usize = 16;
/// Magic, format, mode, cost and salt.
const PARAMETERS_BYTES: usize = 8 + 4 + 1 + STRETCH_COST_BYTES + SALT_BYTES;
/// Longest name in bytes.
pub const MAX_SEALED_NAME_BYTES: usize = 255;
const WHAT: &str = "the sealed file";

/// Seals everything that `from` gives, under `passphrase`. Returns the content's length.
///
/// # Errors
/// [`Error::Misuse`] for a name of no or more than 255 bytes; what the two streams say.
pub fn seal(
    name: &str,
    (passphrase, cost): (&Password, StretchCost),
    random: &dyn Random,
    mut from: impl Read,
    mut to: impl Write,
) -> Result<u64, Error> {
    let key = FileKey::make(random)?;
    let header = make_header(name, (passphrase, cost), &key, random)?;
    let cipher = key.chunk_cipher(&header)?;
    to.write_all(&header).map_err(writing)?;
    let (mut chunk, mut next) = (Vec::new(), Vec::new());
    read_up_to(&mut from, CHUNK_BYTES, &mut chunk)?;
    let (mut index, mut bytes) = (0u64, 0u64);
    loop {
        // Whether this is the last one shows in what comes behind it.
        read_up_to(&mut from, CHUNK_BYTES, &mut next)?;
        bytes += chunk.len() as u64;
        let last = next.is_empty();
        cipher.seal(index, last, &mut chunk)?;
        to.write_all(&chunk).map_err(writing)?;
        if last {
            to.flush().map_err(writing)?;
            return Ok(bytes);
        }
        mem::swap(&mut chunk, &mut next);
        index += 1;
    }
}

fn make_header(
    name: &str,
    (passphrase, cost): (&Password, StretchCost),
    key: &FileKey,
    random: &dyn Random,
) -> Result<Vec<u8>, Error> {
    let length = u16::try_from(name.len()).ok().filter(|n| (1..=MAX_SEALED_NAME_BYTES).contains(&usize::from(*n)));
    let length = length.ok_or(Error::Misuse("the name of a sealed file has 1 to 255 bytes"))?;
    let mut salt = [0; SALT_BYTES];
    random.fill(&mut salt)?;
    let sealed_key = passphrase.stretch_for_file(&salt, cost)?;
    let mut header = [MAGIC.as_slice(), &FORMAT.to_be_bytes(), &[PASSPHRASE], &cost.encode(), &salt].concat();
    header.extend_from_slice(&sealed_key.check_value(&header));
    header.extend_from_slice(&sealed_key.wrap_file(key, &header, random)?);
    header.extend_from_slice(&length.to_be_bytes());
    header.extend_from_slice(&key.seal_name(&header, name.as_bytes(), random)?);
    Ok(header)
}

/// A sealed file whose header has been read; nothing of it is known to be genuine yet.
#[derive(Debug)]
pub struct SealedFile<R> {
    parameters: [u8; PARAMETERS_BYTES],
    cost: StretchCost,
    check: [u8; CHECK_BYTES],
    wrapped: [u8; WRAPPED_BYTES],
    sealed_name: Vec<u8>,
    from: R,
}

impl<R: Read> SealedFile<R> {
    /// Reads the header, at most 426 bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`] for what is no such file, [`Error::Newer`], [`Error::Refused`] for one whose passphrase would cost
    /// more than 1 GiB of memory, 4 passes or 8 lanes to stretch.
    pub fn read(mut from: R) -> Result<Self, Error> {
        let mut parameters = [0; PARAMETERS_BYTES];
        fill(&mut from, &mut parameters)?;
        let (magic, rest) = parameters.split_first_chunk::<8>().ok_or_else(cut)?;
        let (format, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let ([mode], rest) = rest.split_first_chunk::<1>().ok_or_else(cut)?;
        let cost = rest.first_chunk::<STRETCH_COST_BYTES>().ok_or_else(cut)?;
        if magic != MAGIC {
            return Err(Error::damaged(WHAT, "it does not begin as such a file does"));
        }
        let found = u32::from_be_bytes(*format);
        if found != FORMAT || *mode != PASSPHRASE {
            let found = found.max(FORMAT + u32::from(*mode != PASSPHRASE));
            return Err(Error::Newer { what: WHAT.to_owned(), found, known: FORMAT, needs: None });
        }
        let cost = StretchCost::decode(cost).map_err(|_| Error::damaged(WHAT, "its costs are out of their limits"))?;
        if !cost.is_bearable() {
            return Err(Error::Refused("opening this file would take more than 1 GiB of memory, 4 passes or 8 lanes"));
        }
        let (mut check, mut wrapped, mut length) = ([0; CHECK_BYTES], [0; WRAPPED_BYTES], [0; 2]);
        fill(&mut from, &mut check)?;
        fill(&mut from, &mut wrapped)?;
        fill(&mut from, &mut length)?;
        let length = usize::from(u16::from_be_bytes(length));
        if !(1..=MAX_SEALED_NAME_BYTES).contains(&length) {
            return Err(Error::damaged(WHAT, "its name has an impossible length"));
        }
        let mut sealed_name = vec![0; length + SEALED_OVERHEAD_BYTES];
        fill(&mut from, &mut sealed_name)?;
        Ok(Self { parameters, cost, check, wrapped, sealed_name, from })
    }

    /// Opens it with its passphrase.
    ///
    /// # Errors
    /// [`Error::WrongPassword`], also where the first 57 bytes are damaged; [`Error::Damaged`].
    pub fn open(self, passphrase: &Password) -> Result<SealedReader<R>, Error> {
        let Self { parameters, cost, check, wrapped, sealed_name, mut from } = self;
        let (_, salt) = parameters.split_last_chunk::<SALT_BYTES>().ok_or_else(cut)?;
        let sealed_key: SealedFileKey = passphrase.stretch_for_file(salt, cost)?;
        if !sealed_key.matches(&parameters, &check) {
            return Err(Error::WrongPassword);
        }
        let damaged = |detail| move |_| Error::damaged(WHAT, detail);
        let mut header = [parameters.as_slice(), &check].concat();
        let key = sealed_key.unwrap_file(&wrapped, &header).map_err(damaged("its key does not unwrap"))?;
        let length = sealed_name.len() - SEALED_OVERHEAD_BYTES;
        header.extend_from_slice(&wrapped);
        header.extend_from_slice(&(length as u16).to_be_bytes());
        let name = key.open_name(&header, &sealed_name).map_err(damaged("its name does not open"))?;
        let name = String::from_utf8(name).map_err(|_| Error::damaged(WHAT, "its name is not text"))?;
        header.extend_from_slice(&sealed_name);
        let cipher = key.chunk_cipher(&header)?;
        let mut next = Vec::new();
        read_up_to(&mut from, SEALED_CHUNK_BYTES, &mut next)?;
        Ok(SealedReader { name, cipher, from, next, index: 0, state: State::Reading })
    }
}

/// The content of a sealed file, chunk by chunk.
#[derive(Debug)]
pub struct SealedReader<R> {
    name: String,
    cipher: ChunkCipher,
    from: R,
    next: Vec<u8>,
    index: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Ended,
    Failed,
}

impl<R: Read> SealedReader<R> {
    /// The name of what was sealed, for people; it is no path.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Replaces `out` with the next chunk; `Ok(false)` and nothing in it at the end. The content is whole only when that
    /// has come.
    ///
    /// # Errors
    /// [`Error::Damaged`] when the chunk is not what was written there, or the file was cut; `out` is then empty.
    pub fn next_chunk(&mut self, out: &mut Vec<u8>) -> Result<bool, Error> {
        out.clear();
        match self.state {
            State::Reading => {}
            State::Ended => return Ok(false),
            State::Failed => return Err(Error::Misuse("a sealed file whose reading failed is read further")),
        }
        mem::swap(out, &mut self.next);
        let behind = read_up_to(&mut self.from, SEALED_CHUNK_BYTES, &mut self.next);
        let last = self.next.is_empty();
        let opened = behind.and_then(|()| {
            let damaged = |_| Error::damaged(WHAT, "a chunk is not what was written there, or the file was cut");
            self.cipher.open(self.index, last, out).map_err(damaged)
        });
        self.index += 1;
        if last {
            self.state = State::Ended;
        }
        if opened.is_err() {
            self.state = State::Failed;
            out.clear();
        }
        opened.map(|()| true)
    }
}

/// Replaces `out` with the next `bytes` bytes, or with fewer at the end.
fn read_up_to(from: &mut impl Read, bytes: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    out.clear();
    from.take(bytes as u64).read_to_end(out).map_err(reading).map(drop)
}

fn fill(from: &mut impl Read, out: &mut [u8]) -> Result<(), Error> {
    from.read_exact(out).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => cut(),
        _ => reading(error),
    })
}

fn cut() -> Error {
    Error::damaged(WHAT, "it ends too early")
}

fn reading(source: io::Error) -> Error {
    Error::Io { what: "reading".to_owned(), source }
}

fn writing(source: io::Error) -> Error {
    Error::failed("writing".to_owned(), source)
}

#[cfg(test)]
mod tests;
