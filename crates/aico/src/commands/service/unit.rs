//! The texts of the units, and how a path is written so that systemd reads it back as it was.

use std::path::Path;

use aico_vault::unlock::SystemdCredential;

use super::ServiceError;
use super::owner::Owner;

/// The first line of every unit that is ours.
const MARK: &str =
    "# Written by `aico service install`, which writes it anew: changes belong in a drop-in (`systemctl edit`).";
/// Longest path that is put into a unit, in bytes, as in the kernel.
const MAX_PATH_BYTES: usize = 4096;

/// Whether a unit's text is one of ours.
pub(super) fn is_ours(text: &str) -> bool {
    text.lines().next() == Some(MARK)
}

/// What one of our units sets a variable to.
pub(super) fn environment(text: &str, name: &str) -> Option<String> {
    let quoted = text.lines().find_map(|line| {
        let set = line.strip_prefix("Environment=\"")?.strip_prefix(name)?;
        set.strip_prefix('=')?.strip_suffix('"')
    })?;
    unescaped(quoted)
}

/// What both kinds say of how it is run.
const RUNNING: &str = "\
Restart=on-failure
RestartSec=2
# Wrong arguments, not allowed, held by another process: starting again would not help.
RestartPreventExitStatus=2 6 8
# What was accepted is finished within 30 seconds.
TimeoutStopSec=60";

/// What needs no privilege to take away.
const HARDENING: &str = "\
UMask=0077
LimitCORE=0
# Keys do not go to the swap file. No MemoryMax: a password is stretched in up to 1 GiB.
MemorySwapMax=0
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources @setuid
SystemCallErrorNumber=EPERM";

/// What it takes to run as the user's own service.
#[derive(Debug)]
pub(super) struct UserUnit<'a> {
    pub(super) program: &'a Path,
    pub(super) home: &'a Path,
    pub(super) key_dir: &'a Path,
}

impl UserUnit<'_> {
    /// The unit. Only what works without privileges is in it: a systemd of the user's cannot take away capabilities,
    /// and makes a file system of its own only where users may make namespaces.
    pub(super) fn text(&self) -> Result<String, ServiceError> {
        let program = program_word(self.program)?;
        let home = variable("AICO_HOME", "data folder", self.home)?;
        let key_dir = variable("AICO_KEY_DIR", "key folder", self.key_dir)?;
        Ok(format!(
            "{MARK}
[Unit]
Description=AICO Security

[Service]
Type=exec
ExecStart={program} up
{home}
{key_dir}
{RUNNING}

{HARDENING}
# No network. A drop-in with `RestrictAddressFamilies=AF_INET AF_INET6` gives it back.
RestrictAddressFamilies=AF_UNIX

[Install]
WantedBy=default.target
"
        ))
    }
}

/// What it takes to run as a user of its own.
#[derive(Debug)]
pub(super) struct SystemUnit<'a> {
    pub(super) program: &'a Path,
    pub(super) owner: &'a Owner,
    pub(super) owner_uid: u32,
    pub(super) has_credential: bool,
}

impl SystemUnit<'_> {
    /// The unit.
    pub(super) fn text(&self) -> Result<String, ServiceError> {
        let (owner, owner_uid, own) = (self.owner, self.owner_uid, self.owner.service_user());
        let program = program_word(self.program)?;
        let home = variable("AICO_HOME", "data folder", &owner.data())?;
        let key_dir = variable("AICO_KEY_DIR", "key folder", &owner.keys())?;
        let run = variable("AICO_RUN_DIR", "run folder", &owner.run())?;
        let credential = if self.has_credential { credential(&own) } else { String::new() };
        Ok(format!(
            "{MARK}
[Unit]
Description=AICO Security of {owner}
# The system bus tells when the machine is about to sleep.
Wants=dbus.socket
After=dbus.socket

[Service]
Type=exec
ExecStart={program} up
User={own}
Group={own}
{home}
{key_dir}
{run}
# The only user that is spoken to.
Environment=\"AICO_OWNER_UID={owner_uid}\"
{RUNNING}
{credential}
StateDirectory={own} {own}-keys
StateDirectoryMode=0700
# The owner is in no group of ours, so the socket is reached by its name; the kernel tells who is at its other end.
RuntimeDirectory={own}
RuntimeDirectoryMode=0711

{HARDENING}
CapabilityBoundingSet=
AmbientCapabilities=
KeyringMode=private
NotifyAccess=none
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
PrivateIPC=yes
RemoveIPC=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes

# No network at all. For loopback alone, a drop-in says:
#   [Service]
#   PrivateNetwork=no
#   RestrictAddressFamilies=AF_INET AF_INET6
#   IPAddressAllow=localhost
PrivateNetwork=yes
RestrictAddressFamilies=AF_UNIX
IPAddressDeny=any

# Not hidden, on purpose: the session of a program that connects is read from /proc/PID/stat (ProtectProc), the boot's
# number from /proc/sys (ProcSubset), and the owner's number from the socket, which PrivateUsers would turn into nobody's.
ProtectProc=default
ProcSubset=all
PrivateUsers=no

[Install]
WantedBy=multi-user.target
"
        ))
    }
}

/// What gives the unit the credential that lies under its user's name. Without a folder before the name, one that is gone
/// does not keep the service from starting.
fn credential(own: &str) -> String {
    format!(
        "\n# systemd decrypts it, and keeps it in memory.\nLoadCredentialEncrypted={}:{own}\n",
        SystemdCredential::NAME
    )
}

