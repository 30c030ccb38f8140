//! Descriptors that a client hands over (`docs/spec/requests.md`, Handing over a descriptor): on a second connection to the Unix
//! socket, with a ticket that the backend gave on the first.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use aico_crypto::{OsRandom, Random, same_bytes};
use aico_proto::Error as ProtoError;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::{Error, PeerProcess};

/// What such a connection begins with. As the length of a frame it would be too long.
const PREAMBLE: [u8; 8] = *b"AICO-FD1";
const TICKET_BYTES: usize = 32;
/// The preamble, and the ticket in hexadecimal digits.
const MESSAGE_BYTES: usize = PREAMBLE.len() + 2 * TICKET_BYTES;
/// How long a ticket is good.
const PATIENCE: Duration = Duration::from_secs(10);
/// Tickets at a time.
const MOST: usize = 16;

/// The descriptors that are expected.
#[derive(Debug, Default)]
pub struct Descriptors(Mutex<Vec<Expected>>);

struct Expected {
    ticket: [u8; TICKET_BYTES],
    from: PeerProcess,
    until: Instant,
    give: oneshot::Sender<OwnedFd>,
}

impl std::fmt::Debug for Expected {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Expected({:?})", self.from)
    }
}

/// A descriptor on its way.
#[derive(Debug)]
pub struct Coming(oneshot::Receiver<OwnedFd>);

impl Descriptors {
    /// Expects a descriptor from a process; the ticket is for it alone, for one use, within ten seconds. None where
    /// too many are expected.
    pub fn expect(&self, from: PeerProcess) -> Result<Option<(String, Coming)>, Error> {
        let mut ticket = [0; TICKET_BYTES];
        OsRandom.fill(&mut ticket).map_err(ProtoError::from)?;
        let (give, coming) = oneshot::channel();
        let mut expected = self.lock();
        expected.retain(|one| one.until > Instant::now() && !one.give.is_closed());
        if expected.len() >= MOST {
            return Ok(None);
        }
        expected.push(Expected { ticket, from, until: Instant::now() + PATIENCE, give });
        Ok(Some((ticket.iter().map(|byte| format!("{byte:02x}")).collect(), Coming(coming))))
    }

