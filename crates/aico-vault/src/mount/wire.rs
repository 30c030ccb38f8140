//! What the kernel and a FUSE file system say to each other: version 7.31 of its protocol (`linux/fuse.h`).

use rustix::io::Errno;

use crate::tree::{Answer, Attributes, Sort, Times};

/// Bytes of the header of a request.
const IN_HEADER_BYTES: usize = 40;
/// Bytes of the header of an answer.
pub(super) const OUT_HEADER_BYTES: usize = 16;
/// Longest write, and longest read.
pub(super) const MAX_WRITE: u32 = 1 << 20;
/// Room for the longest request.
pub(super) const REQUEST_BYTES: usize = MAX_WRITE as usize + 64 * 1024;

const MAJOR: u32 = 7;
const MINOR: u32 = 31;
const NANOSECONDS: i64 = 1_000_000_000;
/// For how long the kernel may believe what it was told: nobody else changes anything, so for ever.
const VALID_SECONDS: u64 = 1 << 30;

/// What the kernel asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Op {
    Lookup = 1,
    Forget = 2,
    Getattr = 3,
    Setattr = 4,
    Readlink = 5,
    Symlink = 6,
    Mknod = 8,
    Mkdir = 9,
    Unlink = 10,
    Rmdir = 11,
    Rename = 12,
    Open = 14,
    Read = 15,
    Write = 16,
    Statfs = 17,
    Release = 18,
    Fsync = 20,
    Init = 26,
    Opendir = 27,
    Readdir = 28,
    Releasedir = 29,
    Fsyncdir = 30,
    Create = 35,
    Interrupt = 36,
    Destroy = 38,
    BatchForget = 42,
    Readdirplus = 44,
    Rename2 = 45,
}

impl Op {
    const ALL: [Self; 28] = [
        Self::Lookup,
        Self::Forget,
        Self::Getattr,
        Self::Setattr,
        Self::Readlink,
        Self::Symlink,
        Self::Mknod,
        Self::Mkdir,
        Self::Unlink,
        Self::Rmdir,
        Self::Rename,
        Self::Open,
        Self::Read,
        Self::Write,
        Self::Statfs,
        Self::Release,
        Self::Fsync,
        Self::Init,
        Self::Opendir,
        Self::Readdir,
        Self::Releasedir,
        Self::Fsyncdir,
        Self::Create,
        Self::Interrupt,
        Self::Destroy,
        Self::BatchForget,
        Self::Readdirplus,
        Self::Rename2,
    ];

    /// Whether it changes something.
    pub(super) fn changes(self) -> bool {
        use Op::{Create, Mkdir, Mknod, Rename, Rename2, Rmdir, Setattr, Symlink, Unlink, Write};
        matches!(self, Create | Mkdir | Mknod | Rename | Rename2 | Rmdir | Setattr | Symlink | Unlink | Write)
    }
}

/// A request, its header taken off.
#[derive(Debug)]
pub(super) struct Request<'a> {
    /// `None`: one that this program does not know.
    pub(super) op: Option<Op>,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) body: Body<'a>,
}

impl<'a> Request<'a> {
    /// Takes a message of the kernel apart.
    pub(super) fn parse(message: &'a [u8]) -> Answer<Self> {
        let (header, body) = message.split_at_checked(IN_HEADER_BYTES).ok_or(Errno::INVAL)?;
        let mut header = Body(header);
        let (length, number, unique, node) = (header.u32()?, header.u32()?, header.u64()?, header.u64()?);
        if length as usize != message.len() {
            return Err(Errno::INVAL);
        }
        let op = Op::ALL.into_iter().find(|op| *op as u32 == number);
        Ok(Self { op, unique, node, body: Body(body) })
    }
}

/// What is left of a request's body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Body<'a>(pub(super) &'a [u8]);

