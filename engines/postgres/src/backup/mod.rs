//! Base backups: the server's tar stream becomes parts and a manifest; restore and planning read the manifest.
//!
//! `take` is the whole way; `intake` appends the stream to the archive and notes what came, `check` holds that against what the
//! server says it sent, `cover` waits for the WAL, `parent` finds what an incremental one builds on.

mod check;
mod cover;
mod error;
mod intake;
mod manifest;
mod parent;
mod take;

pub use check::CheckError;
pub use cover::{Needs, WalCover, wait_for_wal};
pub use error::BackupError;
pub use manifest::{BackupManifest, Contents, Entry, EntryKind, ManifestError, Tablespace};
pub use parent::{ManifestCache, Parent, read_manifest};
pub use take::{Progress, TakeSettings, Taken, WAL_WAIT, take};
