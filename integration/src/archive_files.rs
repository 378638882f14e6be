//! The files of a directory archive, for tests that damage them or count them.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pitr_archive::keys::{Identity, Opener};
use pitr_archive::reader::LogReader;
use pitr_archive::store::DirectoryStore;
use pitr_archive::{Archive, Reading};
use pitr_mongodb::log::{Entries, LogError};
use pitr_mongodb::{ClusterTime, LogKind, LogSummary};

/// A directory archive.
#[derive(Debug, Clone)]
pub struct ArchiveFiles {
    root: PathBuf,
}

impl ArchiveFiles {
    /// At a directory.
    pub fn new(root: &Path) -> ArchiveFiles {
        ArchiveFiles {
            root: root.to_owned(),
        }
    }

    /// The archive's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every object's key, in order.
    pub fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        collect(&self.root, "", &mut keys);
        keys.sort();
        keys
    }

    /// Keys of log segments, in order: `log/<stream>/<16 hex digits>`.
    pub fn segments(&self) -> Vec<String> {
        let is_segment = |key: &String| {
            let mut parts = key.split('/');
            parts.next() == Some("log")
                && parts.next_back().is_some_and(|last| {
                    last.len() == 16 && last.bytes().all(|b| b.is_ascii_hexdigit())
                })
        };
        self.keys().into_iter().filter(is_segment).collect()
    }

    /// Keys below `base/`, in order.
    pub fn base(&self) -> Vec<String> {
        self.keys()
            .into_iter()
            .filter(|key| key.starts_with("base/"))
            .collect()
    }

    /// Keys of the manifests of base backups, in order.
    pub fn manifests(&self) -> Vec<String> {
        self.base()
            .into_iter()
            .filter(|key| key.ends_with("/manifest"))
            .collect()
    }

    /// The file of a key.
    pub fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// The archive, opened with an identity's file.
    fn open(&self, identity: &Path) -> Arc<Reading> {
        let url = format!("file://{}", self.root.display());
        let store = Arc::new(DirectoryStore::new(&self.root));
        let identity = Identity::load(identity).expect("an identity");
        let archive = runtime().block_on(Archive::open(store, &url));
        let archive = archive.expect("open the archive");
        Arc::new(Reading::new(archive, Opener::Identity(identity)))
    }

    /// Which of a MongoDB source's logs is there.
    pub fn log_kind(&self) -> LogKind {
        let events = self
            .root
            .join("log")
            .join(LogKind::Events.stream().as_str());
        if events.exists() {
            LogKind::Events
        } else {
            LogKind::Oplog
        }
    }

    /// The last cluster time that is durable in an archive of MongoDB.
    pub fn oplog_end(&self, identity: &Path) -> Option<ClusterTime> {
        let last = self.oplog_runs(identity).pop();
        last.map(|(_, last)| last)
    }

    /// The unbroken runs of an archived log: the first cluster time of each and the last.
    pub fn oplog_runs(&self, identity: &Path) -> Vec<(ClusterTime, ClusterTime)> {
        let reading = self.open(identity);
        let stream = self.log_kind().stream();
        let reader = LogReader::new(reading.archive().clone(), stream);
        let runs = runtime().block_on(async { reader.runs(&reader.end().await?).await });
        let ends = |run: pitr_archive::reader::Run| {
            (
                ClusterTime(run.positions.start),
                ClusterTime(run.positions.end).previous(),
            )
        };
        runs.expect("read the runs").into_iter().map(ends).collect()
    }

    /// The source's entries of one run of an archived log, word for word.
    pub fn oplog(&self, identity: &Path, run: (ClusterTime, ClusterTime)) -> Vec<Vec<u8>> {
        let reading = self.open(identity);
        let stream = self.log_kind().stream();
        let entries = runtime().block_on(async {
            let mut log = Entries::open(reading, &stream, run.0.previous(), run.1).await?;
            let mut all = Vec::new();
            while let Some(batch) = log.next().await? {
                for entry in batch.entries() {
                    all.push(entry?.1.as_bytes().to_vec());
                }
            }
            Ok::<_, LogError>(all)
        });
        entries.expect("read the archived oplog")
    }

    /// The segments of an archived log of MongoDB, in order: their positions, and what is noted of them.
    pub fn summaries(&self, identity: &Path) -> Vec<(Range<u64>, LogSummary)> {
        let reading = self.open(identity);
        let reader = LogReader::new(reading.archive().clone(), self.log_kind().stream());
        let read = runtime().block_on(async {
            let mut all = Vec::new();
            for run in reader.runs(&reader.end().await?).await? {
                for seq in run.seqs {
                    let header = reader.header_of(seq).await?;
                    let summary = reader.summary(seq, &reading).await?;
                    all.push((header.start..header.end, summary));
                }
            }
            Ok::<_, pitr_archive::ArchiveError>(all)
        });
        let decoded = read.expect("read the summaries").into_iter();
        let decoded = decoded.map(|(positions, summary)| {
            let summary = LogSummary::decode(&summary).expect("a summary");
            (positions, summary)
        });
        decoded.collect()
    }

    /// Size of all objects, in bytes.
    pub fn bytes(&self) -> u64 {
        let size = |key: &String| fs::metadata(self.path(key)).map_or(0, |metadata| metadata.len());
        self.keys().iter().map(size).sum()
    }

    /// Removes an object.
    pub fn remove(&self, key: &str) {
        fs::remove_file(self.path(key)).unwrap_or_else(|error| panic!("remove {key}: {error}"));
    }

    /// Turns one bit of an object; `position` counts from the end when negative.
    pub fn flip_bit(&self, key: &str, position: i64) {
        let path = self.path(key);
        let mut bytes = fs::read(&path).unwrap_or_else(|error| panic!("read {key}: {error}"));
        let length = bytes.len() as i64;
        let at = if position < 0 {
            length + position
        } else {
            position
        };
        bytes[at as usize] ^= 0x10;
        // A directory store may keep objects read-only: replace the file instead of writing into it.
        fs::remove_file(&path).expect("remove the object");
        fs::write(&path, bytes).expect("write the damaged object");
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644))
            .expect("set the mode");
    }
}

fn collect(directory: &Path, prefix: &str, keys: &mut Vec<String>) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let key = format!("{prefix}{name}");
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => collect(&entry.path(), &format!("{key}/"), keys),
            // Temporary names of the store begin with a dot and are no objects.
            Ok(_) if !name.starts_with('.') => keys.push(key),
            _ => {}
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("build a runtime")
}
