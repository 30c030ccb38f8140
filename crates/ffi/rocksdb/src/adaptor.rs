//! The boundary to C++ (`adaptor.cc`). No panic crosses it, and no bytes that were not authenticated.

use std::ffi::{OsStr, c_char, c_int, c_void};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use librocksdb_sys::{rocksdb_env_t, rocksdb_options_t, rocksdb_t};
use rocksdb::{AsRawPtr, DB, Env, Options};

use crate::blocks::BlockReader;
use crate::file::{self, Fault, Reader, Writer};
use crate::folder::Folder;

/// As in `adaptor.cc`.
#[repr(C)]
struct Calls {
    drop_folder: unsafe extern "C" fn(*mut c_void),
    may_change: unsafe extern "C" fn(*const c_void) -> c_int,
    size: unsafe extern "C" fn(*const c_void, *const c_char, usize, *mut u64) -> c_int,
    create: unsafe extern "C" fn(*const c_void, *const c_char, usize, *mut *mut c_void) -> c_int,
    append: unsafe extern "C" fn(*const c_void, *const c_char, usize) -> c_int,
    flush: unsafe extern "C" fn(*const c_void) -> c_int,
    sync: unsafe extern "C" fn(*const c_void) -> c_int,
    close: unsafe extern "C" fn(*const c_void) -> c_int,
    drop_writer: unsafe extern "C" fn(*mut c_void),
    open: unsafe extern "C" fn(*const c_void, *const c_char, usize, *mut *mut c_void) -> c_int,
    read: unsafe extern "C" fn(*const c_void, *mut c_char, usize, *mut usize) -> c_int,
    drop_reader: unsafe extern "C" fn(*mut c_void),
    open_blocks: unsafe extern "C" fn(*const c_void, *const c_char, usize, *mut *mut c_void) -> c_int,
    read_blocks: unsafe extern "C" fn(*const c_void, u64, *mut c_char, usize, *mut usize) -> c_int,
    drop_blocks: unsafe extern "C" fn(*mut c_void),
}

static CALLS: Calls = Calls {
    drop_folder: give_back::<Arc<Folder>>,
    may_change,
    size,
    create,
    append,
    flush,
    sync,
    close,
    drop_writer: give_back::<Open<Mutex<Writer>>>,
    open,
    read,
    drop_reader: give_back::<Open<Mutex<Reader>>>,
    open_blocks,
    read_blocks,
    drop_blocks: give_back::<Open<BlockReader>>,
};

unsafe extern "C" {
    fn aico_env(calls: *const Calls, folder: *mut c_void) -> *mut rocksdb_env_t;
    fn aico_options(options: *mut rocksdb_options_t);
    fn aico_compact(db: *mut rocksdb_t) -> c_int;
}

/// The environment in which all of RocksDB's files are those of `folder`.
pub(crate) fn env(folder: Arc<Folder>) -> Env {
    let folder = Box::into_raw(Box::new(folder));
    // SAFETY: `CALLS` is static and laid out as C++ declares it; the folder goes over to the environment, which gives it
    // back by `drop_folder` once. The environment is new, and `Env` becomes its owner.
    unsafe { Env::from_raw(aico_env(&raw const CALLS, folder.cast())) }
}

/// After a failed write, RocksDB does not go on by itself.
pub(crate) fn stay_stopped(options: &mut Options) {
    // SAFETY: the pointer is live as long as `options` is borrowed, and this adds to one field of it.
    unsafe { aico_options(options.as_raw_ptr()) };
}

/// Rewrites all tables.
pub(crate) fn compact(db: &DB) -> io::Result<()> {
    // SAFETY: the pointer is live as long as `db` is borrowed; CompactRange may be called from any thread.
    match unsafe { aico_compact(db.as_raw_ptr()) } {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code)),
    }
}

/// Each log names the one before it, and a store without any log does not open.
pub(crate) fn chain_logs(options: &mut Options) {
    // SAFETY: the pointer is live as long as `options` is borrowed, and this sets one field of it.
    unsafe { librocksdb_sys::rocksdb_options_set_track_and_verify_wals(options.as_raw_ptr(), 1) };
}

