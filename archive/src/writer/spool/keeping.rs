//! What of a log goes into the spool while it is written: nothing while the store keeps up; everything, in order, once it does not,
//! until it has caught up.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::Spool;
use crate::writer::queue::Queue;

/// How often is looked whether the store keeps up, or the spool has room again.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The spool's part in the way of a segment. Without a spool it does nothing.
#[derive(Debug)]
pub(in crate::writer) struct Spooling {
    spool: Option<Arc<Spool>>,
    /// The store does not keep up.
    on: bool,
    keeping: Option<JoinHandle<(u64, String, bool)>>,
    removing: JoinSet<()>,
    /// The spool did not take an object: not before then again.
    rest: Option<Instant>,
}

impl Spooling {
    pub(in crate::writer) fn new(spool: Option<Arc<Spool>>) -> Self {
        Self {
            spool,
            on: false,
            keeping: None,
            removing: JoinSet::new(),
            rest: None,
        }
    }

    /// Decides whether the store keeps up, and begins to keep the next segment.
    pub(in crate::writer) fn turn(&mut self, queue: &mut Queue) {
        let Some(spool) = &self.spool else {
            return;
        };
        let slow = queue.is_slow();
        if slow && !self.on {
            tracing::warn!("the store does not keep up: what is sealed goes to the spool");
        } else if self.on && !slow && !queue.is_kept() {
            tracing::info!("the store has what was in the spool");
        }
        self.on = slow || (self.on && queue.is_kept());
        let rests = self.rest.is_some_and(|until| Instant::now() < until);
        if !self.on || rests || self.keeping.is_some() {
            return;
        }
        let Some((seq, outgoing)) = queue.next_to_keep() else {
            return;
        };
        let Some(held) = outgoing.in_memory() else {
            return;
        };
        let spool = Arc::clone(spool);
        self.keeping = Some(tokio::spawn(async move {
            let kept = spool.keep(&outgoing.key, &held.bytes).await;
            (seq, outgoing.key.clone(), kept)
        }));
    }

    /// True if another segment may be sealed although it cannot be put.
    pub(in crate::writer) fn takes_more(&self, queue: &Queue) -> bool {
        let room = |spool: &Arc<Spool>| spool.has_room(1);
        self.on
            && self.keeping.is_none()
            && !queue.last_waits()
            && self.spool.as_ref().is_some_and(room)
    }

    /// Waits for what may change a decision.
    pub(in crate::writer) async fn changed(&mut self, queue: &mut Queue) {
        if self.spool.is_none() {
            return std::future::pending().await;
        }
        tokio::select! {
            kept = join(&mut self.keeping), if self.keeping.is_some() => {
                self.keeping = None;
                let (seq, key, kept) = kept;
                if !kept {
                    self.rest = Some(Instant::now() + LOOK_EVERY);
                } else if !queue.kept(seq) {
                    self.remove(key);
                }
            }
            Some(removed) = self.removing.join_next() => {
                removed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }

    /// The store has it, and everything before it.
    pub(in crate::writer) fn remove(&mut self, key: String) {
        if let Some(spool) = self.spool.clone() {
            self.removing.spawn(async move { spool.remove(&key).await });
        }
    }

    /// All is durable: waits until what was in the spool is gone from it.
    pub(in crate::writer) async fn finish(&mut self) {
        if self.keeping.is_some() {
            let (_, key, _) = join(&mut self.keeping).await;
            self.remove(key);
        }
        while let Some(removed) = self.removing.join_next().await {
            removed.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
        }
    }
}

async fn join(keeping: &mut Option<JoinHandle<(u64, String, bool)>>) -> (u64, String, bool) {
    match keeping {
        Some(task) => task
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
        None => std::future::pending().await,
    }
}
