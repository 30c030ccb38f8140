use std::fs;
use std::path::Path;

use aico_crypto::{BLOCK_BYTES, SEALED_BLOCK_BYTES, SpaceKey};
use proptest::prelude::*;

use super::renew::Resealed;
use super::*;
use crate::data_keys::KEY_TABLE;
use crate::header::{SpaceId, VaultId};

const SPACE: [u8; 16] = [1; 16];

/// A tree of its own, that can be closed and opened.
pub(crate) struct Scene {
    folder: tempfile::TempDir,
    key: SpaceKey,
}

impl Scene {
    pub(crate) fn new() -> Self {
        let scene = Self { folder: tempfile::tempdir().unwrap(), key: SpaceKey::make(&aico_crypto::OsRandom).unwrap() };
        drop(Database::create(&scene.path("store.db"), scene.key.store_key(), &[TREE_TABLES, KEY_TABLE]).unwrap());
        scene
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn parts(&self) -> (Arc<Database>, DataKeys, Place) {
        let database = Database::open(&self.path("store.db"), self.key.store_key(), &[TREE_TABLES, KEY_TABLE]).unwrap();
        let database = Arc::new(database);
        let ids = (VaultId::from_bytes([2; 16]), SpaceId::from_bytes(SPACE));
        let keys = DataKeys::new(database.clone(), ids.0, ids.1, self.key.duplicate());
        (database, keys, Place { folder: self.path("tree"), space: SPACE, epoch: 0 })
    }

    pub(crate) fn open(&self) -> Tree {
        let (database, keys, place) = self.parts();
        Tree::open(database, &keys, &place).unwrap()
    }

    fn sealed_files(&self) -> Vec<std::path::PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<std::path::PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push(path) }
            }
        }
        let mut found = Vec::new();
        walk(&self.path("tree"), &mut found);
        found
    }

    /// What `aico vault verify` says: whole files, and the paths of damaged ones.
    fn check(&self) -> (u64, Vec<String>) {
        let (database, keys, place) = self.parts();
        let mut damaged = Vec::new();
        let (whole, _) = check(&database, &keys, &place, &mut |path, _| damaged.push(path.to_owned())).unwrap();
        (whole, damaged)
    }
}

/// As a mount uses a tree, without the kernel.
trait Use {
    fn make_file(&self, folder: u64, name: &str, content: &[u8]) -> OpenFile;
    fn put(&self, open: &OpenFile, offset: u64, data: &[u8]);
    fn get(&self, open: &OpenFile, offset: u64, length: usize) -> Answer<Vec<u8>>;
    fn at(&self, path: &str) -> Answer<u64>;
    fn content(&self, path: &str) -> Answer<Vec<u8>>;
    fn resized(&self, open: &OpenFile, size: u64);
    fn names_of(&self, folder: u64) -> Vec<String>;
}

impl Use for Tree {
    fn make_file(&self, folder: u64, name: &str, content: &[u8]) -> OpenFile {
        let (_, open) = self.create(folder, name.as_bytes(), 0o644).unwrap();
        self.put(&open, 0, content);
        open
    }

    fn put(&self, open: &OpenFile, offset: u64, data: &[u8]) {
        self.write(open, offset, data, &mut Vec::new()).unwrap();
    }

    fn get(&self, open: &OpenFile, offset: u64, length: usize) -> Answer<Vec<u8>> {
        self.read(open, (offset, length), (&mut Vec::new(), &mut Vec::new()), <[u8]>::to_vec)
    }

    fn at(&self, path: &str) -> Answer<u64> {
        path.split('/').try_fold(ROOT, |folder, name| Ok(self.look_up(folder, name.as_bytes())?.id))
    }

    fn content(&self, path: &str) -> Answer<Vec<u8>> {
        let open = self.open_file(self.at(path)?, false, &mut Vec::new())?;
        let size = self.attributes(open.id)?.size;
        let content = self.get(&open, 0, usize::try_from(size).unwrap());
        self.close_file(&open);
        content
    }

    fn resized(&self, open: &OpenFile, size: u64) {
        let changes = Changes { size: Some(size), ..Changes::default() };
        assert_eq!(self.change(open.id, &changes, Some(open), &mut Vec::new()).unwrap().size, size);
    }

