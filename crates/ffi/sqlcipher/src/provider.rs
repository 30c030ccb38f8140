//! Pages sealed and opened by aws-lc: the same AES-256-CBC and HMACs, without what OpenSSL looks up for each page.

use std::ffi::{c_int, c_uchar, c_void};
use std::mem::MaybeUninit;
use std::sync::{Once, OnceLock};

use rusqlite::ffi::{SQLITE_ERROR, SQLITE_OK};

const BLOCK: usize = 16;
const KEY: usize = 32;
/// SQLCipher's numbers of its algorithms.
const HMAC_SHA256: c_int = 1;
const HMAC_SHA512: c_int = 2;
const DECRYPT: c_int = 0;

type Hmac = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    *const c_uchar,
    c_int,
    *const c_uchar,
    c_int,
    *const c_uchar,
    c_int,
    *mut c_uchar,
) -> c_int;
type Cipher = unsafe extern "C" fn(
    *mut c_void,
    c_int,
    *const c_uchar,
    c_int,
    *const c_uchar,
    *const c_uchar,
    c_int,
    *mut c_uchar,
) -> c_int;
type Random = unsafe extern "C" fn(*mut c_void, *mut c_void, c_int) -> c_int;

/// `sqlcipher_provider` of SQLCipher 4, up to the last field that is touched here.
#[repr(C)]
struct Provider {
    init: *const c_void,
    shutdown: *const c_void,
    get_provider_name: *const c_void,
    add_random: *const c_void,
    random: Random,
    hmac: Hmac,
    kdf: *const c_void,
    cipher: Cipher,
}

unsafe extern "C" {
    /// SQLCipher's current provider, "to make minor changes to it".
    fn sqlcipher_get_provider() -> *mut Provider;
}

/// What the provider did before, for algorithms that no database of ours has.
static BEFORE: OnceLock<(Hmac, Cipher)> = OnceLock::new();

/// Puts our three functions into SQLCipher's provider, once. SQLite has been initialised, and no connection has a key yet
/// that was not given through [`crate::set_key`].
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // SAFETY: SQLite is initialised, so there is a provider, which lives as long as the library and which nobody uses
        // before a first key is given. The fields in front of those that are changed are as in `sqlcipher_provider`.
        unsafe {
            if let Some(provider) = sqlcipher_get_provider().as_mut() {
                let _once = BEFORE.set((provider.hmac, provider.cipher));
                (provider.random, provider.hmac, provider.cipher) = (random, hmac, cipher);
            }
        }
    });
}

unsafe extern "C" fn random(_: *mut c_void, buffer: *mut c_void, length: c_int) -> c_int {
    // SAFETY: SQLCipher gives room for `length` bytes.
    let Some(out) = (unsafe { slice_mut(buffer.cast(), length) }) else { return SQLITE_ERROR };
    if aws_lc_rs::rand::fill(out).is_ok() { SQLITE_OK } else { SQLITE_ERROR }
}

unsafe extern "C" fn hmac(
    context: *mut c_void,
    algorithm: c_int,
    key: *const c_uchar,
    key_bytes: c_int,
    first: *const c_uchar,
    first_bytes: c_int,
    second: *const c_uchar,
    second_bytes: c_int,
    out: *mut c_uchar,
) -> c_int {
    let hash = match algorithm {
        // SAFETY: it only names a static table.
        HMAC_SHA256 => unsafe { aws_lc_sys::EVP_sha256() },
        // SAFETY: the same.
        HMAC_SHA512 => unsafe { aws_lc_sys::EVP_sha512() },
        _ => {
            let Some((before, _)) = BEFORE.get() else { return SQLITE_ERROR };
            // SAFETY: the same arguments, to the function that they were meant for.
            return unsafe {
                before(context, algorithm, key, key_bytes, first, first_bytes, second, second_bytes, out)
            };
        }
    };
    let length = |bytes: c_int| usize::try_from(bytes).unwrap_or(0);
    // SAFETY: SQLCipher gives a key and a first input of these lengths, a second one or null, and room for the algorithm's
    // output. The state is initialised before it is used, and its cleaning up wipes it: it holds the page key.
    unsafe {
        let mut state = MaybeUninit::<aws_lc_sys::HMAC_CTX>::zeroed();
        let (state, mut written) = (state.as_mut_ptr(), 0);
        aws_lc_sys::HMAC_CTX_init(state);
        let done = aws_lc_sys::HMAC_Init_ex(state, key.cast(), length(key_bytes), hash, std::ptr::null_mut()) == 1
            && aws_lc_sys::HMAC_Update(state, first, length(first_bytes)) == 1
            && (second.is_null() || aws_lc_sys::HMAC_Update(state, second, length(second_bytes)) == 1)
            && aws_lc_sys::HMAC_Final(state, out, &raw mut written) == 1;
        aws_lc_sys::HMAC_CTX_cleanup(state);
        if done { SQLITE_OK } else { SQLITE_ERROR }
    }
}

