//! Any update of any document: an error, or a document whose elements can be walked and which the same update leaves as it is.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_mongodb::fold::diff::{Update, apply};
use pitr_mongodb::fold::key::key;
use pitr_mongodb::fold::raw::Document;

fuzz_target!(|bytes: &[u8]| {
    let Ok((document, rest)) = Document::split(bytes) else {
        return;
    };
    let Ok((update, _)) = Document::split(rest) else {
        return;
    };
    for element in document.elements().flatten() {
        let _ = key(1, element.value);
    }
    let Ok(Update::Diff(diff)) = Update::new(update) else {
        return;
    };
    if let Ok(after) = apply(document, diff) {
        let after = Document::new(&after).expect("ours");
        if document.elements().all(|element| element.is_ok()) {
            assert!(after.elements().all(|element| element.is_ok()));
        }
        let again = apply(after, diff).expect("it was applied before");
        assert_eq!(again, after.bytes());
    }
});
