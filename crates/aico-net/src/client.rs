//! The client library: what the command line and every other local component uses.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aico_crypto::{Identity, OsRandom, Random};
use aico_proto::CloseReason;
use aico_proto::limits::DATA_RECORD_BYTES;
use aico_proto::message::{
    DoneAnswer, EnrolAnswer, Failure, FailureCode, GetAnswer, ListEntry, Part, PartKind, PutAnswer, Request, from_json,
    to_json,
};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::endpoint::{RunFolder, SOCKET_NAME};
use crate::handover;
use crate::identity_file::read_backend_id;
use crate::secure_stream::{Receiver, Sender};
use crate::{BACKEND_ID_NAME, Error, Manner, SecureStream, Speaker};

/// Length in an END that says: forget the value.
pub const ABANDONED: u64 = u64::MAX;

/// Where a backend is, and who it must be.
#[derive(Clone, Debug)]
pub enum Address {
    /// The Unix socket in this run folder; the backend's identity is pinned from there.
    Local(PathBuf),
    /// The same of a service that has a user of its own.
    Service(PathBuf),
    /// TCP, and the identity that must answer.
    Tcp(SocketAddr, Identity),
}

/// How a client reaches its backend, and how often it tries.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Where.
    pub address: Address,
    /// As whom, and how.
    pub manner: Manner,
    /// How often a connection that was lost is tried again.
    pub retries: u32,
}

impl Dial {
    /// The backend whose run folder this is, with the defaults of everything.
    #[must_use]
    pub fn local(run_folder: &Path, me: Speaker) -> Self {
        Self { address: Address::Local(run_folder.to_owned()), manner: Manner::of(Arc::new(me)), retries: 3 }
    }

    /// Connects once. A backend that has just been locked or unlocked has another identity: where the pinned one changed
    /// in the meantime, the new one is tried.
    pub async fn connect(&self) -> Result<Client, Error> {
        let pinned = self.pinned()?;
        match self.connect_to(pinned.clone()).await {
            Err(Error::Silence) if self.pinned()? != pinned => self.connect_to(self.pinned()?).await,
            connected => connected,
        }
    }

    fn pinned(&self) -> Result<Identity, Error> {
        match &self.address {
            Address::Tcp(_, expected) => Ok(expected.clone()),
            Address::Local(run_folder) | Address::Service(run_folder) => {
                let path = run_folder.join(BACKEND_ID_NAME);
                if !path.exists() {
                    return Err(Error::NotRunning(run_folder.join(SOCKET_NAME).display().to_string()));
                }
                read_backend_id(&path)
            }
        }
    }

    async fn connect_to(&self, expected: Identity) -> Result<Client, Error> {
        let folder = match &self.address {
            Address::Local(run_folder) => RunFolder::open(run_folder)?,
            Address::Service(run_folder) => RunFolder::of_service(run_folder)?,
            Address::Tcp(address, _) => {
                let connected = timeout(self.manner.settings.handshake, TcpStream::connect(address)).await;
                let stream =
                    connected.map_err(|_| Error::Timeout("connecting"))?.map_err(|error| match error.kind() {
                        io::ErrorKind::ConnectionRefused => Error::NotRunning(address.to_string()),
                        _ => Error::io(&format!("connect to {address}"), error),
                    })?;
                stream.set_nodelay(true).map_err(|error| Error::io("connect", error))?;
                return Ok(Client { stream: SecureStream::connect(stream, &self.manner, expected).await? });
            }
        };
        let stream = folder.connect(self.manner.settings.handshake).await?;
        Ok(Client { stream: SecureStream::connect(stream, &self.manner, expected).await? })
    }

    /// Hands a descriptor over to the backend, by the ticket that it gave for that; through the Unix socket only.
    pub async fn hand_over(&self, ticket: &str, descriptor: impl AsFd) -> Result<(), Error> {
        let folder = match &self.address {
            Address::Local(run_folder) => RunFolder::open(run_folder)?,
            Address::Service(run_folder) => RunFolder::of_service(run_folder)?,
            Address::Tcp(..) => return Err(Error::UnexpectedMessage),
        };
        let stream = folder.connect(self.manner.settings.handshake).await?;
        handover::give(&stream, ticket, descriptor).await
    }

