//! `pitr-tool plan` for archives of MongoDB.

use std::fmt;
use std::sync::Arc;

use anyhow::Context;
use pitr_archive::Reading;
use pitr_mongodb::plan::{self, EntryName, Plan, PlanError};
use pitrd::config::show_bytes;
use pitrd::exit::Exit;
use serde::Serialize;

use super::status::Moment;
use crate::output;
use crate::plan::{Args, Refused, Report};

/// The way to a target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Way {
    /// The base copy.
    pub base_backup: String,
    /// Replay begins with the first entry behind it.
    pub t0: String,
    /// Replay ends with the last entry up to here, inclusive.
    pub stop: String,
    /// The last entry that will be there.
    pub last_in: Option<Entry>,
    /// The first entry that will not.
    pub first_left_out: Option<Entry>,
    /// Segments of the log to fetch.
    pub segments: u64,
    /// Their bytes in the store.
    pub log_bytes: u64,
    /// Documents of the base copy.
    pub documents: u64,
    /// Their bytes.
    pub write_bytes: u64,
    /// All that is fetched from the store.
    pub download_bytes: u64,
}

/// An entry of the log, without its contents.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Its cluster time.
    pub ts: String,
    /// Its wall time, RFC 3339.
    pub time: String,
    /// What it does.
    pub operation: String,
    /// To which namespace.
    pub namespace: String,
}

/// Plans and prints the plan.
pub async fn run(reading: Reading, args: &Args) -> anyhow::Result<Exit> {
    let (target, before) = (args.target.mongodb()?, args.target.before);
    let report = |way, refused| Report {
        target: target.to_string(),
        before,
        way,
        refused,
    };
    match plan::plan(&Arc::new(reading), target, before).await {
        Ok(plan) => {
            output::show(&report(Some(way(&plan)), None), args.json)?;
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
pub fn way(plan: &Plan) -> Way {
    Way {
        base_backup: plan.base.to_string(),
        t0: plan.t0.to_string(),
        stop: plan.stop.to_string(),
        last_in: plan.last_in.as_ref().map(entry),
        first_left_out: plan.first_left_out.as_ref().map(entry),
        segments: plan.log_segments,
        log_bytes: plan.log_bytes,
        documents: plan.base_documents,
        write_bytes: plan.base_contents_bytes,
        download_bytes: plan.base_bytes + plan.log_bytes,
    }
}

fn entry(name: &EntryName) -> Entry {
    Entry {
        ts: name.ts.to_string(),
        time: output::time(name.wall),
        operation: name.what.clone(),
        namespace: name.ns.clone(),
    }
}

/// What is said of a target that cannot be reached; `None` if the plan failed for another reason.
fn refused(error: &PlanError) -> Option<Refused<Moment>> {
    let PlanError::Unreachable {
        nearest_before,
        nearest_after,
        ..
    } = error
    else {
        return None;
    };
    Some(Refused {
        reason: error.to_string(),
        nearest_before: nearest_before.map(Moment::from),
        nearest_after: nearest_after.map(Moment::from),
    })
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "stops      with the last entry up to ts:{}", self.stop)?;
        if let Some(entry) = &self.last_in {
            writeln!(f, "last in    {entry}")?;
        }
        if let Some(entry) = &self.first_left_out {
            writeln!(f, "first out  {entry}")?;
        }
        writeln!(
            f,
            "base       {}, replayed from ts:{}",
            self.base_backup, self.t0
        )?;
        writeln!(
            f,
            "writes     {} documents, {}",
            self.documents,
            show_bytes(self.write_bytes)
        )?;
        let (download, log) = (show_bytes(self.download_bytes), show_bytes(self.log_bytes));
        writeln!(
            f,
            "fetches    {download}, {} segments of the log ({log}) among it",
            self.segments
        )
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            ts,
            time,
            operation,
            namespace,
        } = self;
        write!(f, "{operation} {namespace} at {time} (ts:{ts})")
    }
}

#[cfg(test)]
mod tests {
    use pitr_mongodb::{ClusterTime, LogKind, Target};

    use super::*;

    #[test]
    fn a_plan_reads_as_the_way_it_describes() {
        let drop = EntryName {
            ts: ClusterTime::new(1_795_176_184, 7),
            wall: 1_795_176_184_500_000,
            what: "drop".into(),
            ns: "shop.$cmd".into(),
        };
        let plan = Plan {
            kind: LogKind::Oplog,
            target: Target::Ts(drop.ts),
            before: true,
            base: "20261120T120000Z".parse().unwrap(),
            t0: ClusterTime::new(1_795_176_000, 1),
            t1: ClusterTime::new(1_795_176_010, 1),
            stop: drop.ts.previous(),
            last_in: None,
            first_left_out: Some(drop),
            base_contents_bytes: 1 << 30,
            base_documents: 9,
            base_bytes: 5000,
            log_segments: 2,
            log_bytes: 2000,
        };
        let report = Report::<_, Moment> {
            target: plan.target.to_string(),
            before: true,
            way: Some(way(&plan)),
            refused: None,
        };
        let text = report.to_string();
        for line in [
            "target     just before ts:1795176184.7\n",
            "stops      with the last entry up to ts:1795176184.6\n",
            "first out  drop shop.$cmd at 2026-11-20T12:03:04.5+00:00 (ts:1795176184.7)\n",
            "base       20261120T120000Z, replayed from ts:1795176000.1\n",
            "writes     9 documents, 1.0 GiB\n",
            "fetches    6.8 KiB, 2 segments of the log (2.0 KiB) among it\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
