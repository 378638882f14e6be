//! One archive: a prefix in a store, for one database deployment.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use ed25519_dalek::VerifyingKey;
use futures_util::future::join;
use serde::{Deserialize, Serialize};

use crate::catalogue::Names;
use crate::error::ArchiveError;
use crate::keys::{Opener, SignedDocument, WrappedWriterKey, Wrapper, WriterKey};
use crate::layout;
use crate::object::{Expected, Id, Kind, Object, PREAMBLE_BYTES, Preamble, StreamName};
use crate::store::{Fetched, Piece, SharedStore, found};

const FORMAT: u32 = 1;

/// The document `archive.json`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    format: u32,
    archive_id: String,
    engine: String,
    source: BTreeMap<String, String>,
    writer_key: String,
    created: jiff::Timestamp,
}

/// An archive that exists.
#[derive(Debug)]
pub struct Archive {
    store: SharedStore,
    url: String,
    id: Id,
    engine: String,
    source: BTreeMap<String, String>,
    writer: VerifyingKey,
    names: Mutex<Option<Names>>,
}

impl Archive {
    /// Opens the archive in `store` and lists meanwhile what it holds, for whoever reads its catalogue next.
    pub async fn open_listed(store: SharedStore, url: &str) -> Result<Arc<Self>, ArchiveError> {
        let names = Names::list(&*store);
        let (archive, names) = join(Self::open(store.clone(), url), names).await;
        let archive = archive?;
        // What failed is listed again, and said, where it is needed.
        *archive.names.lock().expect("no holder panics") = names.ok();
        Ok(archive)
    }

    /// Opens the archive in `store`; `url` is how messages name it.
    pub async fn open(store: SharedStore, url: &str) -> Result<Arc<Self>, ArchiveError> {
        let fetched = found(store.get(layout::ARCHIVE, Piece::Whole).await)?;
        let bytes = fetched
            .ok_or_else(|| ArchiveError::Absent { url: url.into() })?
            .bytes;
        let unreadable = |reason: String| ArchiveError::Unreadable {
            key: layout::ARCHIVE.into(),
            reason,
        };
        let document: Document = serde_json::from_slice(&bytes)
            .map_err(|error| unreadable(format!("it is damaged: {error}")))?;
        if document.format != FORMAT {
            let reason = format!(
                "format {} is not known to this release, which reads {FORMAT}",
                document.format
            );
            return Err(unreadable(reason));
        }
        let id = Id::parse(&document.archive_id)
            .ok_or_else(|| unreadable("its archive id is not valid".into()))?;
        let writer = STANDARD
            .decode(&document.writer_key)
            .ok()
            .and_then(|key| <[u8; 32]>::try_from(key).ok());
        let writer = writer.and_then(|key| VerifyingKey::from_bytes(&key).ok());
        let writer = writer.ok_or_else(|| unreadable("its writer key is not valid".into()))?;
        let (engine, source) = (document.engine, document.source);
        Ok(Arc::new(Self {
            store,
            url: url.into(),
            id,
            engine,
            source,
            writer,
            names: Mutex::default(),
        }))
    }

    /// Creates the archive, or opens the one that exists if it is for the same source and writer. `source` says whose it is, in
    /// properties that never change.
    pub async fn create(
        store: SharedStore,
        url: &str,
        engine: &str,
        source: BTreeMap<String, String>,
        writer: &WriterKey,
        wrappers: &[Wrapper],
    ) -> Result<Arc<Self>, ArchiveError> {
        let document = Document {
            format: FORMAT,
            archive_id: Id::random().to_string(),
            engine: engine.into(),
            source,
            writer_key: STANDARD.encode(writer.public().as_bytes()),
            created: jiff::Timestamp::now(),
        };
        let body = serde_json::to_vec_pretty(&document).expect("strings are JSON");
        exists_or_put(&store, layout::ARCHIVE, body.into()).await?;
        let archive = Self::open(store, url).await?;
        archive.check_source(engine, &document.source)?;
        archive.check_writer(writer)?;
        let wrapped = archive.wrapped_writer_key(writer, wrappers);
        exists_or_put(&archive.store, layout::WRITER_KEY, wrapped).await?;
        Ok(archive)
    }

    fn wrapped_writer_key(&self, writer: &WriterKey, wrappers: &[Wrapper]) -> Bytes {
        let wrapped = writer.wrap(self.id, wrappers);
        SignedDocument::sign(layout::WRITER_KEY, &wrapped, writer).into()
    }

