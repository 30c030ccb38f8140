//! The words of the command line (`docs/manual/cli.md`).

mod service;

use std::path::PathBuf;
use std::time::Duration;

use aico_crypto::{MAX_SHARES, Split};
use clap::{Parser, Subcommand};

pub(crate) use service::ServiceCommand;

/// The security system of a local-first AI companion.
#[derive(Debug, Parser)]
#[command(name = "aico", version, max_term_width = 100, propagate_version = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Passwords from FILE, one a line, the old one first; `-` is standard input. Opens no session
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) password_file: Option<PathBuf>,
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
        /// Show every connection instead
        #[arg(long)]
        connections: bool,
    },
    /// Stop the backend; what it has accepted is finished first
    Down,
    /// Lock the vault: the process that has the keys ends, and no start opens it until `aico unlock`
    Lock,
    /// Open a locked vault
    Unlock {
        /// With the recovery code instead of the password
        #[arg(long)]
        recovery: bool,
    },
    /// Password, recovery code, key slots, and the owner's session
    #[command(subcommand)]
    Security(SecurityCommand),
    /// Say what opens the vault, what a loss would mean today, and what is wrong
    Doctor {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Mount your files on the folder DIR, for other programs, until Ctrl-C; they are encrypted on the disk
    Mount {
        /// An empty folder
        dir: PathBuf,
        /// Nothing can be changed there
        #[arg(long)]
        read_only: bool,
    },
    /// Destroy what is stored, and the keys that opened it, for ever
    #[command(subcommand)]
    Forget(ForgetCommand),
    /// The configuration, `security.yaml`
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Delete the vault and everything in it, for ever
    Reset,
    /// The process that has the keys; `aico up` starts it
    #[command(hide = true)]
    Worker {
        /// The process that it ends with
        parent: i32,
    },
    /// Encrypted copies of the vault
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Unmounts what `aico mount` leaves when it is killed; `aico mount` starts it
    #[command(hide = true)]
    MountGuard {
        /// Where
        dir: PathBuf,
        /// The number of the device that is to be there
        device: String,
    },
    /// The vault as it lies on the disk
    #[command(subcommand)]
    Vault(VaultCommand),
    /// Files that are sealed on their own, for yourself or for somebody without the vault
    #[command(subcommand)]
    File(FileCommand),
    /// Keep and read data
    #[command(subcommand)]
    Data(DataCommand),
    /// Keep in mind for a while: small values that may expire by themselves
    #[command(subcommand)]
    Memory(MemoryCommand),
    /// Bring over what other programs keep
    #[command(subcommand)]
    Import(ImportCommand),
    /// Read and verify the audit log
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Ask the access history: who read or wrote what, and when; without SQL, show its tables
    Query {
        /// One SELECT, as DuckDB has it
        sql: Option<String>,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
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
    /// Write every value to DIR as `<category>/<name>`, unencrypted
    Export { dir: PathBuf },
    /// Say what is stored, how much, how it is protected and who may read it
    Inventory {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum MemoryCommand {
    /// Keep a file of at most 1 MiB under PATH, as `category/name…`; `-` reads standard input
    Put {
        path: String,
        file: PathBuf,
        /// For so long only: a number and `s`, `m`, `h` or `d`
        #[arg(long = "for", value_name = "TIME", value_parser = duration)]
        keep: Option<Duration>,
    },
    /// Write what is kept under PATH to standard output, byte for byte
    Get { path: String },
    /// List what is kept
    List {
        /// Only paths that start with this
        prefix: Option<String>,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Remove what is kept under PATH
    Rm { path: String },
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackupCommand {
    /// Write a copy of the running vault to DIR, which is new or empty; a password or the recovery code opens it
    Copy { dir: PathBuf },
    /// Read and authenticate every byte of a copy
    Check {
        dir: PathBuf,
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ForgetCommand {
    /// Forget the conversation `conversations/<ID>/…`
    Conversation { id: String },
    /// Forget a whole category
    Category { name: String },
    /// Forget everything that is stored; devices, identities and the audit log stay
    Space,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    /// Store every row of a SQLite database, and compare it with what was stored
    Sqlite {
        file: PathBuf,
        /// Store it as CATEGORY/<table>.jsonl; the file's name without its ending otherwise
        #[arg(long, value_name = "CATEGORY")]
        under: Option<String>,
        /// Remove the database once all of it was verified
        #[arg(long)]
        remove_source: bool,
    },
    /// Store the database and the encrypted files of a Python AICO's data folder
    Aico {
        dir: PathBuf,
        /// Store them as CATEGORY/…
        #[arg(long, value_name = "CATEGORY", default_value = "aico")]
        under: String,
        /// Ask for its password, which this salt belongs to, instead of looking into the keyring
        #[arg(long, value_name = "DIGITS")]
        salt: Option<String>,
        /// Remove the database and the files that were imported once all of them were verified
        #[arg(long)]
        remove_source: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum FileCommand {
    /// Encrypt FILE: under the vault, or under a passphrase, which needs no vault
    Seal {
        /// Under a passphrase, which is asked for; `--password-file` gives it without asking
        #[arg(long)]
        passphrase: bool,
        /// What to seal; `-` is standard input
        file: PathBuf,
        /// Where the sealed file goes; nothing may be there yet
        #[arg(short, long, value_name = "OUT")]
        output: PathBuf,
    },
    /// Decrypt a sealed FILE; it says itself what opens it
    Open {
        /// What was sealed; `-` is standard input
        file: PathBuf,
        /// Where the content goes once all of it has been authenticated; nothing may be there yet
        #[arg(short, long, value_name = "OUT")]
        output: PathBuf,
    },
    /// Write the content of a sealed FILE to standard output; it is whole only when the exit code is 0
    Cat {
        /// What was sealed; `-` is standard input
        file: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum VaultCommand {
    /// Read and authenticate every byte of it; the backend must be stopped
    Verify {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
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
    /// Show who is enrolled and who was revoked
    List {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Call an identity something else
    Rename { fingerprint: String, name: String },
    /// Revoke an identity, and cut its connections
    Revoke { fingerprint: String },
    /// Make this client a new identity, and revoke the old one
    Regenerate,
    /// Make and enrol an identity for a component that runs elsewhere, and write it to FILE
    Export {
        /// Where it is written; it is a secret
        file: PathBuf,
        /// What it is for: frontend, cli, studio or plugin
        #[arg(long, default_value = "frontend")]
        kind: String,
        /// Its name, up to 31 bytes
        #[arg(long, default_value = "frontend")]
        name: String,
    },
    /// Take over an identity that was exported for this machine: it becomes the command line's
    Import { file: PathBuf },
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecurityCommand {
    /// Set the first password
    Setup,
    /// Change the password; no data is touched
    Passwd {
        /// Make a new root key too: an older copy of the header still opens with the old password
        #[arg(long)]
        rotate: bool,
    },
    /// Give every store a new key and destroy the old ones; returns when that is complete
    Rotate {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a recovery code on the terminal; it is in force once two of its words are typed back
    Recovery {
        /// Split it into N shares, any K of which restore it: 2 ≤ K ≤ N ≤ 16
        #[arg(long, value_name = "K/N", value_parser = split)]
        split: Option<Split>,
        /// Write a page to print to FILE; with --split a folder with a page for each share. It holds the secret
        #[arg(long, value_name = "FILE")]
        kit: Option<PathBuf>,
    },
    /// Set a new password with the recovery code
    Recover {
        /// Ask for shares of the code instead
        #[arg(long)]
        shares: bool,
    },
    /// Show the owner's session at this terminal
    Session {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// End the session; with `--stored-keys` remove what this machine keeps to open the vault
    Clear {
        /// Remove the key file and the keyring's entry; refused without a password or a recovery code
        #[arg(long)]
        stored_keys: bool,
    },
    /// The key slots
    #[command(subcommand)]
    Slots(SlotsCommand),
}

#[derive(Debug, Subcommand)]
pub(crate) enum SlotsCommand {
    /// Show what opens the vault
    List {
        /// Print one JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Add a slot that this machine keeps
    Add {
        /// key-file, secret-service, systemd-credential, tpm2; keychain (macOS), credential-manager (Windows)
        kind: String,
    },
    /// Remove a slot, by its number
    Remove { slot: u8 },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Check the file; needs no backend
    Check,
    /// Show what is in force, and what waits to be accepted
    Show {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Accept the file as it is
    Accept,
    /// Print the JSON schema, for editors
    Schema,
}

/// `K/N`
fn split(text: &str) -> Result<Split, String> {
    let numbers = text.split_once('/').and_then(|(k, n)| Some((k.parse().ok()?, n.parse().ok()?)));
    let split = numbers.and_then(|(threshold, count)| Split::new(threshold, count));
    split.ok_or_else(|| format!("`3/5`, say: three of five shares restore the code; 2 to {MAX_SHARES}"))
}

fn duration(text: &str) -> Result<Duration, String> {
    let unit = text.char_indices().next_back().and_then(|(at, unit)| Some((text.get(..at)?, unit)));
    let seconds = unit.and_then(|(number, unit)| {
        let seconds = match unit {
            's' => 1,
            'm' => 60,
            'h' => 60 * 60,
            'd' => 24 * 60 * 60,
            _ => return None,
        };
        number.parse::<u64>().ok().filter(|number| *number > 0)?.checked_mul(seconds)
    });
    seconds.map(Duration::from_secs).ok_or_else(|| "`30s`, `20m`, `12h` or `7d`, say".to_owned())
}

impl Args {
    /// Whether errors are shown as JSON too.
    pub(crate) fn json(&self) -> bool {
        match &self.command {
            Command::Status { json, .. }
            | Command::Query { json, .. }
            | Command::Doctor { json }
            | Command::Data(DataCommand::List { json, .. } | DataCommand::Inventory { json })
            | Command::Memory(MemoryCommand::List { json, .. })
            | Command::Config(ConfigCommand::Show { json })
            | Command::Vault(VaultCommand::Verify { json })
            | Command::Backup(BackupCommand::Check { json, .. })
            | Command::Security(
                SecurityCommand::Session { json }
                | SecurityCommand::Rotate { json }
                | SecurityCommand::Slots(SlotsCommand::List { json }),
            )
            | Command::Audit(AuditCommand::Tail { json, .. } | AuditCommand::Verify { json, .. })
            | Command::Identity(
                IdentityCommand::Show { json } | IdentityCommand::Pending { json } | IdentityCommand::List { json },
            )
            | Command::Service(ServiceCommand::Status { json, .. }) => *json,
            _ => false,
        }
    }
}
