//! Which exit code and which hint an error ends in. Libraries say what happened; what an operator does about it is said
//! here, once for both binaries.

use std::io;

use pitr_archive::ArchiveError;
use pitr_archive::keys::KeyError;
use pitr_archive::object::ObjectError;
use pitr_archive::store::StoreError;
use pitr_postgres::SourceError;
use pitr_postgres::backup::BackupError;
use pitr_postgres::capture::CaptureError;
use pitr_postgres::connect::ConnectError;
use pitr_postgres::plan::{Moment, PlanError};
use pitr_postgres::replication::ReplicationError;

use super::{Exit, Refusal, mongodb};
use crate::config::ConfigError;

pub(super) type Verdict = (Exit, Option<String>);

/// The exit code that `error` ends in and the hint that goes with it: the outermost cause that has one decides, and
/// what nobody classified counts as unavailable, which is retried.
#[must_use]
pub fn classify(error: &anyhow::Error) -> (Exit, Option<String>) {
    error
        .chain()
        .find_map(known)
        .unwrap_or((Exit::Unavailable, None))
}

fn known(cause: &(dyn std::error::Error + 'static)) -> Option<Verdict> {
    None.or_else(|| cause.downcast_ref().map(refusal))
        .or_else(|| cause.downcast_ref().map(config))
        .or_else(|| cause.downcast_ref().map(archive))
        .or_else(|| cause.downcast_ref().map(object))
        .or_else(|| cause.downcast_ref().map(key))
        .or_else(|| cause.downcast_ref().map(store))
        .or_else(|| cause.downcast_ref().map(connect))
        .or_else(|| cause.downcast_ref().map(replication))
        .or_else(|| cause.downcast_ref().map(source))
        .or_else(|| cause.downcast_ref().map(capture))
        .or_else(|| cause.downcast_ref().map(plan))
        .or_else(|| cause.downcast_ref().map(backup))
        .or_else(|| cause.downcast_ref().map(mongodb::engine))
        .or_else(|| cause.downcast_ref().map(mongodb::source))
        .or_else(|| cause.downcast_ref().map(mongodb::plan))
        .or_else(|| cause.downcast_ref().map(mongodb::base))
}

pub(super) fn hinted(exit: Exit, hint: &str) -> Verdict {
    (exit, Some(hint.into()))
}

fn refusal(refusal: &Refusal) -> Verdict {
    (refusal.exit, refusal.hint.clone())
}

fn config(error: &ConfigError) -> Verdict {
    match error {
        ConfigError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => {
            hinted(Exit::Usage, "name the file with --config FILE")
        }
        ConfigError::Read { .. } => (Exit::Usage, None),
        ConfigError::Wrong { hint, .. } => (Exit::Usage, hint.clone()),
    }
}

pub(super) fn archive(error: &ArchiveError) -> Verdict {
    match error {
        ArchiveError::Store(error) => store(error),
        ArchiveError::Object(error) => object(error),
        ArchiveError::Key(error) => key(error),
        // Retried: the file system it lies on may not be mounted yet.
        ArchiveError::Absent { .. } => hinted(
            Exit::Unavailable,
            "create it with pitr-tool init --config FILE, or mount the file system it lies on",
        ),
        ArchiveError::Foreign { .. } => hinted(
            Exit::Fenced,
            "every server has an archive of its own: give this one another url in [archive]",
        ),
        ArchiveError::Fenced { .. } => hinted(
            Exit::Fenced,
            "only one daemon may write an archive: stop the other one, or leave it the archive",
        ),
        ArchiveError::Stray { .. } => hinted(
            Exit::Fenced,
            "see that no other daemon runs, delete the object (in a bucket with versions: that version) and start again; if it is \
             locked, start once with --accept-break and take a base backup",
        ),
        ArchiveError::Hole { .. } | ArchiveError::TailMissing { .. } => hinted(
            Exit::Damage,
            "bring the missing objects back from a copy of the store; nothing was acknowledged meanwhile",
        ),
        ArchiveError::Unreadable { .. } => (Exit::Damage, None),
        ArchiveError::Discontinuous { .. } => (Exit::Unavailable, None),
    }
}

fn object(error: &ObjectError) -> Verdict {
    if error.is_wrong_key() {
        hinted(
            Exit::Keys,
            "give the identity the archive was written for, with --identity FILE",
        )
    } else {
        hinted(
            Exit::Damage,
            "pitr-tool verify lists everything that is damaged",
        )
    }
}

fn key(error: &KeyError) -> Verdict {
    match error {
        KeyError::NotForUs { .. } => hinted(
            Exit::Keys,
            "give the identity whose recipient is named, with --identity FILE",
        ),
        KeyError::File { source, .. } => (Exit::Keys, key_file(source.kind())),
        KeyError::Malformed { what, .. } if what.starts_with("key file") => hinted(
            Exit::Keys,
            "--identity takes the file that pitr-tool keygen wrote, --key-file and key_file that of keygen --symmetric",
        ),
        KeyError::Exposed { .. } | KeyError::Malformed { .. } => (Exit::Keys, None),
        KeyError::Damaged { .. } | KeyError::NotSigned { .. } => (Exit::Damage, None),
    }
}

fn key_file(kind: io::ErrorKind) -> Option<String> {
    let hint = match kind {
        io::ErrorKind::NotFound => {
            "pitr-tool keygen --out FILE makes an identity or a key file, pitr-tool init --config FILE the signing key"
        }
        io::ErrorKind::AlreadyExists => {
            "a key is never overwritten: name a new file, or move the old one away and keep it"
        }
        io::ErrorKind::PermissionDenied => "run as the user who owns the file",
        _ => return None,
    };
    Some(hint.into())
}

fn store(error: &StoreError) -> Verdict {
    match error {
        StoreError::NotFound { .. } => (Exit::Damage, None),
        StoreError::Full { .. } => {
            hinted(Exit::Unavailable, "make room; nothing is lost meanwhile")
        }
        StoreError::Denied { .. } => hinted(
            Exit::Unavailable,
            "run as the user who owns the archive, or give this one access",
        ),
        StoreError::AlreadyExists { .. }
        | StoreError::Unavailable { .. }
        | StoreError::Broken { .. } => (Exit::Unavailable, None),
    }
}

fn connect(error: &ConnectError) -> Verdict {
    match error {
        ConnectError::Settings(_) => (Exit::Usage, None),
        ConnectError::Unreachable { .. } | ConnectError::TimedOut { .. } => hinted(
            Exit::Unavailable,
            "is the server running, and does it listen there?",
        ),
        ConnectError::Refused { error, .. } if error.code.starts_with("28") => hinted(
            Exit::Unavailable,
            "docs/operations.md lists the role and the pg_hba.conf lines that are needed",
        ),
        ConnectError::AllHosts(errors) => errors
            .iter()
            .map(connect)
            .find(|(_, hint)| hint.is_some())
            .unwrap_or((Exit::Unavailable, None)),
        _ => (Exit::Unavailable, None),
    }
}

fn replication(error: &ReplicationError) -> Verdict {
    match error {
        ReplicationError::SlotActive(_) => hinted(
            Exit::Unavailable,
            "another process streams from the slot: stop it, or name another slot in [source.postgres]",
        ),
        ReplicationError::Unsupported(_) => (Exit::Usage, None),
        _ => (Exit::Unavailable, None),
    }
}

fn source(error: &SourceError) -> Verdict {
    match error {
        SourceError::Unreadable(_) => (Exit::Damage, None),
        SourceError::Engine { .. } | SourceError::OtherCluster { .. } => hinted(
            Exit::Fenced,
            "every server has an archive of its own: give this one another url in [archive]",
        ),
    }
}

fn capture(error: &CaptureError) -> Verdict {
    match error {
        CaptureError::Archive(error) => archive(error),
        CaptureError::Connect(error) => connect(error),
        CaptureError::Replication(error) => replication(error),
        CaptureError::Source(error) => source(error),
        CaptureError::Version(_) | CaptureError::Standby => (Exit::Usage, None),
        CaptureError::OtherBranch { .. }
        | CaptureError::RolledBack { .. }
        | CaptureError::OtherLog { .. } => (Exit::Fenced, None),
        _ => (Exit::Unavailable, None),
    }
}

fn plan(error: &PlanError) -> Verdict {
    match error {
        PlanError::Archive(error) => archive(error),
        PlanError::Source(error) => source(error),
        PlanError::Unreachable {
            nearest_before,
            nearest_after,
            ..
        } => (Exit::Target, nearest(*nearest_before, *nearest_after)),
        PlanError::NoTimeline(_) | PlanError::NoHistory(_) => {
            hinted(Exit::Target, "pitr-tool status lists what can be restored")
        }
        PlanError::Ambiguous { .. } => (Exit::Target, None),
        PlanError::Manifest { .. } | PlanError::Backup { .. } => hinted(
            Exit::Damage,
            "pitr-tool verify lists everything that is damaged",
        ),
    }
}

/// The nearest moments that can be restored, as the hint of a refused target.
fn nearest(before: Option<Moment>, after: Option<Moment>) -> Option<String> {
    match (before, after) {
        (None, None) => None,
        (Some(moment), None) | (None, Some(moment)) => Some(format!(
            "the nearest moment that can be restored is {moment}"
        )),
        (Some(before), Some(after)) => Some(format!(
            "the nearest moments that can be restored are {before} and {after}"
        )),
    }
}

fn backup(error: &BackupError) -> Verdict {
    match error {
        BackupError::Archive(error) => archive(error),
        BackupError::Connect(error) => connect(error),
        BackupError::Replication(error) => replication(error),
        BackupError::Source(error) => source(error),
        BackupError::Manifest(_) => (Exit::Damage, None),
        BackupError::Version(_) | BackupError::Standby => (Exit::Usage, None),
        BackupError::Incremental(_) => (Exit::No, None),
        BackupError::Tar { .. }
        | BackupError::Name(_)
        | BackupError::Stream(_)
        | BackupError::Check(_)
        | BackupError::Cache { .. } => (Exit::Unavailable, None),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_code_and_hint_are_found_below_any_context() {
        let refused: anyhow::Result<()> = Err(Refusal::new(Exit::Target, "past the end")
            .hint("try latest")
            .into());
        let error = refused.context("plan").unwrap_err();
        assert_eq!(format!("{error:#}"), "plan: past the end");
        assert_eq!(classify(&error), (Exit::Target, Some("try latest".into())));
    }

    #[test]
    fn an_archive_error_is_classified_by_what_it_wraps() {
        let source = io::ErrorKind::NotFound.into();
        let error = ArchiveError::Key(KeyError::File {
            path: "k".into(),
            source,
        });
        assert_eq!(classify(&error.into()).0, Exit::Keys);
        let absent = ArchiveError::Absent {
            url: "file:///a".into(),
        };
        assert_eq!(classify(&absent.into()).0, Exit::Unavailable);
        let fenced = ArchiveError::Fenced {
            key: "log/0".into(),
            writer: "00".into(),
        };
        assert_eq!(
            classify(&anyhow::Error::from(fenced).context("archive")).0,
            Exit::Fenced
        );
    }

    #[test]
    fn a_configuration_error_is_a_usage_error() {
        let error = ConfigError::Read {
            path: "a.toml".into(),
            source: io::ErrorKind::NotFound.into(),
        };
        let (exit, hint) = classify(&error.into());
        assert_eq!(exit, Exit::Usage);
        assert!(hint.is_some());
    }

    #[test]
    fn a_server_that_is_away_is_retried_and_a_wrong_connection_string_is_not() {
        let away = ConnectError::TimedOut {
            place: "db:5432".into(),
            after: std::time::Duration::from_secs(1),
        };
        assert_eq!(classify(&away.into()).0, Exit::Unavailable);
        let wrong = ConnectError::Settings("unknown keyword".into());
        assert_eq!(classify(&wrong.into()).0, Exit::Usage);
    }

    #[test]
    fn a_target_that_cannot_be_reached_names_the_nearest_moments() {
        let moment = |lsn: &str| {
            Some(Moment {
                lsn: lsn.parse().unwrap(),
                time: None,
            })
        };
        let refused = |nearest_before, nearest_after| PlanError::Unreachable {
            target: "latest".parse().unwrap(),
            reason: "it lies in a gap".into(),
            nearest_before,
            nearest_after,
        };
        let (exit, hint) = classify(&refused(moment("0/1"), moment("0/9")).into());
        assert_eq!(exit, Exit::Target);
        assert_eq!(
            hint.unwrap(),
            "the nearest moments that can be restored are lsn:0/1 and lsn:0/9"
        );
        let (_, hint) = classify(&refused(None, moment("0/9")).into());
        assert_eq!(
            hint.unwrap(),
            "the nearest moment that can be restored is lsn:0/9"
        );
        assert_eq!(classify(&refused(None, None).into()).1, None);
    }

    #[test]
    fn what_nobody_classified_is_retried() {
        assert_eq!(
            classify(&anyhow::anyhow!("connection reset")).0,
            Exit::Unavailable
        );
    }
}
