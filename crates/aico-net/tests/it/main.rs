//! Channels over real sockets: new keys in the middle of a transfer, either side lost, cuts, silence, coming back.
#![expect(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, clippy::print_stdout, reason = "tests")]

mod proxy;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aico_crypto::{ComponentKind, Identity, IdentitySecret, Name, OsRandom};
use aico_net::{Address, Dial, Error, Manner, SecureStream, Speaker};
use aico_proto::message::{Failure, FailureCode, Part, PartKind, to_json};
use aico_proto::{CloseReason, Error as ProtoError, LocalIdentity, Settings, Standing, Trust};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

struct Everybody;

impl Trust for Everybody {
    fn standing(&self, _identity: &Identity) -> Standing {
        Standing::Enrolled
    }
}

fn speaker(kind: ComponentKind, name: &str) -> (Arc<Speaker>, Identity) {
    let secret = IdentitySecret::make(&OsRandom).unwrap();
    let identity = Identity::new(kind, *secret.public(), Name::parse(name).unwrap());
    let local = LocalIdentity::new(secret, identity.clone()).unwrap();
    (Arc::new(Speaker::new(local).unwrap()), identity)
}

fn manner(kind: ComponentKind, settings: Settings) -> (Manner, Identity) {
    let (me, identity) = speaker(kind, "somebody");
    (Manner { settings, ..Manner::of(me) }, identity)
}

/// Both ends of a channel over TCP; `between` may stand in the middle and see every byte.
async fn pair(settings: Settings, between: bool) -> (SecureStream, SecureStream, Option<tokio::task::JoinHandle<()>>) {
    let (client, _) = manner(ComponentKind::Cli, settings);
    let (server, expected) = manner(ComponentKind::Backend, settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut address = listener.local_addr().unwrap();
    let mut middle = None;
    if between {
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let behind = std::mem::replace(&mut address, door.local_addr().unwrap());
        middle = Some(tokio::spawn(async move {
            let (mut left, _) = door.accept().await.unwrap();
            let mut right = TcpStream::connect(behind).await.unwrap();
            let _cut = tokio::io::copy_bidirectional(&mut left, &mut right).await;
        }));
    }
    let accepted = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        SecureStream::accept(stream, &server, Arc::new(Everybody)).await.unwrap()
    });
    let stream = TcpStream::connect(address).await.unwrap();
    let client = SecureStream::connect(stream, &client, expected).await.unwrap();
    (client, accepted.await.unwrap(), middle)
}

fn settings() -> Settings {
    Settings { keepalive: Duration::ZERO, ..Settings::default() }
}

/// New keys every few milliseconds, while data flows one way, both ways, and while one side only sends.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_renewed_in_the_middle_of_a_transfer() {
    let fast = Settings { rotation: Duration::from_millis(20), ..settings() };
    for (up, down) in [(true, false), (false, true), (true, true)] {
        let (client, server, _) = pair(fast, false).await;
        let (client_link, server_link) = (client.handle(), server.handle());
        let began = Instant::now();
        let flow = async |from: SecureStream, sends: bool, receives: bool| {
            let SecureStream { mut sender, mut receiver, .. } = from;
            let send = async {
                let mut number = 0u64;
                while sends && began.elapsed() < Duration::from_millis(400) {
                    sender.send(&[&number.to_be_bytes(), &[7; 50_000]]).await.unwrap();
                    number += 1;
                }
                sender.send(&[&u64::MAX.to_be_bytes()]).await.unwrap();
                number
            };
            let receive = async {
                let mut expected = 0u64;
                loop {
                    let record = receiver.receive().await.unwrap();
                    match u64::from_be_bytes(*record.first_chunk().unwrap()) {
                        u64::MAX => return expected,
                        number => assert_eq!((number, record.len()), (expected, 50_008)),
                    }
                    expected += 1;
                }
            };
            let (sent, received) = tokio::join!(send, receive);
            assert_eq!((sent > 0, received > 0), (sends, receives));
            (sender, receiver)
        };
        let both = tokio::join!(flow(client, up, down), flow(server, down, up));
        let renewed = client_link.traffic().epoch;
        assert!(renewed >= 3, "renewed {renewed} times");
        assert!(server_link.traffic().epoch.abs_diff(renewed) <= 1);
        drop(both);
    }
}

