//! The recovery kit: pages to print, of a recovery code or of its shares (`docs/manual/recovery.md`, The kit).

use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use aico_crypto::{RecoveryCode, Share, Split};
use aico_proto::message::Sensitive;
use qrcodegen_no_heap::{DataTooLong, QrCode, QrCodeEcc, Version};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

use crate::error::Error;
use crate::places::places;

/// The largest QR code that 21 of the longest words need.
const MAX_QR: Version = Version::new(10);
/// More than a page takes, so that it never moves and leaves a copy behind.
const PAGE_BYTES: usize = 96 * 1024;
const STYLE: &str = include_str!("kit.css");

/// What somebody writes down or prints.
pub(crate) struct Paper {
    /// Which share it is, or the whole code.
    share: Option<(u8, Split, u32)>,
    words: Sensitive,
}

impl Paper {
    pub(crate) fn of_code(code: &RecoveryCode) -> Self {
        Self { share: None, words: code.hazmat_words(|words| Sensitive::new(words.join(" "))) }
    }

    pub(crate) fn of_share(share: &Share, split: Split) -> Self {
        let words = share.hazmat_share_words(|words| Sensitive::new(words.join(" ")));
        Self { share: Some((share.index(), split, share.set())), words }
    }

    /// Its words, in one line.
    pub(crate) fn words(&self) -> &Sensitive {
        &self.words
    }

    pub(crate) fn count(&self) -> usize {
        self.words.expose().split(' ').count()
    }

    /// Whether this is the word at `place`, from 1.
    pub(crate) fn has(&self, word: &str, place: usize) -> bool {
        self.words.expose().split(' ').nth(place - 1) == Some(word)
    }

    /// What a prompt calls it.
    pub(crate) fn name(&self) -> String {
        self.share.map_or_else(|| "it".to_owned(), |(index, ..)| format!("share {index}"))
    }

    /// As it can be copied from a terminal.
    pub(crate) fn sheet(&self) -> Sensitive {
        let mut out = String::with_capacity(1024);
        out += &self.share.map_or_else(
            || "Recovery code of this AICO vault. Whoever has it can open the vault.\n".to_owned(),
            |(index, split, set)| {
                let (wanted, count) = (split.threshold(), split.count());
                format!("Share {index} of {count}, set {set:05x}. Any {wanted} of them open this AICO vault.\n")
            },
        );
        for (place, word) in (1..).zip(self.words.expose().split(' ')) {
            out += if place % 3 == 1 { "\n" } else { "" };
            let _never = write!(out, "  {place:>2}. {word:<10}");
        }
        out.push('\n');
        Sensitive::new(out)
    }

    fn file_name(&self) -> Option<String> {
        self.share.map(|(index, split, _)| format!("share-{index}-of-{}.html", split.count()))
    }

    /// The page: one HTML file without scripts or anything from outside.
    fn page(&self, vault: &str, date: &str) -> Result<Zeroizing<String>, Error> {
        let mut out = Zeroizing::new(String::with_capacity(PAGE_BYTES));
        let title = self.share.map_or_else(
            || "Recovery code".to_owned(),
            |(index, split, _)| format!("Recovery share {index} of {}", split.count()),
        );
        let set = self.share.map_or_else(String::new, |(.., set)| format!(" · set {set:05x}"));
        *out += "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n";
        *out +=
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n";
        let _never = write!(out, "<title>AICO · {title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n");
        let _never = write!(out, "<header><h1>AICO · {title}</h1>\n<p>{vault}{set} · made {date}</p></header>\n");
        let _never = writeln!(out, "<p class=\"warning\">{}</p>", self.warning());
        *out += "<main>\n<ol>\n";
        for (place, word) in (1..).zip(self.words.expose().split(' ')) {
            let _never = writeln!(out, "<li><span>{place}</span> {word}</li>");
        }
        *out += "</ol>\n";
        qr(self.words.expose(), &mut out)
            .map_err(|_| Error::io("draw the QR code", io::ErrorKind::InvalidInput.into()))?;
        *out += "</main>\n";
        for (heading, text) in self.instructions() {
            let _never = write!(out, "<h2>{heading}</h2>\n<p>{text}</p>\n");
        }
        *out += "<footer>Kept by <i></i> since <i></i></footer>\n</body>\n</html>\n";
        Ok(out)
    }

