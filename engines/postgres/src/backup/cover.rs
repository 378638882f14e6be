//! Whether the WAL that a base backup needs is in the archive: the last question before it can be relied on.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use pitr_archive::object::StreamName;
use pitr_archive::reader::LogReader;
use pitr_archive::{Archive, ArchiveError};
use tokio::time::Instant;

use crate::{Lsn, TimelineId};

const POLL: Duration = Duration::from_millis(500);

/// What of a backup's WAL is durable in the archive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalCover {
    /// All of it: the backup can be restored now.
    Complete,
    /// Not yet all: it can be restored once the daemon has archived up to its end.
    Behind {
        /// The durable end; `None` if nothing is archived on that timeline.
        durable: Option<Lsn>,
    },
    /// The archive's unbroken log begins after the backup's start: it can never be restored.
    StartsLate {
        /// Where the log begins.
        from: Lsn,
    },
}

/// The stretch of WAL that a backup needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Needs {
    /// Where it begins.
    pub start: (TimelineId, Lsn),
    /// Where it ends.
    pub end: (TimelineId, Lsn),
}

/// Waits until the archive holds what the backup needs, at most for `limit`. Reads headers only.
pub async fn wait_for_wal(
    archive: &Arc<Archive>,
    needs: Needs,
    limit: Duration,
) -> Result<WalCover, ArchiveError> {
    let deadline = Instant::now() + limit;
    let stream = StreamName::new(&needs.end.0.stream()).expect("digits are a stream's name");
    let reader = LogReader::new(Arc::clone(archive), stream);
    loop {
        let cover = look(&reader, needs).await?;
        let wait = POLL.min(deadline.saturating_duration_since(Instant::now()));
        if !matches!(cover, WalCover::Behind { .. }) || wait.is_zero() {
            return Ok(cover);
        }
        tokio::time::sleep(wait).await;
    }
}

async fn look(reader: &LogReader, needs: Needs) -> Result<WalCover, ArchiveError> {
    let end = reader.end().await?;
    let runs = reader.runs(&end).await?;
    let stretches = runs.iter().map(|run| Range {
        start: Lsn(run.positions.start),
        end: Lsn(run.positions.end),
    });
    Ok(judge(&stretches.collect::<Vec<_>>(), needs))
}

/// `stretches` are the unbroken ones on the timeline that the backup ended on, oldest first.
fn judge(stretches: &[Range<Lsn>], needs: Needs) -> WalCover {
    // On another timeline than it ended on, its beginning is found through the timeline's history: the plan's business.
    let begins =
        |stretch: &Range<Lsn>| needs.start.0 != needs.end.0 || stretch.start <= needs.start.1;
    let whole = |stretch: &Range<Lsn>| begins(stretch) && stretch.end >= needs.end.1;
    match stretches.last() {
        _ if stretches.iter().any(whole) => WalCover::Complete,
        Some(last) if !begins(last) => WalCover::StartsLate { from: last.start },
        last => WalCover::Behind {
            durable: last.map(|last| last.end),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_is_covered_only_from_its_start_to_its_end() {
        let at = |lsn| (TimelineId(1), Lsn(lsn));
        let needs = Needs {
            start: at(100),
            end: at(200),
        };
        let cover = |stretches: &[(u64, u64)]| {
            let stretches = stretches.iter().map(|&(start, end)| Lsn(start)..Lsn(end));
            judge(&stretches.collect::<Vec<_>>(), needs)
        };
        let behind = |durable| WalCover::Behind { durable };
        assert_eq!(cover(&[]), behind(None));
        assert_eq!(cover(&[(0, 199)]), behind(Some(Lsn(199))));
        assert_eq!(cover(&[(100, 200)]), WalCover::Complete);
        assert_eq!(cover(&[(0, 250), (260, 300)]), WalCover::Complete);
        let late = WalCover::StartsLate { from: Lsn(101) };
        assert_eq!(cover(&[(0, 90), (101, 300)]), late);
    }
}
