//! What a thread that blocks writes, for a task to read, and the other way.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncReadExt, DuplexStream, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};

const CHUNK_BYTES: usize = 64 * 1024;
/// Chunks on their way.
const CHUNKS: usize = 4;

enum Sent {
    Bytes(Vec<u8>),
    End,
}

/// The thread's end. Only [`Writer::end`] makes what was written whole: dropped before, it is an error to the reader.
pub(crate) struct Writer {
    to: Sender<Sent>,
    chunk: Vec<u8>,
}

/// The task's end.
pub(crate) struct Reader {
    from: Receiver<Sent>,
    chunk: Vec<u8>,
    read: usize,
    ended: bool,
}

pub(crate) fn to_task() -> (Writer, Reader) {
    let (to, from) = channel(CHUNKS);
    (Writer { to, chunk: Vec::new() }, Reader { from, chunk: Vec::new(), read: 0, ended: false })
}

impl Writer {
    pub(crate) fn end(mut self) -> io::Result<()> {
        self.flush()?;
        self.send(Sent::End)
    }

    fn send(&self, sent: Sent) -> io::Result<()> {
        self.to.blocking_send(sent).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Writer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.chunk.len() + bytes.len() > CHUNK_BYTES {
            self.flush()?;
        }
        let taken = bytes.len().min(CHUNK_BYTES);
        self.chunk.extend_from_slice(bytes.get(..taken).unwrap_or_default());
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = std::mem::take(&mut self.chunk);
        if chunk.is_empty() { Ok(()) } else { self.send(Sent::Bytes(chunk)) }
    }
}

impl AsyncRead for Reader {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while !self.ended && self.read == self.chunk.len() {
            match ready!(self.from.poll_recv(context)) {
                Some(Sent::Bytes(chunk)) => (self.chunk, self.read) = (chunk, 0),
                Some(Sent::End) => self.ended = true,
                None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        let rest = self.chunk.get(self.read..).unwrap_or_default();
        let now = rest.len().min(out.remaining());
        out.put_slice(rest.get(..now).unwrap_or_default());
        self.read += now;
        Poll::Ready(Ok(()))
    }
}

/// The thread's end of the other way.
pub(crate) struct ThreadReader(DuplexStream, Handle);

pub(crate) fn to_thread() -> (DuplexStream, ThreadReader) {
    let (task, thread) = tokio::io::duplex(CHUNKS * CHUNK_BYTES);
    (task, ThreadReader(thread, Handle::current()))
}

impl Read for ThreadReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.1.block_on(self.0.read(out))
    }
}
