//! A running `pitrd`, with its configuration, its keys and its archive.

use crate::process::{Finished, Process, Signal};
use crate::{ArchiveFiles, Mongo, Postgres, Program, ServiceManager, Site, Tool, wait_until};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How long the daemon may take to stream, to catch up, to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// What differs between tests.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Prefix of everything this daemon owns in the site, and its replication slot.
    pub name: String,
    /// libpq's connection string.
    pub connection: String,
    /// The archive's directory.
    pub archive: PathBuf,
    /// Where the archive lies, if not in the directory.
    pub url: Option<String>,
    /// Lines in `[archive]`.
    pub archive_lines: String,
    /// How long a segment may wait for more bytes.
    pub linger: String,
    /// Size at which a segment closes.
    pub bytes_max: String,
    /// Lines after the rest, sections included.
    pub more: String,
    /// Lines in `[source.postgres]` or `[source.mongodb]`.
    pub source: String,
    /// The source is MongoDB and `connection` its URI.
    pub is_mongodb: bool,
}

impl Settings {
    /// For a server: the archive in `<name>-archive`, segments of 16 MiB or 100 ms.
    pub fn new(server: &Postgres, name: &str) -> Settings {
        let connection = format!("{} application_name={name}", server.connection());
        Settings::of(server.site(), name, connection)
    }

    /// For a replica set, in the same way.
    pub fn mongodb(set: &Mongo, name: &str) -> Settings {
        Settings {
            is_mongodb: true,
            ..Settings::of(set.site(), name, set.uri())
        }
    }

    fn of(site: &Site, name: &str, connection: String) -> Settings {
        Settings {
            name: name.to_owned(),
            connection,
            archive: site.path(&format!("{name}-archive")),
            url: None,
            archive_lines: String::new(),
            linger: "100ms".to_owned(),
            bytes_max: "16 MiB".to_owned(),
            more: String::new(),
            source: String::new(),
            is_mongodb: false,
        }
    }

    /// For a replica set, through a change stream.
    pub fn events(set: &Mongo, name: &str) -> Settings {
        Settings {
            source: "capture = \"change-stream\"".to_owned(),
            ..Settings::mongodb(set, name)
        }
    }
}

/// The daemon. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    site: Arc<Site>,
    settings: Settings,
    configuration: PathBuf,
    identity: PathBuf,
    environment: Vec<(String, String)>,
    process: Option<Process>,
}

impl Daemon {
    /// Makes keys, configuration and archive, and starts the daemon; waits until it streams.
    pub fn start_new(server: &Postgres, name: &str) -> Daemon {
        let mut daemon = Daemon::prepare(server.site(), Settings::new(server, name));
        daemon.start();
        daemon.wait_streaming(server);
        daemon
    }

    /// Makes keys, configuration and archive without starting.
    pub fn prepare(site: &Arc<Site>, settings: Settings) -> Daemon {
        let daemon = Daemon::configured(site, settings);
        daemon.tool().run(&["init"]).success("pitr-tool init");
        daemon
    }

    /// Makes keys and configuration, and no archive yet.
    pub fn configured(site: &Arc<Site>, settings: Settings) -> Daemon {
        let home = site.directory(&format!("{}-home", settings.name));
        if settings.url.is_none() && !settings.archive.exists() {
            std::fs::create_dir_all(&settings.archive).expect("create the archive's directory");
            site.own(&settings.archive);
        }
        let identity = home.join("identity");
        let recipient = Tool::keygen(site, &identity);
        let configuration = home.join("pitrd.toml");
        let daemon = Daemon {
            site: site.clone(),
            settings,
            configuration,
            identity,
            environment: Vec::new(),
            process: None,
        };
        daemon.write_configuration(&recipient);
        daemon
    }

    /// Another daemon over the same archive with the same keys; `configuration` is its file's text.
    pub fn beside(&self, name: &str, configuration: &str) -> Daemon {
        let home = self.site.directory(&format!("{name}-home"));
        for entry in std::fs::read_dir(self.configuration.parent().expect("a file has a directory"))
            .expect("list it")
        {
            let from = entry.expect("list it").path();
            if from.is_dir() {
                continue;
            }
            let to = home.join(from.file_name().expect("a file has a name"));
            std::fs::copy(&from, &to).expect("copy a key");
            self.site.own(&to);
        }
        let path = home.join("pitrd.toml");
        self.site.write(&path, configuration, 0o600);
        let mut settings = self.settings.clone();
        settings.name = name.to_owned();
        Daemon {
            site: self.site.clone(),
            settings,
            configuration: path,
            identity: home.join("identity"),
            environment: Vec::new(),
            process: None,
        }
    }

    fn write_configuration(&self, recipient: &str) {
        let Settings {
            name,
            connection,
            archive,
            url,
            archive_lines,
            linger,
            bytes_max,
            more,
            source,
            is_mongodb,
        } = &self.settings;
        let source = if *is_mongodb {
            format!("[source.mongodb]\nuri = \"{connection}\"\n{source}")
        } else {
            format!("[source.postgres]\nconnection = \"{connection}\"\nslot = \"{name}\"\n{source}")
        };
        let directory = || format!("file://{}", archive.display());
        let url = url.clone().unwrap_or_else(directory);
        let text = format!(
            "[archive]\nurl = \"{url}\"\n{archive_lines}\n\n[encryption]\nrecipients = [\"{recipient}\"]\n\n\
             {source}\n\n\
             [segment]\nbytes_max = \"{bytes_max}\"\nlinger = \"{linger}\"\ncompression = \"zstd:1\"\n\n{more}\n"
        );
        self.site.write(&self.configuration, &text, 0o600);
    }

