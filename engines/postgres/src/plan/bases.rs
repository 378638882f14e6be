//! The base of a plan, and those it is incremental to: manifests that open, parts that are all there. The one that will probably be
//! taken is read while the end of the log is still being searched: what a plan needs of it is needed soon anyway.

use futures_util::future::join;
use pitr_archive::catalogue::{Backup, BackupId, listed_parts, present_parts};
use pitr_archive::object::Kind;
use pitr_archive::store::Listed;
use pitr_archive::{ArchiveError, Reading, layout};

use super::error::PlanError;
use crate::Target;
use crate::backup::BackupManifest;

/// What was read of a base before it was known that it is the one.
pub(super) struct BaseAhead {
    id: BackupId,
    manifest: BackupManifest,
    /// Its parts, as a listing shows them.
    listed: Vec<Listed>,
}

impl BaseAhead {
    /// Reads the base among `backups` that `target` probably leads to, and asks for its first `parts` parts. `None` if that cannot be
    /// told, or fails: then the plan reads what it needs.
    pub(super) async fn read(
        reading: &Reading,
        backups: &[BackupId],
        target: &Target,
        parts: usize,
    ) -> Option<Self> {
        let id = guess(backups, target)?;
        let listed = async {
            let listed = listed_parts(reading.archive(), id).await;
            for object in listed.iter().flatten().take(parts) {
                if let Some(seq) = layout::segment_seq(&object.key) {
                    let set = id.set_id();
                    let expected = reading.archive().expected(Kind::Part, None, set, seq);
                    reading.ask_ahead(&object.key, &expected);
                }
            }
            listed
        };
        let manifest = async {
            let manifest = read_held(reading, id).await;
            if manifest.as_ref().is_ok_and(|found| found.parent.is_some()) {
                // It is put upon others, whose parts come first.
                reading.forget_ahead();
            }
            manifest
        };
        match join(listed, manifest).await {
            (Ok(listed), Ok(manifest)) => Some(Self {
                id,
                manifest,
                listed,
            }),
            _ => {
                reading.forget_ahead();
                None
            }
        }
    }
}

/// The newest base, or the newest that began before the time.
fn guess(backups: &[BackupId], target: &Target) -> Option<BackupId> {
    let began_by = |id: &&BackupId, time: i64| {
        let moment = id.moment();
        moment.is_some_and(|moment| moment.as_microsecond() <= time)
    };
    match target {
        Target::Latest | Target::Immediate => backups.last().copied(),
        Target::Time(time) => backups.iter().rev().find(|id| began_by(id, *time)).copied(),
        Target::Lsn(_) | Target::Xid(_) | Target::Name(_) => None,
    }
}

/// `base` and those it is incremental to, the full one first, with their bytes and objects in the store.
pub(super) async fn prove_bases(
    reading: &Reading,
    base: &Backup,
    ahead: Option<&BaseAhead>,
) -> Result<(Vec<BackupId>, u64, u64), PlanError> {
    let ahead = ahead.filter(|ahead| ahead.id == base.id);
    if ahead.is_none() {
        reading.forget_ahead();
    }
    let (mut bases, mut bytes, mut objects) = (Vec::new(), 0, 0);
    let mut next = Some(base.id);
    while let Some(id) = next {
        let damaged = |reason| PlanError::Backup {
            id: id.to_string(),
            reason,
        };
        let read = match ahead.filter(|ahead| ahead.id == id) {
            Some(ahead) => &BaseAhead {
                id,
                manifest: ahead.manifest.clone(),
                listed: ahead.listed.clone(),
            },
            None => {
                let listed = listed_parts(reading.archive(), id);
                let (manifest, listed) = join(read_held(reading, id), listed).await;
                &BaseAhead {
                    id,
                    manifest: manifest?,
                    listed: listed?,
                }
            }
        };
        let manifest = &read.manifest;
        let parts = present_parts(reading.archive(), id, manifest.parts, &read.listed).await?;
        let missing = parts.len() as u64;
        if missing < manifest.parts {
            return Err(damaged(format!(
                "part {missing} of {} is missing",
                manifest.parts
            )));
        }
        bytes += parts.iter().map(|object| object.object_bytes).sum::<u64>();
        objects += manifest.parts + 1;
        next = match &manifest.parent {
            Some(parent) => Some(
                parent
                    .parse()
                    .map_err(|_| damaged(format!("its parent {parent:?} is not a backup id")))?,
            ),
            None => None,
        };
        if bases.contains(&id) {
            return Err(damaged("it is its own ancestor".into()));
        }
        bases.push(id);
    }
    bases.reverse();
    Ok((bases, bytes, objects))
}

/// Opens the manifest of a base backup.
///
/// # Errors
/// It is not there, damaged, or the key does not open it.
pub async fn read_manifest(reading: &Reading, id: BackupId) -> Result<BackupManifest, PlanError> {
    read(reading, id, false).await
}

/// Opens the manifest of a base backup, which is held for whoever reads it next.
async fn read_held(reading: &Reading, id: BackupId) -> Result<BackupManifest, PlanError> {
    read(reading, id, true).await
}

async fn read(reading: &Reading, id: BackupId, hold: bool) -> Result<BackupManifest, PlanError> {
    let key = layout::manifest(&id.to_string());
    let set = id.set_id();
    let expected = reading.archive().expected(Kind::Manifest, None, set, 0);
    let object = reading.object(&key, &expected).await?;
    let opened = reading.open(object.clone()).await?;
    if hold {
        reading.hold(&key, object);
    }
    let bytes = opened.plaintext().map_err(ArchiveError::from)?;
    BackupManifest::decode(&bytes).map_err(|source| PlanError::Manifest {
        id: id.to_string(),
        source,
    })
}
