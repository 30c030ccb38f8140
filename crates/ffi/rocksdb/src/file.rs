//! One file of RocksDB's, by the layout of its kind.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use aws_lc_rs::error::Unspecified;

use crate::blocks::{self, BlockReader, BlockWriter};
use crate::frames::{FrameReader, FrameWriter, MAX_FRAME_BYTES, SECTOR_BYTES, read_up_to};
use crate::header::{self, HEADER_BYTES};
use crate::key::StoreKey;
use crate::name::{Name, last_part};

/// Why something cannot be done to a file.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The bytes are not those that were written here.
    Damaged,
    /// Not a file, or not a use of it, that RocksDB has any business with.
    Refused,
    Io(io::Error),
}

impl Fault {
    /// For a file that is shorter than it was a moment ago.
    pub(crate) fn short(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Damaged } else { Self::Io(error) }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Unspecified> for Fault {
    fn from(_: Unspecified) -> Self {
        Self::Io(io::Error::other("the cryptographic library failed"))
    }
}

/// The name that `path` ends with.
pub(crate) fn name_of(path: &Path) -> Result<Name, Fault> {
    Name::parse(last_part(path)).ok_or(Fault::Refused)
}

enum Body {
    Frames { writer: FrameWriter, pending: Vec<u8> },
    Blocks(BlockWriter),
}

/// Writes a new file, from its beginning to its end.
pub(crate) struct Writer {
    file: File,
    body: Body,
    /// Sealed, and not yet in the file.
    out: Vec<u8>,
    written: u64,
    /// How a write or a sync failed. Nothing may follow then: nobody knows what is in the file.
    broken: Option<i32>,
    closed: bool,
}

/// What is sealed is handed to the file in pieces of about this size.
const OUT_BYTES: usize = 64 << 10;

impl Writer {
    pub(crate) fn create(store: &StoreKey, path: &Path) -> Result<Self, Fault> {
        let name = name_of(path)?;
        let (key, out) = header::make(store, name)?;
        let body = if name.grows() {
            Body::Frames { writer: FrameWriter::new(key), pending: Vec::new() }
        } else {
            Body::Blocks(BlockWriter::new(key))
        };
        let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        Ok(Self { file, body, out, written: 0, broken: None, closed: false })
    }

    pub(crate) fn append(&mut self, data: &[u8]) -> Result<(), Fault> {
        match &mut self.body {
            Body::Frames { pending, .. } => {
                pending.extend_from_slice(data);
                if pending.len() >= MAX_FRAME_BYTES { self.flush() } else { Ok(()) }
            }
            Body::Blocks(writer) => {
                writer.append(data, &mut self.out)?;
                if self.out.len() >= OUT_BYTES { self.write_out() } else { Ok(()) }
            }
        }
    }

    /// Hands to the file what was appended; of blocks, nothing that is not full.
    pub(crate) fn flush(&mut self) -> Result<(), Fault> {
        if let Body::Frames { writer, pending } = &mut self.body {
            writer.seal(pending, &mut self.out)?;
            pending.clear();
        }
        self.write_out()
    }

    /// Puts on disk what was appended. The last block of a file of blocks is not known before [`Writer::close`], which
    /// puts it on disk too.
    pub(crate) fn sync(&mut self) -> Result<(), Fault> {
        self.flush()?;
        if matches!(self.body, Body::Frames { .. }) {
            self.sync_data()?;
        }
        Ok(())
    }

    pub(crate) fn close(&mut self) -> Result<(), Fault> {
        if self.closed {
            return Ok(());
        }
        if let Body::Blocks(writer) = &mut self.body {
            writer.finish(&mut self.out)?;
        }
        self.flush()?;
        if matches!(self.body, Body::Blocks(_)) {
            self.sync_data()?;
        }
        self.closed = true;
        Ok(())
    }