    fn names_of(&self, folder: u64) -> Vec<String> {
        self.list(folder).unwrap().into_iter().map(|named| String::from_utf8(named.name).unwrap()).collect()
    }
}

fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn what_was_synced_is_there_after_a_stop_and_what_was_not_is_not_half_there() {
    let scene = Scene::new();
    let tree = scene.open();
    let folder = tree.make(ROOT, b"folder", New::Folder, 0o750).unwrap();
    let synced = tree.make_file(folder.id, "synced", &bytes(1, 10_000));
    tree.make(ROOT, b"link", New::Link(b"folder/synced".to_vec()), 0o777).unwrap();
    tree.make_file(ROOT, "unsynced", &bytes(2, 10_000));
    tree.sync(&synced, false).unwrap();
    tree.put(&synced, 9_000, &bytes(3, 9_000));
    tree.make_file(ROOT, "later", b"x");
    // A stop: nothing more is written.
    std::mem::forget(tree);
    let tree = scene.open();
    assert_eq!(tree.names_of(ROOT), ["folder", "link", "unsynced"]);
    assert_eq!(tree.attributes(tree.at("folder").unwrap()).unwrap().mode, 0o750);
    assert_eq!(tree.target(tree.at("link").unwrap()).unwrap(), b"folder/synced");
    let content = tree.content("folder/synced").unwrap();
    assert!(content.len() == 10_000 && content[..9_000] == bytes(1, 10_000)[..9_000]);
    assert_eq!(tree.content("unsynced").unwrap(), b"", "its row claims nothing that was not synced");
    assert_eq!(scene.sealed_files().len(), 1, "what no row speaks of is swept");
}

#[test]
fn an_editors_save_is_the_old_or_the_new_file() {
    let scene = Scene::new();
    let tree = scene.open();
    tree.close_file(&tree.make_file(ROOT, "notes", b"old"));
    tree.sync_all().unwrap();
    let new = tree.make_file(ROOT, "notes.new", b"new and longer");
    tree.sync(&new, false).unwrap();
    tree.rename((ROOT, b"notes.new"), (ROOT, b"notes"), Taken::Replace).unwrap();
    assert_eq!(tree.content("notes").unwrap(), b"new and longer");
    std::mem::forget(tree);
    let tree = scene.open();
    assert_eq!(tree.names_of(ROOT), ["notes", "notes.new"]);
    assert_eq!(tree.content("notes").unwrap(), b"old", "the rename was not synced");
    tree.rename((ROOT, b"notes.new"), (ROOT, b"notes"), Taken::Replace).unwrap();
    tree.sync_names().unwrap();
    std::mem::forget(tree);
    let tree = scene.open();
    assert_eq!(
        (tree.names_of(ROOT), tree.content("notes").unwrap()),
        (vec!["notes".into()], b"new and longer".to_vec())
    );
    assert_eq!(scene.sealed_files().len(), 1);
}

#[test]
fn a_file_that_was_cut_to_nothing_keeps_what_was_synced_until_the_cut_is() {
    let scene = Scene::new();
    let tree = scene.open();
    let open = tree.make_file(ROOT, "a", &bytes(1, 9000));
    tree.sync_all().unwrap();
    tree.resized(&open, 0);
    tree.put(&open, 0, b"anew");
    std::mem::forget(tree);
    let tree = scene.open();
    assert!(tree.content("a").unwrap() == bytes(1, 9000));
    let open = tree.open_file(tree.at("a").unwrap(), true, &mut Vec::new()).unwrap();
    tree.put(&open, 0, b"anew");
    tree.sync(&open, true).unwrap();
    std::mem::forget(tree);
    assert_eq!(scene.open().content("a").unwrap(), b"anew");
    assert_eq!(scene.sealed_files().len(), 1);
}

