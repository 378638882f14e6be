//! Every kind of target, on every supported version: what is restored is what was there.

use pitr_integration::{
    Daemon, Fingerprint, Mark, Postgres, Site, V15, V17, V18, Version, amcheck,
};

/// One transaction, and the positions that name it.
struct Change {
    xid: String,
    /// Where its commit record begins.
    commit_lsn: String,
    commit_time: String,
}

fn change(server: &Postgres, sql: &str) -> Change {
    let session = server.session();
    session.run("begin");
    session.run(sql);
    let xid = session.value("select pg_current_xact_id()");
    let commit_lsn = session.value("select pg_current_wal_insert_lsn()");
    session.run("commit");
    let commit_time = session.value(&format!(
        "select to_char(pg_xact_commit_timestamp('{xid}'::xid) at time zone 'UTC', \
         'YYYY-MM-DD\"T\"HH24:MI:SS.US\"+00:00\"')"
    ));
    Change {
        xid,
        commit_lsn,
        commit_time,
    }
}

fn every_target_brings_back_its_moment(version: Version, name: &str) {
    let site = Site::new(name);
    let server = Postgres::start_new(&site, version, "primary", "track_commit_timestamp = on");
    let daemon = Daemon::start_new(&server, "pitrd");
    server.pgbench_init(1);
    let at_backup = Fingerprint::take(&server);
    daemon.tool().backup(&["--label", "nightly"]);

    server.pgbench(2, 100);
    let good = Mark::take(&server);
    server
        .session()
        .run("select pg_create_restore_point('before-damage')");
    let damage = change(&server, "update pgbench_accounts set abalance = -1");
    let damaged = Fingerprint::take(&server);
    server
        .session()
        .run("drop table pgbench_history; create table later (id int primary key)");
    server.pgbench_init(2);
    let last = Fingerprint::take(&server);
    daemon.wait_archived(&server);

    let xid = format!("xid:{}", damage.xid);
    let lsn = format!("lsn:{}", damage.commit_lsn);
    let cases: [(&[&str], &Fingerprint); 11] = [
        (&["immediate"], &at_backup),
        (&[&good.time], &good.content),
        (&[&damage.commit_time], &damaged),
        (&[&damage.commit_time, "--before"], &good.content),
        (&[&lsn], &damaged),
        (&[&lsn, "--before"], &good.content),
        (&[&xid], &damaged),
        (&[&xid, "--before"], &good.content),
        (&["name:before-damage"], &good.content),
        (&["name:before-damage", "--before"], &good.content),
        (&["latest"], &last),
    ];
    for (number, (target, expected)) in cases.into_iter().enumerate() {
        let into = format!("restored-{number}");
        let restored = daemon.tool().restored(version, target, &into);
        expected.assert_restored_in(&restored, &format!("{version} {target:?}"));
        if target == ["latest"] {
            amcheck(&restored);
        }
        drop(restored);
        std::fs::remove_dir_all(site.path(&into)).expect("remove a restored copy");
    }
    daemon
        .tool()
        .run(&["verify", "--deep"])
        .success("verify --deep");
}

#[test]
fn every_target_brings_back_its_moment_on_15() {
    every_target_brings_back_its_moment(V15, "rt15");
}

#[test]
fn every_target_brings_back_its_moment_on_17() {
    every_target_brings_back_its_moment(V17, "rt17");
}

#[test]
fn every_target_brings_back_its_moment_on_18() {
    every_target_brings_back_its_moment(V18, "rt18");
}
