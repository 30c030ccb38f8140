//! One request over the Unix socket, with the channel and without it.

use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use aico_crypto::{ComponentKind, Identity};
use aico_net::{Manner, SecureStream};
use aico_policy::Action;
use aico_proto::message::{GetAnswer, Part, PartKind, PutAnswer, Request, from_json, to_json};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Runtime;
use tokio::task::block_in_place;

use crate::people::{Everybody, House, Result, folder, manner, now_ms};
use crate::report::{Report, size, time};
use crate::start::Backend;
use crate::timing::Rounds;

const SIZES: [usize; 2] = [1024, 64 * 1024];
const ROUNDS: usize = 60;
/// Short turns: one write to the disk may take ten times as long as the next.
const PUT_TURNS: usize = 4;
const PUTS: u32 = 3;
const GETS: u32 = 60;
const BARE_ROUNDS: usize = 150;
const BARE_BATCH: u32 = 50;

pub fn run() -> Result<Report> {
    let mut report = Report::default();
    let head = ["", "with the channel", "without", "with / without"];
    let (mut rows, mut slept) = (Vec::new(), Vec::new());
    for bytes in SIZES {
        let bare = bare(bytes)?;
        rows.push(row(&format!("echo of {}", size(bytes)), &bare));
        let ([put, get], switches) = with_store(bytes)?;
        rows.push(row(&format!("put {} into the store", size(bytes)), &put));
        rows.push(row(&format!("get {} from the store", size(bytes)), &get));
        let counts = [0, 1].map(|side| format!("{:.1}", switches.nanos(side).median));
        slept.push(std::iter::once(format!("get {}", size(bytes))).chain(counts).collect());
        if bytes == 1024 {
            report.at_most("put 1 KiB, with / without the channel", put.ratio(0, 1), 1.05, "");
            report.at_most("get 1 KiB, with / without the channel", get.ratio(0, 1), 1.05, "");
        }
    }
    report.line("Server and client in one process, mean of a batch, median of the batches:");
    report.table(&head, &rows);
    report.line("How often a thread of either side was switched away from, for one get:");
    report.table(&["", "with the channel", "without"], &slept);
    report.line("The same requests to a backend that `aico up` started, with the channel, as it always is:");
    report.table(&["", "1 KiB", "64 KiB"], &real()?);
    Ok(report)
}

fn row(name: &str, rounds: &Rounds) -> Vec<String> {
    let times = [0, 1].map(|side| time(rounds.nanos(side).median));
    std::iter::once(name.to_owned()).chain(times).chain([rounds.ratio(0, 1).to_string()]).collect()
}

const SIDES: [&str; 2] = ["with", "without"];

/// An echo of `bytes`: nothing but the way there and back.
fn bare(bytes: usize) -> Result<Rounds> {
    let folder = folder()?;
    let value = vec![5; bytes];
    let (mut secure, mut plain) = both(folder.path(), async |mut line: Line| {
        loop {
            let message = line.receive().await?.to_vec();
            line.send(&[&message]).await?;
        }
    })?;
    let mut rounds = Rounds::new(SIDES.into_iter());
    for _ in 0..BARE_ROUNDS {
        for (side, client) in [&mut secure, &mut plain].into_iter().enumerate() {
            rounds.add(
                side,
                client.batch(BARE_BATCH, &async |line| {
                    line.send(&[&value]).await?;
                    if line.receive().await?.len() == value.len() { Ok(()) } else { Err("another echo".into()) }
                })?,
            );
        }
    }
    Ok(rounds)
}

/// Puts and gets of a value of `bytes`, with a vault behind the socket; and how often the threads of this process slept
/// or were put to sleep for one get.
fn with_store(bytes: usize) -> Result<([Rounds; 2], Rounds)> {
    let folder = folder()?;
    let house = Arc::new(House::open(folder.path())?);
    let value = vec![5; bytes];
    let served = house.clone();
    let (mut secure, mut plain) = both(folder.path(), move |mut line: Line| {
        let house = served.clone();
        async move {
            loop {
                serve_one(&house, &mut line).await?;
            }
        }
    })?;
    let [mut puts, mut gets, mut switches] = [(); 3].map(|()| Rounds::new(SIDES.into_iter()));
    for _ in 0..ROUNDS {
        for _ in 0..PUT_TURNS {
            for (side, client) in [&mut secure, &mut plain].into_iter().enumerate() {
                puts.add(side, client.batch(PUTS, &async |line| put(line, &value).await)?);
            }
        }
        for (side, client) in [&mut secure, &mut plain].into_iter().enumerate() {
            // The log writes down what the puts left.
            thread::sleep(Duration::from_millis(40));
            let before = context_switches()?;
            gets.add(side, client.batch(GETS, &async |line| get(line, value.len()).await)?);
            switches.add_number(side, (context_switches()? - before) as f64 / f64::from(GETS));
        }
    }
    // The servers close the vault before its folder goes away.
    drop((secure, plain));
    while Arc::strong_count(&house) > 1 {
        thread::sleep(Duration::from_millis(1));
    }
    Ok(([puts, gets], switches))
}

