//! Where every byte of a base backup goes: from the manifest's names to paths, and from ranges of the contents to
//! slices of files. Nothing is written here.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::backup::{BackupManifest, Contents, Entry, EntryKind};

/// The file without which no server starts; it gets its name last.
pub(super) const PG_CONTROL: &str = "global/pg_control";
/// What that file is called until then.
pub(super) const PG_CONTROL_PENDING: &str = "global/pg_control.pitrd";
/// PostgreSQL's own manifest.
pub(super) const POSTGRES_MANIFEST: &str = "backup_manifest";
/// Permissions of files and directories that the source did not open to its group.
const FILE_MODE: u32 = 0o600;
const DIRECTORY_MODE: u32 = 0o700;

/// A file of the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct TreeFile {
    /// As PostgreSQL's manifest names it: below the data directory, through `pg_tblspc` for tablespaces.
    pub(super) name: String,
    /// Where it is written.
    pub(super) path: PathBuf,
    /// Its bytes in the contents of the backup.
    pub(super) contents: Contents,
    /// Permission bits.
    pub(super) mode: u32,
}

/// Everything that a restore creates.
#[derive(Debug)]
pub(super) struct Tree {
    /// The data directory.
    pub(super) root: PathBuf,
    /// In the order of their contents.
    pub(super) files: Vec<TreeFile>,
    /// Parents first, without the data directory itself.
    pub(super) directories: Vec<(PathBuf, u32)>,
    /// Path and what the link points to.
    pub(super) links: Vec<(PathBuf, PathBuf)>,
    /// Directories of tablespaces that lie outside the data directory.
    pub(super) outside: BTreeMap<u32, PathBuf>,
}

/// A piece of a file: which bytes of the given range of contents it is, and where in the file they go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Slice {
    pub(super) file: usize,
    pub(super) offset: u64,
    pub(super) bytes: Range<usize>,
}

impl Tree {
    /// Lays `manifest` out below `root`, tablespaces outside of it at `outside`. The reason if the manifest is not one of a
    /// cluster.
    pub(super) fn new(
        manifest: &BackupManifest,
        root: &Path,
        outside: BTreeMap<u32, PathBuf>,
    ) -> Result<Self, String> {
        let mut tree = Self {
            root: root.into(),
            files: Vec::new(),
            directories: Vec::new(),
            links: Vec::new(),
            outside,
        };
        let mut inside: HashSet<u32> = HashSet::new();
        tree.directory(root.join("pg_tblspc"), DIRECTORY_MODE);
        for tablespace in &manifest.tablespaces {
            let link = root.join("pg_tblspc").join(tablespace.oid.to_string());
            match tree.outside.get(&tablespace.oid) {
                Some(place) => tree.links.push((link, place.clone())),
                None => {
                    tree.directory(link, DIRECTORY_MODE);
                    inside.insert(tablespace.oid);
                }
            }
        }
        for entry in &manifest.entries {
            let base = match entry.tablespace {
                None => root.to_path_buf(),
                Some(oid) => match tree.outside.get(&oid) {
                    Some(place) => place.clone(),
                    None if inside.contains(&oid) => root.join("pg_tblspc").join(oid.to_string()),
                    None => return Err(format!("{} is in an unknown tablespace", entry.path)),
                },
            };
            tree.entry(entry, base);
        }
        tree.files.push(TreeFile {
            name: POSTGRES_MANIFEST.into(),
            path: root.join(POSTGRES_MANIFEST),
            contents: manifest.postgres_manifest,
            mode: FILE_MODE,
        });
        tree.check()?;
        Ok(tree)
    }

