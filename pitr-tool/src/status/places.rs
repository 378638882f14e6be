//! How far each place of an archive with copies is behind what all of them together hold.

use std::fmt;
use std::sync::Arc;

use pitr_archive::catalogue::Catalogue;
use pitr_archive::reader::LogReader;
use pitrd::config::ArchiveUrl;
use pitrd::exit::chain;
use pitrd::open;
use serde::Serialize;

/// One place of an archive.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PlaceReport {
    /// Where.
    pub url: String,
    /// Segments that it does not have, up to the end that any place has; `None` if it cannot be told.
    pub segments_behind: Option<u64>,
    /// By how much the source's clock went on since its last commit; `None` where no commit tells it.
    pub seconds_behind: Option<f64>,
    /// Complete base backups that it does not have.
    pub backups_missing: Option<u64>,
    /// Why nothing, or not all, can be told.
    pub problem: Option<String>,
}

impl fmt::Display for PlaceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.url)?;
        match (&self.problem, self.segments_behind, self.backups_missing) {
            (Some(problem), _, _) => write!(f, "NOT KNOWN: {problem}"),
            (None, Some(0), Some(0)) => f.write_str("up to date"),
            (None, segments, backups) => {
                let (segments, backups) = (segments.unwrap_or(0), backups.unwrap_or(0));
                let seconds = self.seconds_behind.unwrap_or(0.0);
                write!(
                    f,
                    "{segments} segments ({seconds:.0} s) and {backups} base backups behind"
                )
            }
        }
    }
}

/// Looks at every place; `together` is what a reader of all of them sees. Nothing for an archive in one place.
pub(crate) async fn places(urls: &[ArchiveUrl], together: &Catalogue) -> Vec<PlaceReport> {
    let mut reports = Vec::new();
    if urls.len() < 2 {
        return reports;
    }
    for url in urls {
        let mut report = PlaceReport {
            url: url.place(),
            segments_behind: None,
            seconds_behind: None,
            backups_missing: None,
            problem: None,
        };
        if let Err(error) = look(url, together, &mut report).await {
            report.problem = Some(chain(&error));
        }
        reports.push(report);
    }
    reports
}

async fn look(
    url: &ArchiveUrl,
    together: &Catalogue,
    report: &mut PlaceReport,
) -> anyhow::Result<()> {
    let archive = open::archive(url).await?;
    let here = Catalogue::read(&archive).await?;
    let missing = together
        .backups
        .iter()
        .filter(|backup| here.backups.iter().all(|other| other.id != backup.id));
    report.backups_missing = Some(missing.count() as u64);
    let (mut behind, mut newest, mut newest_here) = (0, None, None);
    for stream in &together.streams {
        let log = LogReader::new(Arc::clone(&archive), stream.name.clone());
        let runs = log.runs(&log.end().await?).await?;
        let end = |runs: &[pitr_archive::reader::Run]| runs.last().map_or(0, |run| run.seqs.end);
        behind += end(&stream.runs).saturating_sub(end(&runs));
        newest = newest.max(stream.runs.last().and_then(|run| run.time_high));
        newest_here = newest_here.max(runs.last().and_then(|run| run.time_high));
    }
    report.segments_behind = Some(behind);
    if let (Some(newest), Some(here)) = (newest, newest_here) {
        report.seconds_behind = Some(newest.saturating_sub(here).max(0) as f64 / 1e6);
    }
    Ok(())
}
