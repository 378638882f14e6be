//! Which exit code and which hint an error ends in. Libraries say what happened; what an operator does about it is said
//! here, once for both binaries.

use std::io;

use pitr_archive::ArchiveError;
use pitr_archive::keys::KeyError;
use pitr_archive::object::ObjectError;
use pitr_archive::store::StoreError;
use pitr_mongodb::base::BaseError;
use pitr_mongodb::plan as mongodb_plan;
use pitr_mongodb::{self as mongodb, EngineError};
use pitr_postgres::SourceError;
use pitr_postgres::backup::BackupError;
use pitr_postgres::capture::CaptureError;
use pitr_postgres::connect::ConnectError;
use pitr_postgres::plan::{Moment, PlanError};
use pitr_postgres::replication::ReplicationError;

use super::{Exit, Refusal};
use crate::config::ConfigError;

type Verdict = (Exit, Option<String>);

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
        .or_else(|| cause.downcast_ref().map(mongodb_engine))
        .or_else(|| cause.downcast_ref().map(mongodb_source))
        .or_else(|| cause.downcast_ref().map(mongodb_plan))
        .or_else(|| cause.downcast_ref().map(mongodb_base))
}

fn hinted(exit: Exit, hint: &str) -> Verdict {
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

fn archive(error: &ArchiveError) -> Verdict {
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
        KeyError::File { .. } | KeyError::Exposed { .. } | KeyError::Malformed { .. } => {
            (Exit::Keys, None)
        }
        KeyError::Damaged { .. } | KeyError::NotSigned { .. } => (Exit::Damage, None),
    }
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
        CaptureError::OtherBranch { .. } | CaptureError::RolledBack { .. } => (Exit::Fenced, None),
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

fn mongodb_engine(error: &EngineError) -> Verdict {
    match error {
        EngineError::Archive(error) => archive(error),
        EngineError::Source(error) => mongodb_source(error),
        EngineError::Uri(_) => (Exit::Usage, None),
        EngineError::Refused { what, .. } if what.contains("change stream") => hinted(
            Exit::Unavailable,
            "docs/operations.md lists what the account needs: for capture = \"change-stream\" the built-in role readAnyDatabase",
        ),
        EngineError::Refused { .. } => hinted(
            Exit::Unavailable,
            "docs/operations.md lists what the account needs: the built-in role backup on the database admin; where local \
             cannot be read, capture = \"change-stream\" in [source.mongodb] and an archive of its own",
        ),
        EngineError::Unsupported(_) => (Exit::No, None),
        EngineError::Server(_)
        | EngineError::Certificate(_)
        | EngineError::Answer(_)
        | EngineError::Behind { .. }
        | EngineError::HistoryLost
        | EngineError::Unsendable { .. }
        | EngineError::TooLarge(_)
        | EngineError::Stream { .. }
        | EngineError::Jumped(_) => (Exit::Unavailable, None),
    }
}

fn mongodb_source(error: &mongodb::SourceError) -> Verdict {
    match error {
        mongodb::SourceError::Unreadable(_) => (Exit::Damage, None),
        mongodb::SourceError::Engine { .. } | mongodb::SourceError::OtherSet { .. } => hinted(
            Exit::Fenced,
            "every deployment has an archive of its own: give this one another url in [archive]",
        ),
        mongodb::SourceError::OtherLog { .. } => hinted(
            Exit::Usage,
            "set capture in [source.mongodb] to what the archive holds, or give the other log an archive of its own",
        ),
        mongodb::SourceError::NoReplicaSet(_) => hinted(
            Exit::Usage,
            "name the members of a replica set in uri; a single server becomes one with --replSet and rs.initiate()",
        ),
        mongodb::SourceError::NotInitiated => hinted(Exit::Unavailable, "run rs.initiate() there"),
        mongodb::SourceError::Version(_) => (Exit::Usage, None),
    }
}

fn mongodb_plan(error: &mongodb_plan::PlanError) -> Verdict {
    use mongodb_plan::{Moment, PlanError};
    match error {
        PlanError::Archive(error) => archive(error),
        PlanError::Source(error) => mongodb_source(error),
        PlanError::Base(error) => mongodb_base(error),
        PlanError::Unreachable {
            nearest_before,
            nearest_after,
            ..
        } => {
            let moments: Vec<String> = [nearest_before, nearest_after]
                .into_iter()
                .filter_map(|moment| moment.as_ref().map(Moment::to_string))
                .collect();
            let hint = match moments.len() {
                0 => "take a base copy with pitr-tool backup".into(),
                1 => format!("the nearest moment that can be restored is {}", moments[0]),
                _ => format!(
                    "the nearest moments that can be restored are {}",
                    moments.join(" and ")
                ),
            };
            (Exit::Target, Some(hint))
        }
        PlanError::Parts { .. } | PlanError::Segment { .. } => hinted(
            Exit::Damage,
            "pitr-tool verify lists everything that is damaged",
        ),
    }
}

fn mongodb_base(error: &BaseError) -> Verdict {
    match error {
        BaseError::Archive(error) => archive(error),
        BaseError::Manifest(_) | BaseError::Contradiction { .. } => hinted(
            Exit::Damage,
            "pitr-tool verify lists everything that is damaged",
        ),
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
