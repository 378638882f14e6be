//! `pitr-tool restore`: the plan carried out. Files are fetched in parallel, authenticated, written into an empty
//! directory, and recovery settings are left for the server; with `--start` the server runs to the target.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pitrd::config::{show_bytes, show_duration};
use serde::Serialize;

use crate::status::Moment;
use crate::target::TargetArgs;

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool --config orders.toml --identity orders.identity restore --to latest --into /srv/restored
  pitr-tool --archive file:///backup/orders --identity orders.identity restore \\
      --to 2026-11-20T12:03:04+00:00 --into /srv/restored --start --pg-bin /usr/lib/postgresql/17/bin")]
pub struct Args {
    /// Where the recovery should end.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Directory for the cluster: new, empty, or left by a restore of the same plan that was interrupted
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
    /// Puts the tablespace that was at OLD to NEW; once for each tablespace
    #[arg(long = "tablespace", value_name = "OLD=NEW")]
    pub tablespaces: Vec<Mapping>,
    /// What the server does when it has reached the target
    #[arg(long, value_enum, default_value = "pause")]
    pub action: Action,
    /// Start the server, wait until it stands at the target, and say how long that took
    #[arg(long, requires = "pg_bin")]
    pub start: bool,
    /// Directory of the server's programs, for --start and for incremental backups
    #[arg(long, value_name = "DIR")]
    pub pg_bin: Option<PathBuf>,
    /// How many objects are fetched at once; by default two for each processor
    #[arg(long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,
    /// Print JSON, as docs/cli.md documents it
    #[arg(long)]
    pub json: bool,
}

/// What the server does at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Action {
    /// Stays in recovery and answers queries, so that the target can be looked at
    Pause,
    /// Ends recovery on a new timeline and takes writes
    Promote,
    /// Shuts down, still in recovery
    Shutdown,
}

impl Action {
    /// The value of `recovery_target_action`.
    #[must_use]
    pub fn setting(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        }
    }
}

/// Where a tablespace was and where it shall be; both absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mapping {
    /// The directory on the source.
    pub old: PathBuf,
    /// The directory here.
    pub new: PathBuf,
}

impl std::str::FromStr for Mapping {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (old, new) = text.split_once('=').ok_or("write OLD=NEW")?;
        let absolute = |path: &str| Path::new(path).is_absolute();
        if !absolute(old) || !absolute(new) {
            return Err("both directories need absolute paths, as in /mnt/fast=/srv/restored-fast");
        }
        Ok(Self {
            old: old.into(),
            new: new.into(),
        })
    }
}

/// What `restore` did. Its JSON is documented in docs/cli.md.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The target as it was given.
    pub target: String,
    /// Where the cluster is now.
    pub into: PathBuf,
    /// The base backups it was made of.
    pub base_backups: Vec<String>,
    /// Bytes written.
    pub bytes: u64,
    /// Bytes fetched from the store.
    pub download_bytes: u64,
    /// Seconds until the files were in place.
    pub seconds: f64,
    /// The server, with `--start`.
    pub server: Option<Recovered>,
}

/// A server that stands at the target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recovered {
    /// The last record it replayed.
    pub at: Moment,
    /// Seconds from the start of the command until it stood there: the measured RTO.
    pub rto_seconds: f64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time =
            |seconds: f64| show_duration(Duration::try_from_secs_f64(seconds).unwrap_or_default());
        let (into, bytes) = (self.into.display(), show_bytes(self.bytes));
        writeln!(
            f,
            "restored   {bytes} into {into} in {}",
            time(self.seconds)
        )?;
        match &self.server {
            Some(server) => writeln!(
                f,
                "recovered  to {}\nRTO        {}",
                server.at,
                time(server.rto_seconds)
            ),
            None => writeln!(
                f,
                "next       start the server on {into}; it replays to {} by itself",
                self.target
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablespace_mapping_is_two_absolute_paths() {
        let mapping: Mapping = "/mnt/a=/srv/b".parse().unwrap();
        assert_eq!(
            (mapping.old, mapping.new),
            ("/mnt/a".into(), "/srv/b".into())
        );
        for wrong in ["", "/a", "a=/b", "/a=b", "=/b", "/a="] {
            assert!(wrong.parse::<Mapping>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_report_says_what_comes_next_or_how_long_it_took() {
        let report = Report {
            target: "latest".into(),
            into: "/srv/r".into(),
            base_backups: vec![],
            bytes: 1 << 30,
            download_bytes: 0,
            seconds: 2.0,
            server: None,
        };
        assert!(report.to_string().contains("start the server on /srv/r"));
        let at = Moment {
            lsn: "0/3000028".into(),
            time: None,
        };
        let report = Report {
            server: Some(Recovered {
                at,
                rto_seconds: 65.0,
            }),
            ..report
        };
        assert!(
            report
                .to_string()
                .ends_with("recovered  to 0/3000028\nRTO        1min 5s\n")
        );
    }
}
