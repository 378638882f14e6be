//! The embedded store: a directory on a local file system.
//!
//! A put writes a temporary file, syncs it, links it under its name without replacing, and syncs the directory. The link is
//! the moment of truth; a crash before it leaves a temporary file, a crash after it a whole object.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Fetched, Listed, Piece, Store, StoreError, is_key};
use crate::object::Id;

/// Under the root; no key begins with a dot. Made with the first object, so that an empty mount point, from which the
/// file system went away, is not taken for the archive.
const TEMPORARY: &str = ".tmp";
/// The first object of an archive, with which the root is made.
const FIRST_KEY: &str = "archive.json";
/// A temporary file that nobody has touched for so long was left by a crash.
const TEMPORARY_AGE: Duration = Duration::from_secs(24 * 60 * 60);

/// A directory as a store.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    root: Arc<Path>,
}

impl DirectoryStore {
    /// The store below `root`, which is made at the first put.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self {
            root: Arc::from(root.into()),
        }
    }

    fn path(&self, key: &str) -> Result<PathBuf, StoreError> {
        if is_key(key) {
            Ok(self.root.join(key))
        } else {
            Err(StoreError::Broken {
                key: key.into(),
                reason: "not a key of an object".into(),
            })
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Self, &str) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (store, name) = (self.clone(), key.to_owned());
        match tokio::task::spawn_blocking(move || work(&store, &name)).await {
            Ok(result) => result,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    fn put(&self, key: &str, body: &[u8], replacing: bool) -> Result<(), StoreError> {
        let target = self.path(key)?;
        let directory = target.parent().expect("a key lies below the root");
        let temporary = self.root.join(TEMPORARY);
        if key == FIRST_KEY {
            make_directory(&temporary).map_err(|error| put_error(key, &error))?;
        } else if !temporary.is_dir() {
            let reason = format!(
                "{} holds no archive: is its file system mounted?",
                self.root.display()
            );
            return Err(StoreError::Unavailable {
                key: key.into(),
                reason,
            });
        }
        make_directory(directory).map_err(|error| put_error(key, &error))?;
        let name = temporary.join(Id::random().to_string());
        let placed = write_durably(&name, body)
            .map_err(|failure| failure.explain(key))
            .and_then(|()| {
                place(&name, &target, replacing).map_err(|error| place_error(key, &error))
            });
        if let Err(error) = fs::remove_file(&name)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(key, %error, "a temporary file stays behind; it does no harm");
        }
        // Also where the object was there before: its writer may have been killed before this step.
        let exists = matches!(placed, Err(StoreError::AlreadyExists { .. }));
        if placed.is_ok() || exists {
            sync_directory(directory).map_err(|error| broken_sync(key, &error))?;
        }
        placed
    }

    /// Removes an object; one that is not there is no error. For the spool: an archive never forgets.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.blocking(key, |store, key| {
            let path = store.path(key)?;
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(read_error(key, &error))
                }
                _ => Ok(()),
            }
        })
        .await
    }

    fn sweep_temporary(&self) {
        let now = SystemTime::now();
        for entry in fs::read_dir(self.root.join(TEMPORARY))
            .into_iter()
            .flatten()
            .flatten()
        {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            let old = modified.is_ok_and(|time| {
                now.duration_since(time)
                    .is_ok_and(|age| age > TEMPORARY_AGE)
            });
            if old && let Err(error) = fs::remove_file(entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "cannot remove a temporary file of a crash");
            }
        }
    }
}

