//! A D-Bus session with a gnome-keyring of its own, and a login session's kernel keyring; never the user's.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aico_vault::unlock::{Rung, SecretService};

/// What opens the keyring.
pub(crate) const PASSWORD: &str = "the keyring's password";

/// Begins a session keyring of the kernel for this thread, and the threads and processes that it starts.
pub(crate) fn log_in() {
    keyutils::Keyring::join_anonymous_session().unwrap();
}

fn start_bus(root: &Path) -> (Child, String) {
    let mut bus = Command::new("dbus-daemon")
        .args(["--nofork", "--print-address=1"])
        .arg(format!("--config-file={}", root.join("bus.conf").display()))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("HOME", root)
        .env("XDG_DATA_HOME", root.join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("dbus-daemon does not start ({error}); `./dev test` installs `dbus`"));
    let mut address = String::new();
    BufReader::new(bus.stdout.take().unwrap()).read_line(&mut address).unwrap();
    (bus, address.trim().to_owned())
}

/// A D-Bus session with a keyring whose password is known.
pub(crate) struct Session {
    pub(crate) root: tempfile::TempDir,
    bus: Child,
    address: String,
    keyring: Option<Child>,
}

impl Session {
    pub(crate) fn new() -> Self {
        log_in();
        let root = tempfile::tempdir().unwrap();
        // No service directories: the bus starts nothing by itself, so there is one keyring, and it is ours.
        let config = root.path().join("bus.conf");
        let allow = "<allow send_destination=\"*\" eavesdrop=\"true\"/><allow eavesdrop=\"true\"/><allow own=\"*\"/>";
        let listen = format!("<listen>unix:path={}</listen>", root.path().join("bus").display());
        let policy = format!("<policy context=\"default\">{allow}</policy>");
        fs::write(&config, format!("<busconfig><type>session</type>{listen}{policy}</busconfig>")).unwrap();
        let (bus, address) = start_bus(root.path());
        let mut this = Self { root, bus, address, keyring: None };
        this.start_keyring(Some(PASSWORD));
        this
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Ends the bus, and with it the keyring.
    pub(crate) fn stop_bus(&mut self) {
        self.bus.kill().unwrap();
        self.bus.wait().unwrap();
        self.stop_keyring();
    }

    /// Starts bus and keyring where they were.
    pub(crate) fn start_bus(&mut self) {
        let _left_over = fs::remove_file(self.root.path().join("bus"));
        (self.bus, self.address) = start_bus(self.root.path());
        self.start_keyring(Some(PASSWORD));
    }

    /// Writes an entry as another program would.
    pub(crate) fn write_entry(&self, vault: &str, slot: &str, content: &[u8]) {
        self.write(&[("application", "aico"), ("vault", vault), ("slot", slot)], content);
    }

    /// Writes an entry under any attributes.
    pub(crate) fn write(&self, attributes: &[(&str, &str)], content: &[u8]) {
        self.on_bus(async |service| {
            let attributes = attributes.iter().copied().collect();
            let collection = service.get_default_collection().await.unwrap();
            collection.create_item("aico", attributes, content, true, "text/plain").await.unwrap();
        });
    }

    /// Makes the collection that is forgotten at logout the default one, or again the lasting one.
    pub(crate) fn default_to(&self, collection: &str) {
        let path =
            zbus::zvariant::OwnedObjectPath::try_from(format!("/org/freedesktop/secrets/collection/{collection}"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bus = zbus::connection::Builder::address(self.address.as_str()).unwrap().build().await.unwrap();
            let (name, at) = ("org.freedesktop.secrets", "/org/freedesktop/secrets");
            let interface = Some("org.freedesktop.Secret.Service");
            bus.call_method(Some(name), at, interface, "SetAlias", &("default", path.unwrap())).await.unwrap();
        });
    }

    fn on_bus(&self, work: impl AsyncFnOnce(&secret_service::SecretService<'_>)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bus = zbus::connection::Builder::address(self.address.as_str()).unwrap().build().await.unwrap();
            let encryption = secret_service::EncryptionType::Dh;
            let service = secret_service::SecretService::connect_with_existing(encryption, bus).await.unwrap();
            work(&service).await;
        });
    }

    /// Starts the keyring; without a password it stays locked.
    pub(crate) fn start_keyring(&mut self, password: Option<&str>) {
        let mut command = Command::new("gnome-keyring-daemon");
        command.args(["--foreground", "--components=secrets"]);
        if password.is_some() {
            command.arg("--unlock");
        }
        let run = self.root.path().join("run");
        fs::create_dir_all(&run).unwrap();
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.root.path());
        command.env("XDG_DATA_HOME", self.root.path().join("data")).env("XDG_RUNTIME_DIR", &run);
        command.env("DBUS_SESSION_BUS_ADDRESS", &self.address);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let mut child =
            child.unwrap_or_else(|error| panic!("no gnome-keyring ({error}); `./dev test` installs `gnome-keyring`"));
        let mut input = child.stdin.take().unwrap();
        input.write_all(password.unwrap_or_default().as_bytes()).unwrap();
        drop(input);
        self.keyring = Some(child);
        let begun = Instant::now();
        // A locked one is there once it says so.
        let is_there = || match self.rung().available() {
            Ok(()) => true,
            Err(why) => password.is_none() && why.to_string().contains("locked"),
        };
        while !is_there() {
            assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", self.rung().available());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn stop_keyring(&mut self) {
        let mut child = self.keyring.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        // Whoever looks after a loss is in a new login session: this one's kernel keyring may still know the secret.
        log_in();
    }

    pub(crate) fn rung(&self) -> SecretService {
        SecretService::new(Some(self.address.clone()))
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        for child in self.keyring.iter_mut().chain([&mut self.bus]) {
            let _ended_already = child.kill();
            let _ended_already = child.wait();
        }
    }
}
