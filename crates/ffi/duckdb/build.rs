//! Finds the prebuilt DuckDB that `./dev` fetched and checked, and compiles the shim against its headers.

use std::env;
use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    for name in ["AICO_DUCKDB_DIR", "HOME"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for name in ["src/shim.cpp", "pinned"] {
        println!("cargo:rerun-if-changed={name}");
    }
    let pinned = include_str!("pinned");
    let version = pinned.lines().find_map(|line| line.strip_prefix("version ")).ok_or("no version is pinned")?;
    let kept = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(format!(".cache/aico/duckdb-{version}"));
    let folder = env::var_os("AICO_DUCKDB_DIR").map_or_else(kept, PathBuf::from);
    let library = folder.join("libduckdb.so");
    println!("cargo:rerun-if-changed={}", library.display());
    if !library.is_file() || !folder.join("include/duckdb.hpp").is_file() {
        println!("cargo:error=DuckDB {version} is not in {}: `./dev build` fetches it", folder.display());
        return Err("see above".into());
    }
    let mut shim = cc::Build::new();
    shim.cpp(true).std("c++17").file("src/shim.cpp").flag("-isystem").flag(folder.join("include"));
    shim.define("AICO_DUCKDB_VERSION", Some(format!("\"v{version}\"").as_str()));
    shim.compile("aico_duckdb_shim");
    // `cargo test` lets programs find libraries that lie in here; the program `aico` has its own way (crates/aico/build.rs).
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("no OUT_DIR")?);
    let here = out.join("libduckdb.so");
    if fs::symlink_metadata(&here).is_ok() {
        fs::remove_file(&here)?;
    }
    symlink(&library, &here)?;
    println!("cargo:rustc-link-search=native={}", out.display());
    println!("cargo:rustc-link-lib=dylib=duckdb");
    println!("cargo:rustc-link-lib=dylib=crypto");
    Ok(())
}
