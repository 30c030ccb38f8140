//! What the TPM's sealing promises, attacked.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use aico_crypto::{OsRandom, SlotSecret};
use aico_policy::Action;
use aico_vault::unlock::{Rung, Tpm, Tpm2};
use aico_vault::{Error, Places, SlotId, SlotKind, VaultId, survey};

use crate::keyring::{key_file, open, opens, permit};
use crate::tpm::{SoftTpm, free_ports};

const SECRET: &[u8] = b"a secret that nobody finds anywhere";

fn places(root: &tempfile::TempDir, tpm: Tpm) -> Places {
    Places { home: root.path().join("data"), key_dir: root.path().join("keys"), bus: None, tpm, credentials: None }
}

fn kinds(places: &Places) -> Vec<SlotKind> {
    survey(places).unwrap().0.iter().map(|slot| slot.kind).collect()
}

fn has(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[test]
fn a_vault_opens_by_the_tpm_after_a_restart_and_without_its_key_file() {
    let (root, mut tpm) = (tempfile::tempdir().unwrap(), SoftTpm::new());
    drop(open(&places(&root, tpm.line())));
    let now = places(&root, tpm.line());
    assert_eq!(kinds(&now), [SlotKind::KeyFile, SlotKind::Tpm2]);
    assert_eq!(opens(&now).unwrap(), "tpm2");
    fs::rename(key_file(&now), root.path().join("aside")).unwrap();
    drop(now);
    tpm.stop();
    tpm.start();
    let now = places(&root, tpm.line());
    assert_eq!(opens(&now).unwrap(), "tpm2");
    // A connection that broke is made anew.
    tpm.stop();
    tpm.start();
    assert_eq!(opens(&now).unwrap(), "tpm2");

    // The key file's slot cannot go, nor can the TPM's be the last.
    let vault = open(&now);
    for slot in vault.slots(permit(&vault, Action::ReadKeys)).unwrap() {
        let removed = vault.remove_slot(permit(&vault, Action::ManageKeys), slot.id, 2);
        assert_eq!(matches!(removed, Err(Error::Refused(_))), slot.kind == SlotKind::KeyFile, "{removed:?}");
    }
    drop(vault);
    assert_eq!(kinds(&now), [SlotKind::KeyFile]);
    fs::rename(root.path().join("aside"), now.key_dir.join(key_name(&now))).unwrap();
    let vault = open(&now);
    vault.add_slot(permit(&vault, Action::ManageKeys), SlotKind::Tpm2, 3).unwrap();
    assert!(vault.add_slot(permit(&vault, Action::ManageKeys), SlotKind::Tpm2, 3).is_err(), "one is enough");
    drop(vault);
    assert_eq!(opens(&now).unwrap(), "tpm2");
}

fn key_name(places: &Places) -> String {
    format!("{}.key", aico_vault::read_header(&places.home).unwrap().vault())
}

#[test]
fn another_tpm_and_another_secure_boot_state_do_not_open_it() {
    let (tpm, other) = (SoftTpm::new(), SoftTpm::new());
    let line = tpm.line();
    let sealed = line.seal(SECRET).unwrap();
    assert_eq!(*line.unseal(&sealed).unwrap(), SECRET);
    assert!(!SECRET.windows(8).any(|part| has(&sealed, part)), "in the clear");
    let refused = other.line().unseal(&sealed).unwrap_err().to_string();
    assert!(refused.contains("not the TPM that sealed the slot"), "{refused}");
    // With the other's key's name in it, the other finds that it did not seal it.
    let mut renamed = sealed.clone();
    renamed[1..35].copy_from_slice(&other.line().seal(SECRET).unwrap()[1..35]);
    assert!(other.line().unseal(&renamed).unwrap_err().to_string().contains("not a sealed key"));
    drop(line);

    tpm.change_secure_boot();
    let line = tpm.line();
    let refused = line.unseal(&sealed).unwrap_err().to_string();
    assert!(refused.contains("PCR 7"), "{refused}");
    let anew = line.seal(SECRET).unwrap();
    assert_eq!(*line.unseal(&anew).unwrap(), SECRET);
}

/// The TPM itself refuses: the words above come from a comparison that an attacker's program would leave out.
#[test]
fn the_tpm_itself_refuses_to_unseal_in_another_state() {
    let tpm = SoftTpm::new();
    let sealed = tpm.line().seal(SECRET).unwrap();
    let length = |at: usize| usize::from(u16::from_be_bytes([sealed[at], sealed[at + 1]]));
    let (public, private) = (&sealed[37..37 + length(35)], &sealed[39 + length(35)..]);
    assert_eq!(private.len(), length(37 + length(35)));
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let sized = |part: &[u8]| [&u16::try_from(part.len()).unwrap().to_be_bytes()[..], part].concat();
    fs::write(path("public"), sized(public)).unwrap();
    fs::write(path("private"), sized(private)).unwrap();
    let attributes = "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt";
    let unseal = || {
        tpm.run("tpm2_createprimary", &["-C", "o", "-G", "ecc256", "-a", attributes, "-c", &path("primary")]);
        let (public, private, key) = (path("public"), path("private"), path("key"));
        tpm.run("tpm2_load", &["-C", &path("primary"), "-u", &public, "-r", &private, "-c", &key]);
        tpm.run("tpm2_flushcontext", &["-t"]);
        let tool = |auth: &[&str]| {
            let mut command = std::process::Command::new("tpm2_unseal");
            let output = command.args(["-c", &key]).args(auth).env("TPM2TOOLS_TCTI", tpm.address()).output().unwrap();
            tpm.run("tpm2_flushcontext", &["-t"]);
            output.stdout
        };
        assert_ne!(tool(&[]), SECRET, "without the policy");
        tool(&["-p", "pcr:sha256:7"])
    };
    assert_eq!(unseal(), SECRET, "another program reads it, by the specification");
    tpm.change_secure_boot();
    assert_ne!(unseal(), SECRET);
}

#[test]
fn no_hostile_slot_opens_crashes_it_or_uses_the_tpm_up() {
    let tpm = SoftTpm::new();
    let line = tpm.line();
    let (rung, vault) = (Tpm2::new(line.clone()), VaultId::make(&OsRandom).unwrap());
    let secret = SlotSecret::make(&OsRandom).unwrap();
    let sealed = rung.store(&vault, SlotId(2), &secret).unwrap();
    assert!(sealed.len() < 512, "{}", sealed.len());
    for at in 0..sealed.len() {
        let mut bad = sealed.clone();
        bad[at] ^= 1 << (at % 8);
        let refused = rung.load(&vault, SlotId(2), &bad).map(drop).unwrap_err().to_string();
        let told = ["not a sealed key", "not the TPM that sealed", "PCR 7"].iter().any(|words| refused.contains(words));
        assert!(told, "byte {at}: {refused}");
    }
    for length in [0, 1, 34, 35, 37, 100, sealed.len() - 1] {
        assert!(rung.load(&vault, SlotId(2), &sealed[..length]).is_err());
    }
    assert!(rung.load(&vault, SlotId(2), &[0xff; 1024]).is_err());
    // Sealed by this TPM, and no key.
    let other = rung.load(&vault, SlotId(2), &line.seal(SECRET).unwrap()).unwrap_err().to_string();
    assert!(other.contains("not a sealed key"), "{other}");
    assert!(line.seal(&[0; 129]).is_err());
    let back = rung.load(&vault, SlotId(2), &sealed).unwrap();
    assert_eq!(back.slot_key(b"").check_value(), secret.slot_key(b"").check_value());
}

#[test]
fn a_flipped_slot_makes_the_header_damaged_and_is_told() {
    let (root, tpm) = (tempfile::tempdir().unwrap(), SoftTpm::new());
    let places = places(&root, tpm.line());
    drop(open(&places));
    let file = places.home.join("vault.aico");
    let good = fs::read(&file).unwrap();
    let slots = aico_vault::read_header(&places.home).unwrap();
    let parameters = slots.slots().iter().find(|slot| slot.kind() == SlotKind::Tpm2).unwrap().parameters().to_vec();
    let at = good.windows(parameters.len()).position(|window| window == parameters).unwrap();
    let mut bad = good.clone();
    bad[at + 200] ^= 1;
    fs::write(&file, &bad).unwrap();
    assert!(opens(&places).unwrap_err().contains("checksum"));
    fs::write(&file, &good).unwrap();
    assert_eq!(opens(&places).unwrap(), "tpm2");
}

/// Who listens between this program and the TPM.
#[test]
fn the_secret_is_not_on_the_bus() {
    let tpm = SoftTpm::new();
    let heard = Arc::new(Mutex::new(Vec::new()));
    let listener = listen(&tpm, &heard);
    let line = Tpm::at(Some(&format!("swtpm:host=127.0.0.1,port={listener}")));
    let sealed = line.seal(SECRET).unwrap();
    assert_eq!(*line.unseal(&sealed).unwrap(), SECRET);
    let heard = heard.lock().unwrap().clone();
    assert!(has(&heard, &sealed[37..100]), "the control: what is sealed is heard");
    let found = SECRET.windows(8).find(|part| has(&heard, part));
    assert_eq!(found, None, "heard in the clear");
}

/// Two ports in a row that hand everything on and write down what they hear; the first one.
fn listen(tpm: &SoftTpm, heard: &Arc<Mutex<Vec<u8>>>) -> u16 {
    let to: u16 = tpm.address().rsplit_once('=').unwrap().1.parse().unwrap();
    let port = free_ports();
    let [first, second] = [port, port + 1].map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap());
    for (listener, to) in [(first, to), (second, to + 1)] {
        let heard = heard.clone();
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let (near, far) = (near.unwrap(), TcpStream::connect(("127.0.0.1", to)).unwrap());
                for (from, to) in [(&near, &far), (&far, &near)].map(|(a, b)| (a.try_clone(), b.try_clone())) {
                    let heard = heard.clone();
                    std::thread::spawn(move || hand_on(from.unwrap(), to.unwrap(), &heard));
                }
            }
        });
    }
    port
}

fn hand_on(mut from: TcpStream, mut to: TcpStream, heard: &Mutex<Vec<u8>>) {
    let mut bytes = [0; 4096];
    while let Ok(length @ 1..) = from.read(&mut bytes) {
        heard.lock().unwrap().extend_from_slice(&bytes[..length]);
        if to.write_all(&bytes[..length]).is_err() {
            break;
        }
    }
    let _gone = to.shutdown(Shutdown::Both);
}
