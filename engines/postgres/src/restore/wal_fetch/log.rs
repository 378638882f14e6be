//! The archived WAL of one timeline as PostgreSQL's files: which bytes there are, and their way into a WAL segment file.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use pitr_archive::object::{Header, Kind};
use pitr_archive::reader::{LogReader, Run};
use pitr_archive::store::StoreError;
use pitr_archive::{ArchiveError, Reading, layout};

use super::decide::{Decision, decide};
use super::error::WalFetchError;
use crate::{Lsn, TimelineHistory, TimelineId, WalFileName};

/// Archived segments that are fetched at once.
const FETCH_AT_ONCE: usize = 4;
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// Consecutive bytes of WAL.
pub(super) struct Piece {
    pub(super) start: u64,
    bytes: Vec<u8>,
}

/// One timeline in the archive.
pub(super) struct Log {
    reading: Arc<Reading>,
    pub(super) timeline: TimelineId,
    reader: Arc<LogReader>,
    pub(super) runs: Vec<Run>,
}

impl Log {
    /// Reads where the stream of `timeline` begins, breaks and ends.
    pub(super) async fn open(
        reading: &Arc<Reading>,
        timeline: TimelineId,
    ) -> Result<Self, WalFetchError> {
        let stream = timeline.stream_name();
        let reader = LogReader::new(Arc::clone(reading.archive()), stream.clone());
        let end = reader.end().await?;
        end.check_tail(&stream)?;
        let runs = reader.runs(&end).await?;
        // A hole at or before the last known head is no crash of the daemon's: something was deleted.
        let contiguous = runs.last().map_or(0, |run| run.seqs.end);
        if end.head.is_some_and(|head| head.seq >= contiguous) {
            let (stream, seq) = (stream.to_string(), contiguous);
            let start = runs.last().map_or(0, |run| run.positions.end);
            return Err(ArchiveError::Hole { stream, seq, start }.into());
        }
        Ok(Self {
            reading: Arc::clone(reading),
            timeline,
            reader: Arc::new(reader),
            runs,
        })
    }

    /// What is true of the WAL segment at `wanted`.
    pub(super) async fn decide(
        &self,
        wanted: &Range<u64>,
        until: Option<Lsn>,
    ) -> Result<Decision, WalFetchError> {
        let until = until.map(|until| until.0);
        let runs: Vec<_> = self.runs.iter().map(|run| run.positions.clone()).collect();
        match decide(wanted, &runs, false, until) {
            Decision::TooOld { .. } => {
                let ancestor_has_it = self.ancestor_has(wanted).await?;
                Ok(decide(wanted, &runs, ancestor_has_it, until))
            }
            decision => Ok(decision),
        }
    }

    async fn ancestor_has(&self, wanted: &Range<u64>) -> Result<bool, WalFetchError> {
        let Some(bytes) = history_file(&self.reading, self.timeline).await? else {
            return Ok(false);
        };
        let history = TimelineHistory::parse(self.timeline, &bytes)?;
        for ancestor in history.ancestors() {
            let stream = ancestor.timeline.stream_name();
            let reader = LogReader::new(Arc::clone(self.reading.archive()), stream);
            let end = reader.end().await?;
            let runs = reader.runs(&end).await?;
            if runs.iter().any(|run| run.positions.contains(&wanted.start)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What to say of a decision that is neither the file nor its absence.
    pub(super) fn lost(&self, name: &str, lost: Range<u64>) -> WalFetchError {
        WalFetchError::Gap {
            name: name.into(),
            timeline: self.timeline,
            from: Lsn(lost.start),
            to: Lsn(lost.end),
        }
    }

    /// The same for a segment from before the archive began.
    pub(super) fn too_old(&self, name: &str, start: u64) -> WalFetchError {
        WalFetchError::TooOld {
            name: name.into(),
            timeline: self.timeline,
            start: Lsn(start),
        }
    }

    /// The WAL in run `run` from the archived segment that holds `position` to the one that holds `upto - 1`, fetched, opened and
    /// unpacked ahead; in order, each piece the continuation of the one before it.
    pub(super) async fn pieces(
        &self,
        run: usize,
        position: u64,
        upto: u64,
    ) -> Result<impl Stream<Item = Result<Piece, WalFetchError>> + '_, WalFetchError> {
        let run = &self.runs[run];
        let first = self.reader.seq_at(run, position).await?;
        let last = self.reader.seq_at(run, upto - 1).await?;
        let first = first.unwrap_or(run.seqs.end);
        let end = last.map_or(run.seqs.end, |last| last + 1);
        let mut next = None;
        let pieces = stream::iter(first..end)
            .map(|seq| self.unpack(seq))
            .buffered(FETCH_AT_ONCE)
            .and_then(move |opened| {
                let (header, bytes) = opened;
                let found = header.start..header.end;
                let follows = match next {
                    None => found.contains(&position),
                    Some(end) => header.start == end,
                };
                let whole = found.end - found.start == bytes.len() as u64;
                let wanted = next.unwrap_or(position);
                next = Some(header.end);
                std::future::ready(if follows && whole && header.run_seq == run.seqs.start {
                    Ok(Piece {
                        start: header.start,
                        bytes,
                    })
                } else {
                    let (timeline, seq) = (self.timeline, header.seq);
                    Err(WalFetchError::Discontinuous {
                        timeline,
                        seq,
                        found,
                        wanted,
                    })
                })
            });
        Ok(pieces)
    }

    /// Fetches, opens and unpacks a segment as a task of its own, which goes on while what came before is written.
    fn unpack(
        &self,
        seq: u64,
    ) -> impl Future<Output = Result<(Header, Vec<u8>), WalFetchError>> + use<> {
        let (reader, reading) = (Arc::clone(&self.reader), Arc::clone(&self.reading));
        let task = tokio::spawn(async move {
            let opened = reader.segment(seq, &reading).await?;
            let work = move || opened.plaintext().map(|bytes| (opened.header, bytes));
            let unpacked = tokio::task::spawn_blocking(work).await;
            let unpacked = unpacked.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
            Ok(unpacked.map_err(ArchiveError::from)?)
        });
        task.map(|done| done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic())))
    }

