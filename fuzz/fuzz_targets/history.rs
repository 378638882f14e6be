//! Any bytes are an error, or a history whose ancestors are in order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_postgres::{TimelineHistory, TimelineId};

fuzz_target!(|input: (u8, &[u8])| {
    let (timeline, bytes) = input;
    let timeline = TimelineId(u32::from(timeline) + 2);
    if let Ok(history) = TimelineHistory::parse(timeline, bytes) {
        let ancestors: Vec<_> = history
            .ancestors()
            .map(|ancestor| ancestor.timeline)
            .collect();
        assert!(ancestors.is_sorted());
        assert!(ancestors.iter().all(|ancestor| *ancestor < timeline));
    }
});
