//! The source's oplog: its oldest entry, what lies in a range, and following it.

use std::ops::Range;
use std::time::Duration;

use bson::raw::{RawDocument, RawDocumentBuf};
use bson::{Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::options::{
    CollectionOptions, CursorType, ReadConcern, ReadPreference, SelectionCriteria,
};
use mongodb::{Client, Collection, Database};

use super::Last;
use super::place::Stretch;
use crate::entry::Head;
use crate::{ClusterTime, EngineError};

/// A member that lags is waited for so long before another attempt.
const COMPARE_MS: i64 = 10_000;

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
    pub(super) async fn stretch(&self, positions: Range<u64>) -> Result<Stretch, EngineError> {
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
                found.add(entry.as_bytes().len(), head.wall, Last::of_entry(&head));
            }
        }
        Ok(found)
    }

    /// Follows the oplog from the entry `from` on, or the first one after it.
    pub(super) async fn follow(
        &self,
        from: ClusterTime,
        batch_entries: u32,
        wait: Duration,
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
