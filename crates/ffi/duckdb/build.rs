//! Finds the prebuilt DuckDB that `./dev` fetched and checked, and compiles the shim against its headers.

use std::env;
use std::path::PathBuf;
use std::process::ExitCode;

/// The one version that the shim is written for: it reaches into C++ classes.
const VERSION: &str = "1.5.5";

fn main() -> ExitCode {
    for name in ["AICO_DUCKDB_DIR", "HOME"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=src/shim.cpp");
    let kept = || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(format!(".cache/aico/duckdb-{VERSION}"));
    let folder = env::var_os("AICO_DUCKDB_DIR").map_or_else(kept, PathBuf::from);
    println!("cargo:rerun-if-changed={}", folder.display());
    if !folder.join("libduckdb.so").is_file() || !folder.join("include/duckdb.hpp").is_file() {
        println!("cargo:error=DuckDB {VERSION} is not in {}: `./dev build` fetches it", folder.display());
        return ExitCode::FAILURE;
    }
    let mut shim = cc::Build::new();
    shim.cpp(true).std("c++17").file("src/shim.cpp").flag("-isystem").flag(folder.join("include"));
    shim.define("AICO_DUCKDB_VERSION", Some(format!("\"v{VERSION}\"").as_str()));
    shim.compile("aico_duckdb_shim");
    println!("cargo:rustc-link-search=native={}", folder.display());
    println!("cargo:rustc-link-lib=dylib=duckdb");
    println!("cargo:rustc-link-lib=dylib=crypto");
    // For this crate's own tests; the program has its own way to the library (crates/aico/build.rs).
    println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    // Read by the crates that link a program, which the build scripts of libraries cannot tell how.
    println!("cargo:folder={}", folder.display());
    ExitCode::SUCCESS
}
