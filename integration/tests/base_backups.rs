//! Base backups: interrupted, from a standby, incremental.

use pitr_integration::{
    Daemon, History, Mark, Postgres, Settings, Signal, Site, V15, V17, V18, Version, amcheck,
    wait_until,
};
use std::time::Duration;

#[test]
fn an_interrupted_backup_leaves_nothing_that_looks_whole() {
    let history = History::new("halfbase", V17);
    history.server.pgbench_init(20);
    let archive = history.daemon.archive();
    let (manifests, parts) = (archive.manifests(), archive.base().len());
    let mut backup = history.daemon.tool().spawn(&["backup"], "backup.log");
    wait_until("the backup to write parts", Duration::from_secs(60), || {
        assert!(
            backup.ended().is_none(),
            "the backup was too quick to be interrupted"
        );
        archive.base().len() > parts + 1
    });
    backup.signal(Signal::Kill);
    backup.wait(Duration::from_secs(60));
    assert!(
        archive.base().len() > parts,
        "it was interrupted in the middle"
    );
    assert_eq!(archive.manifests(), manifests, "no manifest, no backup");

    let end = Mark::take(&history.server);
    history.daemon.wait_archived(&history.server);
    let restored = history
        .daemon
        .tool()
        .restored(V17, &["latest"], "from-the-first");
    end.content
        .assert_restored_in(&restored, "from the backup before the interrupted one");
    drop(restored);
    history.daemon.tool().backup(&[]);
    assert_eq!(archive.manifests().len(), manifests.len() + 1);
    let restored = history
        .daemon
        .tool()
        .restored(V17, &["latest"], "from-the-next");
    end.content
        .assert_restored_in(&restored, "from the backup after the interrupted one");
}

#[test]
fn a_backup_and_a_restore_point_are_archived_without_lingering() {
    let site = Site::new("awaited");
    let server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    settings.linger = "10min".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    let said = daemon.tool().backup(&["--json"]).stdout;
    let said: serde_json::Value = serde_json::from_str(&said).expect("backup --json");
    assert_eq!(said["restorable"], true, "{said}");

    server.pgbench_init(1);
    let end = Mark::take(&server);
    server
        .session()
        .run("select pg_create_restore_point('named')");
    wait_until("the name to be reachable", Duration::from_secs(60), || {
        daemon.tool().run(&["plan", "--to", "name:named"]).code == 0
    });
    let restored = daemon.tool().restored(V17, &["name:named"], "restored");
    end.content.assert_restored_in(&restored, "at a name");
}

fn a_backup_from_a_standby_restores(version: Version, name: &str) {
    let site = Site::new(name);
    let primary = Postgres::start_new(&site, version, "primary", "");
    let mut standby = primary.standby("standby");
    primary.pgbench_init(1);
    primary.wait_standby(&standby);
    let mut settings = Settings::new(&standby, "pitrd");
    settings.source = "allow_standby = true".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&standby);
    primary.pgbench(2, 50);
    daemon.tool().backup(&[]);
    primary.pgbench(2, 50);
    primary
        .session()
        .run("create table after_the_backup as select generate_series(1, 1000) i");
    let end = Mark::take(&primary);
    primary.wait_standby(&standby);
    let lsn = primary.flushed();
    let session = standby.session();
    wait_until(
        "the archive to hold the end",
        Duration::from_secs(60),
        || {
            session.value(&format!(
                "select restart_lsn >= '{lsn}' from pg_replication_slots"
            )) == "t"
        },
    );
    let restored = daemon.tool().restored(version, &["latest"], "restored");
    end.content
        .assert_restored_in(&restored, &format!("a backup from a standby of {version}"));
    amcheck(&restored);
    standby.stop(pitr_integration::Stop::Fast);
}

#[test]
fn a_backup_from_a_standby_of_15_restores() {
    a_backup_from_a_standby_restores(V15, "standby15");
}

#[test]
fn a_backup_from_a_standby_of_18_restores() {
    a_backup_from_a_standby_restores(V18, "standby18");
}

#[test]
fn a_standby_is_refused_as_source_unless_allowed() {
    let site = Site::new("notallowed");
    let primary = Postgres::start_new(&site, V17, "primary", "");
    let standby = primary.standby("standby");
    let mut daemon = Daemon::prepare(&site, Settings::new(&standby, "pitrd"));
    let said = daemon.check().exits(1, "pitrd --check on a standby").said();
    assert!(said.contains("standby"), "{said}");
    daemon.start();
    wait_until("the refusal", Duration::from_secs(20), || {
        daemon.log().contains("standby")
    });
    assert!(
        daemon.archive().segments().is_empty(),
        "nothing was archived from it"
    );
}

fn incremental_backups_restore(version: Version, name: &str) {
    let site = Site::new(name);
    let server = Postgres::start_new(&site, version, "primary", "summarize_wal = on");
    let daemon = Daemon::start_new(&server, "pitrd");
    server.pgbench_init(10);
    let tool = daemon.tool();
    tool.backup(&[]);
    let archive = daemon.archive();
    let full = archive.bytes();
    server
        .session()
        .run("update pgbench_branches set bbalance = 1; create table one as select 1 as i");
    tool.backup(&["--incremental"]);
    let first = archive.bytes() - full;
    assert!(
        first * 3 < full,
        "an incremental backup took {first} bytes, the full one {full}"
    );
    server
        .session()
        .run("update pgbench_tellers set tbalance = 2; drop table one");
    tool.backup(&["--incremental"]);
    server.pgbench(2, 50);
    let end = Mark::take(&server);
    daemon.wait_archived(&server);
    assert_eq!(archive.manifests().len(), 3);
    let into = site.path("restored");
    let bin = version.bin().display().to_string();
    tool.restore(&["latest", "--pg-bin", &bin], &into)
        .success("restore of an incremental backup");
    let mut restored = Postgres::adopt(&site, version, "restored", into);
    restored.launch();
    restored.wait_recovered(Duration::from_secs(60));
    restored.session().end_recovery();
    end.content.assert_restored_in(
        &restored,
        &format!("full and two incremental backups of {version}"),
    );
    amcheck(&restored);
}

#[test]
fn incremental_backups_of_17_restore() {
    incremental_backups_restore(V17, "incr17");
}

#[test]
fn incremental_backups_of_18_restore() {
    incremental_backups_restore(V18, "incr18");
}
