//! `make demo`: a real server is archived, damaged and brought back, told in plain sentences.
//!
//! It ends with a comparison of every row with what was there before the damage, the measured RPO and RTO, and leaves
//! nothing running.

use pitr_integration::{
    Daemon, Finished, Postgres, Process, Session, Settings, Site, Stop, Story, V18, wait_until,
};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

const TABLES: [&str; 4] = [
    "pgbench_accounts",
    "pgbench_branches",
    "pgbench_history",
    "pgbench_tellers",
];
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Table → rows and checksum over every row.
type Checksums = BTreeMap<&'static str, String>;

/// What was true in the instant before the damage.
struct Before {
    moment: String,
    checksums: Checksums,
}

fn main() {
    let site = Site::new("demo");
    let mut story = Story::new();

    story.tell("A PostgreSQL 18 server starts in a scratch directory, with pgbench's bank in it (1,000,000 accounts).");
    let mut server = Postgres::start_new(&site, V18, "bank", "fsync = on\nmax_wal_size = '4GB'");
    server.configure(&format!(
        "port = {}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = '{}'",
        server.port(),
        site.root().display()
    ));
    server.pgbench_init(10);

    story.tell("pitrd starts beside it. It is given a public key only: it can write the archive and not read it.");
    let mut settings = Settings::new(&server, "pitrd");
    settings.linger = "200ms".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    story.show(&format!(
        "archive  file://{}",
        daemon.archive().root().display()
    ));

    story.tell(
        "Four clients transfer money, 400 times a second, and will not stop for anything below.",
    );
    let mut workload = workload(&server);
    let sampler = Sampler::start(&server);
    std::thread::sleep(Duration::from_secs(3));

    story.tell("A base backup is taken while they work: compressed, encrypted, over the replication protocol.");
    story.show(&daemon.tool().backup(&["--label", "nightly"]).stdout);

    story.tell("Ten more seconds of business. All of it flows into the archive as it happens.");
    std::thread::sleep(Duration::from_secs(10));

    story.tell("Now somebody runs UPDATE without WHERE, and DROP TABLE, in one transaction.");
    let before = damage(&server);
    story.show(&format!("update pgbench_accounts set abalance = 0\ndrop table pgbench_history\nthe moment before: {}", before.moment));
    wait_until("the workload to fail", Duration::from_secs(30), || {
        workload.ended().is_some()
    });
    let lags = sampler.finish();
    let balance = server
        .session()
        .value("select sum(abalance) from pgbench_accounts");
    story.show(&format!(
        "the application is down; the sum of all balances is {balance}"
    ));
    daemon.wait_archived(&server);

    story.tell("What can be restored?  (pitr-tool status)");
    story.show(&daemon.tool().run(&["status"]).success("status").stdout);

    story.tell(&format!(
        "Is the moment before the damage among it?  (pitr-tool plan --to {})",
        before.moment
    ));
    story.show(
        &daemon
            .tool()
            .run(&["plan", "--to", &before.moment])
            .success("plan")
            .stdout,
    );

    story.tell("The damaged server is stopped; the archive becomes a server again at that moment.  (pitr-tool restore --action promote --start)");
    assert_eq!(
        daemon.stop(),
        0,
        "the daemon ends cleanly: {}",
        daemon.log()
    );
    server.stop(Stop::Fast);
    let restored = RestoredServer::new(&site);
    let bin = V18.bin().display().to_string();
    let began = Instant::now();
    let finished = daemon.tool().restore(
        &[
            &before.moment,
            "--action",
            "promote",
            "--start",
            "--pg-bin",
            &bin,
        ],
        &restored.data,
    );
    let rto = began.elapsed();
    let told = finished.success("restore").stdout;
    story.show(&told);

    story.tell("Every row of every table, now against the instant before the damage:");
    let session =
        Session::connect(&connection_told(&told)).expect("connect to the restored server");
    let after = checksums(&session);
    let mut equal = true;
    for (table, was) in &before.checksums {
        let is = &after[table];
        equal &= was == is;
        story.show(&format!(
            "{table:<18} {was:<45} {}",
            if was == is { "identical" } else { "DIFFERENT" }
        ));
    }
    assert!(
        equal,
        "the restored data differs from what was there before the damage"
    );

    story.tell("The figures:");
    report(&story, &lags, rto, daemon.archive().bytes());
    drop(session);
    restored.stop();
    drop(daemon);
    drop(server);
    drop(restored);
    drop(site);
    story.tell("Everything that was started is stopped and the scratch directory is gone.");
}

