//! `pitr-tool plan`: whether a target can be reached, along which way, at what cost. Every restore begins with this
//! plan; nothing is downloaded for it but headers and the WAL around the target.

use std::fmt;

use pitrd::config::show_bytes;
use serde::Serialize;

use crate::status::Moment;
use crate::target::TargetArgs;

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool --config orders.toml --identity orders.identity plan --to 2026-11-20T12:03:04+00:00
  pitr-tool --config orders.toml --identity orders.identity plan --to xid:7712 --before")]
pub struct Args {
    /// Where the recovery should end.
    #[command(flatten)]
    pub target: TargetArgs,
    /// Print JSON, as docs/cli.md documents it
    #[arg(long)]
    pub json: bool,
}

/// What the plan found. Its JSON is documented in docs/cli.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The target as it was given.
    pub target: String,
    /// Whether the recovery ends just before the target.
    pub before: bool,
    /// The way there; `null` if there is none.
    pub way: Option<Way>,
    /// Why there is none; `null` if there is one.
    pub refused: Option<Refused>,
}

/// The way to a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    /// The last record that is replayed, or the first that is not with `--before`; `null` for `immediate`.
    pub stop: Option<Moment>,
    /// Base backups, the full one first, then its incrementals.
    pub base_backups: Vec<String>,
    /// Timelines, oldest first.
    pub timelines: Vec<u32>,
    /// Segments to fetch.
    pub segments: u64,
    /// WAL to replay.
    pub replay_bytes: u64,
    /// The cluster's size on disk.
    pub cluster_bytes: u64,
    /// All that is fetched from the store.
    pub download_bytes: u64,
}

/// Why a target cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// One sentence.
    pub reason: String,
    /// The nearest moment before the target that can be restored.
    pub nearest_before: Option<Moment>,
    /// The nearest moment after it.
    pub nearest_after: Option<Moment>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let before = if self.before { "just before " } else { "" };
        writeln!(f, "target     {before}{}", self.target)?;
        if let Some(way) = &self.way {
            way.fmt(f)?;
        }
        if let Some(refused) = &self.refused {
            writeln!(f, "refused    {}", refused.reason)?;
        }
        Ok(())
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.stop {
            Some(stop) => writeln!(f, "stops at   {stop}")?,
            None => writeln!(
                f,
                "stops at   the first consistent moment of the base backup"
            )?,
        }
        let timelines: Vec<_> = self.timelines.iter().map(u32::to_string).collect();
        writeln!(f, "base       {}", self.base_backups.join(", then "))?;
        writeln!(f, "timelines  {}", timelines.join(" → "))?;
        let (cluster, replay) = (
            show_bytes(self.cluster_bytes),
            show_bytes(self.replay_bytes),
        );
        writeln!(
            f,
            "writes     {cluster}, then replays {replay} of WAL from {} segments",
            self.segments
        )?;
        writeln!(f, "downloads  {}", show_bytes(self.download_bytes))
    }
}

impl Refused {
    /// What to try instead, for the `hint:` line.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match (&self.nearest_before, &self.nearest_after) {
            (None, None) => None,
            (Some(moment), None) | (None, Some(moment)) => Some(format!(
                "the nearest moment that can be restored is {moment}"
            )),
            (Some(before), Some(after)) => Some(format!(
                "the nearest moments that can be restored are {before} and {after}"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_as_the_way_it_describes() {
        let stop = Moment {
            lsn: "0/3000028".into(),
            time: None,
        };
        let way = Way {
            stop: Some(stop),
            base_backups: vec!["20261120T120000Z".into(), "20261120T130000Z".into()],
            timelines: vec![1, 2],
            segments: 3,
            replay_bytes: 48 << 20,
            cluster_bytes: 1 << 30,
            download_bytes: 100 << 20,
        };
        let report = Report {
            target: "lsn:0/3000028".into(),
            before: true,
            way: Some(way),
            refused: None,
        };
        let text = report.to_string();
        assert!(
            text.starts_with("target     just before lsn:0/3000028\nstops at   0/3000028\n"),
            "{text}"
        );
        assert!(
            text.contains("20261120T120000Z, then 20261120T130000Z"),
            "{text}"
        );
        assert!(
            text.contains("1 → 2") && text.contains("48.0 MiB of WAL from 3 segments"),
            "{text}"
        );
    }

    #[test]
    fn a_refusal_names_the_nearest_moments() {
        let moment = |lsn: &str| {
            Some(Moment {
                lsn: lsn.into(),
                time: None,
            })
        };
        let refused = Refused {
            reason: "in a gap".into(),
            nearest_before: moment("0/1"),
            nearest_after: moment("0/9"),
        };
        assert_eq!(
            refused.hint().unwrap(),
            "the nearest moments that can be restored are 0/1 and 0/9"
        );
        let refused = Refused {
            nearest_after: None,
            ..refused
        };
        assert_eq!(
            refused.hint().unwrap(),
            "the nearest moment that can be restored is 0/1"
        );
    }
}
