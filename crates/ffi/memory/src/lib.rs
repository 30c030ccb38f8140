//! Memory for secrets: 64-byte slots on pages that are neither swapped nor dumped, wiped when they are given back.
//!
//! The pages come from `memfd_secret` (Linux 5.14 and later), which takes them out of the kernel's own map: no core dump,
//! debugger, `/proc/*/mem` or read through another process reaches them, not even root's. Where the kernel refuses, they
//! are anonymous pages, locked and left out of core dumps; where the limit for locked memory is used up, only left out
//! of them. [`protection`] tells which.
//!
//! Keys are small and many, so pages are shared: each chunk of 64 KiB is cut into slots that are handed out and taken
//! back, and is never given back to the system. (`memsec`, which does the same a page at a time, leaves the descriptor of
//! the secret memory open across `exec`: any child could map it.)
#![expect(unsafe_code, reason = "a leaf crate around memfd_secret, mmap, mlock and madvise")]

use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use zeroize::Zeroize;

/// Bytes of a slot.
pub const SLOT_BYTES: usize = 64;
const CHUNK_BYTES: usize = 64 * 1024;
/// At least a page: where pages are larger, the advice below is refused or widened by the kernel.
const PAGE_BYTES: usize = 4096;

/// How well the weakest page handed out so far is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protection {
    /// `memfd_secret`: out of the kernel's own map, never swapped, never dumped.
    Secret,
    /// `mlock` and `MADV_DONTDUMP`: never swapped, never dumped; readable by root through the kernel.
    Locked,
    /// `MADV_DONTDUMP` only: the limit for locked memory (`ulimit -l`) is used up.
    Unlocked,
}

#[repr(C, align(64))]
struct Line([u8; SLOT_BYTES]);

/// 64 bytes of secret memory, zero when taken; wiped when dropped.
pub struct Slot(Option<&'static mut Line>);

struct Pool {
    free: Vec<&'static mut Line>,
    weakest: Protection,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), weakest: Protection::Secret });

fn pool() -> MutexGuard<'static, Pool> {
    // Nothing that holds the lock can leave the pool half changed.
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How the secrets of this process are kept. Takes a slot, so that there is an answer.
#[must_use]
pub fn protection() -> Protection {
    let _slot = Slot::take();
    pool().weakest
}

impl Slot {
    /// Takes a slot, all zero.
    ///
    /// # Panics
    /// When the system gives no memory at all, as any allocation would abort.
    #[must_use]
    pub fn take() -> Self {
        let mut pool = pool();
        if pool.free.is_empty() {
            let (lines, protection) = chunk();
            pool.weakest = pool.weakest.max(protection);
            pool.free.extend(lines.iter_mut());
        }
        Self(pool.free.pop())
    }

    /// The first `N` bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> &[u8; N] {
        const { assert!(N <= SLOT_BYTES) };
        match self.0.as_ref().and_then(|line| line.0.first_chunk()) {
            Some(bytes) => bytes,
            None => unreachable!("a slot has its line until it is dropped"),
        }
    }

    /// The first `N` bytes, to write.
    #[must_use]
    pub fn bytes_mut<const N: usize>(&mut self) -> &mut [u8; N] {
        const { assert!(N <= SLOT_BYTES) };
        match self.0.as_mut().and_then(|line| line.0.first_chunk_mut()) {
            Some(bytes) => bytes,
            None => unreachable!("a slot has its line until it is dropped"),
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(line) = self.0.take() {
            line.0.zeroize();
            pool().free.push(line);
        }
    }
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot(..)")
    }
}

/// New zeroed lines, and how they are protected.
fn chunk() -> (&'static mut [Line], Protection) {
    if let Some(lines) = secret_file().and_then(|file| map(libc::MAP_SHARED, file.as_raw_fd())) {
        return (lines, Protection::Secret);
    }
    let Some(lines) = map(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1) else {
        std::alloc::handle_alloc_error(std::alloc::Layout::new::<[u8; CHUNK_BYTES]>())
    };
    let start: *mut Line = lines.as_mut_ptr();
    // SAFETY: the pages are ours and mapped for as long as the process lives; neither call reads or writes them.
    let locked = unsafe {
        libc::madvise(start.cast(), CHUNK_BYTES, libc::MADV_DONTDUMP);
        libc::mlock(start.cast(), CHUNK_BYTES) == 0
    };
    (lines, if locked { Protection::Locked } else { Protection::Unlocked })
}

/// A `memfd_secret` of one chunk; the descriptor closes when the pages are mapped, and never reaches a child.
fn secret_file() -> Option<OwnedFd> {
    // SAFETY: a system call with one integer argument; a descriptor that it returns is ours alone.
    let file = unsafe {
        let number = libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC);
        OwnedFd::from_raw_fd(RawFd::try_from(number).ok().filter(|number| *number >= 0)?)
    };
    // SAFETY: the descriptor is open for as long as `file` lives.
    let sized = unsafe { libc::ftruncate(file.as_raw_fd(), CHUNK_BYTES as libc::off_t) };
    (sized == 0).then_some(file)
}

