//! WAL records checked as they pass: bytes from the replication socket (or from an archive) go in, in slices of any
//! length, and the records that a recovery can stop at come out, along with any damage.

mod event;
mod fields;
mod framing;
mod page;
mod reader;
mod record;
mod summary;
#[cfg(test)]
mod synthetic;
#[cfg(test)]
mod tests;

pub(crate) use page::{PAGE_BYTES, page_is_at};

pub use event::{DamageReason, RelationFile, TransactionEnd, WalEvent};
pub use reader::{SegmentSizeError, WalReader};
pub use summary::{RestorePoint, SummaryError, WalSummary};
