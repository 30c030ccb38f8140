//! Who comes to the socket, and who pretends to be behind it.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::home::{Home, bytes};

#[test]
fn no_network_port_is_open() {
    let home = Home::running();
    home.put_ok("notes/a", b"x");
    let pid = home.backend_pid();
    let mine: BTreeSet<String> = fs::read_dir(format!("/proc/{pid}/fd"))
        .unwrap()
        .filter_map(|fd| fs::read_link(fd.unwrap().path()).ok())
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned()))
        .collect();
    assert!(!mine.is_empty(), "the Unix socket is there");
    for protocol in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
        let table = fs::read_to_string(format!("/proc/{pid}/net/{protocol}")).unwrap_or_default();
        for line in table.lines().skip(1) {
            let inode = line.split_whitespace().nth(9).unwrap_or_default();
            assert!(!mine.contains(inode), "{protocol}: {line}");
        }
    }
}

#[test]
fn whoever_does_not_know_the_backend_gets_no_byte() {
    let home = Home::running();
    let hello = |length: u32| [&length.to_be_bytes()[..], b"AICO-HS1\x01\x01\x01"].concat();
    let frame = [&98u32.to_be_bytes()[..], b"AICO-HS1\x01\x01\x01\x01\x00\x01", &bytes(1, 84)].concat();
    for said in [frame, hello(98), hello(u32::MAX), b"GET / HTTP/1.1\r\n\r\n".to_vec(), bytes(2, 5000), vec![]] {
        let mut stream = UnixStream::connect(home.data().join("run/aico.sock")).unwrap();
        let _closed = stream.write_all(&said);
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "after {} bytes", said.len());
    }
    home.ok(&["status"]);
    assert!(home.text(&["audit", "tail"]).contains("handshake.refused"), "and it is recorded");
}

#[test]
fn silent_connections_of_one_process_do_not_lock_out_others() {
    let home = Home::running();
    let silent: Vec<UnixStream> =
        (0..300).filter_map(|_| UnixStream::connect(home.data().join("run/aico.sock")).ok()).collect();
    assert!(silent.len() > 100);
    let begun = Instant::now();
    home.ok(&["status"]);
    assert!(begun.elapsed() < Duration::from_secs(5));
    home.put_ok("notes/a", b"x");
}

#[test]
fn a_server_that_is_not_the_pinned_one_gets_nothing() {
    let mut home = Home::running();
    let other = Home::running();
    home.down();
    // Another backend behind our socket's name.
    let socket = home.data().join("run/aico.sock");
    std::os::unix::fs::symlink(other.data().join("run/aico.sock"), &socket).unwrap();
    let output = home.put("notes/secret", b"not for you");
    assert!(!output.status.success());
    assert!(other.text(&["data", "list"]).is_empty());
    fs::remove_file(&socket).unwrap();

    // A listener that only takes what it is given: it sees one HELLO, and nothing of the value or the client.
    let listener = UnixListener::bind(&socket).unwrap();
    let thief = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut length = [0; 4];
        stream.read_exact(&mut length).unwrap();
        let mut hello = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut hello).unwrap();
        stream.write_all(&[0, 0, 1, 0]).unwrap();
        stream.write_all(&bytes(7, 256)).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        rest
    });
    let output = home.put("notes/secret", b"not for you");
    assert!(!output.status.success());
    assert_eq!(thief.join().unwrap(), b"", "nothing follows a REPLY that does not hold");
}

/// The folder's mode keeps other users out; if it did not, the socket's owner still would. Needs root to become
/// somebody else.
#[test]
fn another_users_process_gets_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act as another user");
        return;
    }
    let home = Home::running();
    let socket = home.data().join("run/aico.sock");
    let connect = "import socket,sys\ns=socket.socket(socket.AF_UNIX)\ns.settimeout(10)\ntry:\n s.connect(sys.argv[1])\n \
                   s.sendall(b'\\0\\0\\0\\x62AICO-HS1')\nexcept PermissionError:\n print('no entry'); sys.exit()\nexcept \
                   BrokenPipeError:\n pass\ntry:\n print('got', len(s.recv(100)))\nexcept ConnectionResetError:\n print('got 0')";
    let try_it = || {
        let mut python = Command::new("python3");
        std::os::unix::process::CommandExt::uid(&mut python, 65534);
        std::os::unix::process::CommandExt::gid(&mut python, 65534);
        let output = python.args(["-c", connect]).arg(&socket).current_dir("/").output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(try_it(), "no entry", "the folder is closed");
    for path in [home.root().to_owned(), home.data(), home.data().join("run"), socket.clone()] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    assert_eq!(try_it(), "got 0", "and behind it another user is not spoken to");
    fs::set_permissions(home.data().join("run"), fs::Permissions::from_mode(0o700)).unwrap();
    home.ok(&["status"]);
}
