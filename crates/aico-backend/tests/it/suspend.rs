//! A system bus of its own for each test, with a double of logind on it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aico_backend::suspend::{SuspendError, until_sleep};
use tokio::time::timeout;
use zbus::{Connection, fdo, interface, zvariant};

const PATH: &str = "/org/freedesktop/login1";
const MANAGER: &str = "org.freedesktop.login1.Manager";

struct Bus {
    _root: tempfile::TempDir,
    daemon: Child,
    address: String,
}

impl Bus {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        // No service directories: nothing but the tests' own peers is ever on it.
        let config = root.path().join("bus.conf");
        let allow = "<allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/>";
        let listen = format!("<listen>unix:path={}</listen>", root.path().join("bus").display());
        let policy = format!("<policy context=\"default\">{allow}</policy>");
        fs::write(&config, format!("<busconfig><type>session</type>{listen}{policy}</busconfig>")).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .args(["--nofork", "--print-address=1"])
            .arg(format!("--config-file={}", config.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("dbus-daemon does not start ({error}); `./dev test` installs `dbus`"));
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { _root: root, daemon, address: address.trim().to_owned() }
    }

    async fn connect(&self) -> Connection {
        zbus::connection::Builder::address(self.address.as_str()).unwrap().build().await.unwrap()
    }

    /// Puts a double on the bus.
    async fn logind(&self, double: Logind) -> Connection {
        let builder = zbus::connection::Builder::address(self.address.as_str()).unwrap();
        builder.name("org.freedesktop.login1").unwrap().serve_at(PATH, double).unwrap().build().await.unwrap()
    }

