use std::path::Path;

use aico_crypto::PublicKey;
use aico_proto::message::{AnchorAnswer, AuditAnswer, AuditEntry, Request};
use aico_vault::audit::{self, Anchored, Expectations, Head, Report};
use aico_vault::{Anchor, Locked, Places, Vault};
use base64ct::{Base64, Encoding};
use serde_json::Value;

use crate::error::Error;
use crate::places::{connect, places};
use crate::ui;

/// Longest checkpoint that is read.
const MAX_CHECKPOINT_BYTES: u64 = 4096;

/// Shows the newest entries.
pub(crate) async fn tail(count: u32, json: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    let answer: AuditAnswer = client.ask(&Request::AuditTail { count }).await?;
    let _gone = client.close().await;
    for entry in &answer.entries {
        if json {
            ui::line(&serde_json::to_string(entry)?);
        } else {
            ui::line(&ui::printable(&sentence(entry)));
        }
    }
    Ok(())
}

/// An entry on one line: index, time, what, how it went, the rest.
fn sentence(entry: &AuditEntry) -> String {
    let event = &entry.event;
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let number = |name: &str| event.get(name).and_then(Value::as_u64);
    let time = ui::time(number("at_ms").unwrap_or_default());
    let mut line = format!("{:>6}  {time}  {:<16}", entry.index, text("what"));
    for name in ["verdict", "category", "reason", "failed", "detail"] {
        if !text(name).is_empty() {
            line += &format!(" {}", text(name));
        }
    }
    if let Some(of) = number("of") {
        line += &format!(" of {of}");
    }
    if let Some(bytes) = number("bytes") {
        line += &format!(" done, {}", ui::size(bytes));
    }
    if let Some(kind) = event.pointer("/who/kind").and_then(Value::as_str) {
        line += &format!(" by {kind}");
    }
    line
}

/// Verifies the whole log, with what the vault remembers where it opens.
pub(crate) async fn verify(require_anchor: bool, checkpoint: Option<&Path>, json: bool) -> Result<(), Error> {
    let places = places()?;
    if !places.home.join("vault.aico").exists() && !places.home.join("audit").exists() {
        return Err(aico_vault::Error::NoVault(places.home).into());
    }
    let (remembered, why_not) = match remembered(&places).await {
        Ok(anchor) => (Some(anchor), None),
        Err(error @ Error::Vault(aico_vault::Error::Damaged { .. })) => return Err(not_whole(&error)),
        Err(error) => (None, Some(error.to_string())),
    };
    let key = remembered.as_ref().map(|anchor| anchor.key);
    let head = remembered.and_then(|anchor| anchor.head).map(audit::Anchor::Head);
    let given = checkpoint.map(read_checkpoint).transpose()?.map(audit::Anchor::Checkpoint);
    let folder = places.home.join("audit");
    let mut report = None;
    // Two anchors are two verifications: the log has to hold both.
    let anchors: Vec<_> = head.into_iter().chain(given).map(Some).collect();
    for anchor in if anchors.is_empty() { vec![None] } else { anchors } {
        let expected = Expectations { key, anchor };
        let checked = tokio::task::block_in_place(|| audit::verify(&folder, &expected));
        report = Some(checked.map_err(|error| Error::LogNotWhole(error.to_string()))?);
    }
    let Some(report) = report else { return Err(Error::NotAnchored) };
    show(&report, why_not.as_deref(), json)?;
    if require_anchor && report.anchored == Anchored::No { Err(Error::NotAnchored) } else { Ok(()) }
}

fn show(report: &Report, why_not: Option<&str>, json: bool) -> Result<(), Error> {
    let anchored = report.anchored != Anchored::No;
    if json {
        let value = serde_json::json!({
            "whole": true, "anchored": anchored, "entries": report.size, "root": report.root, "notes": report.notes,
        });
        ui::line(&serde_json::to_string(&value)?);
        return Ok(());
    }
    ui::line(&format!("{} entries, root {}", report.size, report.root));
    if anchored {
        ui::line("whole, and anchored: it holds what is remembered outside of it");
    } else {
        ui::line("internally consistent, not anchored");
        if let Some(why) = why_not {
            ui::line(&format!("  the vault was not asked: {}", ui::printable(why)));
        }
    }
    report.notes.iter().for_each(|note| ui::line(&format!("  note: {}", ui::printable(note))));
    Ok(())
}

/// What the vault remembers: from the backend if one runs, else from the vault itself if it opens.
async fn remembered(places: &Places) -> Result<Anchor, Error> {
    if aico_vault::is_held(&places.home) {
        let mut client = connect().await?;
        let answer: AnchorAnswer = client.ask(&Request::AuditAnchor {}).await?;
        let _gone = client.close().await;
        return anchor(&answer).ok_or_else(|| aico_net::Error::UnexpectedMessage.into());
    }
    tokio::task::block_in_place(|| Ok(Vault::<Locked>::at(places)?.remembered_anchor()?))
}

fn anchor(answer: &AnchorAnswer) -> Option<Anchor> {
    let key = PublicKey::from_text(&answer.key).ok()?;
    let mut bytes = [0; 32];
    let head = if answer.size == 0 {
        None
    } else {
        Some(Head { size: answer.size, root: Base64::decode(&answer.root, &mut bytes).ok()?.try_into().ok()? })
    };
    Some(Anchor { key, head })
}

fn read_checkpoint(path: &Path) -> Result<String, Error> {
    use std::io::Read;
    let mut text = String::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(MAX_CHECKPOINT_BYTES).read_to_string(&mut text));
    read.map_err(|error| Error::io(format!("read {}", path.display()), error))?;
    Ok(text)
}

fn not_whole(error: &Error) -> Error {
    Error::LogNotWhole(error.to_string())
}
