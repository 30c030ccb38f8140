use aico_proto::message::{Request, StatusAnswer};

use crate::error::Error;
use crate::places::{connect, places};
use crate::ui;

/// Shows how the backend is.
pub(crate) async fn status(json: bool) -> Result<(), Error> {
    let socket = places()?.home.join("run").join(aico_net::SOCKET_NAME);
    let mut client = connect().await?;
    let answer: StatusAnswer = client.ask(&Request::Status {}).await?;
    let _gone = client.close().await;
    if json {
        let mut value = serde_json::to_value(&answer)?;
        if let Some(fields) = value.as_object_mut() {
            fields.insert("socket".to_owned(), socket.display().to_string().into());
        }
        ui::line(&value.to_string());
        return Ok(());
    }
    let code = if answer.recovery_code { "confirmed" } else { "none yet: a lost key file loses the data" };
    for (word, text) in [
        ("running", format!("version {}, for {}", answer.version, ui::span(answer.uptime_s))),
        ("socket", ui::printable(&socket.display().to_string())),
        ("fingerprint", answer.fingerprint),
        ("vault", if answer.locked { "locked".to_owned() } else { format!("unlocked by {}", answer.unlocked_by) }),
        ("weakest slot", answer.weakest_slot),
        ("recovery code", code.to_owned()),
        ("data", format!("{} in {} values", ui::size(answer.data_bytes), answer.values)),
        ("audit log", format!("{} entries", answer.audit_entries)),
        ("connections", answer.connections.to_string()),
    ] {
        ui::line(&format!("{word:<14} {text}"));
    }
    answer.notices.iter().for_each(|notice| ui::line(&format!("{:<14} {}", "note", ui::printable(notice))));
    Ok(())
}