#[async_trait]
impl Store for DirectoryStore {
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.blocking(key, move |store, key| store.put(key, &body, false))
            .await
    }

    async fn put_replacing(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        self.blocking(key, move |store, key| store.put(key, &body, true))
            .await
    }

    async fn get(&self, key: &str, piece: Piece) -> Result<Fetched, StoreError> {
        self.blocking(key, move |store, key| {
            let path = store.path(key)?;
            read(&path, &piece).map_err(|error| read_error(key, &error))
        })
        .await
    }

    async fn list(&self, prefix: &str, keys: Range<&str>) -> Result<Vec<Listed>, StoreError> {
        let keys = keys.start.to_owned()..keys.end.to_owned();
        self.blocking(prefix, move |store, prefix| {
            let mut found = Vec::new();
            for (name, metadata) in entries(&store.root, prefix)? {
                let key = format!("{prefix}{name}");
                if metadata.is_file() && keys.contains(&key) {
                    found.push(Listed {
                        key,
                        object_bytes: metadata.len(),
                    });
                }
            }
            found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
            Ok(found)
        })
        .await
    }

    async fn children(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        self.blocking(prefix, move |store, prefix| {
            let names = entries(&store.root, prefix)?.into_iter();
            let mut names: Vec<_> = names
                .filter(|(_, metadata)| metadata.is_dir())
                .map(|(name, _)| name)
                .collect();
            names.sort_unstable();
            Ok(names)
        })
        .await
    }

    async fn settle(&self, prefix: &str) -> Result<(), StoreError> {
        self.blocking(prefix, move |store, prefix| {
            store.sweep_temporary();
            let mut directory = store.root.join(prefix.trim_end_matches('/'));
            loop {
                match sync_directory(&directory) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(broken_sync(prefix, &error));
                    }
                    _ if *directory == *store.root => return Ok(()),
                    _ => directory.pop(),
                };
            }
        })
        .await
    }
}

/// Makes a directory and those above it, each durable in its parent.
fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    let parent = directory.parent().unwrap_or(Path::new("/"));
    make_directory(parent)?;
    match fs::DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => sync_directory(parent),
    }
}

enum WriteFailure {
    Write(io::Error),
    Sync(io::Error),
}

impl WriteFailure {
    /// After a failed sync the kernel may have dropped the dirty pages: it is fatal, never tried again as success.
    fn explain(self, key: &str) -> StoreError {
        match self {
            Self::Write(error) => put_error(key, &error),
            Self::Sync(error) if is_full(&error) => put_error(key, &error),
            Self::Sync(error) => broken_sync(key, &error),
        }
    }
}

fn write_durably(path: &Path, body: &[u8]) -> Result<(), WriteFailure> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(WriteFailure::Write)?;
    file.write_all(body).map_err(WriteFailure::Write)?;
    file.sync_all().map_err(WriteFailure::Sync)
}

fn place(temporary: &Path, target: &Path, replacing: bool) -> io::Result<()> {
    if replacing {
        fs::rename(temporary, target)
    } else {
        fs::hard_link(temporary, target)
    }
}

fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn read(path: &Path, piece: &Piece) -> io::Result<Fetched> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let object_bytes = metadata.size();
    let range = match piece {
        Piece::Whole => 0..object_bytes,
        Piece::Range(range) => range.start.min(object_bytes)..range.end.min(object_bytes),
    };
    let length = range.end.saturating_sub(range.start) as usize;
    let mut bytes = Vec::with_capacity(length);
    if range.start > 0 {
        file.seek(SeekFrom::Start(range.start))?;
    }
    file.take(length as u64).read_to_end(&mut bytes)?;
    if bytes.len() != length {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "the file became shorter while it was read",
        ));
    }
    Ok(Fetched {
        bytes: bytes.into(),
        object_bytes,
    })
}

/// The entries of the directory that `prefix` names, hidden ones left out. One that does not exist is empty.
fn entries(root: &Path, prefix: &str) -> Result<Vec<(String, fs::Metadata)>, StoreError> {
    let reader = match fs::read_dir(root.join(prefix.trim_end_matches('/'))) {
        Ok(reader) => reader,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read_error(prefix, &error)),
    };
    let mut found = Vec::new();
    for entry in reader {
        let entry = entry.map_err(|error| read_error(prefix, &error))?;
        let Ok(name) = entry.file_name().into_string() else {
            continue;
        };
        if is_key(&name) {
            found.push((
                name,
                entry
                    .metadata()
                    .map_err(|error| read_error(prefix, &error))?,
            ));
        }
    }
    Ok(found)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn broken_sync(key: &str, error: &io::Error) -> StoreError {
    StoreError::Broken {
        key: key.into(),
        reason: format!("the file system could not make it durable: {error}"),
    }
}

