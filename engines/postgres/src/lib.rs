#![forbid(unsafe_code)]
//! PostgreSQL, both directions: capture, base backup, WAL reading, planning and restore.

pub mod backup;
pub mod connect;
mod lsn;
pub mod plan;
pub mod replication;
mod target;
mod wal;

pub use lsn::{Lsn, ParseError, TimelineId, WalFileName};
pub use target::{Target, TargetError};
pub use wal::{DamageReason, RelationFile, SegmentSizeError, TransactionEnd, WalEvent, WalReader};
