//! What arrived, held against PostgreSQL's manifest: every file that it lists, with its length and its checksum.

use std::collections::HashMap;
use std::path::PathBuf;

use crate::backup_manifest::{self, ManifestChecksum};

/// What arrived is not what the server says it sent.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// PostgreSQL's manifest itself is damaged.
    #[error(transparent)]
    Manifest(#[from] backup_manifest::ManifestError),
    /// A file that it lists did not arrive.
    #[error("{0:?} is listed in PostgreSQL's manifest and was not sent")]
    Missing(PathBuf),
    /// A file of another length.
    #[error("{path:?} has {arrived} bytes, {due} by PostgreSQL's manifest")]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes that arrived.
        arrived: u64,
        /// Bytes that the manifest says.
        due: u64,
    },
    /// A file with other contents.
    #[error("the contents of {0:?} do not have the checksum in PostgreSQL's manifest")]
    Contents(PathBuf),
}

/// What arrived under one name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Arrived {
    /// Bytes.
    pub(super) bytes: u64,
    /// CRC-32C of them.
    pub(super) crc: u32,
}

impl Arrived {
    /// Counts `contents` in.
    pub(super) fn add(&mut self, contents: &[u8]) {
        self.bytes += contents.len() as u64;
        self.crc = crc32c::crc32c_append(self.crc, contents);
    }
}

/// Checks the manifest itself and each file that it lists; what it does not list (`backup_manifest` is the only one that
/// PostgreSQL leaves out) is not checked.
pub(super) fn check(
    manifest: &[u8],
    arrived: &HashMap<PathBuf, Arrived>,
) -> Result<(), CheckError> {
    for file in backup_manifest::BackupManifest::parse(manifest)?.files {
        let path = file.path;
        let Some(found) = arrived.get(&path) else {
            return Err(CheckError::Missing(path));
        };
        if found.bytes != file.size {
            let (arrived, due) = (found.bytes, file.size);
            return Err(CheckError::Length { path, arrived, due });
        }
        // Every server makes CRC-32C unless asked for another, which we do not.
        if matches!(file.checksum, Some(ManifestChecksum::Crc32c(due)) if due != found.crc) {
            return Err(CheckError::Contents(path));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::intake::synthetic::manifest;
    use super::*;

    #[test]
    fn what_arrived_is_held_against_what_was_sent() {
        let manifest = manifest(&[("base/1", b"abc"), ("empty", b"")]);
        let arrived = |contents: &[u8]| {
            let mut arrived = Arrived::default();
            arrived.add(contents);
            arrived
        };
        let all = HashMap::from([
            ("base/1".into(), arrived(b"abc")),
            ("empty".into(), arrived(b"")),
            ("unlisted".into(), arrived(b"x")),
        ]);
        check(&manifest, &all).unwrap();
        let cases = [
            ("base/1", Some(b"abcd".as_slice()), "has 4 bytes, 3"),
            ("base/1", Some(b"abd"), "checksum"),
            ("empty", None, "not sent"),
        ];
        for (path, contents, says) in cases {
            let mut wrong = all.clone();
            wrong.remove(&PathBuf::from(path));
            wrong.extend(contents.map(|contents| (path.into(), arrived(contents))));
            let error = check(&manifest, &wrong).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