#[test]
fn a_removed_file_goes_on_for_who_has_it_open_and_leaves_nothing() {
    let scene = Scene::new();
    let tree = scene.open();
    let (kept, never_synced) = (tree.make_file(ROOT, "a", &bytes(1, 9000)), tree.make_file(ROOT, "b", b"b"));
    tree.sync(&kept, false).unwrap();
    tree.remove(ROOT, b"a", false).unwrap();
    tree.remove(ROOT, b"b", false).unwrap();
    tree.sync_all().unwrap();
    assert_eq!(tree.at("a"), Err(Errno::NOENT));
    assert!(tree.get(&kept, 0, 9000).unwrap() == bytes(1, 9000));
    tree.put(&kept, 5000, b"still written");
    assert_eq!(tree.get(&kept, 5000, 13).unwrap(), b"still written");
    tree.put(&never_synced, 0, b"c");
    for open in [&kept, &never_synced] {
        tree.close_file(open);
        tree.forget(open.id, 1);
    }
    tree.sync_all().unwrap();
    assert_eq!(scene.sealed_files(), Vec::<std::path::PathBuf>::new());
    assert_eq!(tree.state().nodes.len(), 1);
}

#[test]
fn names_follow_the_rules_of_file_systems() {
    let scene = Scene::new();
    let tree = scene.open();
    let a = tree.make(ROOT, b"a", New::Folder, 0o755).unwrap().id;
    let b = tree.make(ROOT, b"b", New::Folder, 0o755).unwrap().id;
    tree.close_file(&tree.make_file(a, "file", b"1"));
    tree.close_file(&tree.make_file(b, "other", b"2"));
    let rename = |from: (u64, &str), to: (u64, &str), taken| {
        tree.rename((from.0, from.1.as_bytes()), (to.0, to.1.as_bytes()), taken)
    };
    assert_eq!(tree.make(a, b"file", New::File, 0o600), Err(Errno::EXIST));
    assert_eq!(tree.remove(ROOT, b"a", true), Err(Errno::NOTEMPTY));
    assert_eq!(tree.remove(ROOT, b"a", false), Err(Errno::ISDIR));
    assert_eq!(tree.remove(a, b"file", true), Err(Errno::NOTDIR));
    assert_eq!(tree.remove(a, b"none", false), Err(Errno::NOENT));
    assert_eq!(rename((ROOT, "a"), (ROOT, "b"), Taken::Replace), Err(Errno::NOTEMPTY));
    assert_eq!(rename((a, "file"), (ROOT, "b"), Taken::Replace), Err(Errno::ISDIR));
    assert_eq!(rename((ROOT, "a"), (b, "other"), Taken::Replace), Err(Errno::NOTDIR));
    assert_eq!(rename((a, "file"), (b, "other"), Taken::Refuse), Err(Errno::EXIST));
    assert_eq!(rename((a, "file"), (b, "none"), Taken::Exchange), Err(Errno::NOENT));
    rename((a, "file"), (b, "other"), Taken::Exchange).unwrap();
    tree.sync_names().unwrap();
    assert_eq!((tree.content("a/file").unwrap(), tree.content("b/other").unwrap()), (b"2".to_vec(), b"1".to_vec()));
    rename((ROOT, "a"), (b, "a"), Taken::Refuse).unwrap();
    tree.sync_all().unwrap();
    drop(tree);
    let tree = scene.open();
    assert_eq!(tree.content("b/a/file").unwrap(), b"2");
    for bad in ["", ".", "..", "a/b", "a\0"] {
        assert!(tree.make(ROOT, bad.as_bytes(), New::File, 0o600).is_err(), "{bad:?}");
    }
    assert_eq!(tree.make(ROOT, &[b'x'; 256], New::File, 0o600), Err(Errno::NAMETOOLONG));
    assert!(tree.make(ROOT, b"\xff\xfe", New::File, 0o600).is_ok(), "names are bytes");
    // Whoever still stands in a folder that was removed makes nothing there.
    let gone = tree.make(ROOT, b"gone", New::Folder, 0o755).unwrap().id;
    tree.remove(ROOT, b"gone", true).unwrap();
    assert_eq!(tree.make(gone, b"x", New::File, 0o600), Err(Errno::NOENT));
}

#[test]
fn what_was_there_before_a_cut_or_behind_an_interrupted_write_never_comes_back() {
    let scene = Scene::new();
    let tree = scene.open();
    let open = tree.make_file(ROOT, "a", &[7; 3 * BLOCK_BYTES]);
    tree.resized(&open, 100);
    tree.resized(&open, 2 * BLOCK_BYTES as u64);
    let mut wanted = vec![7; 100];
    wanted.resize(2 * BLOCK_BYTES, 0);
    assert!(tree.get(&open, 0, 1 << 20).unwrap() == wanted);
    tree.sync(&open, false).unwrap();
    // Written behind the end, and not synced.
    tree.put(&open, 2 * BLOCK_BYTES as u64, &[9; 500]);
    std::mem::forget(tree);
    let tree = scene.open();
    let open = tree.open_file(tree.at("a").unwrap(), false, &mut Vec::new()).unwrap();
    tree.resized(&open, 3 * BLOCK_BYTES as u64);
    wanted.resize(3 * BLOCK_BYTES, 0);
    assert!(tree.get(&open, 0, 1 << 20).unwrap() == wanted);
}

