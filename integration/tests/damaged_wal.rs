//! WAL that the source's disk damaged: it is archived as it came, said, and no plan leads past it without a base backup behind it.

use pitr_integration::{History, Mark, V17};
use std::fs;
use std::path::Path;

const MARKER: &str = "a-row-that-will-be-damaged";

/// Flips a bit of the first `MARKER` in the server's WAL files.
fn damage(directory: &Path) {
    let files = directory.read_dir().expect("read pg_wal");
    for path in files.flatten().map(|entry| entry.path()) {
        let Ok(mut bytes) = fs::read(&path) else {
            continue;
        };
        let found = bytes
            .windows(MARKER.len())
            .position(|window| window == MARKER.as_bytes());
        if let Some(at) = found {
            bytes[at] ^= 1;
            fs::write(&path, bytes).expect("write the damaged WAL");
            return;
        }
    }
    panic!("the row is not in the WAL");
}

#[test]
fn a_record_that_came_damaged_ends_what_can_be_planned_until_the_next_base_backup() {
    let mut history = History::new("damaged-wal", V17);
    assert_eq!(history.daemon.stop(), 0);
    let server = &history.server;
    let session = server.session();
    session.run("create table precious (t text)");
    let last_good = Mark::take(server);
    session.run(&format!("insert into precious values ('{MARKER}')"));
    // What lies in the server's memory is sent from there, so it has to be gone from it.
    session.run("select pg_switch_wal()");
    server.pgbench(2, 50);
    session.run("select pg_switch_wal()");
    server.pgbench(2, 50);
    damage(&server.data().join("pg_wal"));
    let behind = Mark::take(server);
    history.daemon.start();
    history.daemon.wait_streaming(server);
    history.daemon.wait_archived(server);
    assert!(
        history.daemon.log().contains("could not replay"),
        "{}",
        history.daemon.log()
    );

    let tool = history.daemon.tool();
    let said = tool.run(&["status"]).said();
    assert!(said.contains("DAMAGE"), "{said}");
    let status = tool.status();
    assert_eq!(status["damage"][0]["passed"], false, "{status}");
    let lsn = status["damage"][0]["lsn"].as_str().expect("an LSN");
    assert_eq!(status["windows"][0]["to"]["lsn"], lsn, "{status}");
    for target in ["latest".to_owned(), behind.lsn_target(), behind.time] {
        let finished = tool
            .run(&["plan", "--to", &target])
            .exits(3, &format!("plan past the damage, {target}"));
        let said = finished.said();
        assert!(said.contains(&format!("lsn:{lsn}")), "{said}");
        assert!(said.contains("pitr-tool backup"), "{said}");
    }
    let restored = tool.restored(V17, &[&last_good.lsn_target()], "before-the-damage");
    last_good
        .content
        .assert_restored_in(&restored, "just before the damage");
    drop(restored);
    // The last moment that the window names can be restored, too.
    let last = format!("lsn:{lsn}");
    tool.run(&["plan", "--to", &last])
        .success("plan to the end of the window");
    drop(tool.restored(V17, &[&last], "at-the-damage"));

    tool.backup(&[]);
    server.pgbench(2, 50);
    let after = Mark::take(server);
    history.daemon.wait_archived(server);
    let restored = tool.restored(V17, &["latest"], "after-a-new-base");
    after
        .content
        .assert_restored_in(&restored, "after a new base backup");
    assert_eq!(tool.status()["damage"][0]["passed"], true);
    tool.run(&["plan", "--to", &last_good.lsn_target()])
        .success("the old base still leads up to the damage");
}