impl<'a> Body<'a> {
    pub(super) fn u32(&mut self) -> Answer<u32> {
        let (front, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(u32::from_ne_bytes(*front))
    }

    pub(super) fn u64(&mut self) -> Answer<u64> {
        let (front, rest) = self.0.split_first_chunk().ok_or(Errno::INVAL)?;
        self.0 = rest;
        Ok(u64::from_ne_bytes(*front))
    }

    pub(super) fn skip(&mut self, bytes: usize) -> Answer<()> {
        self.0 = self.0.get(bytes..).ok_or(Errno::INVAL)?;
        Ok(())
    }

    /// Text up to a zero byte.
    pub(super) fn text(&mut self) -> Answer<&'a [u8]> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or(Errno::INVAL)?;
        let (text, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        Ok(text)
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.0
    }
}

/// Flags of the kernel's FUSE_INIT that are taken where it has them.
mod init {
    pub(super) const WANTED: u32 = ASYNC_READ
        | ATOMIC_O_TRUNC
        | BIG_WRITES
        | DO_READDIRPLUS
        | READDIRPLUS_AUTO
        | ASYNC_DIO
        | WRITEBACK_CACHE
        | PARALLEL_DIROPS
        | MAX_PAGES
        | CACHE_SYMLINKS;
    const ASYNC_READ: u32 = 1 << 0;
    const ATOMIC_O_TRUNC: u32 = 1 << 3;
    const BIG_WRITES: u32 = 1 << 5;
    const DO_READDIRPLUS: u32 = 1 << 13;
    const READDIRPLUS_AUTO: u32 = 1 << 14;
    const ASYNC_DIO: u32 = 1 << 15;
    const WRITEBACK_CACHE: u32 = 1 << 16;
    const PARALLEL_DIROPS: u32 = 1 << 18;
    const MAX_PAGES: u32 = 1 << 22;
    const CACHE_SYMLINKS: u32 = 1 << 23;
}

/// Requests of the kernel that may wait at a time in the background.
const BACKGROUND: u16 = 64;

/// Answers FUSE_INIT.
pub(super) fn init(mut body: Body<'_>, out: &mut Out) -> Answer<()> {
    let (major, minor, read_ahead, flags) = (body.u32()?, body.u32()?, body.u32()?, body.u32()?);
    if major != MAJOR || minor < MINOR {
        return Err(Errno::PROTO);
    }
    out.u32(MAJOR).u32(MINOR).u32(read_ahead.max(MAX_WRITE)).u32(flags & init::WANTED);
    out.u16(BACKGROUND).u16(BACKGROUND / 4 * 3).u32(MAX_WRITE).u32(1);
    out.u16(u16::try_from(MAX_WRITE / 4096).unwrap_or(u16::MAX)).u16(0);
    out.zeros(32);
    Ok(())
}

/// The kernel may keep what it has of a file's content, and of a folder's names.
const KEEP_CACHE: u32 = 1 << 1;
const CACHE_DIR: u32 = 1 << 3;

/// An answer that grows.
#[derive(Debug, Default)]
pub(super) struct Out(Vec<u8>);

impl Out {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub(super) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u16(&mut self, number: u16) -> &mut Self {
        self.put(&number.to_ne_bytes())
    }

    pub(super) fn u32(&mut self, number: u32) -> &mut Self {
        self.put(&number.to_ne_bytes())
    }

    pub(super) fn u64(&mut self, number: u64) -> &mut Self {
        self.put(&number.to_ne_bytes())
    }

    pub(super) fn zeros(&mut self, count: usize) -> &mut Self {
        self.0.resize(self.0.len() + count, 0);
        self
    }

    /// `fuse_attr`.
    fn attributes(&mut self, told: &Attributes, owner: (u32, u32)) -> &mut Self {
        let Attributes { id, size, blocks, times: Times { accessed, modified, changed }, .. } = *told;
        self.u64(id).u64(size).u64(blocks);
        for time in [accessed, modified, changed] {
            self.u64(time.div_euclid(NANOSECONDS).cast_unsigned());
        }
        for time in [accessed, modified, changed] {
            self.u32(u32::try_from(time.rem_euclid(NANOSECONDS)).unwrap_or_default());
        }
        self.u32(told.mode | kind_bits(told.sort)).u32(1).u32(owner.0).u32(owner.1).u32(0).u32(4096).u32(0)
    }

    /// `fuse_attr_out`.
    pub(super) fn attr(&mut self, told: &Attributes, owner: (u32, u32)) {
        self.u64(VALID_SECONDS).u64(0).attributes(told, owner);
    }

    /// `fuse_entry_out`.
    pub(super) fn entry(&mut self, told: &Attributes, owner: (u32, u32)) {
        self.u64(told.id).u64(0).u64(VALID_SECONDS).u64(VALID_SECONDS).u64(0).attributes(told, owner);
    }

