//! No plaintext anywhere: random canaries in values and names, in every form that a leak might have.

use std::fs;
use std::path::{Path, PathBuf};

use crate::home::{Home, bytes, files};
use crate::keys::{PASSWORD, passwords, protected};

/// The canary's bytes in every form that is looked for.
fn forms(canary: &str) -> Vec<Vec<u8>> {
    use base64ct::{Base64, Encoding};
    let raw = canary.as_bytes();
    let mut forms = vec![raw.to_vec(), canary.to_uppercase().into_bytes()];
    // In base64 a text looks different at each of three offsets; the middle is the same whatever stands around it.
    for offset in 0..3 {
        let padded = [vec![0; offset], raw.to_vec()].concat();
        let encoded = Base64::encode_string(&padded);
        forms.push(encoded.as_bytes()[4..encoded.len() - 4].to_vec());
    }
    let hex: String = raw.iter().map(|b| format!("{b:02x}")).collect();
    forms.extend([hex.clone().into_bytes(), hex.to_uppercase().into_bytes()]);
    forms.push(canary.encode_utf16().flat_map(u16::to_le_bytes).collect());
    forms.push(canary.encode_utf16().flat_map(u16::to_be_bytes).collect());
    forms
}

fn leaks(folders: &[PathBuf], canaries: &[String]) -> Vec<String> {
    let forms: Vec<Vec<u8>> = canaries.iter().flat_map(|canary| forms(canary)).collect();
    let mut found = Vec::new();
    for file in folders.iter().flat_map(|folder| files(folder)) {
        let content = fs::read(&file).unwrap();
        let name = file.to_str().unwrap().as_bytes().to_vec();
        for form in &forms {
            if contains(&content, form) || contains(&name, form) {
                found.push(format!("{} in {}", String::from_utf8_lossy(form), file.display()));
            }
        }
    }
    found
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn canary(seed: u64) -> String {
    let letters = bytes(seed + u64::from(std::process::id()), 24).into_iter().map(|b| char::from(b'a' + b % 26));
    format!("canary{}", letters.collect::<String>())
}

#[test]
fn no_canary_in_any_file_and_a_planted_leak_is_found() {
    let mut home = Home::running();
    let canaries: Vec<String> = (1..=4).map(canary).collect();
    home.put_ok(&format!("notes/{}", canaries[0]), canaries[1].as_bytes());
    let large: Vec<u8> = canaries[2].as_bytes().iter().copied().cycle().take(3 << 20).collect();
    home.put_ok(&format!("{}/large", canaries[3]), &large);
    home.fails(5, &["data", "get", &format!("notes/absent-{}", canaries[0])]);
    home.ok(&["data", "list"]);
    let folders = [home.data(), home.keys()];
    assert_eq!(leaks(&folders, &canaries), Vec::<String>::new(), "while it runs");
    home.kill();
    assert_eq!(leaks(&folders, &canaries), Vec::<String>::new(), "after a crash");
    home.up();
    home.ok(&["data", "rm", &format!("notes/{}", canaries[0])]);
    home.down();
    assert_eq!(leaks(&folders, &canaries), Vec::<String>::new(), "after a clean stop");

    // The scan finds what is there: each form, planted.
    for (number, form) in forms(&canaries[0]).iter().enumerate() {
        let planted = home.data().join("audit/planted");
        fs::write(&planted, [b"xxxx".as_slice(), form, b"yyyy"].concat()).unwrap();
        assert!(!leaks(&folders, &canaries).is_empty(), "form {number}");
        fs::remove_file(&planted).unwrap();
    }
    let named = home.data().join("run").join(&canaries[0]);
    fs::write(&named, "").unwrap();
    assert!(!leaks(&folders, &canaries).is_empty(), "in a name");
}

/// New keys, a crash in the middle of them, a copy, forgetting: what is made of the data on the way is looked at as well.
#[test]
fn no_canary_in_what_is_made_of_the_data() {
    let mut home = protected();
    let temporary = home.root().join("temporary");
    fs::create_dir(&temporary).unwrap();
    home.down();
    home.set("TMPDIR", temporary.to_str().unwrap());
    home.up();
    let canaries: Vec<String> = (11..=14).map(canary).collect();
    let large: Vec<u8> = canaries[0].as_bytes().iter().copied().cycle().take(8 << 20).collect();
    home.put_ok(&format!("notes/{}", canaries[1]), &large);
    home.put_ok(&format!("conversations/{}/first", canaries[2]), canaries[3].as_bytes());
    let file = passwords(&home, &[PASSWORD]);
    let copied = home.root().join("copied");
    home.ok(&["backup", "copy", copied.to_str().unwrap(), "--password-file", &file]);
    let folders = [home.data(), home.keys(), temporary, copied];
    let clean = |when: &str| assert_eq!(leaks(&folders, &canaries), Vec::<String>::new(), "{when}");
    clean("after a copy");
    let mut rotation = home.command(&["security", "rotate", "--password-file", &file]).spawn().unwrap();
    std::thread::sleep(std::time::Duration::from_millis(25));
    home.kill();
    let _cut = rotation.wait().unwrap();
    clean("in the middle of a rotation");
    home.up();
    home.ok(&["security", "rotate", "--password-file", &file]);
    clean("after it");
    home.ok(&["forget", "conversation", &canaries[2], "--password-file", &file]);
    home.ok(&["audit", "tail", "--password-file", &file]);
    home.down();
    clean("after forgetting");
}

#[test]
fn key_files_hold_their_key_and_nothing_of_it_is_elsewhere() {
    let mut home = Home::running();
    home.put_ok("notes/a", b"x");
    home.down();
    let secret = |path: &Path, tag: &str| {
        let text = fs::read_to_string(path).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(tag).map(str::to_owned)).unwrap();
        line.split(' ').next().unwrap().to_owned()
    };
    let vault = files(&home.keys()).into_iter().find(|f| f.to_str().unwrap().contains("vault-")).unwrap();
    let secrets = [secret(&vault, "AICO-SLOT-1-"), secret(&home.keys().join("clients/cli.key"), "AICO-CLIENT-1 ")];
    assert_eq!(leaks(&[home.data()], &secrets), Vec::<String>::new());
    assert!(!leaks(&[home.keys()], &secrets).is_empty(), "the control finds them where they belong");
}
