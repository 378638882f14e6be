//! The eye on the WAL as it passes: every record is checked, and what planning needs is noted for each segment.

use pitr_archive::writer::{Annotate, Annotation};
use tokio::sync::watch;

use super::CaptureStatus;
use super::tail::Tail;
use crate::wal::{SegmentSizeError, WalEvent, WalReader, WalSummary};
use crate::{Lsn, TimelineId};

pub(super) struct WalAnnotator {
    reader: WalReader,
    tail: Tail,
    summary: WalSummary,
    /// Where the record ends whose start was not seen.
    skipped_end: Option<Lsn>,
    /// Where the open segment begins.
    cut: Lsn,
    /// Where the first damage since then lies.
    damage: Option<Lsn>,
    status: watch::Sender<CaptureStatus>,
}

impl WalAnnotator {
    /// `tail` has read nothing yet, and begins with a WAL segment.
    pub(super) fn new(
        tail: Tail,
        timeline: TimelineId,
        system_id: u64,
        segment_bytes: u64,
        status: watch::Sender<CaptureStatus>,
    ) -> Result<Self, SegmentSizeError> {
        let start = tail.end();
        let reader = WalReader::new(start, timeline, Some(system_id), segment_bytes)?;
        Ok(Self {
            reader,
            tail,
            summary: WalSummary::default(),
            skipped_end: None,
            cut: start,
            damage: None,
            status,
        })
    }
}

impl Annotate for WalAnnotator {
    fn observe(&mut self, start: u64, bytes: &[u8]) -> bool {
        let mut awaited = false;
        self.tail.observe(bytes);
        let Self {
            reader,
            summary,
            skipped_end,
            damage,
            status,
            ..
        } = self;
        reader.feed(Lsn(start), bytes, &mut |event| {
            match &event {
                WalEvent::Damage { at, reason } => {
                    tracing::error!(%at, %reason, "the server sent WAL that it could not replay; its bytes are archived as they are");
                    status.send_modify(|status| status.damaged += 1);
                    damage.get_or_insert(*at);
                }
                WalEvent::Skipped { end, .. } => *skipped_end = Some(*end),
                // A base backup is restorable with its last record; a restore point is a moment that somebody will name.
                WalEvent::BackupEnd { .. } | WalEvent::RestorePoint { .. } => awaited = true,
                _ => {}
            }
            summary.observe(&event);
        });
        awaited
    }

    fn cut(&mut self) -> Annotation {
        let position = self.reader.position();
        let unsure = self
            .skipped_end
            .take_if(|end| *end <= position)
            .is_some_and(|end| end > self.cut);
        self.cut = position;
        let summary = std::mem::take(&mut self.summary);
        Annotation {
            time_min: summary.times.map(|times| times.0),
            time_max: summary.times.map(|times| times.1),
            unsure,
            damage: self.damage.take().map(|at| at.0),
            proofs: self.tail.proofs(),
            summary: summary.encode(),
        }
    }
}
