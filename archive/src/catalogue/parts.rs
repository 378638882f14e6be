//! The parts of a base backup: what a listing shows of them, and what it does not show and the store has all the same.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;

use super::BackupId;
use crate::archive::Archive;
use crate::error::ArchiveError;
use crate::layout;
use crate::object::{Kind, object_bytes};
use crate::store::Listed;

/// Hidden parts that are looked for by name.
const HIDDEN_MAX: usize = 64;

/// The parts of a base backup that a listing shows, in order.
pub async fn listed_parts(archive: &Archive, id: BackupId) -> Result<Vec<Listed>, ArchiveError> {
    let prefix = format!("{}{id}/", layout::BASE);
    let id = id.to_string();
    let (first, end) = (layout::part(&id, 0), layout::manifest(&id));
    let listed = archive.store().list(&prefix, first.as_str()..end.as_str());
    Ok(listed.await?)
}

/// Parts 0, 1, … of a base backup up to the first one that is missing, at most `count`. `listed` is what a listing shows of them; a
/// delete marker hides a part from a listing, so what is not shown is asked for by name.
pub async fn present_parts(
    archive: &Archive,
    id: BackupId,
    count: u64,
    listed: &[Listed],
) -> Result<Vec<Listed>, ArchiveError> {
    let numbered = |object: &Listed| Some((layout::segment_seq(&object.key)?, object.clone()));
    let mut present: BTreeMap<u64, Listed> = listed.iter().filter_map(numbered).collect();
    let hidden = (0..count).filter(|part| !present.contains_key(part));
    let asked = hidden
        .take(HIDDEN_MAX)
        .map(|part| by_name(archive, id, part));
    for (part, object) in try_join_all(asked).await?.into_iter().flatten() {
        present.insert(part, object);
    }
    let parts = (0..count).map_while(|part| present.remove(&part));
    Ok(parts.collect())
}

async fn by_name(
    archive: &Archive,
    id: BackupId,
    part: u64,
) -> Result<Option<(u64, Listed)>, ArchiveError> {
    let key = layout::part(&id.to_string(), part);
    let expected = archive.expected(Kind::Part, None, id.set_id(), part);
    let found = archive.preamble(&key, &expected).await?;
    Ok(found.map(|(preamble, _)| {
        let object_bytes = object_bytes(preamble.header.payload_bytes);
        (part, Listed { key, object_bytes })
    }))
}
