//! Tells the program where DuckDB's library lies: beside it where it was installed, else where `./dev` put it.

use std::env;
use std::error::Error;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn Error>> {
    for name in ["AICO_DUCKDB_DIR", "HOME"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=../ffi/duckdb/pinned");
    let pinned = include_str!("../ffi/duckdb/pinned");
    let version = pinned.lines().find_map(|line| line.strip_prefix("version ")).ok_or("no version is pinned")?;
    let kept = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(format!(".cache/aico/duckdb-{version}"));
    let folder = env::var_os("AICO_DUCKDB_DIR").map_or_else(kept, PathBuf::from);
    println!("cargo:rustc-link-arg=-Wl,-rpath,$ORIGIN:{}", folder.display());
    Ok(())
}
