//! `pitr-tool history`: every version of one document that the archive knows, oldest first.

use std::fmt;
use std::sync::Arc;

use anyhow::Context;
use pitr_archive::catalogue::Catalogue;
use pitr_mongodb::fold::raw::Document;
use pitr_mongodb::history::{self, Change, Version};
use pitr_mongodb::plan::{self, Plan, Windows};
use pitr_mongodb::restore::{Name, extjson};
use pitr_mongodb::{ClusterTime, Target};
use pitrd::exit::{Exit, Refusal};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::mongodb::restore::{classify, limits, open};
use crate::mongodb::{id, is_engine_of};
use crate::output;
use crate::place::Place;
use crate::target::{AnyTarget, TargetArgs};

/// For what is read ahead. Beside it every version that is found is held, with its document.
const MEMORY_BYTES: u64 = 128 << 20;

/// Arguments of `history`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool --config shop.toml --identity shop.identity history shop.orders 7
  pitr-tool … history shop.orders 6b013aadd3d4f2d1650a9775 --from 2026-11-20T12:00:00+00:00 --json")]
pub struct Args {
    /// The collection, as db.collection
    #[arg(value_name = "NS")]
    pub namespace: Name,
    /// The document's _id: extended JSON, 24 hexadecimal digits, or text
    #[arg(value_name = "ID", allow_hyphen_values = true)]
    pub id: String,
    /// Begin here: a time or ts:SECONDS.INCREMENT; by default as early as can be restored
    #[arg(long, value_name = "TARGET")]
    pub from: Option<AnyTarget>,
    /// End here; by default with the last entry that is archived
    #[arg(long, value_name = "TARGET", default_value = "latest")]
    pub to: AnyTarget,
    /// Print JSON, as docs/cli.md documents it
    #[arg(long)]
    pub json: bool,
}

/// What `history` found. Its JSON is documented in docs/cli.md.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The collection.
    pub namespace: String,
    /// The `_id`.
    pub id: Box<RawValue>,
    /// The base copy that the history stands on.
    pub base_backup: String,
    /// Oldest first.
    pub versions: Vec<Shown>,
}

/// One version.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The entry's cluster time.
    pub ts: String,
    /// The source's clock then, RFC 3339; `null` for what a base copy found.
    pub time: Option<String>,
    /// What happened.
    pub change: &'static str,
    /// Whether parts of it may be newer than the moment.
    pub provisional: bool,
    /// What changed, as the oplog has it.
    pub diff: Option<Box<RawValue>>,
    /// The document then; `null` while there is none.
    pub document: Option<Box<RawValue>>,
}

/// Reads the archive and prints what happened.
pub async fn run(place: &Place, args: &Args) -> anyhow::Result<Exit> {
    let config = place.config()?;
    let reading = Arc::new(place.reading(config.as_ref()).await?);
    if !is_engine_of(reading.archive()) {
        let message = "the history of documents is known of archives of MongoDB only";
        return Err(Refusal::new(Exit::Usage, message).into());
    }
    let id = id::parse(&args.id)?;
    let windows = Windows::read(&Catalogue::read(reading.archive()).await?);
    let end = plan::plan(&reading, target(&args.to)?, false)
        .await
        .context("plan the end")?;
    // The base copy to stand on is the one that a restore to the beginning would use.
    let first = match &args.from {
        Some(from) => target(from)?,
        None => Target::Ts(beginning(&windows, &end)),
    };
    let begin = plan::plan(&reading, first, false)
        .await
        .context("plan the beginning")?;
    let way = Plan {
        base: begin.base,
        ..end
    };
    let limits = limits(MEMORY_BYTES, std::env::temp_dir());
    let fold = open(reading, &way, limits, &(Arc::new(|_| ()) as _)).await?;
    let versions = history::history(&fold, &args.namespace, &id)
        .await
        .map_err(classify)?;
    let kept = since(versions, args.from.as_ref().map(|_| begin.stop));
    let report = Report {
        namespace: args.namespace.to_string(),
        id: json(&id)?,
        base_backup: begin.base.to_string(),
        versions: kept.iter().map(shown).collect::<anyhow::Result<_>>()?,
    };
    output::show(&report, args.json)?;
    Ok(Exit::Done)
}

