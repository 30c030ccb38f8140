use std::os::unix::fs::{PermissionsExt, symlink};

use aico_crypto::{SEALED_CHUNK_BYTES, SpaceKey};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

const SPACE: [u8; 16] = [7; 16];

struct Written {
    folder: TempDir,
    wrap: FileWrapKey,
    store: FileStore,
    id: FileId,
    key: Vec<u8>,
    content: Vec<u8>,
}

/// Bytes that differ from chunk to chunk.
fn content(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8).collect()
}

fn written(bytes: usize) -> Written {
    let folder = tempfile::tempdir().unwrap();
    let wrap = SpaceKey::make(&OsRandom).unwrap().file_wrap_key();
    let store = FileStore::open(&folder.path().join("files"), SPACE).unwrap();
    let (id, key) = write(&store, &wrap, &content(bytes));
    Written { folder, wrap, store, id, key, content: content(bytes) }
}

fn write(store: &FileStore, wrap: &FileWrapKey, content: &[u8]) -> (FileId, Vec<u8>) {
    let mut writer = store.create(wrap).unwrap();
    content.chunks(50_000).for_each(|piece| writer.write(piece).unwrap());
    let file = writer.finish().unwrap();
    let out = (*file.id(), file.wrapped_key().to_vec());
    file.keep();
    out
}

impl Written {
    fn path(&self) -> PathBuf {
        self.store.path(&self.id)
    }

