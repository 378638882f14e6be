//! Any log: an error, or a catalogue and documents; whatever the limit of memory, the same ones.
#![no_main]

use std::collections::BTreeSet;
use std::sync::Mutex;

use bson::Uuid;
use libfuzzer_sys::fuzz_target;
use pitr_mongodb::fold::catalogue::Catalogue;
use pitr_mongodb::fold::raw::Document;
use pitr_mongodb::fold::{
    Batch, Content, Documents, FoldError, Keep, Limits, Sink, Unwrapper, Wanted,
};

struct Kept(Mutex<Content>);

impl Sink for Kept {
    fn documents(&self, _: u32, batch: Batch) -> Result<(), FoldError> {
        let mut rest = batch.bytes.as_slice();
        while let Ok((document, after)) = Document::split(rest) {
            self.0
                .lock()
                .expect("no holder panics")
                .add(document.bytes());
            rest = after;
        }
        Ok(())
    }
}

fn fold(entries: &[Document<'_>], memory_bytes: usize) -> Option<Content> {
    let wanted = Wanted {
        uuid: Uuid::from_bytes([7; 16]),
        namespace: "a.b".into(),
        ordered: None,
        id: None,
        filter: None,
    };
    let scratch = std::env::temp_dir();
    let limits = Limits {
        memory_bytes,
        threads: 1,
        scratch: scratch.clone(),
    };
    let mut documents = Documents::new(vec![wanted], BTreeSet::new(), 0, limits).ok()?;
    let mut unwrapper = Unwrapper::new(Keep::All, scratch).holding(memory_bytes / 2);
    for entry in entries {
        unwrapper
            .push(entry.bytes(), &mut |entry| documents.apply(entry))
            .ok()?;
    }
    let kept = Kept(Mutex::default());
    let folded = documents.finish(&kept).ok()?;
    let kept = kept.0.into_inner().expect("no holder panics");
    assert_eq!(folded.contents, [kept]);
    Some(kept)
}

fuzz_target!(|bytes: &[u8]| {
    let (mut entries, mut rest) = (Vec::new(), bytes);
    while let Ok((entry, after)) = Document::split(rest) {
        entries.push(entry);
        rest = after;
    }
    let mut catalogue = Catalogue::default();
    let mut unwrapper = Unwrapper::new(Keep::Commands, std::env::temp_dir());
    let pushed = entries
        .iter()
        .try_for_each(|entry| unwrapper.push(entry.bytes(), &mut |entry| catalogue.apply(entry)));
    if pushed.is_ok() {
        let _ = catalogue.finish();
    }
    assert_eq!(fold(&entries, 1 << 26), fold(&entries, 1));
});
