//! Any bytes are no signed document; any document that a writer did sign unwraps to a key or an error.
#![no_main]

use std::sync::OnceLock;

use ed25519_dalek::SigningKey;
use libfuzzer_sys::fuzz_target;
use pitr_archive::keys::{Identity, KeyFile, Opener, SignedDocument, WrappedDataKey};
use pitr_archive::object::Id;
use pitr_archive::reader::Head;

fuzz_target!(|bytes: &[u8]| {
    static OPENERS: OnceLock<[Opener; 2]> = OnceLock::new();
    let openers = OPENERS.get_or_init(|| {
        [
            Opener::Identity(Identity::generate()),
            Opener::KeyFile(KeyFile::generate()),
        ]
    });
    let writer = SigningKey::from_bytes(&[7; 32]).verifying_key();
    assert!(SignedDocument::verify::<Head>("log/a/head", bytes, &writer).is_err());
    if let Ok(wrapped) = serde_json::from_slice::<WrappedDataKey>(bytes) {
        for opener in openers {
            assert!(
                wrapped
                    .unwrap("keys/x.json", Id([1; 16]), Id([2; 16]), opener)
                    .is_err()
            );
        }
    }
});
