//! A server archived to object storage, and what comes back from there.

use std::time::Duration;

use pitr_integration::{
    Daemon, Dialect, Fingerprint, Mark, ObjectServer, Postgres, Settings, Site, V17, V18, Version,
    wait_until,
};

fn a_moment_comes_back(dialect: Dialect, version: Version, name: &str) {
    let site = Site::new(name);
    let store = ObjectServer::start(&site, dialect);
    let server = Postgres::start_new(&site, version, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    settings.url = Some(store.url("prod/orders"));
    settings.more = "puts_in_flight = 16".into();
    let mut daemon = Daemon::prepare(&site, settings);
    let checked = daemon.check().success("pitrd --check");
    assert!(
        checked
            .stdout
            .contains("ok    store: put-if-absent is honoured"),
        "{}",
        checked.stdout
    );
    daemon.start();
    daemon.wait_streaming(&server);
    server.pgbench_init(1);
    daemon.tool().backup(&[]);
    server.pgbench(2, 200);
    let good = Mark::take(&server);
    server
        .session()
        .run("update pgbench_accounts set abalance = -1");
    let last = Fingerprint::take(&server);
    daemon.wait_archived(&server);
    // The daemon finds its place in the bucket again.
    assert_eq!(daemon.stop(), 0);
    daemon.start();
    daemon.wait_streaming(&server);

    for (number, (target, expected)) in [(good.time.as_str(), &good.content), ("latest", &last)]
        .into_iter()
        .enumerate()
    {
        let into = format!("restored-{number}");
        let restored = daemon.tool().restored(version, &[target], &into);
        expected.assert_restored_in(&restored, target);
    }
    daemon
        .tool()
        .run(&["verify", "--deep"])
        .success("verify --deep");
    let log = daemon.log();
    assert!(
        !log.contains(pitr_integration::SECRET_KEY),
        "the log holds the secret"
    );
}

#[test]
fn a_moment_comes_back_from_ministack() {
    a_moment_comes_back(Dialect::Ministack, V18, "s3rt-mini");
}

#[test]
fn a_moment_comes_back_from_moto() {
    a_moment_comes_back(Dialect::Moto, V17, "s3rt-moto");
}

#[test]
fn a_store_that_ignores_the_condition_is_refused_before_a_byte_is_archived() {
    let site = Site::new("s3rt-rclone");
    let store = ObjectServer::start(&site, Dialect::Rclone);
    let server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    settings.url = Some(store.url("orders"));
    let mut daemon = Daemon::prepare(&site, settings);
    let checked = daemon.check().exits(1, "pitrd --check");
    assert!(
        checked
            .stdout
            .contains("fail  store: put-if-absent is not honoured"),
        "{}",
        checked.stdout
    );
    daemon.start();
    assert_eq!(daemon.wait_end(), 2, "{}", daemon.log());
    assert!(
        daemon.log().contains("put-if-absent is not honoured"),
        "{}",
        daemon.log()
    );
    let slots = server
        .session()
        .value("select count(*) from pg_replication_slots");
    assert_eq!(slots, "0", "it had begun to stream");
}

#[test]
fn of_two_daemons_on_one_bucket_one_is_fenced_and_the_other_s_archive_is_whole() {
    let site = Site::new("s3fence");
    let store = ObjectServer::start(&site, Dialect::Ministack);
    let server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    settings.url = Some(store.url("orders"));
    let mut first = Daemon::prepare(&site, settings);
    first.start();
    first.wait_streaming(&server);
    server.pgbench_init(1);
    first.tool().backup(&[]);
    let text = std::fs::read_to_string(first.configuration()).unwrap();
    let mut second = first.beside(
        "second",
        &text.replace("slot = \"pitrd\"", "slot = \"second\""),
    );
    second.start();
    // Both run until one of them loses a number; load makes that soon.
    wait_until("one of the two to end", Duration::from_secs(60), || {
        server.pgbench(2, 20);
        !first.runs() || !second.runs()
    });
    let (mut loser, mut winner, slot) = if first.runs() {
        (second, first, "pitrd")
    } else {
        (first, second, "second")
    };
    assert_eq!(loser.wait_end(), 5, "fenced: {}", loser.log());
    server.pgbench(2, 50);
    let last = Fingerprint::take(&server);
    server.wait_archived(slot, Duration::from_secs(60));
    assert!(winner.runs(), "{}", winner.log());
    let verified = winner.tool().run(&["verify", "--deep"]);
    verified.success("verify --deep");
    let restored = winner.tool().restored(V17, &["latest"], "restored");
    last.assert_restored_in(&restored, "after two daemons met");
    assert_eq!(winner.stop(), 0);
}
