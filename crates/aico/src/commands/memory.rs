use std::path::Path;

use aico_proto::message::{DoneAnswer, MemoryAnswer, Request};
use tokio::io::AsyncRead;

use crate::args::MemoryCommand;
use crate::commands::finish;
use crate::error::Error;
use crate::owner::Owner;
use crate::places::connect;
use crate::ui;

/// The working memory.
pub(crate) async fn memory(command: MemoryCommand, mut owner: Owner) -> Result<(), Error> {
    let mut client = connect().await?;
    match command {
        MemoryCommand::Put { path, file, keep } => {
            let keep_ms = keep.map(|keep| u64::try_from(keep.as_millis()).unwrap_or(u64::MAX));
            let mut source = source(&file).await?;
            client.give::<DoneAnswer>(&Request::MemoryPut { path, keep_ms }, &mut source).await?;
        }
        MemoryCommand::Get { path } => {
            let (request, mut out) = (Request::MemoryGet { path }, tokio::io::stdout());
            if let Err(error) = client.fetch(&request, &mut out).await {
                // Refused before a byte of it was sent, or not at all.
                owner.show_presence(&mut client, error, "memory get").await?;
                client.fetch(&request, &mut out).await?;
            }
        }
        MemoryCommand::List { prefix, json } => {
            let mut after = None;
            loop {
                let request = Request::MemoryList { prefix: prefix.clone(), after };
                let page: MemoryAnswer = owner.ask(&mut client, &request, "memory list").await?;
                for entry in &page.entries {
                    if json {
                        ui::line(&serde_json::to_string(entry)?);
                    } else {
                        let until = entry.expires_ms.map_or_else(|| "for ever".to_owned(), ui::time);
                        ui::line(&format!("{:>12}  {until:>24}  {}", entry.bytes, ui::printable(&entry.path)));
                    }
                }
                after = page.entries.last().map(|entry| entry.path.clone());
                if !page.more || after.is_none() {
                    break;
                }
            }
        }
        MemoryCommand::Rm { path } => {
            owner.ask::<DoneAnswer>(&mut client, &Request::MemoryRemove { path }, "memory rm").await?;
        }
    }
    finish(client).await
}

async fn source(file: &Path) -> Result<Box<dyn AsyncRead + Send + Unpin>, Error> {
    if file == Path::new("-") {
        return Ok(Box::new(tokio::io::stdin()));
    }
    let opened = tokio::fs::File::open(file).await;
    Ok(Box::new(opened.map_err(|error| Error::io(format!("open {}", file.display()), error))?))
}
