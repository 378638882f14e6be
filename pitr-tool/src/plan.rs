//! `pitr-tool plan`: whether a target can be reached, along which way, at what cost. Every restore begins with this
//! plan; nothing is downloaded for it but headers and the WAL around the target.

use std::fmt;

use anyhow::Context;
use pitr_postgres::TimelineId;
use pitr_postgres::plan::{self, Plan, PlanError, StopAt, read_manifest};
use pitrd::config::show_bytes;
use pitrd::exit::Exit;
use serde::Serialize;

use crate::output;
use crate::place::Place;
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

/// What the plan found, of either database: a way `W`, or between which moments `M` there is none. Its JSON is documented in docs/cli.md.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report<W, M> {
    /// The target as it was understood.
    pub target: String,
    /// Whether the recovery ends just before the target.
    pub before: bool,
    /// The way there; `null` if there is none.
    pub way: Option<W>,
    /// Why there is none; `null` if there is one.
    pub refused: Option<Refused<M>>,
}

/// The way to a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    /// The record where replay stops; `null` for `immediate`.
    pub stop: Option<Stop>,
    /// Time of the last transaction that will be there, RFC 3339.
    pub last_commit: Option<String>,
    /// Time of the first transaction that will not.
    pub first_left_out: Option<String>,
    /// Base backups, the full one first, then its incrementals.
    pub base_backups: Vec<String>,
    /// The timeline that recovery follows.
    pub timeline: u32,
    /// The WAL to replay, in that order.
    pub path: Vec<Step>,
    /// Segments to fetch.
    pub segments: u64,
    /// WAL to replay.
    pub replay_bytes: u64,
    /// Bytes of files to write before that.
    pub write_bytes: u64,
    /// All that is fetched from the store.
    pub download_bytes: u64,
    /// Number of a segment behind `latest` that is missing although there are later ones.
    pub missing_segment: Option<u64>,
}

/// The record where replay stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// Its LSN.
    pub lsn: String,
    /// Whether it is replayed itself.
    pub inclusive: bool,
}

/// WAL of one timeline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Step {
    /// The timeline.
    pub timeline: u32,
    /// From here.
    pub from_lsn: String,
    /// Up to here, exclusive.
    pub to_lsn: String,
}

/// Why a target cannot be reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Refused<M> {
    /// One sentence.
    pub reason: String,
    /// The nearest moment before the target that can be restored.
    pub nearest_before: Option<M>,
    /// The nearest moment after it.
    pub nearest_after: Option<M>,
}

/// Plans and prints the plan. A target that cannot be reached is an error; with `--json` it is printed as well.
pub async fn run(place: &Place, args: &Args) -> anyhow::Result<Exit> {
    args.target.check()?;
    let config = place.config()?;
    let reading = place.reading(config.as_ref()).await?;
    if crate::mongodb::is_engine_of(reading.archive()) {
        return crate::mongodb::plan::run(reading, args).await;
    }
    let to = args.target.postgres()?;
    let TargetArgs {
        before, timeline, ..
    } = &args.target;
    let report = |way, refused| Report {
        target: to.to_string(),
        before: *before,
        way,
        refused,
    };
    match plan::plan(&reading, to, *before, timeline.map(TimelineId)).await {
        Ok(plan) => {
            let mut write_bytes = 0;
            for &base in &plan.bases {
                write_bytes += read_manifest(&reading, base).await?.contents_bytes;
            }
            output::show(&report(Some(way(&plan, write_bytes)), None), args.json)?;
            Ok(Exit::Done)
        }
        Err(error) => {
            if let Some(refused) = refused(&error).filter(|_| args.json) {
                output::show(&report(None, Some(refused)), true)?;
            }
            Err(error).context("plan")
        }
    }
}

/// The plan as it is shown.
#[must_use]
pub fn way(plan: &Plan, write_bytes: u64) -> Way {
    let stop = match plan.stop {
        StopAt::Consistency => None,
        StopAt::Record { lsn, inclusive } => Some(Stop {
            lsn: lsn.to_string(),
            inclusive,
        }),
    };
    let path = plan.path.iter().map(|step| Step {
        timeline: step.timeline.0,
        from_lsn: step.from.to_string(),
        to_lsn: step.to.to_string(),
    });
    Way {
        stop,
        last_commit: plan.last_commit.map(output::time),
        first_left_out: plan.first_left_out.map(output::time),
        base_backups: plan.bases.iter().map(ToString::to_string).collect(),
        timeline: plan.timeline.0,
        path: path.collect(),
        segments: plan.log_segments(),
        replay_bytes: plan
            .path
            .iter()
            .map(|step| step.to.bytes_since(step.from))
            .sum(),
        write_bytes,
        download_bytes: plan.base_bytes + plan.log_bytes(),
        missing_segment: plan.missing,
    }
}

