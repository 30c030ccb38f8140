use std::path::{Path, PathBuf};
use std::sync::Arc;

use aico_net::{Client, Dial, Error as NetError};
use indicatif::ProgressBar;
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use walkdir::WalkDir;

use crate::error::Error;
use crate::places::{connect, dial};
use crate::ui;

/// Connections that store at once: their writes to disk then share the waiting.
const LANES: usize = 4;

/// A file to store.
struct Item {
    file: PathBuf,
    path: String,
}

/// Stores every file of `dir`. What cannot be stored is named, and does not stop the rest.
pub(crate) async fn import(dir: &Path) -> Result<(), Error> {
    let plan = Plan::of(dir)?;
    let bar = ui::progress(plan.bytes);
    let total = plan.items.len();
    let queue = Arc::new(Mutex::new(plan.items.into_iter()));
    let mut lanes = JoinSet::new();
    for _ in 0..LANES.min(total) {
        lanes.spawn(lane(connect().await?, dial()?, queue.clone(), bar.clone()));
    }
    let (mut stored, mut failed) = (Stored::default(), plan.skipped);
    let mut broken = None;
    while let Some(lane) = lanes.join_next().await {
        match lane.map_err(|crash| Error::io("import", std::io::Error::other(crash)))? {
            Ok((done, problems)) => {
                stored.files += done.files;
                stored.bytes += done.bytes;
                failed.extend(problems);
            }
            Err(error) => broken = Some(error),
        }
    }
    bar.finish_and_clear();
    ui::line(&format!("{} of {total} files stored, {}", stored.files, ui::size(stored.bytes)));
    failed.iter().for_each(|problem| ui::error_line(&format!("not stored: {}", ui::printable(problem))));
    match (broken, failed.is_empty()) {
        (Some(error), _) => Err(error),
        (None, true) => Ok(()),
        (None, false) => Err(Error::Import { message: format!("{} files were not stored", failed.len()) }),
    }
}

#[derive(Default)]
struct Stored {
    files: usize,
    bytes: u64,
}

/// Stores files off the queue, one after another, over one connection.
async fn lane(
    mut client: Client,
    dial: Dial,
    queue: Arc<Mutex<std::vec::IntoIter<Item>>>,
    bar: ProgressBar,
) -> Result<(Stored, Vec<String>), Error> {
    let (mut stored, mut problems) = (Stored::default(), Vec::new());
    loop {
        let next = queue.lock().await.next();
        let Some(item) = next else { break };
        let shown = item.file.display();
        let file = match tokio::fs::File::open(&item.file).await {
            Ok(file) => file,
            Err(error) => {
                problems.push(format!("{shown}: {error}"));
                continue;
            }
        };
        let mut stored_now = client.put(&item.path, &mut bar.wrap_async_read(file)).await;
        if dial.retries > 0 && stored_now.as_ref().is_err_and(NetError::is_passing) {
            // The backend was restarted, say. Storing a value again replaces it by itself.
            client = dial.reconnect().await?;
            let again = tokio::fs::File::open(&item.file).await.map_err(|error| Error::io(shown.to_string(), error))?;
            stored_now = client.put(&item.path, &mut bar.wrap_async_read(again)).await;
        }
        match stored_now {
            Ok(answer) => {
                stored.files += 1;
                stored.bytes += answer.bytes;
            }
            // One file's trouble; the connection goes on.
            Err(error @ (NetError::Failure(_) | NetError::Local(_))) => problems.push(format!("{shown}: {error}")),
            Err(error) => return Err(error.into()),
        }
    }
    let _gone = client.close().await;
    Ok((stored, problems))
}

struct Plan {
    items: Vec<Item>,
    bytes: u64,
    skipped: Vec<String>,
}

impl Plan {
    /// Walks the folder. Links are not followed; they and other things that are not files are named as skipped.
    fn of(dir: &Path) -> Result<Self, Error> {
        let real = dir.canonicalize().map_err(|error| Error::io(format!("open {}", dir.display()), error))?;
        if !real.is_dir() {
            return Err(Error::Usage(format!("{} is not a folder", dir.display())));
        }
        let named = if dir.file_name().is_some() { dir } else { &real };
        let category = named.file_name().and_then(|name| name.to_str());
        let category = category.ok_or_else(|| Error::Usage("the folder's name must be UTF-8 text".to_owned()))?;
        let mut plan = Self { items: Vec::new(), bytes: 0, skipped: Vec::new() };
        for entry in WalkDir::new(&real).min_depth(1).sort_by_file_name() {
            match entry {
                Ok(entry) => plan.add(&real, category, &entry),
                Err(error) => plan.skipped.push(error.to_string()),
            }
        }
        Ok(plan)
    }

    fn add(&mut self, root: &Path, category: &str, entry: &walkdir::DirEntry) {
        let kind = entry.file_type();
        if kind.is_dir() {
            return;
        }
        let shown = entry.path().display();
        let relative = entry.path().strip_prefix(root).ok().and_then(|path| path.to_str());
        match relative {
            _ if !kind.is_file() => self.skipped.push(format!("{shown}: not a plain file")),
            None => self.skipped.push(format!("{shown}: its name is not UTF-8 text")),
            Some(relative) => {
                self.bytes += entry.metadata().map(|m| m.len()).unwrap_or_default();
                self.items.push(Item { file: entry.path().to_owned(), path: format!("{category}/{relative}") });
            }
        }
    }
}
