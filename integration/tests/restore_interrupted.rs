//! A restore that is killed: what it left does not start, and the same command finishes it.

use pitr_integration::{
    Daemon, Finished, Mark, Postgres, Session, Signal, Site, V17, amcheck, wait_until,
};
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

/// The server that `restore --start` leaves running, stopped whatever happens.
struct Started(std::sync::Arc<Site>, std::path::PathBuf);

impl Drop for Started {
    fn drop(&mut self) {
        let mut command = self.0.command(&V17.program("pg_ctl"));
        command.args(["stop", "-m", "immediate", "-t", "60", "-D"]);
        let stopped = Finished::run(command.arg(&self.1));
        assert!(
            stopped.code == 0 || std::thread::panicking(),
            "{}",
            stopped.said()
        );
    }
}

#[test]
fn start_runs_the_server_to_the_target_and_reports_the_time() {
    let history = pitr_integration::History::new("start", V17);
    let into = history.site.path("restored");
    let bin = V17.bin().display().to_string();
    let target = history.middle.lsn_target();
    let arguments = [&target, "--start", "--pg-bin", &bin, "--json"];
    let tool = history.daemon.tool();
    let finished = tool.restore(&arguments, &into).success("restore --start");
    let _started = Started(history.site.clone(), into);
    let report: serde_json::Value = serde_json::from_str(&finished.stdout).expect("a report");
    let server = &report["server"];
    assert_eq!(server["state"], "paused", "{server}");
    let rto = server["rto_seconds"].as_f64().expect("a time");
    assert!(rto > 0.0 && rto <= finished.took.as_secs_f64(), "{server}");

    // It stands at the target: what the report says of it, what it says itself, and what it holds.
    let connection = server["connection"].as_str().expect("how to connect");
    let session = Session::connect(&format!("{connection} user=postgres")).expect("connect");
    assert_eq!(
        session.value("select pg_get_wal_replay_pause_state()"),
        "paused"
    );
    // The record that was named is replayed, and stands at the end of what is.
    let at = server["at"]["lsn"].as_str().expect("a position");
    assert_eq!(report["stop"]["lsn"], at, "{report}");
    let replayed = format!("select pg_last_wal_replay_lsn() > '{at}'");
    assert_eq!(session.value(&replayed), "t", "{server}");
    for (table, rows) in &history.middle.content.tables {
        let Some(table) = table.strip_prefix("postgres ") else {
            continue;
        };
        let sql = format!(
            "set timezone = 'UTC'; set extra_float_digits = 1; set search_path = pg_catalog; \
             select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0), \
             coalesce(sum(hashtextextended(t::text, 7)), 0) from {table} t"
        );
        assert_eq!(session.run(&sql)[0].join(" "), *rows, "{table}");
    }
    let transactions = &history.middle.content.tables["postgres public.pgbench_history"];
    assert!(transactions.starts_with("120 "), "{transactions}");
}
