//! Views in an archive of events: a change stream tells of them by name, so the base copy's come from what its catalogue says, not
//! from the `system.views` that servers keep.

use std::collections::{BTreeMap, BTreeSet};

use bson::Uuid;

use crate::ClusterTime;
use crate::base::{BaseManifest, CollectionKind, views};
use crate::fold::catalogue::Collection;
use crate::fold::raw::Builder;
use crate::fold::views_of;

/// The collections that hold the base copy's views.
pub(super) fn collections(manifest: &BaseManifest) -> Vec<Collection> {
    let dbs: BTreeSet<&str> = views(manifest).map(|found| found.db.as_str()).collect();
    let collection = |db: &str| Collection {
        uuid: views_of(db, ClusterTime::default()),
        db: db.to_owned(),
        name: views::NAME.into(),
        options: Builder::new().finish(),
        indexes: Vec::new(),
    };
    dbs.into_iter().map(collection).collect()
}

/// Their rows, end to end.
pub(super) fn rows(manifest: &BaseManifest) -> BTreeMap<Uuid, Vec<u8>> {
    let mut rows = BTreeMap::<Uuid, Vec<u8>>::new();
    for found in views(manifest) {
        let row = views::row(&found.db, &found.name, &found.info);
        let uuid = views_of(&found.db, ClusterTime::default());
        rows.entry(uuid).or_default().extend(row);
    }
    rows
}

fn views(manifest: &BaseManifest) -> impl Iterator<Item = &crate::base::Collection> {
    let is_view = |found: &&crate::base::Collection| found.kind == CollectionKind::View;
    manifest.collections.iter().filter(is_view)
}
