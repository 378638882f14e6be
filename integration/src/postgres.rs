//! A PostgreSQL server of a given version, on its own port, in its own directory.

use crate::process::{Finished, Process, Signal};
use crate::{Port, Session, Site, wait_until};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// A major version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(u32);

/// PostgreSQL 15.
pub const V15: Version = Version(15);
/// PostgreSQL 17.
pub const V17: Version = Version(17);
/// PostgreSQL 18.
pub const V18: Version = Version(18);

impl Version {
    /// The directory of this version's programs.
    pub fn bin(self) -> PathBuf {
        let servers = std::env::var_os("PITRD_SERVERS")
            .map_or_else(|| PathBuf::from("/var/tmp/pitrd-servers"), PathBuf::from);
        servers.join(format!("pg{}", self.0)).join("bin")
    }

    /// A program of this version. Panics, naming the remedy, when it is not installed.
    pub fn program(self, name: &str) -> PathBuf {
        let path = self.bin().join(name);
        assert!(
            path.exists(),
            "{} is missing: PostgreSQL {} is not installed; run `make deps`",
            path.display(),
            self.0
        );
        path
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PostgreSQL {}", self.0)
    }
}

/// How a server is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// Disconnects clients, writes a checkpoint, waits for replication to receive it.
    Fast,
    /// Ends without a checkpoint.
    Immediate,
    /// SIGKILL.
    Kill,
}

/// A server. Dropping it kills it.
#[derive(Debug)]
pub struct Postgres {
    site: Arc<Site>,
    version: Version,
    name: String,
    port: Port,
    data: PathBuf,
    process: Option<Process>,
}

impl Postgres {
    /// Makes a cluster with data checksums and starts it. `configuration` is appended to postgresql.conf.
    pub fn start_new(
        site: &Arc<Site>,
        version: Version,
        name: &str,
        configuration: &str,
    ) -> Postgres {
        let data = site.directory(name);
        let mut initdb = site.command(&version.program("initdb"));
        initdb
            .args([
                "--username=postgres",
                "--auth=trust",
                "--no-locale",
                "--encoding=UTF8",
            ])
            .args(["--data-checksums", "--no-sync", "--no-instructions", "-D"])
            .arg(&data);
        Finished::run(&mut initdb).success("initdb");
        let server = Postgres::adopt(site, version, name, data);
        server.configure(&format!(
            "fsync = off\nshared_buffers = '32MB'\nmax_wal_senders = 10\nmax_replication_slots = 10\n\
             max_prepared_transactions = 20\nmax_connections = 100\nlog_line_prefix = '%m [%p] '\n\
             log_checkpoints = off\ncheckpoint_timeout = '1h'\n{configuration}\n"
        ));
        let mut server = server;
        server.start();
        for database in ["template1", "postgres"] {
            server.session_in(database).run("create extension amcheck");
        }
        server
    }

    /// A server, not started, on a directory that exists: a restored one, a copy.
    pub fn adopt(site: &Arc<Site>, version: Version, name: &str, data: PathBuf) -> Postgres {
        Postgres {
            site: site.clone(),
            version,
            name: name.to_owned(),
            port: Port::reserve(),
            data,
            process: None,
        }
    }

    /// Appends lines to postgresql.conf; they count from the next start or [`Postgres::reload`].
    pub fn configure(&self, lines: &str) {
        use std::io::Write;
        let path = self.data.join("postgresql.conf");
        let mut file = std::fs::OpenOptions::new()
            .append(true)
            .open(&path)
            .unwrap_or_else(|error| panic!("open {}: {error}", path.display()));
        writeln!(file, "{lines}").expect("append to postgresql.conf");
    }

    /// Starts the server and waits until it answers.
    pub fn start(&mut self) {
        self.launch();
        self.wait_ready();
    }

    /// Starts the server without waiting.
    pub fn launch(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let mut command = self.site.command(&self.version.program("postgres"));
        command
            .arg("-D")
            .arg(&self.data)
            .args(["-c", &format!("port={}", self.port.number())])
            .args(["-c", "listen_addresses=127.0.0.1"])
            .args([
                "-c",
                &format!("unix_socket_directories={}", self.site.root().display()),
            ]);
        self.process = Some(Process::spawn(command, &self.log_path()));
    }