    /// Writes the WAL segment at `wanted`, of which the archive has the bytes up to `upto`, into `path`; zeros follow.
    pub(super) async fn write(
        &self,
        run: usize,
        wanted: &Range<u64>,
        upto: u64,
        path: &Path,
    ) -> Result<(), WalFetchError> {
        let file = create(path)?;
        let mut pieces = std::pin::pin!(self.pieces(run, wanted.start, upto).await?);
        let mut end = wanted.start;
        while let Some(piece) = pieces.next().await {
            end = piece?.copy(wanted, &file, path)?;
        }
        if end < upto {
            let hole = ArchiveError::Hole {
                stream: self.timeline.stream(),
                seq: self.runs[run].seqs.end,
                start: end,
            };
            return Err(hole.into());
        }
        pad(&file, upto - wanted.start, wanted.end - wanted.start, path)
    }

    /// The name of the WAL segment at `start`.
    pub(super) fn name(&self, start: u64, segment_bytes: u64) -> String {
        WalFileName::segment(self.timeline, Lsn(start), segment_bytes)
    }
}

/// The history file of `timeline`; `None` if the archive has none.
pub(super) async fn history_file(
    reading: &Reading,
    timeline: TimelineId,
) -> Result<Option<Vec<u8>>, WalFetchError> {
    let stream = timeline.stream_name();
    let expected = reading
        .archive()
        .expected(Kind::History, Some(&stream), Default::default(), 0);
    match reading.fetch(&layout::history(&stream), &expected).await {
        Ok(opened) => Ok(Some(opened.plaintext().map_err(ArchiveError::from)?)),
        Err(ArchiveError::Store(StoreError::NotFound { .. })) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Creates a file that nobody else can read.
pub(super) fn create(path: &Path) -> Result<File, WalFetchError> {
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(true).mode(0o600);
    options
        .open(path)
        .map_err(WalFetchError::file("create", path))
}

impl Piece {
    /// Writes what it has of `wanted` into `file`, whose first byte is `wanted.start`. Where the piece ends.
    pub(super) fn copy(
        &self,
        wanted: &Range<u64>,
        file: &File,
        path: &Path,
    ) -> Result<u64, WalFetchError> {
        let end = self.end();
        let (from, to) = (self.start.max(wanted.start), end.min(wanted.end));
        if from < to {
            let piece = &self.bytes[(from - self.start) as usize..(to - self.start) as usize];
            file.write_all_at(piece, from - wanted.start)
                .map_err(WalFetchError::file("write", path))?;
        }
        Ok(end)
    }

    /// The position behind it.
    pub(super) fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }
}

/// Fills up with zeros, written out: PostgreSQL may use the file again and counts on its blocks.
fn pad(file: &File, mut from: u64, to: u64, path: &Path) -> Result<(), WalFetchError> {
    while from < to {
        let bytes = (to - from).min(ZEROS.len() as u64);
        file.write_all_at(&ZEROS[..bytes as usize], from)
            .map_err(WalFetchError::file("write", path))?;
        from += bytes;
    }
    Ok(())
}
