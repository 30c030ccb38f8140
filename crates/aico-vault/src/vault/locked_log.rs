//! What happens while the vault is locked: a bounded side file under a MAC key that is erased with every line, merged
//! into the audit log at the next unlocking (`docs/spec/audit-log.md`, While locked).

use std::path::{Path, PathBuf};

use aico_crypto::LockedKey;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::header::VaultId;
use crate::{Error, durable};

pub(super) const NAME: &str = "locked.log";
const TAG: &str = "AICO-LOCKED-1";
/// Lines that are kept; the last one says that there were more.
const MAX_LINES: usize = 256;
const MAX_FILE_BYTES: usize = 256 * 1024;
const MAX_DETAIL_BYTES: usize = 256;

/// The side file of a locked vault.
#[derive(Debug)]
pub struct LockedLog {
    path: PathBuf,
    lines: Vec<String>,
    key: Option<LockedKey>,
    first: String,
}

/// What a side file held.
#[derive(Debug)]
pub(crate) struct Merged {
    /// The events, each JSON.
    pub(crate) events: Vec<String>,
    /// Whether every line is what was written.
    pub(crate) whole: bool,
}

impl LockedLog {
    /// The side file of the vault in `home`.
    pub fn open(home: &Path) -> Result<Self, Error> {
        let path = home.join(NAME);
        let text = read(&path)?;
        let damaged = || Error::damaged(path.display().to_string(), "it is not the log of a locked vault");
        let mut lines = text.lines();
        let first = lines.next().filter(|line| line.starts_with(TAG)).ok_or_else(damaged)?.to_owned();
        let key = lines.next().and_then(|line| line.strip_prefix("next ")).ok_or_else(damaged)?;
        let key = LockedKey::hazmat_from_file(key).map_err(|_| damaged())?;
        Ok(Self { lines: lines.map(str::to_owned).collect(), key: Some(key), first, path })
    }

    /// Notes an event, on disk when this returns. A full file takes no more.
    pub fn note(&mut self, at_ms: u64, word: &str, detail: &str) -> Result<(), Error> {
        if self.lines.len() >= MAX_LINES {
            return Ok(());
        }
        let last = self.lines.len() + 1 == MAX_LINES;
        let (detail, _cut) = detail.split_at(detail.floor_char_boundary(MAX_DETAIL_BYTES));
        let (word, detail) =
            if last { ("locked.full", "what came after this is not recorded") } else { (word, detail) };
        let event = json!({ "at_ms": at_ms, "what": word, "detail": detail }).to_string();
        let key = self.key.take().ok_or(Error::Misuse("a side file that failed before"))?;
        self.lines.push(format!("{event} {}", hex(&key.authenticate(event.as_bytes()))));
        let key = self.key.insert(key.into_next());
        write(&self.path, &self.first, key, &self.lines)
    }
}

/// Begins the side file for the next time.
pub(crate) fn begin(home: &Path, vault: &VaultId, key: &LockedKey) -> Result<(), Error> {
    write(&home.join(NAME), &format!("{TAG} {vault}"), key, &[])
}

/// Reads what was noted since `key` was the next key. A file that is gone is not whole.
pub(crate) fn merge(home: &Path, key: LockedKey) -> Result<Merged, Error> {
    let Ok(text) = read(&home.join(NAME)) else { return Ok(Merged { events: Vec::new(), whole: false }) };
    let mut lines = text.lines();
    let tagged = lines.next().is_some_and(|line| line.starts_with(TAG));
    let next = lines.next().and_then(|line| line.strip_prefix("next ")).unwrap_or_default();
    let mut merged = Merged { events: Vec::new(), whole: tagged };
    let mut key = key;
    for line in lines.take(MAX_LINES) {
        let good = line.rsplit_once(' ').filter(|(event, mac)| hex(&key.authenticate(event.as_bytes())) == *mac);
        let Some((event, _)) = good else {
            merged.whole = false;
            break;
        };
        merged.events.push(event.to_owned());
        key = key.into_next();
    }
    // The last key of the chain stands in the file: a cut line would leave another one.
    merged.whole &= key.hazmat_to_file(|digits| digits == next);
    Ok(merged)
}

/// The word and the detail of a merged event.
pub(crate) fn decode(event: &str) -> Option<(u64, String, String)> {
    let value: Value = serde_json::from_str(event).ok()?;
    let text = |name: &str| value.get(name).and_then(Value::as_str).map(str::to_owned);
    Some((value.get("at_ms")?.as_u64()?, text("what")?, text("detail")?))
}