/// A file that C++ holds.
struct Open<T> {
    folder: Arc<Folder>,
    path: PathBuf,
    writing: bool,
    file: T,
}

impl<T> Drop for Open<T> {
    fn drop(&mut self) {
        if self.writing {
            self.folder.end_writing(&self.path);
        }
    }
}

/// Runs `action` and says how it went; a fault is remembered in `folder`.
fn answer(folder: &Folder, path: &Path, action: impl FnOnce() -> Result<(), Fault>) -> c_int {
    const DAMAGED: c_int = -1;
    const REFUSED: c_int = -2;
    const PANICKED: c_int = -3;
    let act = || match action() {
        Ok(()) => 0,
        Err(fault) => {
            folder.note(path, &fault);
            match fault {
                Fault::Damaged => DAMAGED,
                Fault::Refused => REFUSED,
                Fault::Io(error) => code(&error),
            }
        }
    };
    catch_unwind(AssertUnwindSafe(act)).unwrap_or(PANICKED)
}

fn code(error: &io::Error) -> c_int {
    const EIO: c_int = 5;
    error.raw_os_error().filter(|code| *code > 0).unwrap_or(EIO)
}

/// # Safety
/// `path` must be valid for reads of `length` bytes while the result is used.
unsafe fn path_of<'a>(path: *const c_char, length: usize) -> &'a Path {
    // SAFETY: the caller's promise.
    Path::new(OsStr::from_bytes(unsafe { std::slice::from_raw_parts(path.cast(), length) }))
}

unsafe extern "C" fn give_back<T>(held: *mut c_void) {
    // SAFETY: C++ gives back, once, what `Box::into_raw` of a `T` made for it.
    let held = unsafe { Box::from_raw(held.cast::<T>()) };
    let _ = catch_unwind(AssertUnwindSafe(|| drop(held)));
}

unsafe extern "C" fn may_change(folder: *const c_void) -> c_int {
    // SAFETY: the environment holds the folder until it gives it back.
    let folder = unsafe { &*folder.cast::<Arc<Folder>>() };
    answer(folder, Path::new(""), || folder.may_change())
}

unsafe extern "C" fn size(folder: *const c_void, path: *const c_char, length: usize, size: *mut u64) -> c_int {
    // SAFETY: the environment holds the folder; C++ passes a string of its own and a place for the answer.
    let (folder, path, size) = unsafe { (&*folder.cast::<Arc<Folder>>(), path_of(path, length), &mut *size) };
    answer(folder, path, || {
        *size = file::size(folder.key(), path)?;
        Ok(())
    })
}

/// Opens a file for C++ to hold.
///
/// # Safety
/// `folder` must be the environment's, `path` valid for `length` bytes, `out` valid for a write.
unsafe fn hold<T>(
    folder: *const c_void,
    path: *const c_char,
    length: usize,
    out: *mut *mut c_void,
    writing: bool,
    open: impl FnOnce(&Folder, &Path) -> Result<T, Fault>,
) -> c_int {
    // SAFETY: the caller's promise.
    let (folder, path, out) = unsafe { (&*folder.cast::<Arc<Folder>>(), path_of(path, length), &mut *out) };
    answer(folder, path, || {
        let file = open(folder, path)?;
        let open = Open { folder: Arc::clone(folder), path: path.to_path_buf(), writing, file };
        *out = Box::into_raw(Box::new(open)).cast();
        Ok(())
    })
}

unsafe extern "C" fn create(
    folder: *const c_void,
    path: *const c_char,
    length: usize,
    writer: *mut *mut c_void,
) -> c_int {
    let open = |folder: &Folder, path: &Path| {
        folder.may_change()?;
        // Before there is a file: `verify` may look at any moment.
        folder.begin_writing(path);
        Writer::create(folder.key(), path).map(Mutex::new).inspect_err(|_| folder.end_writing(path))
    };
    // SAFETY: C++ passes the environment's folder, a string of its own and a place for the answer.
    unsafe { hold(folder, path, length, writer, true, open) }
}

