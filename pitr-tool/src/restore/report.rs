//! What a restore did, for people and for programs.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pitr_postgres::plan::{Plan, StopAt};
use pitr_postgres::restore::{Restored, Started, State};
use pitrd::config::{show_bytes, show_duration};
use serde::Serialize;

use crate::output;
use crate::status::Moment;

/// What `restore` did. Its JSON is documented in docs/cli.md.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// The target as it was understood.
    pub target: String,
    /// Where the server stops; `null` for `immediate`.
    pub stop: Option<Stop>,
    /// Time of the last transaction that will be there; `null` where it is not known.
    pub last_commit: Option<String>,
    /// The timeline that recovery follows.
    pub timeline: u32,
    /// Where the cluster is now.
    pub into: PathBuf,
    /// The base backups it was made of, the full one first.
    pub base_backups: Vec<String>,
    /// Files written.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Bytes fetched from the store.
    pub download_bytes: u64,
    /// Seconds until every byte was in its file, durable.
    pub fetch_seconds: f64,
    /// Seconds until the cluster was verified and could be started.
    pub seconds: f64,
    /// Configuration files that the source has outside of its data directory, so that they are not in the backup.
    pub missing_configuration: Vec<String>,
    /// What to know before the server takes writes.
    pub remarks: Vec<String>,
    /// The server, with `--start`.
    pub server: Option<Recovered>,
}

/// Where replay stops.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Stop {
    /// The record's LSN.
    pub lsn: String,
    /// Whether it is replayed itself.
    pub inclusive: bool,
}

/// A server that stands at the target.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recovered {
    /// Where it stands.
    pub at: Moment,
    /// What it does now: `paused`, `promoted` or `shut down`.
    pub state: &'static str,
    /// Seconds from the server's start until it stood there.
    pub replay_seconds: f64,
    /// Seconds from the start of the command until it stood there: the measured RTO.
    pub rto_seconds: f64,
    /// How to connect to it, as connection parameters; `null` after a shutdown.
    pub connection: Option<String>,
    /// How to stop it; `null` after a shutdown.
    pub stop_command: Option<String>,
}

impl Report {
    /// The report of a restore of `plan` that took `seconds`.
    #[must_use]
    pub fn new(plan: &Plan, restored: Restored, seconds: f64) -> Self {
        let stop = match plan.stop {
            StopAt::Consistency => None,
            StopAt::Record { lsn, inclusive } => Some(Stop {
                lsn: lsn.to_string(),
                inclusive,
            }),
        };
        Self {
            target: plan.target.to_string(),
            stop,
            last_commit: plan.last_commit.map(output::time),
            timeline: plan.timeline.0,
            into: restored.into,
            base_backups: plan.bases.iter().map(ToString::to_string).collect(),
            files: restored.files,
            bytes: restored.bytes,
            download_bytes: restored.fetched_bytes,
            fetch_seconds: restored.fetch_seconds,
            seconds,
            missing_configuration: restored.missing_configuration,
            remarks: restored.remarks,
            server: None,
        }
    }
}

impl Recovered {
    /// The report of a server that stands at the target of `plan`, `rto_seconds` after the command began.
    #[must_use]
    pub fn new(
        plan: &Plan,
        data: &Path,
        pg_bin: &Path,
        started: &Started,
        rto_seconds: f64,
    ) -> Self {
        let lsn = match plan.stop {
            StopAt::Record { lsn, .. } => lsn.to_string(),
            StopAt::Consistency => plan
                .path
                .last()
                .map_or_else(String::new, |step| step.to.to_string()),
        };
        let state = match started.state {
            State::Paused => "paused",
            State::Promoted => "promoted",
            State::ShutDown => "shut down",
        };
        let runs = started.state != State::ShutDown;
        let (socket, port) = (started.socket_directory.display(), started.port);
        let (pg_ctl, data) = (pg_bin.join("pg_ctl"), data.display());
        Self {
            at: Moment {
                lsn,
                time: plan.last_commit.map(output::time),
            },
            state,
            replay_seconds: started.seconds,
            rto_seconds,
            connection: runs.then(|| format!("host={socket} port={port} dbname=postgres")),
            stop_command: runs.then(|| format!("{} -D {data} stop", pg_ctl.display())),
        }
    }
}

fn time(seconds: f64) -> String {
    show_duration(Duration::try_from_secs_f64(seconds).unwrap_or_default())
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (into, bytes, files) = (self.into.display(), show_bytes(self.bytes), self.files);
        let took = time(self.seconds);
        writeln!(
            f,
            "restored   {bytes} in {files} files into {into} in {took}"
        )?;
        if let Some(last) = &self.last_commit {
            writeln!(f, "last in    the transaction that ended {last}")?;
        }
        if !self.missing_configuration.is_empty() {
            let files = self.missing_configuration.join(", ");
            writeln!(
                f,
                "missing    {files}: the source has them outside its data directory, so they are not in the backup"
            )?;
        }
        for remark in &self.remarks {
            writeln!(f, "note       {remark}")?;
        }
        match &self.server {
            Some(server) => server.fmt(f),
            None => writeln!(
                f,
                "next       start the server on {into}; it replays to {} by itself",
                self.target
            ),
        }
    }
}

impl fmt::Display for Recovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (at, state) = (&self.at, self.state);
        writeln!(f, "recovered  to {at}; the server is {state}")?;
        let (rto, replay) = (time(self.rto_seconds), time(self.replay_seconds));
        writeln!(f, "RTO        {rto}, {replay} of it replay")?;
        if let Some(connection) = &self.connection {
            writeln!(f, "connect    psql \"{connection}\"")?;
        }
        if self.state == "paused" {
            writeln!(
                f,
                "go on      SELECT pg_wal_replay_resume() ends recovery and lets it take writes"
            )?;
        }
        if let Some(command) = &self.stop_command {
            writeln!(f, "stop       {command}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            target: "latest".into(),
            stop: None,
            last_commit: None,
            timeline: 1,
            into: "/srv/r".into(),
            base_backups: vec![],
            files: 9,
            bytes: 1 << 30,
            download_bytes: 0,
            fetch_seconds: 1.5,
            seconds: 2.0,
            missing_configuration: vec!["pg_hba.conf".into()],
            remarks: vec![],
            server: None,
        }
    }

    #[test]
    fn the_report_says_what_is_missing_and_what_comes_next() {
        let text = report().to_string();
        assert!(text.contains("start the server on /srv/r"), "{text}");
        assert!(text.contains("missing    pg_hba.conf:"), "{text}");
    }

    #[test]
    fn a_started_server_is_reported_with_its_rto_and_how_to_go_on() {
        let at = Moment {
            lsn: "0/3000028".into(),
            time: None,
        };
        let server = Recovered {
            at,
            state: "paused",
            replay_seconds: 60.0,
            rto_seconds: 65.0,
            connection: Some("host=/srv/r".into()),
            stop_command: Some("pg_ctl stop".into()),
        };
        let text = Report {
            server: Some(server),
            ..report()
        }
        .to_string();
        for line in [
            "recovered  to 0/3000028; the server is paused\n",
            "RTO        1min 5s, 1min of it replay\n",
            "connect    psql \"host=/srv/r\"\n",
            "go on      SELECT pg_wal_replay_resume()",
            "stop       pg_ctl stop\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
