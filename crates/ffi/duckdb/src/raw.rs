//! The shim's functions, and what they take.

use std::ffi::{CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::slice;

use crate::{Answer, Cell, Column, Error, Kind, Limits};

type Tell = unsafe extern "C" fn(*mut c_void, *const c_char, usize);
type Take = unsafe extern "C" fn(*mut c_void, u8, *const RawCell, usize) -> c_int;

#[repr(C)]
struct RawCell {
    text: *const c_char,
    bytes: usize,
    number: i64,
    kind: u8,
}

#[repr(C)]
struct RawSetup {
    file: *const c_char,
    temporary: *const c_char,
    key: *const u8,
    memory_bytes: u64,
    temporary_bytes: u64,
    threads: u64,
    read_only: u8,
    plain_temporary: u8,
}

unsafe extern "C" {
    fn aico_duckdb_open(setup: *const RawSetup, out: *mut *mut c_void, to: *mut c_void, tell: Tell) -> c_int;
    fn aico_duckdb_close(handle: *mut c_void, to: *mut c_void, tell: Tell) -> c_int;
    fn aico_duckdb_run(handle: *mut c_void, sql: *const c_char, bytes: usize, to: *mut c_void, tell: Tell) -> c_int;
    fn aico_duckdb_append(
        handle: *mut c_void,
        table: *const c_char,
        cells: *const RawCell,
        columns: usize,
        rows: usize,
        to: *mut c_void,
        tell: Tell,
    ) -> c_int;
    fn aico_duckdb_ask(
        handle: *mut c_void,
        sql: *const c_char,
        bytes: usize,
        take: Take,
        rows: *mut c_void,
        to: *mut c_void,
        tell: Tell,
    ) -> c_int;
    fn aico_duckdb_interrupt(handle: *mut c_void);
}

/// What a database is opened with.
#[derive(Clone, Copy)]
pub(crate) struct Setup<'a> {
    pub(crate) file: &'a Path,
    pub(crate) temporary: Option<&'a Path>,
    /// Without one, the file is in the clear: what tests compare with.
    pub(crate) key: Option<&'a [u8; 32]>,
    pub(crate) memory_bytes: u64,
    pub(crate) temporary_bytes: u64,
    pub(crate) threads: u64,
    pub(crate) read_only: bool,
    /// For tests, too.
    pub(crate) plain_temporary: bool,
}

impl<'a> Setup<'a> {
    pub(crate) fn of(file: &'a Path) -> Self {
        Self {
            file,
            temporary: None,
            key: None,
            memory_bytes: 256 << 20,
            temporary_bytes: 0,
            threads: 1,
            read_only: false,
            plain_temporary: false,
        }
    }
}

/// An open database. Where it has a key, its owner keeps the key alive.
#[derive(Debug)]
pub(crate) struct Handle(*mut c_void);

// SAFETY: DuckDB's objects are bound to no thread.
unsafe impl Send for Handle {}
// SAFETY: `&self` gives `answer`, which DuckDB serializes by its context's lock, and `interrupt`, which sets an atomic flag.
unsafe impl Sync for Handle {}

impl Handle {
    pub(crate) fn open(setup: &Setup<'_>) -> Result<Self, Error> {
        let text = |path: &Path| {
            let refused = || Error::Duckdb("a path with a zero byte".to_owned());
            CString::new(path.as_os_str().as_bytes()).map_err(|_| refused())
        };
        let file = text(setup.file)?;
        let temporary = setup.temporary.map(text).transpose()?;
        let raw = RawSetup {
            file: file.as_ptr(),
            temporary: temporary.as_ref().map_or(ptr::null(), |path| path.as_ptr()),
            key: setup.key.map_or(ptr::null(), |key| key.as_ptr()),
            memory_bytes: setup.memory_bytes,
            temporary_bytes: setup.temporary_bytes,
            threads: setup.threads.max(1),
            read_only: setup.read_only.into(),
            plain_temporary: setup.plain_temporary.into(),
        };
        let mut handle = ptr::null_mut();
        // SAFETY: the texts and the key live during the call, the key for as long as the handle (see `Writer`, `Reader`).
        checked(|to| unsafe { aico_duckdb_open(&raw, &mut handle, to, tell) })?;
        Ok(Self(handle))
    }

    pub(crate) fn run(&mut self, sql: &str) -> Result<(), Error> {
        // SAFETY: the handle is open, and the text is valid for its length.
        checked(|to| unsafe { aico_duckdb_run(self.0, sql.as_ptr().cast(), sql.len(), to, tell) })
    }

