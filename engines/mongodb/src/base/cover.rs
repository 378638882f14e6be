//! Whether the log that a base copy needs is in the archive: the last question before it can be relied on.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use pitr_archive::object::StreamName;
use pitr_archive::reader::LogReader;
use pitr_archive::{Archive, ArchiveError};
use tokio::time::Instant;

use crate::ClusterTime;

const POLL: Duration = Duration::from_millis(500);

/// What of a base copy's log is durable in the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogCover {
    /// All of it: the copy can be restored now.
    Complete,
    /// Not yet all: it can be restored once the daemon has archived up to its end.
    Behind {
        /// The durable end, exclusive; `None` if nothing is archived.
        durable: Option<ClusterTime>,
    },
    /// The archive's unbroken log begins after the copy's start: it can never be restored.
    StartsLate {
        /// Where the log begins.
        from: ClusterTime,
    },
}

/// Waits until the archive holds the positions `needs`, at most for `limit`. Reads headers only.
pub(super) async fn wait_for_log(
    archive: &Arc<Archive>,
    stream: &StreamName,
    needs: Range<u64>,
    limit: Duration,
) -> Result<LogCover, ArchiveError> {
    let deadline = Instant::now() + limit;
    loop {
        let cover = judge(&runs(archive, stream).await?, &needs);
        let wait = POLL.min(deadline.saturating_duration_since(Instant::now()));
        if !matches!(cover, LogCover::Behind { .. }) || wait.is_zero() {
            return Ok(cover);
        }
        tokio::time::sleep(wait).await;
    }
}

/// The archive's last unbroken log.
pub(super) async fn last_run(
    archive: &Arc<Archive>,
    stream: &StreamName,
) -> Result<Option<Range<u64>>, ArchiveError> {
    Ok(runs(archive, stream).await?.pop())
}

async fn runs(
    archive: &Arc<Archive>,
    stream: &StreamName,
) -> Result<Vec<Range<u64>>, ArchiveError> {
    let reader = LogReader::new(Arc::clone(archive), stream.clone());
    let end = reader.end().await?;
    Ok(reader
        .runs(&end)
        .await?
        .into_iter()
        .map(|run| run.positions)
        .collect())
}

/// `runs` are the unbroken ones, oldest first.
fn judge(runs: &[Range<u64>], needs: &Range<u64>) -> LogCover {
    let begins = |run: &Range<u64>| run.start <= needs.start;
    match runs.last() {
        _ if runs.iter().any(|run| begins(run) && run.end >= needs.end) => LogCover::Complete,
        Some(last) if !begins(last) => LogCover::StartsLate {
            from: ClusterTime(last.start),
        },
        last => LogCover::Behind {
            durable: last.map(|last| ClusterTime(last.end)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_covered_only_from_its_start_to_its_end() {
        let cover = |runs: &[(u64, u64)]| {
            let runs: Vec<_> = runs.iter().map(|&(start, end)| start..end).collect();
            judge(&runs, &(100..200))
        };
        assert_eq!(cover(&[]), LogCover::Behind { durable: None });
        assert_eq!(
            cover(&[(0, 199)]),
            LogCover::Behind {
                durable: Some(ClusterTime(199))
            }
        );
        assert_eq!(cover(&[(100, 200)]), LogCover::Complete);
        assert_eq!(cover(&[(0, 250), (260, 300)]), LogCover::Complete);
        assert_eq!(
            cover(&[(0, 90), (101, 300)]),
            LogCover::StartsLate {
                from: ClusterTime(101)
            }
        );
    }
}
