//! Our own manifest of a backup: it is sealed, and still what it names is bounded when it is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_postgres::backup::BackupManifest;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = BackupManifest::decode(bytes) {
        assert!(BackupManifest::decode(&manifest.encode()).is_ok());
    }
});
