//! What makes an archive, a copy and a signing key: `pitr-tool init`, and nothing else, so that a file system that is not mounted is
//! never taken for a new place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use pitr_integration::{Daemon, Postgres, Settings, Site, Stop, V17, wait_until};

const UNAVAILABLE: i32 = 6;

fn with_a_copy(site: &Arc<Site>, server: &Postgres, acknowledge: &str) -> (Settings, PathBuf) {
    let copy = site.directory("copy");
    let mut settings = Settings::new(server, "pitrd");
    settings.archive_lines = format!("acknowledge = \"{acknowledge}\"");
    settings.more = format!("[[archive.copy]]\nurl = \"file://{}\"", copy.display());
    (settings, copy)
}

/// What lies in `place` goes away, as a file system that is unmounted does; its mount point stays.
fn unmount(site: &Site, place: &Path) {
    std::fs::rename(place, place.with_extension("away")).expect("move it away");
    std::fs::create_dir(place).expect("make the mount point");
    site.own(place);
}

fn mount(place: &Path) {
    std::fs::remove_dir(place).expect("the mount point is empty");
    std::fs::rename(place.with_extension("away"), place).expect("move it back");
}

fn is_empty(place: &Path) -> bool {
    place.read_dir().expect("list it").next().is_none()
}

#[test]
fn a_copy_that_is_not_mounted_is_refused_and_nothing_is_put_there() {
    let site = Site::new("copymnt");
    let server = Postgres::start_new(&site, V17, "primary", "");
    let (settings, copy) = with_a_copy(&site, &server, "all");
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.check().success("pitrd --check");
    daemon.start();
    daemon.wait_streaming(&server);
    assert_eq!(daemon.stop(), 0);

    unmount(&site, &copy);
    let checked = daemon.check().exits(1, "pitrd --check");
    let said = format!(
        "fail  copy: open a copy of the archive: file://{}",
        copy.display()
    );
    assert!(checked.stdout.contains(&said), "{}", checked.stdout);
    assert!(
        checked.stdout.contains("pitr-tool init --config"),
        "{}",
        checked.stdout
    );
    let synced = daemon.tool().run(&["sync"]).exits(UNAVAILABLE, "sync");
    assert!(
        synced.stderr.contains("pitr-tool init --config"),
        "{}",
        synced.stderr
    );
    daemon.start();
    assert_eq!(daemon.wait_end(), UNAVAILABLE);
    assert!(is_empty(&copy), "something was put into the mount point");

    mount(&copy);
    daemon.start();
    daemon.wait_streaming(&server);
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_copy_that_follows_is_not_made_by_following() {
    let site = Site::new("copyfol");
    let server = Postgres::start_new(&site, V17, "primary", "");
    let (settings, copy) = with_a_copy(&site, &server, "primary");
    let mut daemon = Daemon::prepare(&site, settings);
    unmount(&site, &copy);
    daemon.start();
    // Nobody is held up.
    daemon.wait_streaming(&server);
    server.pgbench_init(1);
    daemon.wait_archived(&server);
    wait_until("the copy to fail", Duration::from_secs(120), || {
        daemon.log().contains("a copy cannot be kept up")
    });
    assert!(is_empty(&copy), "something was put into the mount point");

    // A place that is new is made a copy by init alone, also while the daemon runs.
    daemon.tool().run(&["init"]).success("pitr-tool init");
    wait_until("the copy to follow", Duration::from_secs(120), || {
        daemon.log().contains("the copy is kept up again")
    });
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn an_archive_that_is_not_mounted_is_not_made_anew_beside_its_copy() {
    let site = Site::new("archmnt");
    let server = Postgres::start_new(&site, V17, "primary", "");
    let (settings, _) = with_a_copy(&site, &server, "primary");
    let daemon = Daemon::prepare(&site, settings);
    let archive = daemon.settings().archive.clone();
    unmount(&site, &archive);
    let refused = daemon.tool().run(&["init"]);
    let refused = refused.exits(UNAVAILABLE, "pitr-tool init");
    assert!(refused.stderr.contains("sync --back"), "{}", refused.stderr);
    assert!(is_empty(&archive), "a new archive was made");
    mount(&archive);
    let again = daemon.tool().run(&["init"]).success("pitr-tool init");
    assert_eq!(
        again.stdout.matches("was there already").count(),
        2,
        "{}",
        again.stdout
    );
}

#[test]
fn the_signing_key_comes_back_while_the_server_is_down() {
    let site = Site::new("keyback");
    let mut server = Postgres::start_new(&site, V17, "primary", "");
    let daemon = Daemon::prepare(&site, Settings::new(&server, "pitrd"));
    server.stop(Stop::Fast);
    let key = daemon.configuration().with_file_name("pitrd.signing-key");
    let before = std::fs::read(&key).expect("init made the signing key");
    std::fs::remove_file(&key).expect("lose it");
    let mut lost = daemon;
    lost.start();
    assert_eq!(lost.wait_end(), 4);
    assert!(
        lost.log().contains("pitr-tool init --config FILE"),
        "{}",
        lost.log()
    );
    let said = lost.tool().run(&["init"]).success("pitr-tool init");
    assert!(said.stderr.contains("does not answer"), "{}", said.stderr);
    assert_eq!(std::fs::read(&key).expect("it is back"), before);
}