    fn entry(&mut self, entry: &Entry, base: PathBuf) {
        let mode = entry.mode & 0o777;
        let path = if entry.path.is_empty() {
            base
        } else {
            base.join(&entry.path)
        };
        match &entry.kind {
            EntryKind::File(contents) => {
                let name = match entry.tablespace {
                    Some(oid) => format!("pg_tblspc/{oid}/{}", entry.path),
                    None => entry.path.clone(),
                };
                let path = match name.as_str() {
                    PG_CONTROL => self.root.join(PG_CONTROL_PENDING),
                    _ => path,
                };
                let contents = *contents;
                self.files.push(TreeFile {
                    name,
                    path,
                    contents,
                    mode,
                });
            }
            EntryKind::Directory if path != self.root => self.directory(path, mode),
            EntryKind::Directory => {}
            // PostgreSQL finds its log in a directory just as well.
            EntryKind::Symlink(_) if entry.path == "pg_wal" => {
                self.directory(path, DIRECTORY_MODE);
            }
            // The links of tablespaces are made from the list of tablespaces.
            EntryKind::Symlink(_) if self.is_tablespace_link(&path) => {}
            EntryKind::Symlink(to) => self.links.push((path, to.into())),
        }
    }

    fn directory(&mut self, path: PathBuf, mode: u32) {
        self.directories.push((path, mode));
    }

    fn is_tablespace_link(&self, path: &Path) -> bool {
        path.parent() == Some(&self.root.join("pg_tblspc"))
    }

    /// Every path once, no contents twice, nothing below a link.
    fn check(&mut self) -> Result<(), String> {
        self.files.sort_by_key(|file| file.contents.offset);
        let mut end = 0;
        for file in &self.files {
            if file.contents.bytes > 0 && file.contents.offset < end {
                return Err(format!("{} shares contents with another file", file.name));
            }
            end = end.max(file.contents.offset + file.contents.bytes);
        }
        self.directories.sort();
        self.directories
            .dedup_by(|later, earlier| later.0 == earlier.0);
        let links = self.links.iter().map(|(path, _)| path.as_path());
        let links: HashSet<&Path> = links.collect();
        let mut seen = HashSet::new();
        let files = self.files.iter().map(|file| file.path.as_path());
        let all = files.chain(self.directories.iter().map(|(path, _)| path.as_path()));
        for path in all.chain(links.iter().copied()) {
            if !seen.insert(path) {
                return Err(format!("{} is there twice", path.display()));
            }
            if path.ancestors().skip(1).any(|above| links.contains(above)) {
                return Err(format!("{} lies below a symbolic link", path.display()));
            }
        }
        Ok(())
    }

    /// Where the `bytes` bytes of contents from `start` go. Contents that belong to no file are left out.
    pub(super) fn slices(&self, start: u64, bytes: usize) -> impl Iterator<Item = Slice> + '_ {
        let end = start + bytes as u64;
        let first = self
            .files
            .partition_point(|file| file.contents.offset + file.contents.bytes <= start);
        let upto = move |file: &TreeFile| file.contents.offset < end;
        (first..self.files.len())
            .take_while(move |&file| upto(&self.files[file]))
            .filter_map(move |file| {
                let contents = self.files[file].contents;
                let from = contents.offset.max(start);
                let to = (contents.offset + contents.bytes).min(end);
                (from < to).then(|| Slice {
                    file,
                    offset: from - contents.offset,
                    bytes: (from - start) as usize..(to - start) as usize,
                })
            })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::backup::Tablespace;
    use crate::{Lsn, TimelineId};

    pub(in crate::restore) fn file(path: &str, offset: u64, bytes: u64) -> Entry {
        entry(path, EntryKind::File(Contents { offset, bytes }))
    }

    pub(in crate::restore) fn entry(path: &str, kind: EntryKind) -> Entry {
        let path = path.into();
        Entry {
            tablespace: None,
            path,
            kind,
            mode: 0o600,
            mtime: 0,
        }
    }

    pub(in crate::restore) fn manifest(entries: Vec<Entry>, bytes: u64) -> BackupManifest {
        BackupManifest {
            version: BackupManifest::VERSION,
            label: "test".into(),
            server_version: "17.2".into(),
            system_id: 7,
            wal_segment_bytes: 16 << 20,
            start_lsn: Lsn(0x200_0028),
            start_timeline: TimelineId(1),
            end_lsn: Lsn(0x200_0100),
            end_timeline: TimelineId(1),
            started: jiff::Timestamp::UNIX_EPOCH,
            finished: jiff::Timestamp::UNIX_EPOCH,
            from_standby: false,
            parent: None,
            tablespaces: vec![],
            entries,
            postgres_manifest: Contents {
                offset: bytes,
                bytes: 0,
            },
            contents_bytes: bytes,
            parts: 1,
        }
    }

