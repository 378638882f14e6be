//! `pitr-tool backup` and the daemon's own base backups: what they promise beside being restorable.

use pitr_integration::{
    Daemon, Finished, Postgres, Program, Settings, Site, Stop, V15, V17, wait_until,
};
use std::time::Duration;

const LABEL: &str = "it's \"before\" \\ übermorgen 漢字";

fn report(finished: &Finished) -> serde_json::Value {
    serde_json::from_str(&finished.stdout).expect("backup --json prints JSON")
}

#[test]
fn a_report_tells_label_limits_and_whether_it_can_be_restored() {
    let site = Site::new("report");
    let server = Postgres::start_new(&site, V15, "primary", "");
    let mut daemon = Daemon::start_new(&server, "pitrd");
    server.pgbench_init(10);
    let slow = ["--json", "--label", LABEL, "--rate", "40 MiB/s"];
    let told = report(&daemon.tool().backup(&slow));
    assert_eq!(told["label"], LABEL);
    assert_eq!(told["kind"], "full");
    assert_eq!(told["restorable"], true);
    let bytes = told["bytes"].as_f64().expect("bytes are a number");
    let seconds = told["seconds"].as_f64().expect("seconds are a number");
    let limit = 40.0 * 1024.0 * 1024.0;
    assert!(
        bytes / seconds < limit * 1.1,
        "{bytes} bytes in {seconds} s are more than {limit} a second"
    );
    let status = daemon.tool().status();
    assert_eq!(status["base_backups"][0]["label"], LABEL);
    assert_eq!(
        status["base_backups"][0]["stored_bytes"],
        told["stored_bytes"]
    );

    daemon.stop();
    let finished = daemon.tool().backup(&["--json"]);
    assert_eq!(report(&finished)["restorable"], false);
    let said = finished.said();
    assert!(said.contains("not restorable until"), "{said}");
}

#[test]
fn a_host_that_only_writes_builds_on_the_copy_that_it_kept() {
    let site = Site::new("keptcopy");
    let server = Postgres::start_new(&site, V17, "primary", "summarize_wal = on");
    let daemon = Daemon::start_new(&server, "pitrd");
    let without_identity = |arguments: &[&str]| {
        let mut command = site.command(&site.program(Program::PitrTool));
        command.arg("--config").arg(daemon.configuration());
        Finished::run(command.arg("backup").args(arguments))
    };
    let said = without_identity(&["--incremental"])
        .exits(1, "nothing to build on")
        .said();
    assert!(said.contains("take a full one first"), "{said}");
    let full = report(&without_identity(&["--json"]).success("a full backup"));
    let next = without_identity(&["--json", "--incremental"]).success("on the kept copy");
    assert_eq!(report(&next)["parent"], full["id"]);
    let kept = daemon
        .configuration()
        .with_extension("signing-key.manifests");
    let names: Vec<_> = std::fs::read_dir(&kept)
        .expect("the copy is kept beside the signing key")
        .map(|entry| entry.expect("list it").file_name())
        .collect();
    assert_eq!(names, [report(&next)["id"].as_str().expect("an id")]);

    std::fs::remove_dir_all(&kept).expect("lose the copy");
    let said = without_identity(&["--incremental"])
        .exits(1, "the copy is lost")
        .said();
    assert!(said.contains("--identity"), "{said}");
    let read = daemon.tool().backup(&["--json", "--incremental"]);
    assert_eq!(report(&read)["parent"], report(&next)["id"]);
}

#[test]
fn incremental_backups_are_refused_where_the_server_cannot_make_them() {
    let site = Site::new("cannot");
    for (version, name, reason) in [
        (V15, "fifteen", "17 or later"),
        (V17, "seventeen", "summarize_wal"),
    ] {
        let server = Postgres::start_new(&site, version, name, "");
        let daemon = Daemon::start_new(&server, &format!("pitrd_{name}"));
        daemon.tool().backup(&[]);
        let manifests = daemon.archive().manifests();
        let refused = daemon.tool().run(&["backup", "--incremental"]);
        let said = refused.exits(1, "an incremental backup").said();
        assert!(said.contains(reason), "{said}");
        assert_eq!(daemon.archive().manifests(), manifests);
    }
}

fn with_schedule(server: &Postgres, more: &str) -> Daemon {
    let mut settings = Settings::new(server, "pitrd");
    settings.more = format!("[backup]\nevery = \"60s\"\n{more}\n");
    let mut daemon = Daemon::prepare(server.site(), settings);
    daemon.start();
    daemon
}

#[test]
fn the_daemon_takes_a_backup_at_once_and_the_next_when_that_is_old() {
    let site = Site::new("schedule");
    let server = Postgres::start_new(&site, V17, "primary", "");
    let daemon = with_schedule(&server, "");
    let count = || daemon.archive().manifests().len();
    wait_until("the first backup", Duration::from_secs(30), || count() == 1);
    wait_until("the second", Duration::from_secs(90), || count() == 2);
    let status = daemon.tool().status();
    let moment = |index: usize| {
        let id = status["base_backups"][index]["id"].as_str().expect("an id");
        let parsed = jiff::fmt::strtime::parse("%Y%m%dT%H%M%SZ", id);
        let moment = parsed.and_then(|parsed| parsed.to_datetime());
        moment.expect("an id is a moment")
    };
    let between = moment(0).duration_until(moment(1));
    assert!(between.as_secs() >= 60, "they began {between} apart");
}

#[test]
fn a_scheduled_backup_that_fails_is_said_and_taken_again() {
    let site = Site::new("retry");
    let mut server = Postgres::start_new(&site, V15, "primary", "");
    let mut daemon = with_schedule(&server, "rate_limit = \"1 MiB/s\"");
    wait_until("a backup to begin", Duration::from_secs(30), || {
        daemon.log().contains("base backup begins")
    });
    server.restart(Stop::Immediate);
    wait_until("the failure", Duration::from_secs(30), || {
        daemon.log().contains("the scheduled base backup failed")
    });
    assert_eq!(daemon.archive().manifests().len(), 0);
    wait_until("another try, whole", Duration::from_secs(120), || {
        daemon.archive().manifests().len() == 1
    });
    assert_eq!(daemon.stop(), 0);
}
