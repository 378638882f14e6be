//! From the server's documents to records: of the oplog each entry is one, of a change stream all events of one cluster time are.

use bson::raw::RawDocument;
use tokio::time::Instant;

use super::entries::Entries;
use super::groups::Groups;
use super::pieces::Ready;
use crate::{ClusterTime, EngineError};

/// What takes the documents of one session.
pub(super) enum Intake {
    Oplog(Entries),
    Events(Groups),
}

impl Intake {
    /// Takes the next document. True: there is a piece to hand over.
    pub(super) fn take(&mut self, document: &RawDocument) -> Result<bool, EngineError> {
        match self {
            Self::Oplog(entries) => entries.take(document),
            Self::Events(groups) => groups.take(document),
        }
    }

    /// All documents of a batch were taken, none if it `is_empty`; `reply` is what the server said around them.
    pub(super) fn batch_ended(&mut self, reply: &RawDocument, is_empty: bool) {
        if let Self::Events(groups) = self {
            groups.batch_ended(reply, is_empty);
        }
    }

    /// A batch was empty; `all_durable`: nothing of what was handed over waits for the store.
    pub(super) fn is_idle(&mut self, now: Instant, all_durable: bool) -> Result<(), EngineError> {
        match self {
            Self::Events(groups) if all_durable || groups.is_expected() => groups.is_idle(now),
            _ => Ok(()),
        }
    }

    /// What was collected, unless it can wait.
    pub(super) fn flush(&mut self) -> Option<Ready> {
        match self {
            Self::Oplog(entries) => entries.flush(),
            Self::Events(groups) => groups.flush(),
        }
    }

    /// Up to here everything was received.
    pub(super) fn received(&self) -> ClusterTime {
        match self {
            Self::Oplog(entries) => entries.received(),
            Self::Events(groups) => groups.received(),
        }
    }

    /// Nothing was collected but what an idle source sends.
    pub(super) fn is_quiet(&self) -> bool {
        match self {
            Self::Oplog(entries) => entries.is_quiet(),
            Self::Events(groups) => groups.is_quiet(),
        }
    }

    /// Where what was handed over ends.
    pub(super) fn position(&self) -> ClusterTime {
        match self {
            Self::Oplog(entries) => entries.position(),
            Self::Events(groups) => groups.position(),
        }
    }
}
