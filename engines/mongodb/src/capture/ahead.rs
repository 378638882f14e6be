//! Batches of the source's log, one read ahead: the server makes the next one while this one is taken.

use futures_util::TryStreamExt;
use mongodb::error::Error;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Reads for as long as it is kept. In memory are the batch that is taken and the next one, each of 16 MiB and a little at most.
pub(super) struct Ahead {
    batches: mpsc::Receiver<Result<RawBatch, Error>>,
    task: JoinHandle<()>,
}

impl Ahead {
    pub(super) fn of(mut cursor: RawBatchCursor) -> Self {
        let (send, batches) = mpsc::channel(1);
        let task = tokio::spawn(async move {
            // Nothing is asked for before there is room for it.
            while let Ok(room) = send.reserve().await {
                match cursor.try_next().await.transpose() {
                    Some(Ok(batch)) => room.send(Ok(batch)),
                    Some(Err(error)) => return room.send(Err(error)),
                    None => return,
                }
            }
        });
        Self { batches, task }
    }

    /// The next batch; `None`: the server ended the cursor. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Option<RawBatch>, Error> {
        self.batches.recv().await.transpose()
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.task.abort();
    }
}