#[test]
fn holes_cost_nothing_and_cannot_be_made_by_zeroing_blocks() {
    let scene = Scene::new();
    let tree = scene.open();
    let open = tree.make_file(ROOT, "sparse", b"front");
    tree.resized(&open, 1 << 38);
    tree.put(&open, (1 << 38) - 3, b"end");
    tree.sync_all().unwrap();
    assert_eq!(tree.get(&open, (1 << 38) - 5, 10).unwrap(), b"\0\0end");
    assert_eq!(tree.get(&open, 3, 6).unwrap(), b"nt\0\0\0\0");
    tree.resized(&open, 4 * BLOCK_BYTES as u64);
    tree.put(&open, 0, &[1; 4 * BLOCK_BYTES]);
    tree.sync_all().unwrap();
    drop(tree);
    let [path] = <[_; 1]>::try_from(scene.sealed_files()).unwrap();
    let mut bytes = fs::read(&path).unwrap();
    assert_eq!(bytes.len(), 44 + 4 * SEALED_BLOCK_BYTES, "what was behind is given back");
    bytes[44 + SEALED_BLOCK_BYTES..44 + 2 * SEALED_BLOCK_BYTES].fill(0);
    fs::write(&path, &bytes).unwrap();
    let tree = scene.open();
    assert_eq!(tree.content("sparse"), Err(Errno::IO));
    assert_eq!((tree.damaged(), scene.check()), (1, (0, vec!["sparse".to_owned()])));
}

#[test]
fn many_holes_are_bounded() {
    let scene = Scene::new();
    let tree = scene.open();
    let open = tree.make_file(ROOT, "a", b"");
    let count = holes::MAX_HOLES as u64 + 50;
    for at in 0..count {
        tree.put(&open, at * 2 * BLOCK_BYTES as u64, &[at as u8 | 1]);
    }
    tree.sync_all().unwrap();
    drop(tree);
    let tree = scene.open();
    let open = tree.open_file(tree.at("a").unwrap(), false, &mut Vec::new()).unwrap();
    for at in 0..count - 1 {
        let got = tree.get(&open, at * 2 * BLOCK_BYTES as u64, 2 * BLOCK_BYTES).unwrap();
        assert!(got[0] == at as u8 | 1 && got[1..].iter().all(|byte| *byte == 0), "{at}");
    }
}

#[test]
fn each_flipped_byte_of_a_sealed_file_is_an_error_or_unseen_and_never_a_wrong_byte() {
    let scene = Scene::new();
    let tree = scene.open();
    let content = bytes(5, BLOCK_BYTES + 100);
    tree.close_file(&tree.make_file(ROOT, "a", &content));
    tree.sync_all().unwrap();
    drop(tree);
    let [path] = <[_; 1]>::try_from(scene.sealed_files()).unwrap();
    let whole = fs::read(&path).unwrap();
    let tree = scene.open();
    for at in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x40;
        fs::write(&path, flipped).unwrap();
        assert_eq!(tree.content("a"), Err(Errno::IO), "byte {at}");
    }
    for cut in [0, 10, 44, 44 + SEALED_BLOCK_BYTES, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        assert_eq!(tree.content("a"), Err(Errno::IO), "cut to {cut}");
    }
    fs::remove_file(&path).unwrap();
    assert_eq!(tree.content("a"), Err(Errno::IO), "removed");
    fs::write(&path, &whole).unwrap();
    assert!(tree.content("a").unwrap() == content);
}

