//! Reading archived WAL around a place: the records that decide where recovery stops.

use std::ops::{ControlFlow, Range};

use pitr_archive::reader::{LogReader, Run};
use pitr_archive::{ArchiveError, Reading};

use super::line::{Share, Stretch};
use crate::Lsn;
use crate::source::Source;
use crate::wal::{TransactionEnd, WalEvent, WalReader};

/// What scanning needs.
pub(crate) struct Scan<'a> {
    pub(crate) reading: &'a Reading,
    pub(crate) source: Source,
}

impl Scan<'_> {
    /// Tells `sink` the events of the WAL in `range` until it breaks off, and returns the last record that was whole. It begins a
    /// whole WAL segment earlier, so that the record that reaches over the start is seen from its own start.
    pub(crate) async fn wal(
        &self,
        share: &Share,
        run: &Run,
        range: Range<Lsn>,
        sink: &mut (dyn FnMut(&WalEvent) -> ControlFlow<()> + Send),
    ) -> Result<Option<Range<Lsn>>, ArchiveError> {
        let segment_bytes = self.source.wal_segment_bytes;
        let before = range
            .start
            .segment_start(segment_bytes)
            .0
            .saturating_sub(segment_bytes);
        let begin = before.max(run.positions.start);
        let mut wal = WalReader::new(
            Lsn(begin),
            share.timeline,
            Some(self.source.system_id),
            segment_bytes,
        )
        .expect("the source's segment size was checked");
        let Some(first) = share.reader.seq_at(run, begin).await? else {
            return Ok(None);
        };
        for seq in first..run.seqs.end {
            let (start, plaintext) = self.segment(&share.reader, seq).await?;
            if start >= range.end.0 {
                break;
            }
            let skip = begin.saturating_sub(start) as usize;
            let kept = plaintext.len().min((range.end.0 - start) as usize);
            let mut flow = ControlFlow::Continue(());
            wal.feed(
                Lsn(start.max(begin)),
                &plaintext[skip..kept],
                &mut |event| {
                    if flow.is_continue() {
                        flow = sink(&event);
                    }
                },
            );
            if flow.is_break() {
                break;
            }
        }
        Ok(wal
            .last_record_start()
            .zip(wal.last_record_end())
            .map(|(start, end)| start..end))
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

/// The numbers of the segments that hold a stretch.
pub(crate) async fn stretch_seqs(
    share: &Share,
    stretch: &Stretch,
) -> Result<Range<u64>, ArchiveError> {
    let hole = |at: Lsn| ArchiveError::Hole {
        stream: share.timeline.stream(),
        seq: stretch.run.seqs.end,
        start: at.0,
    };
    let first = share
        .reader
        .seq_at(&stretch.run, stretch.from.0)
        .await?
        .ok_or_else(|| hole(stretch.from))?;
    let last = share
        .reader
        .seq_at(&stretch.run, stretch.to.0 - 1)
        .await?
        .ok_or_else(|| hole(stretch.to))?;
    Ok(first..last + 1)
}
