//! Where to go on: which timeline, from which LSN, decided from the archive first and the server second.

use pitr_archive::object::{FRAME_BYTES_MAX, Frame, Id, Kind, PREAMBLE_BYTES, StreamName};
use pitr_archive::store::{Piece, StoreError};
use pitr_archive::writer::{Resume, audibly, resume};
use pitr_archive::{ArchiveError, layout};

use super::prove::End;
use super::{Capture, CaptureError};
use crate::history::{Ancestor, TimelineHistory};
use crate::replication::{ReplicationClient, SystemIdentity};
use crate::{Lsn, TimelineId};

/// A timeline's stream, and where reading it begins.
pub(super) struct Place {
    pub(super) timeline: TimelineId,
    pub(super) stream: StreamName,
    pub(super) resume: Resume,
    /// The beginning of the WAL segment that holds the durable end, so that records are checked from their start.
    pub(super) from: Lsn,
}

impl Capture {
    /// After connecting: the server's timeline if the archive has it, else the ancestor that the archive ended on.
    pub(super) async fn place(
        &self,
        mut client: ReplicationClient,
        identity: &SystemIdentity,
    ) -> Result<(ReplicationClient, Place), CaptureError> {
        let server = identity.timeline;
        let history = self.history(&mut client, server).await?;
        let mut path: Vec<TimelineId> = history
            .iter()
            .flat_map(TimelineHistory::ancestors)
            .map(|ancestor| ancestor.timeline)
            .collect();
        path.push(server);
        for &timeline in path.iter().rev() {
            let found = self.resume(timeline).await?;
            let Some(durable) = found.durable().map(Lsn) else {
                continue;
            };
            let end = found.newest().map_or(durable, |newest| Lsn(newest.end));
            self.not_rolled_back(identity, timeline, end)?;
            let switch = history
                .as_ref()
                .and_then(|history| history.switch_from(timeline));
            if let Some(switch) = switch.filter(|&switch| durable >= switch) {
                self.ensure_slot(&mut client, Some(durable)).await?;
                self.tell_fork(timeline, durable, switch);
                let next = path
                    .iter()
                    .find(|&&next| next > timeline)
                    .copied()
                    .unwrap_or(server);
                return self.place_on(client, (next, switch)).await;
            }
            let end = End::of(timeline, &found, switch);
            let mut client = self.prove(client, end, Some(identity)).await?;
            self.ensure_slot(&mut client, Some(durable)).await?;
            return Ok((client, self.continue_on(timeline, found, durable)));
        }
        let restart = self.ensure_slot(&mut client, None).await?;
        let from = restart.unwrap_or(identity.flush_lsn);
        Ok((client, self.begin(server, from).await?))
    }

    /// A primary never comes back from a crash with less than it had flushed, and we get nothing else.
    pub(super) fn not_rolled_back(
        &self,
        identity: &SystemIdentity,
        timeline: TimelineId,
        archived: Lsn,
    ) -> Result<(), CaptureError> {
        let server = identity.flush_lsn;
        if self.is_standby || timeline != identity.timeline || archived <= server {
            return Ok(());
        }
        Err(CaptureError::RolledBack {
            timeline,
            server,
            archived,
        })
    }

    /// After a switch at `switch`: the next timeline, from where the archive has it or else from the WAL segment of the switch.
    pub(super) async fn place_on(
        &self,
        mut client: ReplicationClient,
        (timeline, switch): (TimelineId, Lsn),
    ) -> Result<(ReplicationClient, Place), CaptureError> {
        self.history(&mut client, timeline).await?;
        let found = self.resume(timeline).await?;
        let Some(durable) = found.durable().map(Lsn) else {
            return Ok((client, self.begin(timeline, switch).await?));
        };
        let end = End::of(timeline, &found, None);
        let client = self.prove(client, end, None).await?;
        Ok((client, self.continue_on(timeline, found, durable)))
    }

    /// The server no longer has the WAL behind the archive's end: from where it has some, on the timeline it is on. The break
    /// is recorded with the first segment: a new run, or a timeline that does not touch its parent.
    pub(super) async fn place_after_gap(
        &self,
        mut client: ReplicationClient,
    ) -> Result<(ReplicationClient, Place), CaptureError> {
        let identity = client.identify_system().await?;
        self.source.check(&identity)?;
        self.history(&mut client, identity.timeline).await?;
        let durable = self.resume(identity.timeline).await?.durable().map(Lsn);
        let restart = self
            .slot_after_gap(&mut client, durable)
            .await?
            .unwrap_or(identity.flush_lsn);
        let place = self.begin(identity.timeline, restart).await?;
        if durable.is_some_and(|durable| durable >= place.from) {
            let (timeline, found) = (identity.timeline, place.resume);
            let end = End::of(timeline, &found, None);
            let client = self.prove(client, end, Some(&identity)).await?;
            let place = self.continue_on(timeline, found, durable.unwrap_or(restart));
            return Ok((client, place));
        }
        tracing::error!(
            timeline = %place.timeline, archived = ?durable, from = %place.from,
            "a gap in the log: the server no longer has the WAL behind the archive's end; what lies between is lost for recovery. \
             Take a new base backup now: pitr-tool backup"
        );
        self.status.send_modify(|status| status.gaps += 1);
        Ok((client, place))
    }

