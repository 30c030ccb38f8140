//! Sealed files (`docs/spec/sealed-file.md`): one file, under a passphrase for somebody without the vault, or under the vault.
//!
//! Both directions take memory for two chunks, whatever the length.

use std::fmt;
use std::io::{self, Read, Write};
use std::mem;
use std::str::FromStr;

use aico_crypto::{
    CHUNK_BYTES, ChunkCipher, FileKey, FileWrapKey, Password, Random, SALT_BYTES, SEALED_CHUNK_BYTES,
    SEALED_OVERHEAD_BYTES, STRETCH_COST_BYTES, SealedFileKey, StretchCost, WRAPPED_BYTES,
};

use crate::data_keys::KeyId;
use crate::header::from_hex;
use crate::{Error, VaultId};

const MAGIC: &[u8; 8] = b"AICOSEA1";
const FORMAT: u32 = 1;
const PASSPHRASE: u8 = 1;
const VAULT: u8 = 2;
/// Magic, format and mode: what every sealed file begins with.
const START_BYTES: usize = 8 + 4 + 1;
const CHECK_BYTES: usize = 16;
/// The start, cost and salt.
const PARAMETERS_BYTES: usize = START_BYTES + STRETCH_COST_BYTES + SALT_BYTES;
/// The start, the vault's id and that of the data key.
const PLACE_BYTES: usize = START_BYTES + 16 + 16;
const UNDER_VAULT_BYTES: usize = PLACE_BYTES + WRAPPED_BYTES;
/// Longest name in bytes.
pub const MAX_SEALED_NAME_BYTES: usize = 255;
const WHAT: &str = "the sealed file";

/// The beginning of a sealed file that is to be written: what opens it, and the key of its content.
#[derive(Debug)]
pub struct Beginning {
    header: Vec<u8>,
    key: FileKey,
}

impl Beginning {
    /// For whoever has the passphrase.
    pub fn with_passphrase(passphrase: &Password, cost: StretchCost, random: &dyn Random) -> Result<Self, Error> {
        let key = FileKey::make(random)?;
        let mut salt = [0; SALT_BYTES];
        random.fill(&mut salt)?;
        let sealed_key = passphrase.stretch_for_file(&salt, cost)?;
        let mut header = [start(PASSPHRASE).as_slice(), &cost.encode(), &salt].concat();
        header.extend_from_slice(&sealed_key.check_value(&header));
        header.extend_from_slice(&sealed_key.wrap_file(&key, &header, random)?);
        Ok(Self { header, key })
    }

    /// For whoever has the vault that gave these two.
    #[must_use]
    pub fn under_vault(front: &UnderVault, key: FileKey) -> Self {
        Self { header: front.0.to_vec(), key }
    }

    fn into_header(mut self, name: &str, random: &dyn Random) -> Result<(Vec<u8>, FileKey), Error> {
        let length = u16::try_from(name.len()).ok().filter(|n| (1..=MAX_SEALED_NAME_BYTES).contains(&usize::from(*n)));
        let length = length.ok_or(Error::Misuse("the name of a sealed file has 1 to 255 bytes"))?;
        self.header.extend_from_slice(&length.to_be_bytes());
        let name = self.key.seal_name(&self.header, name.as_bytes(), random)?;
        self.header.extend_from_slice(&name);
        Ok((self.header, self.key))
    }
}

fn start(mode: u8) -> [u8; START_BYTES] {
    let mut start = [mode; START_BYTES];
    start.iter_mut().zip(MAGIC.iter().chain(&FORMAT.to_be_bytes())).for_each(|(to, from)| *to = *from);
    start
}

/// The front of a file that is sealed under a vault, bytes 0 to 117: what the vault needs to give its key again.
///
/// Its text form is 234 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnderVault([u8; UNDER_VAULT_BYTES]);

impl UnderVault {
    /// Makes a file key, and wraps it.
    pub(crate) fn make(
        vault: &VaultId,
        (id, wrap): (&KeyId, &FileWrapKey),
        random: &dyn Random,
    ) -> Result<(Self, FileKey), Error> {
        let key = FileKey::make(random)?;
        let place = [start(VAULT).as_slice(), vault.as_bytes(), id.as_bytes()].concat();
        let wrapped = wrap.wrap_file(&key, &place, random)?;
        let bytes = [place.as_slice(), &wrapped].concat().try_into().map_err(|_| cut())?;
        Ok((Self(bytes), key))
    }

