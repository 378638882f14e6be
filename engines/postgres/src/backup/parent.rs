//! What an incremental backup builds on: PostgreSQL's manifest of the backup before it, which the server wants back.
//!
//! It lies sealed in the archive, where a host that can only write cannot read it. So each successful backup leaves a copy of
//! it beside the signing key; only the newest is kept.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use pitr_archive::catalogue::{self, BackupId};
use pitr_archive::object::Kind;
use pitr_archive::writer::PART_BYTES;
use pitr_archive::{Archive, Reading, layout};

use super::error::BackupError;
use super::manifest::BackupManifest;

/// The backup that an incremental one builds on.
#[derive(Clone, Debug)]
pub struct Parent {
    /// Its id.
    pub id: BackupId,
    /// PostgreSQL's manifest of it.
    pub postgres_manifest: Bytes,
}

impl Parent {
    /// The newest whole backup of the archive, opened with what the caller holds.
    pub async fn newest(reading: &Reading) -> Result<Self, BackupError> {
        let newest = catalogue::newest_backup(reading.archive()).await?;
        let id = newest.ok_or_else(no_backup)?.id;
        let manifest = read_manifest(reading, id).await?;
        let postgres_manifest = read_postgres_manifest(reading, id, &manifest).await?;
        Ok(Self {
            id,
            postgres_manifest,
        })
    }
}

/// Reads the manifest of the backup `id`.
pub async fn read_manifest(reading: &Reading, id: BackupId) -> Result<BackupManifest, BackupError> {
    let archive = reading.archive();
    let expected = archive.expected(Kind::Manifest, None, id.set_id(), 0);
    let key = layout::manifest(&id.to_string());
    let opened = reading.fetch(&key, &expected).await?;
    let decoded = tokio::task::spawn_blocking(move || -> Result<_, BackupError> {
        let plaintext = opened
            .plaintext()
            .map_err(pitr_archive::ArchiveError::from)?;
        Ok(BackupManifest::decode(&plaintext)?)
    });
    decoded
        .await
        .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

/// Reads PostgreSQL's manifest of the backup `id` out of the last of its parts.
async fn read_postgres_manifest(
    reading: &Reading,
    id: BackupId,
    manifest: &BackupManifest,
) -> Result<Bytes, BackupError> {
    let wanted = manifest.postgres_manifest;
    let (start, end) = (wanted.offset, wanted.offset + wanted.bytes);
    let mut out = Vec::with_capacity(wanted.bytes as usize);
    for part in start / PART_BYTES..end.div_ceil(PART_BYTES) {
        let expected = reading
            .archive()
            .expected(Kind::Part, None, id.set_id(), part);
        let key = layout::part(&id.to_string(), part);
        let opened = reading.fetch(&key, &expected).await?;
        let first = opened.header.start;
        let plaintext = opened
            .plaintext()
            .map_err(pitr_archive::ArchiveError::from)?;
        let within = |at: u64| at.saturating_sub(first).min(plaintext.len() as u64) as usize;
        out.extend_from_slice(&plaintext[within(start)..within(end)]);
    }
    if out.len() as u64 != wanted.bytes {
        return Err(BackupError::Incremental(format!(
            "the parts of base backup {id} do not hold PostgreSQL's manifest where they should"
        )));
    }
    Ok(out.into())
}

/// The local copies of PostgreSQL's manifests: `<signing key file>.manifests/<backup id>`.
#[derive(Clone, Debug)]
pub struct ManifestCache {
    directory: PathBuf,
}

impl ManifestCache {
    /// The one beside the archive's signing key.
    #[must_use]
    pub fn beside(signing_key_file: &Path) -> Self {
        let mut directory = signing_key_file.as_os_str().to_owned();
        directory.push(".manifests");
        Self {
            directory: directory.into(),
        }
    }

    /// Keeps the manifest of the backup `id`, durably, and forgets all others. Directory 0700, file 0600.
    pub fn keep(&self, id: BackupId, postgres_manifest: &[u8]) -> Result<(), BackupError> {
        self.write(id, postgres_manifest)
            .map_err(|error| self.failed(error))
    }

    fn write(&self, id: BackupId, postgres_manifest: &[u8]) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        let (name, new) = (
            self.directory.join(id.to_string()),
            self.directory.join(".new"),
        );
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(postgres_manifest)?;
        file.sync_all()?;
        std::fs::rename(&new, &name)?;
        File::open(&self.directory)?.sync_all()?;
        for other in self.ids()?.into_iter().filter(|&other| other != id) {
            std::fs::remove_file(self.directory.join(other.to_string()))?;
        }
        Ok(())
    }

    fn ids(&self) -> io::Result<Vec<BackupId>> {
        let mut ids = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let name = entry?.file_name();
            ids.extend(name.to_str().and_then(|name| name.parse::<BackupId>().ok()));
        }
        ids.sort_unstable();
        Ok(ids)
    }

    fn failed(&self, source: io::Error) -> BackupError {
        BackupError::Cache {
            path: self.directory.clone(),
            source,
        }
    }

    /// The newest backup whose manifest is kept here and that is whole in `archive`.
    pub async fn newest(&self, archive: &Archive) -> Result<Parent, BackupError> {
        let ids = match self.ids() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            ids => ids.map_err(|error| self.failed(error))?,
        };
        for id in ids.into_iter().rev() {
            if catalogue::backup(archive, id).await?.is_some() {
                let bytes = std::fs::read(self.directory.join(id.to_string()));
                return Ok(Parent {
                    id,
                    postgres_manifest: bytes.map_err(|error| self.failed(error))?.into(),
                });
            }
        }
        if catalogue::newest_backup(archive).await?.is_none() {
            return Err(no_backup());
        }
        Err(BackupError::Incremental(format!(
            "the manifest of the last base backup lies sealed in the archive, and {} holds no copy of it, because that backup \
             was taken elsewhere; give --identity FILE to read the sealed one, or take a full backup here first",
            self.directory.display()
        )))
    }
}

fn no_backup() -> BackupError {
    BackupError::Incremental(
        "the archive holds no whole base backup to build on; take a full one first".into(),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_newest_manifest_is_kept_and_only_its_owner_reads_it() {
        let place = tempfile::tempdir().unwrap();
        let cache = ManifestCache::beside(&place.path().join("orders.signing-key"));
        let (old, new) = (
            "20261121T031500Z".parse().unwrap(),
            "20261121T031501Z".parse().unwrap(),
        );
        cache.keep(old, b"old").unwrap();
        cache.keep(new, b"new").unwrap();
        assert_eq!(cache.ids().unwrap(), [new]);
        let directory = place.path().join("orders.signing-key.manifests");
        let file = directory.join("20261121T031501Z");
        assert_eq!(std::fs::read(&file).unwrap(), b"new");
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&file)), (0o700, 0o600));
    }
}
