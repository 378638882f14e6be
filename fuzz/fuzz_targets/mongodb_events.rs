//! Any log of events: an error, or a catalogue and operations on documents; the catalogue alone sees the same commands, and what a fold
//! takes, plans and summaries can name.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_mongodb::LogKind;
use pitr_mongodb::fold::catalogue::Catalogue;
use pitr_mongodb::fold::raw::Document;
use pitr_mongodb::fold::{Events, Keep};

/// The operations that `documents` become, commands only with that `keep`; `None` if they are refused.
fn commands(documents: &[Document<'_>], keep: Keep) -> Option<Vec<Vec<u8>>> {
    let (mut events, mut commands) = (Events::new(keep), Vec::new());
    for document in documents {
        events
            .push(document.bytes(), &mut |entry| {
                if entry.op == "c" {
                    commands.push(entry.object.bytes().to_vec());
                } else {
                    assert!(keep == Keep::All, "only commands were asked for");
                }
                Ok(())
            })
            .ok()?;
    }
    Some(commands)
}

fuzz_target!(|bytes: &[u8]| {
    let mut summary = pitr_mongodb::LogSummary::default();
    for (head, _) in LogKind::Events.entries(bytes).flatten() {
        summary.observe(&head);
    }
    assert!(pitr_mongodb::LogSummary::decode(&summary.encode()).is_ok());
    let (mut documents, mut rest) = (Vec::new(), bytes);
    while let Ok((document, after)) = Document::split(rest) {
        documents.push(document);
        rest = after;
    }
    if let Some(all) = commands(&documents, Keep::All) {
        assert_eq!(Some(all), commands(&documents, Keep::Commands));
    }
    let (mut events, mut catalogue) = (Events::new(Keep::Commands), Catalogue::default());
    let folded = documents
        .iter()
        .try_for_each(|document| events.push(document.bytes(), &mut |entry| catalogue.apply(entry)));
    if folded.is_ok() {
        let _ = catalogue.finish();
    }
});
