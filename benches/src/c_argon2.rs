//! `argon2-… MIB`: one stretch by the C reference, 3 passes and 4 lanes; prints nanoseconds of wall and CPU.
//!
//! Programs of their own, because libsodium brings C functions of the same names along.

use std::ffi::{c_int, c_void};

use rustix::time::{ClockId, clock_gettime};

/// Costs in passes, KiB and lanes, then password, salt and output, each with its length.
pub type HashRaw =
    unsafe extern "C" fn(u32, u32, u32, *const c_void, usize, *const c_void, usize, *mut c_void, usize) -> c_int;

const PASSWORD: &str = "correct horse battery staple";
const SALT: [u8; 16] = [3; 16];

pub fn run(argon2id_hash_raw: HashRaw) -> Result<(), Box<dyn std::error::Error>> {
    let mib: u32 = std::env::args().nth(1).ok_or("how many MiB?")?.parse()?;
    let clocks = || [ClockId::Monotonic, ClockId::ProcessCPUTime].map(nanos);
    let before = clocks();
    stretch(argon2id_hash_raw, mib)?;
    let after = clocks();
    println!("{} {}", after[0] - before[0], after[1] - before[1]);
    Ok(())
}

fn nanos(clock: ClockId) -> i64 {
    let now = clock_gettime(clock);
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}

/// As many threads as lanes; the reference wipes its memory, as ours does.
#[expect(unsafe_code, reason = "the reference is C")]
fn stretch(argon2id_hash_raw: HashRaw, mib: u32) -> Result<(), String> {
    let (password, salt, mut out) = (PASSWORD.as_ptr().cast(), SALT.as_ptr().cast(), [0u8; 32]);
    let (hash, kib) = (out.as_mut_ptr().cast(), mib * 1024);
    // SAFETY: every pointer stands with the length of its own buffer, and `out` is writable.
    let failed = unsafe { argon2id_hash_raw(3, kib, 4, password, PASSWORD.len(), salt, SALT.len(), hash, out.len()) };
    std::hint::black_box(&out);
    if failed == 0 { Ok(()) } else { Err(format!("the C reference failed: {failed}")) }
}
