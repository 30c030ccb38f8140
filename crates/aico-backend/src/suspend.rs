//! Locking before the machine sleeps: what logind says on the system bus (`org.freedesktop.login1`, inhibitor locks).

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;

use futures_util::StreamExt;
use tokio::net::UnixStream;
use zbus::address::transport::{Transport, UnixSocket};
use zbus::proxy::{CacheProperties, SignalStream};
use zbus::{Address, Proxy, zvariant};

/// Where the system bus is, unless `DBUS_SYSTEM_BUS_ADDRESS` names another place.
pub const SYSTEM_BUS: &str = "unix:path=/run/dbus/system_bus_socket";
/// For everything that is said before the wait begins: a bus that is silent must not look like one that is quiet.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest list of addresses, in bytes.
const MAX_ADDRESS_BYTES: usize = 4096;
/// What logind answers when the machine is on its way to sleep already.
const TOO_LATE: &str = "org.freedesktop.login1.OperationInProgress";

/// Why nobody will tell when the machine sleeps.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SuspendError {
    /// The machine is going to sleep now and waits for nobody any more: lock at once.
    #[error("the machine is going to sleep already")]
    TooLate,
    /// The address is no Unix socket with a path.
    #[error("the system bus has no address of the form `unix:path=…` (see `DBUS_SYSTEM_BUS_ADDRESS`)")]
    Address,
    /// No bus is there.
    #[error("connect to the system bus")]
    Connect(#[source] std::io::Error),
    /// The bus or logind did not answer within five seconds.
    #[error("the system bus does not answer")]
    Silence,
    /// The bus is there, and logind is not or does not do what was asked.
    #[error("logind does not tell when the machine sleeps")]
    Logind(#[source] zbus::Error),
    /// The bus went away; connecting again may help.
    #[error("the system bus is gone")]
    Gone,
}

/// Returns when the machine is about to sleep. It goes on to sleep once the descriptor is closed, or when logind is
/// tired of waiting (`InhibitDelayMaxSec`, five seconds by default): hold it until the vault is locked.
///
/// `bus_address` is the system bus's, as D-Bus writes it; the first Unix socket of a list is taken. Waking up is not
/// reported. On an error nothing is held back. Ask again once there is something to lock again: until the machine has
/// woken up, it is still about to sleep. Safe to cancel.
pub async fn until_sleep(bus_address: &str) -> Result<OwnedFd, SuspendError> {
    let socket = socket(bus_address).ok_or(SuspendError::Address)?;
    let begun = tokio::time::timeout(PATIENCE, begin(socket)).await;
    let (mut signals, inhibitor, going) = begun.unwrap_or(Err(SuspendError::Silence))?;
    if going {
        return Ok(inhibitor);
    }
    while let Some(signal) = signals.next().await {
        // `true` before it sleeps, `false` after.
        if signal.body().deserialize::<bool>().is_ok_and(|before| before) {
            return Ok(inhibitor);
        }
    }
    Err(SuspendError::Gone)
}

/// Listens first, then asks to be waited for, then looks whether it is on its way already: no sleep falls between.
async fn begin(socket: PathBuf) -> Result<(SignalStream<'static>, OwnedFd, bool), SuspendError> {
    let stream = UnixStream::connect(socket).await.map_err(SuspendError::Connect)?;
    let bus = zbus::connection::Builder::unix_stream(stream).build().await.map_err(logind)?;
    let manager = manager(&bus).await.map_err(logind)?;
    let signals = manager.receive_signal("PrepareForSleep").await.map_err(logind)?;
    let wish = ("sleep", "AICO Security", "locks the vault", "delay");
    let inhibitor: zvariant::OwnedFd = manager.call("Inhibit", &wish).await.map_err(logind)?;
    let going = manager.get_property("PreparingForSleep").await.map_err(logind)?;
    Ok((signals, inhibitor.into(), going))
}

async fn manager(bus: &zbus::Connection) -> zbus::Result<Proxy<'static>> {
    zbus::proxy::Builder::new(bus)
        .destination("org.freedesktop.login1")?
        .path("/org/freedesktop/login1")?
        .interface("org.freedesktop.login1.Manager")?
        .cache_properties(CacheProperties::No)
        .build()
        .await
}

fn logind(error: zbus::Error) -> SuspendError {
    match error {
        zbus::Error::MethodError(name, ..) if name == TOO_LATE => SuspendError::TooLate,
        zbus::Error::InputOutput(error) => SuspendError::Connect(std::io::Error::new(error.kind(), error)),
        other => SuspendError::Logind(other),
    }
}

/// The first Unix socket with a path in a list of addresses. The other kinds reach over the network or start programs,
/// which no environment variable shall make us do.
fn socket(list: &str) -> Option<PathBuf> {
    let list = Some(list).filter(|list| list.len() <= MAX_ADDRESS_BYTES)?;
    list.split(';').find_map(|address| {
        let address = address.starts_with("unix:").then(|| Address::try_from(address).ok())??;
        match address.transport() {
            Transport::Unix(unix) => match unix.path() {
                UnixSocket::File(path) => Some(path.clone()),
                _ => None,
            },
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn unix_sockets_are_found_and_nothing_else_is() {
        assert_eq!(socket(SYSTEM_BUS), Some("/run/dbus/system_bus_socket".into()));
        assert_eq!(socket("tcp:host=a,port=1;unix:path=/b,guid=00112233445566778899aabbccddeeff"), Some("/b".into()));
        for other in ["", ";", "unix:", "unix:dir=/a", "tcp:host=a,port=1", "unixexec:path=/bin/true", "launchd:env=A"]
        {
            assert_eq!(socket(other), None, "{other}");
        }
        assert_eq!(socket(&format!("unix:path=/{}", "a".repeat(MAX_ADDRESS_BYTES))), None);
    }

    proptest! {
        #[test]
        fn no_list_makes_the_parser_panic(any in ".{0,100}", list in "(unix:(path|abstract|guid)?=?[%a-f0-9,;=/]{0,9};?){0,4}") {
            let _ = socket(&any);
            let _ = socket(&list);
        }
    }
}
