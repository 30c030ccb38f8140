use std::time::{Duration, Instant};

use aico_proto::message::{DoneAnswer, Request};

use crate::error::Error;
use crate::places::{connect, places};
use crate::ui;

/// Longer than the backend gives its own requests.
const PATIENCE: Duration = Duration::from_secs(45);

/// Stops the backend and waits until the vault is closed.
pub(crate) async fn down() -> Result<(), Error> {
    let mut client = connect().await?;
    client.ask::<DoneAnswer>(&Request::SystemStop {}).await?;
    let _gone = client.close().await;
    let (home, began) = (places()?.home, Instant::now());
    while aico_vault::is_held(&home) {
        if began.elapsed() > PATIENCE {
            return Err(Error::StillRunning);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    ui::line("stopped");
    Ok(())
}
