//! A gap in what was archived is recorded, said, never bridged; a new base backup ends it.

use pitr_integration::{History, Mark, V17, wait_until};
use std::time::Duration;

#[test]
fn a_dropped_slot_leaves_a_recorded_gap_that_no_restore_crosses() {
    let mut history = History::new("gap", V17);
    assert_eq!(history.daemon.stop(), 0);
    let server = &history.server;
    let session = server.session();
    session.run("select pg_drop_replication_slot('pitrd')");
    for round in 0..3 {
        server.pgbench(2, 100);
        session.run(&format!(
            "create table lost_{round} as select generate_series(1, 50000) i"
        ));
        session.run("select pg_switch_wal(); checkpoint");
    }
    let removed = session.value(&format!(
        "select count(*) from pg_ls_waldir() where name = pg_walfile_name('{}')",
        history.end.lsn
    ));
    assert_eq!(
        removed, "0",
        "the server no longer has what the archive needs"
    );

    history.daemon.start();
    history.daemon.wait_streaming(server);
    server.pgbench(2, 50);
    let beyond = Mark::take(server);
    history.daemon.wait_archived(server);
    wait_until("the daemon to say it", Duration::from_secs(60), || {
        history.daemon.log().contains("gap")
    });
    let tool = history.daemon.tool();
    let status = tool.run(&["status"]).said();
    assert!(status.contains("gap"), "status shows the gap:\n{status}");

    // Before the gap all is well, past it nothing is promised.
    let restored = tool.restored(V17, &[&history.middle.lsn_target()], "before-the-gap");
    history
        .middle
        .content
        .assert_restored_in(&restored, "before the gap");
    drop(restored);
    for target in [
        "latest".to_owned(),
        beyond.lsn_target(),
        beyond.time.clone(),
    ] {
        let finished = tool.run(&["plan", "--to", &target]);
        if target == "latest" && finished.code == 0 {
            // `latest` may mean the end of the window that can be restored; then it must say which.
            assert!(finished.said().contains("gap"), "{}", finished.said());
        } else {
            finished.exits(3, &format!("plan across the gap, {target}"));
        }
    }

    tool.backup(&[]);
    server.pgbench(2, 50);
    let after = Mark::take(server);
    history.daemon.wait_archived(server);
    let restored = tool.restored(V17, &["latest"], "after-a-new-base");
    after
        .content
        .assert_restored_in(&restored, "after a new base backup");
}
