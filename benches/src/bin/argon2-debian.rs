//! The C reference as Debian ships it, compiled for every processor of the architecture.

#[path = "../c_argon2.rs"]
mod c_argon2;

use std::ffi::{c_int, c_void};

// The library's own name: the package with the headers is not needed.
#[expect(unsafe_code, reason = "the reference is C")]
#[link(name = "libargon2.so.1", modifiers = "+verbatim")]
unsafe extern "C" {
    fn argon2id_hash_raw(
        passes: u32,
        kib: u32,
        lanes: u32,
        password: *const c_void,
        password_bytes: usize,
        salt: *const c_void,
        salt_bytes: usize,
        out: *mut c_void,
        out_bytes: usize,
    ) -> c_int;
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    c_argon2::run(argon2id_hash_raw)
}
