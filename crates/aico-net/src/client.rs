//! The client library: what the command line and every other local component uses.

use std::io;
use std::path::Path;

use aico_proto::CloseReason;
use aico_proto::limits::DATA_RECORD_BYTES;
use aico_proto::message::{
    EnrolAnswer, Failure, FailureCode, GetAnswer, Part, PartKind, PutAnswer, Request, from_json, to_json,
};
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use crate::endpoint::RunFolder;
use crate::identity_file::read_backend_id;
use crate::secure_stream::{Receiver, Sender};
use crate::{BACKEND_ID_NAME, Error, SecureStream, Speaker};

/// Length in an END that says: forget the value.
pub const ABANDONED: u64 = u64::MAX;

/// An open channel to the backend, for one request after another.
#[derive(Debug)]
pub struct Client {
    stream: SecureStream,
}

impl Client {
    /// Connects to the backend whose run folder this is, and to no other: its identity is pinned from there.
    pub async fn connect(run_folder: &Path, me: &Speaker) -> Result<Self, Error> {
        let folder = RunFolder::open(run_folder)?;
        let stream = folder.connect().await?;
        let expected = read_backend_id(&run_folder.join(BACKEND_ID_NAME))?;
        Ok(Self { stream: SecureStream::connect(stream, me, expected).await? })
    }

    /// Asks, and reads the one answer.
    pub async fn ask<A: DeserializeOwned>(&mut self, request: &Request) -> Result<A, Error> {
        send_json(&mut self.stream.sender, request).await?;
        let answered = answer(&mut self.stream.receiver).await;
        self.answer_close(answered).await
    }

    /// A CLOSE of the backend is answered once, with its reason.
    async fn answer_close<T>(&mut self, received: Result<T, Error>) -> Result<T, Error> {
        if let Err(Error::Closed(reason)) = &received {
            let _gone = self.stream.sender.close(*reason).await;
        }
        received
    }

    /// Asks to be enrolled. `waiting` hears the fingerprint that the owner has to compare.
    pub async fn enrol(&mut self, waiting: impl FnOnce(&str)) -> Result<EnrolAnswer, Error> {
        let first: EnrolAnswer = self.ask(&Request::Enrol {}).await?;
        waiting(&first.fingerprint);
        let decided = answer(&mut self.stream.receiver).await;
        self.answer_close(decided).await
    }

    /// Stores everything that `source` gives. The answer means that it is on disk; a failure, that nothing of it is.
    pub async fn put(&mut self, path: &str, source: &mut (impl AsyncRead + Unpin)) -> Result<PutAnswer, Error> {
        send_json(&mut self.stream.sender, &Request::DataPut { path: path.to_owned() }).await?;
        let stored = self.put_value(source).await;
        self.answer_close(stored).await
    }

    async fn put_value(&mut self, source: &mut (impl AsyncRead + Unpin)) -> Result<PutAnswer, Error> {
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
                    let _refused: Result<PutAnswer, Error> = answered.await;
                    Err(Error::Local(error))
                }
            }
        }
    }

    /// Writes a value to `destination`. An error may come after some of it has been written.
    pub async fn get(&mut self, path: &str, destination: &mut (impl AsyncWrite + Unpin)) -> Result<GetAnswer, Error> {
        let head: GetAnswer = self.ask(&Request::DataGet { path: path.to_owned() }).await?;
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
    let mut chunk = vec![0; DATA_RECORD_BYTES];
    let mut bytes = 0;
    let (length, ended) = loop {
        let read = tokio::select! {
            biased;
            () = stop.notified() => break (ABANDONED, Ended::Whole),
            read = source.read(&mut chunk) => read,
        };
        match read {
            Ok(0) => break (bytes, Ended::Whole),
            Ok(more) => {
                bytes += more as u64;
                let data = chunk.get(..more).unwrap_or_default();
                sender.send(&[&[PartKind::Data as u8], data]).await?;
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
