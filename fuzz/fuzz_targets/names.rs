//! What is read from keys of the store and from command lines: whatever is accepted reads back from its own text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_archive::catalogue::BackupId;
use pitr_archive::keys::Recipient;
use pitr_archive::layout;
use pitr_archive::object::{Id, StreamName};
use pitr_archive::store::is_key;
use pitr_postgres::{Lsn, Target, TimelineId, WalFileName};

fuzz_target!(|text: &str| {
    if let Ok(recipient) = text.parse::<Recipient>() {
        assert_eq!(recipient.to_string(), text);
    }
    if let Ok(backup) = text.parse::<BackupId>() {
        assert_eq!(backup.to_string(), text);
        let _ = backup.moment();
    }
    if let Some(id) = Id::parse(text) {
        assert_eq!(id.to_string(), text);
    }
    if let Some(stream) = StreamName::new(text) {
        assert!(is_key(&layout::head(&stream)));
    }
    if let Some(seq) = layout::segment_seq(text) {
        assert!(text.ends_with(&format!("{seq:016x}")));
    }
    if let Ok(lsn) = text.parse::<Lsn>() {
        assert_eq!(lsn.to_string().parse(), Ok(lsn));
    }
    let _ = text.parse::<Target>();
    let _ = TimelineId::from_stream(text);
    for segment_bytes in [1 << 20, 1 << 24, 1 << 30] {
        let _ = WalFileName::parse(text, segment_bytes);
    }
});
