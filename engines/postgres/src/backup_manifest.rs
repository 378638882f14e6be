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
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Lines as PostgreSQL 17 writes them, closed with the right checksum.
    fn manifest(head: &str, files: &str, ranges: &str) -> Vec<u8> {
        let text =
            format!("{{ {head},\n\"Files\": [\n{files}\n],\n\"WAL-Ranges\": [\n{ranges}\n],\n");
        let hex: String = Sha256::digest(text.as_bytes())
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        format!("{text}\"Manifest-Checksum\": \"{hex}\"}}\n").into_bytes()
    }

    const V1: &str = "\"PostgreSQL-Backup-Manifest-Version\": 1";
    const RANGE: &str =
        "{ \"Timeline\": 2, \"Start-LSN\": \"0/45400028\", \"End-LSN\": \"0/45400120\" }";

    fn file(path: &str, rest: &str) -> String {
        format!("{{ {path}, \"Size\": 3, \"Last-Modified\": \"2026-11-21 03:33:21 GMT\"{rest} }}")
    }

    /// A file's line and its contents, from a real PostgreSQL 17 data directory.
    const PG_VERSION: &str = ", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"64440205\"";

    #[test]
    fn files_ranges_and_cluster_are_read() {
        let files = [
            file("\"Path\": \"PG_VERSION\"", PG_VERSION),
            file("\"Encoded-Path\": \"6f6464ff6e616d65\"", ""),
        ];
        let head = "\"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 17710462578499178706";
        let found =
            BackupManifest::parse(&manifest(head, &files.join(",\n"), RANGE)).expect("valid");
        assert_eq!(found.system_id, Some(17_710_462_578_499_178_706));
        assert_eq!(found.files[0].path, PathBuf::from("PG_VERSION"));
        assert_eq!(
            found.files[1].path.as_os_str().as_encoded_bytes(),
            b"odd\xffname"
        );
        assert_eq!((found.files[1].size, found.files[1].checksum), (3, None));
        let range = WalRange {
            timeline: TimelineId(2),
            start: Lsn(0x4540_0028),
            end: Lsn(0x4540_0120),
        };
        assert_eq!(found.wal_ranges, [range]);
    }

    #[test]
    fn each_algorithm_verifies_contents_and_nothing_else() {
        // The published digests of "abc"; CRC-32C as PostgreSQL wrote it for a PG_VERSION of 17.
        let cases = [
            ("CRC32C", "64440205", "17\n"),
            (
                "SHA224",
                "23097d223405d8228642a477bda255b32aadbce4bda0b3f7e36c9da7",
                "abc",
            ),
            (
                "SHA256",
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
                "abc",
            ),
            (
                "SHA384",
                "cb00753f45a35e8bb5a03d699ac65007272c32ab0eded1631a8b605a43ff5bed8086072ba1e7cc2358baeca134c825a7",
                "abc",
            ),
            (
                "SHA512",
                "ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f",
                "abc",
            ),
        ];
        for (algorithm, hex, contents) in cases {
            let checksum = ManifestChecksum::parse(algorithm, hex).expect(algorithm);
            let (first, second) = contents.as_bytes().split_at(1);
            let verify = |pieces: &[&[u8]]| {
                let mut verifier = checksum.verifier();
                pieces.iter().for_each(|piece| verifier.update(piece));
                verifier.matches()
            };
            assert!(verify(&[first, second]), "{algorithm}");
            assert!(!verify(&[second, first]) && !verify(&[]), "{algorithm}");
            assert!(ManifestChecksum::parse(algorithm, &hex[2..]).is_none());
        }
        assert!(ManifestChecksum::parse("MD5", "00").is_none());
    }

    #[test]
    fn paths_that_lead_out_or_stand_there_twice_are_refused() {
        for path in [
            "\"Path\": \"/etc/passwd\"",
            "\"Path\": \"../x\"",
            "\"Path\": \"\"",
            "\"Encoded-Path\": \"2e2e2f78\"",
            "\"Encoded-Path\": \"2g\"",
            "\"Encoded-Path\": \"2\"",
            "\"Path\": \"a\", \"Encoded-Path\": \"61\"",
            "\"Path\": \"first\"",
        ] {
            let files = [file("\"Path\": \"first\"", ""), file(path, "")].join(",\n");
            let found = BackupManifest::parse(&manifest(V1, &files, RANGE));
            assert!(
                matches!(found, Err(ManifestError::Path { number: 2 })),
                "{path}"
            );
        }
    }

    #[test]
    fn other_versions_checksums_and_ranges_are_refused() {
        let one = file("\"Path\": \"a\"", "");
        let parse = |head: &str, files: &str, range: &str| {
            BackupManifest::parse(&manifest(head, files, range)).expect_err("refused")
        };
        let version = parse("\"PostgreSQL-Backup-Manifest-Version\": 3", &one, RANGE);
        assert!(matches!(version, ManifestError::Version(3)));
        for rest in [
            ", \"Checksum-Algorithm\": \"CRC32C\"",
            ", \"Checksum\": \"64440205\"",
            ", \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"6444020\"",
        ] {
            let refused = parse(V1, &file("\"Path\": \"a\"", rest), RANGE);
            assert!(
                matches!(refused, ManifestError::FileChecksum { number: 1 }),
                "{rest}"
            );
        }
        for range in [
            RANGE.replace("45400120", "45400027"),
            RANGE.replace(": 2", ": 0"),
        ] {
            assert!(matches!(parse(V1, &one, &range), ManifestError::WalRange));
        }
    }

    proptest! {
        #[test]
        fn any_changed_byte_is_noticed(at in any::<prop::sample::Index>(), change in 1..=255_u8) {
            let mut bytes = manifest(V1, &file("\"Path\": \"PG_VERSION\"", PG_VERSION), RANGE);
            let intact = BackupManifest::parse(&bytes).expect("valid");
            let at = at.index(bytes.len());
            bytes[at] ^= change;
            // What remains is white space and the case of digits in the last line, which carry nothing.
            if let Ok(found) = BackupManifest::parse(&bytes) {
                prop_assert!(at > bytes.len() - 90);
                prop_assert_eq!(found, intact);
            }
        }

        #[test]
        fn any_truncation_is_noticed(cut in any::<prop::sample::Index>()) {
            let bytes = manifest(V1, &file("\"Path\": \"PG_VERSION\"", PG_VERSION), RANGE);
            let cut = cut.index(bytes.len() - 1);
            prop_assert!(BackupManifest::parse(&bytes[..cut]).is_err());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..500)) {
            let _ = BackupManifest::parse(&bytes);
        }
    }
}
