//! Any bytes are an error, or a summary that encodes and decodes again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_postgres::WalSummary;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(summary) = WalSummary::decode(bytes) {
        assert_eq!(
            WalSummary::decode(&summary.encode()).expect("ours"),
            summary
        );
        let _ = (summary.may_hold_xid(7), summary.may_hold_name("name"));
    }
});
