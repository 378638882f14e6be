//! Single documents into collections that live: each replaces the one with its `_id`, or is added. Nothing else is touched.

use std::sync::{Arc, Mutex};

use bson::RawDocumentBuf;

use super::{Load, raw};
use crate::fold::raw::Document;
use crate::fold::{Batch, FoldError, Folded, Sink, Wanted};
use crate::restore::select::Selected;
use crate::restore::{Event, Fold, RestoreError, Watch, is_chunks};

/// More is a collection to restore, not a document.
const BYTES_MAX: usize = 256 * 1024 * 1024;

#[derive(Default)]
struct Kept(Mutex<Vec<(u32, Vec<u8>)>>);

impl Sink for Kept {
    fn documents(&self, collection: u32, batch: Batch) -> Result<(), FoldError> {
        let mut kept = self.0.lock().expect("no holder panics");
        let held: usize = kept.iter().map(|(_, document)| document.len()).sum();
        if held + batch.bytes.len() > BYTES_MAX {
            return Err(FoldError::Sink("that is too much to be put into a living collection: restore it under another name".into()));
        }
        let mut rest = batch.bytes.as_slice();
        while let Ok((document, after)) = Document::split(rest) {
            kept.push((collection, document.bytes().to_vec()));
            rest = after;
        }
        Ok(())
    }
}

/// Folds the documents of `wanted` and puts them in place.
pub(super) async fn replace(
    fold: &Fold,
    selected: &Selected,
    wanted: Vec<Wanted>,
    load: &Load,
    watch: &Watch,
) -> Result<Folded, RestoreError> {
    let kept = Arc::new(Kept::default());
    let folded = fold
        .documents(wanted, selected.others.clone(), Arc::clone(&kept) as _)
        .await?;
    let kept = std::mem::take(&mut *kept.0.lock().expect("no holder panics"));
    if kept.is_empty() {
        return Err(RestoreError::Request(
            "there is no such document at the target".into(),
        ));
    }
    // Chunks first: a file is there when its entry is.
    let (files, chunks): (Vec<_>, Vec<_>) = kept
        .into_iter()
        .partition(|(number, _)| !is_chunks(&selected.targets[*number as usize], selected));
    for (number, document) in chunks.into_iter().chain(files) {
        let target = &selected.targets[number as usize];
        let doing = || format!("put a document into {}", target.namespace());
        let collection = load
            .client
            .database(&target.db)
            .collection::<RawDocumentBuf>(&target.name);
        let document = raw(document)?;
        let id = document.get("_id").ok().flatten().map(bson::RawBson::from);
        let id: Option<bson::Bson> = id.and_then(|id| id.try_into().ok());
        let id = id.ok_or_else(|| RestoreError::Request("a document without _id".into()))?;
        let replaced = collection
            .replace_one(bson::doc! { "_id": id }, document)
            .upsert(true)
            .await;
        replaced.map_err(RestoreError::server(doing()))?;
        watch(Event::Placed(1));
    }
    Ok(folded)
}
