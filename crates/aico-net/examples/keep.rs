//! Keeps a value in a running backend and reads it back, as any enrolled program of the same user can:
//! `cargo run --release --example keep -- ~/.local/share/aico/run ~/app.key`
//! (`aico identity enrol ~/app.key` makes and enrols the identity.)

use std::path::PathBuf;

use aico_net::{Dial, Speaker, read_client_key};
use aico_proto::message::{ListAnswer, Request};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args_os().skip(1).map(PathBuf::from);
    let usage = "usage: keep RUN_FOLDER IDENTITY_FILE";
    let (run, identity) = (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);

    let me = Speaker::new(read_client_key(&identity)?)?;
    let mut client = Dial::local(&run, me).connect().await?;
    client.put("example/greeting", &mut "hello".as_bytes()).await?;

    let mut value = Vec::new();
    client.get("example/greeting", &mut value).await?;
    assert_eq!(value, b"hello");

    let list: ListAnswer = client.ask(&Request::DataList { prefix: Some("example/".into()), after: None }).await?;
    assert_eq!(list.entries.len(), 1);
    client.close().await?;
    Ok(())
}
