//! What was loaded is read back and compared with the fold: as many documents, and the same ones, byte for byte.

use bson::RawDocumentBuf;

use super::Load;
use crate::fold::Content;
use crate::restore::RestoreError;
use crate::restore::select::Target;

/// Documents that a read brings at a time.
const BATCH: u32 = 20_000;

/// Compares one collection.
pub(super) async fn collection(
    load: &Load,
    target: &Target,
    expected: &Content,
) -> Result<(), RestoreError> {
    let stored = target.stored_in();
    let doing = || format!("read {}.{stored} back", target.db);
    let collection = load
        .client
        .database(&target.db)
        .collection::<RawDocumentBuf>(&stored);
    let cursor = collection.find(bson::doc! {}).batch_size(BATCH).await;
    let mut cursor = cursor.map_err(RestoreError::server(doing()))?;
    let mut found = Content::default();
    while cursor
        .advance()
        .await
        .map_err(RestoreError::server(doing()))?
    {
        found.add(cursor.current().as_bytes());
    }
    if found == *expected {
        return Ok(());
    }
    Err(RestoreError::Mismatch {
        namespace: target.namespace(),
        found: found.documents,
        expected: expected.documents,
        hint: "somebody else may have written to the target",
    })
}
