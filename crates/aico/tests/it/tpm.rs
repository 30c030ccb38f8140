//! The TPM behind the whole program: the worker uses it from within its confinement.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::Command;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::home::{Home, files};
use crate::pty::Terminal;
use crate::soft_tpm::SoftTpm;

/// A home whose machine has this TPM as a device: a pseudoterminal that hands whole commands and answers on. As with the
/// kernel's `/dev/tpmrm0`, everything is said over the one descriptor that the worker opened before it was confined.
fn with_tpm(tpm: &SoftTpm) -> (Home, File) {
    tpm.line().connect().unwrap();
    let pty = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&pty).unwrap();
    unlockpt(&pty).unwrap();
    let path = ptsname(&pty, Vec::new()).unwrap().into_string().unwrap();
    // Held open, so that the other end is never without one.
    let device = File::options().read(true).write(true).open(&path).unwrap();
    assert!(Command::new("stty").args(["-F", &path, "raw", "-echo"]).status().unwrap().success());
    let port = tpm.address().rsplit_once('=').unwrap().1.parse::<u16>().unwrap();
    let mut pty = File::from(pty);
    std::thread::spawn(move || -> io::Result<()> {
        loop {
            let command = message(&mut pty)?;
            // One connection a command: this simulator speaks to one at a time.
            let mut line = TcpStream::connect(("127.0.0.1", port))?;
            line.write_all(&command)?;
            let answer = message(&mut line)?;
            drop(line);
            pty.write_all(&answer)?;
        }
    });
    let mut home = Home::new();
    home.set("AICO_TPM", &format!("device:{path}"));
    (home, device)
}

/// A command or an answer: its length is in its third to sixth byte.
fn message(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 10];
    from.read_exact(&mut message)?;
    let length = u32::from_be_bytes(message[2..6].try_into().unwrap()) as usize;
    message.resize(length, 0);
    from.read_exact(&mut message[10..])?;
    Ok(message)
}

fn up_by(home: &mut Home, by: &str) -> String {
    let shown = home.up();
    assert!(shown.contains(&format!("unlocked by   {by}\n")), "{shown}");
    shown
}

/// The owner changes the slots, at a terminal.
fn owner(home: &Home, verb: &str, what: &str) {
    let (code, shown) = owner_says(home, verb, what);
    assert_eq!(code, 0, "{shown}");
}

fn owner_says(home: &Home, verb: &str, what: &str) -> (i32, String) {
    let mut terminal = Terminal::run(home, &["security", "slots", verb, what]);
    terminal.answer(&format!("Type `{verb}` to go on: "), verb);
    terminal.end()
}

fn doctor(home: &Home) -> String {
    let output = home.run(&["doctor"]);
    assert!(output.stderr.is_empty() || !output.status.success());
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!errors.contains("tss2") && !errors.contains("esys"), "the library speaks for itself: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_confined_worker_opens_by_the_tpm_and_makes_its_slot_anew() {
    let tpm = SoftTpm::new();
    let (mut home, _device) = with_tpm(&tpm);
    up_by(&mut home, "tpm2");
    home.put_ok("notes/a", b"kept");
    assert!(home.text(&["status"]).contains("seccomp"), "the worker is confined");
    // Whatever is said to the TPM after the confinement goes through the connection from before it.
    assert!(home.text(&["security", "slots", "list"]).contains("tpm2"));
    owner(&home, "remove", "4");
    owner(&home, "add", "tpm2");
    home.fails(2, &["security", "slots", "add", "tpm3"]);
    home.down();
    let told = doctor(&home);
    assert!(told.contains("this machine's TPM opens the vault") && told.contains("lost TPM"), "{told}");
    assert!(files(&home.keys()).iter().any(|path| path.extension().is_some_and(|e| e == "key")), "the key file stays");
    up_by(&mut home, "tpm2");
    assert_eq!(home.get("notes/a"), b"kept");
    home.down();

    // After a change of Secure Boot the key file opens, and the TPM's slot is made anew.
    tpm.change_secure_boot();
    let told = doctor(&home);
    assert!(told.contains("TPM 2.0, does not open the vault now") && told.contains("PCR 7"), "{told}");
    let shown = up_by(&mut home, "key-file");
    assert!(shown.contains("the TPM 2.0 would protect it better"), "{shown}");
    let slots = home.text(&["security", "slots", "list", "--json"]);
    assert!(slots.contains("PCR 7"), "{slots}");
    owner(&home, "remove", "2");
    owner(&home, "add", "tpm2");
    home.down();
    up_by(&mut home, "tpm2");
    assert_eq!(home.get("notes/a"), b"kept");
    home.down();
}

#[test]
fn a_tpm_that_is_not_there_is_told_and_nothing_breaks() {
    let mut tpm = SoftTpm::new();
    let (mut home, _device) = with_tpm(&tpm);
    up_by(&mut home, "tpm2");
    home.put_ok("notes/a", b"kept");
    home.down();
    home.set("AICO_TPM", &tpm.address());
    tpm.stop();
    let told = doctor(&home);
    assert!(told.contains("does not answer") && told.contains("another slot opens the vault until then"), "{told}");
    up_by(&mut home, "key-file");
    assert_eq!(home.get("notes/a"), b"kept");
    home.down();

    // A vault that never had one.
    let mut home = Home::new();
    home.set("AICO_TPM", "device:/dev/aico-no-such-tpm");
    let shown = home.up();
    assert!(!shown.contains("TPM"), "no advice about what the machine lacks: {shown}");
    let (code, refused) = owner_says(&home, "add", "tpm2");
    assert!(code != 0 && refused.contains("this machine has no TPM 2.0"), "{refused}");
    home.down();
    assert!(doctor(&home).contains("not used: this machine has no TPM 2.0"));
    home.set("AICO_TPM", "nonsense");
    assert!(doctor(&home).contains("`nonsense` is no TPM's address"));
}

fn credential_slot(home: &Home) -> String {
    let slots = home.text(&["security", "slots", "list", "--json"]);
    let mut slots = slots.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    slots.find(|slot| slot["kind"] == "systemd-credential").unwrap()["slot"].to_string()
}

/// No systemd runs in tests: the folder is what it would give to its unit.
#[test]
fn a_service_opens_by_its_credential_from_within_its_confinement() {
    let mut home = Home::new();
    let given = tempfile::tempdir().unwrap();
    fs::write(given.path().join("aico-slot"), format!("AICO-SLOT-1-{}\n", "AbCd".repeat(10) + "AbA")).unwrap();
    home.set("CREDENTIALS_DIRECTORY", given.path().to_str().unwrap());
    up_by(&mut home, "systemd-credential");
    home.put_ok("notes/a", b"kept");
    home.down();
    assert!(doctor(&home).contains("the credential that systemd gives to the service opens the vault"));
    up_by(&mut home, "systemd-credential");
    let (code, refused) = owner_says(&home, "remove", "1");
    assert!(code != 0 && refused.contains("one of the three stays"), "the key file: {refused}");
    let (code, refused) = owner_says(&home, "add", "keychain");
    assert!(code != 0 && refused.contains("no such place for a key"), "{refused}");
    owner(&home, "remove", &credential_slot(&home));
    let (code, refused) = owner_says(&home, "remove", "1");
    assert!(code != 0 && refused.contains("the last slot cannot be removed"), "{refused}");
    owner(&home, "add", "systemd-credential");
    home.down();
    home.set("CREDENTIALS_DIRECTORY", "");
    up_by(&mut home, "key-file");
    assert_eq!(home.get("notes/a"), b"kept");
    home.down();
    assert!(doctor(&home).contains("systemd gave this process no credentials"));
}
