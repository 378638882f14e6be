//! Where to go on: the position is read back from the store, and the source's oplog is compared with what was archived there.
//!
//! The daemon cannot open what it sealed. So the range of the last segment is read again from the oplog: the same bytes in number,
//! between the same wall times, ending in the same entry, are the same log. Of a change stream only the last event is read again, for
//! pre-images expire. Within one life the last entry's term, or the last event's token, is compared as well.

use mongodb::Client;
use pitr_archive::object::Header;
use pitr_archive::reader::LogReader;
use pitr_archive::writer::{Resume, resume};

use super::events::{Asking, ChangeStream};
use super::oplog::Oplog;
use super::{Capture, Last};
use crate::source::Server;
use crate::{ClusterTime, EngineError, LogKind};

/// Where a session begins.
pub(super) struct Place {
    pub(super) resume: Resume,
    /// Where positions begin.
    pub(super) from: ClusterTime,
    /// The entry before it, which the source has; `None`: `from` is the first entry's.
    pub(super) last: Option<Last>,
}

/// What the source has where the archive ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Compared {
    /// The archived log; its last entry.
    Same(Option<Last>),
    /// It no longer has the last archived entry, or something else stands in its place.
    Other(&'static str),
}

/// What the source has in a range.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Stretch {
    bytes: u64,
    walls: Option<(i64, i64)>,
    last: Option<Last>,
}

impl Stretch {
    /// Counts an entry in.
    pub(super) fn add(&mut self, bytes: usize, wall: i64, last: Last) {
        self.bytes += bytes as u64;
        let (low, high) = self.walls.unwrap_or((wall, wall));
        self.walls = Some((low.min(wall), high.max(wall)));
        self.last = Some(last);
    }
}

impl Capture {
    /// `None`: we are asked to stop.
    pub(super) async fn place(
        &mut self,
        client: &Client,
        server: &Server,
    ) -> Result<Option<Place>, EngineError> {
        let stream = self.settings.kind.stream();
        let accept = self.settings.accept_break;
        let found = async { Ok(resume(&self.writer, &stream, accept).await?) };
        let Some(resume) = self.until_stop(found).await? else {
            return Ok(None);
        };
        if resume.passes_strays() {
            self.status.send_modify(|status| status.gaps += 1);
        }
        let majority = server.majority.ts;
        let Some(durable) = resume.durable().map(ClusterTime) else {
            self.settings.kind.check(self.writer.archive()).await?;
            let from = self.beginning(majority);
            tracing::info!(%from, "the archive is empty; capture begins with the majority's last entry");
            return Ok(Some(Place {
                resume,
                from,
                last: None,
            }));
        };
        if majority < durable.previous() {
            return Err(EngineError::Behind { majority, durable });
        }
        let Some(compared) = self
            .until_stop(self.compare(client, server, &resume))
            .await?
        else {
            return Ok(None);
        };
        let last = match compared {
            Compared::Same(last) => last,
            Compared::Other(reason) => {
                return Ok(Some(self.broken(resume, durable, majority, reason)));
            }
        };
        Ok(Some(Place {
            resume,
            from: durable,
            last,
        }))
    }

    async fn compare(
        &self,
        client: &Client,
        server: &Server,
        resume: &Resume,
    ) -> Result<Compared, EngineError> {
        let compared = match self.settings.kind {
            LogKind::Oplog => compare_oplog(&Oplog::of(client), resume).await?,
            LogKind::Events => match self.impassable {
                Some(reason) => Compared::Other(reason),
                None => {
                    let single = self.asking == Asking::Single;
                    let asking = if single { self.asking } else { Asking::Plain };
                    let stream = ChangeStream::new(client, server, asking)?;
                    self.compare_events(&stream, resume).await?
                }
            },
        };
        Ok(match (compared, self.last) {
            (Compared::Same(Some(last)), Some(ours))
                if last.ts == ours.ts && last.sign != ours.sign =>
            {
                Compared::Other(
                    "an entry of another term, or another event, stands where the archive ends: there was a rollback",
                )
            }
            _ => compared,
        })
    }