    fn stop(&mut self) {
        let _ended_already = self.daemon.kill();
        let _ended_already = self.daemon.wait();
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Hands out inhibitors, and keeps the other ends of them.
#[derive(Default)]
struct Logind {
    asked: Arc<Mutex<Vec<String>>>,
    ends: Arc<Mutex<Vec<std::io::PipeReader>>>,
    going: bool,
    too_late: bool,
}

#[derive(zbus::DBusError, Debug)]
#[zbus(prefix = "org.freedesktop.login1")]
enum Refusal {
    #[zbus(error)]
    ZBus(zbus::Error),
    OperationInProgress(String),
}

#[interface(name = "org.freedesktop.login1.Manager")]
impl Logind {
    async fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> Result<zvariant::OwnedFd, Refusal> {
        if self.too_late {
            return Err(Refusal::OperationInProgress("too late".to_owned()));
        }
        let (end, inhibitor) = std::io::pipe().unwrap();
        self.ends.lock().unwrap().push(end);
        self.asked.lock().unwrap().push([what, who, why, mode].join("|"));
        Ok(OwnedFd::from(inhibitor).into())
    }

    #[zbus(property)]
    async fn preparing_for_sleep(&self) -> bool {
        self.going
    }
}

async fn say(bus: &Connection, before: bool) {
    bus.emit_signal(None::<&str>, PATH, MANAGER, "PrepareForSleep", &before).await.unwrap();
}

/// Asks in the background, and waits until the double has been asked.
async fn asking(bus: &Bus, asked: &Mutex<Vec<String>>) -> tokio::task::JoinHandle<Result<OwnedFd, SuspendError>> {
    let address = bus.address.clone();
    let task = tokio::spawn(async move { until_sleep(&address).await });
    for _ in 0..500 {
        if !asked.lock().unwrap().is_empty() {
            // The property is asked for after it.
            tokio::time::sleep(Duration::from_millis(200)).await;
            return task;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody asked; {:?}", task.await);
}

fn is_closed(mut end: std::io::PipeReader) -> bool {
    let (tell, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(end.read(&mut [0])));
    heard.recv_timeout(Duration::from_millis(500)).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_before_the_sleep_and_holds_it_back_until_the_descriptor_is_closed() {
    let bus = Bus::new();
    let double = Logind::default();
    let (asked, ends) = (double.asked.clone(), double.ends.clone());
    let logind = bus.logind(double).await;
    let task = asking(&bus, &asked).await;
    assert_eq!(*asked.lock().unwrap(), ["sleep|AICO Security|locks the vault|delay"]);
    say(&logind, false).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!task.is_finished(), "waking up is no news");
    say(&logind, true).await;
    let inhibitor = timeout(Duration::from_secs(5), task).await.unwrap().unwrap().unwrap();
    let end = ends.lock().unwrap().pop().unwrap();
    assert!(!is_closed(end.try_clone().unwrap()), "logind waits");
    drop(inhibitor);
    assert!(is_closed(end), "and goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_logind_is_not_believed() {
    let bus = Bus::new();
    let double = Logind::default();
    let asked = double.asked.clone();
    let logind = bus.logind(double).await;
    let task = asking(&bus, &asked).await;
    let impostor = bus.connect().await;
    say(&impostor, true).await;
    // Logind with something that is no answer.
    logind.emit_signal(None::<&str>, PATH, MANAGER, "PrepareForSleep", &"yes").await.unwrap();
    logind.emit_signal(None::<&str>, PATH, MANAGER, "PrepareForShutdown", &true).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!task.is_finished());
    say(&logind, true).await;
    timeout(Duration::from_secs(5), task).await.unwrap().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sleep_that_has_begun_is_not_missed() {
    let bus = Bus::new();
    let _logind = bus.logind(Logind { going: true, ..Logind::default() }).await;
    timeout(Duration::from_secs(5), until_sleep(&bus.address)).await.unwrap().unwrap();
    let bus = Bus::new();
    let _logind = bus.logind(Logind { too_late: true, ..Logind::default() }).await;
    let error = timeout(Duration::from_secs(5), until_sleep(&bus.address)).await.unwrap().unwrap_err();
    assert!(matches!(error, SuspendError::TooLate), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_asking_holds_nothing_back() {
    let bus = Bus::new();
    let double = Logind::default();
    let (asked, ends) = (double.asked.clone(), double.ends.clone());
    let _logind = bus.logind(double).await;
    let task = asking(&bus, &asked).await;
    task.abort();
    assert!(task.await.unwrap_err().is_cancelled());
    let end = ends.lock().unwrap().pop().unwrap();
    assert!(is_closed(end));
}

/// Takes the name of logind and answers everything with a number.
struct Rubbish;

#[interface(name = "org.freedesktop.login1.Manager")]
impl Rubbish {
    async fn inhibit(&self, _what: &str, _who: &str, _why: &str, _mode: &str) -> fdo::Result<u32> {
        Ok(7)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_without_a_logind_is_told() {
    let bus = Bus::new();
    let error = until_sleep(&bus.address).await.unwrap_err();
    assert!(matches!(error, SuspendError::Logind(_)), "{error:?}");
    let builder = zbus::connection::Builder::address(bus.address.as_str()).unwrap();
    let builder = builder.name("org.freedesktop.login1").unwrap().serve_at(PATH, Rubbish).unwrap();
    let _rubbish = builder.build().await.unwrap();
    let error = until_sleep(&bus.address).await.unwrap_err();
    assert!(matches!(error, SuspendError::Logind(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_dies_ends_the_wait() {
    let mut bus = Bus::new();
    let double = Logind::default();
    let asked = double.asked.clone();
    let _logind = bus.logind(double).await;
    let task = asking(&bus, &asked).await;
    bus.stop();
    let error = timeout(Duration::from_secs(5), task).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error, SuspendError::Gone), "{error:?}");
    let error = until_sleep(&bus.address).await.unwrap_err();
    assert!(matches!(error, SuspendError::Connect(_)), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bus_that_says_nothing_does_not_hold_up_anybody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("deaf");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let address = format!("unix:path={}", path.display());
    let error = timeout(Duration::from_secs(8), until_sleep(&address)).await.unwrap().unwrap_err();
    assert!(matches!(error, SuspendError::Silence), "{error:?}");
    // One that takes nobody any more.
    rustix::net::listen(&listener, 0).unwrap();
    for _ in 0..4 {
        let path = path.clone();
        std::thread::spawn(move || std::os::unix::net::UnixStream::connect(path));
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let error = timeout(Duration::from_secs(8), until_sleep(&address)).await.unwrap().unwrap_err();
    assert!(matches!(error, SuspendError::Connect(_)), "{error:?}");
    for address in ["tcp:host=127.0.0.1,port=1", "unixexec:path=touch", "", "unix:path=/no/such/bus"] {
        let error = timeout(Duration::from_secs(8), until_sleep(address)).await.unwrap().unwrap_err();
        assert!(matches!(error, SuspendError::Address | SuspendError::Connect(_)), "{address}: {error:?}");
    }
}
