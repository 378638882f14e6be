//! Where to go on: the position is read back from the store, and the source's oplog is compared with what was archived there.
//!
//! The daemon cannot open what it sealed. So the range of the last segment is read again from the source: the same bytes in number,
//! between the same wall times, ending in the same entry, are the same log. Within one life the last entry's term is compared as well.

use std::ops::Range;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::options::{
    CollectionOptions, CursorType, ReadConcern, ReadPreference, SelectionCriteria,
};
use mongodb::{Client, Collection, Database};
use pitr_archive::object::{Header, StreamName};
use pitr_archive::writer::{Resume, resume};

use super::{Capture, Last};
use crate::entry::Head;
use crate::source::Server;
use crate::{ClusterTime, EngineError, OPLOG_STREAM};

/// A member that lags is waited for so long before another attempt.
const COMPARE_MS: i64 = 10_000;

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

/// What the source has in the range of the last segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Stretch {
    bytes: u64,
    walls: Option<(i64, i64)>,
    last: Option<Last>,
}

impl Capture {
    /// `None`: we are asked to stop.
    pub(super) async fn place(
        &mut self,
        client: &Client,
        server: &Server,
    ) -> Result<Option<Place>, EngineError> {
        let stream = StreamName::new(OPLOG_STREAM).expect("letters are the name of a stream");
        let accept = self.settings.accept_break;
        let found = async { Ok(resume(&self.writer, &stream, accept).await?) };
        let Some(resume) = self.until_stop(found).await? else {
            return Ok(None);
        };
        let majority = server.majority.ts;
        let Some(durable) = resume.durable().map(ClusterTime) else {
            tracing::info!(from = %majority, "the archive is empty; capture begins with the majority's last entry");
            return Ok(Some(Place {
                resume,
                from: majority,
                last: None,
            }));
        };
        if majority < durable.previous() {
            return Err(EngineError::Behind { majority, durable });
        }
        let oplog = Oplog::of(client);
        let Some(compared) = self.until_stop(self.compare(&oplog, &resume)).await? else {
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

    async fn compare(&self, oplog: &Oplog, resume: &Resume) -> Result<Compared, EngineError> {
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
        let compared = judge(header, oldest, found);
        Ok(match (compared, self.last) {
            (Compared::Same(Some(last)), Some(ours))
                if last.ts == ours.ts && last.term != ours.term =>
            {
                Compared::Other(
                    "an entry of another term stands where the archive ends: there was a rollback",
                )
            }
            _ => compared,
        })
    }

    /// Begins a new run behind what is archived: the break stands in its first segment's header.
    fn broken(
        &mut self,
        resume: Resume,
        durable: ClusterTime,
        majority: ClusterTime,
        reason: &str,
    ) -> Place {
        let from = majority.max(durable.next());
        tracing::error!(
            %durable, %from, reason,
            "the oplog does not continue where the archive ends: a gap is recorded, and only a new base copy makes later moments restorable"
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

/// Compares the last segment with what the source has in its range.
fn judge(header: &Header, oldest: ClusterTime, found: Stretch) -> Compared {
    let other = Compared::Other(
        "something else stands where the archive ends: the set was rolled back, or restored from a copy",
    );
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

/// The source's oplog, read as a majority has it.
pub(super) struct Oplog {
    entries: Collection<RawDocumentBuf>,
    local: Database,
    /// Which member to ask.
    preference: SelectionCriteria,
}

impl Oplog {
    pub(super) fn of(client: &Client) -> Self {
        let options = CollectionOptions::builder()
            .read_concern(ReadConcern::majority())
            .build();
        let local = client.database("local");
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        Self {
            entries: local.collection_with_options("oplog.rs", options),
            local,
            preference: client.selection_criteria().cloned().unwrap_or(primary),
        }
    }

    pub(super) async fn oldest(&self) -> Result<ClusterTime, EngineError> {
        let first = self
            .entries
            .find_one(doc! {})
            .sort(doc! { "$natural": 1 })
            .await
            .map_err(refused)?;
        let first = first.ok_or(EngineError::Answer("entry in local.oplog.rs"))?;
        head(&first).map(|head| head.ts)
    }

    /// What lies in `positions`, from a member whose majority has come so far.
    async fn stretch(&self, positions: Range<u64>) -> Result<Stretch, EngineError> {
        let [start, end] =
            [positions.start, positions.end].map(|at| Timestamp::from(ClusterTime(at)));
        let reached = Timestamp::from(ClusterTime(positions.end).previous());
        let command = doc! {
            "find": "oplog.rs", "filter": { "ts": { "$gte": start, "$lt": end } }, "sort": { "$natural": 1 },
            "readConcern": { "level": "majority", "afterClusterTime": reached }, "maxTimeMS": COMPARE_MS,
        };
        let find = self
            .local
            .run_cursor_command(command)
            .selection_criteria(self.preference.clone());
        let mut batches = find.batch().await.map_err(refused)?;
        let mut found = Stretch::default();
        while let Some(batch) = batches.try_next().await? {
            for entry in batch.doc_slices()? {
                let entry = entry
                    .ok()
                    .and_then(|entry| entry.as_document())
                    .ok_or(EngineError::Answer("documents"))?;
                let head = head(entry)?;
                found.bytes += entry.as_bytes().len() as u64;
                let (low, high) = found.walls.unwrap_or((head.wall, head.wall));
                found.walls = Some((low.min(head.wall), high.max(head.wall)));
                found.last = Some(Last {
                    ts: head.ts,
                    term: head.term,
                });
            }
        }
        Ok(found)
    }

    /// Follows the oplog from the entry `from` on, or the first one after it.
    pub(super) async fn follow(
        &self,
        from: ClusterTime,
        batch_entries: u32,
        wait: std::time::Duration,
    ) -> Result<mongodb::raw_batch_cursor::RawBatchCursor, EngineError> {
        let find = self
            .entries
            .find(doc! { "ts": { "$gte": Timestamp::from(from) } });
        let find = find
            .cursor_type(CursorType::TailableAwait)
            .max_await_time(wait)
            .batch_size(batch_entries);
        find.no_cursor_timeout(true).batch().await.map_err(refused)
    }
}

fn head(entry: &RawDocument) -> Result<Head<'_>, EngineError> {
    Head::read(entry).map_err(|error| EngineError::Jumped(error.to_string()))
}

/// Names what is refused where an operator can do something about it.
fn refused(error: mongodb::error::Error) -> EngineError {
    match error.into() {
        EngineError::Refused {
            what: "a command",
            message,
        } => EngineError::Refused {
            what: "reading local.oplog.rs",
            message,
        },
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use pitr_archive::object::{Id, Kind};

    use super::*;

    const SECONDS: (u32, u32) = (10, 12);

    fn found(bytes: u64, walls: (i64, i64), last: (u32, u32)) -> Stretch {
        let last = Last {
            ts: ClusterTime::new(last.0, last.1),
            term: 1,
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
            stream: StreamName::new(OPLOG_STREAM).unwrap(),
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