    /// Connects again after a connection was lost: up to [`Dial::retries`] times, after waits that double and are cut by
    /// chance, so that many clients do not come at once. What cannot pass by waiting fails at once.
    pub async fn reconnect(&self) -> Result<Client, Error> {
        let mut wait = FIRST_WAIT;
        let mut tried = 0;
        loop {
            let mut chance = [0; 2];
            OsRandom.fill(&mut chance).map_err(aico_proto::Error::from)?;
            let part = 0.5 + f64::from(u16::from_be_bytes(chance)) / f64::from(u16::MAX) / 2.0;
            tokio::time::sleep(wait.mul_f64(part)).await;
            tried += 1;
            match self.connect().await {
                Err(error) if error.is_passing() && tried < self.retries => wait = (wait * 2).min(LONGEST_WAIT),
                other => return other,
            }
        }
    }
}

/// Before the first attempt to connect again; each later one waits up to twice as long.
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// An open channel to the backend, for one request after another.
#[derive(Debug)]
pub struct Client {
    stream: SecureStream,
}

impl Client {
    /// What was agreed on.
    #[must_use]
    pub fn agreed(&self) -> aico_proto::Agreed {
        self.stream.agreed
    }

    /// Asks, and reads the one answer.
    pub async fn ask<A: DeserializeOwned>(&mut self, request: &Request) -> Result<A, Error> {
        send_json(&mut self.stream.sender, request).await?;
        answer(&mut self.stream.receiver).await
    }

    /// The next answer to a request that has more than one. Safe to cancel.
    pub async fn next_answer<A: DeserializeOwned>(&mut self) -> Result<A, Error> {
        answer(&mut self.stream.receiver).await
    }

    /// Asks to be enrolled. `waiting` hears the fingerprint that the owner has to compare.
    pub async fn enrol(&mut self, waiting: impl FnOnce(&str)) -> Result<EnrolAnswer, Error> {
        let first: EnrolAnswer = self.ask(&Request::Enrol {}).await?;
        waiting(&first.fingerprint);
        answer(&mut self.stream.receiver).await
    }

    /// Stores everything that `source` gives. The answer means that it is on disk; a failure, that nothing of it is.
    pub async fn put(&mut self, path: &str, source: &mut (impl AsyncRead + Unpin)) -> Result<PutAnswer, Error> {
        self.give(&Request::DataPut { path: path.to_owned() }, source).await
    }

    /// Asks for something that takes the value that `source` gives.
    pub async fn give<A: DeserializeOwned>(
        &mut self,
        request: &Request,
        source: &mut (impl AsyncRead + Unpin),
    ) -> Result<A, Error> {
        let request = to_json(request)?;
        self.stream.sender.send_more(&[&[PartKind::Request as u8], &request]).await?;
        let stop = Notify::new();
        let sent = send_value(&mut self.stream.sender, source, &stop);
        let answered = answer(&mut self.stream.receiver);
        tokio::pin!(sent, answered);
        tokio::select! {
            biased;
            // Refused early: end the value where it is, so that the channel stays usable.
            early = &mut answered => {
                stop.notify_one();
                sent.await?;
                early
            }
            done = &mut sent => match done? {
                Ended::Whole => answered.await,
                Ended::SourceFailed(error) => {
                    let _refused: Result<A, Error> = answered.await;
                    Err(Error::Local(error))
                }
            }
        }
    }

    /// Writes a value to `destination`. An error may come after some of it has been written.
    pub async fn get(&mut self, path: &str, destination: &mut (impl AsyncWrite + Unpin)) -> Result<GetAnswer, Error> {
        self.fetch(&Request::DataGet { path: path.to_owned() }, destination).await
    }

