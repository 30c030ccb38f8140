//! TCP: off by default, loopback only, enrolled identities only.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use aico_net::{Address, Dial, Manner, Speaker, read_backend_id, read_client_key};
use aico_proto::message::{Request, StatusAnswer};
use aico_proto::{Padding, Terms};

use crate::home::{Home, bytes};

pub(crate) fn tcp_home(more: &str) -> (Home, SocketAddr) {
    let mut home = Home::new();
    fs::create_dir(home.data()).unwrap();
    let text = format!("security:\n  components:\n    backend:\n      listen_address: 127.0.0.1:0\n{more}");
    fs::write(home.data().join("security.yaml"), text).unwrap();
    home.up();
    let status: serde_json::Value = serde_json::from_str(&home.text(&["status", "--json"])).unwrap();
    let address = status["tcp"].as_str().unwrap().parse().unwrap();
    (home, address)
}

fn dial(home: &Home, address: SocketAddr, key: &str) -> Dial {
    let me = Speaker::new(read_client_key(&home.keys().join(key)).unwrap()).unwrap();
    let backend = read_backend_id(&home.data().join("run/backend.id")).unwrap();
    Dial { address: Address::Tcp(address, backend), manner: Manner::of(me.into()), retries: 0 }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolled_identity_is_answered_over_tcp() {
    let (home, address) = tcp_home("");
    let dial = dial(&home, address, "clients/cli.key");
    let mut client = dial.connect().await.unwrap();
    let value = bytes(1, 3 << 20);
    client.put("notes/big", &mut value.as_slice()).await.unwrap();
    let mut back = Vec::new();
    client.get("notes/big", &mut back).await.unwrap();
    assert!(back == value);
    assert!(home.text(&["status", "--connections"]).contains("address 127.0.0.1"));
    client.close().await.unwrap();
    // And by the command line, configured so.
    let text = fs::read_to_string(home.data().join("security.yaml")).unwrap();
    fs::write(home.data().join("security.yaml"), format!("{text}    cli:\n      backend_address: {address}\n"))
        .unwrap();
    assert!(home.text(&["status", "--connections"]).contains("address 127.0.0.1"));
    assert!(home.get("notes/big") == value);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_identity_gets_silence_over_tcp() {
    let (home, address) = tcp_home("");
    let file = home.keys().join("stranger.key");
    let mut child = home.command(&["identity", "enrol", file.to_str().unwrap()]).spawn().unwrap();
    while !file.exists() {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let stranger = dial(&home, address, "stranger.key");
    if let Ok(mut client) = stranger.connect().await {
        let answer = client.ask::<StatusAnswer>(&Request::Status { notices: false }).await.unwrap_err();
        assert!(matches!(answer, aico_net::Error::Silence), "{answer}");
    }
}

#[test]
fn whoever_does_not_know_the_backend_gets_no_byte_over_tcp_and_is_left_outside() {
    let (home, address) = tcp_home("");
    let knock = |bytes: &[u8]| {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket.write_all(bytes).unwrap();
        let mut got = Vec::new();
        let _reset = socket.read_to_end(&mut got);
        got
    };
    let mut hello = 98u32.to_be_bytes().to_vec();
    hello.extend(bytes(1, 98));
    assert_eq!(knock(&hello), b"");
    assert_eq!(knock(b"GET / HTTP/1.1\r\n\r\n"), b"");
    // The address waits half a minute now; the Unix socket does not care.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let refused = runtime.block_on(async { dial(&home, address, "clients/cli.key").connect().await });
    assert!(refused.is_err());
    home.ok(&["status"]);
    assert!(home.text(&["audit", "tail"]).contains("address 127.0.0.1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_padding_that_the_owner_wants_is_agreed_on() {
    let (home, address) = tcp_home("  transport:\n    padding: padme\n");
    for (offered, agreed) in [(Padding::None, Padding::None), (Padding::PowerOfTwo, Padding::Padme)] {
        let mut dial = dial(&home, address, "clients/cli.key");
        dial.manner.terms = Terms { padding: offered, ..Terms::default() };
        let mut client = dial.connect().await.unwrap();
        assert_eq!(client.agreed().padding, agreed);
        let value = bytes(2, 300_000);
        client.put("notes/padded", &mut value.as_slice()).await.unwrap();
        let mut back = Vec::new();
        client.get("notes/padded", &mut back).await.unwrap();
        assert!(back == value);
        client.close().await.unwrap();
    }
}

#[test]
fn it_is_off_by_default() {
    let home = Home::running();
    assert!(home.text(&["status", "--json"]).contains("\"tcp\":null"));
    for line in fs::read_to_string("/proc/net/tcp").unwrap().lines().skip(1) {
        let inode = line.split_whitespace().nth(9).unwrap();
        assert!(!worker_sockets(&home).contains(&format!("socket:[{inode}]")), "{line}");
    }
}

fn worker_sockets(home: &Home) -> Vec<String> {
    let text = fs::read_to_string(home.data().join("run/worker.lock")).unwrap();
    let pid = text.trim().strip_prefix("process ").unwrap();
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    links.filter_map(|link| Some(fs::read_link(link.ok()?.path()).ok()?.to_str()?.to_owned())).collect()
}
