//! How the daemon may reach its server: unix socket, SCRAM over TLS with a role that can do nothing but replicate.

use pitr_integration::{
    Authority, Daemon, Mark, PASSWORD, Postgres, Settings, Site, StrictServer, V15, V17,
};

#[test]
fn a_role_that_only_replicates_is_enough_over_verified_tls() {
    let site = Site::new("tls");
    let strict = StrictServer::start_new(&site, V15);
    let (root, passfile) = (strict.authority.path("ca.crt"), strict.passfile(PASSWORD));
    let settings = strict.settings("verify-full", &root, &passfile);
    let server = &strict.server;
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.check().success("pitrd --check");
    daemon.start();
    daemon.wait_streaming(server);
    daemon.tool().backup(&[]);
    server.pgbench(2, 50);
    let end = Mark::take(server);
    daemon.wait_archived(server);
    let tls = "select version from pg_stat_ssl s join pg_replication_slots r on r.active_pid = s.pid where ssl";
    assert!(
        server.session().value(tls).starts_with("TLS"),
        "the stream is encrypted"
    );
    let restored = daemon.tool().restored(V15, &["latest"], "restored");
    end.content
        .assert_restored_in(&restored, "archived over TLS");
    assert!(!daemon.log().contains(PASSWORD));
}

#[test]
fn a_server_that_cannot_prove_who_it_is_gets_no_password() {
    let site = Site::new("mitm");
    let strict = StrictServer::start_new(&site, V15);
    let other = Authority::new(&site, "other-pki").path("ca.crt");
    let passfile = strict.passfile(PASSWORD);
    let daemon = Daemon::configured(&site, strict.settings("verify-full", &other, &passfile));
    for finished in [
        daemon
            .tool()
            .run(&["init"])
            .exits(6, "pitr-tool init against another authority"),
        daemon
            .check()
            .exits(1, "pitrd --check against another authority"),
    ] {
        let said = finished.said();
        assert!(said.to_lowercase().contains("certificate"), "{said}");
        assert!(!said.contains(PASSWORD));
    }
}

#[test]
fn a_unix_socket_is_enough() {
    let site = Site::new("socket");
    let server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    settings.connection = format!(
        "host={} port={} user=postgres",
        site.root().display(),
        server.port()
    );
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    server.pgbench_init(1);
    daemon.tool().backup(&[]);
    let end = Mark::take(&server);
    daemon.wait_archived(&server);
    let restored = daemon.tool().restored(V17, &["latest"], "restored");
    end.content
        .assert_restored_in(&restored, "archived over a unix socket");
}
