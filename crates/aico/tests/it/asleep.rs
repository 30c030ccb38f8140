//! A machine that goes to sleep, told by a double of logind on a system bus of the test's own.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use zbus::{Connection, interface, zvariant};

use crate::home::Home;

const PATH: &str = "/org/freedesktop/login1";

struct Bus(Child, String);

impl Bus {
    fn new(home: &Home) -> Self {
        let config = home.root().join("bus.conf");
        let allow = "<allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/>";
        let listen = format!("<listen>unix:path={}</listen>", home.root().join("bus").display());
        let policy = format!("<policy context=\"default\">{allow}</policy>");
        fs::write(&config, format!("<busconfig><type>session</type>{listen}{policy}</busconfig>")).unwrap();
        let arguments = ["--nofork", "--print-address=1"].map(str::to_owned);
        let mut daemon = Command::new("dbus-daemon");
        daemon.args(arguments).arg(format!("--config-file={}", config.display()));
        let mut daemon = daemon.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self(daemon, address.trim().to_owned())
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _ended_already = self.0.wait();
    }
}

#[derive(Default)]
struct Logind(Arc<Mutex<Vec<std::io::PipeReader>>>);

#[interface(name = "org.freedesktop.login1.Manager")]
impl Logind {
    async fn inhibit(&self, _what: &str, _who: &str, _why: &str, _mode: &str) -> zvariant::OwnedFd {
        let (end, inhibitor) = std::io::pipe().unwrap();
        self.0.lock().unwrap().push(end);
        OwnedFd::from(inhibitor).into()
    }

    #[zbus(property)]
    async fn preparing_for_sleep(&self) -> bool {
        false
    }
}

async fn logind(bus: &Bus, double: Logind) -> Connection {
    let builder = zbus::connection::Builder::address(bus.1.as_str()).unwrap();
    builder.name("org.freedesktop.login1").unwrap().serve_at(PATH, double).unwrap().build().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vault_is_locked_before_the_machine_sleeps() {
    let mut home = Home::new();
    fs::create_dir(home.data()).unwrap();
    fs::write(home.data().join("security.yaml"), "security:\n  vault:\n    lock_on_suspend: true\n").unwrap();
    let bus = Bus::new(&home);
    let double = Logind::default();
    let ends = double.0.clone();
    let logind = logind(&bus, double).await;
    home.set("DBUS_SYSTEM_BUS_ADDRESS", &bus.1);
    home.up();
    home.put_ok("notes/a", b"kept");
    while ends.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let going = true;
    logind.emit_signal(None::<&str>, PATH, "org.freedesktop.login1.Manager", "PrepareForSleep", &going).await.unwrap();
    // The descriptor is let go once the process with the keys is done: only then the machine may sleep.
    let mut end = ends.lock().unwrap().pop().unwrap();
    let let_go = tokio::task::spawn_blocking(move || end.read(&mut [0]).unwrap());
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), let_go).await.unwrap().unwrap(), 0);
    home.fails(9, &["data", "get", "notes/a"]);
    home.ok(&["unlock"]);
    assert_eq!(home.get("notes/a"), b"kept");
}
