//! `pitr-tool backup`: a base backup now, for example before a migration. It is whole when this command ends with 0;
//! interrupted, it leaves nothing that looks whole.

use std::fmt;
use std::time::Duration;

use pitrd::config::{parse_rate, show_bytes, show_duration};
use serde::Serialize;

use crate::status::BaseBackup;

/// PostgreSQL's own limit on a backup's label, in bytes.
const LABEL_BYTES_MAX: usize = 1023;

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool --config /etc/pitrd/orders.toml backup --label before-migration
  pitr-tool --config /etc/pitrd/orders.toml --identity orders.identity backup --incremental --rate '50 MiB/s'")]
pub struct Args {
    /// What the backup is for
    #[arg(long, value_name = "TEXT", default_value = "", value_parser = label)]
    pub label: String,
    /// Only what changed since the last base backup; PostgreSQL 17 or later with summarize_wal, and a key to read the
    /// last one's manifest
    #[arg(long)]
    pub incremental: bool,
    /// Bytes a second at most, such as '50 MiB/s'; by default what [backup] of the configuration says
    #[arg(long, value_name = "BYTES/S", value_parser = rate)]
    pub rate: Option<u64>,
    /// Print JSON, as docs/cli.md documents it
    #[arg(long)]
    pub json: bool,
}

/// What `backup` made. Its JSON is documented in docs/cli.md.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The backup.
    #[serde(flatten)]
    pub backup: BaseBackup,
    /// How long it took.
    pub seconds: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backup = &self.backup;
        let time = show_duration(Duration::try_from_secs_f64(self.seconds).unwrap_or_default());
        let (bytes, stored) = (
            show_bytes(backup.bytes.unwrap_or_default()),
            show_bytes(backup.stored_bytes),
        );
        writeln!(
            f,
            "base backup {} is complete: {bytes}, stored as {stored}, in {time}",
            backup.id
        )
    }
}

fn label(text: &str) -> Result<String, &'static str> {
    if text.len() > LABEL_BYTES_MAX || text.chars().any(char::is_control) {
        return Err("a label has at most 1023 bytes and no control characters");
    }
    Ok(text.to_owned())
}

fn rate(text: &str) -> Result<u64, &'static str> {
    parse_rate(text).ok_or("write bytes a second above zero, such as '50 MiB/s'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_that_postgresql_would_refuse_is_refused() {
        assert!(label("before migration").is_ok());
        assert!(label("two\nlines").is_err());
        assert!(label(&"x".repeat(1024)).is_err());
    }
}
