//! Between which cluster times a base copy lies: T0, from which the log is replayed, and T1, from which the copy can be restored.
//! Both are changes as far as that can be told, not the no-ops of an idle source, which are archived late.

use std::sync::Arc;
use std::time::Duration;

use bson::{RawDocumentBuf, Timestamp, doc};
use futures_util::TryStreamExt;
use mongodb::Client;
use mongodb::options::ReadConcern;
use pitr_archive::Archive;
use tokio::time::Instant;

use super::cover::last_run;
use super::take::refused;
use crate::capture::{Asking, ChangeStream};
use crate::source::{Majority, Server};
use crate::{ClusterTime, EngineError, LogKind};

const POLL: Duration = Duration::from_millis(500);

/// Asks for them.
pub(super) struct Times<'a> {
    client: &'a Client,
    archive: &'a Arc<Archive>,
    majority: ClusterTime,
    /// In an archive of events.
    stream: Option<ChangeStream<'a>>,
}

impl<'a> Times<'a> {
    pub(super) fn new(
        client: &'a Client,
        server: &Server,
        archive: &'a Arc<Archive>,
        kind: LogKind,
    ) -> Result<Self, EngineError> {
        let stream = match kind {
            LogKind::Oplog => None,
            LogKind::Events => Some(ChangeStream::new(client, server, Asking::Plain)?),
        };
        Ok(Self {
            client,
            archive,
            majority: server.majority.ts,
            stream,
        })
    }

    /// T0. In a change stream a transaction's events all have the time of its commit, so open ones need no heed.
    pub(super) async fn first(&self) -> Result<ClusterTime, EngineError> {
        match &self.stream {
            None => first_time(self.client, self.archive, self.majority).await,
            Some(stream) => {
                let last = self.last_archived(stream, self.majority).await?;
                Ok(last.unwrap_or(self.majority))
            }
        }
    }

    /// T0 and T1, now that everything is read; waits at most for `limit` until the daemon has archived the changes up to now.
    pub(super) async fn last(
        &self,
        t0: ClusterTime,
        limit: Duration,
    ) -> Result<(ClusterTime, ClusterTime), EngineError> {
        let Some(stream) = &self.stream else {
            return Ok((t0, last_time(self.client, t0).await?));
        };
        let majority = Majority::ask(&self.client.database("admin")).await?.ts;
        let deadline = Instant::now() + limit;
        loop {
            if let Some(last) = self.last_archived(stream, majority).await? {
                // Nothing lies between them, so the earlier one will do for both.
                return Ok((t0.min(last), last));
            }
            if Instant::now() >= deadline {
                return Ok((t0, majority.max(t0)));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The last archived change, or a moment behind it, if nothing has happened since up to `to`; otherwise `to` once it is archived.
    async fn last_archived(
        &self,
        stream: &ChangeStream<'_>,
        to: ClusterTime,
    ) -> Result<Option<ClusterTime>, EngineError> {
        let Some(run) = last_run(self.archive, &LogKind::Events.stream()).await? else {
            return Ok(None);
        };
        let end = ClusterTime(run.end);
        if end > to {
            return Ok(Some(to).filter(|to| run.start <= to.0));
        }
        match stream.is_quiet(end, to).await {
            Ok(true) => Ok(Some(end.previous())),
            Ok(false) | Err(EngineError::HistoryLost | EngineError::Unsendable { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// T0: what the majority has now, but not behind the start of a transaction that is open. Where only no-ops came last, the last
/// entry before them, as far as the archive's log reaches back: an idle source's no-ops are archived late.
async fn first_time(
    client: &Client,
    archive: &Arc<Archive>,
    majority: ClusterTime,
) -> Result<ClusterTime, EngineError> {
    let mut t0 = majority;
    if let (Some(last), Some(start)) = (
        last_change(client, majority).await?,
        last_run(archive, &LogKind::Oplog.stream()).await?,
    ) {
        t0 = last.max(ClusterTime(start.start).previous()).min(majority);
    }
    Ok(match oldest_transaction(client).await? {
        Some(open) => t0.min(open.previous()),
        None => t0,
    })
}

/// T1: the last change that a majority has, now that everything is read.
async fn last_time(client: &Client, t0: ClusterTime) -> Result<ClusterTime, EngineError> {
    let majority = Majority::ask(&client.database("admin")).await?.ts;
    let last = last_change(client, majority).await?.unwrap_or(majority);
    Ok(last.max(t0))
}

/// The last entry up to `majority` that is not a no-op; `None` if there is none, or the oplog cannot be read.
async fn last_change(
    client: &Client,
    majority: ClusterTime,
) -> Result<Option<ClusterTime>, EngineError> {
    let entries = client
        .database("local")
        .collection::<RawDocumentBuf>("oplog.rs");
    let filter = doc! { "op": { "$ne": "n" }, "ts": { "$lte": Timestamp::from(majority) } };
    let find = entries
        .find_one(filter)
        .sort(doc! { "$natural": -1 })
        .projection(doc! { "ts": 1 });
    let found = find.read_concern(ReadConcern::majority()).await;
    match found.map_err(EngineError::from) {
        Ok(found) => Ok(found
            .and_then(|entry| entry.get_timestamp("ts").ok())
            .map(ClusterTime::from)),
        Err(EngineError::Refused { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first entry of the oldest transaction that is prepared, or that has written entries and not ended.
async fn oldest_transaction(client: &Client) -> Result<Option<ClusterTime>, EngineError> {
    let transactions = client
        .database("config")
        .collection::<RawDocumentBuf>("transactions");
    let filter = doc! { "state": { "$in": ["prepared", "inProgress"] } };
    let found = transactions.find(filter).await;
    let found = found.map_err(|error| refused("reading config.transactions", error))?;
    let found: Vec<RawDocumentBuf> = found.try_collect().await?;
    let starts = found.iter().filter_map(|transaction| {
        let start = transaction.get_document("startOpTime").ok()?;
        start.get_timestamp("ts").ok().map(ClusterTime::from)
    });
    Ok(starts.min())
}