    fn read(&self) -> Result<Vec<u8>, Error> {
        let mut reader = self.store.read(&self.id, &self.key, self.content.len() as u64, &self.wrap)?;
        let (mut all, mut chunk) = (Vec::new(), Vec::new());
        while reader.read_chunk(&mut chunk)? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    /// Reads the file with other bytes in it.
    fn read_with(&self, bytes: &[u8]) -> Result<Vec<u8>, Error> {
        fs::write(self.path(), bytes).unwrap();
        self.read()
    }
}

fn is_damaged<T: fmt::Debug>(result: Result<T, Error>) -> bool {
    matches!(result, Err(Error::Damaged { .. }))
}

#[test]
fn every_length_comes_back() {
    const C: usize = CHUNK_BYTES;
    for bytes in [0, 1, C - 1, C, C + 1, 2 * C - 1, 2 * C, 2 * C + 1, 5 * C + 77] {
        let file = written(bytes);
        assert_eq!(fs::metadata(file.path()).unwrap().len(), sealed_bytes(bytes as u64).unwrap());
        assert!(file.read().unwrap() == file.content, "{bytes}");
    }
}

/// "The header of file `000102…0f` in space `a0a1…af`"
#[test]
fn the_header_is_the_one_of_the_specification() {
    let folder = tempfile::tempdir().unwrap();
    let store = FileStore::open(folder.path(), std::array::from_fn(|i| 0xa0 + i as u8)).unwrap();
    let id = FileId::from_bytes(std::array::from_fn(|i| i as u8));
    let header: String = store.header(&id).iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(header, "4149434f46494c3100000001000102030405060708090a0b0c0d0e0fa0a1a2a3a4a5a6a7a8a9aaabacadaeaf");
    assert!(store.path(&id).ends_with("00/000102030405060708090a0b0c0d0e0f"));
}

#[test]
fn every_flipped_byte_is_noticed() {
    let file = written(2 * CHUNK_BYTES + 100);
    let good = fs::read(file.path()).unwrap();
    let edges = [0, 7, 8, 11, 12, 27, 28, 43, 44, 44 + SEALED_CHUNK_BYTES - 1, 44 + SEALED_CHUNK_BYTES, good.len() - 1];
    for at in edges.into_iter().chain((0..good.len()).step_by(997)) {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        match file.read_with(&bad) {
            Err(Error::Damaged { .. }) => {}
            Err(Error::Newer { .. }) if (8..12).contains(&at) => {}
            other => panic!("byte {at}: {:?}", other.map(|bytes| bytes.len())),
        }
    }
    assert!(file.read_with(&good).unwrap() == file.content);
}

#[test]
fn every_cut_and_added_byte_is_noticed() {
    for bytes in [2 * CHUNK_BYTES, 2 * CHUNK_BYTES + 100] {
        let file = written(bytes);
        let good = fs::read(file.path()).unwrap();
        let boundaries = (0..=2).map(|n| HEADER_BYTES + n * SEALED_CHUNK_BYTES);
        for cut in boundaries.chain([0, 1, 43, 45, good.len() - 1]).chain((0..good.len()).step_by(4999)) {
            assert!(cut == good.len() || is_damaged(file.read_with(&good[..cut])), "{cut}");
        }
        assert!(is_damaged(file.read_with(&[&good[..], b"x"].concat())));
        assert!(is_damaged(file.read_with(&[&good[..], &good[HEADER_BYTES..]].concat())));
    }
}

/// A shorter length in the row does not make a cut file whole: the chunk before the cut does not say that it is the last.
#[test]
fn a_cut_is_noticed_even_when_the_length_agrees() {
    let mut file = written(3 * CHUNK_BYTES);
    let good = fs::read(file.path()).unwrap();
    file.content.truncate(2 * CHUNK_BYTES);
    assert!(is_damaged(file.read_with(&good[..HEADER_BYTES + 2 * SEALED_CHUNK_BYTES])));
}

#[test]
fn a_file_cut_while_it_is_read_is_damaged() {
    let file = written(3 * CHUNK_BYTES);
    let mut reader = file.store.read(&file.id, &file.key, file.content.len() as u64, &file.wrap).unwrap();
    let mut chunk = Vec::new();
    assert!(reader.read_chunk(&mut chunk).unwrap());
    fs::OpenOptions::new().write(true).open(file.path()).unwrap().set_len(100_000).unwrap();
    assert!(is_damaged(reader.read_chunk(&mut chunk)));
    assert!(chunk.is_empty());
}

#[test]
fn chunks_in_another_order_are_noticed() {
    let file = written(4 * CHUNK_BYTES);
    let good = fs::read(file.path()).unwrap();
    let (header, body) = good.split_at(HEADER_BYTES);
    let chunks: Vec<&[u8]> = body.chunks(SEALED_CHUNK_BYTES).collect();
    for order in [[1, 0, 2, 3], [0, 2, 1, 3], [0, 0, 2, 3], [0, 1, 3, 2]] {
        let bad: Vec<u8> = header.iter().copied().chain(order.iter().flat_map(|n| chunks[*n].to_vec())).collect();
        assert!(is_damaged(file.read_with(&bad)), "{order:?}");
    }
}

#[test]
fn another_files_content_is_noticed() {
    let file = written(CHUNK_BYTES + 5);
    let (other, other_key) = write(&file.store, &file.wrap, &file.content);
    let others = fs::read(file.store.path(&other)).unwrap();
    assert!(is_damaged(file.read_with(&others)), "as it is");
    let renamed = [&file.store.header(&file.id)[..], &others[HEADER_BYTES..]].concat();
    assert!(is_damaged(file.read_with(&renamed)), "under this file's header");
    let bytes = file.content.len() as u64;
    assert!(is_damaged(file.store.read(&file.id, &other_key, bytes, &file.wrap)), "with its key");
    let wrap = SpaceKey::make(&OsRandom).unwrap().file_wrap_key();
    assert!(is_damaged(file.store.read(&other, &other_key, bytes, &wrap)), "under another key");
    let space = FileStore::open(&file.folder.path().join("files"), [8; 16]).unwrap();
    assert!(is_damaged(space.read(&other, &other_key, bytes, &file.wrap)), "in another space");
}

#[test]
fn any_chunk_can_be_sought() {
    let file = written(3 * CHUNK_BYTES + 9);
    let mut reader = file.store.read(&file.id, &file.key, file.content.len() as u64, &file.wrap).unwrap();
    let mut chunk = Vec::new();
    for index in [3, 0, 2] {
        reader.seek_chunk(index as u64).unwrap();
        assert!(reader.read_chunk(&mut chunk).unwrap());
        assert!(file.content[index * CHUNK_BYTES..].starts_with(&chunk) && !chunk.is_empty());
    }
    assert!(matches!(reader.seek_chunk(4), Err(Error::Misuse(_))));
}

#[test]
fn a_dropped_file_leaves_nothing() {
    let file = written(1);
    let count = || entries(&file.store.folder).unwrap().iter().map(|f| entries(f).unwrap().len()).sum::<usize>();
    assert_eq!(count(), 1);
    let mut writer = file.store.create(&file.wrap).unwrap();
    writer.write(&content(3 * CHUNK_BYTES)).unwrap();
    assert_eq!(count(), 2);
    drop(writer);
    assert_eq!(count(), 1);
    let finished = file.store.create(&file.wrap).unwrap().finish().unwrap();
    assert_eq!(count(), 2);
    drop(finished);
    assert_eq!(count(), 1);
}

#[test]
fn the_sweep_takes_what_nothing_refers_to_and_nothing_else() {
    let file = written(10);
    let (orphan, _) = write(&file.store, &file.wrap, b"orphan");
    let folder = file.store.folder.join("ab");
    ensure_folder(&folder).unwrap();
    let part = folder.join(format!("{}.part", FileId::from_bytes([0xab; 16])));
    let strangers = [folder.join("notes.part"), folder.join("+ab"), file.store.folder.join("lost+found")];
    strangers.iter().chain([&part]).for_each(|path| fs::write(path, b"x").unwrap());
    assert_eq!(file.store.sweep(&HashSet::from([file.id])).unwrap(), 2);
    assert!(!part.exists() && !file.store.path(&orphan).exists());
    assert!(strangers.iter().all(|path| path.exists()));
    assert!(file.read().is_ok());
}

#[test]
fn files_are_private_and_links_are_not_followed() {
    let file = written(10);
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file.path()), 0o600);
    assert_eq!(mode(file.path().parent().unwrap()), 0o700);
    assert_eq!(mode(&file.store.folder), 0o700);
    let elsewhere = file.folder.path().join("elsewhere");
    fs::rename(file.path(), &elsewhere).unwrap();
    symlink(&elsewhere, file.path()).unwrap();
    assert!(matches!(file.read(), Err(Error::Io { .. })));
    fs::remove_file(file.path()).unwrap();
    fs::create_dir(file.path()).unwrap();
    assert!(is_damaged(file.read()));
}