/// What is said of a segment that is missing behind `latest`.
#[must_use]
pub fn missing(seq: u64) -> String {
    format!(
        "latest ends before segment {seq}, which is missing although there are later ones: a daemon is putting it, or was killed while \
         it did and has not been started since. Nothing behind it was acknowledged, unless it was deleted in the last minute or so"
    )
}

/// What is said of a target that cannot be reached; `None` if the plan failed for another reason.
fn refused(error: &PlanError) -> Option<Refused<Moment>> {
    let (nearest_before, nearest_after) = match error {
        PlanError::Unreachable {
            nearest_before,
            nearest_after,
            ..
        } => (*nearest_before, *nearest_after),
        PlanError::NoTimeline(_) | PlanError::NoHistory(_) | PlanError::Ambiguous { .. } => {
            (None, None)
        }
        _ => return None,
    };
    Some(Refused {
        reason: error.to_string(),
        nearest_before: nearest_before.map(Moment::from),
        nearest_after: nearest_after.map(Moment::from),
    })
}

impl<W: fmt::Display, M> fmt::Display for Report<W, M> {
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
            None => writeln!(f, "stops      as soon as the base backup is consistent")?,
            Some(Stop {
                lsn,
                inclusive: true,
            }) => writeln!(f, "stops      with the record at {lsn}")?,
            Some(Stop { lsn, .. }) => writeln!(f, "stops      just before the record at {lsn}")?,
        }
        if let Some(time) = &self.last_commit {
            writeln!(f, "last in    the transaction that ended {time}")?;
        }
        if let Some(time) = &self.first_left_out {
            writeln!(f, "first out  the transaction that ended {time}")?;
        }
        writeln!(f, "base       {}", self.base_backups.join(", then "))?;
        for step in &self.path {
            writeln!(
                f,
                "WAL        timeline {}: {} to {}",
                step.timeline, step.from_lsn, step.to_lsn
            )?;
        }
        let (files, wal) = (show_bytes(self.write_bytes), show_bytes(self.replay_bytes));
        writeln!(f, "writes     {files} of files, replays {wal} of WAL")?;
        let (download, segments) = (show_bytes(self.download_bytes), self.segments);
        writeln!(
            f,
            "fetches    {download}, {segments} segments of WAL among it"
        )?;
        match self.missing_segment {
            Some(seq) => writeln!(f, "warning    {}", missing(seq)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use pitr_postgres::plan::PathStep;

    use super::*;

    fn plan() -> Plan {
        let step = |timeline, from: &str, to: &str| PathStep {
            timeline: TimelineId(timeline),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            segments: 2,
            bytes: 1000,
        };
        Plan {
            target: "lsn:0/5000028".parse().unwrap(),
            before: true,
            stop: StopAt::Record {
                lsn: "0/5000028".parse().unwrap(),
                inclusive: false,
            },
            last_commit: Some(1_795_176_184_500_000),
            first_left_out: None,
            timeline: TimelineId(2),
            bases: vec!["20261120T120000Z".parse().unwrap()],
            base_bytes: 5000,
            base_objects: 2,
            path: vec![
                step(1, "0/2000000", "0/3000000"),
                step(2, "0/3000000", "0/5000028"),
            ],
            missing: Some(7),
        }
    }

    #[test]
    fn a_plan_reads_as_the_way_it_describes() {
        let report = Report::<_, Moment> {
            target: plan().target.to_string(),
            before: true,
            way: Some(way(&plan(), 1 << 30)),
            refused: None,
        };
        let text = report.to_string();
        for line in [
            "target     just before lsn:0/5000028\n",
            "stops      just before the record at 0/5000028\n",
            "last in    the transaction that ended 2026-11-20T12:03:04.5+00:00\n",
            "base       20261120T120000Z\n",
            "WAL        timeline 2: 0/3000000 to 0/5000028\n",
            "writes     1.0 GiB of files, replays 48.0 MiB of WAL\n",
            "fetches    6.8 KiB, 4 segments of WAL among it\n",
            "warning    latest ends before segment 7, which is missing",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn json_has_the_documented_fields() {
        let json = serde_json::to_value(way(&plan(), 7)).unwrap();
        assert_eq!(json["stop"]["inclusive"], false);
        assert_eq!(json["path"][1]["to_lsn"], "0/5000028");
        assert_eq!(json["download_bytes"], 7000);
        assert_eq!(json["first_left_out"], serde_json::Value::Null);
        assert_eq!(json["missing_segment"], 7);
    }

    #[test]
    fn only_a_target_that_cannot_be_reached_is_shown_as_refused() {
        let no = PlanError::NoTimeline(TimelineId(7));
        assert!(refused(&no).unwrap().reason.contains("timeline 7"));
        let damaged = PlanError::Backup {
            id: "20261120T120000Z".into(),
            reason: "part 1 is missing".into(),
        };
        assert_eq!(refused(&damaged), None);
    }
}
