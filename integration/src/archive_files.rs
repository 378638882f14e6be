//! The files of a directory archive, for tests that damage them or count them.

use std::fs;
use std::path::{Path, PathBuf};

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
