//! Somebody changes what lies on the disk.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::home::{Home, bytes, copy, files};

fn flip(path: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).unwrap().len()
}

/// A vault with a small and a large value, stopped.
fn stopped() -> Home {
    let mut home = Home::running();
    home.put_ok("notes/small", b"small");
    home.put_ok("notes/large", &bytes(5, 2 << 20));
    home.down();
    home
}

#[test]
fn a_flipped_byte_anywhere_in_the_header_is_noticed_and_changes_nothing() {
    let mut home = stopped();
    let header = home.data().join("vault.aico");
    let good = fs::read(&header).unwrap();
    for at in 0..good.len() as u64 {
        flip(&header, at);
        let changed = fs::read(&header).unwrap();
        let errors = String::from_utf8_lossy(&home.up_fails().stderr).into_owned();
        assert!(errors.contains("hint: "), "byte {at}: {errors}");
        assert_eq!(fs::read(&header).unwrap(), changed, "nothing was written");
        flip(&header, at);
    }
    for cut in [0, 1, 8, good.len() / 2, good.len() - 1] {
        fs::write(&header, &good[..cut]).unwrap();
        home.up_fails();
    }
    fs::write(&header, &good).unwrap();
    home.up();
    assert_eq!(home.get("notes/small"), b"small");
}

#[test]
fn a_missing_header_is_not_set_up_over() {
    let mut home = stopped();
    let header = home.data().join("vault.aico");
    let good = fs::read(&header).unwrap();
    fs::remove_file(&header).unwrap();
    let errors = String::from_utf8_lossy(&home.up_fails().stderr).into_owned();
    assert!(errors.contains("vault.aico") && errors.contains("missing"), "{errors}");
    fs::write(&header, good).unwrap();
    home.up();
    assert_eq!(home.get("notes/small"), b"small");
}

#[test]
fn a_missing_store_is_not_made_anew() {
    let home = stopped();
    let stores: Vec<PathBuf> = files(&home.data()).into_iter().filter(|f| f.ends_with("store.db")).collect();
    assert_eq!(stores.len(), 2);
    for store in stores {
        let aside = store.with_extension("aside");
        fs::rename(&store, &aside).unwrap();
        let errors = String::from_utf8_lossy(&home.up_fails().stderr).into_owned();
        assert!(errors.contains("missing"), "{errors}");
        fs::rename(&aside, &store).unwrap();
    }
}