fn write(path: &Path, first: &str, key: &LockedKey, lines: &[String]) -> Result<(), Error> {
    key.hazmat_to_file(|digits| {
        // As long as it gets, from the start: growing would leave a copy of the key behind.
        let bytes = [first, "next ", digits].map(str::len).iter().sum::<usize>() + 2;
        let bytes = bytes + lines.iter().map(|line| line.len() + 1).sum::<usize>();
        let mut text = Zeroizing::new(String::with_capacity(bytes));
        for part in [first, "\nnext ", digits, "\n"].into_iter().chain(lines.iter().flat_map(|line| [line, "\n"])) {
            text.push_str(part);
        }
        durable::replace(path, text.as_bytes(), 0o600)
    })
}

fn read(path: &Path) -> Result<Zeroizing<String>, Error> {
    let file = durable::open(path).map_err(|source| Error::io("opening", path, source))?;
    let bytes = durable::read_at_most(&file, MAX_FILE_BYTES).map_err(|source| Error::io("reading", path, source))?;
    let text = std::str::from_utf8(&bytes).ok().filter(|_| bytes.len() <= MAX_FILE_BYTES);
    let text = text.ok_or_else(|| Error::damaged(path.display().to_string(), "it is too long or not text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use aico_crypto::OsRandom;

    use super::*;

    fn begun() -> (tempfile::TempDir, impl Fn() -> LockedKey) {
        let home = tempfile::tempdir().unwrap();
        let key = LockedKey::make(&OsRandom).unwrap();
        begin(home.path(), &VaultId::make(&OsRandom).unwrap(), &key).unwrap();
        let digits = key.hazmat_to_file(str::to_owned);
        (home, move || LockedKey::hazmat_from_file(&digits).unwrap())
    }

    #[test]
    fn what_was_noted_comes_back_in_order() {
        let (home, key) = begun();
        assert!(merge(home.path(), key()).unwrap().whole, "nothing happened");
        for n in 0..3 {
            // Each time by another process, as a restart would.
            LockedLog::open(home.path()).unwrap().note(n, "unlock.failed", "a wrong password").unwrap();
        }
        let merged = merge(home.path(), key()).unwrap();
        assert!(merged.whole);
        let times: Vec<u64> = merged.events.iter().map(|event| decode(event).unwrap().0).collect();
        assert_eq!(times, [0, 1, 2]);
    }

    #[test]
    fn a_changed_cut_or_missing_line_is_noticed() {
        let (home, key) = begun();
        let mut log = LockedLog::open(home.path()).unwrap();
        (0..4).for_each(|n| log.note(n, "unlock.failed", "a wrong password").unwrap());
        let path = home.path().join(NAME);
        let good = std::fs::read_to_string(&path).unwrap();
        let lines: Vec<&str> = good.lines().collect();
        let without = |at: usize| -> String {
            lines.iter().enumerate().filter(|(n, _)| *n != at).map(|(_, line)| format!("{line}\n")).collect()
        };
        let changed = good.replacen("wrong", "right", 1);
        for bad in [changed, without(2), without(3), without(5), String::new(), good[..good.len() - 10].to_owned()] {
            std::fs::write(&path, bad).unwrap();
            assert!(!merge(home.path(), key()).unwrap().whole);
        }
        std::fs::remove_file(&path).unwrap();
        assert!(!merge(home.path(), key()).unwrap().whole);
        std::fs::write(&path, good).unwrap();
        assert!(merge(home.path(), key()).unwrap().whole);
    }

    /// Whoever comes later finds only the key of the next line, and that makes no earlier one.
    #[test]
    fn an_old_line_cannot_be_rewritten_with_the_key_that_is_there() {
        let (home, key) = begun();
        let mut log = LockedLog::open(home.path()).unwrap();
        log.note(1, "unlock.failed", "a wrong password").unwrap();
        let path = home.path().join(NAME);
        let mut thief = LockedLog::open(home.path()).unwrap();
        thief.lines.clear();
        thief.note(1, "unlock.failed", "nothing to see").unwrap();
        assert!(!merge(home.path(), key()).unwrap().whole);
        assert!(std::fs::metadata(path).unwrap().len() > 0);
    }

    #[test]
    fn it_is_bounded() {
        let (home, key) = begun();
        let mut log = LockedLog::open(home.path()).unwrap();
        for n in 0..MAX_LINES as u64 + 50 {
            log.note(n, "handshake.refused", &"x".repeat(10_000)).unwrap();
        }
        let merged = merge(home.path(), key()).unwrap();
        assert!(merged.whole && merged.events.len() == MAX_LINES);
        assert_eq!(decode(merged.events.last().unwrap()).unwrap().1, "locked.full");
        assert!(std::fs::metadata(home.path().join(NAME)).unwrap().len() < MAX_FILE_BYTES as u64);
    }
}
