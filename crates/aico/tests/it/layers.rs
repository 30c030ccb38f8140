//! The ladder of crates (ARCHITECTURE.md): who may know whom.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::home::files;

const LADDER: &[(&str, &[&str])] = &[
    ("aico-crypto", &["aico-ffi-memory"]),
    ("aico-proto", &["aico-crypto"]),
    ("aico-policy", &["aico-crypto", "aico-proto"]),
    (
        "aico-vault",
        &["aico-crypto", "aico-policy", "aico-ffi-duckdb", "aico-ffi-rocksdb", "aico-ffi-sqlcipher", "aico-ffi-tpm"],
    ),
    ("aico-net", &["aico-crypto", "aico-proto"]),
    ("aico-backend", &["aico-crypto", "aico-proto", "aico-policy", "aico-vault", "aico-net"]),
    ("aico", &["aico-crypto", "aico-ffi-reader", "aico-proto", "aico-vault", "aico-net", "aico-backend"]),
    (
        "aico-fuzz-targets",
        &["aico-crypto", "aico-ffi-reader", "aico-proto", "aico-policy", "aico-vault", "aico-net", "aico-backend"],
    ),
    ("aico-ffi-duckdb", &[]),
    ("aico-ffi-memory", &[]),
    ("aico-ffi-reader", &[]),
    ("aico-ffi-rocksdb", &[]),
    ("aico-ffi-sqlcipher", &[]),
    ("aico-ffi-tpm", &[]),
];

fn crates() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn manifests() -> BTreeMap<String, String> {
    let manifest = |path: &PathBuf| path.file_name().is_some_and(|name| name == "Cargo.toml");
    let all = files(&crates()).into_iter().filter(manifest);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(path).unwrap();
        let name = text.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"')).unwrap();
        (name.to_owned(), text.clone())
    };
    all.map(read).collect()
}

fn section<'a>(manifest: &'a str, name: &str) -> BTreeSet<&'a str> {
    let lines = manifest.lines().skip_while(|line| *line != format!("[{name}]")).skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    lines.filter_map(|line| line.split_once(['.', ' '])).map(|(dependency, _)| dependency).collect()
}

#[test]
fn every_crate_stands_on_its_rung() {
    let manifests = manifests();
    let known: BTreeSet<&str> = LADDER.iter().map(|(name, _)| *name).collect();
    assert_eq!(manifests.keys().map(String::as_str).collect::<BTreeSet<_>>(), known);
    for (name, allowed) in LADDER {
        let dependencies = section(&manifests[*name], "dependencies");
        let ours: BTreeSet<&str> = dependencies.into_iter().filter(|d| d.starts_with("aico-")).collect();
        assert!(ours.iter().all(|d| allowed.contains(d)), "{name} knows {ours:?}");
    }
}

#[test]
fn pure_crates_do_no_io() {
    const FORBIDDEN: &[&str] = &[
        "std::fs",
        "std::net",
        "std::thread",
        "std::env",
        "std::process",
        "SystemTime",
        "Instant::now",
        "async ",
        "static mut",
        "OnceLock",
    ];
    for name in ["aico-crypto", "aico-proto", "aico-policy"] {
        for file in files(&crates().join(name).join("src")) {
            let text = fs::read_to_string(&file).unwrap();
            for word in FORBIDDEN {
                assert!(!text.contains(word), "{} has `{word}`", file.display());
            }
        }
        let dependencies = fs::read_to_string(crates().join(name).join("Cargo.toml")).unwrap();
        assert!(!section(&dependencies, "dependencies").contains("tokio"));
    }
}

#[test]
fn unsafe_code_stands_in_the_leaf_crates_only() {
    for (name, manifest) in manifests() {
        assert!(manifest.contains("[lints]\nworkspace = true"), "{name}");
    }
    for file in files(&crates()) {
        let is_rust = file.extension().is_some_and(|e| e == "rs") && !file.to_str().unwrap().contains("/tests/");
        if is_rust && !file.to_str().unwrap().contains("/ffi/") {
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("unsafe {") && !text.contains("unsafe fn"), "{}", file.display());
        }
    }
}

/// Where raw key bytes leave `aico-crypto`: every `hazmat_` function, and how often it is called outside of tests.
#[test]
fn raw_keys_cross_at_known_places_only() {
    const CALLS: &[(&str, usize)] = &[
        ("hazmat_from_backend", 1),
        ("hazmat_from_file", 2),
        ("hazmat_from_keyring", 1),
        ("hazmat_from_platform", 6),
        ("hazmat_lent_to_duckdb", 2),
        ("hazmat_lent_to_rocksdb", 1),
        ("hazmat_sqlcipher_literal", 1),
        ("hazmat_to_client", 1),
        ("hazmat_to_file", 4),
        ("hazmat_to_platform", 6),
        ("hazmat_share_words", 1),
        ("hazmat_words", 1),
    ];
    let mut found: BTreeMap<String, usize> = BTreeMap::new();
    for (name, _) in
        LADDER.iter().filter(|(name, _)| !["aico-crypto", "aico-fuzz-targets"].contains(name) && !name.contains("ffi"))
    {
        for file in files(&crates().join(name).join("src")) {
            if file.to_str().unwrap().ends_with("tests.rs") {
                continue;
            }
            let text = fs::read_to_string(&file).unwrap();
            let production = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            for word in production.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                // The handshake takes known values for vectors, and hands no bytes out.
                if word.starts_with("hazmat_") && word != "hazmat_from_parts" {
                    *found.entry(word.to_owned()).or_default() += 1;
                }
            }
        }
    }
    let wanted: BTreeMap<String, usize> = CALLS.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    assert_eq!(found, wanted);
}