#[test]
fn another_key_or_none_opens_nothing_and_is_told_apart_from_damage() {
    let mut home = stopped();
    let other = {
        let mut other = Home::running();
        other.down();
        other
    };
    let key = |home: &Home| files(&home.keys()).into_iter().find(|f| f.to_str().unwrap().contains("vault-")).unwrap();
    let (ours, good) = (key(&home), fs::read(key(&home)).unwrap());

    fs::write(&ours, fs::read(key(&other)).unwrap()).unwrap();
    let errors = String::from_utf8_lossy(&home.up_fails().stderr).into_owned();
    assert!(errors.contains("nothing here unlocks") && errors.contains("AICO_KEY_DIR"), "{errors}");
    assert!(!errors.contains("damaged"), "{errors}");

    fs::remove_file(&ours).unwrap();
    let errors = String::from_utf8_lossy(&home.up_fails().stderr).into_owned();
    assert!(errors.contains("is not there"), "{errors}");

    for rubbish in [&b""[..], b"AICO-SLOT-1-", &[0xff; 100], &[b'A'; 100_000]] {
        fs::write(&ours, rubbish).unwrap();
        home.up_fails();
    }
    fs::write(&ours, &good).unwrap();
    let open_to_others = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    fs::set_permissions(&ours, open_to_others).unwrap();
    let errors = String::from_utf8_lossy(&home.up_fails().stderr).into_owned();
    assert!(errors.contains("read by others"), "{errors}");
    fs::set_permissions(&ours, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    home.up();
    assert_eq!(home.get("notes/small"), b"small");
}

#[test]
fn flipped_bytes_in_the_stores_never_give_wrong_values() {
    let home = stopped();
    let (mut noticed, mut untouched) = (0, 0);
    let stores: Vec<PathBuf> =
        files(&home.data().join("spaces")).into_iter().filter(|f| !f.to_str().unwrap().ends_with("-shm")).collect();
    for store in &stores {
        let bytes_there = length(store);
        for part in 0..8 {
            let at = bytes_there * part / 8 + part;
            flip(store, at.min(bytes_there - 1));
            match opens_with_right_values(&home) {
                true => untouched += 1,
                false => noticed += 1,
            }
            flip(store, at.min(bytes_there - 1));
        }
    }
    assert!(noticed > untouched, "{noticed} noticed, {untouched} in places that are not read");
    assert!(opens_with_right_values(&home), "the original is whole");
}

/// Whether the vault opens and gives both values; it must never give another one.
fn opens_with_right_values(home: &Home) -> bool {
    let mut trial = Home::new();
    copy(&home.data(), &trial.data());
    copy(&home.keys(), &trial.keys());
    let mut command = trial.command(&["up"]);
    let child = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    trial.adopt(child);
    let begun = std::time::Instant::now();
    while !trial.run(&["status"]).status.success() {
        if trial.has_ended() || begun.elapsed().as_secs() > 20 {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    [("notes/small", b"small".to_vec()), ("notes/large", bytes(5, 2 << 20))].iter().all(|(path, right)| {
        let output = trial.run(&["data", "get", path]);
        assert!(!output.status.success() || output.stdout == *right, "a wrong value");
        output.status.success()
    })
}

#[test]
fn a_large_value_that_was_changed_is_refused_in_every_way() {
    let mut home = Home::running();
    home.put_ok("notes/one", &bytes(1, 2 << 20));
    let first = large_files(&home);
    home.put_ok("notes/two", &bytes(2, 2 << 20));
    let second: Vec<PathBuf> = large_files(&home).into_iter().filter(|f| !first.contains(f)).collect();
    let (one, two) = (&first[0], &second[0]);
    let (good, other) = (fs::read(one).unwrap(), fs::read(two).unwrap());
    let chunk = 64 * 1024 + 16;
    let mut swapped = good.clone();
    swapped[40..40 + chunk].copy_from_slice(&good[40 + chunk..40 + 2 * chunk]);
    swapped[40 + chunk..40 + 2 * chunk].copy_from_slice(&good[40..40 + chunk]);
    let mut flipped = good.clone();
    flipped[1_000_000] ^= 4;
    let cut_at_chunk = good[..40 + 8 * chunk].to_vec();
    let longer = [good.clone(), vec![0; 10]].concat();
    for (what, bad) in [
        ("swapped chunks", swapped),
        ("flipped", flipped),
        ("cut", cut_at_chunk),
        ("longer", longer),
        ("another file", other),
    ] {
        fs::write(one, bad).unwrap();
        let output = home.run(&["data", "get", "notes/one"]);
        assert_eq!(output.status.code(), Some(1), "{what}");
        assert!(bytes(1, 2 << 20).starts_with(&output.stdout), "{what}: never a wrong byte");
        assert!(String::from_utf8_lossy(&output.stderr).contains("damaged"), "{what}");
    }
    fs::remove_file(one).unwrap();
    home.fails(1, &["data", "get", "notes/one"]);
    fs::write(one, good).unwrap();
    assert!(home.get("notes/one") == bytes(1, 2 << 20));
    assert!(home.get("notes/two") == bytes(2, 2 << 20));
    home.down();
}

fn large_files(home: &Home) -> Vec<PathBuf> {
    files(&home.data()).into_iter().filter(|f| f.to_str().unwrap().contains("/files/")).collect()
}
