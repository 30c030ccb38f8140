//! The recovery kit and shares of the code, at a terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::home::{Home, files};
use crate::keys::{PASSWORD, passwords, protected};
use crate::pty::Terminal;

const NEW: &str = "a new password";

/// The numbered words on a sheet.
fn words(sheet: &str) -> Vec<String> {
    let parts: Vec<&str> = sheet.split_whitespace().collect();
    let numbered = parts.windows(2).filter(|pair| pair[0].strip_suffix('.').is_some_and(|n| n.parse::<u8>().is_ok()));
    numbered.map(|pair| pair[1].to_owned()).collect()
}

/// Reads the sheets that a terminal shows and types back what it asks for, up to the password; the words of each sheet.
fn write_down(terminal: &mut Terminal, sheets: usize, asked: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..sheets {
        let mut sheet = Vec::new();
        for _ in 0..asked {
            let shown = terminal.expect("Type word ");
            if sheet.is_empty() {
                sheet = words(&shown);
            }
            let place: usize = terminal.expect(" of ").trim_end_matches(" of ").parse().unwrap();
            terminal.expect(": ");
            terminal.say(&sheet[place - 1]);
        }
        all.push(sheet.join(" "));
    }
    all
}

/// What another program reads off a page's QR code.
fn scanned(page: &str) -> String {
    let number = |text: &str| text.parse::<usize>().unwrap();
    let side = number(page.split("viewBox=\"0 0 ").nth(1).unwrap().split(' ').next().unwrap());
    let mut dark = vec![false; side * side];
    let path = page.split("<path d=\"").nth(1).unwrap().split('"').next().unwrap();
    for part in path.split('M').skip(1) {
        let (at, run) = part.split_once('h').unwrap();
        let (x, y) = at.split_once(' ').unwrap();
        let (run, back) = run.split_once("v1h-").unwrap();
        assert_eq!(format!("{run}z"), back);
        let from = number(y) * side + number(x);
        dark[from..from + number(run)].fill(true);
    }
    let scale = 6;
    let shade = |x, y| if dark[y / scale * side + x / scale] { 0 } else { 255 };
    let mut image = rqrr::PreparedImage::prepare_from_greyscale(side * scale, side * scale, shade);
    let grids = image.detect_grids();
    assert_eq!(grids.len(), 1);
    grids[0].decode().unwrap().1
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Loses the keys, and starts the backend again: only a person opens it.
fn lose_everything(home: &mut Home) {
    home.down();
    fs::remove_dir_all(home.keys()).unwrap();
    assert!(home.up().contains("is locked"));
}

fn recover(home: &Home, args: &[&str], lines: &[&str]) -> std::process::Output {
    let file = passwords(home, lines);
    home.run(&[&["security", "recover", "--password-file", &file], args].concat())
}

fn opens_with_the_new_password(home: &Home) {
    let file = passwords(home, &[NEW]);
    assert_eq!(home.ok(&["data", "get", "notes/a", "--password-file", &file]), b"kept");
}

fn has_a_code(home: &Home) -> bool {
    home.text(&["status", "--json"]).contains("\"recovery_code\":true")
}

#[test]
fn the_page_restores_what_its_words_and_its_qr_code_say() {
    let mut home = protected();
    let kit = home.root().join("kit.html");
    let mut terminal = Terminal::run(&home, &["security", "recovery", "--kit", path(&kit)]);
    let shown = write_down(&mut terminal, 1, 2).remove(0);
    assert!(kit.exists(), "to be printed before the words are typed back");
    terminal.answer("Password: ", PASSWORD);
    let (code, text) = terminal.end();
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("in force") && text.contains("print it, then delete it") && text.contains(path(&kit)),
        "{text}"
    );

    assert_eq!(fs::metadata(&kit).unwrap().permissions().mode() & 0o777, 0o600);
    let page = fs::read_to_string(&kit).unwrap();
    for (place, word) in (1..).zip(shown.split(' ')) {
        assert!(page.contains(&format!("<li><span>{place}</span> {word}</li>")), "{place}. {word}");
    }
    let key = files(&home.keys()).into_iter().find_map(|file| {
        let name = file.file_name()?.to_str()?.to_owned();
        Some(name.strip_prefix("vault-")?.strip_suffix(".key")?.to_owned())
    });
    assert!(page.contains(&key.unwrap()), "the vault's id");
    for outside in ["<script", "src=", "href=", "url(", "@import", "http:", "https:", "javascript:"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let scanned = scanned(&page);
    assert_eq!(scanned.to_lowercase(), shown);

    lose_everything(&mut home);
    let done = recover(&home, &[], &[&scanned, NEW]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    opens_with_the_new_password(&home);
}

#[test]
fn a_kit_of_a_code_that_is_not_in_force_does_not_stay() {
    let home = protected();
    let kit = home.root().join("kit.html");
    let args = ["security", "recovery", "--kit", path(&kit)];
    let mut terminal = Terminal::run(&home, &args);
    terminal.expect("Type word ");
    terminal.expect(" of it: ");
    assert!(kit.exists());
    terminal.say("notaword");
    assert_eq!(terminal.end().0, 2);
    assert!(!kit.exists());
    // Ctrl-C.
    let mut terminal = Terminal::run(&home, &args);
    terminal.expect(" of it: ");
    assert!(kit.exists());
    terminal.press(0x03);
    let (code, shown) = terminal.end();
    assert_eq!(code, 130, "{shown}");
    assert!(!kit.exists());
    // Of shares, the folder too; after some of them, and after a wrong password.
    let folder = home.root().join("shares");
    let args = ["security", "recovery", "--split", "2/3", "--kit", path(&folder)];
    let mut terminal = Terminal::run(&home, &args);
    write_down(&mut terminal, 2, 1);
    terminal.expect("of share 3: ");
    assert_eq!(files(&folder).len(), 3);
    terminal.say("notaword");
    assert_eq!(terminal.end().0, 2);
    assert!(!folder.exists());
    let mut terminal = Terminal::run(&home, &args);
    write_down(&mut terminal, 3, 1);
    (0..3).for_each(|_| terminal.answer("Password: ", "wrong"));
    assert_eq!(terminal.end().0, 6);
    assert!(!folder.exists());
    assert!(!has_a_code(&home));
}

#[test]
fn a_kit_is_not_written_beside_the_vault_or_over_anything() {
    let home = protected();
    let there = home.root().join("there");
    fs::write(&there, b"kept").unwrap();
    let (link, dangling) = (home.root().join("link"), home.root().join("dangling"));
    std::os::unix::fs::symlink(home.data(), &link).unwrap();
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    let refused: [(PathBuf, &str); 8] = [
        (home.data().join("kit.html"), "where the vault lies"),
        (home.data().join("spaces/kit.html"), "where the vault lies"),
        (link.join("kit.html"), "where the vault lies"),
        (home.keys().join("kit.html"), "where its keys lie"),
        (home.keys().join("clients/../kit.html"), "where its keys lie"),
        (there.clone(), "there already"),
        (dangling, "there already"),
        (home.root().join(".."), "names no file"),
    ];
    let before = files(home.root());
    for (kit, why) in refused {
        for split in [&[][..], &["--split", "2/2"]] {
            let args = [&["security", "recovery", "--kit", path(&kit)], split].concat();
            let (code, shown) = Terminal::run(&home, &args).end();
            assert!(code == 2 && shown.contains(why), "{}: {code} {shown}", kit.display());
            assert!(!shown.contains("Type word"), "{shown}");
        }
    }
    assert_eq!(files(home.root()), before);
    assert_eq!(fs::read(there).unwrap(), b"kept");
    assert!(home.fails(6, &["security", "recovery", "--kit", path(&home.root().join("new"))]).contains("terminal"));
    assert!(!has_a_code(&home));
}

/// Splits the code at a terminal; the shares, by their number.
fn split(home: &Home, split: &str, count: usize, more: &[&str]) -> Vec<String> {
    let mut terminal = Terminal::run(home, &[&["security", "recovery", "--split", split], more].concat());
    let shares = write_down(&mut terminal, count, 1);
    terminal.answer("Password: ", PASSWORD);
    let (code, shown) = terminal.end();
    assert!(code == 0 && shown.contains("in force"), "{shown}");
    assert!(shares.iter().all(|share| share.split(' ').count() == 21), "{shares:?}");
    assert_eq!(words(&shown).len(), 21 * count, "nothing else is on the screen, least of all the code");
    shares
}

#[test]
fn any_two_of_three_shares_open_a_vault_that_lost_everything_else() {
    let mut home = protected();
    let folder = home.root().join("shares");
    let old = split(&home, "2/2", 2, &[]);
    let shares = split(&home, "2/3", 3, &["--kit", path(&folder)]);
    for (number, share) in (1..).zip(&shares) {
        let page = fs::read_to_string(folder.join(format!("share-{number}-of-3.html"))).unwrap();
        assert_eq!(scanned(&page).to_lowercase(), *share);
        assert!(page.contains("Any 2 of the 3 shares") && page.contains(&format!("Recovery share {number} of 3")));
        assert!(shares.iter().all(|other| other == share || !page.contains(&other[..40])), "one share a page");
    }
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert!(mode(&folder) == 0o700 && files(&folder).iter().all(|page| mode(page) == 0o600));

    lose_everything(&mut home);
    let mut terminal = Terminal::run(&home, &["security", "recover", "--shares"]);
    terminal.answer("Share (21 words): ", &shares[2]);
    terminal.expect("1 of 2 so far");
    terminal.answer("Share (21 words): ", &shares[2]);
    terminal.expect("share 3 was given already");
    terminal.answer("Share (21 words): ", &old[0]);
    terminal.expect("of another set");
    let mut wrong: Vec<&str> = shares[0].split(' ').collect();
    wrong[12] = if wrong[12] == "zoo" { "zebra" } else { "zoo" };
    terminal.answer("Share (21 words): ", &wrong.join(" "));
    terminal.expect("word 13 does not fit");
    wrong[12] = "zooo";
    terminal.answer("Share (21 words): ", &wrong.join(" "));
    terminal.expect("did you mean `zoo`");
    terminal.answer("Share (21 words): ", "abandon abandon");
    terminal.expect("a share 21; these are 2");
    terminal.answer("Share (21 words): ", &shares[0].to_uppercase());
    terminal.answer("New password: ", NEW);
    terminal.answer("The same again: ", NEW);
    let (code, shown) = terminal.end();
    assert_eq!(code, 0, "{shown}");
    opens_with_the_new_password(&home);
}

#[test]
fn a_script_gives_shares_line_by_line() {
    let mut home = protected();
    let old = split(&home, "3/3", 3, &[]);
    let shares = split(&home, "3/5", 5, &[]);
    lose_everything(&mut home);
    let with = |lines: &[&str]| {
        let done = recover(&home, &["--shares"], lines);
        (done.status.code(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    let share = |number: usize| shares[number - 1].as_str();
    assert_eq!(with(&[share(1), share(2)]).0, Some(2), "too few lines");
    let (code, said) = with(&[share(1), share(2), share(2), NEW]);
    assert!(code == Some(6) && said.contains("share 2 was given already"), "{said}");
    let (code, said) = with(&[share(1), &old[1], share(3), NEW]);
    assert!(code == Some(6) && said.contains("another set"), "{said}");
    // A code that was replaced opens nothing.
    let (code, said) = with(&[&old[0], &old[1], &old[2], NEW]);
    assert_eq!(code, Some(6), "{said}");
    let (code, said) = with(&[share(5), share(2), share(4), NEW]);
    assert_eq!(code, Some(0), "{said}");
    opens_with_the_new_password(&home);
    for bad in ["1/3", "3/2", "2/17", "0/0", "2", "2/", "/3", "a/b", "2/3/4", "-2/3", "256/256"] {
        home.fails(2, &["security", "recovery", &format!("--split={bad}")]);
    }
}
