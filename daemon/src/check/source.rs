//! The server's side of the check: can we stream from it, will it keep what we need, and who waits for us.

use std::collections::BTreeMap;

use pitr_archive::Archive;
use pitr_postgres::Source;
use pitr_postgres::connect::{ConnInfo, ConnectError, connect_sql};
use pitr_postgres::replication::{Mode, ReplicationClient, quote_literal};
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::Finding;
use super::slot::{self, Slot};
use super::synchronous::synchronous;
use crate::config::{PostgresSource, show_bytes};
use crate::exit::{chain, classify};
use crate::open;

/// The database whose sessions answer questions about the whole server; every cluster has it.
const DATABASE: &str = "postgres";
/// Walsenders that the stream and a base backup with its own WAL stream need.
const SENDERS: u64 = 3;

const SETTINGS: &str = "select name, case name when 'idle_replication_slot_timeout' then setting || coalesce(unit, '') \
    else setting end from pg_settings where name in ('data_checksums', \
    'fsync', 'full_page_writes', 'idle_replication_slot_timeout', 'max_replication_slots', 'max_slot_wal_keep_size', \
    'max_wal_senders', 'synchronous_standby_names', 'wal_level')";
const COUNTS: &str = "select (select count(*) from pg_stat_replication), (select count(*) from pg_replication_slots)";

/// Looks at the server that the configuration names; compares it with `archive`, if there is one.
pub(super) async fn source(config: &PostgresSource, archive: Option<&Archive>) -> Vec<Finding> {
    let info = match open::connection(config) {
        Ok(info) => info,
        Err(error) => {
            return vec![super::failed(
                "connection",
                &error,
                "change connection in [source.postgres]",
            )];
        }
    };
    let mut findings = stream(config, &info, archive).await;
    match Server::ask(&info, &config.slot).await {
        Ok(server) => {
            findings.extend(server.findings(config, info.application_name.as_deref()));
        }
        Err(error) => findings.push(Finding::warn(
            "settings",
            format!("slot and settings were not looked at: {}", chain(&error)),
            hint_for_settings(&error, &info.user),
        )),
    }
    findings
}

/// What keeps us from an ordinary session: who is not there cannot have refused us.
fn hint_for_settings(error: &anyhow::Error, user: &str) -> String {
    let away = match error.downcast_ref() {
        None | Some(ConnectError::Refused { .. }) => None,
        Some(_) => classify(error).1,
    };
    away.unwrap_or_else(|| format!("let {user} connect to database {DATABASE} in pg_hba.conf"))
}

/// What a replication connection tells.
async fn stream(
    config: &PostgresSource,
    info: &ConnInfo,
    archive: Option<&Archive>,
) -> Vec<Finding> {
    const SUBJECT: &str = "connection";
    let mut client = match ReplicationClient::connect(info, Mode::Physical).await {
        Ok(client) => client,
        Err(error) => {
            let hint =
                "docs/operations.md lists the role and the pg_hba.conf lines that are needed";
            return vec![super::failed(SUBJECT, &error.into(), hint)];
        }
    };
    let findings = vec![
        connected(&info.user, client.is_encrypted(), client.is_local()),
        version(&client),
        standby(config, client.in_recovery()),
        identity(&mut client, archive).await,
    ];
    client.close().await;
    findings
}

fn connected(user: &str, encrypted: bool, local: bool) -> Finding {
    const SUBJECT: &str = "connection";
    match (encrypted, local) {
        (true, _) => Finding::ok(SUBJECT, format!("{user} may replicate, encrypted by TLS")),
        (false, true) => {
            let detail = format!("{user} may replicate, not encrypted, and on this host");
            Finding::ok(SUBJECT, detail)
        }
        (false, false) => Finding::warn(
            SUBJECT,
            format!(
                "{user} may replicate, not encrypted: the network reads what the database writes"
            ),
            "set ssl = on at the server, and sslmode=verify-full in connection",
        ),
    }
}

