//! The archive's file system fills up: nothing is acknowledged that is not stored, and room is enough to go on.

use pitr_integration::{
    Daemon, Load, Mark, Postgres, Session, Settings, Site, SmallDisk, Stop, V17, ledger, wait_until,
};
use std::time::Duration;

/// Fills the archive's disk, and more than the daemon's memory behind it, with what cannot be compressed.
fn fill(filler: &Session) {
    filler.run("set synchronous_commit = local; create table filler (bytes bytea)");
    filler.run("alter table filler alter bytes set storage external");
    for _ in 0..60 {
        filler.run(
            "insert into filler select decode(string_agg(md5(random()::text), ''), 'hex') \
             from generate_series(1, 1024) i, generate_series(1, 64) j group by i",
        );
    }
}

#[test]
fn a_server_stops_at_once_while_the_store_takes_nothing_and_a_backlog_waits() {
    let site = Site::new("full-stop");
    let disk = SmallDisk::mount(&site, "disk", 40);
    let mut server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    settings.archive = disk.path().join("archive");
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    daemon.tool().backup(&[]);
    fill(&server.session());
    wait_until("the disk to fill", Duration::from_secs(60), || {
        disk.free_bytes() < 2 << 20
    });
    let end = Mark::take(&server);
    // Panics when it takes longer than a server may.
    server.stop(Stop::Fast);
    assert!(daemon.runs(), "the daemon waits:\n{}", daemon.log());

    disk.resize(512);
    server.start();
    daemon.wait_archived(&server);
    let restored = daemon.tool().restored(V17, &["latest"], "at-the-end");
    end.content
        .assert_restored_in(&restored, "after a stop with a backlog");
    drop(restored);
    drop(daemon);
    drop(disk);
}

#[test]
fn a_full_disk_loses_nothing_and_room_is_enough_to_go_on() {
    let site = Site::new("full");
    let disk = SmallDisk::mount(&site, "disk", 40);
    let server = Postgres::start_new(&site, V17, "primary", "");
    Load::prepare(&server);
    let mut settings = Settings::new(&server, "pitrd");
    settings.archive = disk.path().join("archive");
    settings.linger = "20ms".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    daemon.tool().backup(&[]);
    server.configure("synchronous_standby_names = 'pitrd'");
    server.reload();
    let load = Load::start(vec![server.connection()], 4, 0);
    wait_until("some commits", Duration::from_secs(30), || {
        load.count() > 100
    });

    // What cannot be compressed fills the disk; its own sessions do not wait for the archive.
    let filler = server.session();
    fill(&filler);
    let archived = || {
        let slot = server.session();
        slot.value("select restart_lsn from pg_replication_slots where slot_name = 'pitrd'")
    };
    wait_until("the disk to fill", Duration::from_secs(60), || {
        disk.free_bytes() < 2 << 20
    });
    let mut last = (load.count(), archived());
    wait_until("commits to wait", Duration::from_secs(60), || {
        std::thread::sleep(Duration::from_secs(2));
        let now = (load.count(), archived());
        std::mem::replace(&mut last, now.clone()) == now
    });
    assert!(
        daemon.runs(),
        "a full disk does not end the daemon:\n{}",
        daemon.log()
    );
    let acknowledged = load.snapshot();

    // What was acknowledged is there although the disk is full.
    let restored = daemon.tool().restored(V17, &["latest"], "while-full");
    let lost: Vec<_> = acknowledged
        .difference(&ledger(&restored))
        .copied()
        .collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    drop(restored);

    disk.resize(512);
    wait_until(
        "commits to return by themselves",
        Duration::from_secs(90),
        || load.count() > acknowledged.len() + 100,
    );
    load.finish();
    let end = Mark::take(&server);
    daemon.wait_archived(&server);
    let restored = daemon.tool().restored(V17, &["latest"], "at-the-end");
    end.content
        .assert_restored_in(&restored, "after the disk was full");
    drop(restored);
    drop(daemon);
    drop(disk);
}
