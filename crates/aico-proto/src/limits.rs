//! Every limit of the channel (`docs/spec/channel.md`, Limits).

use std::time::Duration;

// Fixed by the specification: both sides hold them.

/// Longest handshake frame; until the handshake is over no longer frame is read.
pub const MAX_HANDSHAKE_FRAME_BYTES: usize = 8 * 1024;
/// Longest plaintext of a record.
pub const MAX_PLAINTEXT_BYTES: usize = 16 * 1024 * 1024;
/// Longest metadata of a record.
pub const MAX_METADATA_BYTES: usize = 16 * 1024;
/// Longest frame.
pub const MAX_FRAME_BYTES: usize = MAX_PLAINTEXT_BYTES + 20 * 1024;
/// Longest text of an ERROR control record.
pub const MAX_ERROR_TEXT_BYTES: usize = 1024;
/// Records under one generation of keys.
pub const GENERATION_RECORDS: u64 = 1 << 24;
/// Plaintext bytes under one generation of keys.
pub const GENERATION_BYTES: u64 = 16 << 30;
/// Age of one generation of keys.
pub const GENERATION_AGE: Duration = Duration::from_secs(3600);
/// Records in one direction under the keys of one epoch.
pub const EPOCH_RECORDS: u64 = 1 << 32;
/// Highest counter of a record.
pub const MAX_COUNTER: u64 = 1 << 63;
/// Plaintext bytes in one direction under the keys of one epoch.
pub const EPOCH_BYTES: u64 = 256 << 30;
/// How long a REKEY may be due before the channel ends.
pub const REKEY_PATIENCE: Duration = Duration::from_secs(300);
/// Counters behind the newest that an unordered carrier may still bring.
pub const WINDOW_RECORDS: u64 = 2048;
/// Records that may fail on an unordered carrier before the channel ends.
pub const MAX_FAILURES: u32 = 1 << 16;
/// How long old keys open what an unordered carrier delays.
pub const OLD_KEYS: Duration = Duration::from_secs(30);

// Our choice: a peer may choose others.

/// Silence after which a peer that promised keepalives is taken for dead, in intervals.
pub const SILENT_INTERVALS: u32 = 3;
/// Difference of clocks beyond which a channel is refused, where the owner wants that.
pub const MAX_CLOCK_SKEW: Duration = Duration::from_secs(30);
/// Longest JSON text of a request or an answer.
pub const MAX_REQUEST_BYTES: usize = 64 * 1024;
/// Data bytes that we put into one record.
pub const DATA_RECORD_BYTES: usize = 256 * 1024;
