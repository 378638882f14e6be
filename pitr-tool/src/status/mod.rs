//! `pitr-tool status`: what can be restored, how far the archive is behind, what is missing. Reads headers and, with a
//! key, the sealed manifests of base backups; changes nothing.

mod margin;
mod places;
mod report;

use std::sync::Arc;

use anyhow::Context;
use pitr_archive::catalogue::{Backup, Catalogue, Stream};
use pitr_archive::{Archive, Reading, layout};
use pitr_postgres::plan::{self, Windows, read_manifest};
use pitr_postgres::replication::{Mode, ReplicationClient};
use pitr_postgres::{Lsn, Source, TimelineId};
use pitrd::config::Config;
use pitrd::exit::{Exit, chain, classify};
use pitrd::open;

pub use margin::{SourceReport, SpoolReport};
pub(crate) use margin::{source, spool};
pub use places::PlaceReport;
pub(crate) use places::places;
pub use report::{ArchiveName, BaseBackup, Damage, End, Gap, Kind, Lag, Moment, Report, Window};

use crate::output;
use crate::place::Place;

/// Behind every key of one level of the store.
const LAST_KEY: &str = "~";

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool --config /etc/pitrd/orders.toml status
  pitr-tool --archive file:///var/lib/pitrd/orders --identity orders.identity status --json

Without a key it tells all but labels and sizes of base backups. With --config it asks the server how far it is.")]
pub struct Args {
    /// Print JSON, as docs/cli.md documents it
    #[arg(long)]
    pub json: bool,
}

/// Looks and prints.
pub async fn run(place: &Place, args: &Args) -> anyhow::Result<Exit> {
    let config = place.config()?;
    let archive = match place.open(config.as_ref()).await {
        Ok(archive) => archive,
        Err(error) => {
            margin::without_archive(config.as_ref()).await;
            return Err(error);
        }
    };
    let opener = place.opener(config.as_ref())?;
    let reading = opener.map(|opener| Reading::new(Arc::clone(&archive), opener));
    if crate::mongodb::is_engine_of(&archive) {
        let urls = place.urls(config.as_ref())?;
        let found =
            crate::mongodb::status::run(archive, reading, config.as_ref(), &urls, args.json);
        return found.await;
    }
    let source = Source::of(&archive)?;
    let catalogue = Catalogue::read(&archive)
        .await
        .context("read the catalogue")?;
    let windows = Windows::read(&archive, &catalogue)
        .await
        .context("find what can be restored")?;
    let mut base_backups = Vec::new();
    for backup in &catalogue.backups {
        base_backups.push(base_backup(&archive, reading.as_ref(), backup).await?);
    }
    let newest = newest(&catalogue);
    let lag = lag(config.as_ref(), &source, newest.as_ref()).await;
    let durable = newest.as_ref().map_or(0, |newest| newest.end.lsn.0);
    let report = Report {
        archive: ArchiveName {
            url: archive.url().into(),
            id: archive.id().to_string(),
            engine: archive.engine().into(),
            system_identifier: source.system_id.to_string(),
        },
        windows: windows.windows.iter().map(window).collect(),
        gaps: windows.gaps.iter().map(gap).collect(),
        lost_tails: windows
            .lost_tails
            .iter()
            .map(|timeline| timeline.0)
            .collect(),
        damage: windows.damage.iter().map(damage).collect(),
        base_backups,
        incomplete_backups: catalogue
            .incomplete
            .iter()
            .map(ToString::to_string)
            .collect(),
        end: newest.as_ref().map(|newest| End {
            timeline: newest.timeline.0,
            moment: newest.end.into(),
        }),
        places: places(&place.urls(config.as_ref())?, &catalogue).await,
        source: margin::source(config.as_ref(), durable, lag.seconds).await,
        spool: spool(config.as_ref(), &archive.id().to_string()),
        lag,
    };
    output::show(&report, args.json)?;
    Ok(Exit::Done)
}

fn window(window: &plan::Window) -> Window {
    Window {
        timeline: window.timeline.0,
        from: window.from.into(),
        to: window.to.into(),
        covered: window.covered.map(output::time),
        base_backup: window.base.to_string(),
    }
}

fn gap(gap: &plan::Gap) -> Gap {
    Gap {
        timeline: gap.timeline.0,
        from_lsn: gap.from.to_string(),
        to_lsn: gap.to.to_string(),
    }
}

