//! Reading sealed objects: their data keys, fetched once, and objects that are asked for before it is certain that they are needed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::OnceCell;
use tokio::task::JoinHandle;

use crate::archive::Archive;
use crate::error::ArchiveError;
use crate::keys::{DataKey, KeyError, Opener, SignedDocument, WrappedDataKey};
use crate::layout;
use crate::object::{Expected, Id, Object, Opened};
use crate::store::{Piece, found};

/// Opens objects: fetches wrapped data keys, unwraps them with what the caller holds, and remembers them.
#[derive(Debug)]
pub struct Reading {
    archive: Arc<Archive>,
    opener: Opener,
    data_keys: Mutex<HashMap<Id, Arc<OnceCell<DataKey>>>>,
    ahead: Mutex<HashMap<String, Ahead>>,
}

/// An object that somebody will probably ask for.
#[derive(Debug)]
enum Ahead {
    /// It is on its way.
    Asked(Asked),
    /// It was read.
    Held(Box<Object>),
}

/// What is no longer asked for when this is dropped.
#[derive(Debug)]
struct Asked(JoinHandle<Result<Object, ArchiveError>>);

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Reading {
    /// Reads `archive` with `opener`.
    #[must_use]
    pub fn new(archive: Arc<Archive>, opener: Opener) -> Self {
        Self {
            archive,
            opener,
            data_keys: Mutex::default(),
            ahead: Mutex::default(),
        }
    }

    /// The archive.
    #[must_use]
    pub fn archive(&self) -> &Arc<Archive> {
        &self.archive
    }

    /// Asks for an object that will probably be needed: [`Self::object`] takes it. It is held in memory until then.
    pub fn ask_ahead(&self, key: &str, expected: &Expected) {
        let (archive, expected) = (Arc::clone(&self.archive), expected.clone());
        let name = key.to_owned();
        self.ahead().entry(key.into()).or_insert_with(|| {
            let get = async move { archive.object(&name, &expected).await };
            Ahead::Asked(Asked(tokio::spawn(get)))
        });
    }

    /// Holds an object that was read, for whoever reads it next.
    pub fn hold(&self, key: &str, object: Object) {
        self.ahead()
            .insert(key.into(), Ahead::Held(Box::new(object)));
    }

    /// Lets go of what was asked for ahead, or held, and not taken.
    pub fn forget_ahead(&self) {
        self.ahead().clear();
    }

    fn ahead(&self) -> MutexGuard<'_, HashMap<String, Ahead>> {
        self.ahead.lock().expect("no holder panics")
    }

    /// Reads an object whole, or takes the one that was asked for ahead; its preamble is authentic, the rest not yet.
    pub async fn object(&self, key: &str, expected: &Expected) -> Result<Object, ArchiveError> {
        let ahead = self.ahead().remove(key);
        match ahead {
            Some(Ahead::Held(object)) => Ok(*object),
            Some(Ahead::Asked(mut asked)) => match (&mut asked.0).await {
                Ok(result) => result,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => self.archive.object(key, expected).await,
                },
            },
            None => self.archive.object(key, expected).await,
        }
    }

    /// The data key `id` in the clear. Whoever needs it meanwhile waits for the one request.
    pub async fn data_key(&self, id: Id) -> Result<DataKey, ArchiveError> {
        let cell = {
            let mut keys = self.data_keys.lock().expect("no holder panics");
            Arc::clone(keys.entry(id).or_default())
        };
        let key = cell.get_or_try_init(|| self.read_data_key(id)).await?;
        Ok(key.clone())
    }

    async fn read_data_key(&self, id: Id) -> Result<DataKey, ArchiveError> {
        let object = layout::data_key(id);
        let fetched = found(self.archive.store().get(&object, Piece::Whole).await)?;
        let bytes = fetched.ok_or_else(|| KeyError::NotSigned {
            object: object.clone(),
            reason: "the wrapped data key is missing from the archive",
        })?;
        let wrapped: WrappedDataKey =
            SignedDocument::verify(&object, &bytes.bytes, self.archive.writer())?;
        Ok(wrapped.unwrap(&object, self.archive.id(), id, &self.opener)?)
    }

    /// Opens an object that has been read, off the async threads.
    pub async fn open(&self, object: Object) -> Result<Opened, ArchiveError> {
        let key = self.data_key(object.header().key_id).await?;
        let opened = tokio::task::spawn_blocking(move || object.open(&key)).await;
        Ok(opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?)
    }

    /// Reads and opens an object.
    pub async fn fetch(&self, key: &str, expected: &Expected) -> Result<Opened, ArchiveError> {
        let object = self.object(key, expected).await?;
        self.open(object).await
    }
}