    /// The file's key, if `wrap` wrapped it for this front.
    pub(crate) fn unwrap(&self, wrap: &FileWrapKey) -> Result<FileKey, Error> {
        let (place, wrapped) = self.0.split_first_chunk::<PLACE_BYTES>().ok_or_else(cut)?;
        wrap.unwrap_file(wrapped, place).map_err(|_| Error::damaged(WHAT, "its key does not unwrap"))
    }

    /// The vault that opens it, as the file says.
    #[must_use]
    pub fn vault(&self) -> VaultId {
        VaultId::from_bytes(self.id_at::<START_BYTES>())
    }

    /// The data key that wraps the file's, as the file says.
    pub(crate) fn key_id(&self) -> KeyId {
        KeyId::from_bytes(self.id_at::<{ START_BYTES + 16 }>())
    }

    fn id_at<const AT: usize>(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.iter_mut().zip(self.0.iter().skip(AT)).for_each(|(to, from)| *to = *from);
        id
    }
}

impl fmt::Display for UnderVault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for UnderVault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        from_hex(text)
            .filter(|bytes: &[u8; UNDER_VAULT_BYTES]| bytes.starts_with(&start(VAULT)))
            .map(Self)
            .ok_or(Error::Misuse("not the front of a file that is sealed under a vault"))
    }
}

