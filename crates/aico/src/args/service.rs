use std::path::PathBuf;

use clap::Subcommand;

/// `aico service` (`docs/manual/service.md`).
#[derive(Debug, Subcommand)]
pub(crate) enum ServiceCommand {
    /// Start the backend at every login; with `--system`, at boot as a user of its own
    Install {
        /// Give it a user of its own: the boundary that programs of your user cannot pass (needs root)
        #[arg(long)]
        system: bool,
        /// Whose it is; the user who called `sudo` if it is not given
        #[arg(long, value_name = "USER", requires = "system")]
        owner: Option<String>,
        /// Show everything that would be written and run, and do nothing
        #[arg(long)]
        print: bool,
        /// Write below DIR, make no user and ask no systemd (for tests and images)
        #[arg(long, value_name = "DIR", hide = true)]
        root: Option<PathBuf>,
    },
    /// Stop it and remove its unit; the vault and its keys stay
    Remove {
        /// The one that has a user of its own (needs root)
        #[arg(long)]
        system: bool,
        /// Whose it is; the user who called `sudo` if it is not given
        #[arg(long, value_name = "USER", requires = "system")]
        owner: Option<String>,
        #[arg(long, value_name = "DIR", hide = true)]
        root: Option<PathBuf>,
    },
    /// Say what is installed, and whether it runs
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
        #[arg(long, value_name = "DIR", hide = true)]
        root: Option<PathBuf>,
    },
}
