//! Any bytes are an error, or a segment's summary that encodes and decodes again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_mongodb::LogSummary;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(summary) = LogSummary::decode(bytes) {
        assert_eq!(
            LogSummary::decode(&summary.encode()).expect("ours"),
            summary
        );
    }
});
