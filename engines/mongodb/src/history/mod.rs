//! The history of one document: what the log says happened to it, entry by entry, on top of what the base copy saw. The way is that of
//! the fold; only here every step is kept.

mod track;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use bson::Uuid;

use crate::ClusterTime;
use crate::fold::key::key;
use crate::fold::raw::Document;
use crate::restore::{Fold, Name, RestoreError};
use track::Tracker;

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// The base copy found it so; since when is not known.
    Copied,
    /// Inserted.
    Inserted,
    /// Replaced as a whole.
    Replaced,
    /// Changed in part.
    Updated,
    /// Deleted.
    Deleted,
    /// Its collection got this name.
    CollectionRenamed,
    /// Its collection was dropped, or lost this name.
    CollectionGone,
}

/// A version of a document.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    /// The entry that made it; a transaction's is its commit. Of [`Change::Copied`] the moment at which the copy is whole.
    pub at: ClusterTime,
    /// The source's clock then, ms since the Unix epoch; `None` for what the base copy found.
    pub wall_ms: Option<i64>,
    /// What happened.
    pub change: Change,
    /// What changed of it, as the log says it: BSON.
    pub diff: Option<Vec<u8>>,
    /// The document then: BSON; `None` while there is none.
    pub document: Option<Vec<u8>>,
    /// Whether the document may be newer in parts than the moment: the base copy was not whole yet and nothing has
    /// replaced what it saw.
    pub provisional: bool,
}

/// All versions of the document with this `_id` (BSON with one field) while its collection was called `name`, oldest first, as far
/// back as the base copy of `fold` reaches.
///
/// # Errors
/// [`RestoreError::Request`] if no collection had that name.
pub async fn history(fold: &Fold, name: &Name, id: &[u8]) -> Result<Vec<Version>, RestoreError> {
    let Some(collection) = name.collection.clone() else {
        return Err(RestoreError::Request(
            "name a collection, as db.collection".into(),
        ));
    };
    let id = Document::new(id)
        .ok()
        .and_then(|id| id.elements().next()?.ok());
    let id = id.ok_or_else(|| RestoreError::Request("the _id is not BSON".into()))?;
    let key = key(0, id.value);
    let named = (name.db.clone(), collection);
    let uuids = candidates(fold, &named).await?;
    if uuids.is_empty() {
        let reason = format!("nothing was called {}.{} in this time", named.0, named.1);
        return Err(RestoreError::Request(reason));
    }
    let mut tracker = Tracker::new(named, key, fold.base().manifest().t1);
    for found in &fold.base().manifest().collections {
        let Some(uuid) = found.uuid.filter(|uuid| uuids.contains(uuid)) else {
            continue;
        };
        let row = fold.row(found, key).await?;
        tracker.copied(uuid, (found.db.clone(), found.name.clone()), row);
    }
    let tracker = Arc::new(Mutex::new(tracker));
    let shared = Arc::clone(&tracker);
    fold.operations(move |entry| {
        let mut tracker = shared.lock().expect("no holder panics");
        if entry.uuid.is_some_and(|uuid| uuids.contains(&uuid)) || tracker.drops(entry)? {
            tracker.apply(entry)?;
        }
        Ok(())
    })
    .await?;
    let mut tracker = tracker.lock().expect("no holder panics");
    Ok(std::mem::take(&mut tracker.versions))
}

/// The collections that ever had the name.
async fn candidates(fold: &Fold, named: &(String, String)) -> Result<BTreeSet<Uuid>, RestoreError> {
    let of_base = fold.base().manifest().collections.iter();
    let of_base = of_base.filter(|found| (&found.db, &found.name) == (&named.0, &named.1));
    let uuids: BTreeSet<Uuid> = of_base.filter_map(|found| found.uuid).collect();
    let uuids = Arc::new(Mutex::new(uuids));
    let (shared, named) = (Arc::clone(&uuids), named.clone());
    fold.operations(move |entry| {
        if let (Some(name), Some(uuid)) = (track::new_name(entry)?, entry.uuid)
            && name == named
        {
            shared.lock().expect("no holder panics").insert(uuid);
        }
        Ok(())
    })
    .await?;
    let uuids = uuids.lock().expect("no holder panics");
    Ok(uuids.clone())
}
