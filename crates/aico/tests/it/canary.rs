//! No plaintext anywhere: random canaries in values and names, in every form that a leak might have.

use std::fs;
use std::path::{Path, PathBuf};

use crate::home::{Home, bytes, files};
use crate::keys::{PASSWORD, passwords, protected};
use crate::mount::Mount;

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
    let search = Search::new(canaries.iter().flat_map(|canary| forms(canary)).collect());
    let mut found = Vec::new();
    for file in folders.iter().flat_map(|folder| files(folder)) {
        let content = match fs::read(&file) {
            Ok(content) => content,
            // Gone since the folder was listed: somebody works there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => panic!("{}: {error}", file.display()),
        };
        for form in
            [search.first_in(&content), search.first_in(file.to_str().unwrap().as_bytes())].into_iter().flatten()
        {
            found.push(format!("{} in {}", String::from_utf8_lossy(form), file.display()));
        }
    }
    found
}

/// Looks for all of them in one pass: there may be a gigabyte to look at.
struct Search {
    forms: Vec<Vec<u8>>,
    /// Which forms begin with these two bytes.
    starts: Vec<Vec<usize>>,
}

impl Search {
    fn new(forms: Vec<Vec<u8>>) -> Self {
        let mut starts = vec![Vec::new(); 1 << 16];
        for (at, form) in forms.iter().enumerate() {
            starts[usize::from(u16::from_be_bytes([form[0], form[1]]))].push(at);
        }
        Self { forms, starts }
    }

