//! The command line of `pitr-tool`, whole: a contract that scripts rely on. What is parsed here goes to the module of
//! the subcommand.

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

impl Cli {
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
