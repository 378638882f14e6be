//! Going on is proved: before anything is told, made or appended, the server is asked for the last pages of the log that the archive ends
//! with. They have to be those that were archived; the archive's headers carry what shows it (docs/format.md 8.6).
//!
//! An LSN proves nothing: a server that was set back on its timeline soon writes past the archive's end, under the same numbers.

use std::time::Duration;

use pitr_archive::object::{Proofs, StreamName};
use pitr_archive::writer::{Resume, audibly};

use super::tail::{Tail, segment_before};
use super::{Capture, CaptureError};
use crate::replication::{
    ReplicationClient, ReplicationError, Start, SystemIdentity, WalMessage, WalStream,
};
use crate::wal::PAGE_BYTES;
use crate::{Lsn, TimelineId};

/// How long a server may take to send what it has.
const SEND_MAX: Duration = Duration::from_secs(60);

/// The end of a log that is to be known again.
#[derive(Clone, Copy, Debug)]
pub(super) struct End {
    pub(super) timeline: TimelineId,
    pub(super) end: Lsn,
    /// The timeline has what lies in its WAL segment; what lies before may be another one's.
    pub(super) first: Lsn,
    pub(super) proofs: Proofs,
}

impl End {
    /// Of the newest segment, or, if that lies behind where the server left the timeline, of the last one before a hole.
    pub(super) fn of(timeline: TimelineId, found: &Resume, switch: Option<Lsn>) -> Option<Self> {
        let newest = found
            .newest()
            .filter(|newest| switch.is_none_or(|at| newest.end < at.0));
        let header = newest.or_else(|| found.last())?;
        Some(Self {
            timeline,
            end: Lsn(header.end),
            first: Lsn(header.run_start),
            proofs: header.proofs,
        })
    }

    /// Where reading may begin, from the shortest way on: the last two pages; the WAL segment, if a switch filled it up with zeros; and
    /// the one before.
    fn starts(&self, segment_bytes: u64) -> Vec<Lsn> {
        let segment = segment_before(self.end, segment_bytes);
        let page = segment_before(self.end, PAGE_BYTES);
        let back = |from: Lsn, bytes: u64| Lsn(from.0.saturating_sub(bytes));
        let mut starts = vec![
            back(page, PAGE_BYTES).max(segment),
            segment,
            back(segment, PAGE_BYTES),
            back(segment, segment_bytes),
        ];
        let first = self.first.segment_start(segment_bytes);
        starts
            .iter_mut()
            .for_each(|start| *start = first.max(*start));
        starts.dedup();
        starts
    }

    /// Whether it is the log that `tail` was read from; `None` if more of it is needed to tell.
    fn is(&self, tail: &Tail) -> Option<bool> {
        let found = tail.proofs();
        if self.proofs.last.is_some() && found.last.is_some() {
            return Some(self.proofs.last == found.last);
        }
        if tail.has_segment() && self.proofs.near != found.near {
            return Some(false);
        }
        (tail.has_segment() && self.proofs.last.is_none()).then_some(true)
    }
}

impl Capture {
    /// Nothing of `stream` is read yet, and it will be from `start` on.
    pub(super) fn tail(&self, stream: &StreamName, start: Lsn) -> Tail {
        let prover = self.writer.prover(stream);
        Tail::new(prover, self.source.wal_segment_bytes, start)
    }

    /// Makes sure that the server has the log which ends at `end`. `identity` if that is on the timeline that the server is on.
    ///
    /// # Errors
    /// [`CaptureError::OtherLog`] if it has another one, [`CaptureError::Behind`] if it is a standby that has not come so far.
    pub(super) async fn prove(
        &self,
        client: ReplicationClient,
        end: Option<End>,
        identity: Option<&SystemIdentity>,
    ) -> Result<ReplicationClient, CaptureError> {
        match end {
            Some(end) => self.know_again(client, &end, identity).await,
            None => Ok(client),
        }
    }

    pub(super) async fn know_again(
        &self,
        mut client: ReplicationClient,
        end: &End,
        identity: Option<&SystemIdentity>,
    ) -> Result<ReplicationClient, CaptureError> {
        let (timeline, archived) = (end.timeline, end.end);
        let server = identity
            .filter(|identity| identity.timeline == timeline)
            .map(|identity| identity.flush_lsn);
        if let Some(server) = server.filter(|&server| server < archived) {
            return Err(CaptureError::Behind { server, archived });
        }
        if end.proofs.is_none() {
            tracing::info!(%timeline, %archived, "an earlier release archived the end of the log: whether the server still has it is not proved");
            return Ok(client);
        }
        let stream = timeline.stream_name();
        for start in end.starts(self.source.wal_segment_bytes) {
            let mut tail = self.tail(&stream, start);
            let reading = read(client, timeline, &mut tail, archived);
            let (same, whole) = audibly(&self.status, reading).await?;
            client = same;
            if !whole {
                break;
            }
            match end.is(&tail) {
                Some(true) => {
                    tracing::info!(%timeline, %archived, "the server has the log that the archive ends with");
                    return Ok(client);
                }
                Some(false) => return Err(CaptureError::OtherLog { timeline, archived }),
                None => {}
            }
        }
        tracing::info!(%timeline, %archived, "the server no longer has all that would prove that its log is the archive's");
        Ok(client)
    }
}