/// Maps one chunk of zeroed, page-aligned memory for as long as the process lives.
fn map(flags: libc::c_int, file: RawFd) -> Option<&'static mut [Line]> {
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address that the kernel chooses touches nothing that is mapped already.
    let start = unsafe { libc::mmap(ptr::null_mut(), CHUNK_BYTES, access, flags, file, 0) };
    if start == libc::MAP_FAILED {
        return None;
    }
    // SAFETY: the mapping is readable and writable, aligned to a page, zeroed (so a valid `[Line]`), never unmapped, and
    // nothing else has its address.
    Some(unsafe { std::slice::from_raw_parts_mut(start.cast(), CHUNK_BYTES / SLOT_BYTES) })
}

/// Asks the kernel to leave memory that is about to be filled with something secret out of core dumps. The whole pages in
/// it, that is; and where the kernel does not take advice, nothing is lost but that.
pub fn leave_out_of_dumps<T>(memory: &mut [MaybeUninit<T>]) {
    let bytes = memory.as_mut_ptr_range();
    let page = PAGE_BYTES - 1;
    let (from, to) = ((bytes.start.addr() + page) & !page, bytes.end.addr() & !page);
    if from < to {
        let start = bytes.start.cast::<libc::c_void>().with_addr(from);
        // SAFETY: whole pages inside of memory that the caller lends us; the advice neither reads nor changes a byte.
        let _refused = unsafe { libc::madvise(start, to - from, libc::MADV_DONTDUMP) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_zero_when_taken_even_after_use() {
        for _ in 0..3 {
            let mut slots: Vec<Slot> = (0..3000).map(|_| Slot::take()).collect();
            for slot in &mut slots {
                assert_eq!(slot.bytes(), &[0; SLOT_BYTES]);
                slot.bytes_mut::<SLOT_BYTES>().fill(0xaa);
            }
        }
    }

    #[test]
    fn slots_do_not_overlap() {
        let mut slots: Vec<Slot> = (0..2000).map(|_| Slot::take()).collect();
        for (n, slot) in slots.iter_mut().enumerate() {
            *slot.bytes_mut() = n.to_le_bytes();
        }
        assert!(slots.iter().enumerate().all(|(n, slot)| *slot.bytes() == n.to_le_bytes()));
    }

    /// `VmFlags` of the mapping that holds `address`.
    fn flags_at(address: usize) -> String {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut inside = false;
        for line in maps.lines() {
            let range = line.split(' ').next().and_then(|range| range.split_once('-'));
            if let Some((from, to)) =
                range.and_then(|(a, b)| Some((usize::from_str_radix(a, 16).ok()?, usize::from_str_radix(b, 16).ok()?)))
            {
                inside = (from..to).contains(&address);
            } else if inside && line.starts_with("VmFlags:") {
                return line.to_owned();
            }
        }
        String::new()
    }

    #[test]
    fn working_memory_is_what_it_was_and_in_no_dump() {
        leave_out_of_dumps::<u64>(&mut []);
        leave_out_of_dumps(&mut [MaybeUninit::<u8>::uninit(); 100]);
        // From a page's middle to another's: the pages at the edges belong to somebody else too.
        let mut memory = vec![MaybeUninit::new(7u8); 64 << 20];
        let (edge, inside) = (memory.as_ptr().addr(), memory[32 << 20..].as_ptr().addr());
        leave_out_of_dumps(&mut memory[1000..(64 << 20) - 1000]);
        // SAFETY: every byte was initialised above.
        assert!(memory.iter().all(|byte| unsafe { byte.assume_init() } == 7));
        let flags = flags_at(inside);
        assert!(flags.contains(" dd"), "{flags:?}");
        assert!(!flags_at(edge).contains(" dd"), "the page in front of it is as it was");
    }

    #[test]
    fn the_pages_cannot_be_read_through_the_kernel_or_are_left_out_of_dumps() {
        let mut slot = Slot::take();
        slot.bytes_mut::<4>().fill(7);
        let address = ptr::from_ref(slot.bytes::<4>()).addr();
        let protection = protection();
        let flags = flags_at(address);
        assert!(flags.contains(" dd"), "left out of core dumps: {flags:?}");
        if protection != Protection::Unlocked {
            assert!(flags.contains(" lo"), "never swapped: {flags:?}");
        }
        if protection == Protection::Secret {
            use std::os::unix::fs::FileExt;
            let memory = std::fs::File::open("/proc/self/mem").unwrap();
            assert!(memory.read_at(&mut [0; 4], address as u64).is_err(), "the kernel has no way to these pages");
        }
    }
}