    async fn begin(&self, timeline: TimelineId, at: Lsn) -> Result<Place, CaptureError> {
        let found = self.resume(timeline).await?;
        let from = at.segment_start(self.source.wal_segment_bytes);
        tracing::info!(%timeline, %from, "a new stream begins");
        Ok(Place {
            timeline,
            stream: timeline.stream_name(),
            resume: found,
            from,
        })
    }

    fn continue_on(&self, timeline: TimelineId, found: Resume, durable: Lsn) -> Place {
        let holes = found.holes();
        if found.passes_strays() {
            self.status.send_modify(|status| status.gaps += 1);
        }
        let from = durable.segment_start(self.source.wal_segment_bytes);
        tracing::info!(%timeline, %durable, holes, "position read back from the archive");
        Place {
            timeline,
            stream: timeline.stream_name(),
            resume: found,
            from,
        }
    }

    async fn resume(&self, timeline: TimelineId) -> Result<Resume, CaptureError> {
        let (stream, accept) = (timeline.stream_name(), self.settings.accept_break);
        let found = resume(&self.writer, &stream, accept);
        Ok(audibly(&self.status, found).await?)
    }

    /// The switch lies before the end of what is archived: either half a record that nobody can replay, or a standby that lagged. How many
    /// bytes it is tells the two apart as a rule.
    fn tell_fork(&self, timeline: TimelineId, durable: Lsn, switch: Lsn) {
        if durable > switch {
            tracing::error!(
                %timeline, %durable, %switch, bytes = durable.bytes_since(switch),
                "the new timeline branched off before the archive's end: what the old one holds past the switch is not \
                 part of the new one (it can still be restored with --timeline)"
            );
        }
    }

    /// The history of `timeline`, and those of all its ancestors, archived. `None` for the first timeline.
    async fn history(
        &self,
        client: &mut ReplicationClient,
        timeline: TimelineId,
    ) -> Result<Option<TimelineHistory>, CaptureError> {
        if timeline == TimelineId(1) {
            return Ok(None);
        }
        let file = client.timeline_history(timeline).await?;
        let history = TimelineHistory::parse(timeline, &file.bytes)?;
        for Ancestor {
            timeline: ancestor, ..
        } in history
            .ancestors()
            .filter(|entry| entry.timeline > TimelineId(1))
        {
            // A server that was built from a backup may not have the files of old ancestors; what it has is kept.
            match client.timeline_history(ancestor).await {
                Ok(file) => self.keep_history(ancestor, &file.bytes).await.map(drop)?,
                Err(error) if error.is_permanent() => {
                    tracing::warn!(%ancestor, %error, "the server has no history file of an ancestor timeline");
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.keep_history(timeline, &file.bytes).await.map(Some)
    }

    /// Archives a history file once. Its header says in the clear what planning needs (parent and switch), and the BLAKE3 of the
    /// file, so that a daemon that cannot read still sees whether the archive's timeline is the server's.
    async fn keep_history(
        &self,
        timeline: TimelineId,
        bytes: &[u8],
    ) -> Result<TimelineHistory, CaptureError> {
        let history = TimelineHistory::parse(timeline, bytes)?;
        let stream = timeline.stream_name();
        let key = layout::history(&stream);
        let hash = *blake3::hash(bytes).as_bytes();
        let archive = self.writer.archive();
        let piece = Piece::Range(0..PREAMBLE_BYTES as u64);
        match audibly(&self.status, archive.store().get(&key, piece)).await {
            Ok(fetched) => {
                let expected = archive.expected(Kind::History, Some(&stream), Id::default(), 0);
                let preamble = expected
                    .preamble(&key, &fetched.bytes, archive.writer())
                    .map_err(ArchiveError::from)?;
                let same = preamble.header.previous == hash;
                return if same {
                    Ok(history)
                } else {
                    Err(CaptureError::OtherBranch { timeline })
                };
            }
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(ArchiveError::from(error).into()),
        }
        let mut header = self.writer.header(Kind::History, &stream, Id::default(), 0);
        let Ancestor {
            timeline: parent,
            switch,
        } = history.parent();
        (header.start, header.end) = (switch.0, switch.0);
        (header.run_seq, header.previous) = (u64::from(parent.0), hash);
        let level = self.settings.log.compression_level;
        let frames = bytes
            .chunks(FRAME_BYTES_MAX)
            .map(|piece| Frame::compress(piece, level))
            .collect();
        let sealing = self.writer.seal(header, frames, Vec::new());
        let sealed = audibly(&self.status, sealing).await?;
        audibly(&self.status, self.writer.put(&key, sealed.bytes)).await?;
        tracing::info!(%timeline, "timeline history archived");
        Ok(history)
    }
}
