//! Tar archives and manifests made by hand, as the server makes them.

use sha2::{Digest, Sha256};

const BLOCK_BYTES: usize = 512;

/// One tar header with a right checksum.
pub(in crate::backup) fn header(name: &str, kind: u8, bytes: usize) -> Vec<u8> {
    let mut header = vec![0; BLOCK_BYTES];
    let mut put = |at: usize, text: &str| {
        header[at..at + text.len()].copy_from_slice(text.as_bytes());
    };
    put(0, name);
    put(100, "0000600 ");
    put(124, &format!("{bytes:011o} "));
    put(136, "15000000000 ");
    put(257, "ustar\x0000");
    header[156] = kind;
    header[148..156].fill(b' ');
    let sum: u64 = header.iter().map(|&byte| u64::from(byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// A file with its contents and padding.
pub(in crate::backup) fn file(name: &str, contents: &[u8]) -> Vec<u8> {
    let mut out = header(name, b'0', contents.len());
    out.extend_from_slice(contents);
    out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
    out
}

/// The end of an archive.
pub(in crate::backup) fn end() -> Vec<u8> {
    vec![0; 2 * BLOCK_BYTES]
}

/// PostgreSQL's manifest of these files.
pub(in crate::backup) fn manifest(files: &[(&str, &[u8])]) -> Vec<u8> {
    let files: Vec<String> = files
        .iter()
        .map(|(path, contents)| {
            let crc = hex(&crc32c::crc32c(contents).to_le_bytes());
            format!(
                "{{ \"Path\": \"{path}\", \"Size\": {}, \"Last-Modified\": \"2026-11-21 03:15:00 GMT\", \
                 \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\" }}",
                contents.len()
            )
        })
        .collect();
    let covered = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{}\n],\n\"WAL-Ranges\": [\n\
         {{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }}\n],\n",
        files.join(",\n")
    );
    let sum = hex(&Sha256::digest(covered.as_bytes()));
    format!("{covered}\"Manifest-Checksum\": \"{sum}\"}}\n").into_bytes()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