fn put_error(key: &str, error: &io::Error) -> StoreError {
    let (key, reason) = (key.to_owned(), error.to_string());
    match error.kind() {
        io::ErrorKind::AlreadyExists => StoreError::AlreadyExists { key },
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            StoreError::Denied { key, reason }
        }
        _ if is_full(error) => StoreError::Full { key, reason },
        _ => StoreError::Unavailable { key, reason },
    }
}

/// A file system without hard links says that the operation is not permitted or not known.
fn place_error(key: &str, error: &io::Error) -> StoreError {
    use rustix::io::Errno;
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    if matches!(errno, Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS)) {
        return StoreError::Broken {
            key: key.into(),
            reason: format!(
                "its file system has no hard links ({error}), and without them a put could replace an object"
            ),
        };
    }
    put_error(key, error)
}

fn read_error(key: &str, error: &io::Error) -> StoreError {
    match error.kind() {
        io::ErrorKind::NotFound => StoreError::NotFound { key: key.into() },
        _ => put_error(key, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_two_puts_under_one_key_the_first_stays() {
        let directory = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(directory.path().join("archive"));
        store.put_if_absent(FIRST_KEY, Bytes::new()).await.unwrap();
        store
            .put_if_absent("log/a/0", Bytes::from_static(b"first"))
            .await
            .unwrap();
        let second = store
            .put_if_absent("log/a/0", Bytes::from_static(b"second"))
            .await;
        assert!(matches!(second, Err(StoreError::AlreadyExists { .. })));
        assert_eq!(
            store.get("log/a/0", Piece::Whole).await.unwrap().bytes,
            "first"
        );
        let temporary = directory.path().join("archive").join(TEMPORARY);
        assert_eq!(fs::read_dir(temporary).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn an_empty_mount_point_is_not_an_archive() {
        let directory = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(directory.path());
        let put = store
            .put_if_absent("log/a/0", Bytes::from_static(b"lost"))
            .await;
        assert!(matches!(put, Err(StoreError::Unavailable { .. })));
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_file_system_without_hard_links_is_named_as_such() {
        for errno in [1, 95, 38] {
            let error = place_error("log/a/0", &io::Error::from_raw_os_error(errno));
            assert!(error.to_string().contains("no hard links"), "{error}");
            assert!(error.is_permanent());
        }
        let exists = place_error("log/a/0", &io::Error::from_raw_os_error(17));
        assert!(matches!(exists, StoreError::AlreadyExists { .. }));
    }

    #[tokio::test]
    async fn ranges_end_where_the_object_ends() {
        let directory = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(directory.path());
        store.put_if_absent(FIRST_KEY, Bytes::new()).await.unwrap();
        store
            .put_if_absent("a", Bytes::from_static(b"0123456789"))
            .await
            .unwrap();
        for (range, wanted) in [(0..3, "012"), (8..20, "89"), (10..11, ""), (30..40, "")] {
            let got = store.get("a", Piece::Range(range)).await.unwrap();
            assert_eq!(
                (got.bytes.as_ref(), got.object_bytes),
                (wanted.as_bytes(), 10)
            );
        }
        assert!(matches!(
            store.get("b", Piece::Whole).await,
            Err(StoreError::NotFound { .. })
        ));
    }

    #[tokio::test]
    async fn listings_are_in_order_and_of_one_level() {
        let directory = tempfile::tempdir().unwrap();
        let store = DirectoryStore::new(directory.path());
        store.put_if_absent(FIRST_KEY, Bytes::new()).await.unwrap();
        for key in ["log/a/2", "log/a/1", "log/a/deep/3", "log/b/9"] {
            store.put_if_absent(key, Bytes::new()).await.unwrap();
        }
        let listed = store.list("log/a/", "log/a/".."log/a/~").await.unwrap();
        assert_eq!(
            listed.iter().map(|l| l.key.as_str()).collect::<Vec<_>>(),
            ["log/a/1", "log/a/2"]
        );
        assert_eq!(store.children("log/").await.unwrap(), ["a", "b"]);
        assert!(store.children("base/").await.unwrap().is_empty());
    }
}