fn damage(damage: &plan::Damage) -> Damage {
    Damage {
        timeline: damage.timeline.0,
        lsn: damage.at.to_string(),
        passed: damage.is_passed,
    }
}

async fn base_backup(
    archive: &Archive,
    reading: Option<&Reading>,
    backup: &Backup,
) -> anyhow::Result<BaseBackup> {
    let id = backup.id.to_string();
    let prefix = format!("{}{id}/", layout::BASE);
    let listed = archive
        .store()
        .list(
            &prefix,
            prefix.as_str()..format!("{prefix}{LAST_KEY}").as_str(),
        )
        .await;
    let listed = listed.context("list the parts of a base backup")?;
    let header = &backup.header;
    let mut found = BaseBackup {
        id,
        label: None,
        kind: None,
        parent: None,
        timeline: TimelineId::from_stream(header.stream.as_str())?.0,
        start_lsn: Lsn(header.start).to_string(),
        end_lsn: Lsn(header.end).to_string(),
        finished: header.time_max.map(output::time),
        bytes: None,
        stored_bytes: listed.iter().map(|object| object.object_bytes).sum(),
    };
    let Some(reading) = reading else {
        return Ok(found);
    };
    match read_manifest(reading, backup.id).await {
        Ok(manifest) => {
            found.kind = Some(if manifest.parent.is_some() {
                Kind::Incremental
            } else {
                Kind::Full
            });
            found.finished = Some(output::time(manifest.finished.as_microsecond()));
            found.bytes = Some(manifest.contents_bytes);
            (found.label, found.parent) = (Some(manifest.label), manifest.parent);
        }
        // One damaged manifest must not hide what else there is.
        Err(error) => {
            let error = anyhow::Error::from(error);
            if classify(&error).0 != Exit::Damage {
                return Err(error).context("read the manifest of a base backup");
            }
            output::note(&format!("base backup {}: {}", found.id, chain(&error)));
        }
    }
    Ok(found)
}

/// The newest timeline's stream.
struct Newest {
    timeline: TimelineId,
    end: plan::Moment,
    /// The latest time, µs since the Unix epoch by the source's clock, for which everything is known to be durable.
    durable_us: Option<i64>,
}

fn newest(catalogue: &Catalogue) -> Option<Newest> {
    let read = |stream: &Stream| {
        let timeline = TimelineId::from_stream(stream.name.as_str()).ok()?;
        let run = stream.runs.last()?;
        let covered = stream.end.head.as_ref().and_then(|head| head.covered);
        Some(Newest {
            timeline,
            end: plan::Moment {
                lsn: Lsn(run.positions.end),
                time: run.time_high,
            },
            durable_us: covered.max(run.time_high),
        })
    };
    catalogue
        .streams
        .iter()
        .filter_map(read)
        .max_by_key(|newest| newest.timeline)
}

async fn lag(config: Option<&Config>, source: &Source, newest: Option<&Newest>) -> Lag {
    let seconds = newest
        .and_then(|newest| newest.durable_us)
        .map(|durable_us| {
            let behind_us = output::now_unix_us().saturating_sub(durable_us).max(0);
            behind_us as f64 / 1e6
        });
    let mut bytes = None;
    if let (Some(config), Some(newest)) = (config, newest) {
        match server_end(config, source).await {
            Ok((timeline, end)) if timeline == newest.timeline => {
                bytes = Some(end.bytes_since(newest.end.lsn))
            }
            Ok((timeline, end)) => {
                output::note(&format!(
                    "the server is on timeline {timeline} at {end}, the archive is not there yet"
                ));
            }
            Err(error) => output::note(&format!(
                "the server was not asked how far it is: {}",
                chain(&error)
            )),
        }
    }
    // The server has just said that nothing is missing; the daemon's last word is older.
    let seconds = if bytes == Some(0) { Some(0.0) } else { seconds };
    Lag { bytes, seconds }
}

/// Where the server's flushed WAL ends.
async fn server_end(config: &Config, source: &Source) -> anyhow::Result<(TimelineId, Lsn)> {
    let info = open::connection(open::postgres(config)?)?;
    let mut client = ReplicationClient::connect(&info, Mode::Physical).await?;
    let identity = client.identify_system().await?;
    client.close().await;
    source.check(&identity)?;
    Ok((identity.timeline, identity.flush_lsn))
}