    /// From the next start on the daemon tells this service manager how it is.
    pub fn tells(&mut self, manager: &ServiceManager) {
        self.environment = manager.environment();
    }

    /// Starts the process without waiting.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "the daemon runs already");
        let mut command = self.site.command(&self.site.program(Program::Pitrd));
        command.arg("--config").arg(&self.configuration);
        command.envs(self.environment.iter().cloned());
        self.process = Some(Process::spawn(command, &self.log_path()));
    }

    /// `pitrd --check`.
    pub fn check(&self) -> Finished {
        let mut command = self.site.command(&self.site.program(Program::Pitrd));
        command
            .arg("--config")
            .arg(&self.configuration)
            .arg("--check");
        Finished::run(&mut command)
    }

    /// Waits until the server shows this daemon's slot in use and streaming.
    #[track_caller]
    pub fn wait_streaming(&mut self, server: &Postgres) {
        let session = server.session();
        let sql = format!(
            "select count(*) from pg_replication_slots s join pg_stat_replication r on r.pid = s.active_pid \
             where s.slot_name = '{}' and r.state = 'streaming'",
            self.settings.name
        );
        wait_until(
            &format!("{} to stream", self.settings.name),
            PATIENCE,
            || {
                let process = self.process.as_mut().expect("the daemon was started");
                if let Some(code) = process.ended() {
                    panic!("the daemon ended with {code}:\n{}", process.log_tail());
                }
                session.value(&sql) == "1"
            },
        );
    }

    /// As [`Daemon::start_new`], for a replica set.
    pub fn follow(set: &Mongo, name: &str) -> Daemon {
        let mut daemon = Daemon::prepare(set.site(), Settings::mongodb(set, name));
        daemon.start();
        daemon.wait_following(1);
        daemon
    }

    /// As [`Daemon::follow`], through a change stream.
    pub fn follow_events(set: &Mongo, name: &str) -> Daemon {
        let mut daemon = Daemon::prepare(set.site(), Settings::events(set, name));
        daemon.start();
        daemon.wait_following(1);
        daemon
    }

    /// Waits until the daemon and its predecessors have begun `times` sessions on the source's log.
    #[track_caller]
    pub fn wait_following(&mut self, times: usize) {
        wait_until(
            &format!("{} to follow the oplog", self.settings.name),
            PATIENCE,
            || {
                let process = self.process.as_mut().expect("the daemon was started");
                if let Some(code) = process.ended() {
                    panic!("the daemon ended with {code}:\n{}", process.log_tail());
                }
                self.log().matches("following the ").count() >= times
            },
        );
    }

    /// Waits until everything that a majority of the set has now is durable in the archive.
    #[track_caller]
    pub fn wait_covered(&self, set: &Mongo) {
        let mark = set.mark();
        let mut last = None;
        wait_until("the oplog to be archived", 2 * PATIENCE, || {
            last = self.archive().oplog_end(&self.identity);
            last >= Some(mark)
        });
    }

    /// Waits until everything that the server has flushed is durable in the archive.
    #[track_caller]
    pub fn wait_archived(&self, server: &Postgres) {
        server.wait_archived(&self.settings.name, PATIENCE);
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        self.process().signal(signal);
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        let mut process = self.process.take().expect("the daemon runs");
        process.signal(Signal::Kill);
        process.wait(PATIENCE);
    }

    /// SIGTERM, and returns the exit code.
    #[track_caller]
    pub fn stop(&mut self) -> i32 {
        let mut process = self.process.take().expect("the daemon runs");
        process.signal(Signal::Term);
        process.wait(PATIENCE)
    }

    /// Waits until the daemon ends by itself and returns the exit code.
    #[track_caller]
    pub fn wait_end(&mut self) -> i32 {
        let mut process = self.process.take().expect("the daemon runs");
        process.wait(PATIENCE)
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| process.ended().is_none())
    }

    /// Everything the daemon and its predecessors have logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    /// The running process.
    pub fn process(&self) -> &Process {
        self.process.as_ref().expect("the daemon runs")
    }

    /// `pitr-tool` for this archive, able to decrypt.
    pub fn tool(&self) -> Tool {
        Tool::new(&self.site, &self.configuration, &self.identity)
    }

    /// The archive's files.
    pub fn archive(&self) -> ArchiveFiles {
        ArchiveFiles::new(&self.settings.archive)
    }

    /// What it was started with.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The configuration file.
    pub fn configuration(&self) -> &Path {
        &self.configuration
    }

    /// The identity file.
    pub fn identity(&self) -> &Path {
        &self.identity
    }

    fn log_path(&self) -> PathBuf {
        self.site.path(&format!("{}.log", self.settings.name))
    }
}
