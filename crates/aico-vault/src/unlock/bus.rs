//! Where the session's D-Bus is: the Unix sockets among the server addresses of the D-Bus specification.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use zbus::Address;
use zbus::address::transport::{Transport, Unix, UnixSocket};

/// The first of a list of addresses that is a Unix socket to connect to. The other kinds reach over the network or start
/// programs, which no environment variable shall make us do.
pub(super) fn first_socket(list: &OsStr) -> Option<Address> {
    list.as_bytes().split(|byte| *byte == b';').find_map(socket).map(to)
}

fn to(socket: UnixSocket) -> Address {
    Address::new(Transport::Unix(Unix::new(socket)))
}

fn socket(address: &[u8]) -> Option<UnixSocket> {
    let mut options = address.strip_prefix(b"unix:")?.split(|byte| *byte == b',');
    options.find_map(|option| {
        let path = |value| unescaped(value).map(|path| UnixSocket::File(PathBuf::from(path)));
        let name = |value| unescaped(value).map(UnixSocket::Abstract);
        option.strip_prefix(b"path=").and_then(path).or_else(|| option.strip_prefix(b"abstract=").and_then(name))
    })
}

/// Turns each `%` and two hexadecimal digits into their byte.
fn unescaped(value: &[u8]) -> Option<OsString> {
    let (mut out, mut rest) = (Vec::new(), value);
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%' {
            let (digits, after) = rest.split_first_chunk::<2>()?;
            out.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
            rest = after;
        } else {
            out.push(*first);
        }
    }
    (!out.is_empty()).then(|| OsString::from_vec(out))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(list: &str) -> Option<UnixSocket> {
        match first_socket(OsStr::new(list))?.transport() {
            Transport::Unix(unix) => Some(unix.path().clone()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn unix_sockets_are_found_and_nothing_else_is() {
        assert_eq!(found("unix:path=/run/user/1/bus"), Some(UnixSocket::File("/run/user/1/bus".into())));
        assert_eq!(found("unix:guid=0,path=/a%2cb%3B%25"), Some(UnixSocket::File("/a,b;%".into())));
        let list = "tcp:host=a;unix:abstract=/b,guid=c;unix:path=/d";
        assert_eq!(found(list), Some(UnixSocket::Abstract("/b".into())));
        for other in ["", ";", "unix:", "unix:path=", "unix:path=%2", "unix:path=%zz", "unix:dir=/a", "autolaunch:"] {
            assert_eq!(found(other), None, "{other}");
        }
        for other in ["tcp:host=localhost,port=1", "unixexec:path=/bin/true", "nonce-tcp:noncefile=/a"] {
            assert_eq!(found(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn no_list_makes_the_parser_panic(bytes in proptest::collection::vec(any::<u8>(), 0..100), list in "(unix:(path|abstract)=[%a-f0-9,;]{0,9};?){0,4}") {
            let _ = first_socket(OsStr::from_bytes(&bytes));
            let _ = first_socket(OsStr::new(&list));
        }
    }
}
