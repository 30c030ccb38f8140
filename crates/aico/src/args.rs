//! The words of the command line (`docs/manual/cli.md`).

mod service;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub(crate) use service::ServiceCommand;

/// The security system of a local-first AI companion.
#[derive(Debug, Parser)]
#[command(name = "aico", version, max_term_width = 100, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the backend in the foreground; the first start sets everything up and asks nothing
    Up,
    /// Say how the backend is; exit 0 when it answers
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop the backend; what it has accepted is finished first
    Down,
    /// Keep and read data
    #[command(subcommand)]
    Data(DataCommand),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Who speaks, and who is let in
    #[command(subcommand)]
    Identity(IdentityCommand),
    /// Have the system start the backend
    #[command(subcommand)]
    Service(ServiceCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Store a file under PATH, as `category/name…`; `-` reads standard input
    Put { path: String, file: PathBuf },
    /// Write the value under PATH to standard output, byte for byte
    Get { path: String },
    /// List what is stored
    List {
        /// Only paths that start with this
        prefix: Option<String>,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Remove the value under PATH
    Rm { path: String },
    /// Store every file of a folder under `<name of DIR>/<relative path>`
    Import { dir: PathBuf },
}

#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// Show the newest entries
    Tail {
        /// How many, 1 to 100
        #[arg(short = 'n', long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=100))]
        count: u32,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Check the whole log; works without a running backend
    Verify {
        /// Exit 3 unless the log was compared with an anchor outside of it
        #[arg(long)]
        require_anchor: bool,
        /// A checkpoint that was kept elsewhere, to compare with
        #[arg(long, value_name = "FILE")]
        checkpoint: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum IdentityCommand {
    /// Show this client's identity and the backend's
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask to be enrolled with an identity of one's own, kept in FILE
    Enrol {
        /// Where the identity is kept; it is made if it is not there
        file: PathBuf,
        /// What asks: frontend, cli, studio or plugin
        #[arg(long, default_value = "frontend")]
        kind: String,
        /// Its name, up to 31 bytes
        #[arg(long, default_value = "frontend")]
        name: String,
    },
    /// Show who waits to be enrolled
    Pending {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Let a waiting identity in, by its fingerprint
    Approve { fingerprint: String },
    /// Turn a waiting identity away, by its fingerprint
    Deny { fingerprint: String },
}

impl Args {
    /// Whether errors are shown as JSON too.
    pub(crate) fn json(&self) -> bool {
        match &self.command {
            Command::Status { json }
            | Command::Data(DataCommand::List { json, .. })
            | Command::Audit(AuditCommand::Tail { json, .. } | AuditCommand::Verify { json, .. })
            | Command::Identity(IdentityCommand::Show { json } | IdentityCommand::Pending { json })
            | Command::Service(ServiceCommand::Status { json, .. }) => *json,
            _ => false,
        }
    }
}