    /// Seals the signing key in the archive for `wrappers`, if it is sealed for others. Whether it was.
    pub async fn seal_writer_key(
        &self,
        writer: &WriterKey,
        wrappers: &[Wrapper],
    ) -> Result<bool, ArchiveError> {
        self.check_writer(writer)?;
        let fetched = found(self.store.get(layout::WRITER_KEY, Piece::Whole).await)?;
        let found: Option<WrappedWriterKey> = match fetched {
            Some(fetched) => {
                SignedDocument::verify(layout::WRITER_KEY, &fetched.bytes, &self.writer).ok()
            }
            None => None,
        };
        if found.is_some_and(|found| found.is_for(&writer.wrap(self.id, wrappers))) {
            return Ok(false);
        }
        let wrapped = self.wrapped_writer_key(writer, wrappers);
        self.store
            .put_replacing(layout::WRITER_KEY, wrapped)
            .await?;
        Ok(true)
    }

    /// Refuses a source that is not the archive's.
    pub fn check_source(
        &self,
        engine: &str,
        source: &BTreeMap<String, String>,
    ) -> Result<(), ArchiveError> {
        let foreign = |what, found: &str, ours: &str| {
            Err(ArchiveError::Foreign {
                what,
                found: found.into(),
                ours: ours.into(),
            })
        };
        if self.engine != engine {
            return foreign("engine", &self.engine, engine);
        }
        if self.source != *source {
            return foreign(
                "source",
                &format!("{:?}", self.source),
                &format!("{source:?}"),
            );
        }
        Ok(())
    }

    /// Refuses a signing key that is not the archive's.
    pub fn check_writer(&self, writer: &WriterKey) -> Result<(), ArchiveError> {
        if self.writer == writer.public() {
            return Ok(());
        }
        let text = |key: &VerifyingKey| STANDARD.encode(key.as_bytes());
        let (found, ours) = (text(&self.writer), text(&writer.public()));
        Err(ArchiveError::Foreign {
            what: "writer key",
            found,
            ours,
        })
    }

    /// Brings the signing key back from the archive, for a host that lost it.
    pub async fn recover_writer_key(&self, opener: &Opener) -> Result<WriterKey, ArchiveError> {
        let bytes = self
            .store
            .get(layout::WRITER_KEY, Piece::Whole)
            .await?
            .bytes;
        let wrapped: WrappedWriterKey =
            SignedDocument::verify(layout::WRITER_KEY, &bytes, &self.writer)?;
        let writer = wrapped.unwrap(layout::WRITER_KEY, self.id, opener)?;
        self.check_writer(&writer)?;
        Ok(writer)
    }

    /// What it held when it was opened, if that was listed and nobody has asked yet.
    pub(crate) fn take_names(&self) -> Option<Names> {
        self.names.lock().expect("no holder panics").take()
    }

    /// Its store.
    #[must_use]
    pub fn store(&self) -> &SharedStore {
        &self.store
    }

    /// How messages name it.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its name in headers.
    #[must_use]
    pub fn id(&self) -> Id {
        self.id
    }

    /// Which engine it holds, `postgres` for example.
    #[must_use]
    pub fn engine(&self) -> &str {
        &self.engine
    }

    /// What never changes about its source.
    #[must_use]
    pub fn source(&self) -> &BTreeMap<String, String> {
        &self.source
    }

    /// The public half of its writer's key.
    #[must_use]
    pub fn writer(&self) -> &VerifyingKey {
        &self.writer
    }

    /// What the object of this kind and number must be.
    #[must_use]
    pub fn expected(
        &self,
        kind: Kind,
        stream: Option<&StreamName>,
        set_id: Id,
        seq: u64,
    ) -> Expected {
        Expected {
            archive_id: self.id,
            kind,
            stream: stream.cloned(),
            set_id,
            seq,
        }
    }

    /// Reads the beginning of an object, from a place where it is what `expected` says; `None` if there is none.
    pub async fn preamble(
        &self,
        key: &str,
        expected: &Expected,
    ) -> Result<Option<(Preamble, u64)>, ArchiveError> {
        let piece = Piece::Range(0..PREAMBLE_BYTES as u64);
        let sound = |fetched: &Fetched| {
            expected.is_begun_by(&fetched.bytes, fetched.object_bytes, &self.writer)
        };
        let Some(fetched) = found(self.store.get_sound(key, piece, &sound).await)? else {
            return Ok(None);
        };
        let preamble = expected.preamble(key, &fetched.bytes, &self.writer)?;
        Ok(Some((preamble, fetched.object_bytes)))
    }

    /// Reads an object whole; its preamble is authentic, the rest not yet.
    pub async fn object(&self, key: &str, expected: &Expected) -> Result<Object, ArchiveError> {
        let bytes = self.store.get(key, Piece::Whole).await?.bytes;
        Ok(Object::new(key, bytes, expected, &self.writer)?)
    }
}

/// Puts what must exist and may already: success either way.
async fn exists_or_put(store: &SharedStore, key: &str, body: Bytes) -> Result<(), ArchiveError> {
    match store.put_if_absent(key, body).await {
        Ok(()) | Err(crate::store::StoreError::AlreadyExists { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
