//! Our manifest of a base backup: which files there are, and where in the parts their contents lie. Sealed, put last.

use serde::{Deserialize, Serialize};

use crate::{Lsn, TimelineId};

const VERSION: u32 = 1;

/// A range of the backup's contents, which are what all parts hold, end to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a name in a backup is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum EntryKind {
    /// A file with contents.
    File(Contents),
    /// A directory.
    Directory,
    /// A symbolic link other than a tablespace's.
    Symlink(String),
}

/// One name in a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// The tablespace it lies in, `None` for the data directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tablespace: Option<u32>,
    /// Relative to the data directory or the tablespace; no `..`, not absolute.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since the Unix epoch.
    pub mtime: i64,
}

/// A tablespace outside the data directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tablespace {
    /// Its OID, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where it was on the source.
    pub location: String,
}

/// The manifest of a base backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupManifest {
    /// Of this document.
    pub version: u32,
    /// What the operator called it.
    pub label: String,
    /// `server_version` of the source.
    pub server_version: String,
    /// The cluster.
    pub system_id: u64,
    /// Bytes of a WAL segment.
    pub wal_segment_bytes: u64,
    /// Where recovery starts: WAL is needed from here.
    pub start_lsn: Lsn,
    /// The timeline of `start_lsn`.
    pub start_timeline: TimelineId,
    /// Where the data becomes consistent: WAL is needed at least up to here.
    pub end_lsn: Lsn,
    /// The timeline of `end_lsn`.
    pub end_timeline: TimelineId,
    /// When it began, by our clock.
    pub started: jiff::Timestamp,
    /// When the server had sent all of it.
    pub finished: jiff::Timestamp,
    /// Taken from a standby.
    pub from_standby: bool,
    /// The backup that this one is incremental to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Tablespaces outside the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// All names, in the order of the server's stream.
    pub entries: Vec<Entry>,
    /// PostgreSQL's own manifest (`backup_manifest`), kept as it came.
    pub postgres_manifest: Contents,
    /// Bytes of all contents.
    pub contents_bytes: u64,
    /// Number of parts.
    pub parts: u64,
}

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not the JSON it should be.
    #[error("the backup's manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a later release.
    #[error("the backup's manifest has version {0}, this release reads version {VERSION}")]
    Version(u32),
    /// It names a place outside the backup.
    #[error(
        "the backup's manifest names {0:?}, which lies outside the data directory or the contents"
    )]
    Outside(String),
}

impl BackupManifest {
    /// The version that this release writes.
    pub const VERSION: u32 = VERSION;

    /// As it is sealed.
    ///
    /// # Panics
    /// Never: all of it is JSON.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("numbers and strings are JSON")
    }

    /// Reads and checks it: no path leaves the data directory, no contents lie outside the parts.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(bytes)?;
        if manifest.version != VERSION {
            return Err(ManifestError::Version(manifest.version));
        }
        for entry in &manifest.entries {
            let inside = match entry.kind {
                EntryKind::File(contents) => manifest.holds(contents),
                EntryKind::Directory | EntryKind::Symlink(_) => true,
            };
            if !is_relative(&entry.path) || !inside {
                return Err(ManifestError::Outside(entry.path.clone()));
            }
        }
        if !manifest.holds(manifest.postgres_manifest) {
            return Err(ManifestError::Outside("backup_manifest".into()));
        }
        Ok(manifest)
    }

    fn holds(&self, contents: Contents) -> bool {
        contents
            .offset
            .checked_add(contents.bytes)
            .is_some_and(|end| end <= self.contents_bytes)
    }
}

/// True for a path that stays below where it is joined to. The empty path is the place itself.
fn is_relative(path: &str) -> bool {
    path.is_empty()
        || (!path.contains('\0') && path.split('/').all(|part| !matches!(part, "" | "." | "..")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_climbs_out_is_refused() {
        for inside in ["", "base/5/1259", "pg_wal"] {
            assert!(is_relative(inside), "{inside}");
        }
        for outside in ["/etc/passwd", "..", "base/../../x", "a//b", "./a", "a\0b"] {
            assert!(!is_relative(outside), "{outside}");
        }
    }
}
