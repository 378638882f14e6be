//! `pitr-tool completions` and `pitr-tool man`: the command line described by itself, for shells and for man.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use pitrd::exit::Exit;

use crate::cli::Cli;
use crate::output;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    /// For which shell
    pub shell: Shell,
}

/// Arguments of `man`.
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// Directory for one page per subcommand; without it the main page goes to standard output
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Prints the completion script.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "pitr-tool", &mut script);
    output::bytes(&script)?;
    Ok(Exit::Done)
}

/// Prints or writes the manual pages.
pub fn man(args: &ManArgs) -> anyhow::Result<Exit> {
    match &args.out {
        Some(directory) => {
            std::fs::create_dir_all(directory)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), directory))
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
