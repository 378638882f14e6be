//! A standby is promoted under load and the daemon follows: restores before, across and after the switch.

use pitr_integration::{
    Daemon, Load, Mark, Postgres, Settings, Site, V15, V18, Version, amcheck, ledger, wait_until,
};
use std::time::Duration;

fn follows_a_promotion(version: Version, name: &str) {
    let site = Site::new(name);
    let mut primary = Postgres::start_new(&site, version, "primary", "wal_keep_size = '512MB'");
    Load::prepare(&primary);
    primary.pgbench_init(1);
    let mut standby = primary.standby("standby");
    let mut settings = Settings::new(&primary, "pitrd");
    settings.connection = format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=postgres application_name=pitrd \
         target_session_attrs=read-write",
        primary.port(),
        standby.port()
    );
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&primary);
    // A physical slot is not copied to standbys: the operator makes it on each.
    standby
        .session()
        .run("select pg_create_physical_replication_slot('pitrd', true)");
    daemon.tool().backup(&[]);

    primary.pgbench(2, 100);
    let before = Mark::take(&primary);
    let connections = vec![primary.connection(), standby.connection()];
    let load = Load::start(connections.clone(), 4, 0);
    wait_until("some load", Duration::from_secs(30), || load.count() > 500);
    primary.fail_over_to(&standby);
    let count = load.count();
    wait_until("load on the new primary", Duration::from_secs(30), || {
        load.count() > count + 500
    });
    load.finish();
    daemon.wait_streaming(&standby);
    let across = Mark::take(&standby);
    standby.pgbench(2, 100);
    let after = Mark::take(&standby);
    daemon.wait_archived(&standby);

    for (number, (target, mark)) in [
        (before.lsn_target(), &before),
        (before.time.clone(), &before),
        (across.time.clone(), &across),
        (after.lsn_target(), &after),
        ("latest".to_owned(), &after),
    ]
    .into_iter()
    .enumerate()
    {
        let restored = daemon
            .tool()
            .restored(version, &[&target], &format!("restored-{number}"));
        mark.content
            .assert_restored_in(&restored, &format!("{version}: {target}"));
        if target == "latest" {
            amcheck(&restored);
        }
    }

    // The abandoned timeline can be chosen: nothing that happened only on the new one is in it.
    let restored = daemon.tool().restored(
        version,
        &["latest", "--timeline", "1"],
        "restored-abandoned",
    );
    let abandoned = ledger(&restored);
    assert!(!abandoned.is_empty() && abandoned.len() < ledger(&standby).len());
    let branches = "select count(*) from pgbench_history";
    assert_eq!(
        restored.session().value(branches),
        "200",
        "only what was there before the switch"
    );
    drop(restored);

    // A new base backup on the new timeline stands on its own.
    daemon.tool().backup(&[]);
    standby.pgbench(2, 50);
    let end = Mark::take(&standby);
    daemon.wait_archived(&standby);
    let restored = daemon.tool().restored(version, &["latest"], "restored-end");
    end.content
        .assert_restored_in(&restored, "after a backup on the new timeline");
    standby.stop(pitr_integration::Stop::Fast);
}

#[test]
fn a_promotion_under_load_is_followed_on_15() {
    follows_a_promotion(V15, "promo15");
}

#[test]
fn a_promotion_under_load_is_followed_on_18() {
    follows_a_promotion(V18, "promo18");
}
