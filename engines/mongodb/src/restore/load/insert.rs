//! Documents on their way into the target: the fold's threads hand over batches, a few inserts are under way at once, and while they
//! are, the fold waits.

use std::sync::Arc;

use bson::{RawDocumentBuf, Timestamp};
use mongodb::Client;
use mongodb::options::{Acknowledgment, WriteConcern};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

use super::{Load, raw};
use crate::fold::raw::{Document, kind};
use crate::fold::{Batch, FoldError, Sink};
use crate::restore::select::Selected;
use crate::restore::{Event, RestoreError, Watch};

struct Job {
    collection: u32,
    batch: Batch,
    /// Told when it is in place, by whoever needs the order.
    done: Option<oneshot::Sender<()>>,
}

/// Takes batches and inserts them.
pub(super) struct Inserter {
    jobs: mpsc::Sender<Job>,
    workers: Mutex<JoinSet<Result<(), RestoreError>>>,
    selected: Arc<Selected>,
}

impl Inserter {
    pub(super) fn start(load: &Load, selected: &Arc<Selected>, watch: &Watch) -> Self {
        let (jobs, queue) = mpsc::channel::<Job>(load.jobs.max(1));
        let queue = Arc::new(Mutex::new(queue));
        let mut workers = JoinSet::new();
        for _ in 0..load.jobs.max(1) {
            let (client, selected) = (load.client.clone(), Arc::clone(selected));
            let (queue, watch) = (Arc::clone(&queue), Arc::clone(watch));
            workers.spawn(async move {
                while let Some(job) = { queue.lock().await.recv().await } {
                    let target = &selected.targets[job.collection as usize];
                    let documents = job.batch.documents;
                    insert(&client, &target.db, &target.stored_in(), job.batch).await?;
                    watch(Event::Placed(documents));
                    if let Some(done) = job.done {
                        let _ = done.send(());
                    }
                }
                Ok(())
            });
        }
        Self {
            jobs,
            workers: Mutex::new(workers),
            selected: Arc::clone(selected),
        }
    }

    /// Waits for everything that was handed over.
    pub(super) async fn finish(self) -> Result<(), RestoreError> {
        drop(self.jobs);
        let mut workers = self.workers.into_inner();
        while let Some(done) = workers.join_next().await {
            done.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        }
        Ok(())
    }
}

impl Sink for Inserter {
    fn documents(&self, collection: u32, batch: Batch) -> Result<(), FoldError> {
        let failed = || FoldError::Sink("load: the target takes no more documents".into());
        let ordered = self.selected.targets[collection as usize]
            .collection
            .is_capped();
        let (done, wait) = oneshot::channel();
        let job = Job {
            collection,
            batch,
            done: ordered.then_some(done),
        };
        self.jobs.blocking_send(job).map_err(|_| failed())?;
        if ordered {
            wait.blocking_recv().map_err(|_| failed())?;
        }
        Ok(())
    }
}

async fn insert(client: &Client, db: &str, name: &str, batch: Batch) -> Result<(), RestoreError> {
    let collection = client.database(db).collection::<RawDocumentBuf>(name);
    let doing = || format!("load documents into {db}.{name}");
    let (mut documents, mut empty_times) = (Vec::new(), Vec::new());
    let mut rest = batch.bytes.as_slice();
    while let Ok((document, after)) = Document::split(rest) {
        empty_times.extend(empty_timestamps(document));
        documents.push(raw(document.bytes().to_vec())?);
        rest = after;
    }
    // One acknowledgement is enough: what is loaded is compared before it counts, and a failed restore begins again.
    let one = WriteConcern::builder().w(Acknowledgment::Nodes(1)).build();
    collection
        .insert_many(documents)
        .ordered(true)
        .bypass_document_validation(true)
        .write_concern(one)
        .await
        .map_err(RestoreError::server(doing()))?;
    for (filter, update) in empty_times {
        collection
            .update_one(filter, update)
            .bypass_document_validation(true)
            .await
            .map_err(RestoreError::server(doing()))?;
    }
    Ok(())
}

/// What gives a document back the empty timestamps that a server replaces by the present when it inserts it.
fn empty_timestamps(document: Document<'_>) -> Option<(bson::Document, bson::Document)> {
    let empty = |element: &crate::fold::raw::Element<'_>| {
        element.value.kind == kind::TIMESTAMP
            && element.value.timestamp() == Some(0)
            && element.name != b"_id"
    };
    let empty: Vec<_> = document.elements().flatten().filter(empty).collect();
    if empty.is_empty() {
        return None;
    }
    let whole = bson::Document::from_reader(document.bytes()).ok()?;
    let filter = bson::doc! { "_id": whole.get("_id")?.clone() };
    let nothing = Timestamp {
        time: 0,
        increment: 0,
    };
    let names = empty
        .iter()
        .map(|element| String::from_utf8_lossy(element.name).into_owned());
    let set: bson::Document = names.map(|name| (name, nothing.into())).collect();
    Some((filter, bson::doc! { "$set": set }))
}

#[cfg(test)]
mod tests {
    use bson::doc;

    use super::*;

    #[test]
    fn only_empty_timestamps_at_the_top_are_given_back() {
        let nothing = Timestamp {
            time: 0,
            increment: 0,
        };
        let of = |plain: bson::Document| {
            let bytes = plain.to_vec().unwrap();
            empty_timestamps(Document::new(&bytes).unwrap())
        };
        assert_eq!(
            of(
                doc! { "_id": nothing, "a": { "b": nothing }, "c": Timestamp { time: 1, increment: 0 } }
            ),
            None
        );
        let expected = (doc! { "_id": 1 }, doc! { "$set": { "a": nothing } });
        assert_eq!(of(doc! { "_id": 1, "a": nothing, "b": 2 }), Some(expected));
    }
}
