//! `pitr-tool completions` and `pitr-tool man`: the command lines of both programs described by themselves, for shells and for man.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use pitrd::cli::Args as Daemon;
use pitrd::exit::Exit;

use crate::cli::Cli;
use crate::output;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// For which shell
    pub shell: Shell,
    /// Of the daemon instead of the tool
    #[arg(long)]
    pub pitrd: bool,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Directory for one page per subcommand and that of pitrd; without it the tool's page goes to standard output
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Prints the completion script.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    let (mut command, name) = if args.pitrd {
        (Daemon::command(), "pitrd")
    } else {
        (Cli::command(), "pitr-tool")
    };
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    output::bytes(&script)?;
    Ok(Exit::Done)
}

/// Prints or writes the manual pages.
pub fn man(args: &ManArgs) -> anyhow::Result<Exit> {
    match &args.out {
        Some(directory) => {
            std::fs::create_dir_all(directory)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
                .and_then(|()| clap_mangen::generate_to(Daemon::command(), directory))
                .with_context(|| format!("write manual pages into {}", directory.display()))?;
        }
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            output::bytes(&page)?;
        }
    }
    Ok(Exit::Done)
}
