#![forbid(unsafe_code)]
//! PostgreSQL, both directions: capture, base backup, WAL reading, planning and restore.

mod lsn;
mod target;

pub use lsn::{Lsn, ParseError, TimelineId, WalFileName};
pub use target::{Target, TargetError};
