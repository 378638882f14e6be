//! Tests of `backup_manifest`.

use super::*;
use proptest::prelude::*;

/// Lines as PostgreSQL 17 writes them, closed with the right checksum.
fn manifest(head: &str, files: &str, ranges: &str) -> Vec<u8> {
    let text = format!("{{ {head},\n\"Files\": [\n{files}\n],\n\"WAL-Ranges\": [\n{ranges}\n],\n");
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
    let head =
        "\"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 17710462578499178706";
    let found = BackupManifest::parse(&manifest(head, &files.join(",\n"), RANGE)).expect("valid");
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