/// Of all threads of this process, so far.
fn context_switches() -> Result<u64> {
    let mut sum = 0;
    for thread in std::fs::read_dir("/proc/self/task")? {
        let status = std::fs::read_to_string(thread?.path().join("status"))?;
        let counts = status.lines().filter_map(|line| line.split_once("_ctxt_switches:"));
        sum += counts.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum::<u64>();
    }
    Ok(sum)
}

const PATH: &str = "diary/monday";

/// What the backend's gateway does for one request.
async fn serve_one(house: &House, line: &mut Line) -> Result<()> {
    let Part::Request(json) = Part::parse(line.receive().await?)? else { return Err("not a request".into()) };
    match from_json(json)? {
        Request::DataPut { path } => {
            let mut put = block_in_place(|| {
                let permit = house.permit(Action::WriteData, &path)?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(house.vault.begin_put(permit, now_ms())?)
            })?;
            while let Part::Data(data) = Part::parse(line.receive().await?)? {
                block_in_place(|| put.write(data))?;
            }
            let stored = block_in_place(|| put.finish())?;
            answer(line, &PutAnswer { bytes: stored.bytes, replaced: stored.replaced }).await
        }
        Request::DataGet { path } => {
            let mut get = block_in_place(|| {
                let permit = house.permit(Action::ReadData, &path)?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(house.vault.get(permit)?)
            })?;
            let (bytes, mut chunk) = (get.bytes(), Vec::new());
            line.send_more(&[&[PartKind::Answer as u8], &to_json(&GetAnswer { bytes })?]).await?;
            while block_in_place(|| get.next_chunk(&mut chunk))? {
                line.send_more(&[&[PartKind::Data as u8], &chunk]).await?;
            }
            line.send(&[&[PartKind::End as u8], &bytes.to_be_bytes()]).await
        }
        _ => Err("not a request of this benchmark".into()),
    }
}

async fn answer(line: &mut Line, answer: &impl serde::Serialize) -> Result<()> {
    line.send(&[&[PartKind::Answer as u8], &to_json(answer)?]).await
}

/// What the client library does for a put.
async fn put(line: &mut Line, value: &[u8]) -> Result<()> {
    let request = to_json(&Request::DataPut { path: PATH.to_owned() })?;
    line.send_more(&[&[PartKind::Request as u8], &request]).await?;
    line.send_more(&[&[PartKind::Data as u8], value]).await?;
    line.send(&[&[PartKind::End as u8], &(value.len() as u64).to_be_bytes()]).await?;
    match Part::parse(line.receive().await?)? {
        Part::Answer(json) if from_json::<PutAnswer>(json)?.bytes == value.len() as u64 => Ok(()),
        _ => Err("not stored".into()),
    }
}

async fn get(line: &mut Line, bytes: usize) -> Result<()> {
    let request = to_json(&Request::DataGet { path: PATH.to_owned() })?;
    line.send(&[&[PartKind::Request as u8], &request]).await?;
    let Part::Answer(_) = Part::parse(line.receive().await?)? else { return Err("no answer".into()) };
    let mut got = 0;
    while let Part::Data(data) = Part::parse(line.receive().await?)? {
        got += data.len();
    }
    if got == bytes { Ok(()) } else { Err("another value".into()) }
}

/// A stream of messages, with the channel or with a length before each alone.
enum Line {
    Secure(Box<SecureStream>),
    Plain { read: BufReader<OwnedReadHalf>, write: OwnedWriteHalf, message: Vec<u8>, held: Vec<u8> },
}

impl Line {
    fn plain(stream: UnixStream) -> Self {
        let (read, write) = stream.into_split();
        Self::Plain { read: BufReader::with_capacity(16 * 1024, read), write, message: Vec::new(), held: Vec::new() }
    }

    async fn send(&mut self, parts: &[&[u8]]) -> Result<()> {
        match self {
            Self::Secure(stream) => Ok(stream.sender.send(parts).await?),
            Self::Plain { write, held, .. } => {
                append(held, parts)?;
                write.write_all(held).await?;
                held.clear();
                Ok(())
            }
        }
    }

    /// Another message follows at once: short ones are written together, on both sides alike.
    async fn send_more(&mut self, parts: &[&[u8]]) -> Result<()> {
        match self {
            Self::Secure(stream) => return Ok(stream.sender.send_more(parts).await?),
            Self::Plain { held, .. } if held.len() < 16 * 1024 => append(held, parts)?,
            Self::Plain { .. } => self.send(parts).await?,
        }
        Ok(())
    }