/// Whoever loses the other side in the middle of a REKEY learns it, and hangs on nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_side_is_a_cut_and_not_an_end() {
    for server_dies in [true, false] {
        let fast = Settings { rotation: Duration::from_millis(5), ..settings() };
        let (client, server, middle) = pair(fast, true).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        let (mut left, dead) = if server_dies { (client, server) } else { (server, client) };
        // No goodbye: the network goes first, then the process.
        middle.unwrap().abort();
        drop(dead);
        let ended = tokio::time::timeout(Duration::from_secs(5), left.receiver.receive()).await.unwrap();
        let cut = matches!(ended, Err(Error::Channel(ProtoError::Truncated) | Error::Io { .. }));
        assert!(cut, "{:?}", ended.err());
        let mut sent = left.sender.send(&[b"x"]).await;
        for _ in 0..3 {
            sent = left.sender.send(&[b"x"]).await;
        }
        assert!(sent.is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_goodbye_is_told_from_a_cut() {
    let (mut client, mut server, _) = pair(settings(), false).await;
    server.sender.close(CloseReason::Shutdown).await.unwrap();
    assert!(matches!(client.receiver.receive().await, Err(Error::Closed(CloseReason::Shutdown))));
    assert!(matches!(server.receiver.receive().await, Err(Error::Closed(CloseReason::Shutdown))), "answered once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_peer_is_given_up_and_a_living_one_is_not() {
    let alive = Settings { keepalive: Duration::from_secs(1), ..Settings::default() };
    let (mut client, server, middle) = pair(alive, true).await;
    let nothing = tokio::time::timeout(Duration::from_millis(3500), client.receiver.receive()).await;
    assert!(nothing.is_err(), "signs of life keep it: {:?}", nothing.map(|r| r.map(<[u8]>::to_vec)));
    assert!(client.handle().traffic().received >= 2 * 59);
    // From here the network swallows everything and closes nothing.
    let frozen = tokio::spawn(async move {
        middle.unwrap().abort();
        std::future::pending::<()>().await;
    });
    drop(frozen);
    let ended = tokio::time::timeout(Duration::from_secs(6), client.receiver.receive()).await.unwrap();
    assert!(ended.is_err());
    drop(server);
}

/// A peer that takes our bytes and says nothing at all, as a frozen machine does.
#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_peer_is_given_up_after_three_intervals() {
    let settings = Settings { keepalive: Duration::from_secs(1), ..Settings::default() };
    let (client, _) = manner(ComponentKind::Cli, settings);
    let (server, expected) = manner(ComponentKind::Backend, settings);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let frozen = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let stream = runtime.block_on(async {
            let (stream, _) = listener.accept().await.unwrap();
            let stream = SecureStream::accept(stream, &server, Arc::new(Everybody)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
            stream
        });
        // The runtime stands still; the socket stays open.
        std::thread::sleep(Duration::from_secs(8));
        drop((runtime, stream));
    });
    let stream = TcpStream::connect(address).await.unwrap();
    let mut client = SecureStream::connect(stream, &client, expected).await.unwrap();
    let began = Instant::now();
    let ended = client.receiver.receive().await;
    assert!(matches!(ended, Err(Error::Channel(ProtoError::Silent))), "{:?}", ended.err());
    assert!((2..6).contains(&began.elapsed().as_secs()));
    frozen.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn short_records_are_held_back_until_something_follows() {
    let (mut client, mut server, _) = pair(settings(), false).await;
    client.sender.max_plaintext().await;
    let handle = client.handle();
    let before = handle.traffic().sent;
    client.sender.send_more(&[b"one"]).await.unwrap();
    client.sender.send_more(&[b"two"]).await.unwrap();
    assert!(client.sender.holds());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(handle.traffic().sent, before, "nothing of it was written");
    client.sender.send(&[b"three"]).await.unwrap();
    for text in [&b"one"[..], b"two", b"three"] {
        assert_eq!(server.receiver.receive().await.unwrap(), text);
    }
    // Each of the ways out, and what is too long to be held.
    client.sender.send_more(&[b"four"]).await.unwrap();
    client.sender.push().await.unwrap();
    assert_eq!(server.receiver.receive().await.unwrap(), b"four");
    client.sender.send_more(&[b"five"]).await.unwrap();
    client.sender.flush().await.unwrap();
    assert_eq!(server.receiver.receive().await.unwrap(), b"five");
    client.sender.send_more(&[&[6; 16_384]]).await.unwrap();
    client.sender.send_more(&[b"seven"]).await.unwrap();
    assert_eq!(server.receiver.receive().await.unwrap(), [6; 16_384]);
    assert_eq!(server.receiver.receive().await.unwrap(), b"seven");
    client.sender.send_more(&[b"eight"]).await.unwrap();
    client.sender.close(CloseReason::Normal).await.unwrap();
    assert_eq!(server.receiver.receive().await.unwrap(), b"eight");
    assert!(matches!(server.receiver.receive().await, Err(Error::Closed(CloseReason::Normal))));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_not_sent_without_end() {
    // The longest record, short ones, and empty ones: what waits in this process has a bound for all of them.
    // The kernel's buffers of two sockets come on top.
    for (bytes, at_most) in [(16 << 20, 112 << 20), (100, 24 << 20), (0, 24 << 20)] {
        let (mut client, mut server, _) = pair(settings(), false).await;
        let (record, mut sent) = (vec![1; bytes.min(client.sender.max_plaintext().await)], 0usize);
        while let Ok(done) = timeout(Duration::from_millis(300), client.sender.send(&[&record])).await {
            done.unwrap();
            sent += 1;
            assert!(sent * (record.len() + 58) < at_most, "{sent} records of {bytes} bytes");
        }
        // And all of it comes when somebody reads.
        for _ in 0..sent {
            assert_eq!(server.receiver.receive().await.unwrap(), record);
        }
    }
}

/// Says a little, and then nothing for ever.
struct Hesitates(bool);

impl tokio::io::AsyncRead for Hesitates {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        if std::mem::replace(&mut self.0, true) {
            return std::task::Poll::Pending;
        }
        buffer.put_slice(b"a little");
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_source_does_not_keep_the_request_back() {
    let (manner_of_client, _) = manner(ComponentKind::Cli, settings());
    let (manner_of_server, expected) = manner(ComponentKind::Backend, settings());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Address::Tcp(listener.local_addr().unwrap(), expected);
    let refusing = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut line = SecureStream::accept(stream, &manner_of_server, Arc::new(Everybody)).await.unwrap();
        assert!(matches!(Part::parse(line.receiver.receive().await.unwrap()), Ok(Part::Request(_))));
        assert!(matches!(Part::parse(line.receiver.receive().await.unwrap()), Ok(Part::Data(b"a little"))));
        let no = Failure { code: FailureCode::Denied, message: "no".to_owned(), hint: None };
        line.sender.send(&[&[PartKind::Failure as u8], &to_json(&no).unwrap()]).await.unwrap();
        assert!(matches!(Part::parse(line.receiver.receive().await.unwrap()), Ok(Part::End(_))));
        line.receiver.receive().await.map(drop)
    });
    let dial = Dial { address, manner: manner_of_client, retries: 0 };
    let mut client = dial.connect().await.unwrap();
    let refused = timeout(Duration::from_secs(10), client.put("diary/monday", &mut Hesitates(false))).await.unwrap();
    assert!(matches!(refused, Err(Error::Failure(failure)) if failure.message == "no"));
    drop(client);
    assert!(refusing.await.unwrap().is_err());
}

/// Somebody who reads slowly, in a pager say, has not lost the other side.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_pauses_keeps_its_channel() {
    let alive = Settings { keepalive: Duration::from_secs(1), ..Settings::default() };
    let (mut client, mut server, _) = pair(alive, false).await;
    let sent = tokio::spawn(async move {
        for number in 0..100u8 {
            server.sender.send(&[&[number; 100_000]]).await.unwrap();
        }
        server
    });
    tokio::time::sleep(Duration::from_millis(4500)).await;
    for number in 0..100u8 {
        let record = client.receiver.receive().await.unwrap();
        assert_eq!((record.len(), record.first()), (100_000, Some(&number)));
    }
    drop(sent.await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unused_channel_is_forgotten() {
    let short = Settings { idle: Duration::from_secs(1), ..settings() };
    let (mut client, mut server, _) = pair(short, false).await;
    client.sender.send(&[b"once"]).await.unwrap();
    assert_eq!(server.receiver.receive().await.unwrap(), b"once");
    let began = Instant::now();
    assert!(matches!(server.receiver.receive().await, Err(Error::Closed(CloseReason::Idle))));
    assert!(began.elapsed() >= Duration::from_millis(900));
    assert!(matches!(client.receiver.receive().await, Err(Error::Closed(CloseReason::Idle))));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_are_as_long_as_the_other_side_takes() {
    let small = Settings { max_plaintext: 65_536, ..settings() };
    let (mut client, mut server, _) = pair(small, false).await;
    let most = client.sender.max_plaintext().await;
    assert_eq!(most, 65_536);
    client.sender.send(&[&vec![1; most]]).await.unwrap();
    assert_eq!(server.receiver.receive().await.unwrap().len(), most);
    client.sender.send(&[&vec![1; most + 1]]).await.unwrap();
    assert!(client.receiver.receive().await.is_err(), "our own side refuses it");
}

/// A peer with the right keys that then lies about lengths, or sends what is no record.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_frame_ends_the_channel_with_a_reason() {
    let (client, _) = manner(ComponentKind::Cli, settings());
    let (server, expected) = manner(ComponentKind::Backend, settings());
    for lie in [&[0xff, 0xff, 0xff, 0xff][..], &[0, 0, 0, 0], &[0, 0, 0, 4, 1, 2, 3, 4]] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (server, lie) = (server.clone(), lie.to_vec());
        // A forwarder that adds bytes of its own behind the handshake.
        let door = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let door_address = door.local_addr().unwrap();
        tokio::spawn(async move {
            let (left, _) = door.accept().await.unwrap();
            let right = TcpStream::connect(address).await.unwrap();
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (left.into_split(), right.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
            for length in [4 + 1284, 4 + 185] {
                let mut frame = vec![0; length];
                from_client.read_exact(&mut frame).await.unwrap();
                to_server.write_all(&frame).await.unwrap();
            }
            to_server.write_all(&lie).await.unwrap();
            tokio::time::sleep(Duration::from_secs(3)).await;
        });
        let accepted = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            SecureStream::accept(stream, &server, Arc::new(Everybody)).await.unwrap()
        });
        let stream = TcpStream::connect(door_address).await.unwrap();
        let mut client = SecureStream::connect(stream, &client, expected.clone()).await.unwrap();
        let mut server = accepted.await.unwrap();
        assert!(matches!(server.receiver.receive().await, Err(Error::Channel(_))));
        assert!(matches!(client.receiver.receive().await, Err(Error::Closed(CloseReason::Protocol))), "it is told");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_comes_back_with_growing_waits_and_gives_up() {
    let (manner, identity) = manner(ComponentKind::Cli, settings());
    let nobody: SocketAddr = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    let dial = Dial { address: Address::Tcp(nobody, identity), manner, retries: 3 };
    let began = Instant::now();
    let error = dial.reconnect().await.unwrap_err();
    assert!(error.is_passing(), "{error}");
    // 200, 400 and 800 ms, each cut to between half and the whole of it.
    assert!((700..1700).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_is_refused_at_once_and_not_tried_again() {
    let (server, _) = manner(ComponentKind::Backend, settings());
    let (client, _) = manner(ComponentKind::Cli, settings());
    let (_, other) = speaker(ComponentKind::Backend, "other");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let _refused = SecureStream::accept(stream, &server, Arc::new(Everybody)).await;
        }
    });
    let dial = Dial { address: Address::Tcp(address, other), manner: client, retries: 50 };
    let began = Instant::now();
    assert!(matches!(dial.reconnect().await, Err(Error::Silence)));
    assert!(began.elapsed() < Duration::from_secs(2));
}