#[test]
fn a_rotation_seals_everything_anew_while_it_is_used() {
    let scene = Scene::new();
    let tree = scene.open();
    let open = tree.make_file(ROOT, "open", &bytes(1, 50_000));
    tree.resized(&open, 1 << 30);
    let folder = tree.make(ROOT, b"folder", New::Folder, 0o755).unwrap().id;
    tree.close_file(&tree.make_file(folder, "closed", &bytes(2, 5000)));
    tree.close_file(&tree.make_file(folder, "broken", &bytes(3, 5000)));
    tree.sync_all().unwrap();
    let before = scene.sealed_files();
    let broken = {
        let state = tree.state();
        let node = state.nodes.values().find(|node| node.row.name == b"broken").unwrap();
        let Kind::File(content) = &node.row.kind else { panic!() };
        before.iter().find(|path| path.ends_with(content.file.as_ref().unwrap().id.to_string())).unwrap().clone()
    };
    let mut damaged = fs::read(&broken).unwrap();
    damaged[100] ^= 1;
    fs::write(&broken, damaged).unwrap();
    let resealed = tree.renew(3, &mut |_| true).unwrap();
    assert_eq!(resealed, Resealed { bytes: (1 << 30) + 5000, damaged: 1 });
    let after = scene.sealed_files();
    assert_eq!(after.iter().filter(|path| before.contains(path)).collect::<Vec<_>>(), [&broken], "old files are gone");
    tree.put(&open, 10, b"goes on");
    assert_eq!(tree.get(&open, 8, 11).unwrap()[2..9], *b"goes on");
    assert!(tree.content("folder/closed").unwrap() == bytes(2, 5000));
    assert_eq!(tree.renew(3, &mut |_| true).unwrap(), Resealed { bytes: 0, damaged: 1 }, "once");
    assert!(matches!(tree.renew(4, &mut |_| false), Err(Error::Stopped)));
    tree.sync_all().unwrap();
    drop(tree);
    assert_eq!(scene.check(), (2, vec!["folder/broken".to_owned()]));
}

#[test]
fn folders_that_nobody_uses_are_let_go_and_read_again() {
    let scene = Scene::new();
    let tree = scene.open();
    let mut folder = ROOT;
    for _ in 0..3 {
        folder = tree.make(folder, b"f", New::Folder, 0o755).unwrap().id;
        tree.close_file(&tree.make_file(folder, "x", b"content"));
    }
    tree.sync_all().unwrap();
    tree.forget_all();
    for _ in 0..4 {
        tree.state().let_folders_go();
    }
    assert_eq!(tree.state().nodes.len(), 1);
    assert_eq!(tree.content("f/f/f/x").unwrap(), b"content");
    let known = tree.at("f/f").unwrap();
    (0..4).for_each(|_| tree.state().let_folders_go());
    assert_eq!(tree.attributes(known).unwrap().id, known, "what the kernel knows stays");
}

#[test]
fn a_failed_transaction_loses_nothing() {
    let scene = Scene::new();
    let tree = scene.open();
    tree.close_file(&tree.make_file(ROOT, "a", b"1"));
    tree.sync_all().unwrap();
    tree.remove(ROOT, b"a", false).unwrap();
    tree.close_file(&tree.make_file(ROOT, "b", b"2"));
    tree.database.write(|tx| Ok(tx.execute_batch("ALTER TABLE node RENAME TO elsewhere")?)).unwrap();
    assert!(tree.sync_all().is_err());
    tree.rename((ROOT, b"b"), (ROOT, b"c"), Taken::Refuse).unwrap();
    tree.database.write(|tx| Ok(tx.execute_batch("ALTER TABLE elsewhere RENAME TO node")?)).unwrap();
    tree.sync_all().unwrap();
    drop(tree);
    let tree = scene.open();
    assert_eq!((tree.names_of(ROOT), tree.content("c").unwrap()), (vec!["c".into()], b"2".to_vec()));
    assert_eq!(scene.sealed_files().len(), 1);
}

#[derive(Clone, Debug)]
enum Step {
    Write(u32, u16, u8),
    Read(u32, u16),
    Resize(u32),
    Sync,
    Settle,
    Reopen,
    Renew,
}

