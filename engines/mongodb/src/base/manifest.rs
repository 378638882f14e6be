//! Our manifest of a base copy: which collections there are, word for word as the source described them, and where in the parts
//! their documents lie. Sealed, put last: without it the copy does not exist.

use bson::{RawDocumentBuf, Uuid};
use serde::{Deserialize, Serialize};

use crate::ClusterTime;

const VERSION: i32 = 1;
/// The smallest document.
const DOCUMENT_BYTES_MIN: u64 = 5;

/// A range of the copy's contents, which are what all parts hold, end to end: whole documents of one collection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extent {
    /// The part that holds its first byte.
    pub part: u64,
    /// First byte, counted over all parts.
    pub offset: u64,
    /// Bytes.
    pub bytes: u64,
    /// Documents.
    pub documents: u64,
}

/// What a namespace is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CollectionKind {
    /// An ordinary collection; capped and clustered ones say so in their options.
    Collection,
    /// A view: no documents, no UUID.
    View,
    /// A time series: its documents lie in its `system.buckets` collection.
    Timeseries,
}

/// One namespace of the source.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Collection {
    /// Its database.
    pub db: String,
    /// Its name within the database.
    pub name: String,
    /// What it is.
    pub kind: CollectionKind,
    /// What the log calls it; `None` for views and time series.
    pub uuid: Option<Uuid>,
    /// The document of `listCollections`, word for word.
    pub info: RawDocumentBuf,
    /// The documents of `listIndexes`, word for word.
    pub indexes: Vec<RawDocumentBuf>,
    /// Where its documents lie. In natural order for capped and clustered collections, otherwise in no order; the same
    /// `_id` can appear twice, and the later extent is then the later version.
    pub extents: Vec<Extent>,
}

impl Collection {
    /// `db.name`.
    #[must_use]
    pub fn namespace(&self) -> String {
        format!("{}.{}", self.db, self.name)
    }

    /// Documents in all extents.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.extents.iter().map(|extent| extent.documents).sum()
    }

    /// Bytes in all extents.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.extents.iter().map(|extent| extent.bytes).sum()
    }
}

/// The manifest of a base copy.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseManifest {
    /// Of this document.
    pub version: i32,
    /// What the operator called it.
    pub label: String,
    /// Version of the server it was taken from.
    pub server_version: String,
    /// Feature compatibility version, which did not change while it was taken.
    pub fcv: String,
    /// Replay begins with the first entry behind it: the start of the oldest transaction that was open, or the majority time, when
    /// the copy began.
    pub t0: ClusterTime,
    /// The majority time when it ended: no target before it can be reached.
    pub t1: ClusterTime,
    /// When it began, by our clock.
    pub started: bson::DateTime,
    /// When it ended.
    pub finished: bson::DateTime,
    /// All namespaces but those of `local` and `config`.
    pub collections: Vec<Collection>,
    /// The documents of `admin.system.users`, word for word.
    pub users: Vec<RawDocumentBuf>,
    /// The documents of `admin.system.roles`, word for word.
    pub roles: Vec<RawDocumentBuf>,
    /// Bytes of all contents.
    pub contents_bytes: u64,
    /// Number of parts.
    pub parts: u64,
}

/// A manifest that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not the BSON it should be.
    #[error("the base copy's manifest cannot be read: {0}")]
    Bson(String),
    /// Written by a later release.
    #[error("the base copy's manifest has version {0}, this release reads version {VERSION}")]
    Version(i32),
    /// An extent lies outside the contents, is too short for its documents, or all are longer than the contents.
    #[error("the base copy's manifest places documents of {0} where they cannot be")]
    Outside(String),
    /// T1 before T0.
    #[error("the base copy's manifest ends before it begins")]
    Backwards,
}

impl BaseManifest {
    /// The version that this release writes.
    pub const VERSION: i32 = VERSION;

    /// As it is sealed.
    pub fn encode(&self) -> Result<Vec<u8>, ManifestError> {
        bson::serialize_to_vec(self).map_err(|error| ManifestError::Bson(error.to_string()))
    }