unsafe extern "C" fn cipher(
    context: *mut c_void,
    mode: c_int,
    key: *const c_uchar,
    key_bytes: c_int,
    iv: *const c_uchar,
    input: *const c_uchar,
    input_bytes: c_int,
    out: *mut c_uchar,
) -> c_int {
    let length = usize::try_from(input_bytes).unwrap_or(1);
    if key_bytes != KEY as c_int || !length.is_multiple_of(BLOCK) {
        let Some((_, before)) = BEFORE.get() else { return SQLITE_ERROR };
        // SAFETY: the same arguments, to the function that they were meant for.
        return unsafe { before(context, mode, key, key_bytes, iv, input, input_bytes, out) };
    }
    // SAFETY: SQLCipher gives a key of 32 bytes, an IV of 16, and `input_bytes` bytes at both ends, which are whole
    // blocks; input and output may be the same place, which AES_cbc_encrypt allows. The key schedule is set before it is
    // used, and wiped: it is the page key.
    unsafe {
        let mut schedule = MaybeUninit::<aws_lc_sys::AES_KEY>::zeroed();
        let bits = (KEY * 8) as u32;
        let set = match mode {
            DECRYPT => aws_lc_sys::AES_set_decrypt_key(key, bits, schedule.as_mut_ptr()),
            _ => aws_lc_sys::AES_set_encrypt_key(key, bits, schedule.as_mut_ptr()),
        };
        if set != 0 {
            return SQLITE_ERROR;
        }
        let mut iv = iv.cast::<[u8; BLOCK]>().read();
        aws_lc_sys::AES_cbc_encrypt(
            input,
            out,
            length,
            schedule.as_ptr(),
            iv.as_mut_ptr(),
            c_int::from(mode != DECRYPT),
        );
        aws_lc_sys::OPENSSL_cleanse(schedule.as_mut_ptr().cast(), size_of::<aws_lc_sys::AES_KEY>());
    }
    SQLITE_OK
}

/// # Safety
/// `bytes` is null, or `length` bytes can be written there, by nobody else, for as long as the result lives.
unsafe fn slice_mut<'a>(bytes: *mut c_uchar, length: c_int) -> Option<&'a mut [u8]> {
    let length = usize::try_from(length).ok()?;
    // SAFETY: the caller's promise.
    (!bytes.is_null()).then(|| unsafe { std::slice::from_raw_parts_mut(bytes, length) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
    }

    /// NIST SP 800-38A, F.2.5 and F.2.6.
    #[test]
    fn aes_256_cbc_is_the_standards() {
        let key = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4");
        let iv = hex("000102030405060708090a0b0c0d0e0f");
        let plain = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let sealed = hex("f58c4c04d6e5f1ba779eabfb5f7bfbd69cfc4e967edb808d679f777bc6702c7d");
        let run = |mode, input: &[u8]| {
            let mut out = vec![0; input.len()];
            // SAFETY: the lengths are those of the buffers.
            let code = unsafe {
                let (input_bytes, none) = (input.len() as c_int, std::ptr::null_mut());
                cipher(none, mode, key.as_ptr(), 32, iv.as_ptr(), input.as_ptr(), input_bytes, out.as_mut_ptr())
            };
            assert_eq!(code, SQLITE_OK);
            out
        };
        assert_eq!(run(1, &plain), sealed);
        assert_eq!(run(DECRYPT, &sealed), plain);
    }

    /// RFC 4231, test case 2, in one part and in two.
    #[test]
    fn hmac_sha_512_is_the_standards() {
        let wanted = "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea2505549758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737";
        let run = |first: &[u8], second: Option<&[u8]>| {
            let mut out = vec![0; 64];
            let (start, bytes) = second.map_or((std::ptr::null(), 0), |part| (part.as_ptr(), part.len() as c_int));
            // SAFETY: the lengths are those of the buffers.
            let code = unsafe {
                let (key, none) = (b"Jefe", std::ptr::null_mut());
                let first_bytes = first.len() as c_int;
                hmac(none, HMAC_SHA512, key.as_ptr(), 4, first.as_ptr(), first_bytes, start, bytes, out.as_mut_ptr())
            };
            assert_eq!(code, SQLITE_OK);
            out
        };
        assert_eq!(run(b"what do ya want for nothing?", None), hex(wanted));
        assert_eq!(run(b"what do ya ", Some(b"want for nothing?")), hex(wanted));
    }

    /// What OpenSSL's functions wrote is read by ours, and the other way round.
    #[test]
    fn both_providers_write_the_same_databases() {
        let folder = tempfile::tempdir().unwrap();
        let literal = format!("x'{}'", "5a".repeat(32));
        let open = |name: &str, install: bool| {
            let connection = rusqlite::Connection::open(folder.path().join(name)).unwrap();
            if install {
                crate::set_key(&connection, literal.as_bytes()).unwrap();
            } else {
                connection.pragma_update(None, "key", &literal).unwrap();
            }
            connection
        };
        let fill = |connection: &rusqlite::Connection| {
            let sql =
                "CREATE TABLE t (x); WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
                       INSERT INTO t SELECT hex(randomblob(100)) FROM n;";
            connection.execute_batch(sql).unwrap();
        };
        let sound = |connection: &rusqlite::Connection| {
            let mut check = connection.prepare("PRAGMA cipher_integrity_check").unwrap();
            assert!(check.query_map([], |_| Ok(())).unwrap().next().is_none());
            let rows: i64 = connection.query_row("SELECT count(*) FROM t", [], |row| row.get(0)).unwrap();
            assert_eq!(rows, 500);
        };
        // Nobody has installed ours in this process: the other tests call the functions alone.
        let theirs = open("theirs", false);
        fill(&theirs);
        sound(&theirs);
        sound(&open("theirs", true));
        let ours = open("ours", true);
        fill(&ours);
        sound(&ours);
        let (before_hmac, before_cipher) = *BEFORE.get().unwrap();
        // SAFETY: one test at a time uses the provider; it is put back as it was found.
        unsafe {
            let provider = sqlcipher_get_provider().as_mut().unwrap();
            (provider.hmac, provider.cipher) = (before_hmac, before_cipher);
        }
        sound(&open("ours", false));
    }
}
