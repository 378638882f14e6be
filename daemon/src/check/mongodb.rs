//! The MongoDB source's side of the check: is it a replica set, is it ours, may we read what we need, and how long would its oplog
//! wait for us.

use std::time::Duration;

use pitr_archive::Archive;
use pitr_mongodb::preflight::{self, Probe};
use pitr_mongodb::{LogKind, Server, Source};

use super::{Finding, failed};
use crate::config::{MongodbSource, show_duration};
use crate::open;

/// An oplog that reaches back less than this does not outlast a night.
const WINDOW_MIN: Duration = Duration::from_secs(24 * 60 * 60);
const ROLE: &str =
    "give it the built-in role backup: db.getSiblingDB('admin').grantRolesToUser(USER, ['backup'])";
const OPLOG_ROLE: &str = "give it the built-in role backup: db.getSiblingDB('admin').grantRolesToUser(USER, ['backup']); where \
    nobody may read local, set capture = \"change-stream\" in [source.mongodb]";
const COPY_ROLE: &str = "give it the built-in role backup beside readAnyDatabase, or a role of your own with that action";
const STREAM_ROLE: &str = "give it the built-in role readAnyDatabase: db.getSiblingDB('admin').grantRolesToUser(USER, ['readAnyDatabase'])";

/// Looks at the replica set that the configuration names; compares it with `archive`, if there is one.
pub(super) async fn source(config: &MongodbSource, archive: Option<&Archive>) -> Vec<Finding> {
    const SUBJECT: &str = "connection";
    let hint = "docs/operations.md lists what a MongoDB source needs";
    let connection = match open::mongodb(config).await {
        Ok(connection) => connection,
        Err(error) => return vec![failed(SUBJECT, &error, "change uri in [source.mongodb]")],
    };
    let (server, probe) = match preflight::look(&connection, config.capture.into()).await {
        Ok(found) => found,
        Err(error) => return vec![failed(SUBJECT, &error.into(), hint)],
    };
    let who = connection
        .user()
        .map_or("without a user".into(), |user| format!("as {user}"));
    let mut findings = vec![
        connected(&who, connection.is_plain_on_the_network()),
        Finding::ok(
            "server",
            format!("MongoDB {}, a replica set", server.version),
        ),
        identity(&server, archive),
    ];
    findings.extend(match config.capture.into() {
        LogKind::Oplog => rights(&probe),
        LogKind::Events => rights_to_stream(&probe),
    });
    findings.push(window(&probe));
    findings.push(compatibility(&server));
    findings
}

fn connected(who: &str, plain: bool) -> Finding {
    const SUBJECT: &str = "connection";
    if !plain {
        return Finding::ok(SUBJECT, format!("connected {who}"));
    }
    Finding::warn(
        SUBJECT,
        format!("connected {who}, not encrypted: the network reads what the database writes"),
        "set net.tls.mode at the servers, and tls=true in uri",
    )
}

fn identity(server: &Server, archive: Option<&Archive>) -> Finding {
    const SUBJECT: &str = "replica set";
    let (set, majority) = (&server.source, server.majority.ts);
    match archive.map(|archive| Source::of(archive).and_then(|source| source.check(set))) {
        None => Finding::ok(SUBJECT, format!("{set}, majority at ts:{majority}")),
        Some(Ok(())) => Finding::ok(
            SUBJECT,
            format!("{set}, as the archive's; majority at ts:{majority}"),
        ),
        Some(Err(error)) => Finding::fail(
            SUBJECT,
            error.to_string(),
            "give this replica set an archive of its own",
        ),
    }
}

fn may(subject: &'static str, refused: &Option<String>, what: &str, hint: &str) -> Finding {
    match refused {
        None => Finding::ok(subject, format!("may read {what}")),
        Some(message) => Finding::fail(subject, format!("may not read {what}: {message}"), hint),
    }
}

