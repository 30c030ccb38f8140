//! `./dev` takes the prebuilt DuckDB by its checksum, whole or not at all.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A copy of `./dev` with archives of our own, in a home of its own.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let root = place.0.path();
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        fs::create_dir_all(root.join("crates/ffi/duckdb")).unwrap();
        fs::create_dir_all(root.join("bin")).unwrap();
        fs::copy(repository.join("dev"), root.join("dev")).unwrap();
        // Nothing is installed and nothing is built by this test.
        for (name, text) in [("dpkg-query", "echo install ok installed"), ("cargo", "true")] {
            fs::write(root.join("bin").join(name), format!("#!/bin/sh\n{text}\n")).unwrap();
            fs::set_permissions(root.join("bin").join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        let made = "set -e; mkdir -p package duckdb/src/include crate; echo so > package/libduckdb.so; echo l > package/LICENSE
            echo h > duckdb/src/include/duckdb.hpp; tar -czf library.tgz package; tar -czf crate/duckdb.tar.gz duckdb
            tar -czf headers.crate crate; rm -r package duckdb crate";
        assert!(Command::new("sh").arg("-c").arg(made).current_dir(root).status().unwrap().success());
        place
    }

    fn sum(&self, name: &str) -> String {
        let output = Command::new("sha256sum").arg(self.0.path().join(name)).output().unwrap();
        String::from_utf8(output.stdout).unwrap().split_whitespace().next().unwrap().to_owned()
    }

    fn build(&self, library: &str, headers: &str) -> Output {
        let root = self.0.path();
        let line = |what: &str, sum: &str, name: &str| format!("{what} {sum} file://{}\n", root.join(name).display());
        let pinned = line(std::env::consts::ARCH, library, "library.tgz") + &line("headers", headers, "headers.crate");
        fs::write(root.join("crates/ffi/duckdb/pinned"), format!("version 0.0.1\n{pinned}")).unwrap();
        let path = format!("{}:/usr/bin:/bin", root.join("bin").display());
        Command::new("bash")
            .arg(root.join("dev"))
            .arg("build")
            .env_clear()
            .env("PATH", path)
            .env("HOME", root)
            .output()
            .unwrap()
    }

    fn kept(&self) -> Vec<PathBuf> {
        let Ok(entries) = fs::read_dir(self.0.path().join(".cache/aico")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

#[test]
fn a_library_with_another_checksum_is_refused_and_nothing_is_kept() {
    let place = Place::new();
    let (library, headers, other) = (place.sum("library.tgz"), place.sum("headers.crate"), "0".repeat(64));
    for (library, headers) in [(&other, &headers), (&library, &other)] {
        let refused = place.build(library, headers);
        let errors = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && errors.contains("is not what it was: its SHA-256 is not"), "{errors}");
        assert_eq!(place.kept(), Vec::<PathBuf>::new());
    }
    let done = place.build(&library, &headers);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let folder = place.0.path().join(".cache/aico/duckdb-0.0.1");
    assert_eq!(place.kept(), std::slice::from_ref(&folder));
    assert!(folder.join("libduckdb.so").is_file() && folder.join("include/duckdb.hpp").is_file());
    // Fetched once: it is not asked for again.
    assert!(place.build(&other, &other).status.success());
}
