//! Reading a base copy back: its manifest, and the documents of one collection after the other, as the source sent them.
//!
//! Memory: two opened parts and the one that is being opened (at most 33 MiB each, twice that while it is), and the extents that are
//! under way, of about 4 MiB each.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use futures_util::{Stream, StreamExt, stream};
use pitr_archive::catalogue::BackupId;
use pitr_archive::object::{Kind, Opened};
use pitr_archive::{ArchiveError, Reading, layout};
use tokio::sync::OnceCell;

use super::manifest::{BaseManifest, Collection, Extent, ManifestError};

/// Opened parts that are kept; extents that lie next to each other share them.
const PARTS_KEPT: usize = 2;
/// Extents that are read ahead of who consumes them.
const EXTENTS_AHEAD: usize = 2;

/// A base copy that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BaseError {
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// Its manifest cannot be used.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The parts do not hold what the manifest says.
    #[error("base copy {backup}: {reason}")]
    Contradiction {
        /// Which one.
        backup: String,
        /// What does not fit.
        reason: String,
    },
}

type Part = Arc<OnceCell<Arc<Opened>>>;

/// A base copy that is whole.
#[derive(Debug)]
pub struct BaseReader {
    reading: Arc<Reading>,
    id: BackupId,
    manifest: BaseManifest,
    parts: Mutex<VecDeque<(u64, Part)>>,
}

impl BaseReader {
    /// Reads and checks the manifest of the base copy `id`.
    pub async fn open(reading: Arc<Reading>, id: BackupId) -> Result<Self, BaseError> {
        let archive = reading.archive();
        let expected = archive.expected(Kind::Manifest, None, id.set_id(), 0);
        let opened = reading
            .fetch(&layout::manifest(&id.to_string()), &expected)
            .await?;
        let manifest = BaseManifest::decode(&opened.plaintext().map_err(ArchiveError::from)?)?;
        let parts = Mutex::default();
        Ok(Self {
            reading,
            id,
            manifest,
            parts,
        })
    }

    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> BackupId {
        self.id
    }

    /// What it consists of.
    #[must_use]
    pub fn manifest(&self) -> &BaseManifest {
        &self.manifest
    }

    /// The documents of a collection, extent by extent in their order; each item holds whole documents end to end
    /// ([`crate::split_documents`] takes them apart).
    pub fn documents<'a>(
        &'a self,
        collection: &'a Collection,
    ) -> impl Stream<Item = Result<Vec<u8>, BaseError>> + 'a {
        stream::iter(&collection.extents)
            .map(|extent| self.extent(extent))
            .buffered(EXTENTS_AHEAD)
    }

    /// Gives back what was kept to read on quickly.
    pub fn forget_parts(&self) {
        self.parts.lock().expect("no holder panics").clear();
    }

    /// The documents of one extent.
    pub async fn extent(&self, extent: &Extent) -> Result<Vec<u8>, BaseError> {
        let end = extent.offset + extent.bytes;
        let (mut at, mut out) = (extent.offset, Vec::with_capacity(extent.bytes as usize));
        for seq in extent.part.. {
            if at == end {
                break;
            }
            let part = self.part(seq).await?;
            let header = &part.header;
            if !(header.start..header.end).contains(&at) {
                return Err(
                    self.contradiction(format!("part {seq} does not hold what lies at {at}"))
                );
            }
            let stop = end.min(header.end);
            let range = at - header.start..stop - header.start;
            let unpack = tokio::task::spawn_blocking(move || part.range(range)).await;
            let piece =
                unpack.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            out.extend_from_slice(&piece.map_err(ArchiveError::from)?);
            at = stop;
        }
        if out.len() as u64 != extent.bytes {
            return Err(self.contradiction(format!(
                "{} bytes lie where the manifest says {}",
                out.len(),
                extent.bytes
            )));
        }
        Ok(out)
    }

    async fn part(&self, seq: u64) -> Result<Arc<Opened>, BaseError> {
        if seq >= self.manifest.parts {
            return Err(self.contradiction(format!("it has no part {seq}")));
        }
        let cell = {
            let mut parts = self.parts.lock().expect("no holder panics");
            match parts.iter().find(|(kept, _)| *kept == seq) {
                Some((_, cell)) => Arc::clone(cell),
                None => {
                    let cell = Part::default();
                    parts.push_back((seq, Arc::clone(&cell)));
                    if parts.len() > PARTS_KEPT {
                        parts.pop_front();
                    }
                    cell
                }
            }
        };
        let opened = cell.get_or_try_init(|| async {
            let expected = self
                .reading
                .archive()
                .expected(Kind::Part, None, self.id.set_id(), seq);
            let opened = self
                .reading
                .fetch(&layout::part(&self.id.to_string(), seq), &expected)
                .await?;
            Ok::<_, BaseError>(Arc::new(opened))
        });
        Ok(Arc::clone(opened.await?))
    }

    fn contradiction(&self, reason: String) -> BaseError {
        BaseError::Contradiction {
            backup: self.id.to_string(),
            reason,
        }
    }
}