/// # Safety
/// `writer` must be one that `create` made and C++ still holds.
unsafe fn write(writer: *const c_void, action: impl FnOnce(&mut Writer) -> Result<(), Fault>) -> c_int {
    // SAFETY: the caller's promise.
    let open = unsafe { &*writer.cast::<Open<Mutex<Writer>>>() };
    answer(&open.folder, &open.path, || {
        open.folder.may_change()?;
        let result = action(&mut open.file.lock().unwrap_or_else(PoisonError::into_inner));
        if let Err(Fault::Io(error)) = &result
            && file::name_of(&open.path)?.grows()
        {
            open.folder.stop(code(error));
        }
        result
    })
}

unsafe extern "C" fn append(writer: *const c_void, data: *const c_char, length: usize) -> c_int {
    // SAFETY: C++ holds the writer, and passes a slice of its own; an empty one may have no address.
    unsafe {
        let data = if length == 0 { &[] } else { std::slice::from_raw_parts(data.cast(), length) };
        write(writer, |writer| writer.append(data))
    }
}

unsafe extern "C" fn flush(writer: *const c_void) -> c_int {
    // SAFETY: C++ holds the writer.
    unsafe { write(writer, Writer::flush) }
}

unsafe extern "C" fn sync(writer: *const c_void) -> c_int {
    // SAFETY: C++ holds the writer.
    unsafe { write(writer, Writer::sync) }
}

unsafe extern "C" fn close(writer: *const c_void) -> c_int {
    // SAFETY: C++ holds the writer.
    let code = unsafe { write(writer, Writer::close) };
    // SAFETY: C++ holds the writer.
    let open = unsafe { &*writer.cast::<Open<Mutex<Writer>>>() };
    if code == 0 {
        open.folder.end_writing(&open.path);
    }
    code
}

unsafe extern "C" fn open(
    folder: *const c_void,
    path: *const c_char,
    length: usize,
    reader: *mut *mut c_void,
) -> c_int {
    let open = |folder: &Folder, path: &Path| Reader::open(folder.key(), path).map(Mutex::new);
    // SAFETY: C++ passes the environment's folder, a string of its own and a place for the answer.
    unsafe { hold(folder, path, length, reader, false, open) }
}

/// # Safety
/// `out` must be valid for writes of `length` bytes while the result is used.
unsafe fn space<'a>(out: *mut c_char, length: usize) -> &'a mut [u8] {
    if length == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise. The bytes are set first, since a slice has no bytes that were never written.
    unsafe {
        out.write_bytes(0, length);
        std::slice::from_raw_parts_mut(out.cast(), length)
    }
}

unsafe extern "C" fn read(reader: *const c_void, out: *mut c_char, length: usize, read: *mut usize) -> c_int {
    // SAFETY: C++ holds the reader, and passes a buffer of its own and a place for the answer.
    let (open, out, read) = unsafe { (&*reader.cast::<Open<Mutex<Reader>>>(), space(out, length), &mut *read) };
    answer(&open.folder, &open.path, || {
        *read = open.file.lock().unwrap_or_else(PoisonError::into_inner).read(out)?;
        Ok(())
    })
}

unsafe extern "C" fn open_blocks(
    folder: *const c_void,
    path: *const c_char,
    length: usize,
    blocks: *mut *mut c_void,
) -> c_int {
    let open = |folder: &Folder, path: &Path| file::open_blocks(folder.key(), path);
    // SAFETY: C++ passes the environment's folder, a string of its own and a place for the answer.
    unsafe { hold(folder, path, length, blocks, false, open) }
}

unsafe extern "C" fn read_blocks(
    blocks: *const c_void,
    offset: u64,
    out: *mut c_char,
    length: usize,
    read: *mut usize,
) -> c_int {
    // SAFETY: C++ holds the blocks, and passes a buffer of its own and a place for the answer.
    let (open, out, read) = unsafe { (&*blocks.cast::<Open<BlockReader>>(), space(out, length), &mut *read) };
    answer(&open.folder, &open.path, || {
        *read = open.file.read(offset, out)?;
        Ok(())
    })
}
