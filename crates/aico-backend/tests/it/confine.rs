//! What a worker that was taken over can still ask of the kernel. Each test runs again in a process of its own, because
//! the filters cannot be taken off.
#![expect(unsafe_code, reason = "system calls as an attacker's code makes them")]

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;

use aico_backend::confine::{ALLOWED, LIMITED, close_the_network, confine};
use aico_vault::Places;
use aico_vault::unlock::Tpm;

const FOLDER: &str = "AICO_TEST_CONFINED_IN";

/// Runs the test `name` of this file in a process of its own, with a folder of its own.
fn in_a_process(name: &str, prepare: impl FnOnce(&Path)) {
    let folder = tempfile::tempdir().unwrap();
    for part in ["data", "keys", "run", "elsewhere"] {
        fs::create_dir(folder.path().join(part)).unwrap();
    }
    prepare(folder.path());
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", &format!("confine::{name}"), "--nocapture", "--test-threads=1"]);
    let output = again.env(FOLDER, folder.path()).output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

/// The folder, in the process that is to be confined.
fn here() -> Option<PathBuf> {
    std::env::var_os(FOLDER).map(PathBuf::from)
}

fn confined(folder: &Path) {
    let places = Places {
        home: folder.join("data"),
        key_dir: folder.join("keys"),
        bus: None,
        tpm: Tpm::none(),
        credentials: None,
    };
    let confinement = confine(&places, &folder.join("run"));
    assert_eq!(confinement.by, ["landlock", "seccomp"], "{:?}", confinement.missing);
}

fn call(number: i64, arguments: [i64; 6]) -> std::io::Result<i64> {
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: no argument is an address of ours: pointers are null or one that nothing is mapped at.
    match unsafe { libc::syscall(number, a, b, c, d, e, f) } {
        -1 => Err(std::io::Error::last_os_error()),
        done => Ok(done),
    }
}

fn refused<T>(what: &str, result: std::io::Result<T>, with: &[i32]) {
    match result {
        Ok(_) => panic!("{what} is possible"),
        Err(error) => assert!(with.contains(&error.raw_os_error().unwrap_or(0)), "{what}: {error}"),
    }
}

#[test]
fn files_outside_the_vault_are_out_of_reach() {
    let Some(folder) = here() else {
        return in_a_process("files_outside_the_vault_are_out_of_reach", |folder| {
            fs::write(folder.join("elsewhere/diary"), "dear diary").unwrap();
            fs::write(folder.join("data/store"), "ours").unwrap();
            std::os::unix::fs::symlink(folder.join("elsewhere/diary"), folder.join("data/link")).unwrap();
        });
    };
    confined(&folder);
    let elsewhere = folder.join("elsewhere");
    refused("reading", fs::read(elsewhere.join("diary")), &[libc::EACCES]);
    refused("reading through a link", fs::read(folder.join("data/link")), &[libc::EACCES]);
    refused("writing", fs::write(elsewhere.join("diary"), "x"), &[libc::EACCES]);
    refused("making", File::create(elsewhere.join("new")), &[libc::EACCES]);
    refused("listing", fs::read_dir(&elsewhere), &[libc::EACCES]);
    refused("removing", fs::remove_file(elsewhere.join("diary")), &[libc::EACCES]);
    refused("moving out", fs::rename(folder.join("data/store"), elsewhere.join("store")), &[libc::EACCES, libc::EXDEV]);
    refused("linking out", fs::hard_link(folder.join("data/store"), elsewhere.join("s")), &[libc::EACCES, libc::EXDEV]);
    refused("the user's files", fs::read_dir("/root"), &[libc::EACCES]);
    refused("the user's files", fs::read_dir("/home"), &[libc::EACCES]);
    refused("writing below /etc", File::create("/etc/aico-was-here"), &[libc::EACCES]);
    refused("writing below /proc", fs::write("/proc/self/oom_score_adj", "0"), &[libc::EACCES]);
    refused("the disks", File::open("/dev/vda"), &[libc::EACCES, libc::ENOENT]);

    // What the worker does all day goes on.
    for part in ["data", "keys", "run"] {
        let file = folder.join(part).join("file");
        fs::write(&file, "kept").unwrap();
        File::open(&file).unwrap().sync_all().unwrap();
        fs::rename(&file, file.with_extension("new")).unwrap();
        fs::create_dir(folder.join(part).join("folder")).unwrap();
        fs::remove_file(file.with_extension("new")).unwrap();
    }
    assert!(fs::read_to_string("/proc/self/stat").is_ok() && fs::read("/proc/sys/kernel/random/boot_id").is_ok());
    File::options().write(true).open("/dev/null").unwrap().write_all(b"x").unwrap();
    assert_eq!(std::thread::spawn(|| 7).join().unwrap(), 7);
}

#[test]
fn no_program_starts_and_no_other_process_is_touched() {
    let Some(folder) = here() else {
        return in_a_process("no_program_starts_and_no_other_process_is_touched", |folder| {
            fs::copy("/bin/true", folder.join("data/program")).unwrap();
        });
    };
    let parent = i64::from(std::os::unix::process::parent_id());
    confined(&folder);
    for program in [PathBuf::from("/bin/true"), folder.join("data/program")] {
        assert!(Command::new(program).status().is_err(), "a program starts");
    }
    let nosys = &[libc::ENOSYS];
    refused("execve", call(libc::SYS_execve, [0; 6]), nosys);
    refused("execveat", call(libc::SYS_execveat, [0; 6]), nosys);
    refused("fork", call(libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0, 0, 0, 0]), nosys);
    refused("clone3", call(libc::SYS_clone3, [0; 6]), nosys);
    refused("a namespace", call(libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0, 0, 0, 0]), nosys);
    refused("ptrace", call(libc::SYS_ptrace, [libc::PTRACE_SEIZE.into(), parent, 0, 0, 0, 0]), nosys);
    refused("reading memory", call(libc::SYS_process_vm_readv, [parent, 0, 0, 0, 0, 0]), nosys);
    refused("a signal", call(libc::SYS_kill, [parent, 0, 0, 0, 0, 0]), nosys);
    refused("a signal to a thread of another", call(libc::SYS_tgkill, [parent, parent, 0, 0, 0, 0]), &[libc::EPERM]);
    refused("pidfd_open", call(libc::SYS_pidfd_open, [parent, 0, 0, 0, 0, 0]), nosys);
    // Its own protections stay.
    refused("dumping again", call(libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0, 0, 0, 0]), nosys);
    let limit = libc::rlimit64 { rlim_cur: 1, rlim_max: 1 };
    // SAFETY: `limit` lives until the call is over.
    let raised = unsafe { libc::syscall(libc::SYS_prlimit64, 0, libc::RLIMIT_CORE, &raw const limit, 0) };
    assert_eq!(raised, -1, "the limit of core dumps was raised");
}

