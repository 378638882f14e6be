//! The command line of `pitrd`; `pitr-tool` makes its manual page and completions of it.

use std::path::PathBuf;

use clap::Parser;

/// Archives the log of one PostgreSQL server or MongoDB replica set, continuously, encrypted
#[derive(Debug, Parser)]
#[command(name = "pitrd", version, after_help = EXAMPLES)]
pub struct Args {
    /// Configuration file
    #[arg(long, value_name = "FILE", env = "PITRD_CONFIG")]
    pub config: PathBuf,
    /// Look at everything that can keep the daemon from archiving, print one line per finding, and end with 0 or 1
    #[arg(long)]
    pub check: bool,
    /// Go on although the store lost segments that it had, or segments of a fenced daemon stand in the way; the break is recorded, and
    /// a new base backup is needed
    #[arg(long, conflicts_with = "check")]
    pub accept_break: bool,
}

const EXAMPLES: &str = "\
Examples:
  pitrd --config /etc/pitrd/orders.toml            archives until it is told to stop
  pitrd --config /etc/pitrd/orders.toml --check    what would keep it from archiving?

Exit codes: 0 done, 1 a check failed, 2 usage or configuration, 4 keys, 5 fenced, 6 unavailable, 7 damage.";
