//! What lies on the disk, or comes from a person.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::LazyLock;

use aico_backend::config::Config;
use aico_crypto::{FileKey, GrantKey, LogKey, OsRandom, RecoveryCode, Share};
use aico_policy::SignedGrant;
use aico_vault::audit::{AuditLog, Expectations, LogId, verify};
use aico_vault::sealed_file::{Beginning, SealedFile, UnderVault, seal};
use aico_vault::{Header, LockedLog, SlotId};

use crate::edits::{Input, edit};

thread_local! {
    /// One folder a thread; its files are written anew for each input.
    static FOLDER: RefCell<tempfile::TempDir> = RefCell::new(folder());
}

pub(crate) fn folder() -> tempfile::TempDir {
    // In memory, where there is such a place: thousands of inputs a second.
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn file(name: &str, bytes: &[u8]) -> PathBuf {
    let path = FOLDER.with(|folder| folder.borrow().path().join(name));
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    path
}

/// `vault.aico`, as it comes and with a checksum that fits.
pub fn header(data: &[u8]) {
    let take = |bytes: &[u8]| {
        if let Ok(header) = Header::decode(bytes) {
            if !header.is_old() {
                assert_eq!(header.encode(), bytes, "a header has one encoding");
            }
            let _slots = (header.slots().len(), header.free_slot_id(), header.has(aico_vault::SlotKind::KeyFile));
            let secret = aico_crypto::SlotSecret::make(&OsRandom).unwrap();
            header.slots().iter().for_each(|slot| assert!(header.unlock(slot.id(), &secret).is_err()));
            assert!(header.unlock(SlotId(0), &secret).is_err());
        }
    };
    take(data);
    if data.len() > 64 {
        let mut summed = data.to_vec();
        let end = data.len() - 64;
        let sum = aico_crypto::digest(&data[..end]);
        summed[end..end + 32].copy_from_slice(&sum);
        take(&summed);
    }
}

/// A sealed file: as it comes, and as changes of one under a vault whose key is known.
pub fn sealed_file(data: &[u8]) {
    let mut rest = data;
    if let Ok(sealed) = SealedFile::read(&mut rest) {
        let front = sealed.under_vault().map(ToString::to_string);
        let least = if front.is_some() { 160 } else { 172 };
        assert!((least..least + 255).contains(&(data.len() - rest.len())), "a header, and a name of 1 to 255 bytes");
        if let Some(front) = front {
            assert_eq!(front.parse::<UnderVault>().unwrap().to_string(), front);
        }
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(front) = text.parse::<UnderVault>()
    {
        assert_eq!(front.to_string(), text);
    }
    let (file, key) = &*SEALED;
    let (mut changed, mut input) = (file.clone(), Input(data));
    while edit(&mut changed, &mut input).is_some() {}
    let opened = SealedFile::read(changed.as_slice()).and_then(|sealed| sealed.open_under_vault(key));
    let Ok(mut reader) = opened else { return };
    let (mut content, mut chunk) = (Vec::new(), Vec::new());
    while let Ok(more) = reader.next_chunk(&mut chunk) {
        content.extend_from_slice(&chunk);
        if !more {
            assert_eq!(&changed, file, "another file is taken for whole");
            break;
        }
    }
    assert!(CONTENT.starts_with(&content), "something else is given out");
}

/// More than one chunk.
const CONTENT: &[u8] = &[7; 65_536 + 100];

static SEALED: LazyLock<(Vec<u8>, FileKey)> = LazyLock::new(|| {
    let front = format!("4149434f5345413100000001{:02x}{}", 2, "ab".repeat(104));
    let key = || FileKey::hazmat_from_backend(&"3c".repeat(32)).unwrap();
    let mut file = Vec::new();
    let beginning = Beginning::under_vault(&front.parse().unwrap(), key());
    seal("name", beginning, &OsRandom, CONTENT, &mut file).unwrap();
    (file, key())
});

/// `locked.log`.
pub fn locked_log(data: &[u8]) {
    let path = file("locked.log", data);
    if let Ok(mut log) = LockedLog::open(path.parent().unwrap()) {
        log.note(1, "unlock.failed", "fuzz").unwrap();
        assert!(LockedLog::open(path.parent().unwrap()).is_ok(), "what was written can be read");
    }
}

type Files = Vec<(String, Vec<u8>)>;

/// A genuine log with a bundle and a tail of two batches.
static LOG: LazyLock<Files> = LazyLock::new(|| {
    let folder = folder();
    let path = folder.path().join("audit");
    let log = AuditLog::create(&path, LogKey::make(&OsRandom).unwrap(), LogId::from_bytes([3; 16])).unwrap();
    for index in 0..260u64 {
        let _receipt = log.record(format!("entry {index}").as_bytes()).unwrap();
        if index > 255 {
            log.wait_durable(index).unwrap();
        }
    }
    log.close().unwrap();
    let mut files = Files::new();
    let mut folders = vec![path.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(&path).unwrap().to_str().unwrap().to_owned();
                files.push((name, fs::read(entry.path()).unwrap()));
            }
        }
    }
    files.sort();
    files
});