/// `Environment="NAME=…"`.
fn variable(name: &str, what: &'static str, path: &Path) -> Result<String, ServiceError> {
    Ok(format!("Environment=\"{name}={}\"", escaped(what, path)?))
}

/// The program of an `ExecStart=`: systemd takes no path with quotes or backslashes there, however they are written.
fn program_word(program: &Path) -> Result<String, ServiceError> {
    let text = escaped("program", program)?;
    let refuse = |why| Err(ServiceError::Text { what: "program", text: program.display().to_string(), why });
    if text.contains(['"', '\'', '\\']) {
        refuse("systemd runs no program whose path has quotes or backslashes")
    } else if !program.is_absolute() || program.as_os_str().as_encoded_bytes().ends_with(b" (deleted)") {
        refuse("its file is gone")
    } else {
        Ok(format!("\"{text}\""))
    }
}

/// A path between double quotes: nothing in it is a quote, an escape or a specifier.
fn escaped(what: &'static str, path: &Path) -> Result<String, ServiceError> {
    let refuse = |why| ServiceError::Text { what, text: path.display().to_string(), why };
    let text = path.to_str().ok_or_else(|| refuse("it is not UTF-8"))?;
    if text.len() > MAX_PATH_BYTES {
        return Err(refuse("it is too long"));
    }
    if text.chars().any(|c| c.is_control() || is_noncharacter(c)) {
        return Err(refuse("it has line breaks or other characters that systemd does not take"));
    }
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '\\' | '"' => out.extend(['\\', c]),
            '%' => out.push_str("%%"),
            other => out.push(other),
        }
    }
    Ok(out)
}

/// The code points that Unicode keeps for nobody.
fn is_noncharacter(c: char) -> bool {
    matches!(c, '\u{fdd0}'..='\u{fdef}') || u32::from(c) & 0xfffe == 0xfffe
}

/// What [`escaped`] was made from.
fn unescaped(text: &str) -> Option<String> {
    let mut out = String::new();
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        out.push(match c {
            '\\' => rest.next()?,
            '%' => rest.next().filter(|next| *next == '%')?,
            other => other,
        });
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    use proptest::prelude::*;

    use super::*;

    fn unit(home: &Path) -> Result<String, ServiceError> {
        UserUnit { program: Path::new("/usr/bin/aico"), home, key_dir: Path::new("/k") }.text()
    }

    #[test]
    fn paths_are_written_so_that_systemd_reads_them_back() {
        let text = unit(Path::new(r#"/a b/100%n/"q"/\x20/$HOME/'"#)).unwrap();
        assert!(text.contains(r#"Environment="AICO_HOME=/a b/100%%n/\"q\"/\\x20/$HOME/'""#), "{text}");
        assert_eq!(environment(&text, "AICO_HOME").as_deref(), Some(r#"/a b/100%n/"q"/\x20/$HOME/'"#));
        assert_eq!(environment(&text, "AICO_KEY_DIR").as_deref(), Some("/k"));
        assert_eq!(environment(&text, "AICO"), None);
        assert!(is_ours(&text) && !is_ours(&format!("\n{text}")) && !is_ours(&format!("#{text}")));
    }

    #[test]
    fn paths_that_would_become_lines_of_their_own_are_refused() {
        let long = format!("/{}", "a".repeat(MAX_PATH_BYTES));
        for bad in ["/a\nExecStartPre=/bin/sh", "/a\r", "/a\0", "/a\tb", "/a\u{85}", "/a\u{fffe}", "/\u{7f}", &long] {
            assert_eq!(unit(Path::new(bad)).unwrap_err().exit_code(), 2, "{bad:?}");
        }
        unit(Path::new(OsStr::from_bytes(b"/\xff"))).unwrap_err();
        for bad in ["/a\"", "/a'", "/a\\", "/a\n", "aico", "/a/aico (deleted)"] {
            program_word(Path::new(bad)).unwrap_err();
        }
        assert_eq!(program_word(Path::new("/a b/50%/aico")).unwrap(), "\"/a b/50%%/aico\"");
    }

    #[test]
    fn the_system_unit_names_its_owner_and_nobody_else() {
        let owner = Owner::parse("anna").unwrap();
        let text = SystemUnit { program: Path::new("/p"), owner: &owner, owner_uid: 1000, has_credential: true }
            .text()
            .unwrap();
        for line in [
            "User=aico-anna",
            "Environment=\"AICO_RUN_DIR=/run/aico-anna\"",
            "Environment=\"AICO_OWNER_UID=1000\"",
            "StateDirectory=aico-anna aico-anna-keys",
            "RuntimeDirectory=aico-anna",
            "LoadCredentialEncrypted=aico-slot:aico-anna",
        ] {
            assert!(text.lines().any(|l| l == line), "{line}");
        }
        assert!(is_ours(&text));
    }

    proptest! {
        #[test]
        fn every_path_is_refused_or_read_back(path in r#"/([a-z%"'\\ $;#\n=-]|.){0,40}"#) {
            if let Ok(text) = unit(Path::new(&path)) {
                prop_assert_eq!(environment(&text, "AICO_HOME"), Some(path));
                prop_assert_eq!(text.lines().filter(|line| line.starts_with("Exec")).count(), 1);
                prop_assert_eq!(text.lines().count(), unit(Path::new("/x")).unwrap().lines().count());
            }
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "(Environment=|\"|AICO_HOME|=|%|\\\\|\n|.){0,30}") {
            let _ = is_ours(&text);
            let _ = environment(&text, "AICO_HOME");
        }
    }
}
