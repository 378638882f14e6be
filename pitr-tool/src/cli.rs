//! The command line of `pitr-tool`, whole: a contract that scripts rely on. What is parsed here goes to the module of
//! the subcommand.

use std::ffi::OsString;

use clap::{Parser, Subcommand};
use pitrd::exit::Exit;

use crate::place::Place;
use crate::{
    backup, init, keygen, manual, mongodb, plan, policy, restore, status, sync, verify, wal_fetch,
};

/// Plans and makes recoveries from an archive that pitrd wrote.
#[derive(Debug, Parser)]
#[command(name = "pitr-tool", version, after_help = AFTER_HELP)]
pub struct Cli {
    /// Which archive, and what opens it.
    #[command(flatten)]
    pub place: Place,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make an identity, the key that reads archives, and print its recipient
    Keygen(keygen::Args),
    /// Create the archive, its copies and its signing key; bring a lost key back
    Init(init::Args),
    /// Take a base backup
    Backup(backup::Args),
    /// Say what can be restored, how far the archive is behind, and what is missing
    Status(status::Args),
    /// Find out whether a target can be reached, along which way, at what cost
    Plan(plan::Args),
    /// Find out whether the archive is whole and genuine
    Verify(verify::Args),
    /// Bring copies up to the archive, or back what it has lost
    Sync(sync::Args),
    /// Print the least IAM policy for an archive and its copies in S3
    Policy(policy::Args),
    /// Bring the cluster, or of MongoDB any part of it, back as it was at a moment
    Restore(restore::Args),
    /// Show every version of a document of MongoDB
    History(mongodb::history::Args),
    /// Fetch one WAL file for a recovering server: its restore_command
    WalFetch(wal_fetch::Args),
    /// Keep WAL files ready ahead of a recovering server
    #[command(hide = true)]
    WalPrefetch(wal_fetch::PrefetchArgs),
    /// Print the completion script of a shell
    Completions(manual::CompletionsArgs),
    /// Print the manual page, or write all of them into a directory
    Man(manual::ManArgs),
}

const AFTER_HELP: &str = "\
Examples:
  pitr-tool keygen --out orders.identity
  pitr-tool init --config /etc/pitrd/orders.toml
  pitr-tool --config /etc/pitrd/orders.toml status
  pitr-tool --config orders.toml --identity orders.identity plan --to 2026-11-20T12:03:04+00:00
  pitr-tool --config orders.toml --identity orders.identity restore --to latest --into /srv/restored

Exit codes: 0 done; 1 the answer is no; 2 usage or configuration; 3 the target cannot be reached; 4 keys;
5 fenced, or the archive belongs to another; 6 store or source unavailable; 7 damage in the archive.";

/// As much of the command line as `wal-fetch` has: the server waits for it at every file, and to build the whole takes longer.
#[derive(Parser)]
#[command(name = "pitr-tool")]
struct WalFetchOnly {
    #[command(flatten)]
    place: Place,
    #[command(subcommand)]
    command: WalFetchCommand,
}

#[derive(Subcommand)]
enum WalFetchCommand {
    WalFetch(wal_fetch::Args),
}

impl Cli {
    /// Reads the command line, its own name first.
    ///
    /// # Errors
    /// It is not one of ours, or asks for help or the version: what to print.
    pub fn read(line: Vec<OsString>) -> Result<Self, clap::Error> {
        if wal_fetch::is_asked(&line)
            && let Ok(WalFetchOnly { place, command }) = WalFetchOnly::try_parse_from(&line)
        {
            let WalFetchCommand::WalFetch(args) = command;
            let command = Command::WalFetch(args);
            return Ok(Self { place, command });
        }
        Self::try_parse_from(line)
    }

    /// Runs the subcommand to its end.
    pub fn run(&self) -> anyhow::Result<Exit> {
        match &self.command {
            Command::Keygen(args) => keygen::run(args),
            Command::Init(_) => run_async(init::run(&self.place)),
            Command::Status(args) => run_async(status::run(&self.place, args)),
            Command::Plan(args) => run_async(plan::run(&self.place, args)),
            Command::Verify(args) => run_async(verify::run(&self.place, args)),
            Command::Sync(args) => run_async(sync::run(&self.place, args)),
            Command::Policy(args) => policy::run(&self.place, args),
            Command::Backup(args) => run_async(backup::run(&self.place, args)),
            Command::Restore(args) => run_async(restore::run(&self.place, args)),
            Command::History(args) => run_async(mongodb::history::run(&self.place, args)),
            Command::WalFetch(args) => wal_fetch::run(&self.place, args),
            Command::WalPrefetch(args) => run_async(wal_fetch::prefetch(&self.place, args)),
            Command::Completions(args) => manual::completions(args),
            Command::Man(args) => manual::man(args),
        }
    }
}

/// Runs what waits for stores and servers.
fn run_async(work: impl Future<Output = anyhow::Result<Exit>>) -> anyhow::Result<Exit> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_call_of_wal_fetch_reads_the_same_in_both_definitions() {
        for line in [
            "pitr-tool --archive file:///a --identity i wal-fetch --until 0/3000060 f p",
            "pitr-tool wal-fetch f p --config c",
            "pitr-tool --config c wal-fetch --cleanup pg_wal",
            "pitr-tool --config c --archive file:///a wal-fetch f p",
            "pitr-tool wal-fetch --help",
            "pitr-tool keygen --out wal-fetch",
            "pitr-tool wal-fetch --unitl 0/3 f p",
        ] {
            let words = || line.split(' ').map(OsString::from);
            let shown = |read: Result<Cli, clap::Error>| match read {
                Ok(cli) => format!("{cli:?}"),
                Err(refused) => refused.to_string(),
            };
            let read = shown(Cli::read(words().collect()));
            assert_eq!(read, shown(Cli::try_parse_from(words())), "{line}");
        }
    }

    #[test]
    fn global_options_are_taken_before_and_after_the_subcommand() {
        for line in [
            "pitr-tool --identity id keygen --out f",
            "pitr-tool keygen --out f --identity id",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.place.identity.as_deref(), Some("id".as_ref()));
        }
    }
}
