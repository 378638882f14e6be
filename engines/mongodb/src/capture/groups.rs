//! Events on their way to records. All events of one cluster time, those of a transaction, are one record: no segment ends among them,
//! so a position never stands inside of a transaction, and a restart neither loses nor doubles one.
//!
//! A group is complete when the server says that it has nothing more up to its time: an event of a later time, an empty batch, or a
//! resume token beyond it.

use bson::raw::{RawDocument, RawDocumentBuf};
use tokio::time::{Duration, Instant};

use super::Last;
use super::fragments::Fragments;
use super::pieces::{Pieces, Ready};
use crate::entry::Head;
use crate::event::{token_time, waypoint};
use crate::{ClusterTime, EngineError};

/// An idle stream is noted in the archive so often, so that the position does not fall behind a source's oplog that rolls on.
const WAYPOINT_EVERY: Duration = Duration::from_secs(600);

/// When it is noted how far the stream was read, though nothing happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Notes {
    /// Every ten minutes.
    Idle,
    /// As soon as it was read past this time: numbers that a crash left missing end here, and only something behind it closes them.
    Past(ClusterTime),
    /// As soon as possible: a run begins, and where it does is durable only with its first segment. Until then a restart would begin
    /// it anew, at a later time.
    Begin,
}

/// The group in the making.
struct Open {
    last: Last,
    wall: i64,
}

/// Collects events.
pub(super) struct Groups {
    pieces: Pieces,
    open: Option<Open>,
    fragments: Fragments,
    received: ClusterTime,
    /// Where a stream resumes behind all that was received, with the time in it.
    token: Option<(RawDocumentBuf, ClusterTime)>,
    /// When something was handed over last.
    flushed: Instant,
    notes: Notes,
}

impl Groups {
    /// Positions begin at `start`; no record is longer than `record_bytes_max`.
    pub(super) fn new(
        start: ClusterTime,
        last: Option<Last>,
        record_bytes_max: usize,
        notes: Notes,
        now: Instant,
    ) -> Self {
        Self {
            pieces: Pieces::new(start, last, record_bytes_max),
            open: None,
            fragments: Fragments::default(),
            received: start.previous(),
            token: None,
            flushed: now,
            notes,
        }
    }

    /// Takes the next event. True: there is a piece to hand over.
    pub(super) fn take(&mut self, event: &RawDocument) -> Result<bool, EngineError> {
        match self.fragments.take(event)? {
            None => Ok(false),
            Some(event) => self.whole(&event),
        }
    }

    fn whole(&mut self, event: &RawDocument) -> Result<bool, EngineError> {
        let jumped = |reason: String| EngineError::Jumped(reason);
        let head = Head::read_event(event).map_err(|error| jumped(error.to_string()))?;
        let head = head.ok_or_else(|| jumped("the server sent what it cannot know".into()))?;
        if self
            .open
            .as_ref()
            .is_some_and(|open| head.ts > open.last.ts)
        {
            self.close();
        }
        let earliest = match &self.open {
            Some(open) => open.last.ts,
            None => self.pieces.collected(),
        };
        if head.ts < earliest {
            return Err(jumped(format!(
                "an event of {} follows {earliest}",
                head.ts
            )));
        }
        self.pieces.add(event.as_bytes())?;
        self.received = self.received.max(head.ts.previous());
        self.open = Some(Open {
            last: Last::of_event(event, &head),
            wall: head.wall,
        });
        self.token = None;
        Ok(self.pieces.is_full())
    }

    fn close(&mut self) {
        if let Some(Open { last, wall }) = self.open.take() {
            self.pieces.end(last.ts, Some((last, wall)));
            self.received = self.received.max(last.ts);
        }
    }

    /// What the server says behind a batch of how far it has read.
    pub(super) fn batch_ended(&mut self, reply: &RawDocument, is_empty: bool) {
        let token = reply
            .get_document("cursor")
            .and_then(|cursor| cursor.get_document("postBatchResumeToken"))
            .ok();
        let time = token.and_then(token_time);
        let open = self.open.as_ref().map(|open| open.last.ts);
        if open.is_some_and(|open| is_empty || time > Some(open)) {
            self.close();
        }
        let (Some(token), Some(time), true) = (token, time, is_empty) else {
            return;
        };
        self.received = self.received.max(time);
        self.token = Some((token.to_owned(), time));
    }

