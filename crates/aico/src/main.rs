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
    let args = args::Args::parse();
    let json = args.json();
    match commands::run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => error.show(json),
    }
}
