//! A restore that is killed: what it left does not start, and the same command finishes it.

use pitr_integration::{Daemon, Mark, Postgres, Signal, Site, V17, amcheck, wait_until};
use std::path::Path;
use std::time::Duration;

fn bytes_below(directory: &Path) -> u64 {
    let Ok(entries) = directory.read_dir() else {
        return 0;
    };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_below(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}

#[test]
fn a_killed_restore_is_incomplete_and_resumes() {
    let site = Site::new("resume");
    let server = Postgres::start_new(&site, V17, "primary", "autovacuum = off");
    let daemon = Daemon::start_new(&server, "pitrd");
    server.pgbench_init(25);
    daemon.tool().backup(&[]);
    server.pgbench(2, 100);
    let end = Mark::take(&server);
    daemon.wait_archived(&server);

    let into = site.path("restored");
    let destination = into.display().to_string();
    let arguments = ["restore", "--to", "latest", "--into", &destination];
    // Killed twice, at different depths.
    for megabytes in [10, 150] {
        let mut restore = daemon.tool().spawn(&arguments, "restore.log");
        wait_until(
            "the restore to be under way",
            Duration::from_secs(60),
            || {
                assert!(
                    restore.ended().is_none(),
                    "the restore ended too early to be killed:\n{}",
                    restore.log()
                );
                bytes_below(&into) > megabytes << 20
            },
        );
        restore.signal(Signal::Kill);
        restore.wait(Duration::from_secs(60));
        assert!(
            !into.join("global/pg_control").exists(),
            "an incomplete copy must not start"
        );
    }
    daemon
        .tool()
        .run(&arguments)
        .success("the same command again");
    let mut restored = Postgres::adopt(&site, V17, "restored", into);
    restored.launch();
    restored.wait_recovered(Duration::from_secs(120));
    restored.session().end_recovery();
    end.content.assert_restored_in(&restored, "resumed twice");
    amcheck(&restored);
}

#[test]
fn start_runs_the_server_to_the_target_and_reports_the_time() {
    let history = pitr_integration::History::new("start", V17);
    let into = history.site.path("restored");
    let bin = V17.bin().display().to_string();
    let arguments = [&history.middle.lsn_target(), "--start", "--pg-bin", &bin];
    let finished = history
        .daemon
        .tool()
        .restore(&arguments, &into)
        .success("restore --start");
    assert!(finished.said().contains("RTO"), "{}", finished.said());
}
