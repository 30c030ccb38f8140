use std::fs;

use aico_crypto::SpaceKey;

use super::*;

struct Scene {
    folder: tempfile::TempDir,
    store: BlockStore,
    wrap: FileWrapKey,
}

fn scene() -> Scene {
    let folder = tempfile::tempdir().unwrap();
    let store = BlockStore::open(&folder.path().join("tree"), [7; 16]).unwrap();
    Scene { store, folder, wrap: SpaceKey::make(&OsRandom).unwrap().file_wrap_key() }
}

fn blocks(seed: u8, count: usize) -> Vec<u8> {
    (0..count * BLOCK_BYTES).map(|at| (at / 3) as u8 ^ seed).collect()
}

fn read(file: &BlockFile, first: u64, count: usize) -> Result<Vec<u8>, Error> {
    let mut out = vec![0; count * BLOCK_BYTES];
    file.read(first, &mut out, &mut Vec::new()).map(|()| out)
}

/// A file of `count` blocks, closed again.
fn written(scene: &Scene, seed: u8, count: usize) -> (FileId, Vec<u8>) {
    let NewFile { file, id, wrapped_key } = scene.store.create(&scene.wrap).unwrap();
    file.write(0, &blocks(seed, count), &mut Vec::new()).unwrap();
    file.publish().unwrap();
    (id, wrapped_key.to_vec())
}

#[test]
fn blocks_are_written_and_read_in_any_order() {
    let scene = scene();
    let NewFile { file, id, wrapped_key } = scene.store.create(&scene.wrap).unwrap();
    let mut room = Vec::new();
    file.write(0, &blocks(1, 600), &mut room).unwrap();
    file.write(17, &blocks(2, 3), &mut room).unwrap();
    drop(file);
    let file = scene.store.file(&id, &wrapped_key, &scene.wrap).unwrap();
    let mut wanted = blocks(1, 600);
    wanted[17 * BLOCK_BYTES..20 * BLOCK_BYTES].copy_from_slice(&blocks(2, 3));
    assert!(read(&file, 0, 600).unwrap() == wanted);
    assert!(read(&file, 599, 1).unwrap() == wanted[599 * BLOCK_BYTES..]);
    assert!(matches!(read(&file, 599, 2), Err(Error::Damaged { .. })), "behind the end");
    file.trim(5).unwrap();
    assert!(matches!(read(&file, 5, 1), Err(Error::Damaged { .. })));
    assert!(read(&file, 0, 5).unwrap() == wanted[..5 * BLOCK_BYTES]);
}

#[test]
fn the_form_is_that_of_the_specification() {
    let scene = scene();
    let (id, _) = written(&scene, 1, 2);
    let digits = id.to_string();
    let bytes = fs::read(scene.folder.path().join("tree").join(&digits[..2]).join(&digits)).unwrap();
    assert_eq!(bytes.len(), 44 + 2 * 4124);
    assert_eq!(&bytes[..12], b"AICOBLK1\0\0\0\x01");
    assert_eq!((&bytes[12..28], &bytes[28..44]), (&id.as_bytes()[..], &[7; 16][..]));
}

#[test]
fn every_flipped_byte_is_an_error_where_it_stands_and_never_a_wrong_byte() {
    let scene = scene();
    let (id, wrapped) = written(&scene, 1, 3);
    let path = scene.store.path(&id);
    let whole = fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 1 << (at % 8);
        fs::write(&path, &flipped).unwrap();
        let opened = scene.store.file(&id, &wrapped, &scene.wrap);
        if at < HEADER_BYTES {
            assert!(matches!(opened, Err(Error::Damaged { .. } | Error::Newer { .. })), "byte {at}");
            continue;
        }
        let (file, hit) = (opened.unwrap(), (at - HEADER_BYTES) / SEALED_BLOCK_BYTES);
        for block in 0..3 {
            let got = read(&file, block as u64, 1);
            match block == hit {
                true => assert!(matches!(got, Err(Error::Damaged { .. })), "byte {at}"),
                false => assert!(got.unwrap() == blocks(1, 3)[block * BLOCK_BYTES..][..BLOCK_BYTES], "byte {at}"),
            }
        }
    }
}

