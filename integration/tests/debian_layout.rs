//! A source that keeps its configuration outside of its data directory, as Debian does: one command still gives a running server.

use pitr_integration::{Daemon, Mark, Postgres, Site, V15};
use std::fs;

const CONFIGURATION: [&str; 3] = ["postgresql.conf", "pg_hba.conf", "pg_ident.conf"];

#[test]
fn a_backup_without_configuration_files_is_started_by_one_command() {
    let site = Site::new("debian-layout");
    // More than the default: a recovery with less ends at once.
    let server = Postgres::start_new(&site, V15, "primary", "max_connections = 150");
    let daemon = Daemon::start_new(&server, "pitrd");
    server.pgbench_init(1);
    // The server reads them when it starts.
    let aside = |name: &str| site.path(&format!("{name}.aside"));
    for name in CONFIGURATION {
        fs::rename(server.data().join(name), aside(name)).expect("move the configuration away");
    }
    daemon.tool().backup(&[]);
    for name in CONFIGURATION {
        fs::rename(aside(name), server.data().join(name)).expect("move the configuration back");
    }
    server.pgbench(2, 50);
    let end = Mark::take(&server);
    daemon.wait_archived(&server);

    let into = site.path("restored");
    let bin = V15.bin().display().to_string();
    let arguments = ["latest", "--start", "--pg-bin", &bin, "--action", "promote"];
    let said = daemon
        .tool()
        .restore(&arguments, &into)
        .success("restore --start")
        .said();
    for name in CONFIGURATION {
        assert!(said.contains(name), "{said}");
        assert!(into.join(name).exists(), "{name}");
    }
    let mut stop = site.command(&V15.program("pg_ctl"));
    stop.arg("-D").arg(&into).args(["-w", "stop"]);
    pitr_integration::Finished::run(&mut stop).success("pg_ctl stop");
    fs::write(
        into.join("pg_hba.conf"),
        "local all all trust\nhost all all all trust\n",
    )
    .expect("write pg_hba.conf");
    let mut restored = Postgres::adopt(&site, V15, "restored", into);
    restored.start();
    end.content
        .assert_restored_in(&restored, "without configuration files in the backup");
}
