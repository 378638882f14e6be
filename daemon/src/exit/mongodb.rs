//! As the rest of [`super::classify`], for errors of the MongoDB engine.

use pitr_mongodb::base::BaseError;
use pitr_mongodb::plan::{Moment, PlanError};
use pitr_mongodb::{EngineError, SourceError};

use super::Exit;
use super::classify::{Verdict, archive, hinted};

pub(super) fn engine(error: &EngineError) -> Verdict {
    match error {
        EngineError::Archive(error) => archive(error),
        EngineError::Source(error) => source(error),
        EngineError::Uri(_) => (Exit::Usage, None),
        EngineError::PasswordFile(_) => (Exit::Keys, None),
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

pub(super) fn source(error: &SourceError) -> Verdict {
    match error {
        SourceError::Unreadable(_) => (Exit::Damage, None),
        SourceError::Engine { .. } | SourceError::OtherSet { .. } => hinted(
            Exit::Fenced,
            "every deployment has an archive of its own: give this one another url in [archive]",
        ),
        SourceError::OtherLog { .. } => hinted(
            Exit::Usage,
            "set capture in [source.mongodb] to what the archive holds, or give the other log an archive of its own",
        ),
        SourceError::NoReplicaSet(_) => hinted(
            Exit::Usage,
            "name the members of a replica set in uri; a single server becomes one with --replSet and rs.initiate()",
        ),
        SourceError::NotInitiated => hinted(Exit::Unavailable, "run rs.initiate() there"),
        SourceError::Version(_) => (Exit::Usage, None),
    }
}

pub(super) fn plan(error: &PlanError) -> Verdict {
    match error {
        PlanError::Archive(error) => archive(error),
        PlanError::Source(error) => source(error),
        PlanError::Base(error) => base(error),
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

pub(super) fn base(error: &BaseError) -> Verdict {
    match error {
        BaseError::Archive(error) => archive(error),
        BaseError::Manifest(_) | BaseError::Contradiction { .. } => hinted(
            Exit::Damage,
            "pitr-tool verify lists everything that is damaged",
        ),
    }
}
