//! PostgreSQL's backup manifest, its own checksum made right where asked: no path leaves the data directory.
#![no_main]

use std::path::Component;

use libfuzzer_sys::fuzz_target;
use pitr_postgres::BackupManifest;
use sha2::{Digest, Sha256};

fuzz_target!(|input: (bool, &[u8])| {
    let (mend, bytes) = input;
    let mut bytes = bytes.to_vec();
    if mend {
        bytes.extend_from_slice(b",\n");
        let digest = Sha256::digest(&bytes);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        bytes.extend_from_slice(format!("\"Manifest-Checksum\": \"{hex}\"}}\n").as_bytes());
    }
    if let Ok(manifest) = BackupManifest::parse(&bytes) {
        for file in &manifest.files {
            assert!(
                file.path
                    .components()
                    .all(|part| matches!(part, Component::Normal(_)))
            );
        }
    }
});
