use std::path::Path;

use aico_proto::message::{DoneAnswer, ListAnswer, Request};

use crate::error::Error;
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
    let _gone = client.close().await;
    Ok(())
}

/// Writes one value to standard output.
pub(crate) async fn get(path: &str) -> Result<(), Error> {
    let mut client = connect().await?;
    client.get(path, &mut tokio::io::stdout()).await?;
    let _gone = client.close().await;
    Ok(())
}

/// Lists values, page by page.
pub(crate) async fn list(prefix: Option<String>, json: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    let mut after = None;
    loop {
        let page: ListAnswer = client.ask(&Request::DataList { prefix: prefix.clone(), after }).await?;
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
    let _gone = client.close().await;
    Ok(())
}

/// Removes one value.
pub(crate) async fn remove(path: String) -> Result<(), Error> {
    let mut client = connect().await?;
    client.ask::<DoneAnswer>(&Request::DataRemove { path }).await?;
    let _gone = client.close().await;
    Ok(())
}
