//! SIGKILL at random moments under load: what a synchronous session was told is committed is in the archive.
//! `make test` kills 20 times, `make soak` 200 (`PITRD_KILLS`).

use pitr_integration::{Daemon, Fingerprint, Load, Postgres, Settings, Site, V17, amcheck, ledger};
use std::time::Duration;

/// A small generator: which moments are killed can be repeated with `PITRD_SEED`.
struct Moments(u64);

impl Moments {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn kills_under_load_lose_no_acknowledged_commit() {
    let kills = number("PITRD_KILLS", 20);
    let seed = number("PITRD_SEED", u64::from(std::process::id()));
    let mut moments = Moments(seed);
    let site = Site::new("kills");
    let server = Postgres::start_new(&site, V17, "primary", "");
    Load::prepare(&server);
    let mut settings = Settings::new(&server, "pitrd");
    settings.linger = "20ms".to_owned();
    settings.bytes_max = "256 KiB".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    daemon.tool().backup(&[]);
    server.configure("synchronous_standby_names = 'pitrd'");
    server.reload();

    let load = Load::start(vec![server.connection()], 8, 0);
    let mut counts = vec![0];
    for kill in 0..kills {
        // Most lives are long enough to archive something; every fourth ends while it is starting.
        let life = if kill % 4 == 3 {
            moments.next(60)
        } else {
            200 + moments.next(600)
        };
        if kill % 4 != 3 {
            daemon.wait_streaming(&server);
        }
        std::thread::sleep(Duration::from_millis(life));
        assert!(
            daemon.runs(),
            "seed {seed}, life {kill}: the daemon ended by itself:\n{}",
            daemon.log()
        );
        daemon.kill();
        counts.push(load.count());
        if kill + 1 < kills {
            daemon.start();
        }
    }
    // Every COMMIT in here returned while the daemon alone could confirm it.
    let acknowledged = load.snapshot();
    assert!(
        acknowledged.len() as u64 > kills * 20,
        "seed {seed}: progress by kill: {counts:?}"
    );
    let restored = daemon
        .tool()
        .restored(V17, &["latest"], "after-the-last-kill");
    let lost: Vec<_> = acknowledged
        .difference(&ledger(&restored))
        .copied()
        .collect();
    assert!(
        lost.is_empty(),
        "seed {seed}: acknowledged and lost: {lost:?}"
    );
    drop(restored);

    daemon.start();
    daemon.wait_streaming(&server);
    load.finish();
    let before = Fingerprint::take(&server);
    daemon.wait_archived(&server);
    daemon
        .tool()
        .run(&["verify", "--deep"])
        .success("verify --deep: the chain is unbroken");
    let restored = daemon.tool().restored(V17, &["latest"], "at-the-end");
    before.assert_restored_in(&restored, &format!("seed {seed}: after {kills} kills"));
    amcheck(&restored);
}

#[test]
fn a_synchronous_commit_waits_while_the_daemon_is_away() {
    let site = Site::new("syncwait");
    let server = Postgres::start_new(&site, V17, "primary", "");
    Load::prepare(&server);
    let mut daemon = Daemon::start_new(&server, "pitrd");
    server.configure("synchronous_standby_names = 'pitrd'");
    server.reload();
    let session = server.session();
    session
        .try_run_for("insert into ledger values (1)", Duration::from_secs(10))
        .expect("commits while the daemon runs");
    daemon.kill();
    let waited = session.try_run_for("insert into ledger values (2)", Duration::from_millis(1500));
    assert!(
        waited.is_err(),
        "a commit returned although nothing can have archived it"
    );
    daemon.start();
    daemon.wait_streaming(&server);
    server
        .session()
        .try_run_for("insert into ledger values (3)", Duration::from_secs(20))
        .expect("commits again");
}
