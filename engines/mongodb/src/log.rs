//! Reading the archived log back: entries in the order of their cluster times, as the source wrote them.
//!
//! Segments are fetched ahead and in parallel, and handed out one by one: whoever folds never waits for the store in between.

use std::sync::Arc;

use bson::raw::RawDocument;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use pitr_archive::object::StreamName;
use pitr_archive::reader::{LogReader, Run};
use pitr_archive::{ArchiveError, Reading};

use crate::entry::{EntryError, Head};
use crate::summary::{LogSummary, SummaryError};
use crate::{ClusterTime, LogKind};

/// Segments on their way at once.
const SEGMENTS_AHEAD: usize = 3;

/// A log that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The archive has no unbroken log over the range.
    #[error("the archive has no unbroken log from {from} to {to}")]
    Break {
        /// Exclusive.
        from: ClusterTime,
        /// Inclusive.
        to: ClusterTime,
    },
    /// A segment holds something else than entries in order within its range.
    #[error("segment {seq} of the log: {reason}")]
    Contradiction {
        /// Its number.
        seq: u64,
        /// What does not fit.
        reason: String,
    },
    /// Its summary cannot be read.
    #[error("segment {seq} of the log: {error}")]
    Summary {
        /// Its number.
        seq: u64,
        /// Why.
        error: SummaryError,
    },
}

/// The entries of one segment that lie in the range asked for.
#[derive(Debug)]
pub struct Batch {
    /// The segment's number.
    pub seq: u64,
    /// Its summary, which may tell of entries outside the range.
    pub summary: LogSummary,
    /// Entries that were not fetched, because the summary said enough.
    pub passed_over: u64,
    bytes: Vec<u8>,
    kind: LogKind,
    from: ClusterTime,
    to: ClusterTime,
}

impl Batch {
    /// The entries in order, each with its head.
    pub fn entries(&self) -> impl Iterator<Item = Result<(Head<'_>, &RawDocument), LogError>> {
        let inside = |result: &Result<(Head<'_>, &RawDocument), EntryError>| match result {
            Ok((head, _)) => self.from < head.ts && head.ts <= self.to,
            Err(_) => true,
        };
        self.kind.entries(&self.bytes).filter(inside).map(|result| {
            result.map_err(|error| LogError::Contradiction {
                seq: self.seq,
                reason: error.to_string(),
            })
        })
    }
}

/// Whether a segment with this summary need not be fetched.
pub type PassOver = fn(&LogSummary) -> bool;

/// The log over a range, segment by segment.
pub struct Entries {
    batches: BoxStream<'static, Result<Batch, LogError>>,
}

impl Entries {
    /// The entries of `stream` after `from` up to and including `to`.
    ///
    /// # Errors
    /// [`LogError::Break`] if no unbroken run of the stream holds all of them.
    pub async fn open(
        reading: Arc<Reading>,
        stream: &StreamName,
        from: ClusterTime,
        to: ClusterTime,
    ) -> Result<Self, LogError> {
        Self::open_but(reading, stream, from, to, |_| false).await
    }

    /// The same, but of segments that lie in the range as a whole only those that `pass_over` does not hold of.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub async fn open_but(
        reading: Arc<Reading>,
        stream: &StreamName,
        from: ClusterTime,
        to: ClusterTime,
        pass_over: PassOver,
    ) -> Result<Self, LogError> {
        let reader = Arc::new(LogReader::new(
            Arc::clone(reading.archive()),
            stream.clone(),
        ));
        if to <= from {
            return Ok(Self {
                batches: stream::empty().boxed(),
            });
        }
        let end = reader.end().await?;
        let runs = reader.runs(&end).await?;
        let (first, last) = (from.next().0, to.0);
        let whole = |run: &&Run| run.positions.start <= first && last < run.positions.end;
        let run = runs
            .iter()
            .find(whole)
            .ok_or(LogError::Break { from, to })?;
        let holds = LogError::Break { from, to };
        let seqs = (
            reader.seq_at(run, first).await?,
            reader.seq_at(run, last).await?,
        );
        let (Some(first), Some(last)) = seqs else {
            return Err(holds);
        };
        reader.prove_present(first..last + 1).await?;
        let batches = stream::iter(first..last + 1).map(move |seq| {
            let (reader, reading) = (Arc::clone(&reader), Arc::clone(&reading));
            async move {
                let inside = first < seq && seq < last;
                if let Some(passed) = passed(&reader, &reading, seq, inside, pass_over).await? {
                    return Ok(passed);
                }
                batch(&reader, &reading, seq, from, to).await
            }
        });
        Ok(Self {
            batches: batches.buffered(SEGMENTS_AHEAD).boxed(),
        })
    }

    /// The next segment's entries; `None` after the last one.
    pub async fn next(&mut self) -> Result<Option<Batch>, LogError> {
        self.batches.next().await.transpose()
    }
}

/// A segment that need not be fetched; its summary was.
async fn passed(
    reader: &LogReader,
    reading: &Reading,
    seq: u64,
    inside: bool,
    pass_over: PassOver,
) -> Result<Option<Batch>, LogError> {
    if !inside {
        return Ok(None);
    }
    let summary = LogSummary::decode(&reader.summary(seq, reading).await?)
        .map_err(|error| LogError::Summary { seq, error })?;
    let passed_over = u64::try_from(summary.entries).unwrap_or_default();
    Ok(pass_over(&summary).then_some(Batch {
        seq,
        summary,
        passed_over,
        bytes: Vec::new(),
        kind: LogKind::of(reader.stream()),
        from: ClusterTime::default(),
        to: ClusterTime::default(),
    }))
}

async fn batch(
    reader: &LogReader,
    reading: &Reading,
    seq: u64,
    from: ClusterTime,
    to: ClusterTime,
) -> Result<Batch, LogError> {
    let opened = reader.segment(seq, reading).await?;
    let unpack = tokio::task::spawn_blocking(move || {
        let summary = LogSummary::decode(&opened.summary)
            .map_err(|error| LogError::Summary { seq, error })?;
        let bytes = opened.plaintext().map_err(ArchiveError::from)?;
        Ok((summary, bytes))
    });
    let unpacked = unpack
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
    let (summary, bytes): (LogSummary, Vec<u8>) = unpacked.map_err(|error: LogError| error)?;
    Ok(Batch {
        seq,
        summary,
        passed_over: 0,
        bytes,
        kind: LogKind::of(reader.stream()),
        from,
        to,
    })
}
