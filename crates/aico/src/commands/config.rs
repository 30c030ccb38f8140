//! `aico config`: what the owner sets, checked, shown and accepted.

use aico_backend::read_config;
use aico_proto::message::{ConfigAnswer, DoneAnswer, Request};

use crate::args::ConfigCommand;
use crate::commands::finish;
use crate::error::Error;
use crate::owner::Owner;
use crate::places::{connect, places};
use crate::ui;

pub(crate) async fn config(command: ConfigCommand, owner: Owner) -> Result<(), Error> {
    match command {
        ConfigCommand::Check => check(),
        ConfigCommand::Show { json } => show(json).await,
        ConfigCommand::Accept => accept(owner).await,
        ConfigCommand::Schema => {
            ui::line(&serde_json::to_string_pretty(&aico_backend::config::json_schema())?);
            Ok(())
        }
    }
}

/// Checks the file; needs no backend.
fn check() -> Result<(), Error> {
    let home = places()?.home;
    let config = read_config(&home)?;
    let changes = aico_backend::config::Config::default().changes(&config);
    ui::line(&format!("{} is good", ui::printable(&home.join("security.yaml").display().to_string())));
    changes.iter().for_each(|change| ui::line(&format!("  {change}")));
    Ok(())
}

async fn show(json: bool) -> Result<(), Error> {
    let mut client = connect().await?;
    let answer: ConfigAnswer = client.ask(&Request::ConfigShow {}).await?;
    if json {
        ui::line(&serde_json::to_string(&answer)?);
    } else {
        ui::line(answer.in_force.trim_end());
        if let Some(fault) = &answer.fault {
            ui::line(&format!("# the file is wrong, and not in force: {}", ui::printable(fault)));
        }
        if !answer.waiting.is_empty() {
            ui::line("# the file says otherwise; `aico config accept` takes it over:");
            answer.waiting.iter().for_each(|change| ui::line(&format!("#   {}", ui::printable(change))));
        }
    }
    finish(client).await
}

/// Shows what would change, and has the owner take it over.
async fn accept(mut owner: Owner) -> Result<(), Error> {
    let mut client = connect().await?;
    let answer: ConfigAnswer = client.ask(&Request::ConfigShow {}).await?;
    answer.waiting.iter().for_each(|change| ui::line(&ui::printable(change)));
    let request = Request::ConfigAccept { sum: answer.sum };
    owner.ask::<DoneAnswer>(&mut client, &request, "accept").await?;
    ui::line("accepted; what concerns sockets and channels takes effect at the next start");
    finish(client).await
}
