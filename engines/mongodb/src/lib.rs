#![forbid(unsafe_code)]
//! MongoDB, both directions: capture, base copy, reading the log, planning and restore.

pub mod base;
mod cluster_time;
mod entry;
pub mod fold;
pub mod log;
pub mod restore;
mod summary;

pub use cluster_time::{ClusterTime, NotAClusterTime};
pub use entry::{EntryError, Head, Op, split_documents};
pub use summary::{DataDefinition, LogSummary, NamespaceCounts, SummaryError};

/// The stream that holds a replica set's oplog.
pub const OPLOG_STREAM: &str = "oplog";
/// The stream that holds a change stream's events.
pub const EVENTS_STREAM: &str = "events";
