//! An archive with copies, on real servers: what comes back when one of the places is gone.

use std::time::Duration;

use pitr_integration::{
    Daemon, Dialect, Fault, FaultProxy, Fingerprint, Load, ObjectServer, Postgres, Settings, Site,
    Tool, V17, ledger, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(600);

/// Restores from one place alone.
fn restored_from(site: &std::sync::Arc<Site>, daemon: &Daemon, url: &str, name: &str) -> Postgres {
    let into = site.path(name);
    let mut command = site.command(&site.program(pitr_integration::Program::PitrTool));
    command
        .args(["--archive", url, "--identity"])
        .arg(daemon.identity());
    command
        .args(["restore", "--to", "latest", "--into"])
        .arg(&into);
    pitr_integration::Finished::run(&mut command).success("restore from one place");
    let mut server = Postgres::adopt(site, V17, name, into);
    server.launch();
    server.wait_recovered(Duration::from_secs(300));
    server.session().end_recovery();
    server
}

#[test]
fn with_all_a_commit_that_returned_is_in_every_place_after_kills() {
    let site = Site::new("copyall");
    let store = ObjectServer::start(&site, Dialect::Ministack);
    let server = Postgres::start_new(&site, V17, "primary", "");
    Load::prepare(&server);
    let copy = format!("file://{}", site.directory("copy").display());
    let mut settings = Settings::new(&server, "pitrd");
    settings.url = Some(store.url("orders"));
    settings.archive_lines = "acknowledge = \"all\"".to_owned();
    settings.linger = "20ms".to_owned();
    settings.bytes_max = "256 KiB".to_owned();
    settings.more = format!("[[archive.copy]]\nurl = \"{copy}\"");
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    daemon.tool().backup(&[]);
    server.configure("synchronous_standby_names = 'pitrd'");
    server.reload();
    let load = Load::start(vec![server.connection()], 4, 0);
    for kill in 0..5_u32 {
        let committed = load.count();
        wait_until("commits", PATIENCE, || load.count() > committed + 20);
        if kill < 4 {
            daemon.kill();
            daemon.start();
            daemon.wait_streaming(&server);
        }
    }
    daemon.kill();
    let acknowledged = load.snapshot();
    for (number, url) in [store.url("orders"), copy].iter().enumerate() {
        let restored = restored_from(&site, &daemon, url, &format!("restored-{number}"));
        let lost: Vec<_> = acknowledged
            .difference(&ledger(&restored))
            .copied()
            .collect();
        assert!(
            lost.is_empty(),
            "place {number}: acknowledged and lost: {lost:?}"
        );
    }
    daemon.start();
    load.finish();
    daemon.wait_streaming(&server);
    daemon.wait_archived(&server);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_copy_that_is_away_holds_nobody_up_catches_up_and_repairs_the_archive() {
    let site = Site::new("copyown");
    let store = ObjectServer::start(&site, Dialect::Moto);
    let proxy = FaultProxy::start(store.number());
    let server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    let copy = store.url_through(proxy.port(), "orders");
    settings.more = format!("[[archive.copy]]\nurl = \"{copy}\"");
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    server.pgbench_init(1);
    daemon.tool().backup(&[]);
    proxy.script(|_| Some(Fault::Refuse(503, "SlowDown")));
    server.pgbench(2, 200);
    daemon.wait_archived(&server);
    let before = proxy.faults();
    wait_until("the copy to fail", PATIENCE, || proxy.faults() > before);
    proxy.heal();
    let place = |number: usize| daemon.tool().status()["places"][number].clone();
    wait_until("the copy to catch up", PATIENCE, || {
        let copy = place(1);
        copy["problem"].is_null() && copy["segments_behind"] == 0
    });
    // A backup by hand is copied at the next comparison; nobody has to wait for it.
    daemon.tool().run(&["sync"]).success("sync");
    assert_eq!(place(1)["backups_missing"], 0);
    let last = Fingerprint::take(&server);
    daemon.wait_archived(&server);
    assert_eq!(daemon.stop(), 0);
    let tool: Tool = daemon.tool();
    tool.run(&["sync"]).success("sync");
    let restored = restored_from(&site, &daemon, &store.url("orders"), "from-the-copy");
    last.assert_restored_in(&restored, "the copy alone");

    // The archive loses a segment and damages another one.
    let archive = daemon.archive();
    let segments = archive.segments();
    archive.remove(&segments[1]);
    archive.flip_bit(&segments[2], -200);
    tool.run(&["verify"]).exits(1, "verify after the loss");
    let restored = tool.restored(V17, &["latest"], "from-both");
    last.assert_restored_in(&restored, "what one place has lost");
    archive.remove(&segments[2]);
    let said = tool.run(&["sync", "--back"]).success("sync --back").stdout;
    assert!(said.contains("2 objects"), "{said}");
    tool.run(&["verify", "--deep"])
        .success("verify after the repair");
    let said = tool.run(&["sync"]).success("sync").stdout;
    assert!(said.contains(" 0 objects"), "{said}");
}

#[test]
fn a_copy_that_lags_is_restored_up_to_where_it_is_whole() {
    let site = Site::new("copylag");
    let store = ObjectServer::start(&site, Dialect::Moto);
    let proxy = FaultProxy::start(store.number());
    let server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    let copy = store.url_through(proxy.port(), "orders");
    settings.more = format!("[[archive.copy]]\nurl = \"{copy}\"");
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    server.pgbench_init(1);
    daemon.tool().backup(&[]);
    daemon.tool().run(&["sync"]).success("sync");
    let early = Fingerprint::take(&server);
    daemon.wait_archived(&server);
    wait_until("the copy to have it", PATIENCE, || {
        daemon.tool().status()["places"][1]["segments_behind"] == 0
    });

    // One segment does not get there; what comes after it may.
    let mut refused = None::<String>;
    proxy.script(move |call| {
        let wanted = refused.as_ref().is_none_or(|path| *path == call.path);
        let refuse = wanted && call.puts("/log/") && !call.path.contains("/head");
        if refuse {
            refused = Some(call.path.clone());
        }
        refuse.then_some(Fault::Refuse(503, "SlowDown"))
    });
    for _ in 0..4 {
        server.pgbench(2, 50);
        daemon.wait_archived(&server);
    }
    wait_until("the segment to be refused", PATIENCE, || proxy.faults() > 3);
    let last = Fingerprint::take(&server);
    daemon.wait_archived(&server);
    let restored = restored_from(&site, &daemon, &store.url("orders"), "lagging");
    early.assert_restored_in(&restored, "the copy alone, while it lags");
    drop(restored);

    proxy.heal();
    wait_until("the copy to catch up", PATIENCE, || {
        daemon.tool().status()["places"][1]["segments_behind"] == 0
    });
    let restored = restored_from(&site, &daemon, &store.url("orders"), "caught-up");
    last.assert_restored_in(&restored, "the copy alone, when it has caught up");
    assert_eq!(daemon.stop(), 0);
}
