//! `pitr-tool status` for archives of MongoDB: what can be restored, and how far the archive and its copies are behind.

mod report;

use std::sync::Arc;

use anyhow::Context;
use pitr_archive::catalogue::{Backup, Catalogue};
use pitr_archive::{Archive, Reading, layout};
use pitr_mongodb::base::BaseReader;
use pitr_mongodb::plan::{self, Windows};
use pitr_mongodb::{ClusterTime, Server, Source};
use pitrd::config::{ArchiveUrl, Config, SourceConfig};
use pitrd::exit::{Exit, chain, classify};
use pitrd::open;

pub use report::{ArchiveName, BaseCopy, Gap, Lag, Moment, Report, Window};

use crate::output;
use crate::status::{self, places};

/// Behind every key of one level of the store.
const LAST_KEY: &str = "~";

/// Looks and prints.
pub async fn run(
    archive: Arc<Archive>,
    reading: Option<Reading>,
    config: Option<&Config>,
    urls: &[ArchiveUrl],
    json: bool,
) -> anyhow::Result<Exit> {
    let source = Source::of(&archive)?;
    let catalogue = Catalogue::read(&archive)
        .await
        .context("read the catalogue")?;
    let mut windows = Windows::read(&catalogue);
    if let (None, Some(SourceConfig::Mongodb(source))) =
        (windows.end, config.map(|config| &config.source))
    {
        // What the daemon will make of an archive that holds nothing yet.
        windows.kind = source.capture.into();
    }
    let reading = reading.map(Arc::new);
    let mut base_backups = Vec::new();
    for backup in &catalogue.backups {
        base_backups.push(base_copy(&archive, reading.as_ref(), backup).await?);
    }
    let lag = lag(config, &source, &windows).await;
    let durable = windows.end.map_or(0, |end| end.ts.0);
    let report = Report {
        source: status::source(config, durable, lag.since_durable).await,
        spool: status::spool(config, &archive.id().to_string()),
        archive: ArchiveName {
            url: archive.url().into(),
            id: archive.id().to_string(),
            engine: archive.engine().into(),
            replica_set: source.to_string(),
            capture: windows.kind.name(),
            cannot_see: windows.kind.cannot_see().to_vec(),
        },
        places: places(urls, &catalogue).await,
        lag,
        windows: windows.windows.iter().map(window).collect(),
        gaps: windows.gaps.iter().map(gap).collect(),
        lost_tail: windows.lost_tail,
        base_backups,
        incomplete_backups: catalogue
            .incomplete
            .iter()
            .map(ToString::to_string)
            .collect(),
        end: windows.end.map(Moment::from),
    };
    output::show(&report, json)?;
    Ok(Exit::Done)
}

fn window(window: &plan::Window) -> Window {
    Window {
        from: window.from.into(),
        to: window.to.into(),
        covered: window.covered.map(output::time),
        base_backup: window.base.to_string(),
    }
}

fn gap(gap: &plan::Gap) -> Gap {
    Gap {
        from_ts: gap.from.to_string(),
        to_ts: gap.to.to_string(),
    }
}

async fn base_copy(
    archive: &Archive,
    reading: Option<&Arc<Reading>>,
    backup: &Backup,
) -> anyhow::Result<BaseCopy> {
    let prefix = format!("{}{}/", layout::BASE, backup.id);
    let end = format!("{prefix}{LAST_KEY}");
    let listed = archive
        .store()
        .list(&prefix, prefix.as_str()..end.as_str())
        .await;
    let listed = listed.context("list the parts of a base copy")?;
    let header = &backup.header;
    let mut found = BaseCopy {
        id: backup.id.to_string(),
        label: None,
        t0: ClusterTime(header.start).previous().to_string(),
        t1: ClusterTime(header.end).previous().to_string(),
        finished: header.time_max.map(output::time),
        documents: None,
        bytes: None,
        stored_bytes: listed.iter().map(|object| object.object_bytes).sum(),
    };
    let Some(reading) = reading else {
        return Ok(found);
    };
    match BaseReader::open(Arc::clone(reading), backup.id).await {
        Ok(base) => {
            let manifest = base.manifest();
            found.label = Some(manifest.label.clone());
            (found.documents, found.bytes) =
                (Some(manifest.documents()), Some(manifest.contents_bytes));
        }
        // One damaged manifest must not hide what else there is.
        Err(error) => {
            let error = anyhow::Error::from(error);
            if classify(&error).0 != Exit::Damage {
                return Err(error).context("read the manifest of a base copy");
            }
            output::note(&format!("base copy {}: {}", found.id, chain(&error)));
        }
    }
    Ok(found)
}

async fn lag(config: Option<&Config>, source: &Source, windows: &Windows) -> Lag {
    let since_durable = windows.durable_time.map(|durable| {
        let behind = output::now_unix_us().saturating_sub(durable).max(0);
        behind as f64 / 1e6
    });
    let (Some(config), Some(end)) = (config, windows.end) else {
        return Lag {
            seconds: None,
            since_durable,
        };
    };
    let seconds = match majority(config, source).await {
        Ok(majority) if majority.ts <= end.ts || since_durable.is_some_and(|since| since < 1.0) => {
            Some(0.0)
        }
        Ok(majority) => {
            let known = windows.durable_time.unwrap_or_default();
            Some((majority.wall - known).max(0) as f64 / 1e6)
        }
        Err(error) => {
            output::note(&format!(
                "the server was not asked how far it is: {}",
                chain(&error)
            ));
            None
        }
    };
    Lag {
        seconds,
        since_durable,
    }
}

async fn majority(config: &Config, source: &Source) -> anyhow::Result<pitr_mongodb::Majority> {
    let SourceConfig::Mongodb(configured) = &config.source else {
        anyhow::bail!("the configuration names another engine's source");
    };
    let client = open::mongodb(configured).await?.client()?;
    let server = Server::ask(&client).await;
    client.shutdown().immediate(true).await;
    let server = server?;
    source.check(&server.source)?;
    Ok(server.majority)
}
