//! A backend with a user of its own, and the one owner whom it answers. Needs root to become others.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use crate::home::copy_program;

const SERVICE: u32 = 65534;
const OWNER: u32 = 61_234;
const OTHER: u32 = 61_235;

struct Service {
    root: tempfile::TempDir,
    child: Option<Child>,
}

impl Service {
    fn folder(&self, name: &str, owner: u32, mode: u32) -> PathBuf {
        let path = self.root.path().join(name);
        fs::create_dir(&path).unwrap();
        chown(&path, Some(owner), Some(owner)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn start() -> Self {
        let mut service = Self { root: tempfile::tempdir().unwrap(), child: None };
        fs::set_permissions(service.root.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let program = service.root.path().join("aico");
        copy_program(Path::new(env!("CARGO_BIN_EXE_aico")), &program);
        let (data, keys) = (service.folder("data", SERVICE, 0o700), service.folder("keys", SERVICE, 0o700));
        service.folder("run", SERVICE, 0o711);
        for (name, user) in [("owner", OWNER), ("other", OTHER), ("second", OWNER)] {
            service.folder(name, user, 0o700);
        }
        let mut command = service.command(SERVICE, &data, &keys);
        command.env("AICO_OWNER_UID", OWNER.to_string()).arg("up").stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("Ctrl-C")));
        std::thread::spawn(move || lines.for_each(drop));
        service.child = Some(child);
        service
    }

    fn command(&self, user: u32, home: &Path, keys: &Path) -> Command {
        let mut command = Command::new(self.root.path().join("aico"));
        command.env_clear().env("AICO_HOME", home).env("AICO_KEY_DIR", keys).current_dir("/");
        command.env("AICO_RUN_DIR", self.root.path().join("run")).uid(user).gid(user).stdin(Stdio::null());
        command
    }

    fn run(&self, user: u32, folder: &str, args: &[&str]) -> Output {
        let path = self.root.path().join(folder);
        self.command(user, &path.join("data"), &path.join("keys")).args(args).output().unwrap()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ended_already = child.kill();
            let _ended_already = child.wait();
        }
    }
}

#[test]
fn a_service_answers_its_owner_and_nobody_else() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can act as other users");
        return;
    }
    let service = Service::start();
    let status = service.run(OWNER, "owner", &["status"]);
    assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
    assert!(String::from_utf8_lossy(&status.stdout).contains("the owner's command line was enrolled"));
    assert!(service.run(OWNER, "owner", &["lock"]).status.success());
    assert_eq!(service.run(OWNER, "owner", &["data", "list"]).status.code(), Some(9));
    assert!(service.run(OWNER, "owner", &["unlock"]).status.success());
    assert!(service.run(OWNER, "owner", &["data", "list"]).status.success());
    let other = service.run(OTHER, "other", &["status"]);
    assert!(!other.status.success() && other.stdout.is_empty());
    // The owner's programs cannot read what is the service's.
    for name in ["data", "keys"] {
        let path = service.root.path().join(name);
        let listed = Command::new("ls").arg(path).uid(OWNER).gid(OWNER).stderr(Stdio::null()).status().unwrap();
        assert!(!listed.success(), "{name}");
    }
    // A second identity of the owner's user has to be let in by the first.
    let mut second =
        service.command(OWNER, &service.root.path().join("second/data"), &service.root.path().join("second/keys"));
    let mut waiting = second.arg("status").stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(waiting.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("waiting for the owner"), "{line}");
    waiting.kill().unwrap();
    waiting.wait().unwrap();
}
