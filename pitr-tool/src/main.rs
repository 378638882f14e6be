#![forbid(unsafe_code)]
//! `pitr-tool`: the command line in, one subcommand run, the documented exit code out.

use std::ffi::OsString;
use std::process::ExitCode;

use pitr_tool::cli::Cli;
use pitr_tool::wal_fetch;
use pitrd::config::{Log, LogFormat, LogLevel};
use pitrd::exit::{self, Exit};

fn main() -> ExitCode {
    let line: Vec<_> = std::env::args_os().collect();
    let wal_fetch = wal_fetch::is_asked(&line);
    if wal_fetch {
        wal_fetch::end_fatally_on_panic();
    }
    let exit = run(line);
    if wal_fetch {
        wal_fetch::exit(exit)
    } else {
        exit
    }
    .into()
}

fn run(line: Vec<OsString>) -> Exit {
    let cli = match Cli::read(line) {
        Ok(cli) => cli,
        Err(refused) => {
            // To a closed standard error nothing can be said.
            let _ = refused.print();
            return if refused.use_stderr() {
                Exit::Usage
            } else {
                Exit::Done
            };
        }
    };
    pitrd::log::start(Log {
        format: LogFormat::Text,
        level: LogLevel::WARN,
    });
    cli.run().unwrap_or_else(|error| exit::report(&error))
}