fn target(target: &AnyTarget) -> anyhow::Result<Target> {
    let args = TargetArgs {
        to: target.clone(),
        before: false,
        timeline: None,
    };
    args.mongodb()
}

/// The earliest moment of the window that holds the end.
fn beginning(windows: &Windows, end: &Plan) -> ClusterTime {
    let holds = |window: &&plan::Window| window.from.ts <= end.stop && end.stop <= window.to.ts;
    windows
        .windows
        .iter()
        .find(holds)
        .map_or(end.t1, |window| window.from.ts)
}

/// Versions from `from` on, and the one that was valid then.
fn since(versions: Vec<Version>, from: Option<ClusterTime>) -> Vec<Version> {
    let Some(from) = from else {
        return versions;
    };
    let valid = versions
        .iter()
        .rposition(|version| version.at <= from)
        .unwrap_or(0);
    versions.into_iter().skip(valid).collect()
}

/// The bytes as JSON; a document of one `_id` as that.
fn json(bytes: &[u8]) -> anyhow::Result<Box<RawValue>> {
    let text = Document::new(bytes).and_then(|document| {
        let mut elements = document.elements();
        match (elements.next(), elements.next()) {
            (Some(first), None) if first?.name == b"_id" => {
                extjson::value(first?.value, extjson::Form::Relaxed)
            }
            _ => extjson::document(document, extjson::Form::Relaxed),
        }
    });
    RawValue::from_string(text.context("show a document")?).context("show a document")
}

fn shown(version: &Version) -> anyhow::Result<Shown> {
    let whole = |bytes: &Vec<u8>| -> anyhow::Result<Box<RawValue>> {
        let text = Document::new(bytes)
            .and_then(|document| extjson::document(document, extjson::Form::Relaxed));
        RawValue::from_string(text.context("show a document")?).context("show a document")
    };
    Ok(Shown {
        ts: version.at.to_string(),
        time: version
            .wall_ms
            .map(|millis| output::time(millis.saturating_mul(1000))),
        change: match version.change {
            Change::Copied => "copied",
            Change::Inserted => "inserted",
            Change::Replaced => "replaced",
            Change::Updated => "updated",
            Change::Deleted => "deleted",
            Change::CollectionRenamed => "collection renamed",
            Change::CollectionGone => "collection gone",
        },
        provisional: version.provisional,
        diff: version.diff.as_ref().map(whole).transpose()?,
        document: version.document.as_ref().map(whole).transpose()?,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.versions.is_empty() {
            return writeln!(
                f,
                "{} never had a document with this _id in this time",
                self.namespace
            );
        }
        for version in &self.versions {
            let time = version.time.as_deref().unwrap_or("found by the base copy");
            let provisional = if version.provisional {
                ", provisional"
            } else {
                ""
            };
            writeln!(
                f,
                "{time}  ts:{}  {}{provisional}",
                version.ts, version.change
            )?;
            if let Some(document) = &version.document {
                writeln!(f, "  {document}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ts(text: &str) -> ClusterTime {
        text.parse().unwrap()
    }

    #[test]
    fn what_was_valid_at_the_beginning_is_the_first_version_that_is_shown() {
        let version = |at: &str| Version {
            at: ts(at),
            wall_ms: None,
            change: Change::Updated,
            diff: None,
            document: None,
            provisional: false,
        };
        let all = vec![version("1.1"), version("5.1"), version("9.1")];
        let kept = |from: Option<&str>| {
            let kept = since(all.clone(), from.map(ts));
            kept.iter()
                .map(|version| version.at.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(kept(None), ["1.1", "5.1", "9.1"]);
        assert_eq!(kept(Some("5.1")), ["5.1", "9.1"]);
        assert_eq!(kept(Some("7.1")), ["5.1", "9.1"]);
        assert_eq!(kept(Some("10.1")), ["9.1"]);
        // It came into being later.
        assert_eq!(kept(Some("0.1")), ["1.1", "5.1", "9.1"]);
    }
}
