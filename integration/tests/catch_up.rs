//! Catching up from the server's own WAL files: the same log as by the stream, whatever the files hold.

use pitr_integration::{Daemon, Mark, Postgres, Settings, Site, V17, wait_until};
use std::path::Path;
use std::time::Duration;

const FROM_FILES: &str = "catching up from the server's own WAL files";

/// A stopped daemon with a base backup, and what the server did since: many WAL segments, with a switch among them.
fn behind(site_name: &str, wal: impl Fn(&Postgres) -> std::path::PathBuf) -> (Postgres, Daemon) {
    let site = Site::new(site_name);
    let server = Postgres::start_new(&site, V17, "primary", "max_wal_size = '4GB'");
    let mut settings = Settings::new(&server, "pitrd");
    settings.source = format!("wal_directory = \"{}\"", wal(&server).display());
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    daemon.tool().backup(&[]);
    assert_eq!(daemon.stop(), 0);
    let session = server.session();
    for round in 0..3 {
        session.run(&format!(
            "create table behind_{round} as select i, repeat(md5(i::text), 8) from generate_series(1, 150000) i"
        ));
        session.run("select pg_switch_wal()");
    }
    (server, daemon)
}

fn assert_all_restored(server: &Postgres, daemon: &Daemon) {
    let end = Mark::take(server);
    daemon.wait_archived(server);
    daemon.tool().run(&["verify", "--deep"]).success("verify");
    let restored = daemon.tool().restored(V17, &["latest"], "restored");
    end.content
        .assert_restored_in(&restored, "after catching up");
}

#[test]
fn what_is_read_from_the_files_is_what_the_server_wrote_though_the_daemon_is_killed() {
    let (server, mut daemon) = behind("files", |server| server.data().join("pg_wal"));
    for pause_ms in [150, 300] {
        daemon.start();
        std::thread::sleep(Duration::from_millis(pause_ms));
        daemon.kill();
    }
    daemon.start();
    daemon.wait_streaming(&server);
    assert!(daemon.log().contains(FROM_FILES), "{}", daemon.log());
    assert_all_restored(&server, &daemon);
}

#[test]
fn files_that_are_not_the_servers_are_not_believed_and_the_stream_is_read() {
    let (server, mut daemon) = behind("wrong-files", |server| {
        let copy = server.site().directory("copied-wal");
        server.site().own(&copy);
        copy
    });
    let copy = server.site().path("copied-wal");
    copy_files(&server.data().join("pg_wal"), &copy);
    let mut names: Vec<_> = std::fs::read_dir(&copy)
        .expect("list")
        .map(|entry| entry.expect("list").path())
        .collect();
    names.sort();
    // A file that was recycled: the bytes of another place in the log.
    std::fs::copy(&names[0], &names[4]).expect("copy");
    daemon.start();
    wait_until("the daemon to say it", Duration::from_secs(60), || {
        daemon.log().contains("no page of this cluster's WAL")
    });
    daemon.wait_streaming(&server);
    assert_all_restored(&server, &daemon);
}

fn copy_files(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("list") {
        let path = entry.expect("list").path();
        let name = path.file_name().expect("a file has a name");
        if path.is_file() {
            std::fs::copy(&path, to.join(name)).expect("copy");
        }
    }
    let everybody = std::process::Command::new("chmod")
        .args(["-R", "a+rX"])
        .arg(to)
        .status();
    assert!(everybody.expect("run chmod").success());
}
