//! Reading archived WAL around a place: the records that decide where recovery stops.

use std::ops::{ControlFlow, Range};
use std::pin::pin;

use futures_util::future::try_join;
use futures_util::{StreamExt, stream};
use pitr_archive::reader::{LogReader, Run};
use pitr_archive::{ArchiveError, Reading};

use super::line::{Share, Stretch};
use crate::Lsn;
use crate::source::Source;
use crate::wal::{TransactionEnd, WalEvent, WalReader};

/// How far before a place reading begins at first: records are seldom longer.
const LOOK_BACK_BYTES: u64 = 16 << 10;
/// Segments that are read at once.
const AT_ONCE: usize = 2;
/// Of a WAL page; the reader refuses any other.
const PAGE_BYTES: u64 = 8192;

enum Seen {
    /// All of it, and the last whole record.
    Whole(Option<Range<Lsn>>),
    /// The record that reaches into the range began earlier than reading did; nothing was told.
    CutRecord,
}

/// What scanning needs.
pub(crate) struct Scan<'a> {
    pub(crate) reading: &'a Reading,
    pub(crate) source: Source,
}

impl Scan<'_> {
    /// Tells `sink` the events of the WAL in `range` until it breaks off, and returns the last record that was whole. It begins
    /// a little earlier, so that the record that reaches over the start is seen from its own start: further back, if that
    /// record is a long one.
    pub(crate) async fn wal(
        &self,
        share: &Share,
        run: &Run,
        range: Range<Lsn>,
        sink: &mut (dyn FnMut(&WalEvent) -> ControlFlow<()> + Send),
    ) -> Result<Option<Range<Lsn>>, ArchiveError> {
        let mut back = LOOK_BACK_BYTES;
        loop {
            let begin = range.start.0.saturating_sub(back) / PAGE_BYTES * PAGE_BYTES;
            let begin = Lsn(begin.max(run.positions.start));
            match self.wal_from(begin, share, run, &range, sink).await? {
                Seen::Whole(last) => return Ok(last),
                Seen::CutRecord if begin.0 > run.positions.start => back *= 16,
                Seen::CutRecord => return Ok(None),
            }
        }
    }

    async fn wal_from(
        &self,
        begin: Lsn,
        share: &Share,
        run: &Run,
        range: &Range<Lsn>,
        sink: &mut (dyn FnMut(&WalEvent) -> ControlFlow<()> + Send),
    ) -> Result<Seen, ArchiveError> {
        let Source {
            system_id,
            wal_segment_bytes,
        } = self.source;
        let mut wal = WalReader::new(begin, share.timeline, Some(system_id), wal_segment_bytes)
            .expect("the source's segment size was checked");
        let Some(first) = share.reader.seq_at(run, begin.0).await? else {
            return Ok(Seen::Whole(None));
        };
        // The run's own beginning is never looked behind.
        let mut look_for_cut = begin.0 > run.positions.start;
        // What is known to be needed as well is read at the same time.
        let is_needed = |seq: &u64| {
            let header = share.reader.known_header(*seq);
            *seq == first || header.is_some_and(|header| header.start < range.end.0)
        };
        let at_once = (first..run.seqs.end).take_while(is_needed).take(AT_ONCE);
        let lies_behind = |seq: &u64| {
            let header = share.reader.known_header(*seq);
            header.is_some_and(|header| header.start >= range.end.0)
        };
        let segments = stream::iter((first..run.seqs.end).take_while(|seq| !lies_behind(seq)));
        let segments = segments.map(|seq| self.segment(&share.reader, seq));
        let mut segments = pin!(segments.buffered(at_once.count()));
        while let Some(segment) = segments.next().await {
            let (start, plaintext) = segment?;
            if start >= range.end.0 {
                break;
            }
            let skip = begin.0.saturating_sub(start) as usize;
            let kept = plaintext.len().min((range.end.0 - start) as usize);
            let (mut flow, mut cut) = (ControlFlow::Continue(()), false);
            wal.feed(
                Lsn(start.max(begin.0)),
                &plaintext[skip..kept],
                &mut |event| {
                    if let WalEvent::Skipped { end, .. } = event {
                        cut |= look_for_cut && end > range.start;
                        look_for_cut = false;
                    }
                    if flow.is_continue() && !cut {
                        flow = sink(&event);
                    }
                },
            );
            if cut {
                return Ok(Seen::CutRecord);
            }
            if flow.is_break() {
                break;
            }
        }
        Ok(Seen::Whole(
            wal.last_record_start()
                .zip(wal.last_record_end())
                .map(|(start, end)| start..end),
        ))
    }

    /// A segment's first position and plaintext.
    async fn segment(&self, reader: &LogReader, seq: u64) -> Result<(u64, Vec<u8>), ArchiveError> {
        let opened = reader.segment(seq, self.reading).await?;
        let start = opened.header.start;
        let plaintext = opened.plaintext()?;
        if plaintext.len() as u64 != opened.header.end - start {
            let key = pitr_archive::layout::segment(reader.stream(), seq);
            return Err(ArchiveError::Unreadable {
                key,
                reason: "its bytes are not the positions it says".into(),
            });
        }
        Ok((start, plaintext))
    }
}

/// The end of a transaction as an event shows it.
pub(crate) fn transaction_end(event: &WalEvent) -> Option<&TransactionEnd> {
    match event {
        WalEvent::Commit(end) | WalEvent::Abort(end) => Some(end),
        _ => None,
    }
}

/// A stretch whose position `at` lies in no segment of its run.
pub(super) fn hole(share: &Share, stretch: &Stretch, at: Lsn) -> ArchiveError {
    ArchiveError::Hole {
        stream: share.timeline.stream(),
        seq: stretch.run.seqs.end,
        start: at.0,
    }
}

/// The numbers of the segments that hold a stretch.
pub(crate) async fn stretch_seqs(
    share: &Share,
    stretch: &Stretch,
) -> Result<Range<u64>, ArchiveError> {
    let (run, reader) = (&stretch.run, &share.reader);
    let (first, last) = try_join(
        reader.seq_at(run, stretch.from.0),
        reader.seq_at(run, stretch.to.0 - 1),
    )
    .await?;
    let first = first.ok_or_else(|| hole(share, stretch, stretch.from))?;
    let last = last.ok_or_else(|| hole(share, stretch, stretch.to))?;
    Ok(first..last + 1)
}