/// What a change stream needs, and what it does not show.
fn rights_to_stream(probe: &Probe) -> Vec<Finding> {
    let what = "the whole deployment's change stream (capture = \"change-stream\" needs it)";
    let mut findings = vec![may(
        "change stream",
        &probe.stream_refused,
        what,
        STREAM_ROLE,
    )];
    let unseen = LogKind::Events.cannot_see().join("; ");
    let hint = "capture = \"oplog\" sees them, where local can be read";
    findings.push(Finding::warn(
        "not seen",
        format!("by a change stream: {unseen}"),
        hint,
    ));
    findings.push(uuids(probe, COPY_ROLE));
    if let Some(message) = &probe.users_refused {
        let message = format!("base copies go without users and roles: {message}");
        findings.push(Finding::warn("users", message, ROLE));
    }
    findings
}

/// Base copies read collections by UUID.
fn uuids(probe: &Probe, hint: &str) -> Finding {
    const SUBJECT: &str = "base copies";
    if probe.uuids_refused {
        let detail = "may not read collections by UUID (the action useUUID on the cluster)";
        Finding::fail(SUBJECT, detail, hint)
    } else {
        Finding::ok(SUBJECT, "may read collections by UUID")
    }
}

fn rights(probe: &Probe) -> Vec<Finding> {
    vec![
        may(
            "oplog",
            &probe.oplog_refused,
            "local.oplog.rs (capture = \"oplog\" needs it)",
            OPLOG_ROLE,
        ),
        may(
            "transactions",
            &probe.transactions_refused,
            "config.transactions, which base copies need",
            ROLE,
        ),
        may(
            "users",
            &probe.users_refused,
            "admin.system.users and admin.system.roles, which base copies need",
            ROLE,
        ),
        uuids(probe, ROLE),
    ]
}

/// How long the daemon may be away before the oplog has rolled over.
fn window(probe: &Probe) -> Finding {
    const SUBJECT: &str = "oplog window";
    let Some(window) = probe.window else {
        return Finding::warn(SUBJECT, "not known", ROLE);
    };
    let detail = format!(
        "{}: an outage that is longer leaves a gap",
        show_duration(window)
    );
    if window >= WINDOW_MIN {
        Finding::ok(SUBJECT, detail)
    } else {
        let hint = "a set that is younger than that is fine; otherwise raise the oplog's size (replSetResizeOplog) or its minimum \
                    retention (storage.oplogMinRetentionHours)";
        Finding::warn(SUBJECT, detail, hint)
    }
}

fn compatibility(server: &Server) -> Finding {
    const SUBJECT: &str = "feature compatibility version";
    match server.fcv.as_str() {
        "" => Finding::warn(SUBJECT, "not known: the account may not ask for it", ROLE),
        version => Finding::ok(SUBJECT, version),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_short_oplog_is_a_warning_and_an_unreadable_one_a_failure() {
        let probe = |hours: u64| Probe {
            oplog_refused: None,
            stream_refused: None,
            transactions_refused: None,
            uuids_refused: false,
            users_refused: None,
            window: Some(Duration::from_secs(hours * 3600)),
        };
        assert_eq!(window(&probe(23)).level, Level::Warn);
        assert_eq!(window(&probe(24)).level, Level::Ok);
        assert!(
            rights(&probe(24))
                .iter()
                .all(|finding| finding.level == Level::Ok)
        );
        let refused = Probe {
            oplog_refused: Some("not authorized".into()),
            ..probe(24)
        };
        let findings = rights(&refused);
        assert_eq!(findings[0].level, Level::Fail);
        assert!(
            findings[0]
                .hint
                .as_deref()
                .is_some_and(|hint| hint.contains("backup") && hint.contains("change-stream"))
        );
        let fails = |probe: &Probe| {
            let findings = rights_to_stream(probe);
            let failed = findings
                .iter()
                .filter(|finding| finding.level == Level::Fail);
            failed.map(|finding| finding.subject).collect::<Vec<_>>()
        };
        assert!(fails(&refused).is_empty());
        let uuids_refused = true;
        let refused = Probe {
            uuids_refused,
            ..refused
        };
        assert_eq!(fails(&refused), ["base copies"]);
    }
}
