//! What the worker may ask of the kernel: files by Landlock, system calls by seccomp.
//!
//! Whoever takes the worker over through a fault in it has the keys and data of an open vault. These filters keep them
//! from more: from other files of the user, from starting programs, from new code in memory, from reaching out to the
//! network, from other processes. They cannot be taken off again.
//!
//! Two steps: [`confine`] before the first thread starts, and [`close_the_network`] when every door is open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aico_crypto::Protection;
use aico_vault::Places;
use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// The newest Landlock that this was written for; an older kernel gives what it has.
const LANDLOCK: ABI = ABI::V6;

/// Read by libraries: OpenSSL's configuration, the C library's locale and user tables, what the kernel tells of itself.
const READABLE: &[&str] = &["/etc", "/usr/lib", "/usr/share", "/usr/local/lib", "/lib", "/lib64", "/proc", "/sys"];
const DEVICES: &[&str] = &["/dev/urandom", "/dev/random", "/dev/null"];

/// What holds this process in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// `landlock` and `seccomp`, as far as the kernel has them.
    pub by: Vec<&'static str>,
    /// Why one of them is missing.
    pub missing: Vec<String>,
}

/// Confines this thread and every thread and process that it starts to what the worker needs. Call it before any other
/// thread exists. A kernel without these filters is reported, not refused.
#[must_use]
pub fn confine(places: &Places, run_folder: &Path) -> Confinement {
    let mut confinement = Confinement::default();
    let folders = [&places.home, &places.key_dir, &run_folder.to_owned()].map(PathBuf::clone);
    let mut note = |name, result: Result<(), String>| match result {
        Ok(()) => confinement.by.push(name),
        Err(why) => confinement.missing.push(format!("{name}: {why}")),
    };
    note("landlock", restrict_files(&folders, places.credentials.as_deref()));
    note("seccomp", restrict_calls());
    confinement
}

/// How the keys of this process are kept, in the words of `status`.
#[must_use]
pub fn memory() -> &'static str {
    match aico_crypto::protection() {
        Protection::Secret => "secret",
        Protection::Locked => "locked",
        Protection::Unlocked => "unlocked",
    }
}

fn restrict_files(folders: &[PathBuf], credentials: Option<&Path>) -> Result<(), String> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let work = AccessFs::from_all(LANDLOCK) & !(AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock);
    let open = |path: &Path, access: BitFlags<AccessFs>| {
        let access = if path.is_dir() { access } else { access & AccessFs::from_file(LANDLOCK) };
        PathFd::new(path).ok().map(|file| Ok(PathBeneath::new(file, access)))
    };
    // What is not there cannot be allowed; nobody misses it.
    let readable = READABLE.iter().map(Path::new).chain(credentials).filter_map(|path| open(path, read));
    let devices = DEVICES.iter().filter_map(|path| open(Path::new(path), read | AccessFs::WriteFile));
    let ours = folders.iter().filter_map(|path| open(path, work));
    let rules: Vec<Result<_, landlock::RulesetError>> = readable.chain(devices).chain(ours).collect();
    let restrict = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(LANDLOCK))?
            .handle_access(AccessNet::ConnectTcp)?
            .scope(Scope::Signal)?
            .create()?
            .add_rules(rules)?
            .restrict_self()
    };
    match restrict().map_err(|error: landlock::RulesetError| error.to_string())?.ruleset {
        RulesetStatus::NotEnforced => Err("this kernel does not have it".to_owned()),
        RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
    }
}

/// What is not listed does not exist: `ENOSYS`, which the C library takes as an old kernel's answer.
fn restrict_calls() -> Result<(), String> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    rules.extend(limited().map_err(|error| error.to_string())?);
    let nothing = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    load(rules, nothing, SeccompAction::Allow, false)
}

/// No new socket but a local one, and no new door. Call it once every door is open.
pub fn close_the_network() -> Result<(), String> {
    let other = || SeccompRule::new(vec![SeccompCondition::new(0, Len::Dword, Op::Ne, libc::AF_UNIX as u64)?]);
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = BTreeMap::new();
    rules.insert(libc::SYS_socket, vec![other().map_err(|error| error.to_string())?]);
    rules.insert(libc::SYS_bind, Vec::new());
    rules.insert(libc::SYS_listen, Vec::new());
    load(rules, SeccompAction::Allow, SeccompAction::Errno(libc::EACCES.cast_unsigned()), true)
}

fn load(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matched: SeccompAction,
    every_thread: bool,
) -> Result<(), String> {
    let load = || {
        let machine = TargetArch::try_from(std::env::consts::ARCH)?;
        let filter: BpfProgram = SeccompFilter::new(rules, otherwise, matched, machine)?.try_into()?;
        if every_thread { seccompiler::apply_filter_all_threads(&filter) } else { seccompiler::apply_filter(&filter) }
    };
    load().map_err(|error: seccompiler::Error| error.to_string())
}

/// System calls that are allowed with some arguments only.
pub const LIMITED: &[i64] = &[
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_clone,
    libc::SYS_socket,
    libc::SYS_ioctl,
    libc::SYS_prctl,
    libc::SYS_prlimit64,
];