fn version(client: &ReplicationClient) -> Finding {
    let name = client
        .parameter("server_version")
        .unwrap_or("of an unknown version");
    match client.server_major() {
        Ok(15..=18) => Finding::ok("server", format!("PostgreSQL {name}")),
        _ => Finding::fail(
            "server",
            format!("PostgreSQL {name}"),
            "this version archives 15 to 18",
        ),
    }
}

fn standby(config: &PostgresSource, in_recovery: bool) -> Finding {
    match (in_recovery, config.allow_standby) {
        (false, _) => Finding::ok("role of the server", "primary"),
        (true, true) => Finding::ok("role of the server", "standby, as allow_standby permits"),
        (true, false) => Finding::fail(
            "role of the server",
            "standby",
            "point connection at the primary, or set allow_standby = true",
        ),
    }
}

async fn identity(client: &mut ReplicationClient, archive: Option<&Archive>) -> Finding {
    const SUBJECT: &str = "system identifier";
    let found = match client.identify_system().await {
        Ok(found) => found,
        Err(error) => return super::failed(SUBJECT, &error.into(), "look at the server's log"),
    };
    let (system, timeline, end) = (found.system_id, found.timeline, found.flush_lsn);
    let checked =
        archive.map(|archive| Source::of(archive).and_then(|source| source.check(&found)));
    match checked {
        None => Finding::ok(
            SUBJECT,
            format!("{system}, timeline {timeline}, WAL up to {end}"),
        ),
        Some(Ok(())) => Finding::ok(
            SUBJECT,
            format!("{system}, as the archive's; timeline {timeline}, WAL up to {end}"),
        ),
        Some(Err(error)) => Finding::fail(
            SUBJECT,
            error.to_string(),
            "give this server an archive of its own",
        ),
    }
}

/// What the server says about itself on an ordinary session.
#[derive(Debug)]
struct Server {
    settings: BTreeMap<String, String>,
    senders: u64,
    slots: u64,
    slot: Option<Slot>,
}

impl Server {
    async fn ask(info: &ConnInfo, slot: &str) -> anyhow::Result<Self> {
        let client = connect_sql(info, Some(DATABASE)).await?;
        let settings = rows(&client, SETTINGS).await?;
        let settings = settings.iter().map(|row| (text(row, 0), text(row, 1)));
        let settings: BTreeMap<_, _> = settings.collect();
        let counts = rows(&client, COUNTS).await?;
        let count = |column| {
            let row = counts.first();
            row.and_then(|row| text(row, column).parse().ok())
                .unwrap_or(0)
        };
        let (senders, slots) = (count(0), count(1));
        let about_slot = format!("{} where slot_name = {}", slot::QUERY, quote_literal(slot));
        let found = rows(&client, &about_slot).await?;
        let slot = found
            .first()
            .map(|row| Slot::read(|column| text(row, column)));
        Ok(Self {
            settings,
            senders,
            slots,
            slot,
        })
    }

    fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.setting(name).parse().ok()
    }

    fn findings(&self, config: &PostgresSource, name: Option<&str>) -> Vec<Finding> {
        let mut findings = vec![self.wal_level(), self.senders()];
        let room = self
            .number("max_replication_slots")
            .unwrap_or(0)
            .saturating_sub(self.slots);
        findings.push(slot::state(config, self.slot.as_ref(), room));
        findings.push(self.keep_size());
        findings.extend(self.idle_timeout());
        findings.push(synchronous(
            self.setting("synchronous_standby_names"),
            name.unwrap_or_default(),
        ));
        findings.extend(self.durability());
        findings
    }

    fn wal_level(&self) -> Finding {
        match self.setting("wal_level") {
            "minimal" => {
                let hint = "alter system set wal_level = replica, then restart the server";
                Finding::fail("wal_level", "minimal: nothing can be replicated", hint)
            }
            level => Finding::ok("wal_level", level),
        }
    }

    fn senders(&self) -> Finding {
        let max = self.number("max_wal_senders").unwrap_or(0);
        let free = max.saturating_sub(self.senders);
        let detail = format!("{free} of {max} walsenders are free");
        if free == 0 {
            Finding::fail(
                "max_wal_senders",
                detail,
                "raise max_wal_senders and restart the server",
            )
        } else if free < SENDERS {
            Finding::warn(
                "max_wal_senders",
                detail,
                "a stream and a base backup together need three",
            )
        } else {
            Finding::ok("max_wal_senders", detail)
        }
    }

    fn keep_size(&self) -> Finding {
        const SUBJECT: &str = "max_slot_wal_keep_size";
        match self.number(SUBJECT) {
            None => Finding::ok(
                SUBJECT,
                "-1: WAL is kept until it is archived, however long that takes",
            ),
            Some(mebibytes) => {
                let size = show_bytes(mebibytes << 20);
                Finding::ok(
                    SUBJECT,
                    format!("{size}: an outage that writes more WAL leaves a gap"),
                )
            }
        }
    }

    fn idle_timeout(&self) -> Option<Finding> {
        const SUBJECT: &str = "idle_replication_slot_timeout";
        let limit = Some(self.setting(SUBJECT))
            .filter(|limit| !limit.is_empty() && !limit.starts_with('0'))?;
        let hint = "set it to 0, or above your longest outage";
        Some(Finding::warn(
            SUBJECT,
            format!("{limit}: an outage that is longer leaves a gap"),
            hint,
        ))
    }

    fn durability(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        for (setting, hint) in [
            (
                "fsync",
                "a crash of the server's host can destroy the cluster; turn it on",
            ),
            (
                "full_page_writes",
                "a crash of the server's host can tear pages; turn it on",
            ),
            (
                "data_checksums",
                "damage on the server's disk would be archived unnoticed; pg_checksums --enable adds them",
            ),
        ] {
            findings.push(match self.setting(setting) {
                "on" => Finding::ok(setting, "on"),
                other => Finding::warn(setting, other, hint),
            });
        }
        findings
    }
}

async fn rows(client: &Client, query: &str) -> anyhow::Result<Vec<SimpleQueryRow>> {
    let answer = client.simple_query(query).await?.into_iter();
    let rows = answer.filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}

/// A column as text; NULL is empty.
fn text(row: &SimpleQueryRow, column: usize) -> String {
    row.get(column).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn the_network_is_warned_of_and_this_host_is_not() {
        let level = |encrypted, local| connected("pitrd", encrypted, local).level;
        assert_eq!(level(false, false), Level::Warn);
        assert_eq!(level(false, true), Level::Ok);
        assert_eq!(level(true, false), Level::Ok);
    }

    #[test]
    fn a_server_that_is_away_has_not_refused_us() {
        let away = ConnectError::TimedOut {
            place: "db:5432".into(),
            after: std::time::Duration::from_secs(1),
        };
        let hint = hint_for_settings(&away.into(), "pitrd");
        assert!(!hint.contains("pg_hba.conf"), "{hint}");
        let other = hint_for_settings(&anyhow::anyhow!("no"), "pitrd");
        assert!(other.contains("pg_hba.conf"), "{other}");
    }

    #[test]
    fn a_server_that_cannot_stream_fails() {
        let settings = [("wal_level", "minimal"), ("max_wal_senders", "2")];
        let settings = settings
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
        let server = Server {
            settings,
            senders: 2,
            slots: 0,
            slot: None,
        };
        assert_eq!(server.wal_level().level, Level::Fail);
        assert_eq!(server.senders().level, Level::Fail);
        let roomy = Server {
            senders: 0,
            ..server
        };
        assert_eq!(roomy.senders().level, Level::Warn);
    }

    #[test]
    fn a_standby_needs_permission() {
        let config = |allow_standby| PostgresSource {
            connection: String::new(),
            slot: "pitrd".into(),
            password_file: None,
            allow_standby,
            create_slot: true,
            wal_directory: None,
        };
        assert_eq!(standby(&config(false), true).level, Level::Fail);
        assert_eq!(standby(&config(true), true).level, Level::Ok);
        assert_eq!(standby(&config(false), false).level, Level::Ok);
    }
}