    /// Notes how far an idle stream was read, if it is time for that.
    pub(super) fn is_idle(&mut self, now: Instant) -> Result<(), EngineError> {
        let is_time = self.is_expected() || now.duration_since(self.flushed) >= WAYPOINT_EVERY;
        if !is_time || !self.is_quiet() {
            return Ok(());
        }
        let Some((token, time)) = self.token.take() else {
            return Ok(());
        };
        let past_holes = match self.notes {
            Notes::Past(end) => time > end,
            Notes::Idle | Notes::Begin => true,
        };
        if time > self.pieces.collected() && past_holes {
            // What stands at the token's own time is asked for again by whoever goes on from here.
            let ts = time.previous();
            self.pieces.add(waypoint(&token, ts).as_bytes())?;
            self.pieces.end(ts, None);
        }
        Ok(())
    }

    /// Whether something waits for a note.
    pub(super) fn is_expected(&self) -> bool {
        self.notes != Notes::Idle
    }

    pub(super) fn flush(&mut self) -> Option<Ready> {
        let ready = self.pieces.flush()?;
        self.flushed = Instant::now();
        self.notes = match self.notes {
            Notes::Past(end) if ready.end <= end => self.notes,
            _ => Notes::Idle,
        };
        Some(ready)
    }

    pub(super) fn received(&self) -> ClusterTime {
        self.received
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.open.is_none() && self.pieces.count() == 0 && self.fragments.is_empty()
    }

    pub(super) fn position(&self) -> ClusterTime {
        self.pieces.position()
    }
}

#[cfg(test)]
mod tests {
    use bson::{doc, rawdoc};

    use super::*;
    use crate::event::tests::event;
    use crate::{LogKind, split_documents};

    /// A few events.
    const BYTES_MAX: usize = 2000;

    fn groups() -> Groups {
        noting(Notes::Idle)
    }

    fn noting(notes: Notes) -> Groups {
        Groups::new(
            ClusterTime::new(5, 1),
            None,
            BYTES_MAX,
            notes,
            Instant::now(),
        )
    }

    fn insert(seconds: u32, increment: u32, id: i32) -> RawDocumentBuf {
        event(
            seconds,
            increment,
            "insert",
            doc! { "fullDocument": { "_id": id } },
        )
    }

    fn reply(seconds: u32, increment: u32) -> RawDocumentBuf {
        let token = rawdoc! { "_data": format!("82{seconds:08X}{increment:08X}2B02") };
        rawdoc! { "cursor": { "postBatchResumeToken": token } }
    }

    fn positions(ready: &Ready) -> Vec<ClusterTime> {
        ready
            .ends
            .iter()
            .map(|end| ClusterTime(end.position))
            .collect()
    }

    #[test]
    fn events_of_one_cluster_time_are_one_record_which_waits_for_its_end() {
        let mut groups = groups();
        let events = [insert(5, 1, 1), insert(5, 4, 2), insert(5, 4, 3)];
        for event in &events {
            groups.take(event).unwrap();
        }
        groups.batch_ended(&reply(5, 4), false);
        let first = groups.flush().unwrap();
        assert_eq!(positions(&first), [ClusterTime::new(5, 2)]);
        assert_eq!(first.bytes, events[0].as_bytes());
        assert!(groups.flush().is_none() && !groups.is_quiet());
        // The rest of the transaction comes with the next batch.
        let rest = insert(5, 4, 4);
        groups.take(&rest).unwrap();
        groups.batch_ended(&reply(5, 9), false);
        let second = groups.flush().unwrap();
        assert_eq!(positions(&second), [ClusterTime::new(5, 5)]);
        let bytes = [events[1].as_bytes(), events[2].as_bytes(), rest.as_bytes()].concat();
        assert_eq!(second.bytes, bytes);
        assert_eq!(
            (second.start, groups.position()),
            (ClusterTime::new(5, 2), ClusterTime::new(5, 5))
        );
        assert!(groups.is_quiet());
    }