/// The audit log's files, changed, replaced or missing: a verification finds it.
pub fn log(data: &[u8]) {
    let mut input = Input(data);
    let mut files = LOG.clone();
    while let Some(what) = input.byte() {
        let number = usize::from(what & 7) % files.len();
        match what >> 3 & 3 {
            0 => files[number].1 = input.bytes(4000).unwrap_or_default(),
            1 => {
                files.remove(number);
            }
            _ => {
                let _end = edit(&mut files[number].1, &mut input);
            }
        }
        if files.is_empty() {
            break;
        }
    }
    let root = FOLDER.with(|folder| folder.borrow().path().join("audit"));
    let _none = fs::remove_dir_all(&root);
    fs::create_dir(&root).unwrap();
    for (name, bytes) in &files {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), bytes).unwrap();
    }
    let verified = verify(&root, &Expectations::default());
    assert!(verified.is_err() || files == *LOG, "a changed log verifies");
    let opened = AuditLog::open(&root, LogKey::make(&OsRandom).unwrap(), LogId::from_bytes([3; 16]));
    assert!(opened.is_err(), "a log opens under another key");
}

/// `security.yaml`.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(config) = Config::parse(text) {
        let again = Config::parse(&config.to_yaml()).unwrap_or_else(|error| panic!("{error:?}: {}", config.to_yaml()));
        assert!(config.changes(&again).is_empty(), "what is written out reads back the same");
    }
}

/// A component's identity file and `backend.id`.
pub fn identity_file(data: &[u8]) {
    let path = file("identity", data);
    let _component = aico_net::read_component_file(&path);
    let _client = aico_net::read_client_key(&path);
    let _backend = aico_net::read_backend_id(&path);
}

/// A grant, signed, so that what is signed is read.
pub fn grant(data: &[u8]) {
    let key = GrantKey::make(&OsRandom).unwrap();
    let signature = key.sign(data).unwrap();
    let signed = SignedGrant { bytes: data.to_vec(), signature };
    let _grant = signed.verify(&key.public().unwrap());
    let other = GrantKey::make(&OsRandom).unwrap().public().unwrap();
    assert!(signed.verify(&other).is_err(), "a grant of another key");
}

/// A share of one as a person types it.
pub fn share_words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(share) = Share::parse(text) {
        assert!(share.threshold() >= 2 && (1..=16).contains(&share.index()) && share.set() < 1 << 20);
        let words = share.hazmat_share_words(|words| words.join(" "));
        assert!(Share::parse(&words).is_ok());
    }
}

/// A recovery code as a person types it.
pub fn recovery_words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(code) = RecoveryCode::parse(text) {
        let words = code.hazmat_words(|words| words.join(" "));
        assert!(RecoveryCode::parse(&words).is_ok());
    }
}