    fn find<'a>(tree: &'a Tree, name: &str) -> &'a TreeFile {
        tree.files.iter().find(|file| file.name == name).unwrap()
    }

    fn tree(manifest: &BackupManifest) -> Result<Tree, String> {
        Tree::new(manifest, Path::new("/r"), BTreeMap::new())
    }

    #[test]
    fn a_range_of_contents_is_cut_at_the_borders_of_files() {
        let entries = vec![file("b", 10, 20), file("a", 0, 10), file("none", 10, 0)];
        let tree = tree(&manifest(entries, 40)).unwrap();
        let slices: Vec<_> = tree.slices(5, 20).collect();
        let name = |slice: &Slice| tree.files[slice.file].name.as_str();
        assert_eq!(slices.iter().map(name).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((slices[0].offset, slices[0].bytes.clone()), (5, 0..5));
        assert_eq!((slices[1].offset, slices[1].bytes.clone()), (0, 5..20));
        assert!(tree.slices(30, 10).next().is_none(), "padding goes nowhere");
    }

    #[test]
    fn pg_control_is_not_written_under_its_name() {
        let tree = tree(&manifest(vec![file(PG_CONTROL, 0, 8)], 8)).unwrap();
        let control = find(&tree, PG_CONTROL);
        assert_eq!(control.path, Path::new("/r").join(PG_CONTROL_PENDING));
    }

    #[test]
    fn tablespaces_go_where_they_are_mapped_or_stay_inside() {
        let mut manifest = manifest(vec![], 0);
        let tablespace = |oid, location: &str| Tablespace {
            oid,
            location: location.into(),
        };
        manifest.tablespaces = vec![tablespace(5, "/fast"), tablespace(6, "pg_tblspc/6")];
        for oid in [5, 6] {
            let mut entry = file("PG_17/1", 0, 0);
            entry.tablespace = Some(oid);
            manifest.entries.push(entry);
        }
        let outside = BTreeMap::from([(5, PathBuf::from("/new"))]);
        let tree = Tree::new(&manifest, Path::new("/r"), outside).unwrap();
        let path = |name: &str| find(&tree, name).path.clone();
        assert_eq!(path("pg_tblspc/5/PG_17/1"), Path::new("/new/PG_17/1"));
        assert_eq!(
            path("pg_tblspc/6/PG_17/1"),
            Path::new("/r/pg_tblspc/6/PG_17/1")
        );
        assert_eq!(tree.links, [("/r/pg_tblspc/5".into(), "/new".into())]);
    }

    #[test]
    fn a_manifest_that_writes_through_a_link_or_twice_is_refused() {
        let link = entry("x", EntryKind::Symlink("/etc".into()));
        let through = manifest(vec![link, file("x/passwd", 0, 1)], 1);
        assert!(tree(&through).unwrap_err().contains("symbolic link"));
        let twice = manifest(vec![file("x", 0, 1), file("x", 1, 1)], 2);
        assert!(tree(&twice).unwrap_err().contains("twice"));
        let shared = manifest(vec![file("x", 0, 2), file("y", 1, 1)], 2);
        assert!(tree(&shared).unwrap_err().contains("shares"));
        let mut unknown = manifest(vec![file("x", 0, 1)], 1);
        unknown.entries[0].tablespace = Some(9);
        assert!(tree(&unknown).unwrap_err().contains("tablespace"));
    }

    #[test]
    fn a_linked_pg_wal_becomes_a_directory() {
        let link = entry("pg_wal", EntryKind::Symlink("/mnt/wal".into()));
        let tree = tree(&manifest(vec![link], 0)).unwrap();
        assert!(tree.links.is_empty());
        let wal = PathBuf::from("/r/pg_wal");
        assert!(tree.directories.iter().any(|(path, _)| *path == wal));
    }
}