#[test]
fn blocks_that_were_moved_cut_zeroed_or_brought_from_elsewhere_are_errors() {
    let scene = scene();
    let (one, other) = (written(&scene, 1, 3), written(&scene, 2, 3));
    let (path, other_path) = (scene.store.path(&one.0), scene.store.path(&other.0));
    let (whole, others) = (fs::read(&path).unwrap(), fs::read(&other_path).unwrap());
    let open = || scene.store.file(&one.0, &one.1, &scene.wrap);
    let block = |at: usize| HEADER_BYTES + at * SEALED_BLOCK_BYTES..HEADER_BYTES + (at + 1) * SEALED_BLOCK_BYTES;
    let damaged = |bytes: &[u8], which: u64| {
        fs::write(&path, bytes).unwrap();
        matches!(read(&open().unwrap(), which, 1), Err(Error::Damaged { .. }))
    };
    let swapped = [&whole[..HEADER_BYTES], &whole[block(1)], &whole[block(0)], &whole[block(2)]].concat();
    assert!(damaged(&swapped, 0) && damaged(&swapped, 1) && !damaged(&swapped, 2));
    let mut foreign = whole.clone();
    foreign[block(1)].copy_from_slice(&others[block(1)]);
    assert!(damaged(&foreign, 1), "the same place of another file");
    let mut zeroed = whole.clone();
    zeroed[block(2)].fill(0);
    assert!(damaged(&zeroed, 2), "zeros are not a hole");
    for cut in [whole.len() - 1, block(2).start, block(1).end - 5, HEADER_BYTES] {
        assert!(damaged(&whole[..cut], 2), "cut at {cut}");
    }
    fs::write(&path, &whole[..HEADER_BYTES - 1]).unwrap();
    assert!(matches!(open(), Err(Error::Damaged { .. })));
    fs::write(&path, &others).unwrap();
    assert!(matches!(open(), Err(Error::Damaged { .. })), "another file as a whole");
    fs::remove_file(&path).unwrap();
    assert!(matches!(open(), Err(Error::Damaged { .. })), "no file");
    std::os::unix::fs::symlink(&other_path, &path).unwrap();
    assert!(open().is_err(), "a link");
}

/// A stated limit (`docs/spec/tree.md`, What is not noticed).
#[test]
fn a_block_put_back_to_its_own_older_version_opens() {
    let scene = scene();
    let (id, wrapped) = written(&scene, 1, 2);
    let old = fs::read(scene.store.path(&id)).unwrap();
    let file = scene.store.file(&id, &wrapped, &scene.wrap).unwrap();
    file.write(0, &blocks(9, 1), &mut Vec::new()).unwrap();
    fs::write(scene.store.path(&id), &old).unwrap();
    let file = scene.store.file(&id, &wrapped, &scene.wrap).unwrap();
    assert!(read(&file, 0, 1).unwrap() == blocks(1, 2)[..BLOCK_BYTES]);
}

#[test]
fn another_key_opens_nothing() {
    let scene = scene();
    let (one, other) = (written(&scene, 1, 1), written(&scene, 1, 1));
    let strange = SpaceKey::make(&OsRandom).unwrap().file_wrap_key();
    for (wrapped, wrap) in [(&one.1, &strange), (&other.1, &scene.wrap)] {
        assert!(matches!(scene.store.file(&one.0, wrapped, wrap), Err(Error::Damaged { .. })));
    }
}

#[test]
fn only_our_own_files_that_nothing_refers_to_are_swept() {
    let scene = scene();
    let (kept, gone) = (written(&scene, 1, 1), written(&scene, 2, 1));
    let foreign = scene.folder.path().join("tree/ab/notes.txt");
    fs::write(&foreign, "x").unwrap();
    assert_eq!(scene.store.sweep(&HashSet::from([kept.0])).unwrap(), 1);
    assert!(foreign.exists() && scene.store.path(&kept.0).exists() && !scene.store.path(&gone.0).exists());
}
