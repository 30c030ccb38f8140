//! Compiles the adaptor against the headers of the RocksDB that `librocksdb-sys` has compiled.

fn main() {
    println!("cargo::rerun-if-changed=src/adaptor.cc");
    if std::env::var_os("CARGO_FEATURE_ENGINE").is_none() {
        return;
    }
    let rocksdb = std::env::var("DEP_ROCKSDB_CARGO_MANIFEST_DIR").unwrap_or_default();
    cc::Build::new()
        .cpp(true)
        .std("c++20")
        // As RocksDB itself is built here; the layout of its classes depends on it.
        .define("NDEBUG", None)
        .define("HAVE_ALIGNED_NEW", None)
        .define("HAVE_UINT128_EXTENSION", None)
        .flag("-fno-rtti")
        .flag("-Wno-unused-parameter")
        .include(format!("{rocksdb}/rocksdb/include"))
        .include(format!("{rocksdb}/rocksdb"))
        .file("src/adaptor.cc")
        .compile("aico_rocksdb_adaptor");
}
