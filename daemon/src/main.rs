#![forbid(unsafe_code)]
//! `pitrd`: one process archives one PostgreSQL server. Arguments in, configuration and log set up, exit code out.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use pitrd::check::{self, Finding};
use pitrd::config::Config;
use pitrd::exit::{self, Exit};

/// Archives the WAL of one PostgreSQL server, continuously, encrypted, to the byte.
#[derive(Parser)]
#[command(name = "pitrd", version, after_help = EXAMPLES)]
struct Args {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "PITRD_CONFIG")]
    config: PathBuf,
    /// Look at everything that can keep the daemon from archiving, print one line per finding, and end with 0 or 1
    #[arg(long, required = true)]
    check: bool,
}

const EXAMPLES: &str = "\
Examples:
  pitrd --config /etc/pitrd/orders.toml --check    what would keep it from archiving?

Exit codes: 0 done, 1 a check failed, 2 usage or configuration, 4 keys, 5 fenced, 6 unavailable, 7 damage.";

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error).into(),
    }
}

fn run(args: &Args) -> anyhow::Result<Exit> {
    let findings = match Config::load(&args.config) {
        Ok(config) => {
            pitrd::log::start(config.log);
            check::local(&config)
        }
        Err(error) => vec![check::refused(&error.into())],
    };
    show(&findings)
}

fn show(findings: &[Finding]) -> anyhow::Result<Exit> {
    let mut out = std::io::stdout().lock();
    for finding in findings {
        writeln!(out, "{finding}")?;
    }
    Ok(if check::passed(findings) {
        Exit::Done
    } else {
        Exit::No
    })
}