    fn first_in(&self, bytes: &[u8]) -> Option<&[u8]> {
        let begins = |at: usize, form: &usize| bytes[at..].starts_with(&self.forms[*form]);
        let hit = |(at, two): (usize, &[u8])| {
            let starts = &self.starts[usize::from(u16::from_be_bytes([two[0], two[1]]))];
            starts.iter().find(|form| begins(at, form)).copied()
        };
        bytes.windows(2).enumerate().find_map(hit).map(|form| self.forms[form].as_slice())
    }
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

/// Every kind of data at once, and everything that happens to it: work, a kill, a restart, new keys, a mount. Whatever lies
/// in the data folder, the key folder and the temporary folder is looked at, and a sealed file outside.
#[test]
fn no_canary_of_any_kind_of_data() {
    let mut home = protected();
    let [temporary, outside, given] = ["temporary", "outside", "given"].map(|name| {
        let folder = home.root().join(name);
        fs::create_dir(&folder).unwrap();
        folder
    });
    home.down();
    home.set("TMPDIR", temporary.to_str().unwrap());
    let mut printed = home.up();
    let file = passwords(&home, &[PASSWORD]);
    let owner = |home: &Home, args: &[&str]| home.ok(&[args, &["--password-file", &file]].concat());
    let canaries: Vec<String> = (31..=46).map(canary).collect();
    let [
        path,
        small,
        large,
        conversation,
        said,
        table,
        row,
        blob,
        folder,
        name,
        content,
        link,
        question,
        title,
        sealed,
        app,
    ] = canaries.as_slice()
    else {
        unreachable!()
    };
    let folders = [home.data(), home.keys(), temporary.clone(), outside.clone()];
    let clean = |when: &str| assert_eq!(leaks(&folders, &canaries), Vec::<String>::new(), "{when}");

    home.put_ok(&format!("notes/{path}"), small.as_bytes());
    let long: Vec<u8> = large.as_bytes().iter().copied().cycle().take(9 << 20).collect();
    home.put_ok(&format!("notes/{path}-large"), &long);
    home.put_ok(&format!("conversations/{conversation}/first"), said.as_bytes());
    home.fails(5, &["data", "get", &format!("notes/{path}-absent"), "--password-file", &file]);
    let source = given.join("things.db");
    let sql =
        format!("CREATE TABLE {table} (a TEXT, b BLOB); INSERT INTO {table} VALUES ('{row}', CAST('{blob}' AS BLOB));");
    rusqlite::Connection::open(&source).unwrap().execute_batch(&sql).unwrap();
    owner(&home, &["import", "sqlite", source.to_str().unwrap()]);
    let plain = given.join(title);
    fs::write(&plain, sealed.repeat(9000)).unwrap();
    let closed = outside.join("sealed");
    home.ok(&["file", "seal", plain.to_str().unwrap(), "-o", closed.to_str().unwrap()]);
    owner(&home, &["identity", "export", given.join("app").to_str().unwrap(), "--name", app]);
    assert!(!leaks(std::slice::from_ref(&given), &canaries).is_empty(), "the control: they were there");
    fs::remove_dir_all(&given).unwrap();
    let exported = home.root().join("exported");
    owner(&home, &["data", "export", exported.to_str().unwrap()]);
    assert!(!leaks(std::slice::from_ref(&exported), &canaries).is_empty(), "the control: an export is in the clear");
    fs::remove_dir_all(&exported).unwrap();
    let mount = Mount::new(&home, &["--password-file", &file]);
    fs::create_dir(mount.path(folder)).unwrap();
    fs::write(mount.path(folder).join(name), content.repeat(50_000)).unwrap();
    std::os::unix::fs::symlink(link, mount.path(&format!("{name}-link"))).unwrap();
    fs::File::open(mount.path(folder).join(name)).unwrap().sync_all().unwrap();
    fs::File::open(&mount.dir).unwrap().sync_all().unwrap();
    home.ok(&["audit", "tail", "-n", "100"]);
    clean("at work");

    // Among noise, what is spilled cannot be compressed away.
    let sql = format!(
        "SELECT count(*) FROM (SELECT '{question}' || sha256(range::VARCHAR) AS s FROM range(8000000) ORDER BY s OFFSET 1)"
    );
    let mut asking = home.command(&["query", &sql]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let spilled = |home: &Home| {
        let all = files(&home.data()).into_iter().chain(files(&temporary));
        let spills = all.filter(|file| file.to_str().unwrap().contains("history.tmp"));
        spills.map(|file| fs::metadata(file).map_or(0, |found| found.len())).sum::<u64>()
    };
    let begun = std::time::Instant::now();
    while spilled(&home) < 32 << 20 {
        assert!(begun.elapsed().as_secs() < 60 && asking.try_wait().unwrap().is_none(), "it spills");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    home.kill();
    let _cut = asking.wait().unwrap();
    assert!(spilled(&home) > 0, "what was spilled is left by the kill");
    drop(mount);
    clean("after a kill in the middle of a question, with a mount");

    printed += &home.up();
    home.ok(&["query", &format!("SELECT count(*) FROM range(10) WHERE '{question}' = 'x'")]);
    clean("after a restart");
    owner(&home, &["security", "rotate"]);
    clean("under new keys");
    let mount = Mount::new(&home, &["--password-file", &file]);
    assert_eq!(fs::read_to_string(mount.path(folder).join(name)).unwrap(), content.repeat(50_000));
    fs::write(mount.path(name), content).unwrap();
    clean("mounted again");
    mount.unmount();
    assert_eq!(owner(&home, &["data", "get", &format!("notes/{path}")]), small.as_bytes());
    assert!(owner(&home, &["file", "cat", closed.to_str().unwrap()]) == sealed.repeat(9000).as_bytes());
    home.down();
    clean("after a clean stop");
    assert!(canaries.iter().all(|canary| !printed.contains(canary.as_str())), "{printed}");

    // In each folder, each form, and each of them.
    for folder in &folders {
        let planted = folder.join("planted");
        let raw = canaries.iter().map(|canary| canary.clone().into_bytes());
        for (number, form) in forms(path).into_iter().chain(raw).enumerate() {
            fs::write(&planted, [b"xxxx".as_slice(), &form, b"yyyy"].concat()).unwrap();
            assert!(!leaks(std::slice::from_ref(folder), &canaries).is_empty(), "form {number}");
        }
        fs::remove_file(&planted).unwrap();
    }
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
