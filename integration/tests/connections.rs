//! How the daemon may reach its server: unix socket, SCRAM over TLS with a role that can do nothing but replicate.

use pitr_integration::{Daemon, Finished, Mark, Postgres, Settings, Site, V15, V17};
use std::path::Path;
use std::process::Command;

/// A certificate authority and a certificate for `localhost`, in PEM.
fn certificates(site: &Site, directory: &Path) {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command
            .args(arguments.split_whitespace())
            .current_dir(directory);
        Finished::run(&mut command).success("openssl (run `make deps`)");
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    openssl(&format!(
        "req -x509 {key} -days 2 -subj /CN=test-authority -addext basicConstraints=critical,CA:TRUE \
         -keyout ca.key -out ca.crt"
    ));
    openssl(&format!(
        "req -new {key} -subj /CN=localhost -keyout server.key -out server.csr"
    ));
    std::fs::write(
        directory.join("san"),
        "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n",
    )
    .expect("write");
    openssl(
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.crt",
    );
    for file in ["ca.crt", "server.key", "server.crt"] {
        let path = directory.join(file);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
            .expect("set the mode");
        site.own(&path);
    }
}

/// A server that takes nothing over TCP but SCRAM inside TLS, with the role `archiver`.
fn strict_server(site: &std::sync::Arc<Site>) -> (Postgres, std::path::PathBuf) {
    let pki = site.directory("pki");
    certificates(site, &pki);
    let mut server = Postgres::start_new(site, V15, "primary", "");
    server.session().run(
        "set password_encryption = 'scram-sha-256';
         create role archiver login replication password 'correct horse'",
    );
    server.pgbench_init(1);
    server.configure(&format!(
        "ssl = on\nssl_cert_file = '{0}/server.crt'\nssl_key_file = '{0}/server.key'",
        pki.display()
    ));
    let rules = "local all postgres trust\nhost all postgres 127.0.0.1/32 trust\n\
                 hostssl all archiver 127.0.0.1/32 scram-sha-256\n\
                 hostssl replication archiver 127.0.0.1/32 scram-sha-256\n";
    site.write(&server.data().join("pg_hba.conf"), rules, 0o600);
    server.restart(pitr_integration::Stop::Fast);
    (server, pki)
}

fn settings(server: &Postgres, sslmode: &str, root: &Path) -> Settings {
    let site = server.site();
    let passfile = site.path("passfile");
    let line = format!("localhost:{}:*:archiver:correct horse\n", server.port());
    site.write(&passfile, &line, 0o600);
    let mut settings = Settings::new(server, "pitrd");
    settings.connection = format!(
        "host=localhost port={} user=archiver dbname=postgres sslmode={sslmode} sslrootcert={} passfile={}",
        server.port(),
        root.display(),
        passfile.display()
    );
    settings
}

#[test]
fn a_role_that_only_replicates_is_enough_over_verified_tls() {
    let site = Site::new("tls");
    let (server, pki) = strict_server(&site);
    let mut daemon = Daemon::prepare(&site, settings(&server, "verify-full", &pki.join("ca.crt")));
    daemon.check().success("pitrd --check");
    daemon.start();
    daemon.wait_streaming(&server);
    daemon.tool().backup(&[]);
    server.pgbench(2, 50);
    let end = Mark::take(&server);
    daemon.wait_archived(&server);
    let tls = "select version from pg_stat_ssl s join pg_replication_slots r on r.active_pid = s.pid where ssl";
    assert!(
        server.session().value(tls).starts_with("TLS"),
        "the stream is encrypted"
    );
    let restored = daemon.tool().restored(V15, &["latest"], "restored");
    end.content
        .assert_restored_in(&restored, "archived over TLS");
    assert!(!daemon.log().contains("correct horse"));
}

#[test]
fn a_server_that_cannot_prove_who_it_is_gets_no_password() {
    let site = Site::new("mitm");
    let (server, _) = strict_server(&site);
    let other = site.directory("other-pki");
    certificates(&site, &other);
    let daemon = Daemon::configured(
        &site,
        settings(&server, "verify-full", &other.join("ca.crt")),
    );
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
        assert!(!said.contains("correct horse"));
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