    /// Gives a descriptor to whoever expects it; false where nobody does.
    fn give(&self, from: PeerProcess, ticket: &[u8; TICKET_BYTES], descriptor: OwnedFd) -> bool {
        let mut expected = self.lock();
        expected.retain(|one| one.until > Instant::now());
        let at = expected.iter().position(|one| same_bytes(&one.ticket, ticket) && one.from == from);
        let Some(at) = at else { return false };
        let one = expected.swap_remove(at);
        drop(expected);
        one.give.send(descriptor).is_ok()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Expected>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Coming {
    /// Waits for it, at most as long as its ticket is good. Safe to cancel.
    pub async fn wait(&mut self) -> Result<OwnedFd, Error> {
        let came = tokio::time::timeout(PATIENCE, &mut self.0).await;
        came.ok().and_then(Result::ok).ok_or(Error::Timeout("waiting for a descriptor"))
    }
}

/// Whether a connection that has just come begins as one that hands a descriptor over. It is not read.
pub(crate) async fn brings_one(stream: &UnixStream) -> Result<bool, Error> {
    let peek = || {
        let mut first = [0u8; 1];
        let (_, there) = rustix::net::recv(stream, &mut first, RecvFlags::PEEK | RecvFlags::DONTWAIT)?;
        Ok(there > 0 && first.first() == PREAMBLE.first())
    };
    let peeked = stream.async_io(Interest::READABLE, peek).await;
    peeked.map_err(|error: io::Error| Error::io("receive", error))
}

/// Takes the descriptor, and gives it to whoever expects it.
pub(crate) async fn take(stream: &UnixStream, from: PeerProcess, to: &Descriptors) -> Result<(), Error> {
    let receive = || {
        let (mut message, mut room) =
            ([0; MESSAGE_BYTES + 1], [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))]);
        let mut control = RecvAncillaryBuffer::new(&mut room);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let bytes = recvmsg(stream, &mut [IoSliceMut::new(&mut message)], &mut control, flags)?.bytes;
        let descriptors = control.drain().filter_map(|part| match part {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        Ok((descriptors.flatten().next(), message, bytes))
    };
    let received = stream.async_io(Interest::READABLE, receive).await;
    let (descriptor, message, bytes) = received.map_err(|error: io::Error| Error::io("receive", error))?;
    const REFUSED: Error = Error::Channel(ProtoError::Malformed("a descriptor that nobody expects"));
    let ticket = message.get(..bytes).and_then(ticket_in).ok_or(REFUSED)?;
    let given = descriptor.is_some_and(|descriptor| to.give(from, &ticket, descriptor));
    if given { Ok(()) } else { Err(REFUSED) }
}

/// Hands a descriptor over; the ticket is the backend's own.
pub(crate) async fn give(stream: &UnixStream, ticket: &str, descriptor: impl AsFd) -> Result<(), Error> {
    let message = [&PREAMBLE, ticket.as_bytes()].concat();
    let send = || {
        let mut room = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut room);
        let descriptors = [descriptor.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        Ok(sendmsg(stream, &[IoSlice::new(&message)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
    };
    let sent = stream.async_io(Interest::WRITABLE, send).await;
    match sent.map_err(|error: io::Error| Error::io("hand a descriptor over", error))? {
        bytes if bytes == message.len() => Ok(()),
        _ => Err(Error::Timeout("handing a descriptor over")),
    }
}

/// The ticket in what such a connection says; for the fuzzer, too.
#[doc(hidden)]
#[must_use]
pub fn ticket_in(message: &[u8]) -> Option<[u8; TICKET_BYTES]> {
    message.strip_prefix(&PREAMBLE).and_then(parse)
}

/// 64 hexadecimal digits.
fn parse(digits: &[u8]) -> Option<[u8; TICKET_BYTES]> {
    let mut ticket = [0; TICKET_BYTES];
    for (byte, digits) in ticket.iter_mut().zip(digits.chunks_exact(2)) {
        let digits = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|d| d.is_ascii_hexdigit()))?;
        *byte = u8::from_str_radix(digits, 16).ok()?;
    }
    (digits.len() == 2 * TICKET_BYTES).then_some(ticket)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    const ME: PeerProcess = PeerProcess { uid: 7, pid: 8 };

    async fn handed(to: &Descriptors, from: PeerProcess, bytes: &[u8], with: bool) -> Result<(), Error> {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let file = std::fs::File::open("/dev/null").unwrap();
        if with {
            let text = std::str::from_utf8(bytes.strip_prefix(&PREAMBLE).unwrap()).unwrap();
            give(&ours, text, &file).await.unwrap();
        } else {
            let ours = ours.into_std().unwrap();
            (&ours).write_all(bytes).unwrap();
        }
        assert!(brings_one(&theirs).await.unwrap());
        take(&theirs, from, to).await
    }

    fn message(ticket: &str) -> Vec<u8> {
        [&PREAMBLE, ticket.as_bytes()].concat()
    }

    #[tokio::test]
    async fn a_ticket_brings_one_descriptor_once() {
        let to = Descriptors::default();
        let (ticket, mut coming) = to.expect(ME).unwrap().unwrap();
        handed(&to, ME, &message(&ticket), true).await.unwrap();
        let came = coming.wait().await.unwrap();
        assert_eq!(
            std::fs::read_link(format!("/proc/self/fd/{}", came.as_raw_fd())).unwrap(),
            std::path::Path::new("/dev/null")
        );
        assert!(handed(&to, ME, &message(&ticket), true).await.is_err(), "a second time");
    }

    #[tokio::test]
    async fn nothing_else_is_taken() {
        let to = Descriptors::default();
        let (ticket, _coming) = to.expect(ME).unwrap().unwrap();
        let (elsewhere, other) = ("0".repeat(64), PeerProcess { pid: 9, ..ME });
        for (from, ticket) in [(ME, &elsewhere), (other, &ticket), (PeerProcess { uid: 8, ..ME }, &ticket)] {
            assert!(handed(&to, from, &message(ticket), true).await.is_err(), "{from:?}");
        }
        for bad in [
            &ticket[..63],
            &format!("{ticket}0"),
            &ticket.replace(&ticket[..2], "+1"),
            &ticket.replace(&ticket[..1], "g"),
        ] {
            assert!(handed(&to, ME, &message(bad), true).await.is_err(), "{bad}");
        }
        assert!(handed(&to, ME, &message(&ticket), false).await.is_err(), "no descriptor");
        assert!(handed(&to, ME, b"A", false).await.is_err());
        handed(&to, ME, &message(&ticket), true).await.unwrap();
    }

    #[tokio::test]
    async fn a_ticket_nobody_waits_for_any_more_is_worth_nothing() {
        let to = Descriptors::default();
        let (ticket, coming) = to.expect(ME).unwrap().unwrap();
        drop(coming);
        assert!(handed(&to, ME, &message(&ticket), true).await.is_err());
        let (late, _coming) = to.expect(ME).unwrap().unwrap();
        to.lock().iter_mut().for_each(|one| one.until = Instant::now());
        assert!(handed(&to, ME, &message(&late), true).await.is_err(), "after its time");
        to.lock().iter_mut().for_each(|one| one.until = Instant::now());
        let all: Vec<_> = (0..MOST).map(|_| to.expect(ME).unwrap()).collect();
        assert!(all.iter().all(Option::is_some) && to.expect(ME).unwrap().is_none(), "there is an end to them");
    }

    #[tokio::test]
    async fn a_hello_is_told_apart_and_not_read() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.try_write(&[0, 0, 4, 0, 9]).unwrap();
        assert!(!brings_one(&theirs).await.unwrap());
        let mut first = [0; 5];
        assert_eq!(theirs.try_read(&mut first).unwrap(), 5);
        drop(ours);
        assert!(!brings_one(&theirs).await.unwrap(), "the end of the stream");
    }
}
