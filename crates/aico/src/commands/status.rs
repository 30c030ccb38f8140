use aico_proto::message::{ConnectionsAnswer, Request, StatusAnswer};

use crate::error::Error;
use crate::places::{connect, run_place};
use crate::ui;

/// Shows how the backend is.
pub(crate) async fn status(json: bool) -> Result<(), Error> {
    let socket = run_place()?.path().join(aico_net::SOCKET_NAME);
    let mut client = connect().await?;
    let answer: StatusAnswer = client.ask(&Request::Status { notices: true }).await?;
    let _gone = client.close().await;
    if json {
        let mut value = serde_json::to_value(&answer)?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("socket".to_owned(), socket.display().to_string().into());
        }
        ui::line(&value.to_string());
        return Ok(());
    }
    if answer.locked {
        ui::line(&format!("{:<14} version {}", "running", answer.version));
        ui::line(&format!("{:<14} locked: `aico unlock` opens it", "vault"));
        return Ok(());
    }
    let code = if answer.recovery_code { "confirmed" } else { "none: `aico security recovery` makes one" };
    let password = if answer.password { "set" } else { "none: your account on this machine is the proof" };
    for (word, text) in [
        ("running", format!("version {}, for {}", answer.version, ui::span(answer.uptime_s))),
        ("socket", ui::printable(&socket.display().to_string())),
        ("tcp", answer.tcp.unwrap_or_else(|| "off".to_owned())),
        ("fingerprint", answer.fingerprint),
        ("vault", format!("unlocked by {}", answer.unlocked_by)),
        ("weakest slot", answer.weakest_slot),
        ("password", password.to_owned()),
        ("recovery code", code.to_owned()),
        ("data", format!("{} in {} values", ui::size(answer.data_bytes), answer.values)),
        ("audit log", format!("{} entries", answer.audit_entries)),
        ("protection", protection(&answer.memory, &answer.confined_by)),
        ("connections", answer.connections.to_string()),
    ] {
        ui::line(&format!("{word:<14} {text}"));
    }
    if let Some(work) = answer.work {
        let of = work.of.map(|of| format!(" of {}", ui::size(of))).unwrap_or_default();
        ui::line(&format!("{:<14} {}, {}: {}{of}", "working", work.what, work.part, ui::size(work.done)));
    }
    answer.notices.iter().for_each(|notice| ui::line(&format!("{:<14} {}", "note", ui::printable(notice))));
    Ok(())
}

/// How the process that has the keys is held.
pub(crate) fn protection(memory: &str, confined_by: &[String]) -> String {
    let memory = match memory {
        "secret" => "keys in secret memory",
        "locked" => "keys in locked memory",
        _ => "keys in memory that may be swapped",
    };
    match confined_by {
        [] => format!("{memory}; not confined"),
        by => format!("{memory}; confined by {}", by.join(" and ")),
    }
}

/// Shows every connection.
pub(crate) async fn connections(json: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    let answer: ConnectionsAnswer = client.ask(&Request::Connections {}).await?;
    let _gone = client.close().await;
    for connection in &answer.connections {
        if json {
            ui::line(&serde_json::to_string(connection)?);
            continue;
        }
        let (name, origin) = (ui::printable(&connection.name), ui::printable(&connection.origin));
        ui::line(&format!(
            "{} `{name}`  {}  {origin}  {}, keys renewed {} times  for {}, idle {}  in {}, out {}",
            connection.kind,
            connection.fingerprint,
            connection.suite,
            connection.rekeys,
            ui::span(connection.age_s),
            ui::span(connection.idle_s),
            ui::size(connection.received),
            ui::size(connection.sent),
        ));
    }
    Ok(())
}