    fn write_out(&mut self) -> Result<(), Fault> {
        if let Some(code) = self.broken {
            return Err(io::Error::from_raw_os_error(code).into());
        }
        if self.closed {
            return Err(Fault::Refused);
        }
        let result = self.file.write_all_at(&self.out, self.written);
        if result.is_err() {
            // Half a frame would be taken for a crash; so this is for tidiness, and may fail.
            let _ = self.file.set_len(self.written);
        }
        self.broken_by(result)?;
        self.written = self.written.saturating_add(u64::try_from(self.out.len()).unwrap_or(u64::MAX));
        self.out.clear();
        Ok(())
    }

    /// After a sync that failed nobody knows what is on disk, and a second one may not say so again.
    fn sync_data(&mut self) -> Result<(), Fault> {
        let result = self.file.sync_data();
        self.broken_by(result)
    }

    fn broken_by(&mut self, result: io::Result<()>) -> Result<(), Fault> {
        const EIO: i32 = 5;
        self.broken = result.as_ref().err().map(|error| error.raw_os_error().unwrap_or(EIO));
        Ok(result?)
    }
}

/// Reads a file from its beginning to its end.
pub(crate) enum Reader {
    Frames(FrameReader<BufReader<File>>),
    Blocks { blocks: BlockReader, at: u64 },
}

impl Reader {
    pub(crate) fn open(store: &StoreKey, path: &Path) -> Result<Self, Fault> {
        let name = name_of(path)?;
        if !name.grows() {
            return Ok(Self::Blocks { blocks: open_blocks(store, path)?, at: 0 });
        }
        let mut source = BufReader::new(File::open(path)?);
        let mut header = [0; HEADER_BYTES];
        let length = read_up_to(&mut source, &mut header)?;
        let key = match header::open(store, name, &header) {
            Ok(key) if length == HEADER_BYTES => Some(key),
            // A crash came before the header was on disk, and so before anything was acknowledged.
            _ if length < HEADER_BYTES || (header == [0; HEADER_BYTES] && sector_is_zero(&mut source)?) => None,
            Ok(_) => return Err(Fault::Damaged),
            Err(fault) => return Err(fault),
        };
        Ok(Self::Frames(FrameReader::new(source, key)))
    }

    pub(crate) fn read(&mut self, out: &mut [u8]) -> Result<usize, Fault> {
        match self {
            Self::Frames(frames) => frames.read(out),
            Self::Blocks { blocks, at } => {
                let length = blocks.read(*at, out)?;
                *at = at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
                Ok(length)
            }
        }
    }
}

/// Whether all is zero behind a header, up to the end of its sector.
fn sector_is_zero(source: &mut BufReader<File>) -> Result<bool, Fault> {
    let mut rest = [0; SECTOR_BYTES - HEADER_BYTES];
    read_up_to(source, &mut rest)?;
    Ok(rest.iter().all(|byte| *byte == 0))
}

pub(crate) fn open_blocks(store: &StoreKey, path: &Path) -> Result<BlockReader, Fault> {
    let name = name_of(path)?;
    if name.grows() {
        return Err(Fault::Refused);
    }
    let mut file = File::open(path)?;
    let mut header = [0; HEADER_BYTES];
    file.read_exact(&mut header).map_err(Fault::short)?;
    let key = header::open(store, name, &header)?;
    let bytes = file.metadata()?.len();
    BlockReader::new(file, bytes, key)
}

/// How much a reader of the file would read. RocksDB asks for that of files too that it did not finish before a crash, so a
/// length that cannot be is 0 and no damage: no table of a store is so short, and RocksDB knows how long each should be.
pub(crate) fn size(store: &StoreKey, path: &Path) -> Result<u64, Fault> {
    if !name_of(path)?.grows() {
        return Ok(blocks::plain_length(std::fs::metadata(path)?.len()).unwrap_or(0));
    }
    read_through(store, path)
}

/// Authenticates every byte, and counts them.
pub(crate) fn read_through(store: &StoreKey, path: &Path) -> Result<u64, Fault> {
    let mut reader = Reader::open(store, path)?;
    let mut buffer = vec![0; 64 << 10];
    let mut total: u64 = 0;
    loop {
        match reader.read(&mut buffer)? {
            0 => return Ok(total),
            length => total = total.saturating_add(u64::try_from(length).unwrap_or(u64::MAX)),
        }
    }
}