    /// The last event is still there, or the source at least goes back to the durable end.
    async fn compare_events(
        &self,
        stream: &ChangeStream<'_>,
        resume: &Resume,
    ) -> Result<Compared, EngineError> {
        let durable = ClusterTime(resume.durable().unwrap_or_default());
        if let Some(header) = self.last_with_events(resume).await? {
            let first = if header.refill {
                header.start
            } else {
                ClusterTime(header.end).previous().0
            };
            match stream.stretch(first..header.end).await {
                Ok(found) => return Ok(judge_events(&header, found)),
                // A waypoint may stand far behind the last event.
                Err(EngineError::HistoryLost) if header.end < durable.0 => {}
                Err(EngineError::HistoryLost) => return Ok(Compared::Other(ROLLED_OVER)),
                Err(error) => return Err(error),
            }
        }
        match stream.look(durable).await {
            Ok(_) => Ok(Compared::Same(None)),
            Err(EngineError::HistoryLost) => Ok(Compared::Other(ROLLED_OVER)),
            Err(error) => Err(error),
        }
    }

    /// The last segment, or if it holds only waypoints the one in which the run's latest wall time stands.
    async fn last_with_events(&self, resume: &Resume) -> Result<Option<Header>, EngineError> {
        let Some(last) = resume.last() else {
            return Ok(None);
        };
        if last.time_high.is_none() || last.time_max.is_some() {
            return Ok(Some(last.clone()).filter(|last| last.time_max.is_some()));
        }
        let stream = self.settings.kind.stream();
        let reader = LogReader::new(std::sync::Arc::clone(self.writer.archive()), stream);
        let seqs = last.run_seq..last.seq + 1;
        let reached = |header: &Header| header.time_high >= last.time_high;
        let seq = reader.partition(seqs, reached).await?;
        Ok(Some(reader.header_of(seq).await?))
    }

    /// Where a run begins: with the majority's last entry, or behind it if it may be what nothing passes.
    fn beginning(&mut self, majority: ClusterTime) -> ClusterTime {
        match self.impassable.take() {
            Some(_) => majority.next(),
            None => majority,
        }
    }

    /// Begins a new run behind what is archived: the break stands in its first segment's header.
    fn broken(
        &mut self,
        resume: Resume,
        durable: ClusterTime,
        majority: ClusterTime,
        reason: &str,
    ) -> Place {
        let from = self.beginning(majority).max(durable.next());
        tracing::error!(
            %durable, %from, reason,
            "the source's log does not continue where the archive ends: a gap is recorded, and only a new base copy makes later moments restorable"
        );
        self.last = None;
        self.status.send_modify(|status| status.gaps += 1);
        Place {
            resume,
            from,
            last: None,
        }
    }
}

const ROLLED_OVER: &str =
    "the oplog has rolled over: its oldest entry comes after the last archived one";
const OTHER: &str = "something else stands where the archive ends: the set was rolled back, or restored from a copy";

async fn compare_oplog(oplog: &Oplog, resume: &Resume) -> Result<Compared, EngineError> {
    let oldest = oplog.oldest().await?;
    let Some(header) = resume.last() else {
        // Only the beginning of a run is known, and nothing of it landed: what follows it has to be there.
        let start = ClusterTime(resume.durable().unwrap_or_default());
        return Ok(if oldest <= start {
            Compared::Same(None)
        } else {
            Compared::Other(ROLLED_OVER)
        });
    };
    if oldest.0 >= header.end {
        return Ok(Compared::Other(ROLLED_OVER));
    }
    let found = oplog.stretch(header.start..header.end).await?;
    Ok(judge(header, oldest, found))
}

/// Compares a segment with what the stream has at its end.
fn judge_events(header: &Header, found: Stretch) -> Compared {
    let inside = |(low, high): (i64, i64)| {
        header.time_min.is_some_and(|min| min <= low)
            && header.time_max.is_some_and(|max| high <= max)
    };
    match found.last {
        Some(last) if found.walls.is_some_and(inside) => Compared::Same(Some(last)),
        _ => Compared::Other(OTHER),
    }
}