    fn warning(&self) -> String {
        match self.share {
            None => "This page is a key. Whoever has it, or a photograph of it, can open the vault.".to_owned(),
            Some((_, split, _)) => format!(
                "This page is a part of a key. Any {} of the {} shares together open the vault; fewer say nothing about it.",
                split.threshold(),
                split.count(),
            ),
        }
    }

    fn instructions(&self) -> [(&'static str, String); 4] {
        let Some((_, split, _)) = self.share else {
            return [
                ("What it is", "The 15 words open this vault when the password, the key file and the keyring are \
                    lost. The QR code holds the same words.".to_owned()),
                ("Where to keep it", "On paper, where neither a fire nor a thief of the computer reaches it: with \
                    your documents in another house, say. Do not photograph it and do not put it into a cloud.".to_owned()),
                ("How to use it", "On a computer with the program and a copy of the data folder: <code>aico up</code>, \
                    then <code>aico security recover</code>. It asks for the words and for a new password. Four letters \
                    of each word are enough; a wrong word is named by its number.".to_owned()),
                ("If it is lost, or somebody has seen it", "Run <code>aico security recovery</code>: it makes a new \
                    code, and this page opens nothing any more, except a copy of the data from before. While you have the \
                    password, a lost page costs nothing else. Without password, key file, keyring and this page, nobody \
                    can open the vault.".to_owned()),
            ];
        };
        let (wanted, count) = (split.threshold(), split.count());
        let spare = match count - wanted {
            0 => "All of them are needed: if one is lost, the others are worth nothing.".to_owned(),
            1 => "One of them may be lost.".to_owned(),
            spare => format!("{spare} of them may be lost."),
        };
        [
            (
                "What it is",
                format!(
                    "One of {count} shares of the recovery code, which opens this vault when the \
                password, the key file and the keyring are lost. The QR code holds the same 21 words."
                ),
            ),
            (
                "Where to keep it",
                format!(
                    "With somebody whom the owner trusts, each share with somebody else. {spare} \
                {wanted} people who put theirs together can open the vault. Do not photograph it and do not put it into \
                a cloud."
                ),
            ),
            (
                "How to use it",
                "On a computer with the program and a copy of the data folder: <code>aico up</code>, then \
                <code>aico security recover --shares</code>. It asks for one share after the other, in any order, and \
                for a new password. Four letters of each word are enough; a wrong word is named by its number."
                    .to_owned(),
            ),
            (
                "If it is lost, or somebody has seen it",
                "Tell the owner, who runs <code>aico security recovery</code> \
                again: it makes a new code, and all shares of this set open nothing any more, except a copy of the data \
                from before."
                    .to_owned(),
            ),
        ]
    }
}

/// The words as an SVG. In capitals they fit the denser of the two alphabets of QR codes.
fn qr(words: &str, out: &mut String) -> Result<(), DataTooLong> {
    let text = Zeroizing::new(words.to_ascii_uppercase());
    let mut buffers = Zeroizing::new([[0; MAX_QR.buffer_len()]; 2]);
    let [scratch, modules] = &mut *buffers;
    let code = QrCode::encode_text(&text, scratch, modules, QrCodeEcc::Quartile, Version::MIN, MAX_QR, None, true)?;
    let (size, quiet) = (code.size(), 4);
    let side = size + 2 * quiet;
    let _never = write!(
        out,
        "<svg viewBox=\"0 0 {side} {side}\" role=\"img\" aria-label=\"The words as a QR code\" shape-rendering=\"crispEdges\"><path d=\""
    );
    for y in 0..size {
        let mut x = 0;
        while x < size {
            let run = (x..size).take_while(|x| code.get_module(*x, y)).count() as i32;
            if run > 0 {
                let _never = write!(out, "M{} {}h{run}v1h-{run}z", x + quiet, y + quiet);
            }
            x += run + 1;
        }
    }
    *out += "\"/></svg>\n";
    Ok(())
}

/// Pages on their way to the printer. Dropped, or stopped by a signal, before [`Kit::keep`], it leaves none.
pub(crate) struct Kit(Arc<Mutex<Made>>);

#[derive(Default)]
struct Made {
    files: Vec<PathBuf>,
    folder: Option<PathBuf>,
}

/// Where a kit goes; nothing is written yet.
pub(crate) struct Target(PathBuf);

impl Target {
    /// Refuses what is there already, and the folders of the vault and its keys.
    pub(crate) fn new(path: &Path) -> Result<Self, Error> {
        let Some(name) = path.file_name() else {
            return Err(Error::Usage(format!("`{}` names no file", path.display())));
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let failed = |error| Error::io(format!("open the folder {}", parent.display()), error);
        let path = parent.canonicalize().map_err(failed)?.join(name);
        let places = places()?;
        for (folder, what) in [(&places.home, "the vault lies"), (&places.key_dir, "its keys lie")] {
            if folder.canonicalize().is_ok_and(|folder| path.starts_with(folder)) {
                let text = format!("`{}` is where {what}: whoever copies that would have the kit", path.display());
                return Err(Error::Usage(text));
            }
        }
        if fs::symlink_metadata(&path).is_ok() {
            return Err(Error::Usage(format!("`{}` is there already; nothing is overwritten", path.display())));
        }
        Ok(Self(path))
    }

    /// Writes the pages: one file for a code, a folder for shares.
    pub(crate) fn write(&self, papers: &[Paper], vault: &str, date: &str) -> Result<Kit, Error> {
        let kit = Kit(Arc::default());
        kit.remove_on_signals();
        let failed = |error| Error::io(format!("write {}", self.0.display()), error);
        for paper in papers {
            let page = paper.page(vault, date)?;
            let file = match paper.file_name() {
                None => self.0.clone(),
                Some(name) => {
                    kit.make_folder(&self.0).map_err(failed)?;
                    self.0.join(name)
                }
            };
            kit.write(file, page.as_bytes()).map_err(failed)?;
        }
        Ok(kit)
    }
}

impl Kit {
    /// The pages stay.
    pub(crate) fn keep(self) -> Vec<PathBuf> {
        std::mem::take(&mut *lock(&self.0)).files
    }

