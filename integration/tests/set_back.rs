//! A server is set back to an earlier state without a new timeline: what it writes then is another history under the numbers of the one that
//! is archived. It is refused, before it is told anything, however much it has written; a server that only goes on never is.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use pitr_integration::{
    Daemon, Finished, Mark, Postgres, Settings, Site, Stop, V15, V17, V18, Version,
};

const KNOWN_AGAIN: &str = "the server has the log that the archive ends with";
const CANNOT_TELL: &str = "the server no longer has all that would prove";
const OTHER: &str = "is not the one that the archive holds";

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    Finished::run(command.arg("-a").args([from, to])).success("cp -a");
}

/// A server with a base backup, and a copy of its disk from then. Both are stopped.
struct World {
    server: Postgres,
    daemon: Daemon,
    kept: PathBuf,
    _site: Arc<Site>,
}

impl World {
    fn new(name: &str, version: Version, from_files: bool) -> World {
        let site = Site::new(name);
        // What the server does of itself would make two histories differ by more than what is done here.
        let quiet = "autovacuum = off\nbgwriter_lru_maxpages = 0\ncheckpoint_timeout = '1h'";
        let mut server = Postgres::start_new(&site, version, "primary", quiet);
        server.pgbench_init(1);
        server.session().run("create table notes (word text)");
        let mut settings = Settings::new(&server, "pitrd");
        if from_files {
            let files = server.data().join("pg_wal");
            settings.source = format!("wal_directory = \"{}\"", files.display());
        }
        let mut daemon = Daemon::prepare(&site, settings);
        daemon.start();
        daemon.wait_streaming(&server);
        daemon.tool().backup(&[]);
        daemon.wait_archived(&server);
        assert_eq!(daemon.stop(), 0);
        server.stop(Stop::Fast);
        let kept = site.path("kept");
        copy(server.data(), &kept);
        World {
            server,
            daemon,
            kept,
            _site: site,
        }
    }

    /// Both run, and all that `write` writes is archived.
    fn archive(&mut self, write: impl Fn(&Postgres)) -> Mark {
        self.server.start();
        self.daemon.start();
        self.daemon.wait_streaming(&self.server);
        write(&self.server);
        let last = Mark::take(&self.server);
        self.daemon.wait_archived(&self.server);
        assert_eq!(self.daemon.stop(), 0);
        last
    }

    fn set_back(&mut self) {
        self.server.stop(Stop::Fast);
        let data = self.server.data().to_owned();
        std::fs::remove_dir_all(&data).expect("remove what is newer");
        copy(&self.kept, &data);
        self.server.start();
    }

    /// The daemon ends before it tells or writes anything, and the archive is what it was.
    fn assert_refused(&mut self, said: &str, last: &Mark) {
        let slot = "select restart_lsn from pg_replication_slots where slot_name = 'pitrd'";
        let (session, segments) = (self.server.session(), self.daemon.archive().segments());
        let kept = session.value(slot);
        self.daemon.start();
        assert_eq!(self.daemon.wait_end(), 5, "{}", self.daemon.log());
        let log = self.daemon.log();
        assert!(log.contains(said), "what happened is said: {log}");
        assert_eq!(session.value(slot), kept, "the server was told nothing");
        assert_eq!(self.daemon.archive().segments(), segments);
        let version = self.server.version();
        let restored = self
            .daemon
            .tool()
            .restored(version, &["latest"], "as-it-was");
        last.content
            .assert_restored_in(&restored, "the archive as it was");
    }
}

#[test]
fn a_server_that_was_set_back_is_refused_before_it_is_told_anything() {
    let mut world = World::new("setback", V17, false);
    let last = world.archive(|server| server.pgbench(2, 200));
    world.set_back();
    world.assert_refused("was set back to an earlier state", &last);

    // What the message says to do.
    let World { server, daemon, .. } = &mut world;
    server.stop(Stop::Fast);
    std::fs::write(server.data().join("standby.signal"), "").expect("write");
    server.start();
    server.promote();
    daemon.start();
    daemon.wait_streaming(server);
    server.pgbench(2, 100);
    let after = Mark::take(server);
    daemon.wait_archived(server);
    let restored = daemon.tool().restored(V17, &["latest"], "after");
    after
        .content
        .assert_restored_in(&restored, "on a timeline of its own");
}

