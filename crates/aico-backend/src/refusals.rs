//! Handshakes that failed, in the log: enough to see an attack, never so many that the log is one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aico_net::{Error as NetError, Origin};
use aico_proto::Error as ProtoError;

use crate::backend::Running;

/// Entries in one [`WINDOW`].
const MOST: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);

/// Records refusals, at most [`MOST`] in a [`WINDOW`]; the next one says how many were left out.
pub(crate) struct Refusals {
    running: Arc<Running>,
    window: Mutex<Window>,
}

struct Window {
    began: Instant,
    noted: u32,
    left_out: u64,
}

impl Refusals {
    pub(crate) fn new(running: Arc<Running>) -> Self {
        Self { running, window: Mutex::new(Window { began: Instant::now(), noted: 0, left_out: 0 }) }
    }

    pub(crate) fn note(&self, origin: Origin, error: &NetError) {
        let Some(left_out) = self.admit() else { return };
        let more = if left_out > 0 { format!("; {left_out} more were left out") } else { String::new() };
        self.running.record("handshake.refused", &format!("{origin}: {}{more}", word(error)));
    }

    /// How many were left out since the last one, if this one may be recorded.
    fn admit(&self) -> Option<u64> {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.elapsed() >= WINDOW {
            (window.began, window.noted) = (Instant::now(), 0);
        }
        if window.noted >= MOST {
            window.left_out += 1;
            return None;
        }
        window.noted += 1;
        Some(std::mem::take(&mut window.left_out))
    }
}

/// A word of ours for each fault: nothing that the other side chose gets into the log.
pub(crate) fn word(error: &NetError) -> &'static str {
    match error {
        NetError::Stranger => "did not know this backend",
        NetError::Channel(ProtoError::Authentication) => "failed a check",
        NetError::Channel(ProtoError::UnknownPeer) => "unknown identity",
        NetError::Channel(ProtoError::WrongPeer) => "our own identity",
        NetError::Channel(ProtoError::Truncated) | NetError::Silence => "left in the middle",
        NetError::Channel(_) => "broke the protocol",
        NetError::Timeout(_) => "took too long",
        NetError::Io { .. } => "another user, or a broken connection",
        _ => "failed",
    }
}