    fn make_folder(&self, folder: &Path) -> io::Result<()> {
        let mut made = lock(&self.0);
        if made.folder.is_none() {
            fs::DirBuilder::new().mode(0o700).create(folder)?;
            made.folder = Some(folder.to_owned());
        }
        Ok(())
    }

    fn write(&self, path: PathBuf, page: &[u8]) -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        let folder = path.parent().map(Path::to_owned);
        lock(&self.0).files.push(path);
        file.write_all(page)?;
        file.sync_all()?;
        folder.map_or(Ok(()), |folder| File::open(folder)?.sync_all())
    }

    fn remove_on_signals(&self) {
        for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
            let made = self.0.clone();
            if let Ok(mut stopped) = signal(kind) {
                tokio::spawn(async move {
                    stopped.recv().await;
                    remove(&made);
                    std::process::exit(128 + kind.as_raw_value());
                });
            }
        }
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// A kit of a code that was never in force would be trusted in vain.
fn remove(made: &Mutex<Made>) {
    let made = std::mem::take(&mut *lock(made));
    for file in &made.files {
        let _gone_already = fs::remove_file(file);
    }
    if let Some(folder) = made.folder {
        let _gone_already = fs::remove_dir(folder);
    }
}

fn lock(made: &Mutex<Made>) -> std::sync::MutexGuard<'_, Made> {
    made.lock().unwrap_or_else(PoisonError::into_inner)
}