fn step() -> impl Strategy<Value = Step> {
    // Around the borders of blocks more often than not.
    let offset =
        prop_oneof![0u32..60_000, (0u32..14, 0u32..5).prop_map(|(block, by)| (block * 4096 + by).saturating_sub(2))];
    prop_oneof![
        6 => (offset.clone(), 0u16..12_000, any::<u8>()).prop_map(|(at, length, seed)| Step::Write(at, length, seed)),
        4 => (offset.clone(), 0u16..20_000).prop_map(|(at, length)| Step::Read(at, length)),
        3 => offset.prop_map(Step::Resize),
        1 => Just(Step::Resize(0)),
        1 => Just(Step::Sync),
        1 => Just(Step::Settle),
        1 => Just(Step::Reopen),
        1 => Just(Step::Renew),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]
    #[test]
    fn a_file_is_what_a_vector_of_bytes_would_be(steps in prop::collection::vec(step(), 1..60)) {
        let scene = Scene::new();
        let mut tree = scene.open();
        let mut open = tree.make_file(ROOT, "a", b"");
        let (mut model, mut epoch) = (Vec::<u8>::new(), 0);
        for step in steps {
            match step {
                Step::Write(at, length, seed) => {
                    let (data, at) = (bytes(u64::from(seed), length.into()), at as usize);
                    tree.put(&open, at as u64, &data);
                    if !data.is_empty() {
                        model.resize(model.len().max(at + data.len()), 0);
                        model[at..at + data.len()].copy_from_slice(&data);
                    }
                }
                Step::Read(at, length) => {
                    let start = (at as usize).min(model.len());
                    let end = (start + usize::from(length)).min(model.len());
                    prop_assert!(tree.get(&open, at.into(), length.into()).unwrap() == model[start..end]);
                }
                Step::Resize(size) => {
                    tree.resized(&open, size.into());
                    model.resize(size as usize, 0);
                }
                Step::Sync => tree.sync(&open, true).unwrap(),
                Step::Settle => tree.sync_all().unwrap(),
                Step::Reopen => {
                    tree.close_file(&open);
                    tree.sync_all().unwrap();
                    drop(tree);
                    tree = scene.open();
                    open = tree.open_file(tree.at("a").unwrap(), false, &mut Vec::new()).unwrap();
                }
                Step::Renew => {
                    epoch += 1;
                    tree.renew(epoch, &mut |_| true).unwrap();
                }
            }
            prop_assert_eq!(tree.attributes(open.id).unwrap().size, model.len() as u64);
        }
        prop_assert!(tree.get(&open, 0, 1 << 20).unwrap() == model);
        tree.sync(&open, false).unwrap();
        std::mem::forget(tree);
        prop_assert!(scene.open().content("a").unwrap() == model, "after a stop");
    }
}

/// Writers, the clock and a rotation at once: what `sync` returned for is there.
#[test]
fn what_was_synced_while_others_write_settle_and_renew_is_there() {
    let scene = Scene::new();
    let tree = scene.open();
    let open: Vec<_> = (0..3).map(|at| tree.make_file(ROOT, &at.to_string(), b"")).collect();
    let over = AtomicBool::new(false);
    let synced: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let writers: Vec<_> = open
            .iter()
            .zip(0u64..)
            .map(|(open, number)| {
                let tree = &tree;
                scope.spawn(move || {
                    let (mut model, mut seed) = (Vec::new(), number * 1000);
                    for _ in 0..150 {
                        seed += 1;
                        if seed % 11 == 0 {
                            tree.resized(open, 0);
                            model.clear();
                        }
                        let (at, data) = (seed as usize * 7919 % 40_000, bytes(seed, 1 + seed as usize % 9000));
                        tree.put(open, at as u64, &data);
                        model.resize(model.len().max(at + data.len()), 0);
                        model[at..at + data.len()].copy_from_slice(&data);
                        if seed % 3 == 0 {
                            tree.sync(open, seed % 2 == 0).unwrap();
                        }
                    }
                    tree.sync(open, false).unwrap();
                    model
                })
            })
            .collect();
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                tree.tick(true).unwrap();
            }
        });
        scope.spawn(|| {
            for epoch in 1.. {
                tree.renew(epoch, &mut |_| true).unwrap();
                if over.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let models = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        models
    });
    std::mem::forget(tree);
    let tree = scene.open();
    for (at, model) in synced.iter().enumerate() {
        assert!(tree.content(&at.to_string()).unwrap() == *model, "file {at}");
    }
    assert_eq!(scene.check(), (3, Vec::new()));
    assert_eq!(scene.sealed_files().len(), 3);
}