    pub(crate) fn append(&mut self, table: &str, columns: usize, cells: &[Cell<'_>]) -> Result<(), Error> {
        let table = CString::new(table).map_err(|_| Error::Duckdb("a name with a zero byte".to_owned()))?;
        let rows = cells.len() / columns.max(1);
        let cells: Vec<RawCell> = cells.iter().map(raw_cell).collect();
        // SAFETY: the handle is open; `cells` has at least `rows * columns` cells, whose texts live during the call.
        checked(|to| unsafe { aico_duckdb_append(self.0, table.as_ptr(), cells.as_ptr(), columns, rows, to, tell) })
    }

    pub(crate) fn answer(&self, sql: &str, limits: &Limits) -> Result<Answer, Error> {
        let mut taking = Taking { answer: Answer::default(), rows: limits.rows, bytes: limits.bytes };
        let rows = (&raw mut taking).cast();
        // SAFETY: the handle is open; `rows` is the `Taking` that `take` expects, for as long as the call lasts.
        checked(|to| unsafe { aico_duckdb_ask(self.0, sql.as_ptr().cast(), sql.len(), take, rows, to, tell) })?;
        Ok(taking.answer)
    }

    pub(crate) fn interrupt(&self) {
        // SAFETY: the handle is open.
        unsafe { aico_duckdb_interrupt(self.0) }
    }

    pub(crate) fn close(&mut self) -> Result<(), Error> {
        let handle = std::mem::replace(&mut self.0, ptr::null_mut());
        if handle.is_null() {
            return Ok(());
        }
        // SAFETY: the handle was open, and nobody has it any more.
        checked(|to| unsafe { aico_duckdb_close(handle, to, tell) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Whoever wants to know closes it.
        let _closed = self.close();
    }
}

fn raw_cell(cell: &Cell<'_>) -> RawCell {
    let none = RawCell { text: ptr::null(), bytes: 0, number: 0, kind: 0 };
    match cell {
        Cell::Null => none,
        Cell::Text(text) => RawCell { text: text.as_ptr().cast(), bytes: text.len(), kind: 1, ..none },
        Cell::Number(number) => RawCell { number: *number, kind: 2, ..none },
        Cell::Time(ms) => RawCell { number: *ms, kind: 3, ..none },
    }
}

fn checked(call: impl FnOnce(*mut c_void) -> c_int) -> Result<(), Error> {
    let mut text = String::new();
    match call((&raw mut text).cast()) {
        0 => Ok(()),
        _ => Err(Error::Duckdb(if text.is_empty() { "DuckDB failed".to_owned() } else { text })),
    }
}

/// # Safety
/// `to` is the `String` of [`checked`]; `text` is valid for `bytes` bytes, or there are none.
unsafe extern "C" fn tell(to: *mut c_void, text: *const c_char, bytes: usize) {
    // SAFETY: as the caller promises.
    let (to, text) = unsafe { (&mut *to.cast::<String>(), lossy(text, bytes)) };
    *to = text;
}

/// # Safety
/// `text` is valid for `bytes` bytes, or null.
unsafe fn lossy(text: *const c_char, bytes: usize) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: as the caller promises.
    String::from_utf8_lossy(unsafe { slice::from_raw_parts(text.cast(), bytes) }).into_owned()
}

struct Taking {
    answer: Answer,
    rows: usize,
    bytes: usize,
}

/// # Safety
/// `to` is a `Taking`, and `cells` are `count` cells whose texts are valid.
unsafe extern "C" fn take(to: *mut c_void, what: u8, cells: *const RawCell, count: usize) -> c_int {
    // SAFETY: as the caller promises; C++ gives no null pointer to no cells only.
    let (taking, cells) = unsafe {
        let cells = if count == 0 { &[] } else { slice::from_raw_parts(cells, count) };
        (&mut *to.cast::<Taking>(), cells)
    };
    let bytes = cells.iter().fold(0usize, |sum, cell| sum.saturating_add(cell.bytes));
    // SAFETY: as the caller promises.
    let text = |cell: &RawCell| unsafe { lossy(cell.text, cell.bytes) };
    let Some(left) = taking.bytes.checked_sub(bytes) else {
        taking.answer.more = true;
        return 1;
    };
    taking.bytes = left;
    match what {
        0 => {
            let column = |cell| Column { name: text(cell), of_type: String::new(), kind: Kind::Text };
            taking.answer.columns = cells.iter().map(column).collect();
        }
        1 => {
            for (column, cell) in taking.answer.columns.iter_mut().zip(cells) {
                column.of_type = text(cell);
                column.kind = match cell.kind {
                    1 => Kind::Boolean,
                    2 => Kind::Integer,
                    3 => Kind::Fraction,
                    _ => Kind::Text,
                };
            }
        }
        _ if taking.answer.rows.len() == taking.rows => {
            taking.answer.more = true;
            return 1;
        }
        _ => taking.answer.rows.push(cells.iter().map(|cell| (!cell.text.is_null()).then(|| text(cell))).collect()),
    }
    0
}