    /// Reads and checks it: every extent lies in the contents.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = bson::deserialize_from_slice(bytes)
            .map_err(|error| ManifestError::Bson(error.to_string()))?;
        if manifest.version != VERSION {
            return Err(ManifestError::Version(manifest.version));
        }
        if manifest.t1 < manifest.t0 {
            return Err(ManifestError::Backwards);
        }
        let mut left = manifest.contents_bytes;
        for collection in &manifest.collections {
            let fits = |extent: &Extent| {
                let end = extent.offset.checked_add(extent.bytes);
                // No byte is a document's twice; so sums over extents stay numbers.
                let rest = left.checked_sub(extent.bytes);
                left = rest.unwrap_or(0);
                rest.is_some()
                    && end.is_some_and(|end| end <= manifest.contents_bytes)
                    && extent.documents <= extent.bytes / DOCUMENT_BYTES_MIN
                    && extent.part < manifest.parts
            };
            if !collection.extents.iter().all(fits) {
                return Err(ManifestError::Outside(collection.namespace()));
            }
        }
        Ok(manifest)
    }

    /// Documents of all collections.
    #[must_use]
    pub fn documents(&self) -> u64 {
        self.collections.iter().map(Collection::documents).sum()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use bson::{DateTime, doc, rawdoc};

    use super::*;

    pub(crate) fn manifest() -> BaseManifest {
        let collection = Collection {
            db: "shop".into(),
            name: "orders".into(),
            kind: CollectionKind::Collection,
            uuid: Some(Uuid::from_bytes([9; 16])),
            info: rawdoc! { "name": "orders", "type": "collection", "options": { "validator": { "a": { "$exists": true } } } },
            indexes: vec![rawdoc! { "v": 2, "key": { "_id": 1 }, "name": "_id_" }],
            extents: vec![
                Extent {
                    part: 0,
                    offset: 0,
                    bytes: 60,
                    documents: 2,
                },
                Extent {
                    part: 1,
                    offset: 60,
                    bytes: 40,
                    documents: 1,
                },
            ],
        };
        BaseManifest {
            version: VERSION,
            label: "nightly".into(),
            server_version: "6.0.5".into(),
            fcv: "6.0".into(),
            t0: ClusterTime::new(10, 1),
            t1: ClusterTime::new(12, 3),
            started: DateTime::from_millis(10_000),
            finished: DateTime::from_millis(12_000),
            collections: vec![collection],
            users: vec![rawdoc! { "_id": "admin.u", "user": "u" }],
            roles: vec![],
            contents_bytes: 100,
            parts: 2,
        }
    }

    #[test]
    fn a_manifest_reads_back_word_for_word() {
        let manifest = manifest();
        let read = BaseManifest::decode(&manifest.encode().unwrap()).unwrap();
        assert_eq!(read, manifest);
        assert_eq!((read.documents(), read.collections[0].bytes()), (3, 100));
        assert_eq!(read.collections[0].namespace(), "shop.orders");
    }

    #[test]
    fn documents_outside_the_contents_are_refused() {
        let mut outside = manifest();
        outside.collections[0].extents[1].bytes = 41;
        assert!(
            matches!(BaseManifest::decode(&outside.encode().unwrap()), Err(ManifestError::Outside(ns)) if ns == "shop.orders")
        );
        let mut beyond = manifest();
        beyond.collections[0].extents[1].part = 2;
        assert!(matches!(
            BaseManifest::decode(&beyond.encode().unwrap()),
            Err(ManifestError::Outside(_))
        ));
        for wrong in [
            // On top of the first one.
            Extent {
                part: 0,
                offset: 10,
                bytes: 60,
                documents: 1,
            },
            Extent {
                part: 1,
                offset: 60,
                bytes: 40,
                documents: 9,
            },
        ] {
            let mut crowded = manifest();
            crowded.collections[0].extents[1] = wrong;
            assert!(matches!(
                BaseManifest::decode(&crowded.encode().unwrap()),
                Err(ManifestError::Outside(_))
            ));
        }
        let mut backwards = manifest();
        backwards.t1 = ClusterTime::new(9, 0);
        assert!(matches!(
            BaseManifest::decode(&backwards.encode().unwrap()),
            Err(ManifestError::Backwards)
        ));
    }

    #[test]
    fn what_a_later_release_wrote_is_refused() {
        let mut later = manifest();
        later.version = 2;
        assert!(matches!(
            BaseManifest::decode(&later.encode().unwrap()),
            Err(ManifestError::Version(2))
        ));
        let other = bson::serialize_to_vec(&doc! { "version": 1 }).unwrap();
        assert!(matches!(
            BaseManifest::decode(&other),
            Err(ManifestError::Bson(_))
        ));
    }
}
