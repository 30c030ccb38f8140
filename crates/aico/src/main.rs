//! `aico`: the command line of AICO Security.

mod args;
mod commands;
mod error;
mod owner;
mod places;
mod ui;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    aico_vault::unlock::quiet_tpm();
    let args = args::Args::parse();
    let json = args.json();
    match commands::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.show(json),
    }
}