/// Compares the last segment with what the oplog has in its range.
fn judge(header: &Header, oldest: ClusterTime, found: Stretch) -> Compared {
    let other = Compared::Other(OTHER);
    if header.plaintext_bytes == 0 {
        return if found == Stretch::default() {
            Compared::Same(None)
        } else {
            other
        };
    }
    let whole = oldest.0 <= header.start;
    let walls = header.time_min.zip(header.time_max);
    let same = if whole {
        found.bytes == header.plaintext_bytes && found.walls == walls
    } else {
        // Its beginning has rolled over already; the rest has to fit into it.
        let inside =
            |(low, high): (i64, i64)| walls.is_some_and(|(min, max)| min <= low && high <= max);
        found.bytes < header.plaintext_bytes && found.walls.is_some_and(inside)
    };
    // A segment ends with an entry, unless it filled a hole.
    let ends = header.refill
        || found
            .last
            .is_some_and(|last| last.ts.next().0 == header.end);
    if same && ends {
        Compared::Same(found.last)
    } else {
        other
    }
}

#[cfg(test)]
mod tests {
    use pitr_archive::object::{Id, Kind, Proofs, StreamName};

    use super::*;

    const SECONDS: (u32, u32) = (10, 12);

    fn found(bytes: u64, walls: (i64, i64), last: (u32, u32)) -> Stretch {
        let last = Last {
            ts: ClusterTime::new(last.0, last.1),
            sign: 1,
        };
        Stretch {
            bytes,
            walls: Some(walls),
            last: Some(last),
        }
    }

    fn header(bytes: u64) -> Header {
        Header {
            kind: Kind::Segment,
            refill: false,
            archive_id: Id::default(),
            key_id: Id::default(),
            writer_id: Id::default(),
            stream: StreamName::new("oplog").unwrap(),
            set_id: Id::default(),
            seq: 3,
            start: ClusterTime::new(SECONDS.0, 1).0,
            end: ClusterTime::new(SECONDS.1, 6).0,
            time_min: Some(100),
            time_max: Some(200),
            time_high: Some(200),
            run_seq: 0,
            run_start: 0,
            unsure_seq: None,
            damage: None,
            proofs: Proofs::default(),
            plaintext_bytes: bytes,
            payload_bytes: 0,
            previous: [0; 32],
        }
    }

    #[test]
    fn the_same_bytes_between_the_same_times_with_the_same_end_are_the_same_log() {
        let (header, old) = (header(500), ClusterTime::new(1, 0));
        let same = found(500, (100, 200), (12, 5));
        assert_eq!(judge(&header, old, same), Compared::Same(same.last));
        for other in [
            found(499, (100, 200), (12, 5)),
            found(500, (101, 200), (12, 5)),
            found(500, (100, 201), (12, 5)),
            found(500, (100, 200), (12, 4)),
            Stretch::default(),
        ] {
            assert!(
                matches!(judge(&header, old, other), Compared::Other(_)),
                "{other:?}"
            );
        }
    }

    #[test]
    fn what_is_left_of_a_segment_that_rolled_over_in_part_has_to_fit_into_it() {
        let (header, inside) = (header(500), ClusterTime::new(11, 0));
        let rest = found(300, (150, 200), (12, 5));
        assert_eq!(judge(&header, inside, rest), Compared::Same(rest.last));
        for other in [
            found(300, (150, 201), (12, 5)),
            found(500, (150, 200), (12, 5)),
            found(300, (150, 200), (12, 4)),
        ] {
            assert!(
                matches!(judge(&header, inside, other), Compared::Other(_)),
                "{other:?}"
            );
        }
    }

    #[test]
    fn the_last_event_is_known_by_its_time_and_its_wall_time() {
        let header = header(500);
        let same = found(80, (150, 150), (12, 5));
        assert_eq!(judge_events(&header, same), Compared::Same(same.last));
        for other in [found(80, (201, 201), (12, 5)), Stretch::default()] {
            assert_eq!(judge_events(&header, other), Compared::Other(OTHER));
        }
    }

    #[test]
    fn a_filled_hole_may_end_between_entries_or_hold_none() {
        let old = ClusterTime::new(1, 0);
        let mut filled = header(500);
        filled.refill = true;
        let same = found(500, (100, 200), (12, 1));
        assert_eq!(judge(&filled, old, same), Compared::Same(same.last));
        let empty = header(0);
        assert_eq!(judge(&empty, old, Stretch::default()), Compared::Same(None));
        assert!(matches!(judge(&empty, old, same), Compared::Other(_)));
    }
}
