//! PostgreSQL's `backup_manifest`: which files a base backup consists of, with size and checksum, and which WAL it needs.
//! It is kept as the server sent it, and read again to check what was restored.

use std::collections::HashSet;
use std::path::PathBuf;

use serde::Deserialize;
use sha2::{Digest, Sha224, Sha256, Sha384, Sha512};

use crate::tar::relative_path;
use crate::{Lsn, TimelineId};

/// What a base backup should consist of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackupManifest {
    /// The cluster, from PostgreSQL 17 on.
    pub system_id: Option<u64>,
    /// Every file but `backup_manifest` itself and what lies in `pg_wal`.
    pub files: Vec<ManifestFile>,
    /// The WAL without which the backup is not consistent, one range for each timeline.
    pub wal_ranges: Vec<WalRange>,
}

/// One file of a base backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ManifestFile {
    /// Below the data directory, tablespaces as `pg_tblspc/OID/…`.
    pub path: PathBuf,
    /// Bytes.
    pub size: u64,
    /// `2026-11-20 12:03:04 GMT`, as the server wrote it.
    pub last_modified: String,
    /// `None` if the backup was taken with `MANIFEST_CHECKSUMS 'NONE'`.
    pub checksum: Option<ManifestChecksum>,
}

/// WAL of one timeline, `[start, end)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WalRange {
    /// The timeline.
    pub timeline: TimelineId,
    /// Where replay starts.
    pub start: Lsn,
    /// Where the backup is consistent.
    pub end: Lsn,
}

/// The checksum of a file's contents.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ManifestChecksum {
    /// CRC-32C; the manifest writes its bytes from the lowest.
    Crc32c(u32),
    /// SHA-224.
    Sha224([u8; 28]),
    /// SHA-256.
    Sha256([u8; 32]),
    /// SHA-384.
    Sha384([u8; 48]),
    /// SHA-512.
    Sha512([u8; 64]),
}

/// Why bytes are not a backup manifest. All are permanent.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The last line is not the checksum of all lines before.
    #[error("the backup manifest is damaged: its checksum does not match")]
    Checksum,
    /// Not laid out as a manifest of a known version.
    #[error("the backup manifest cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// A version other than 1 or 2.
    #[error("the backup manifest is of version {0}; 1 and 2 are known")]
    Version(u32),
    /// A path that is absolute, leads out of the data directory, stands there twice or is not written as it should be.
    #[error("the backup manifest's file {number} has an unusable path")]
    Path {
        /// Which one, counted from 1.
        number: usize,
    },
    /// A checksum that does not fit its algorithm.
    #[error("the backup manifest's file {number} has an unusable checksum")]
    FileChecksum {
        /// Which one, counted from 1.
        number: usize,
    },
    /// A WAL range without a timeline, or that does not run forward.
    #[error("the backup manifest has an unusable WAL range")]
    WalRange,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct Document {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    #[serde(rename = "System-Identifier")]
    system_id: Option<u64>,
    files: Vec<File>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<Range>,
    #[serde(rename = "Manifest-Checksum")]
    manifest_checksum: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase", deny_unknown_fields)]
struct File {
    path: Option<String>,
    #[serde(rename = "Encoded-Path")]
    encoded_path: Option<String>,
    size: u64,
    #[serde(rename = "Last-Modified")]
    last_modified: String,
    #[serde(rename = "Checksum-Algorithm")]
    algorithm: Option<String>,
    checksum: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    #[serde(rename = "Timeline")]
    timeline: u32,
    #[serde(rename = "Start-LSN")]
    start: String,
    #[serde(rename = "End-LSN")]
    end: String,
}

impl BackupManifest {
    /// Reads a manifest of version 1 (PostgreSQL 13 to 16) or 2 (17 and later) and verifies its own checksum.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let document: Document = serde_json::from_slice(bytes)?;
        if !matches!(document.version, 1 | 2) {
            return Err(ManifestError::Version(document.version));
        }
        verify_own_checksum(bytes, &document.manifest_checksum)?;
        let mut seen = HashSet::new();
        let mut files = Vec::with_capacity(document.files.len());
        for (index, file) in document.files.into_iter().enumerate() {
            let number = index + 1;
            let path = path(&file)
                .filter(|path| seen.insert(path.clone()))
                .ok_or(ManifestError::Path { number })?;
            let checksum = match (file.algorithm, file.checksum) {
                (None, None) => None,
                (Some(algorithm), Some(hex)) => Some(
                    ManifestChecksum::parse(&algorithm, &hex)
                        .ok_or(ManifestError::FileChecksum { number })?,
                ),
                _ => return Err(ManifestError::FileChecksum { number }),
            };
            files.push(ManifestFile {
                path,
                size: file.size,
                last_modified: file.last_modified,
                checksum,
            });
        }
        let ranges = document.wal_ranges.iter().map(wal_range);
        Ok(Self {
            system_id: document.system_id,
            files,
            wal_ranges: ranges
                .collect::<Option<_>>()
                .ok_or(ManifestError::WalRange)?,
        })
    }
}

