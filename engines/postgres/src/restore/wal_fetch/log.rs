//! The archived WAL of one timeline as PostgreSQL's files: which bytes there are, and their way into a WAL segment file.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt, stream};
use pitr_archive::object::{Kind, Opened};
use pitr_archive::reader::{LogReader, Run};
use pitr_archive::store::StoreError;
use pitr_archive::{ArchiveError, Reading, layout};

use super::decide::{Decision, decide};
use super::error::WalFetchError;
use crate::{Lsn, TimelineHistory, TimelineId, WalFileName};

/// Archived segments that are fetched at once: more of them where they are small and a store far away.
const FETCH_AT_ONCE: (u64, u64) = (4, 32);
/// What segments that are fetched at once may hold together, where they are small.
const FETCH_BYTES: u64 = 64 << 20;
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// An archived segment, opened and not yet unpacked.
pub(super) struct Piece(Opened);

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

    /// The WAL in run `run` from the archived segment that holds `position` to the one that holds `upto - 1`, fetched and opened
    /// ahead; in order, each piece the continuation of the one before it.
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
            .map(|seq| self.open_segment(seq))
            .buffered(at_once(run))
            .and_then(move |opened| {
                let header = &opened.header;
                let found = header.start..header.end;
                let follows = match next {
                    None => found.contains(&position),
                    Some(end) => header.start == end,
                };
                let whole = found.end - found.start == header.plaintext_bytes;
                let wanted = next.unwrap_or(position);
                next = Some(header.end);
                let (timeline, seq) = (self.timeline, header.seq);
                std::future::ready(if follows && whole && header.run_seq == run.seqs.start {
                    Ok(Piece(opened))
                } else {
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

    /// Fetches and opens a segment as a task of its own, which goes on while what came before is unpacked and written.
    fn open_segment(
        &self,
        seq: u64,
    ) -> impl Future<Output = Result<Opened, WalFetchError>> + use<> {
        let (reader, reading) = (Arc::clone(&self.reader), Arc::clone(&self.reading));
        let task = tokio::spawn(async move { Ok(reader.segment(seq, &reading).await?) });
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
        let (mut end, mut room) = (wanted.start, Vec::new());
        while let Some(piece) = pieces.next().await {
            end = piece?.unpack(wanted, &file, path, &mut room)?;
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

/// How many segments of `run` are fetched at once.
fn at_once(run: &Run) -> usize {
    let count = (run.seqs.end - run.seqs.start).max(1);
    let mean = (run.positions.end - run.positions.start) / count;
    let (least, most) = FETCH_AT_ONCE;
    (FETCH_BYTES / mean.max(1)).clamp(least, most) as usize
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
    /// Writes what it has of `wanted` into `file`, whose first byte is `wanted.start`: frame by frame, so that what is unpacked is
    /// written out of the processor's cache, by way of `room`. Where the piece ends.
    pub(super) fn unpack(
        &self,
        wanted: &Range<u64>,
        file: &File,
        path: &Path,
        room: &mut Vec<u8>,
    ) -> Result<u64, WalFetchError> {
        let Self(opened) = self;
        for index in 0..opened.frames() {
            let range = opened.frame_range(index);
            let start = self.start() + range.start;
            let from = start.max(wanted.start);
            let to = (self.start() + range.end).min(wanted.end);
            if from < to {
                opened.frame_into(index, room).map_err(ArchiveError::from)?;
                let bytes = &room[(from - start) as usize..(to - start) as usize];
                file.write_all_at(bytes, from - wanted.start)
                    .map_err(WalFetchError::file("write", path))?;
                write_back(file, from - wanted.start, bytes.len());
            }
        }
        Ok(self.end())
    }

    /// The position of its first byte.
    pub(super) fn start(&self) -> u64 {
        self.0.header.start
    }

    /// The position behind it.
    pub(super) fn end(&self) -> u64 {
        self.0.header.end
    }
}

/// Has the kernel begin to write a stretch back. A file that is written back all at once when it is complete holds up the syncs of
/// the recovery beside it; this advice, where it does anything, begins with that and keeps what is not written yet.
fn write_back(file: &File, offset: u64, bytes: usize) {
    let bytes = std::num::NonZero::new(bytes as u64);
    let _ = rustix::fs::fadvise(file, offset, bytes, rustix::fs::Advice::DontNeed);
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
