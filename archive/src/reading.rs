//! Reading sealed objects: their data keys, fetched once, and objects that are asked for, and opened, before it is certain that they are
//! needed: while a plan waits for a store that is far away, the cores have nothing else to do.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::{OnceCell, Semaphore};
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
    keys: Arc<DataKeys>,
    held: Mutex<HashMap<String, Object>>,
    ahead: Mutex<HashMap<String, Ahead>>,
    /// As many objects are opened ahead at once as there are cores.
    opening: Arc<Semaphore>,
}

/// The data keys of an archive, as far as they were needed.
#[derive(Debug)]
struct DataKeys {
    archive: Arc<Archive>,
    opener: Opener,
    cells: Mutex<HashMap<Id, Arc<OnceCell<DataKey>>>>,
}

/// An object that somebody will probably ask for. It is no longer asked for when this is dropped.
#[derive(Debug)]
struct Ahead(JoinHandle<Result<Opened, ArchiveError>>);

impl Drop for Ahead {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Reading {
    /// Reads `archive` with `opener`.
    #[must_use]
    pub fn new(archive: Arc<Archive>, opener: Opener) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        Self {
            keys: Arc::new(DataKeys {
                archive,
                opener,
                cells: Mutex::default(),
            }),
            held: Mutex::default(),
            ahead: Mutex::default(),
            opening: Arc::new(Semaphore::new(cores)),
        }
    }

    /// The archive.
    #[must_use]
    pub fn archive(&self) -> &Arc<Archive> {
        &self.keys.archive
    }

    /// Asks for an object that will probably be needed, and opens it: [`Self::opened_ahead`] takes it. It is held in memory until then.
    pub fn ask_ahead(&self, key: &str, expected: &Expected) {
        let (keys, expected) = (Arc::clone(&self.keys), expected.clone());
        let (name, opening) = (key.to_owned(), Arc::clone(&self.opening));
        self.ahead().entry(key.into()).or_insert_with(|| {
            Ahead(tokio::spawn(async move {
                let object = keys.archive.object(&name, &expected).await?;
                let data_key = keys.get(object.header().key_id).await?;
                let core = opening.acquire().await;
                let opened = open(object, data_key).await;
                drop(core);
                opened
            }))
        });
    }

    /// The object that was asked for ahead, opened; `None` if it was not asked for.
    pub async fn opened_ahead(&self, key: &str) -> Result<Option<Opened>, ArchiveError> {
        let ahead = self.ahead().remove(key);
        let Some(mut ahead) = ahead else {
            return Ok(None);
        };
        match (&mut ahead.0).await {
            Ok(opened) => opened.map(Some),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    /// Holds an object that was read, for whoever reads it next.
    pub fn hold(&self, key: &str, object: Object) {
        self.held().insert(key.into(), object);
    }

    /// Lets go of what was asked for ahead, or held, and not taken.
    pub fn forget_ahead(&self) {
        self.ahead().clear();
        self.held().clear();
    }

    fn ahead(&self) -> MutexGuard<'_, HashMap<String, Ahead>> {
        self.ahead.lock().expect("no holder panics")
    }

    fn held(&self) -> MutexGuard<'_, HashMap<String, Object>> {
        self.held.lock().expect("no holder panics")
    }

    /// Reads an object whole, or takes the one that is held; its preamble is authentic, the rest not yet.
    pub async fn object(&self, key: &str, expected: &Expected) -> Result<Object, ArchiveError> {
        let held = self.held().remove(key);
        match held {
            Some(object) => Ok(object),
            None => self.keys.archive.object(key, expected).await,
        }
    }

    /// The data key `id` in the clear. Whoever needs it meanwhile waits for the one request.
    pub async fn data_key(&self, id: Id) -> Result<DataKey, ArchiveError> {
        self.keys.get(id).await
    }

    /// Opens an object that has been read, off the async threads.
    pub async fn open(&self, object: Object) -> Result<Opened, ArchiveError> {
        let key = self.data_key(object.header().key_id).await?;
        open(object, key).await
    }

    /// Reads and opens an object.
    pub async fn fetch(&self, key: &str, expected: &Expected) -> Result<Opened, ArchiveError> {
        if let Some(opened) = self.opened_ahead(key).await? {
            return Ok(opened);
        }
        let object = self.object(key, expected).await?;
        self.open(object).await
    }
}

async fn open(object: Object, key: DataKey) -> Result<Opened, ArchiveError> {
    let opened = tokio::task::spawn_blocking(move || object.open(&key)).await;
    Ok(opened.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?)
}

impl DataKeys {
    async fn get(&self, id: Id) -> Result<DataKey, ArchiveError> {
        let cell = {
            let mut cells = self.cells.lock().expect("no holder panics");
            Arc::clone(cells.entry(id).or_default())
        };
        let key = cell.get_or_try_init(|| self.read(id)).await?;
        Ok(key.clone())
    }

    async fn read(&self, id: Id) -> Result<DataKey, ArchiveError> {
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
}
