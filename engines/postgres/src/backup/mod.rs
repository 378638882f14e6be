//! Base backups: the server's tar stream becomes parts and a manifest; restore and planning read the manifest.

mod manifest;

pub use manifest::{BackupManifest, Contents, Entry, EntryKind, ManifestError, Tablespace};
