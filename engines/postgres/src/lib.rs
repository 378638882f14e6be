#![forbid(unsafe_code)]
//! PostgreSQL, both directions: capture, base backup, WAL reading, planning and restore.

pub mod backup;
mod backup_manifest;
pub mod capture;
pub mod connect;
mod history;
mod lsn;
mod margin;
pub mod plan;
pub mod replication;
pub mod restore;
mod source;
mod tar;
mod target;
mod wal;

pub use backup_manifest::{
    BackupManifest, ChecksumVerifier, ManifestChecksum, ManifestError, ManifestFile, WalRange,
};
pub use history::{Ancestor, HistoryError, TimelineHistory};
pub use lsn::{Lsn, ParseError, TimelineId, WalFileName};
pub use margin::{MarginError, SlotMargin, slot_margin};
pub use source::{ENGINE, Source, SourceError};
pub use tar::{TarEntry, TarError, TarEvent, TarKind, TarReader};
pub use target::{Target, TargetError};
pub use wal::{
    DamageReason, RelationFile, RestorePoint, SegmentSizeError, SummaryError, TransactionEnd,
    WalEvent, WalReader, WalSummary,
};