#[test]
fn a_newer_format_is_told_apart() {
    let file = written(10);
    let mut bytes = fs::read(file.path()).unwrap();
    bytes[11] = 2;
    assert!(matches!(file.read_with(&bytes), Err(Error::Newer { found: 2, known: 1, .. })));
}

#[test]
fn impossible_lengths_are_refused() {
    let file = written(10);
    for bytes in [0, 9, 11, u64::MAX, u64::MAX - 44, i64::MAX as u64] {
        assert!(is_damaged(file.store.read(&file.id, &file.key, bytes, &file.wrap)), "{bytes}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn hostile_files_never_panic_and_never_lie(
        front in prop::bool::ANY,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        length in prop_oneof![0..400u64, any::<u64>()],
    ) {
        let file = written(200);
        let good = fs::read(file.path()).unwrap();
        let bad = if front { [&good[..HEADER_BYTES], &bytes].concat() } else { bytes };
        fs::write(file.path(), bad).unwrap();
        let read = file.store.read(&file.id, &file.key, length, &file.wrap).and_then(|mut reader| reader.read_chunk(&mut Vec::new()));
        prop_assert!(read.is_err());
    }

    #[test]
    fn file_names_survive(id: [u8; 16]) {
        let id = FileId::from_bytes(id);
        prop_assert_eq!(FileId::parse(&id.to_string()), Some(id));
        prop_assert_eq!(FileId::parse(&id.to_string().to_uppercase()).is_some(), !id.to_string().contains(|c: char| c.is_alphabetic()));
    }
}
