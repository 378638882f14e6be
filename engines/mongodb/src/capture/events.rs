//! The source's change stream over the whole deployment: following it, and what it shows at the end of the archive.
//!
//! Everything that a stream can show is asked for: catalogue changes, updates as the oplog has them (without those a copy taken while
//! documents change cannot be brought up to a moment), system collections such as buckets of time series, and what servers
//! hide as migrated, such as the rows of a collection that becomes capped.

use std::ops::Range;
use std::time::Duration;

use bson::raw::RawDocumentBuf;
use bson::{Document, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use mongodb::error::ErrorKind;
use mongodb::options::{CursorType, ReadPreference, SelectionCriteria};
use mongodb::raw_batch_cursor::RawBatchCursor;
use tokio::time::{Instant, timeout};

use super::Last;
use super::place::Stretch;
use crate::entry::Head;
use crate::event::token_time;
use crate::source::Server;
use crate::{ClusterTime, EngineError};

/// A member that lags is waited for so long before another attempt.
const OPEN_MAX: Duration = Duration::from_secs(60);
/// Whoever looks at a place of the stream does not wait long, and does not want all that comes behind it.
const LOOK: Duration = Duration::from_millis(100);
const LOOK_EVENTS: u32 = 100;
/// The first releases whose streams show all that is asked for, and whose streams cut large events into fragments.
const COMPLETE_SINCE: (u32, u32, u32) = (6, 0, 0);
const FRAGMENTS_SINCE: (u32, u32, u32) = (6, 0, 9);
/// The oplog has rolled over, before it was asked or while it was read.
const HISTORY_LOST: [i32; 2] = [286, 136];
/// BSONObjectTooLarge, what a buffer says that would grow beyond its limit, and ChangeStreamFatalError: the stream can never pass.
const UNSENDABLE: [i32; 4] = [10334, 13548, 17260, 280];
/// Options that a server does not know, and what it answers to `$changeStreamSplitLargeEvent` then.
const UNKNOWN_OPTION: [i32; 3] = [40415, 40324, 31123];

/// How much is asked for: less and less while the server has an event that it cannot send.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Asking {
    /// Also documents as they were before a change, where the source keeps them.
    #[default]
    PreImages,
    /// Without those.
    Plain,
    /// Event by event: with one that cannot be sent the server throws away all that it had for the same reply.
    Single,
}

/// How a stream is asked for.
pub(crate) struct ChangeStream<'a> {
    client: &'a Client,
    asking: Asking,
    fragments: bool,
}

impl<'a> ChangeStream<'a> {
    /// Of this server.
    ///
    /// # Errors
    /// [`EngineError::Unsupported`] before MongoDB 6.0.
    pub(crate) fn new(
        client: &'a Client,
        server: &Server,
        asking: Asking,
    ) -> Result<Self, EngineError> {
        let version = server.version_numbers();
        if version < COMPLETE_SINCE {
            return Err(EngineError::Unsupported(format!(
                "a change stream of MongoDB {} does not show what a restore needs; from 6.0 on it does, and capture = \"oplog\" \
                 reads older releases",
                server.version
            )));
        }
        Ok(Self {
            client,
            asking,
            fragments: version >= FRAGMENTS_SINCE,
        })
    }

    fn pipeline(&self, from: ClusterTime) -> Vec<Document> {
        let mut stage = doc! {
            "allChangesForCluster": true, "showExpandedEvents": true, "showRawUpdateDescription": true,
            "showSystemEvents": true, "showMigrationEvents": true, "startAtOperationTime": Timestamp::from(from),
        };
        if self.asking == Asking::PreImages {
            stage.insert("fullDocumentBeforeChange", "whenAvailable");
        }
        let mut pipeline = vec![doc! { "$changeStream": stage }];
        if self.fragments {
            pipeline.push(doc! { "$changeStreamSplitLargeEvent": {} });
        }
        pipeline
    }

    /// Events from the cluster time `from` on, which a majority has reached or which comes next, so many in a batch at most. Batches are
    /// empty after `wait`.
    ///
    /// # Errors
    /// [`EngineError::HistoryLost`] if the source no longer has everything from `from` on.
    pub(super) async fn follow(
        &self,
        from: ClusterTime,
        batch_events: u32,
        wait: Duration,
    ) -> Result<RawBatchCursor, EngineError> {
        let reached = Timestamp::from(from.previous());
        let batch_events = match self.asking {
            Asking::PreImages | Asking::Plain => batch_events,
            Asking::Single => 1,
        };
        let cursor = doc! { "batchSize": i64::from(batch_events) };
        let command = doc! {
            "aggregate": 1, "pipeline": self.pipeline(from), "cursor": cursor,
            "readConcern": { "level": "majority", "afterClusterTime": reached },
        };
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        let member = self.client.selection_criteria().cloned().unwrap_or(primary);
        let admin = self.client.database("admin");
        let run = admin.run_cursor_command(command);
        let run = run.selection_criteria(member);
        let run = run.cursor_type(CursorType::TailableAwait);
        let run = run.max_time(wait).batch_size(batch_events);
        match timeout(OPEN_MAX, run.batch()).await {
            Ok(opened) => opened.map_err(failed),
            Err(_) => Err(EngineError::Answer("beginning of a change stream in time")),
        }
    }

