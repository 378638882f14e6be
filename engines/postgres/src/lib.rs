#![forbid(unsafe_code)]
//! PostgreSQL, both directions: capture, base backup, WAL reading, planning and restore.

pub mod backup;
mod lsn;
pub mod plan;
mod target;
mod wal;

pub use lsn::{Lsn, ParseError, TimelineId, WalFileName};
pub use target::{Target, TargetError};
pub use wal::{DamageReason, RelationFile, SegmentSizeError, TransactionEnd, WalEvent, WalReader};