    /// The same of a name that is free: the kernel need not ask for it again.
    pub(super) fn no_entry(&mut self) {
        self.u64(0).u64(0).u64(VALID_SECONDS).zeros(104);
    }

    /// `fuse_open_out` of a file, or of a folder.
    pub(super) fn opened(&mut self, handle: u64, is_folder: bool) {
        self.u64(handle).u32(KEEP_CACHE | if is_folder { CACHE_DIR } else { 0 }).u32(0);
    }

    /// `fuse_dirent`: `next` is where to go on behind it.
    pub(super) fn name(&mut self, id: u64, next: u64, sort: Sort, name: &[u8]) {
        self.u64(id).u64(next).u32(name.len() as u32).u32(kind_bits(sort) >> 12).put(name);
        self.zeros(padding(name));
    }
}

/// Bytes of `fuse_dirent` and `fuse_direntplus` with a name.
pub(super) fn name_bytes(name: &[u8], plus: bool) -> usize {
    24 + name.len() + padding(name) + if plus { 128 } else { 0 }
}

fn padding(name: &[u8]) -> usize {
    name.len().next_multiple_of(8) - name.len()
}

fn kind_bits(sort: Sort) -> u32 {
    match sort {
        Sort::File => 0o100_000,
        Sort::Folder => 0o040_000,
        Sort::Link => 0o120_000,
    }
}

/// A moment that the kernel names; ones beyond the years that fit are cut.
pub(super) fn moment(seconds: u64, nanoseconds: u32) -> i64 {
    seconds.cast_signed().saturating_mul(NANOSECONDS).saturating_add(i64::from(nanoseconds))
}

/// The header of an answer: to a request, or, with a positive `error`, of a message that answers none.
pub(super) fn header(bytes: usize, error: i32, unique: u64) -> [u8; OUT_HEADER_BYTES] {
    let mut header = [0; OUT_HEADER_BYTES];
    let length = u32::try_from(OUT_HEADER_BYTES + bytes).unwrap_or(u32::MAX);
    let fields = length.to_ne_bytes().into_iter().chain(error.to_ne_bytes()).chain(unique.to_ne_bytes());
    header.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    header
}

/// Asks the kernel to drop what it has of a file's content.
pub(super) const FORGET_CONTENT: i32 = 2;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_their_lengths() {
        let times = Times { accessed: -1, modified: 1, changed: i64::MAX };
        let told = Attributes { id: 7, sort: Sort::File, mode: 0o640, size: 9, blocks: 8, times };
        let length = |fill: &dyn Fn(&mut Out)| {
            let mut out = Out::default();
            fill(&mut out);
            out.bytes().len()
        };
        assert_eq!(length(&|out| out.attr(&told, (1, 2))), 104);
        assert_eq!(length(&|out| out.entry(&told, (1, 2))), 128);
        assert_eq!(length(&|out| out.no_entry()), 128);
        assert_eq!(length(&|out| out.opened(1, false)), 16);
        for name in [&b"a"[..], b"12345678", b"123456789"] {
            assert_eq!(length(&|out| out.name(1, 2, Sort::Link, name)), name_bytes(name, false));
        }
        let mut out = Out::default();
        let asked: Vec<u8> = [7, 31, 4096, u32::MAX].into_iter().flat_map(u32::to_ne_bytes).collect();
        init(Body(&asked), &mut out).unwrap();
        assert_eq!(out.bytes().len(), 64);
        let old: Vec<u8> = [7, 30, 4096, u32::MAX].into_iter().flat_map(u32::to_ne_bytes).collect();
        assert_eq!(init(Body(&old), &mut Out::default()), Err(Errno::PROTO));
    }

    #[test]
    fn requests_that_are_cut_are_refused() {
        let mut whole = [0u8; 48];
        whole[..4].copy_from_slice(&48u32.to_ne_bytes());
        whole[4..8].copy_from_slice(&1u32.to_ne_bytes());
        assert_eq!(Request::parse(&whole).unwrap().op, Some(Op::Lookup));
        for cut in 0..48 {
            assert!(Request::parse(&whole[..cut]).is_err(), "{cut}");
        }
        assert!(Body(b"name without an end").text().is_err() && Body(b"abc").u32().is_err());
    }
}