/// Set back, and past the archive's end before the daemon looks.
fn is_refused_past_the_end(name: &str, version: Version, from_files: bool) {
    let mut world = World::new(name, version, from_files);
    let last = world.archive(|server| server.pgbench(2, 100));
    world.set_back();
    let session = world.server.session();
    // Several WAL segments: a daemon that may would read them from the files.
    session.run("create table filler as select i, repeat(md5(i::text), 8) from generate_series(1, 300000) i");
    let past = format!("select pg_current_wal_flush_lsn() > '{}'", last.lsn);
    assert_eq!(session.value(&past), "t");
    world.assert_refused(OTHER, &last);
}

#[test]
fn a_server_that_was_set_back_and_wrote_past_the_archive_is_refused_on_15() {
    is_refused_past_the_end("past15", V15, false);
}

#[test]
fn a_server_that_was_set_back_and_wrote_past_the_archive_is_refused_on_18() {
    is_refused_past_the_end("past18", V18, false);
}

#[test]
fn a_server_that_was_set_back_is_refused_where_its_files_are_read() {
    is_refused_past_the_end("pastfiles", V17, true);
}

#[test]
fn two_histories_of_the_same_shape_with_a_switch_at_the_end_are_told_apart() {
    let mut world = World::new("pastswitch", V17, false);
    let write = |server: &Postgres, word: &str| {
        let session = server.session();
        session.run(&format!("insert into notes values ('{word}')"));
        switch(server);
    };
    let last = world.archive(|server| write(server, "this"));
    world.set_back();
    write(&world.server, "that");
    world.server.pgbench(2, 100);
    world.assert_refused(OTHER, &last);
}

/// What happens, and what the daemon says of it at its next start.
type Round = (&'static str, &'static str, fn(&mut Postgres));

#[test]
fn a_server_that_goes_on_is_known_again_whatever_it_came_through() {
    let mut world = World::new("goeson", V17, false);
    world.archive(|server| server.pgbench(2, 100));
    let World { server, daemon, .. } = &mut world;
    let rounds: [Round; 6] = [
        ("the daemon restarted", KNOWN_AGAIN, |_| {}),
        ("a switch", KNOWN_AGAIN, |server| switch(server)),
        ("a crash", KNOWN_AGAIN, |server| server.restart(Stop::Kill)),
        ("a switch and a crash", KNOWN_AGAIN, |server| {
            switch(server);
            server.restart(Stop::Immediate);
        }),
        ("a restart", KNOWN_AGAIN, |server| {
            server.restart(Stop::Fast)
        }),
        (
            "a switch, and what lay before it is gone",
            CANNOT_TELL,
            |server| switch(server),
        ),
    ];
    for (what, said, happens) in rounds {
        daemon.start();
        daemon.wait_streaming(server);
        server.session().run("insert into notes values ('more')");
        happens(server);
        daemon.wait_streaming(server);
        daemon.wait_archived(server);
        assert_eq!(daemon.stop(), 0, "{what}");
        let before = daemon.log().matches(said).count();
        if said == CANNOT_TELL {
            server.session().run("checkpoint");
        }
        daemon.start();
        daemon.wait_streaming(server);
        assert_eq!(daemon.stop(), 0, "{what}");
        let after = daemon.log().matches(said).count();
        assert!(after > before, "{what}: {}", daemon.log());
    }
    daemon.start();
    daemon.wait_streaming(server);
    server.pgbench(2, 100);
    let last = Mark::take(server);
    daemon.wait_archived(server);
    let restored = daemon.tool().restored(V17, &["latest"], "restored");
    last.content
        .assert_restored_in(&restored, "after all of it");
}

fn switch(server: &Postgres) {
    server.session().run("select pg_switch_wal()");
}