    #[test]
    fn an_empty_batch_ends_a_group() {
        let mut groups = groups();
        groups.take(&insert(5, 1, 1)).unwrap();
        groups.batch_ended(&reply(5, 1), false);
        assert!(groups.flush().is_none());
        assert_eq!(groups.received(), ClusterTime::new(5, 0));
        groups.batch_ended(&reply(5, 1), true);
        assert!(groups.flush().is_some());
        assert_eq!(groups.received(), ClusterTime::new(5, 1));
    }

    #[test]
    fn a_transaction_of_more_than_is_held_is_refused_and_what_came_before_it_is_not_lost() {
        let mut groups = groups();
        groups.take(&insert(5, 1, 1)).unwrap();
        let one = insert(5, 4, 2);
        let fit = BYTES_MAX / one.as_bytes().len();
        for _ in 0..fit {
            groups.take(&one).unwrap();
        }
        let error = groups.take(&one).unwrap_err();
        assert!(matches!(error, EngineError::TooLarge(BYTES_MAX)), "{error}");
        assert_eq!(
            positions(&groups.flush().unwrap()),
            [ClusterTime::new(5, 2)]
        );
        assert!(groups.flush().is_none());
    }

    #[test]
    fn an_event_of_a_time_that_is_past_is_refused() {
        let mut groups = groups();
        groups.take(&insert(5, 4, 1)).unwrap();
        groups.batch_ended(&reply(5, 9), false);
        for increment in [3, 4] {
            let error = groups.take(&insert(5, increment, 1)).unwrap_err();
            assert!(matches!(error, EngineError::Jumped(_)), "{error}");
        }
        groups.take(&insert(5, 5, 1)).unwrap();
        assert!(groups.take(&insert(5, 4, 1)).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_stream_is_noted_every_ten_minutes_and_the_note_is_no_event() {
        let mut groups = groups();
        groups.take(&insert(5, 1, 1)).unwrap();
        groups.batch_ended(&reply(5, 1), true);
        groups.flush().unwrap();
        groups.batch_ended(&reply(90, 1), true);
        groups.is_idle(Instant::now() + WAYPOINT_EVERY / 2).unwrap();
        assert!(groups.flush().is_none());
        groups.is_idle(Instant::now() + WAYPOINT_EVERY).unwrap();
        let ready = groups.flush().unwrap();
        assert_eq!(positions(&ready), [ClusterTime::new(90, 1)]);
        assert_eq!(split_documents(&ready.bytes).count(), 1);
        assert_eq!(LogKind::Events.entries(&ready.bytes).count(), 0);
        assert_eq!(ready.last.map(|last| last.ts), Some(ClusterTime::new(5, 1)));
        // An event at the very time of the note is behind it.
        groups.take(&insert(90, 1, 2)).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn holes_that_a_crash_left_are_closed_without_waiting_for_an_event() {
        let mut groups = noting(Notes::Past(ClusterTime::new(7, 1)));
        groups.batch_ended(&reply(7, 1), true);
        groups.is_idle(Instant::now()).unwrap();
        assert!(groups.flush().is_none() && groups.is_expected());
        groups.batch_ended(&reply(7, 2), true);
        groups.is_idle(Instant::now()).unwrap();
        assert_eq!(
            positions(&groups.flush().unwrap()),
            [ClusterTime::new(7, 2)]
        );
        assert!(!groups.is_expected());
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_run_begins_is_noted_without_waiting_for_an_event() {
        let mut groups = noting(Notes::Begin);
        // Nothing lies between the beginning and itself.
        groups.batch_ended(&reply(5, 1), true);
        groups.is_idle(Instant::now()).unwrap();
        assert!(groups.flush().is_none() && groups.is_expected());
        groups.batch_ended(&reply(5, 2), true);
        groups.is_idle(Instant::now()).unwrap();
        let ready = groups.flush().unwrap();
        assert_eq!(positions(&ready), [ClusterTime::new(5, 2)]);
        assert!(!groups.is_expected());
    }
}