    async fn receive(&mut self) -> Result<&[u8]> {
        match self {
            Self::Secure(stream) => Ok(stream.receiver.receive().await?),
            Self::Plain { read, message, .. } => {
                let length = read.read_u32().await? as usize;
                message.resize(length, 0);
                read.read_exact(message).await?;
                Ok(message)
            }
        }
    }
}

/// A message with its length before it.
fn append(frame: &mut Vec<u8>, parts: &[&[u8]]) -> Result<()> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    frame.reserve(4 + length);
    frame.extend_from_slice(&u32::try_from(length)?.to_be_bytes());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    Ok(())
}

/// A client of one of the two servers, on this thread.
struct Client {
    runtime: Runtime,
    line: Line,
}

impl Client {
    fn connect(socket: &Path, channel: Option<(Manner, Identity)>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let line = runtime.block_on(async {
            let stream = UnixStream::connect(socket).await?;
            Ok::<_, Box<dyn std::error::Error + Send + Sync>>(match channel {
                None => Line::plain(stream),
                Some((manner, backend)) => {
                    Line::Secure(Box::new(SecureStream::connect(stream, &manner, backend).await?))
                }
            })
        })?;
        Ok(Self { runtime, line })
    }

    /// Time of one request, the mean of a batch.
    fn batch(&mut self, times: u32, request: &impl AsyncFn(&mut Line) -> Result<()>) -> Result<Duration> {
        let Self { runtime, line } = self;
        runtime.block_on(async {
            let began = Instant::now();
            for _ in 0..times {
                request(line).await?;
            }
            Ok(began.elapsed() / times)
        })
    }
}

/// Starts two servers that do the same, on threads of their own, and connects to them: with the channel and without.
fn both<F, W>(folder: &Path, serve: F) -> Result<(Client, Client)>
where
    F: Fn(Line) -> W + Clone + Send + 'static,
    W: Future<Output = Result<()>> + Send + 'static,
{
    let (client, backend) = (manner(ComponentKind::Cli, "cli")?, manner(ComponentKind::Backend, "backend")?);
    let (secure, plain) = (folder.join("secure.sock"), folder.join("plain.sock"));
    let expected = backend.me.identity().identity().clone();
    listen(&secure, Some(backend), serve.clone())?;
    listen(&plain, None, serve)?;
    Ok((Client::connect(&secure, Some((client, expected)))?, Client::connect(&plain, None)?))
}

fn listen<F, W>(socket: &Path, channel: Option<Manner>, serve: F) -> Result<()>
where
    F: Fn(Line) -> W + Send + 'static,
    W: Future<Output = Result<()>> + Send + 'static,
{
    let socket = std::os::unix::net::UnixListener::bind(socket)?;
    socket.set_nonblocking(true)?;
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let listener = UnixListener::from_std(socket).expect("a socket");
            let (stream, _) = listener.accept().await.expect("a client");
            let line = match channel {
                None => Line::plain(stream),
                Some(manner) => {
                    let accepted = SecureStream::accept(stream, &manner, Arc::new(Everybody)).await;
                    Line::Secure(Box::new(accepted.expect("a handshake")))
                }
            };
            // Ends when the client leaves.
            let _gone = tokio::spawn(serve(line)).await;
        });
    });
    Ok(())
}

/// Puts and gets through a backend of its own, by the client library.
fn real() -> Result<Vec<Vec<String>>> {
    let folder = folder()?;
    let backend = Backend::start(folder.path())?;
    let dial = backend.dial()?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut rounds = Rounds::new(["put", "put", "get", "get"].into_iter());
    runtime.block_on(async {
        let mut client = dial.connect().await?;
        for _ in 0..ROUNDS {
            for (side, bytes) in SIZES.into_iter().enumerate() {
                let value = vec![5; bytes];
                let began = Instant::now();
                for _ in 0..PUTS {
                    client.put(PATH, &mut value.as_slice()).await?;
                }
                rounds.add(side, began.elapsed() / PUTS);
                tokio::time::sleep(Duration::from_millis(40)).await;
                let began = Instant::now();
                for _ in 0..GETS {
                    client.get(PATH, &mut tokio::io::sink()).await?;
                }
                rounds.add(2 + side, began.elapsed() / GETS);
            }
        }
        Ok::<_, aico_net::Error>(())
    })?;
    backend.stop()?;
    let row =
        |name: &str, side| vec![name.to_owned(), time(rounds.nanos(side).median), time(rounds.nanos(side + 1).median)];
    Ok(vec![row("put", 0), row("get", 2)])
}
