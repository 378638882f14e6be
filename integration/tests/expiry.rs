//! What lets the daemon in expires while it runs: the server's certificate, the role's password. It says what and where and what to do, tells
//! the service manager that nothing is archived, keeps trying, and goes on by itself when somebody has renewed it.

use std::sync::Arc;
use std::time::Duration;

use pitr_integration::{
    Daemon, Mark, PASSWORD, ServiceManager, Settings, Site, StrictServer, V15, V17, Validity,
    wait_until,
};

const RENEWED: &str = "battery staple";
const NOT_ARCHIVING: &str = "NOT ARCHIVING for ";
/// Waiting is no reason to be ended.
const BEAT: &str = "WATCHDOG=1";
const TRIED: &str = "capture was interrupted; connecting again";
/// `ENOTCONN`.
const ALARM: &str = "107";

struct World {
    strict: StrictServer,
    manager: ServiceManager,
    daemon: Daemon,
    site: Arc<Site>,
}

impl World {
    /// A daemon that streams over verified TLS, with a base backup.
    fn new(site: Arc<Site>, strict: StrictServer, settings: Settings) -> World {
        let manager = ServiceManager::listen(&site);
        let mut daemon = Daemon::prepare(&site, settings);
        daemon.tells(&manager);
        daemon.start();
        daemon.wait_streaming(&strict.server);
        daemon.tool().backup(&[]);
        manager.wait("STATUS", |line| line.starts_with("streaming, "));
        assert_eq!(manager.value("ERRNO"), "0");
        World {
            strict,
            manager,
            daemon,
            site,
        }
    }

    /// After what let it in has expired: the daemon is shown out, and until `renew` nothing is archived or acknowledged, which it says
    /// in these words.
    fn stands_still(&mut self, words: &[&str], renew: impl Fn(&StrictServer)) {
        let server = &self.strict.server;
        let (session, earlier) = (server.session(), self.daemon.log().len());
        let slot = "select restart_lsn from pg_replication_slots where slot_name = 'pitrd'";
        self.strict.show_out();
        let says = |line: &str| {
            line.starts_with(NOT_ARCHIVING) && words.iter().all(|word| line.contains(word))
        };
        self.manager.wait("STATUS", says);
        let before = (session.value(slot), self.daemon.archive().segments());
        server.pgbench(2, 100);
        self.manager.wait("ERRNO", |errno| errno == ALARM);
        let tries = self.daemon.log().matches(TRIED).count();
        wait_until("further tries", Duration::from_secs(60), || {
            self.daemon.log().matches(TRIED).count() > tries + 1
        });
        assert!(self.daemon.runs(), "{}", self.daemon.log());
        let beats = self.manager.count(BEAT);
        wait_until("the watchdog to be fed", Duration::from_secs(60), || {
            self.manager.count(BEAT) > beats + 1
        });
        assert!(says(&self.manager.value("STATUS")));
        let after = (session.value(slot), self.daemon.archive().segments());
        assert_eq!(before, after, "nothing is acknowledged");
        let log = self.daemon.log().split_off(earlier);
        let alarm = |line: &&str| line.contains("ERROR") && line.contains(NOT_ARCHIVING);
        assert!(
            log.lines()
                .filter(alarm)
                .any(|line| words.iter().all(|word| line.contains(word))),
            "one sentence says what, where and what to do: {log}"
        );

        renew(&self.strict);
        self.daemon.wait_streaming(&self.strict.server);
        self.manager.wait("ERRNO", |errno| errno == "0");
        self.manager
            .wait("STATUS", |line| line.starts_with("streaming, "));
        let log = self.daemon.log().split_off(earlier);
        assert!(log.contains("archiving again, after "), "{log}");
    }

    /// Everything that was committed meanwhile is in the archive, and READY was said once.
    fn holds_all(self) {
        let World {
            strict,
            manager,
            daemon,
            site,
        } = self;
        let server = &strict.server;
        server.pgbench(2, 50);
        let end = Mark::take(server);
        daemon.wait_archived(server);
        let restored = daemon
            .tool()
            .restored(server.version(), &["latest"], "restored");
        end.content
            .assert_restored_in(&restored, "what was committed meanwhile");
        assert_eq!(manager.count("READY=1"), 1);
        for secret in [PASSWORD, RENEWED] {
            assert!(!daemon.log().contains(secret));
        }
        drop((restored, daemon, site));
    }
}

#[test]
fn a_server_s_certificate_that_expires_is_waited_for_and_said() {
    let site = Site::new("certexpiry");
    let strict = StrictServer::start_new(&site, V17);
    let (root, passfile) = (strict.authority.path("ca.crt"), strict.passfile(PASSWORD));
    let settings = strict.settings("verify-full", &root, &passfile);
    let mut world = World::new(site, strict, settings);
    world.strict.authority.issue(Validity::Over);
    world.strict.server.reload();
    let place = format!("localhost:{}", world.strict.server.port());
    let words = ["no TLS with", &place, "certificate has expired", "renew it"];
    world.stands_still(&words, |strict| {
        strict.authority.issue(Validity::Days);
        strict.server.reload();
    });
    world.holds_all();
}

/// The password is changed, and later its time is over; `renew` writes the new one where the daemon looks.
fn password_expires(mut world: World, renew: impl Fn(&StrictServer)) {
    let alter = |strict: &StrictServer, what: &str| {
        let sql = format!("set password_encryption = 'scram-sha-256'; alter role archiver {what}");
        strict.server.session().run(&sql);
    };
    let place = format!("localhost:{}", world.strict.server.port());
    let words = [
        place.as_str(),
        "password authentication failed for user \"archiver\"",
        "give the role's present password",
        "VALID UNTIL",
    ];
    alter(&world.strict, &format!("password '{RENEWED}'"));
    world.stands_still(&words, renew);
    alter(&world.strict, "valid until '2001-01-01'");
    world.stands_still(&words, |strict| alter(strict, "valid until 'infinity'"));
    world.holds_all();
}

#[test]
fn a_passfile_s_password_that_changes_or_expires_is_waited_for_and_said() {
    let site = Site::new("passfile");
    let strict = StrictServer::start_new(&site, V17);
    let (root, passfile) = (strict.authority.path("ca.crt"), strict.passfile(PASSWORD));
    let settings = strict.settings("verify-full", &root, &passfile);
    let world = World::new(site, strict, settings);
    password_expires(world, |strict| {
        strict.passfile(RENEWED);
    });
}

#[test]
fn a_password_file_is_read_again_when_its_password_has_changed() {
    let site = Site::new("passwordfile");
    let strict = StrictServer::start_new(&site, V15);
    let path = site.path("password");
    site.write(&path, &format!("{PASSWORD}\n"), 0o600);
    let root = strict.authority.path("ca.crt");
    let mut settings = strict.settings("verify-full", &root, "");
    settings.source = format!("password_file = \"{}\"", path.display());
    let world = World::new(site, strict, settings);
    password_expires(world, |strict| {
        let site = strict.server.site();
        site.write(&site.path("password"), &format!("{RENEWED}\n"), 0o600);
    });
}
