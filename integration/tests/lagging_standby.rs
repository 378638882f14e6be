//! The standby that is promoted lags behind the archive: commits that were acknowledged because the archive has them are not on the new
//! timeline. None of them is lost: the daemon says where the histories part, archives the new one, and the old one is restored by its number.

use std::sync::Arc;
use std::time::Duration;

use pitr_integration::{
    Acknowledged, Daemon, Load, Mark, Postgres, Settings, Site, V15, V17, V18, Version, amcheck,
    ledger, wait_until,
};

const PARTED: &str = "branched off before the archive's end";

struct World {
    primary: Postgres,
    standby: Postgres,
    daemon: Daemon,
    site: Arc<Site>,
}

impl World {
    /// A primary whose COMMIT waits for the archive alone, and a standby.
    fn new(name: &str, version: Version, connection: fn(&Postgres, &Postgres) -> String) -> World {
        let site = Site::new(name);
        let primary = Postgres::start_new(&site, version, "primary", "wal_keep_size = '512MB'");
        Load::prepare(&primary);
        primary.pgbench_init(1);
        let standby = primary.standby("standby");
        let mut settings = Settings::new(&primary, "pitrd");
        settings.connection = connection(&primary, &standby);
        let mut daemon = Daemon::prepare(&site, settings);
        daemon.start();
        daemon.wait_streaming(&primary);
        daemon.tool().backup(&[]);
        let session = primary.session();
        session.run("alter system set synchronous_standby_names = 'pitrd'");
        primary.reload();
        let synchronous = "select count(*) from pg_stat_replication where sync_state = 'sync'";
        wait_until(
            "the archive to be waited for",
            Duration::from_secs(30),
            || session.value(synchronous) == "1",
        );
        World {
            primary,
            standby,
            daemon,
            site,
        }
    }

    /// The standby gets nothing more, the archive does, and the primary dies under load. What it held in a quiet moment, and what it
    /// acknowledged in the end.
    fn leave_behind(&mut self) -> (Mark, Acknowledged) {
        let World {
            primary, standby, ..
        } = self;
        primary.pgbench(2, 50);
        primary.wait_standby(standby);
        let session = standby.session();
        session.run("alter system set primary_conninfo = ''");
        standby.reload();
        wait_until("the standby to lag", Duration::from_secs(30), || {
            session.value("select count(*) from pg_stat_wal_receiver") == "0"
        });
        primary.pgbench(2, 100);
        let ahead = Mark::take(primary);
        let load = Load::start(vec![primary.connection()], 4, 0);
        wait_until("some load", Duration::from_secs(60), || load.count() > 300);
        primary.fail_over_to(standby);
        let acknowledged = load.finish();
        assert_eq!(ledger(standby).len(), 0, "the standby has none of it");
        (ahead, acknowledged)
    }

    /// The old timeline is whole in the archive, the new one goes on in it, and says so.
    fn holds_both(mut self, ahead: &Mark, acknowledged: &Acknowledged) {
        self.daemon.wait_streaming(&self.standby);
        let (daemon, standby) = (&self.daemon, &self.standby);
        let version = standby.version();
        standby.pgbench(2, 100);
        let after = Mark::take(standby);
        daemon.wait_archived(standby);
        assert!(daemon.log().contains(PARTED), "{}", daemon.log());
        let tool = daemon.tool();
        tool.run(&["verify", "--deep"]).success("verify --deep");
        let status = tool.status();
        assert_eq!(status["gaps"], serde_json::json!([]), "{status}");
        assert_eq!(status["end"]["timeline"], 2, "{status}");
        let windows = status["windows"].as_array().expect("a list");
        let old = windows.iter().find(|window| window["timeline"] == 1);
        assert!(old.is_some(), "the old timeline is listed: {status}");

        let old = tool.restored(version, &["latest", "--timeline", "1"], "old");
        assert!(
            acknowledged.is_subset(&ledger(&old)),
            "every commit that was acknowledged is on the old timeline"
        );
        amcheck(&old);
        drop(old);
        let target = ahead.lsn_target();
        let old = tool.restored(version, &[&target, "--timeline", "1"], "old-quiet");
        ahead
            .content
            .assert_restored_in(&old, "a moment that only the old timeline has");
        drop(old);
        let new = tool.restored(version, &["latest"], "new");
        after
            .content
            .assert_restored_in(&new, "the new timeline, from the backup before the switch");
        drop(new);

        // What the manual says to do next.
        tool.backup(&[]);
        standby.pgbench(2, 50);
        let end = Mark::take(standby);
        daemon.wait_archived(standby);
        let new = tool.restored(version, &["latest"], "new-backup");
        end.content
            .assert_restored_in(&new, "the new timeline, from its own backup");
        assert_eq!(self.daemon.stop(), 0);
        drop(self.site);
    }
}

fn both_hosts(primary: &Postgres, standby: &Postgres) -> String {
    format!(
        "host=127.0.0.1,127.0.0.1 port={},{} user=postgres dbname=postgres application_name=pitrd \
         target_session_attrs=read-write",
        primary.port(),
        standby.port()
    )
}

fn first_host(primary: &Postgres, _: &Postgres) -> String {
    format!("{} application_name=pitrd", primary.connection())
}

fn parts_while_running(name: &str, version: Version) {
    let mut world = World::new(name, version, both_hosts);
    let (ahead, acknowledged) = world.leave_behind();
    world.holds_both(&ahead, &acknowledged);
}

#[test]
fn commits_that_a_promoted_standby_never_had_stay_in_the_archive_on_15() {
    parts_while_running("lagging15", V15);
}

#[test]
fn commits_that_a_promoted_standby_never_had_stay_in_the_archive_on_18() {
    parts_while_running("lagging18", V18);
}

#[test]
fn a_daemon_that_is_pointed_at_a_promoted_standby_which_lagged_archives_both_histories() {
    let mut world = World::new("repointed", V17, first_host);
    let (ahead, acknowledged) = world.leave_behind();
    // Nobody had made a slot there, and the daemon knows only the dead server.
    assert_eq!(world.daemon.stop(), 0);
    let daemon = &mut world.daemon;
    let text = std::fs::read_to_string(daemon.configuration()).expect("read the configuration");
    let port = |server: &Postgres| format!("port={}", server.port());
    let text = text.replace(&port(&world.primary), &port(&world.standby));
    world.site.write(daemon.configuration(), &text, 0o600);
    daemon.start();
    world.holds_both(&ahead, &acknowledged);
}
