//! The TPM 2.0, by a swtpm of the test's own; never the machine's.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use aico_vault::unlock::Tpm;

/// Two ports in a row that nobody has, and no other test gets.
pub(crate) fn free_ports() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let number = std::process::id().wrapping_mul(64).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 20_000 + u16::try_from(number % 6_000).unwrap() * 2;
        let bind = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if bind(port) && bind(port + 1) {
            return port;
        }
    }
}

/// A TPM in software, with a state that outlives its process.
pub(crate) struct SoftTpm {
    state: tempfile::TempDir,
    port: u16,
    process: Option<Child>,
}

impl SoftTpm {
    pub(crate) fn new() -> Self {
        let mut this = Self { state: tempfile::tempdir().unwrap(), port: 0, process: None };
        this.start();
        this
    }

    /// Switches it on, as it is after a restart of the machine.
    pub(crate) fn start(&mut self) {
        loop {
            // The address stays the same across restarts.
            if self.port == 0 {
                self.port = free_ports();
            }
            let path = self.state.path().display();
            let mut swtpm = Command::new("swtpm")
                .args(["socket", "--tpm2", "--flags", "not-need-init,startup-clear"])
                .args(["--tpmstate", &format!("dir={path}")])
                .args(["--server", &format!("type=tcp,bindaddr=127.0.0.1,port={}", self.port)])
                .args(["--ctrl", &format!("type=tcp,bindaddr=127.0.0.1,port={}", self.port + 1)])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap_or_else(|error| panic!("swtpm does not start ({error}); `./dev test` installs it"));
            let begun = Instant::now();
            while swtpm.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", self.port + 1)).is_ok() && swtpm.try_wait().unwrap().is_none() {
                    self.process = Some(swtpm);
                    return;
                }
                assert!(begun.elapsed() < Duration::from_secs(20), "swtpm does not listen");
                std::thread::sleep(Duration::from_millis(5));
            }
            // Somebody else has the port.
            self.port = 0;
        }
    }

    pub(crate) fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    pub(crate) fn address(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// A connection of its own, which is made at its first use.
    pub(crate) fn line(&self) -> Tpm {
        Tpm::at(Some(&self.address()))
    }

    /// Runs one of the tpm2-tools on it.
    pub(crate) fn run(&self, program: &str, args: &[&str]) {
        let mut command = Command::new(program);
        let output = command.args(args).env("TPM2TOOLS_TCTI", self.address()).output();
        let output = output.unwrap_or_else(|error| panic!("{program} ({error}); `./dev test` installs tpm2-tools"));
        assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// What firmware does that finds other keys of Secure Boot.
    pub(crate) fn change_secure_boot(&self) {
        self.run("tpm2_pcrextend", &[&format!("7:sha256={}", "ab".repeat(32))]);
    }
}

impl Drop for SoftTpm {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ended_already = process.kill();
            let _ended_already = process.wait();
        }
    }
}
