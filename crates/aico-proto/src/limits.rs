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

#[cfg(test)]
mod tests {
    /// The numbers of `docs/spec/channel.md`, Limits, written down a second time.
    #[test]
    fn the_limits_are_those_of_the_specification() {
        use super::*;
        assert_eq!((MAX_HANDSHAKE_FRAME_BYTES, MAX_PLAINTEXT_BYTES, MAX_METADATA_BYTES), (8_192, 16_777_216, 16_384));
        assert_eq!((MAX_FRAME_BYTES, MAX_ERROR_TEXT_BYTES), (16_797_696, 1_024));
        assert_eq!((GENERATION_RECORDS, GENERATION_BYTES), (16_777_216, 17_179_869_184));
        assert_eq!((EPOCH_RECORDS, EPOCH_BYTES), (4_294_967_296, 274_877_906_944));
        assert_eq!((MAX_COUNTER, WINDOW_RECORDS, MAX_FAILURES), (9_223_372_036_854_775_808, 2_048, 65_536));
        let seconds = [GENERATION_AGE, REKEY_PATIENCE, OLD_KEYS, MAX_CLOCK_SKEW].map(|time| time.as_secs());
        assert_eq!(seconds, [3_600, 300, 30, 30]);
        assert_eq!((MAX_REQUEST_BYTES, DATA_RECORD_BYTES, SILENT_INTERVALS), (65_536, 262_144, 3));
    }
}