fn workload(server: &Postgres) -> Process {
    let mut command = server.client("pgbench");
    command.args(["-n", "-c", "4", "-j", "1", "-R", "400", "-T", "600"]);
    Process::spawn(command, &server.site().path("workload.log"))
}

/// Row count and an order-independent sum over the hash of every row.
fn checksums(session: &Session) -> Checksums {
    let sum = |table: &&'static str| {
        let sql = format!("select count(*), sum(hashtextextended(t::text, 0)) from {table} t");
        let row = session.run(&sql).remove(0);
        (*table, format!("{} rows, checksum {}", row[0], row[1]))
    };
    TABLES.iter().map(sum).collect()
}

/// Locks the tables, so that no transfer lies between the checksums, the moment and the damage.
fn damage(server: &Postgres) -> Before {
    let session = server.session();
    session.run("begin");
    session.run(&format!(
        "lock table {} in exclusive mode",
        TABLES.join(", ")
    ));
    let checksums = checksums(&session);
    let moment = server.now();
    session.run("update pgbench_accounts set abalance = 0");
    session.run("drop table pgbench_history");
    session.run("commit");
    Before { moment, checksums }
}

/// Measures, from outside, how long a commit takes to be durable in the archive.
struct Sampler {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Duration>>,
}

impl Sampler {
    fn start(server: &Postgres) -> Sampler {
        let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (stopped, session) = (stop.clone(), server.session());
        let thread = std::thread::spawn(move || {
            let mut lags = Vec::new();
            while !stopped.load(std::sync::atomic::Ordering::Relaxed) {
                let (flushed, at) = (
                    session.value("select pg_current_wal_flush_lsn()"),
                    Instant::now(),
                );
                let durable = format!(
                    "select restart_lsn >= '{flushed}' from pg_replication_slots where slot_name = 'pitrd'"
                );
                while session.value(&durable) != "t" && at.elapsed() < Duration::from_secs(30) {
                    std::thread::sleep(Duration::from_millis(2));
                }
                lags.push(at.elapsed());
            }
            lags.sort_unstable();
            lags
        });
        Sampler { stop, thread }
    }

    /// Every sample, shortest first.
    fn finish(self) -> Vec<Duration> {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.thread.join().expect("the sampler does not panic")
    }
}

fn report(story: &Story, lags: &[Duration], rto: Duration, archive_bytes: u64) {
    story.show_lags(lags);
    story.show(&format!(
        "RTO                    {:.1} s from the command to a server that answers",
        rto.as_secs_f64()
    ));
    story.show(&format!(
        "archive                {} MiB, encrypted",
        archive_bytes >> 20
    ));
}

/// How to connect, as `restore --start` tells it: `connect    psql "host=… port=… dbname=…"`.
fn connection_told(report: &str) -> String {
    let line = report.lines().find(|line| line.starts_with("connect"));
    let quoted = line.and_then(|line| line.split('"').nth(1));
    format!(
        "{} user=postgres",
        quoted.expect("restore --start tells how to connect")
    )
}

/// The server that `restore --start` leaves running.
struct RestoredServer {
    site: std::sync::Arc<Site>,
    data: PathBuf,
}

impl RestoredServer {
    fn new(site: &std::sync::Arc<Site>) -> RestoredServer {
        RestoredServer {
            site: site.clone(),
            data: site.path("restored"),
        }
    }

    fn stop(&self) {
        if self.data.join("postmaster.pid").exists() {
            let mut command = self.site.command(&V18.program("pg_ctl"));
            command
                .args(["stop", "-m", "immediate", "-t"])
                .arg(STOP_LIMIT.as_secs().to_string());
            command.arg("-D").arg(&self.data);
            Finished::run(&mut command);
        }
    }
}

impl Drop for RestoredServer {
    fn drop(&mut self) {
        self.stop();
    }
}