    /// The same, for whoever only looks at that place.
    pub(crate) async fn look(&self, from: ClusterTime) -> Result<RawBatchCursor, EngineError> {
        self.follow(from, LOOK_EVENTS, LOOK).await
    }

    /// What lies in `positions`.
    pub(super) async fn stretch(&self, positions: Range<u64>) -> Result<Stretch, EngineError> {
        let mut found = Stretch::default();
        let end = ClusterTime(positions.end);
        let each = |event: RawDocumentBuf, found: &mut Stretch| {
            let head =
                Head::read_event(&event).map_err(|error| EngineError::Jumped(error.to_string()))?;
            if let Some(head) = head.filter(|head| head.ts < end) {
                let last = Last::of_event(&event, &head);
                found.add(event.as_bytes().len(), head.wall, last);
                return Ok(true);
            }
            Ok(false)
        };
        self.until(ClusterTime(positions.start), end, |event| {
            each(event, &mut found)
        })
        .await?;
        Ok(found)
    }

    /// Whether anything happened from `from` on up to and including `to`, which a majority has reached.
    pub(crate) async fn is_quiet(
        &self,
        from: ClusterTime,
        to: ClusterTime,
    ) -> Result<bool, EngineError> {
        let mut quiet = true;
        let end = to.next();
        let each = |event: RawDocumentBuf| {
            let head =
                Head::read_event(&event).map_err(|error| EngineError::Jumped(error.to_string()))?;
            quiet &= head.is_none_or(|head| head.ts >= end);
            Ok(false)
        };
        self.until(from, end, each).await?;
        Ok(quiet)
    }

    /// Hands the events from `from` on to `each`, until it says false or everything before `end` was handed over.
    async fn until(
        &self,
        from: ClusterTime,
        end: ClusterTime,
        mut each: impl FnMut(RawDocumentBuf) -> Result<bool, EngineError>,
    ) -> Result<(), EngineError> {
        let mut deadline = Instant::now() + OPEN_MAX;
        let mut batches = self.look(from).await?;
        let mut fragments = super::fragments::Fragments::default();
        while Instant::now() < deadline {
            let Some(batch) = batches.try_next().await.map_err(failed)? else {
                break;
            };
            let mut is_empty = true;
            for event in batch.doc_slices()? {
                let event = event.ok().and_then(|event| event.as_document());
                let event = event.ok_or(EngineError::Answer("documents"))?;
                is_empty = false;
                deadline = Instant::now() + OPEN_MAX;
                if let Some(event) = fragments.take(event)?
                    && !each(event.into_owned())?
                {
                    return Ok(());
                }
            }
            let token = batch.as_raw_document().get_document("cursor");
            let token = token.and_then(|cursor| cursor.get_document("postBatchResumeToken"));
            let read = token.ok().and_then(token_time);
            // Behind an empty batch lies nothing up to the token's time, before a full one nothing more of earlier times.
            let done = match read {
                Some(read) if is_empty => read.next() >= end,
                Some(read) => read >= end,
                None => is_empty,
            };
            if done {
                return Ok(());
            }
        }
        Err(EngineError::Answer("change stream that goes on in time"))
    }
}

/// What a failed stream means for whoever reads it. Nothing of what the server says of an event is passed on.
pub(super) fn failed(error: mongodb::error::Error) -> EngineError {
    let ErrorKind::Command(command) = &*error.kind else {
        return error.into();
    };
    match command.code {
        code if HISTORY_LOST.contains(&code) => EngineError::HistoryLost,
        code if UNSENDABLE.contains(&code) => EngineError::Unsendable {
            code,
            name: command.code_name.clone(),
        },
        code if UNKNOWN_OPTION.contains(&code) => EngineError::Unsupported(format!(
            "the server's change streams do not show what a restore needs: {}",
            command.message
        )),
        code => match error.clone().into() {
            EngineError::Refused {
                what: "a command",
                message,
            } => EngineError::Refused {
                what: "a change stream over the whole deployment",
                message,
            },
            EngineError::Server(_) => EngineError::Stream {
                code,
                name: command.code_name.clone(),
            },
            other => other,
        },
    }
}
