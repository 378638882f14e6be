//! The server stops, crashes, or loses patience: the daemon goes on by itself and the archive stays whole.

use pitr_integration::{
    Daemon, Load, Mark, Postgres, Signal, Site, Stop, V17, V18, amcheck, ledger, wait_until,
};
use std::time::Duration;

#[test]
fn restarts_of_the_server_need_no_hand() {
    let site = Site::new("restarts");
    let mut server = Postgres::start_new(&site, V18, "primary", "");
    Load::prepare(&server);
    let mut daemon = Daemon::start_new(&server, "pitrd");
    daemon.tool().backup(&[]);
    for how in [Stop::Fast, Stop::Immediate, Stop::Kill, Stop::Fast] {
        let load = Load::start(vec![server.connection()], 4, 0);
        wait_until("some load", Duration::from_secs(30), || load.count() > 300);
        let took = server.stop(how);
        assert!(
            took < Duration::from_secs(30),
            "{how:?} took {took:?}: the server waited for the daemon"
        );
        server.start();
        let count = load.count();
        wait_until("load after the restart", Duration::from_secs(30), || {
            load.count() > count + 100
        });
        let acknowledged = load.finish();
        assert!(acknowledged.is_subset(&ledger(&server)), "{how:?}");
        server.session().run("truncate ledger");
        daemon.wait_streaming(&server);
    }
    server
        .session()
        .run("insert into ledger select generate_series(1, 1000)");
    let end = Mark::take(&server);
    daemon.wait_archived(&server);
    let restored = daemon.tool().restored(V18, &["latest"], "restored");
    end.content
        .assert_restored_in(&restored, "after four restarts");
    amcheck(&restored);
    assert_eq!(daemon.stop(), 0, "SIGTERM ends the daemon cleanly");
}

#[test]
fn a_daemon_frozen_past_the_senders_timeout_goes_on() {
    let site = Site::new("frozen");
    let server = Postgres::start_new(&site, V17, "primary", "wal_sender_timeout = '2s'");
    let mut daemon = Daemon::start_new(&server, "pitrd");
    daemon.tool().backup(&[]);
    server.pgbench_init(1);
    daemon.signal(Signal::Stop);
    server.pgbench(2, 200);
    let session = server.session();
    wait_until(
        "the server to drop the frozen daemon",
        Duration::from_secs(30),
        || session.value("select count(*) from pg_replication_slots where active") == "0",
    );
    server.pgbench(2, 200);
    daemon.signal(Signal::Cont);
    daemon.wait_streaming(&server);
    let end = Mark::take(&server);
    daemon.wait_archived(&server);
    let restored = daemon.tool().restored(V17, &["latest"], "restored");
    end.content
        .assert_restored_in(&restored, "after the freeze");
}

#[test]
fn an_idle_server_writes_nothing_into_the_archive() {
    let site = Site::new("idle");
    let server = Postgres::start_new(
        &site,
        V17,
        "primary",
        "autovacuum = off\nbgwriter_lru_maxpages = 0",
    );
    let daemon = Daemon::start_new(&server, "pitrd");
    server.session().run("create table t (i int); checkpoint");
    daemon.wait_archived(&server);
    // The server itself logs a snapshot of running transactions some seconds after the last activity.
    let session = server.session();
    let look = || {
        (
            session.value("select pg_current_wal_insert_lsn()"),
            daemon.archive().segments(),
        )
    };
    for _ in 0..10 {
        daemon.wait_archived(&server);
        std::thread::sleep(Duration::from_secs(1));
        let before = look();
        std::thread::sleep(Duration::from_secs(5));
        let after = look();
        if before.0 == after.0 {
            assert_eq!(before.1, after.1);
            return;
        }
    }
    panic!("the server never fell silent");
}

#[test]
fn another_cluster_is_never_archived_into_this_archive() {
    let site = Site::new("foreign");
    let first = Postgres::start_new(&site, V17, "first", "");
    let mut daemon = Daemon::start_new(&first, "pitrd");
    first.session().run("create table t (i int)");
    daemon.wait_archived(&first);
    assert_eq!(daemon.stop(), 0);
    let before = daemon.archive().segments();

    let second = Postgres::start_new(&site, V17, "second", "");
    let text = std::fs::read_to_string(daemon.configuration()).expect("read the configuration");
    let text = text.replace(
        &format!("port={}", first.port()),
        &format!("port={}", second.port()),
    );
    site.write(daemon.configuration(), &text, 0o600);
    daemon.start();
    assert_eq!(daemon.wait_end(), 5, "{}", daemon.log());
    assert!(
        daemon.log().contains("system identifier"),
        "{}",
        daemon.log()
    );
    assert_eq!(before, daemon.archive().segments());
}
