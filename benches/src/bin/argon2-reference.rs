//! The C reference with its SIMD code, compiled for this very processor.

#[path = "../c_argon2.rs"]
mod c_argon2;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    c_argon2::run(argon2_sys::argon2id_hash_raw)
}