fn limited() -> Result<[(i64, Vec<SeccompRule>); 7], seccompiler::BackendError> {
    // The kernel's constants are of many integer types; all are small and positive.
    let is = |argument, value: i128| SeccompCondition::new(argument, Len::Dword, Op::Eq, value as u64);
    let none_of = |argument, bits: i128| SeccompCondition::new(argument, Len::Dword, Op::MaskedEq(bits as u64), 0);
    let rule = |condition| SeccompRule::new(vec![condition]);
    let threads =
        libc::CLONE_THREAD | libc::CLONE_NEWNS | libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWPID;
    let only_a_thread = Op::MaskedEq(threads as u64);
    let only_a_thread = SeccompCondition::new(0, Len::Dword, only_a_thread, libc::CLONE_THREAD as u64)?;
    Ok([
        // No code that was not there at the start.
        (libc::SYS_mmap, vec![rule(none_of(2, libc::PROT_EXEC.into())?)?]),
        (libc::SYS_mprotect, vec![rule(none_of(2, libc::PROT_EXEC.into())?)?]),
        // Threads, no processes. `clone3` hides its flags in memory; its absence makes the C library use this one.
        (libc::SYS_clone, vec![rule(only_a_thread)?]),
        (
            libc::SYS_socket,
            vec![
                rule(is(0, libc::AF_UNIX.into())?)?,
                rule(is(0, libc::AF_INET.into())?)?,
                rule(is(0, libc::AF_INET6.into())?)?,
            ],
        ),
        (
            libc::SYS_ioctl,
            vec![
                rule(is(1, libc::FIONBIO.into())?)?,
                rule(is(1, libc::FIOCLEX.into())?)?,
                rule(is(1, libc::TCGETS.into())?)?,
                rule(is(1, libc::TIOCGWINSZ.into())?)?,
            ],
        ),
        (
            libc::SYS_prctl,
            vec![
                rule(is(0, libc::PR_SET_NAME.into())?)?,
                rule(is(0, libc::PR_GET_DUMPABLE.into())?)?,
                rule(is(0, libc::PR_SET_NO_NEW_PRIVS.into())?)?,
                // glibc names its mappings.
                rule(is(0, libc::PR_SET_VMA.into())?)?,
            ],
        ),
        // Our own limits only, and only to read them.
        (
            libc::SYS_prlimit64,
            vec![SeccompRule::new(vec![is(0, 0)?, SeccompCondition::new(2, Len::Qword, Op::Eq, 0)?])?],
        ),
    ])
}

/// What runtime, store, log and doors need.
#[rustfmt::skip]
pub const ALLOWED: &[i64] = &[
    // Files.
    libc::SYS_read, libc::SYS_readv, libc::SYS_pread64, libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64,
    libc::SYS_lseek, libc::SYS_openat, libc::SYS_close, libc::SYS_close_range, libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx,
    libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_faccessat, libc::SYS_faccessat2, libc::SYS_readlinkat,
    libc::SYS_getdents64, libc::SYS_mkdirat, libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_linkat,
    libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchown, libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_fsync,
    libc::SYS_fdatasync, libc::SYS_syncfs, libc::SYS_fadvise64, libc::SYS_flock, libc::SYS_fcntl, libc::SYS_dup, libc::SYS_dup3,
    libc::SYS_umask, libc::SYS_getcwd, libc::SYS_utimensat,
    // Memory.
    libc::SYS_munmap, libc::SYS_mremap, libc::SYS_madvise, libc::SYS_brk, libc::SYS_mlock, libc::SYS_mlock2,
    libc::SYS_munlock, libc::SYS_memfd_secret, libc::SYS_membarrier,
    // Threads, signals, time.
    libc::SYS_futex, libc::SYS_set_robust_list, libc::SYS_rseq, libc::SYS_sched_yield, libc::SYS_sched_getaffinity,
    libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn, libc::SYS_sigaltstack,
    libc::SYS_restart_syscall, libc::SYS_tgkill, libc::SYS_exit, libc::SYS_exit_group, libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep, libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday,
    // What it is and where it runs.
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getegid, libc::SYS_getpgid, libc::SYS_getsid, libc::SYS_uname, libc::SYS_sysinfo, libc::SYS_getrusage,
    libc::SYS_getrandom,
    // Waiting and sockets.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_ppoll,
    libc::SYS_eventfd2, libc::SYS_pipe2, libc::SYS_socketpair, libc::SYS_connect, libc::SYS_accept4, libc::SYS_bind,
    libc::SYS_listen, libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_setsockopt, libc::SYS_getsockopt,
    libc::SYS_shutdown, libc::SYS_sendto, libc::SYS_recvfrom, libc::SYS_sendmsg, libc::SYS_recvmsg,
    // The kernel's keyring, and more filters.
    libc::SYS_add_key, libc::SYS_request_key, libc::SYS_keyctl, libc::SYS_seccomp,
    // What newer machines do through the calls above.
    #[cfg(target_arch = "x86_64")] libc::SYS_open,
    #[cfg(target_arch = "x86_64")] libc::SYS_stat,
    #[cfg(target_arch = "x86_64")] libc::SYS_lstat,
    #[cfg(target_arch = "x86_64")] libc::SYS_access,
    #[cfg(target_arch = "x86_64")] libc::SYS_readlink,
    #[cfg(target_arch = "x86_64")] libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")] libc::SYS_rmdir,
    #[cfg(target_arch = "x86_64")] libc::SYS_unlink,
    #[cfg(target_arch = "x86_64")] libc::SYS_rename,
    #[cfg(target_arch = "x86_64")] libc::SYS_link,
    #[cfg(target_arch = "x86_64")] libc::SYS_chmod,
    #[cfg(target_arch = "x86_64")] libc::SYS_dup2,
    #[cfg(target_arch = "x86_64")] libc::SYS_poll,
    #[cfg(target_arch = "x86_64")] libc::SYS_epoll_wait,
    #[cfg(target_arch = "x86_64")] libc::SYS_getpgrp,
    #[cfg(target_arch = "x86_64")] libc::SYS_time,
];