    /// Waits until the server answers; starts it again while the shared memory of a killed predecessor is in use.
    #[track_caller]
    pub fn wait_ready(&mut self) {
        let start = Instant::now();
        loop {
            if Session::connect(&self.connection()).is_ok() {
                return;
            }
            let process = self.process.as_mut().expect("the server was launched");
            if process.ended().is_some() {
                let said = process.log_tail();
                let again = said.contains("pre-existing shared memory block")
                    || said.contains("postmaster.pid");
                assert!(
                    again && start.elapsed() < PATIENCE,
                    "{} did not start:\n{said}",
                    self.name
                );
                self.process = None;
                std::thread::sleep(Duration::from_millis(200));
                self.launch();
            }
            assert!(
                start.elapsed() < PATIENCE,
                "{} does not answer:\n{}",
                self.name,
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Stops the server and returns how long that took.
    #[track_caller]
    pub fn stop(&mut self, how: Stop) -> Duration {
        let start = Instant::now();
        let mut process = self.process.take().expect("the server runs");
        process.signal(match how {
            Stop::Fast => Signal::Int,
            Stop::Immediate => Signal::Quit,
            Stop::Kill => Signal::Kill,
        });
        process.wait(PATIENCE);
        start.elapsed()
    }

    /// Stops and starts the server.
    pub fn restart(&mut self, how: Stop) {
        self.stop(how);
        self.start();
    }

    /// Makes the server read its configuration again.
    pub fn reload(&self) {
        self.session().run("select pg_reload_conf()");
    }

    /// Whether the process still runs.
    pub fn runs(&mut self) -> bool {
        self.process
            .as_mut()
            .is_some_and(|process| process.ended().is_none())
    }

    /// Waits until recovery has reached its target: replay is paused there, or the server was promoted.
    #[track_caller]
    pub fn wait_recovered(&mut self, limit: Duration) {
        let start = Instant::now();
        let state = "select not pg_is_in_recovery() or pg_get_wal_replay_pause_state() = 'paused'";
        loop {
            if let Ok(session) = Session::connect(&self.connection())
                && session.try_run(state).is_ok_and(|rows| rows == [["t"]])
            {
                return;
            }
            assert!(
                self.runs(),
                "{} ended in recovery:\n{}",
                self.name,
                self.log_tail()
            );
            assert!(
                start.elapsed() < limit,
                "{} is still in recovery:\n{}",
                self.name,
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(25));
        }
    }

    /// Promotes a standby or a server that waits at its recovery target.
    pub fn promote(&self) {
        assert_eq!(self.session().value("select pg_promote(true, 60)"), "t");
    }

    /// A connection to the database `postgres`.
    #[track_caller]
    pub fn session(&self) -> Session {
        self.session_in("postgres")
    }

    /// A connection to a database.
    #[track_caller]
    pub fn session_in(&self, database: &str) -> Session {
        match Session::connect(&self.connection_to(database)) {
            Ok(session) => session,
            Err(error) => panic!("connect to {}: {error}\n{}", self.name, self.log_tail()),
        }
    }

    /// libpq's connection string for the database `postgres`.
    pub fn connection(&self) -> String {
        self.connection_to("postgres")
    }

    /// libpq's connection string.
    pub fn connection_to(&self, database: &str) -> String {
        format!(
            "host=127.0.0.1 port={} user=postgres dbname='{database}'",
            self.port.number()
        )
    }

    /// A client program of this version, with the connection in its environment.
    pub fn client(&self, program: &str) -> Command {
        let mut command = self.site.command(&self.version.program(program));
        command
            .env("PGHOST", "127.0.0.1")
            .env("PGPORT", self.port.number().to_string())
            .env("PGUSER", "postgres")
            .env("PGDATABASE", "postgres")
            .env("PGOPTIONS", "-c synchronous_commit=local");
        command
    }

    /// pgbench's tables at a scale; 1 is about 16 MB.
    pub fn pgbench_init(&self, scale: u32) {
        let mut command = self.client("pgbench");
        command.args(["-i", "-q", "-s", &scale.to_string()]);
        Finished::run(&mut command).success("pgbench -i");
    }

    /// Runs pgbench's standard transactions to their end.
    pub fn pgbench(&self, clients: u32, transactions: u32) {
        let mut command = self.client("pgbench");
        command
            .args(["-n", "-c", &clients.to_string(), "-j", "2"])
            .args(["-t", &transactions.to_string()]);
        Finished::run(&mut command).success("pgbench");
    }

    /// The end of what is flushed: every commit that returned lies before it.
    pub fn flushed(&self) -> String {
        self.session().value("select pg_current_wal_flush_lsn()")
    }

    /// The server's clock, as a target with microseconds and offset.
    pub fn now(&self) -> String {
        self.session()
            .value("select to_char(clock_timestamp() at time zone 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')")
    }

    /// Waits until a slot confirms everything flushed up to now.
    #[track_caller]
    pub fn wait_archived(&self, slot: &str, limit: Duration) {
        let lsn = self.flushed();
        let session = self.session();
        wait_until(&format!("slot {slot} to confirm {lsn}"), limit, || {
            session.value(&format!(
                "select count(*) from pg_replication_slots where slot_name = '{slot}' and restart_lsn >= '{lsn}'"
            )) == "1"
        });
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// The data directory.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The site it belongs to.
    pub fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// The process id of the running server.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("the server runs").id()
    }

    /// What the server has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.log_path()).unwrap_or_default()).into_owned()
    }

    fn log_tail(&self) -> String {
        crate::process::tail(&self.log())
    }

    fn log_path(&self) -> PathBuf {
        self.site.path(&format!("{}.log", self.name))
    }
}
