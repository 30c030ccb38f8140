use std::os::unix::fs::MetadataExt;

use aico_backend::Backend;
use aico_vault::Places;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::Error;
use crate::places::places;
use crate::ui;

/// Runs the backend until Ctrl-C, SIGTERM or `aico down`.
pub(crate) async fn up() -> Result<(), Error> {
    keep_secrets_in();
    let places = places()?;
    let catch = |kind| signal(kind).map_err(|error| Error::io("listen for signals", error));
    let (mut interrupt, mut terminate) = (catch(SignalKind::interrupt())?, catch(SignalKind::terminate())?);
    let backend = Backend::start(places.clone()).await?;
    introduce(&places, &backend);
    backend
        .serve(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            ui::line("stopping: what was accepted is finished first");
        })
        .await?;
    ui::line("stopped");
    Ok(())
}

/// No core dump, no debugger of another process: the keys stay in this one. Best effort, as `SECURITY.md` says.
fn keep_secrets_in() {
    use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
    let _best_effort = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _best_effort = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

fn introduce(places: &Places, backend: &Backend) {
    let opening = backend.opening();
    let home = ui::printable(&places.home.display().to_string());
    if opening.first_start {
        ui::line(&format!("A new vault was set up in {home}"));
    } else {
        ui::line(&format!("The vault in {home} is open"));
    }
    ui::line(&format!("  unlocked by   {}", opening.unlocked_by));
    if let Some(advice) = &opening.advice {
        ui::line(&format!("                {}", ui::printable(advice)));
    }
    if key_folder_is_inside(places) {
        ui::line("  warning       the key file lies inside the data folder: a copy of the folder is a copy of the key");
    }
    ui::line(&format!("  fingerprint   {}", backend.fingerprint()));
    ui::line(&format!("  socket        {}", ui::printable(&backend.socket().display().to_string())));
    ui::line("Ctrl-C stops it; `aico status` in another terminal shows it at work.");
}

/// Whether the key folder is the data folder or below it, links followed.
fn key_folder_is_inside(places: &Places) -> bool {
    let Ok(home) = std::fs::metadata(&places.home) else { return false };
    let same = |folder: &std::path::Path| {
        std::fs::metadata(folder).is_ok_and(|f| (f.dev(), f.ino()) == (home.dev(), home.ino()))
    };
    places.key_dir.canonicalize().is_ok_and(|key_dir| key_dir.ancestors().any(same))
}
