#![forbid(unsafe_code)]
//! `pitrd`: one process archives one source. Arguments in, configuration and log set up, exit code out.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use clap::Parser;
use pitrd::check::{self, Finding};
use pitrd::cli::Args;
use pitrd::config::{Config, ConfigError};
use pitrd::exit::{self, Exit};
use pitrd::supervise;

/// glibc gives every thread an arena and keeps what was freed in it: with two the peak is half and less. The setting is read before
/// `main`, so the program starts itself anew, as the same process.
fn limit_arenas() {
    const SETTING: &str = "MALLOC_ARENA_MAX";
    let mut words = std::env::args_os();
    if let (None, Ok(program), Some(name)) = (
        std::env::var_os(SETTING),
        std::env::current_exe(),
        words.next(),
    ) {
        // Where it does not succeed, the daemon runs on with more memory.
        let _ = Command::new(program)
            .arg0(name)
            .args(words)
            .env(SETTING, "2")
            .exec();
    }
}

fn main() -> ExitCode {
    limit_arenas();
    let args = Args::parse();
    match run(&args) {
        Ok(exit) => exit.into(),
        Err(error) => exit::report(&error).into(),
    }
}

fn run(args: &Args) -> anyhow::Result<Exit> {
    let config = Config::load(&args.config);
    if args.check {
        return check(config);
    }
    let config = config?;
    pitrd::log::start(config.log);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let accept_break = args.accept_break;
    let ended = runtime.block_on(supervise::run(|supervision| {
        // On a worker of its own: what it wakes stays with it, where the thread of `block_on` would wake a worker for every piece of log.
        let work = tokio::spawn(pitrd::run::run(config, accept_break, supervision));
        // Nobody aborts it: if it does not return it has panicked, and that ends the process as a panic.
        async {
            work.await
                .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
        }
    }));
    // A store that hangs must not keep the process: what it was doing was not acknowledged.
    runtime.shutdown_background();
    ended.map(|()| Exit::Done)
}

fn check(config: Result<Config, ConfigError>) -> anyhow::Result<Exit> {
    let findings = match config {
        Ok(config) => {
            pitrd::log::start(config.log);
            let runtime = tokio::runtime::Runtime::new()?;
            runtime.block_on(check::everything(&config))
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