/// The last line carries the SHA-256 of all lines before it.
fn verify_own_checksum(bytes: &[u8], hex: &str) -> Result<(), ManifestError> {
    let lines = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let last = lines.iter().rposition(|&byte| byte == b'\n');
    let covered = last.and_then(|last| bytes.get(..=last));
    match covered.zip(from_hex(hex)) {
        Some((covered, expected)) if Sha256::digest(covered).as_slice() == expected => Ok(()),
        _ => Err(ManifestError::Checksum),
    }
}

fn path(file: &File) -> Option<PathBuf> {
    match (&file.path, &file.encoded_path) {
        (Some(path), None) => relative_path(path.as_bytes()),
        (None, Some(hex)) => relative_path(&from_hex(hex)?),
        _ => None,
    }
}

fn wal_range(range: &Range) -> Option<WalRange> {
    let range = WalRange {
        timeline: TimelineId(range.timeline),
        start: range.start.parse().ok()?,
        end: range.end.parse().ok()?,
    };
    (range.timeline.0 != 0 && range.start <= range.end).then_some(range)
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let bytes = pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?));
    rest.is_empty().then(|| bytes.collect()).flatten()
}

impl ManifestChecksum {
    fn parse(algorithm: &str, hex: &str) -> Option<Self> {
        let bytes = from_hex(hex)?;
        Some(match algorithm {
            "CRC32C" => Self::Crc32c(u32::from_le_bytes(bytes.try_into().ok()?)),
            "SHA224" => Self::Sha224(bytes.try_into().ok()?),
            "SHA256" => Self::Sha256(bytes.try_into().ok()?),
            "SHA384" => Self::Sha384(bytes.try_into().ok()?),
            "SHA512" => Self::Sha512(bytes.try_into().ok()?),
            _ => return None,
        })
    }

    /// Starts to check contents against this checksum.
    #[must_use]
    pub fn verifier(self) -> ChecksumVerifier {
        let hasher = match self {
            Self::Crc32c(_) => Hasher::Crc32c(0),
            Self::Sha224(_) => Hasher::Sha224(Sha224::new()),
            Self::Sha256(_) => Hasher::Sha256(Sha256::new()),
            Self::Sha384(_) => Hasher::Sha384(Sha384::new()),
            Self::Sha512(_) => Hasher::Sha512(Sha512::new()),
        };
        ChecksumVerifier {
            expected: self,
            hasher,
        }
    }
}

/// Checks a file's contents, piece by piece, against the manifest's checksum.
pub struct ChecksumVerifier {
    expected: ManifestChecksum,
    hasher: Hasher,
}

enum Hasher {
    Crc32c(u32),
    Sha224(Sha224),
    Sha256(Sha256),
    Sha384(Sha384),
    Sha512(Sha512),
}

impl ChecksumVerifier {
    /// Takes the next bytes of the contents.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.hasher {
            Hasher::Crc32c(checksum) => *checksum = crc32c::crc32c_append(*checksum, bytes),
            Hasher::Sha224(hasher) => hasher.update(bytes),
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Sha384(hasher) => hasher.update(bytes),
            Hasher::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// Whether all of the contents, taken together, have the checksum.
    #[must_use]
    pub fn matches(self) -> bool {
        let found = match self.hasher {
            Hasher::Crc32c(checksum) => ManifestChecksum::Crc32c(checksum),
            Hasher::Sha224(hasher) => ManifestChecksum::Sha224(hasher.finalize().into()),
            Hasher::Sha256(hasher) => ManifestChecksum::Sha256(hasher.finalize().into()),
            Hasher::Sha384(hasher) => ManifestChecksum::Sha384(hasher.finalize().into()),
            Hasher::Sha512(hasher) => ManifestChecksum::Sha512(hasher.finalize().into()),
        };
        found == self.expected
    }
}

#[cfg(test)]
mod tests;
