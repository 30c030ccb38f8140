use std::path::Path;

use aico_proto::message::{DoneAnswer, ListAnswer, Request};

use crate::commands::finish;
use crate::error::Error;
use crate::owner::Owner;
use crate::places::connect;
use crate::ui;

/// Stores one file, or standard input.
pub(crate) async fn put(path: &str, file: &Path) -> Result<(), Error> {
    let mut client = connect().await?;
    if file == Path::new("-") {
        client.put(path, &mut tokio::io::stdin()).await?;
    } else {
        let opened = tokio::fs::File::open(file).await;
        let opened = opened.map_err(|error| Error::io(format!("open {}", file.display()), error))?;
        let bytes = opened.metadata().await.map(|m| m.len()).unwrap_or_default();
        let bar = ui::progress(bytes);
        client.put(path, &mut bar.wrap_async_read(opened)).await?;
        bar.finish_and_clear();
    }
    finish(client).await
}

/// Writes one value to standard output.
pub(crate) async fn get(path: &str, mut owner: Owner) -> Result<(), Error> {
    let mut client = connect().await?;
    let mut out = tokio::io::stdout();
    if let Err(error) = client.get(path, &mut out).await {
        // Refused before a byte of it was sent, or not at all.
        owner.show_presence(&mut client, error, "get").await?;
        client.get(path, &mut out).await?;
    }
    finish(client).await
}

/// Lists values, page by page.
pub(crate) async fn list(prefix: Option<String>, json: bool, mut owner: Owner) -> Result<(), Error> {
    let mut client = connect().await?;
    let mut after = None;
    loop {
        let request = Request::DataList { prefix: prefix.clone(), after };
        let page: ListAnswer = owner.ask(&mut client, &request, "list").await?;
        for entry in &page.entries {
            if json {
                ui::line(&serde_json::to_string(entry)?);
            } else {
                ui::line(&format!("{:>12}  {}", entry.bytes, ui::printable(&entry.path)));
            }
        }
        after = page.entries.last().map(|entry| entry.path.clone());
        if !page.more || after.is_none() {
            break;
        }
    }
    finish(client).await
}

/// Removes one value.
pub(crate) async fn remove(path: String, mut owner: Owner) -> Result<(), Error> {
    let mut client = connect().await?;
    owner.ask::<DoneAnswer>(&mut client, &Request::DataRemove { path }, "rm").await?;
    finish(client).await
}
