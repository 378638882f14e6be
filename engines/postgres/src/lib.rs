#![forbid(unsafe_code)]
//! PostgreSQL, both directions: capture, base backup, WAL reading, planning and restore.

mod lsn;

pub use lsn::{Lsn, ParseError, TimelineId, WalFileName};