/// Reads into `tail` what the server has up to `end`. The connection, and false if the server does not have it all.
async fn read(
    client: ReplicationClient,
    timeline: TimelineId,
    tail: &mut Tail,
    end: Lsn,
) -> Result<(ReplicationClient, bool), CaptureError> {
    let mut stream = match client.start_physical(None, tail.end(), timeline).await? {
        Start::Streaming(stream) => stream,
        Start::TimelineEnded { client, .. } => return Ok((client, false)),
    };
    let read = fill(&mut stream, tail, end);
    match tokio::time::timeout(SEND_MAX, read).await {
        Ok(Ok(whole)) => {
            let (client, _) = stream.finish().await?;
            Ok((client, whole))
        }
        Ok(Err(error)) if error.is_gap() => match stream.refused().await {
            Some(client) => Ok((client, false)),
            None => Err(error.into()),
        },
        Ok(Err(error)) => Err(error.into()),
        Err(_) => Err(ReplicationError::TimedOut {
            what: "send the end of the archived log",
            after: SEND_MAX,
        }
        .into()),
    }
}

async fn fill(stream: &mut WalStream, tail: &mut Tail, end: Lsn) -> Result<bool, ReplicationError> {
    while tail.end() < end {
        match stream.next().await? {
            WalMessage::Wal { start, data, .. } if start == tail.end() => {
                let wanted = end.bytes_since(start).min(data.len() as u64);
                tail.observe(&data[..wanted as usize]);
            }
            WalMessage::Wal { start, .. } => {
                let message = format!("WAL from {start} where {} was due", tail.end());
                return Err(ReplicationError::Protocol(message));
            }
            WalMessage::Keepalive { .. } => {}
            WalMessage::Ended => return Ok(false),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use pitr_archive::keys::WriterKey;
    use pitr_archive::object::Prover;
    use proptest::prelude::*;

    use super::*;

    const PAGE: usize = PAGE_BYTES as usize;
    const SEGMENT: usize = 8 * PAGE;

    /// What a server wrote: so many bytes, and whether it then switched to the next WAL segment.
    type Writes = Vec<(usize, bool)>;

    fn prover() -> Prover {
        let stream = StreamName::new("00000001").unwrap();
        Prover::new(&WriterKey::generate(), stream)
    }

    /// Writes as a server does: every page begins with what is not zero, but for those behind a switch.
    fn write(log: &mut Vec<u8>, writes: &Writes, fill: u8) {
        for &(bytes, switch) in writes {
            for _ in 0..bytes {
                log.push(if log.len().is_multiple_of(PAGE) {
                    1
                } else {
                    fill
                });
            }
            if switch {
                log.resize(log.len().next_multiple_of(SEGMENT), 0);
            }
        }
    }

    fn read(prover: &Prover, log: &[u8], start: usize) -> Tail {
        let mut tail = Tail::new(prover.clone(), SEGMENT as u64, Lsn(start as u64));
        tail.observe(&log[start..]);
        tail
    }

    /// What a header says of a log that its writer read from `start` on, and the run began with.
    fn end(prover: &Prover, log: &[u8], start: usize) -> End {
        End {
            timeline: TimelineId(1),
            end: Lsn(log.len() as u64),
            first: Lsn(0),
            proofs: read(prover, log, start).proofs(),
        }
    }

    /// As `know_again` asks a server that has `log`, but for the WAL segments before `kept`.
    fn is(end: &End, prover: &Prover, log: &[u8], kept: usize) -> Option<bool> {
        let starts = end
            .starts(SEGMENT as u64)
            .into_iter()
            .map(|start| start.0 as usize);
        starts
            .take_while(|&start| start >= kept)
            .find_map(|start| end.is(&read(prover, &log[..end.end.0 as usize], start)))
    }

    fn segment_of(position: usize) -> usize {
        position / SEGMENT * SEGMENT
    }

    proptest! {
        #[test]
        fn a_log_is_known_again_and_another_one_never_is(
            common in proptest::collection::vec((1..3 * PAGE, any::<bool>()), 1..5),
            ours in proptest::collection::vec((1..3 * PAGE, any::<bool>()), 1..5),
            others in proptest::collection::vec((1..3 * PAGE, any::<bool>()), 1..5),
            same_shape in any::<bool>(),
            cut in 0..1000_usize,
            kept in 0..1000_usize,
        ) {
            let prover = prover();
            let mut log = Vec::new();
            write(&mut log, &common, 2);
            let (back, mut other) = (log.len(), log.clone());
            write(&mut log, &ours, 3);
            write(&mut other, if same_shape { &ours } else { &others }, 4);
            let log = &log[..back + 1 + (log.len() - back - 1) * cut / 999];
            let began = segment_of(log.len() - 1);
            for start in [0, began.saturating_sub(SEGMENT), began] {
                let end = end(&prover, log, start);
                prop_assert!(!end.proofs.is_none());
                // The server of before has whatever the slot keeps, from the archive's end on at least.
                let kept = segment_of(log.len() * kept / 999);
                prop_assert_ne!(is(&end, &prover, log, kept), Some(false));
                prop_assert_eq!(is(&end, &prover, log, 0), Some(true));
                // One that was set back has what its slot kept then, and wrote past the archive's end.
                let mut other = other.clone();
                write(&mut other, &vec![(log.len(), false)], 4);
                let kept = segment_of(kept.min(back));
                let known = is(&end, &prover, &other, kept);
                if other[..log.len()] == *log {
                    prop_assert_ne!(known, Some(false));
                } else if start <= segment_of(back) {
                    prop_assert_eq!(known, Some(false), "from {} of {}, set back to {}", start, log.len(), back);
                } else {
                    prop_assert_ne!(known, None);
                }
            }
        }
    }

    #[test]
    fn what_an_earlier_release_wrote_proves_nothing() {
        let prover = prover();
        let mut log = Vec::new();
        write(&mut log, &vec![(3 * PAGE, false)], 2);
        assert!(!end(&prover, &log, 0).proofs.is_none());
        let unproved = End {
            proofs: Proofs::default(),
            ..end(&prover, &log, 0)
        };
        assert_eq!(unproved.is(&read(&prover, &log, PAGE)), None);
    }
}
