#![forbid(unsafe_code)]
//! MongoDB, both directions: capture, base copy, reading the log, planning and restore.

pub mod base;
pub mod capture;
mod cluster_time;
mod connect;
mod entry;
mod error;
mod event;
pub mod fold;
pub mod history;
mod kind;
pub mod log;
pub mod plan;
pub mod preflight;
pub mod restore;
mod server_error;
mod source;
mod summary;
mod target;

pub use cluster_time::{ClusterTime, NotAClusterTime};
pub use connect::Connection;
pub use entry::{EntryError, Head, Op, split_documents};
pub use error::EngineError;
pub use kind::LogKind;
pub use server_error::ServerError;
pub use source::{ENGINE, Majority, Server, Source, SourceError};
pub use summary::{DataDefinition, LogSummary, NamespaceCounts, SummaryError};
pub use target::Target;

/// The stream that holds a replica set's oplog.
pub const OPLOG_STREAM: &str = "oplog";
/// The stream that holds a change stream's events.
pub const EVENTS_STREAM: &str = "events";
/// The collection in which servers keep the feature compatibility version,
const FCV_NAMESPACE: &str = "admin.system.version";
/// and its document there.
const FCV_ID: &str = "featureCompatibilityVersion";
