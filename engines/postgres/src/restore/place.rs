//! Where a restore may write: a data directory that is new, empty or its own, and the directories of tablespaces.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::error::RestoreError;
use super::mark::MARK;
use crate::backup::Tablespace;

/// What is at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Found {
    /// Nothing, or an empty directory.
    Free,
    /// A restore that did not come to its end.
    Unfinished,
}

/// Looks at the data directory to be; refuses what belongs to somebody else.
pub(super) fn look(into: &Path) -> Result<Found, RestoreError> {
    if is_free(into)? {
        return Ok(Found::Free);
    }
    if into.join(MARK).exists() {
        return if is_begun(into)? {
            Ok(Found::Unfinished)
        } else {
            Ok(Found::Free)
        };
    }
    Err(RestoreError::place(
        into,
        "it is not empty; restore into a new or an empty directory",
    ))
}

/// Whether the mark in `into` says what is being restored. If it was being written when the restore was killed, nothing else was
/// begun, and nothing was promised to anybody.
fn is_begun(into: &Path) -> Result<bool, RestoreError> {
    let failed = |error| RestoreError::file("read", into)(error);
    if fs::read_dir(into).map_err(failed)?.count() > 1 {
        return Ok(true);
    }
    let mark = fs::read(into.join(MARK)).map_err(failed)?;
    Ok(mark.contains(&b'\n'))
}

fn is_free(path: &Path) -> Result<bool, RestoreError> {
    match fs::read_dir(path) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(RestoreError::file("read", path)(error)),
    }
}

/// Where each tablespace goes that lies outside the data directory: where `mapped` says, otherwise where it was.
///
/// # Errors
/// A mapping that fits no tablespace; a location that is no absolute path.
pub(super) fn tablespaces(
    tablespaces: &[Tablespace],
    mapped: &[(PathBuf, PathBuf)],
) -> Result<BTreeMap<u32, PathBuf>, RestoreError> {
    for (old, new) in mapped {
        if !tablespaces
            .iter()
            .any(|tablespace| Path::new(&tablespace.location) == old)
        {
            let known: Vec<_> = tablespaces
                .iter()
                .map(|known| known.location.as_str())
                .collect();
            let known = if known.is_empty() {
                "none".into()
            } else {
                known.join(", ")
            };
            let (old, new) = (old.display(), new.display());
            let reason = format!(
                "--tablespace {old}={new}: the base backup has no tablespace at {old}; its tablespaces: {known}"
            );
            return Err(RestoreError::Request(reason));
        }
    }
    let mut places: BTreeMap<u32, PathBuf> = BTreeMap::new();
    for tablespace in tablespaces {
        let location = Path::new(&tablespace.location);
        let new = mapped
            .iter()
            .find(|(old, _)| old == location)
            .map(|(_, new)| new.as_path());
        let place = match new {
            Some(new) => new,
            None if location.is_absolute() => location,
            // In place, below pg_tblspc.
            None => continue,
        };
        if places
            .values()
            .any(|other| other.starts_with(place) || place.starts_with(other))
        {
            let reason = "two tablespaces would share it; give each a directory of its own with --tablespace OLD=NEW";
            return Err(RestoreError::place(place, reason));
        }
        places.insert(tablespace.oid, place.into());
    }
    Ok(places)
}

/// Refuses tablespace directories that hold something, or that lie inside the data directory.
pub(super) fn check_tablespaces(
    into: &Path,
    places: &BTreeMap<u32, PathBuf>,
) -> Result<(), RestoreError> {
    for place in places.values() {
        if place.starts_with(into) || into.starts_with(place) {
            let reason = "a tablespace and the data directory cannot lie in each other; map it with --tablespace OLD=NEW";
            return Err(RestoreError::place(place, reason));
        }
        if !is_free(place)? {
            let reason = "the tablespace's directory is not empty; map it elsewhere with --tablespace OLD=NEW";
            return Err(RestoreError::place(place, reason));
        }
    }
    Ok(())
}

/// Makes a directory and those above it; the directory itself gets `mode`.
pub(super) fn make_directory(path: &Path, mode: u32) -> Result<(), RestoreError> {
    let make = || {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if !fs::symlink_metadata(path)?.is_dir() {
                    return Err(error);
                }
            }
            other => other?,
        }
        fs::set_permissions(path, fs::Permissions::from_mode(mode))
    };
    make().map_err(RestoreError::file("create directory", path))
}

/// Refuses a data directory on which a server was started: recovery takes `backup_label` away, a running server leaves its pid.
pub(super) fn refuse_if_started(root: &Path) -> Result<(), RestoreError> {
    if root.join("backup_label").exists() && !root.join("postmaster.pid").exists() {
        return Ok(());
    }
    let reason = "a server was started on it after an earlier restore; choose another directory";
    Err(RestoreError::place(root, reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tablespace(oid: u32, location: &str) -> Tablespace {
        Tablespace {
            oid,
            location: location.into(),
        }
    }

    fn map(old: &str, new: &str) -> (PathBuf, PathBuf) {
        (old.into(), new.into())
    }

    #[test]
    fn only_new_empty_and_own_directories_are_written_to() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("data");
        assert_eq!(look(&path).unwrap(), Found::Free);
        make_directory(&path, 0o700).unwrap();
        assert_eq!(look(&path).unwrap(), Found::Free);
        fs::write(path.join("precious"), "").unwrap();
        assert!(look(&path).unwrap_err().to_string().contains("not empty"));
        fs::write(path.join(MARK), "").unwrap();
        assert_eq!(look(&path).unwrap(), Found::Unfinished);
    }

    #[test]
    fn a_tablespace_is_mapped_or_goes_where_it_was() {
        let all = [
            tablespace(5, "/fast"),
            tablespace(6, "/slow"),
            tablespace(7, "pg_tblspc/7"),
        ];
        let places = tablespaces(&all, &[map("/fast", "/new")]).unwrap();
        assert_eq!(
            places,
            BTreeMap::from([(5, "/new".into()), (6, "/slow".into())])
        );
        let unknown = tablespaces(&all, &[map("/fsat", "/new")]).unwrap_err();
        assert!(unknown.to_string().contains("/fast, /slow"), "{unknown}");
        assert!(tablespaces(&all, &[map("/fast", "/slow/x")]).is_err());
    }

    #[test]
    fn a_tablespace_overwrites_nothing_and_stays_outside() {
        let scratch = tempfile::tempdir().unwrap();
        let (into, full) = (scratch.path().join("data"), scratch.path().join("full"));
        make_directory(&full.join("x"), 0o700).unwrap();
        let at = |place: &Path| BTreeMap::from([(5, place.to_path_buf())]);
        assert!(check_tablespaces(&into, &at(&full)).is_err());
        assert!(check_tablespaces(&into, &at(&into.join("inside"))).is_err());
        assert!(check_tablespaces(&into, &at(&scratch.path().join("new"))).is_ok());
    }
}