    /// Asks for something that is answered with a value.
    pub async fn fetch(
        &mut self,
        request: &Request,
        destination: &mut (impl AsyncWrite + Unpin),
    ) -> Result<GetAnswer, Error> {
        let head: GetAnswer = self.ask(request).await?;
        let mut bytes = 0;
        loop {
            match Part::parse(self.stream.receiver.receive().await?)? {
                Part::Data(data) => {
                    bytes += data.len() as u64;
                    destination.write_all(data).await.map_err(Error::Local)?;
                }
                Part::End(length) if length == bytes && length == head.bytes => break,
                Part::Failure(json) => return Err(Error::Failure(from_json(json)?)),
                _ => return Err(Error::UnexpectedMessage),
            }
        }
        destination.flush().await.map_err(Error::Local)?;
        Ok(head)
    }

    /// The next value of an export that was asked for; none at its end. Its parts follow.
    pub async fn next_exported(&mut self) -> Result<Option<ListEntry>, Error> {
        match Part::parse(self.stream.receiver.receive().await?)? {
            Part::Answer(json) => match from_json::<ListEntry>(json) {
                Ok(entry) => Ok(Some(entry)),
                Err(_) => Ok(from_json::<DoneAnswer>(json).map(|_| None)?),
            },
            Part::Failure(json) => Err(Error::Failure(from_json(json)?)),
            _ => Err(Error::UnexpectedMessage),
        }
    }

    /// The next record, as it came.
    pub async fn next_part(&mut self) -> Result<&[u8], Error> {
        self.stream.receiver.receive().await
    }

    /// Says goodbye.
    pub async fn close(mut self) -> Result<(), Error> {
        self.stream.sender.close(CloseReason::Normal).await?;
        match self.stream.receiver.receive().await {
            Err(Error::Closed(_)) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(Error::UnexpectedMessage),
        }
    }
}

enum Ended {
    Whole,
    SourceFailed(io::Error),
}

/// Sends `source` as data parts and an end; `stop` ends it early, as abandoned.
async fn send_value(sender: &mut Sender, source: &mut (impl AsyncRead + Unpin), stop: &Notify) -> Result<Ended, Error> {
    // One byte says what the rest is.
    let room = sender.max_plaintext().await.saturating_sub(1);
    let mut chunk = vec![0; DATA_RECORD_BYTES.min(room)];
    let mut bytes = 0;
    let (length, ended) = loop {
        let read = tokio::select! {
            biased;
            () = stop.notified() => break (ABANDONED, Ended::Whole),
            read = source.read(&mut chunk) => read,
            // A source that lets us wait: the backend hears now what there is.
            pushed = sender.push(), if sender.holds() => {
                pushed?;
                continue;
            }
        };
        match read {
            Ok(0) => break (bytes, Ended::Whole),
            Ok(more) => {
                bytes += more as u64;
                let data = chunk.get(..more).unwrap_or_default();
                sender.send_more(&[&[PartKind::Data as u8], data]).await?;
            }
            Err(error) => break (ABANDONED, Ended::SourceFailed(error)),
        }
    };
    sender.send(&[&[PartKind::End as u8], &length.to_be_bytes()]).await?;
    Ok(ended)
}

async fn send_json(sender: &mut Sender, request: &Request) -> Result<(), Error> {
    sender.send(&[&[PartKind::Request as u8], &to_json(request)?]).await
}

async fn answer<A: DeserializeOwned>(receiver: &mut Receiver) -> Result<A, Error> {
    match Part::parse(receiver.receive().await?)? {
        Part::Answer(json) => Ok(from_json(json)?),
        Part::Failure(json) => Err(Error::Failure(from_json(json)?)),
        _ => Err(Error::UnexpectedMessage),
    }
}

impl Error {
    /// The code of a request that was not done.
    #[must_use]
    pub fn failure_code(&self) -> Option<FailureCode> {
        match self {
            Self::Failure(Failure { code, .. }) => Some(*code),
            _ => None,
        }
    }
}
