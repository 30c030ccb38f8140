//! The disk is full.

use std::process::{Command, Stdio};

use crate::home::{Home, bytes};

/// Starts the backend with a limit on the size of every file: a write beyond it fails as on a full disk.
fn up_with_limit(home: &mut Home, kib: u32) {
    let backend = home.command(&["up"]);
    let mut limited = Command::new("/bin/bash");
    limited.args(["-c", "trap '' XFSZ; ulimit -f \"$1\"; exec \"$2\" up", "bash", &kib.to_string()]);
    limited.arg(backend.get_program()).env_clear();
    limited.envs(backend.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let child = limited.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    home.adopt(child);
    while !home.run(&["status"]).status.success() {
        assert!(!home.has_ended());
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn a_put_that_does_not_fit_is_refused_and_changes_nothing() {
    let mut home = Home::running();
    home.put_ok("notes/large", &bytes(1, 2 << 20));
    home.put_ok("notes/small", b"before");
    home.down();
    up_with_limit(&mut home, 4096);
    for _ in 0..3 {
        let output = home.put("notes/large", &bytes(2, 8 << 20));
        assert_eq!(output.status.code(), Some(7), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stderr).contains("hint: free some space"));
    }
    assert!(home.get("notes/large") == bytes(1, 2 << 20), "the old value is whole");
    home.put_ok("notes/small", b"after");
    assert_eq!(home.get("notes/small"), b"after", "what fits goes on");
    home.down();
    home.up();
    assert!(home.get("notes/large") == bytes(1, 2 << 20));
    home.ok(&["audit", "verify", "--require-anchor"]);
}

/// A real file system of 12 MiB, filled up; needs root for the mount.
#[test]
fn a_full_file_system_loses_nothing_and_heals() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount a small file system");
        return;
    }
    let mut home = Home::new();
    let mounted = Mounted::at(&home.data(), "size=12m");
    home.up();
    home.put_ok("notes/kept", &bytes(1, 2 << 20));
    let mut stored = Vec::new();
    let refused = loop {
        let path = format!("fill/{}", stored.len());
        let output = home.put(&path, &bytes(stored.len() as u64, 700_000));
        if !output.status.success() {
            break output;
        }
        stored.push(path);
        assert!(stored.len() < 100);
    };
    assert_eq!(refused.status.code(), Some(7), "{}", String::from_utf8_lossy(&refused.stderr));
    assert!(home.get("notes/kept") == bytes(1, 2 << 20));
    for (seed, path) in stored.iter().enumerate() {
        assert!(home.get(path) == bytes(seed as u64, 700_000), "{path} was acknowledged");
    }
    home.kill();
    home.up();
    for (seed, path) in stored.iter().enumerate() {
        assert!(home.get(path) == bytes(seed as u64, 700_000), "{path} after a crash on the full disk");
    }
    mounted.grow("size=40m");
    home.put_ok("notes/later", &bytes(9, 2 << 20));
    assert!(home.get("notes/later") == bytes(9, 2 << 20));
    home.down();
    home.ok(&["audit", "verify", "--require-anchor"]);
}

struct Mounted(std::path::PathBuf);

impl Mounted {
    fn at(path: &std::path::Path, options: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let status = Command::new("mount").args(["-t", "tmpfs", "-o", options, "none"]).arg(path).status().unwrap();
        assert!(status.success());
        Self(path.to_owned())
    }

    fn grow(&self, options: &str) {
        let options = format!("remount,{options}");
        assert!(Command::new("mount").args(["-o", &options]).arg(&self.0).status().unwrap().success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _busy = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
