//! Why a fold stops. What it does not understand it names and does not guess at: a restore that leaves something out in silence
//! is worse than none.

use std::io;

use bson::Uuid;

use super::diff::DiffError;
use super::raw::Malformed;
use crate::ClusterTime;

/// A fold that cannot go on. Nothing of a document's contents is in it.
#[derive(Debug, thiserror::Error)]
pub enum FoldError {
    /// Bytes that should be an entry of the log, or a part of one, are not.
    #[error("the entry of the log at {at}: {what}")]
    Malformed {
        /// The entry, or the last one before it.
        at: ClusterTime,
        /// What does not fit.
        what: &'static str,
    },
    /// An operation that this release does not know.
    #[error("the entry of the log at {at} holds {what}, which this release does not know")]
    Unknown {
        /// The entry.
        at: ClusterTime,
        /// Its name.
        what: String,
    },
    /// An update that cannot be applied.
    #[error("the entry of the log at {at} for {namespace}: {error}")]
    Update {
        /// The entry.
        at: ClusterTime,
        /// The collection.
        namespace: String,
        /// Why.
        error: DiffError,
    },
    /// A transaction that commits without its beginning.
    #[error("the transaction that commits at {at} began before the log that was read")]
    Transaction {
        /// The commit.
        at: ClusterTime,
    },
    /// A collection that neither the base copy nor the log describes.
    #[error(
        "the entry of the log at {at} changes {namespace} ({uuid}), which neither the base copy nor the log describes"
    )]
    Collection {
        /// The entry.
        at: ClusterTime,
        /// What the entry calls it.
        namespace: String,
        /// Its UUID.
        uuid: Uuid,
    },
    /// Two collections of one name.
    #[error("the catalogue at the target has two collections called {0}")]
    Twice(String),
    /// The feature compatibility version changes between the base copy and the target.
    #[error(
        "the feature compatibility version changes at {at}; a target behind it needs a base copy taken after the change"
    )]
    Compatibility {
        /// The entry.
        at: ClusterTime,
    },
    /// The base copy holds something that is not a document.
    #[error("the base copy of {0} holds bytes that are not a document with an _id")]
    Base(String),
    /// Scratch space failed.
    #[error("{what}: {source}")]
    Scratch {
        /// What was done.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
    /// Whoever takes the documents could not.
    #[error("{0}")]
    Sink(String),
}

impl FoldError {
    pub(super) fn malformed(at: ClusterTime, what: &'static str) -> impl Fn(Malformed) -> Self {
        move |Malformed| Self::Malformed { at, what }
    }

    pub(super) fn scratch(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::Scratch { what, source }
    }
}
