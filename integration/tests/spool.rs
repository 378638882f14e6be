//! An outage of the store that is longer than the server can hold its WAL: with a spool nothing is lost, and nothing counts as durable
//! that the store does not hold.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pitr_integration::{
    Daemon, Dialect, Fault, FaultProxy, Fingerprint, Mark, ObjectServer, Postgres, Settings, Site,
    V17, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(300);
/// The server keeps little, so that an outage of seconds is a long one.
const SMALL: &str = "max_slot_wal_keep_size = '48MB'\nmin_wal_size = '32MB'\nmax_wal_size = '64MB'\n\
                     checkpoint_timeout = '1h'";

/// A server, its daemon with a spool, and the way to the store.
struct World {
    daemon: Daemon,
    proxy: FaultProxy,
    server: Postgres,
    spool: PathBuf,
    _store: ObjectServer,
    _site: Arc<Site>,
}

impl World {
    fn new(name: &str) -> World {
        let site = Site::new(name);
        let store = ObjectServer::start(&site, Dialect::Ministack);
        let proxy = FaultProxy::start(store.number());
        let server = Postgres::start_new(&site, V17, "primary", SMALL);
        let spool = site.directory("spool");
        let mut settings = Settings::new(&server, "pitrd");
        settings.url = Some(store.url_through(proxy.port(), "orders"));
        settings.linger = "100ms".to_owned();
        settings.bytes_max = "1 MiB".to_owned();
        settings.more = format!(
            "[spool]\ndirectory = \"{}\"\nbytes_max = \"1 GiB\"",
            spool.display()
        );
        let mut daemon = Daemon::prepare(&site, settings);
        daemon.start();
        daemon.wait_streaming(&server);
        server.pgbench_init(1);
        daemon.tool().backup(&[]);
        daemon.wait_archived(&server);
        World {
            daemon,
            proxy,
            server,
            spool,
            _store: store,
            _site: site,
        }
    }

    /// The store goes away, and what is written from then on goes to the spool.
    fn outage(&mut self) {
        self.proxy.script(|_| Some(Fault::Refuse(503, "SlowDown")));
        self.server.pgbench(2, 50);
        let spool = &self.spool;
        wait_until("segments in the spool", PATIENCE, || {
            segments(spool).len() > 1
        });
    }

    /// Writes as much WAL as the server keeps, and more.
    fn write(&self, rounds: u32) {
        let session = self.server.session();
        for round in 0..rounds {
            session.run(&format!(
                "create table if not exists filler_{round} as select generate_series(1, 200000) i; drop table filler_{round}"
            ));
            self.server.pgbench(2, 50);
            session.run("select pg_switch_wal()");
            // What the daemon has not read when a checkpoint gives the slot up is gone, the rest of a file that was switched too.
            self.wait_spooled();
            session.run("checkpoint");
        }
    }

    /// Waits until the spool has all that was written.
    fn wait_spooled(&self) {
        // Its commit flushes what was written before.
        let session = self.server.session();
        session.run("select pg_logical_emit_message(true, 'spool', 'all before this')");
        let flushed = self.server.flushed();
        let (high, low) = flushed.split_once('/').expect("an LSN");
        let half = |text| u64::from_str_radix(text, 16).expect("an LSN");
        let flushed = half(high) << 32 | half(low);
        wait_until("all to be spooled", PATIENCE, || {
            let last = segments(&self.spool).pop();
            last.is_some_and(|last| end(&last) >= flushed)
        });
    }

    fn told_flushed(&self) -> String {
        let session = self.server.session();
        session.value("select coalesce(max(flush_lsn)::text, '') from pg_stat_replication")
    }
}

/// Where a segment ends: docs/format.md 3.1.
fn end(segment: &Path) -> u64 {
    let bytes = std::fs::read(segment).expect("nothing is removed meanwhile");
    u64::from_be_bytes(bytes[128..136].try_into().expect("eight bytes"))
}

/// Segments in the spool.
fn segments(spool: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![spool.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                left.push(path);
            } else if path.components().any(|part| part.as_os_str() == "log") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

#[test]
fn a_slot_that_is_invalidated_during_an_outage_loses_nothing() {
    let mut world = World::new("spoolslot");
    world.outage();
    let told = world.told_flushed();
    world.server.pgbench(2, 100);
    world.wait_spooled();
    assert_eq!(world.told_flushed(), told, "the spool is no archive");
    world.write(8);
    let daemon = &world.daemon;
    wait_until("the slot to be made anew", PATIENCE, || {
        daemon.log().contains("making the replication slot anew")
    });
    world.write(2);
    let last = Fingerprint::take(&world.server);
    world.wait_spooled();
    world.proxy.heal();
    world.daemon.wait_archived(&world.server);
    let spool = &world.spool;
    wait_until("the spool to be empty", PATIENCE, || {
        segments(spool).is_empty()
    });
    let status = world.daemon.tool().status();
    assert_eq!(status["gaps"].as_array().unwrap().len(), 0, "{status}");
    assert_eq!(status["spool"]["aside_bytes"], 0, "{status}");
    let restored = world.daemon.tool().restored(V17, &["latest"], "restored");
    last.assert_restored_in(&restored, "after an outage");
    world
        .daemon
        .tool()
        .run(&["verify", "--deep"])
        .success("verify --deep");
    assert_eq!(world.daemon.stop(), 0);
}

#[test]
fn what_a_killed_daemon_spooled_is_archived_by_the_next_one() {
    let mut world = World::new("spoolkill");
    world.outage();
    world.write(2);
    let last = Mark::take(&world.server);
    world.wait_spooled();
    let waiting = segments(&world.spool).len();
    assert!(waiting > 16, "only {waiting} segments");
    let daemon = &world.daemon;
    wait_until("the slot's margin to be said", PATIENCE, || {
        daemon.log().contains("the store is away; the slot holds")
    });
    world.daemon.kill();
    // Nobody else has what lies in the spool.
    let session = world.server.session();
    session.run("select pg_drop_replication_slot('pitrd')");
    for _ in 0..6 {
        world.server.pgbench(2, 50);
        session.run("select pg_switch_wal(); checkpoint");
    }
    world.proxy.heal();
    world.daemon.start();
    world.daemon.wait_streaming(&world.server);
    assert!(
        world
            .daemon
            .log()
            .contains("what an earlier start left in the spool"),
        "{}",
        world.daemon.log()
    );
    assert_eq!(segments(&world.spool), [] as [PathBuf; 0]);
    let status = world.daemon.tool().status();
    assert_eq!(status["source"]["holder"], "slot", "{status}");
    assert_eq!(status["source"]["lost"], false, "{status}");
    let left = status["source"]["bytes_left"].as_u64();
    assert!(left.is_some_and(|left| left > 0), "{status}");
    let target = last.lsn_target();
    let restored = world.daemon.tool().restored(V17, &[&target], "restored");
    last.content
        .assert_restored_in(&restored, "after a kill in an outage");
    assert_eq!(world.daemon.stop(), 0);
}
