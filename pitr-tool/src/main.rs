#![forbid(unsafe_code)]
//! `pitr-tool`: the command line in, one subcommand run, the documented exit code out.

use std::process::ExitCode;

use clap::Parser;
use pitr_tool::cli::Cli;
use pitrd::config::{Log, LogFormat, LogLevel};
use pitrd::exit;

fn main() -> ExitCode {
    let cli = Cli::parse();
    pitrd::log::start(Log {
        format: LogFormat::Text,
        level: LogLevel::WARN,
    });
    match cli.run() {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error).into(),
    }
}