/// Seals everything that `from` gives. Returns the content's length.
///
/// # Errors
/// [`Error::Misuse`] for a name of no or more than 255 bytes; what the two streams say.
pub fn seal(
    name: &str,
    beginning: Beginning,
    random: &dyn Random,
    mut from: impl Read,
    mut to: impl Write,
) -> Result<u64, Error> {
    let (header, key) = beginning.into_header(name, random)?;
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

/// A sealed file whose header has been read; nothing of it is known to be genuine yet.
#[derive(Debug)]
pub struct SealedFile<R> {
    front: Front,
    sealed_name: Vec<u8>,
    from: R,
}

#[derive(Debug)]
enum Front {
    Passphrase {
        parameters: [u8; PARAMETERS_BYTES],
        cost: StretchCost,
        check: [u8; CHECK_BYTES],
        wrapped: [u8; WRAPPED_BYTES],
    },
    Vault(UnderVault),
}

impl<R: Read> SealedFile<R> {
    /// Reads the header, at most 426 bytes.
    ///
    /// # Errors
    /// [`Error::Damaged`] for what is no such file, [`Error::Newer`], [`Error::Refused`] for one whose passphrase would cost
    /// more than 1 GiB of memory, 4 passes or 8 lanes to stretch.
    pub fn read(mut from: R) -> Result<Self, Error> {
        let front = Front::read(&mut from)?;
        let mut length = [0; 2];
        fill(&mut from, &mut length)?;
        let length = usize::from(u16::from_be_bytes(length));
        if !(1..=MAX_SEALED_NAME_BYTES).contains(&length) {
            return Err(Error::damaged(WHAT, "its name has an impossible length"));
        }
        let mut sealed_name = vec![0; length + SEALED_OVERHEAD_BYTES];
        fill(&mut from, &mut sealed_name)?;
        Ok(Self { front, sealed_name, from })
    }

    /// What its vault needs to give its key; nothing where a passphrase opens it.
    #[must_use]
    pub fn under_vault(&self) -> Option<&UnderVault> {
        match &self.front {
            Front::Vault(front) => Some(front),
            Front::Passphrase { .. } => None,
        }
    }

    /// Opens it with its passphrase.
    ///
    /// # Errors
    /// [`Error::WrongPassword`], also where the first 57 bytes are damaged; [`Error::Damaged`].
    pub fn open(self, passphrase: &Password) -> Result<SealedReader<R>, Error> {
        let Front::Passphrase { parameters, cost, check, wrapped } = &self.front else {
            return Err(Error::Misuse("a passphrase for a file that is sealed under a vault"));
        };
        let (_, salt) = parameters.split_last_chunk::<SALT_BYTES>().ok_or_else(cut)?;
        let sealed_key: SealedFileKey = passphrase.stretch_for_file(salt, *cost)?;
        if !sealed_key.matches(parameters, check) {
            return Err(Error::WrongPassword);
        }
        let mut header = [parameters.as_slice(), check].concat();
        let key = sealed_key.unwrap_file(wrapped, &header);
        let key = key.map_err(|_| Error::damaged(WHAT, "its key does not unwrap"))?;
        header.extend_from_slice(wrapped);
        SealedReader::begin(header, &key, &self.sealed_name, self.from)
    }

    /// Opens it with the key that its vault gave.
    ///
    /// # Errors
    /// [`Error::Damaged`].
    pub fn open_under_vault(self, key: &FileKey) -> Result<SealedReader<R>, Error> {
        let Front::Vault(front) = &self.front else {
            return Err(Error::Misuse("a vault's key for a file that is sealed under a passphrase"));
        };
        SealedReader::begin(front.0.to_vec(), key, &self.sealed_name, self.from)
    }
}

impl Front {
    fn read(from: &mut impl Read) -> Result<Self, Error> {
        let mut first = [0; START_BYTES];
        fill(from, &mut first)?;
        let (magic, rest) = first.split_first_chunk::<8>().ok_or_else(cut)?;
        let (format, rest) = rest.split_first_chunk::<4>().ok_or_else(cut)?;
        let [mode] = rest else { return Err(cut()) };
        if magic != MAGIC {
            return Err(Error::damaged(WHAT, "it does not begin as such a file does"));
        }
        let found = u32::from_be_bytes(*format);
        match (found, *mode) {
            (FORMAT, PASSPHRASE) => Self::read_passphrase(first, from),
            (FORMAT, VAULT) => {
                let mut rest = [0; UNDER_VAULT_BYTES - START_BYTES];
                fill(from, &mut rest)?;
                let bytes = [first.as_slice(), &rest].concat().try_into().map_err(|_| cut())?;
                Ok(Self::Vault(UnderVault(bytes)))
            }
            _ => {
                let found = found.max(FORMAT + u32::from(found == FORMAT));
                Err(Error::Newer { what: WHAT.to_owned(), found, known: FORMAT, needs: None })
            }
        }
    }

    fn read_passphrase(first: [u8; START_BYTES], from: &mut impl Read) -> Result<Self, Error> {
        let (mut rest, mut check, mut wrapped) =
            ([0; PARAMETERS_BYTES - START_BYTES], [0; CHECK_BYTES], [0; WRAPPED_BYTES]);
        fill(from, &mut rest)?;
        let cost = rest.first_chunk::<STRETCH_COST_BYTES>().ok_or_else(cut)?;
        let cost = StretchCost::decode(cost).map_err(|_| Error::damaged(WHAT, "its costs are out of their limits"))?;
        if !cost.is_bearable() {
            return Err(Error::Refused("opening this file would take more than 1 GiB of memory, 4 passes or 8 lanes"));
        }
        fill(from, &mut check)?;
        fill(from, &mut wrapped)?;
        let parameters = [first.as_slice(), &rest].concat().try_into().map_err(|_| cut())?;
        Ok(Self::Passphrase { parameters, cost, check, wrapped })
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
    fn begin(mut header: Vec<u8>, key: &FileKey, sealed_name: &[u8], mut from: R) -> Result<Self, Error> {
        let length = sealed_name.len() - SEALED_OVERHEAD_BYTES;
        header.extend_from_slice(&(length as u16).to_be_bytes());
        let name = key.open_name(&header, sealed_name).map_err(|_| Error::damaged(WHAT, "its name does not open"))?;
        let name = String::from_utf8(name).map_err(|_| Error::damaged(WHAT, "its name is not text"))?;
        header.extend_from_slice(sealed_name);
        let cipher = key.chunk_cipher(&header)?;
        let mut next = Vec::new();
        read_up_to(&mut from, SEALED_CHUNK_BYTES, &mut next)?;
        Ok(Self { name, cipher, from, next, index: 0, state: State::Reading })
    }

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
