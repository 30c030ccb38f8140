//! What a store takes and gives.

use std::io;

/// The longest key.
pub const MAX_KEY_BYTES: usize = 1 << 10;
/// The longest value, and the most that one [`Memory::put_all`] takes.
pub const MAX_VALUE_BYTES: usize = 1 << 20;

/// Why a store cannot do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file is not as it was written, is missing, or stands in another's place. Nothing is written any more.
    #[error("`{file}` of the memory store is damaged, missing or not its own; restore the folder from a backup")]
    Damaged {
        /// The name of the file.
        file: String,
    },
    /// The store was made with another key.
    #[error("the key is not that of the memory store")]
    WrongKey,
    /// The disk is full. What was acknowledged is kept, and the store goes on once there is space again.
    #[error("no space is left for the memory store; free some and try again")]
    Full,
    /// A key or a value is longer than [`MAX_KEY_BYTES`], [`MAX_VALUE_BYTES`].
    #[error("a key has at most {MAX_KEY_BYTES} bytes, what is put at once at most {MAX_VALUE_BYTES}")]
    TooLong,
    /// The system below failed, or the store is open elsewhere.
    #[error("the memory store cannot be read or written")]
    Io(#[source] io::Error),
}

impl Error {
    #[cfg(feature = "engine")]
    pub(crate) fn damaged(file: &str) -> Self {
        Self::Damaged { file: file.to_owned() }
    }
}

#[cfg(feature = "engine")]
impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => Self::Full,
            _ => Self::Io(error),
        }
    }
}

#[cfg(feature = "engine")]
impl From<crate::file::Fault> for Error {
    fn from(fault: crate::file::Fault) -> Self {
        match fault {
            crate::file::Fault::Io(error) => error.into(),
            crate::file::Fault::Damaged | crate::file::Fault::Refused => Self::damaged(crate::folder::HEADER),
        }
    }
}

/// What a store may take of the machine.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Memory for what was written last; two of it at most.
    pub write_buffer_bytes: usize,
    /// Memory for what was read last.
    pub cache_bytes: usize,
    /// Tables held open.
    pub open_files: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self { write_buffer_bytes: 4 << 20, cache_bytes: 8 << 20, open_files: 64 }
    }
}

/// A key and what is kept under it.
#[derive(Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// From when on it is gone, in milliseconds of the caller's clock.
    pub expires_ms: Option<u64>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry").field("expires_ms", &self.expires_ms).finish_non_exhaustive()
    }
}
