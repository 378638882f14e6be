//! Any bytes are an error, or a manifest of a base copy that encodes and decodes again, and whose sums are numbers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_mongodb::base::BaseManifest;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = BaseManifest::decode(bytes) {
        let again = manifest.encode().expect("what was read can be written");
        assert_eq!(BaseManifest::decode(&again).expect("ours"), manifest);
        for collection in &manifest.collections {
            assert!(collection.bytes() <= manifest.contents_bytes);
        }
        assert!(manifest.documents() <= manifest.contents_bytes);
    }
});