#[test]
fn no_new_code_comes_into_memory() {
    let Some(folder) = here() else {
        return in_a_process("no_new_code_comes_into_memory", |_| {});
    };
    confined(&folder);
    let map = |access: i32| call(libc::SYS_mmap, [0, 4096, access.into(), 0x22, -1, 0]);
    let page = map(libc::PROT_READ | libc::PROT_WRITE).unwrap();
    let nosys = &[libc::ENOSYS];
    refused("mmap of code", map(libc::PROT_READ | libc::PROT_EXEC), nosys);
    refused("mmap of code to write", map(libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC), nosys);
    let exec = i64::from(libc::PROT_READ | libc::PROT_EXEC);
    refused("mprotect to code", call(libc::SYS_mprotect, [page, 4096, exec, 0, 0, 0]), nosys);
    refused("pkey_mprotect", call(libc::SYS_pkey_mprotect, [page, 4096, exec, -1, 0, 0]), nosys);
    refused("memfd_create", call(libc::SYS_memfd_create, [0; 6]), nosys);
    refused("personality", call(libc::SYS_personality, [0x0040_0000, 0, 0, 0, 0, 0]), nosys);
}

#[test]
fn nothing_is_reached_over_the_network() {
    let Some(folder) = here() else {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        return in_a_process("nothing_is_reached_over_the_network", |folder| {
            fs::write(folder.join("data/port"), port.to_string()).unwrap();
        });
    };
    let port: u16 = fs::read_to_string(folder.join("data/port")).unwrap().parse().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok(), "the control works");
    confined(&folder);
    refused("connecting", TcpStream::connect(("127.0.0.1", port)), &[libc::EACCES]);
    refused("a raw socket", call(libc::SYS_socket, [libc::AF_PACKET.into(), 3, 0, 0, 0, 0]), &[libc::ENOSYS]);
    refused("netlink", call(libc::SYS_socket, [libc::AF_NETLINK.into(), 3, 0, 0, 0, 0]), &[libc::ENOSYS]);

    // The doors open, and then no more.
    let door = TcpListener::bind("127.0.0.1:0").unwrap();
    let local = UnixListener::bind(folder.join("run/door.sock")).unwrap();
    close_the_network().unwrap();
    refused("another door", TcpListener::bind("127.0.0.1:0"), &[libc::EACCES]);
    refused("another local door", UnixListener::bind(folder.join("run/other.sock")), &[libc::EACCES]);
    for family in [libc::AF_INET, libc::AF_INET6] {
        refused("a socket", call(libc::SYS_socket, [family.into(), 2, 0, 0, 0, 0]), &[libc::EACCES]);
    }
    let client = UnixStream::connect(folder.join("run/door.sock")).unwrap();
    local.accept().unwrap().0.write_all(b"x").unwrap();
    drop(client);
    door.set_nonblocking(true).unwrap();
    assert_eq!(door.accept().unwrap_err().kind(), ErrorKind::WouldBlock, "it still answers");
}

/// Every number that the kernel has a call for, and some that it does not have yet.
#[test]
fn every_other_system_call_does_not_exist() {
    let Some(folder) = here() else {
        return in_a_process("every_other_system_call_does_not_exist", |_| {});
    };
    confined(&folder);
    // The kernel's own probes, which it keeps from every filter: a program that calls them is killed.
    const PROBES: [i64; 2] = [335, 336];
    let mut tried = 0;
    for number in (0..600).chain(0x4000_0000..0x4000_0010) {
        if ALLOWED.contains(&number) || LIMITED.contains(&number) || PROBES.contains(&number) {
            continue;
        }
        // Arguments that would do nothing, were the call let through: no address, no descriptor, no process.
        let error = call(number, [-1; 6]).err().and_then(|error| error.raw_os_error());
        assert_eq!(error, Some(libc::ENOSYS), "call {number}");
        tried += 1;
    }
    assert!(tried > 400, "{tried}");
}
