//! A bucket that is not what it was: its newest objects are deleted, or all of it is as it was before, which the daemon finds out before
//! it puts anything; or an object in the middle is another one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pitr_archive::store::{Piece, S3Store, Store};
use pitr_integration::{
    BUCKET, Daemon, Dialect, Fingerprint, Mark, ObjectServer, Postgres, Settings, Site, V17,
    wait_until,
};
use tokio::runtime::Runtime;

const PREFIX: &str = "orders";
const PATIENCE: Duration = Duration::from_secs(120);

/// An archive in a bucket, and a way around the daemon to its objects.
struct World {
    daemon: Daemon,
    server: Postgres,
    bucket: S3Store,
    runtime: Runtime,
    store: ObjectServer,
    site: Arc<Site>,
}

impl World {
    fn new(name: &str) -> World {
        let site = Site::new(name);
        let store = ObjectServer::start(&site, Dialect::Ministack);
        let lines = "min_wal_size = '32MB'\nmax_wal_size = '64MB'";
        let server = Postgres::start_new(&site, V17, "primary", lines);
        let mut settings = Settings::new(&server, "pitrd");
        settings.url = Some(store.url(PREFIX));
        let mut daemon = Daemon::prepare(&site, settings);
        daemon.start();
        daemon.wait_streaming(&server);
        server.pgbench_init(1);
        daemon.tool().backup(&[]);
        server.pgbench(2, 100);
        daemon.wait_archived(&server);
        let runtime = Runtime::new().unwrap();
        let settings = store.url(PREFIX).parse().unwrap();
        let bucket = runtime.block_on(S3Store::connect(settings)).unwrap();
        World {
            daemon,
            server,
            bucket,
            runtime,
            store,
            site,
        }
    }

    /// Every key of the archive, in order.
    fn keys(&self) -> Vec<String> {
        let path = format!("/{BUCKET}?list-type=2&max-keys=1000&prefix={PREFIX}/");
        let listing = self.store.ask("GET", &path, "").text;
        assert!(!listing.contains("<IsTruncated>true"), "{listing}");
        let keys = listing.split("<Key>").skip(1);
        let keys = keys.filter_map(|rest| rest.split("</Key>").next());
        let prefix = format!("{PREFIX}/");
        keys.map(|key| {
            key.strip_prefix(&prefix)
                .expect("a key below it")
                .to_owned()
        })
        .collect()
    }

    fn segments(&self) -> Vec<String> {
        let keys = self.keys().into_iter();
        keys.filter(|key| key.starts_with("log/") && !key.ends_with("/head"))
            .collect()
    }

    fn read(&self, key: &str) -> Bytes {
        let read = self.bucket.get(key, Piece::Whole);
        self.runtime.block_on(read).unwrap().bytes
    }

    fn write(&self, key: &str, body: Bytes) {
        let put = self.bucket.put_replacing(key, body);
        self.runtime.block_on(put).unwrap();
    }

    fn delete(&self, key: &str) {
        let path = format!("/{BUCKET}/{PREFIX}/{key}");
        let status = self.store.ask("DELETE", &path, "").status;
        assert_eq!(status, 204, "{key} was not deleted");
    }
}

#[test]
fn a_deleted_tail_is_found_and_nothing_is_put() {
    let mut world = World::new("s3tail");
    let last = Fingerprint::take(&world.server);
    world.daemon.wait_archived(&world.server);
    assert_eq!(world.daemon.stop(), 0);
    let segments = world.segments();
    let tail = &segments[segments.len() - 2..];
    let kept: Vec<_> = tail.iter().map(|key| (key, world.read(key))).collect();
    for key in tail {
        world.delete(key);
    }
    let before = world.keys();

    world.daemon.start();
    assert_eq!(world.daemon.wait_end(), 7, "{}", world.daemon.log());
    let log = world.daemon.log();
    assert!(log.contains("rolled back or its tail deleted"), "{log}");
    let status = world.daemon.tool().status();
    assert_eq!(
        status["lost_tails"].as_array().unwrap().len(),
        1,
        "{status}"
    );
    world
        .daemon
        .tool()
        .run(&["verify"])
        .exits(1, "verify without the tail");
    let segments_only = |keys: &[String]| {
        let keys = keys.iter().filter(|key| key.starts_with("log/"));
        keys.count()
    };
    assert_eq!(
        segments_only(&before),
        segments_only(&world.keys()),
        "it put something"
    );

    for (key, body) in kept {
        world.write(key, body);
    }
    world.daemon.start();
    world.daemon.wait_streaming(&world.server);
    let restored = world.daemon.tool().restored(V17, &["latest"], "restored");
    last.assert_restored_in(&restored, "with the tail back");
    assert_eq!(world.daemon.stop(), 0);
}

#[test]
fn a_bucket_that_was_rolled_back_as_a_whole_is_found_against_the_slot() {
    let mut world = World::new("s3roll");
    let early = Mark::take(&world.server);
    let session = world.server.session();
    // Its commit flushes the mark.
    session.run("select pg_logical_emit_message(true, 'rollback', 'behind the mark')");
    world.daemon.wait_archived(&world.server);
    // The last head says how far it was.
    assert_eq!(world.daemon.stop(), 0);
    let snapshot: Vec<_> = world.keys();
    let snapshot: Vec<_> = snapshot
        .iter()
        .map(|key| (key.clone(), world.read(key)))
        .collect();
    world.daemon.start();
    world.daemon.wait_streaming(&world.server);
    for _ in 0..4 {
        world.server.pgbench(2, 100);
        session.run("select pg_switch_wal()");
    }
    world.daemon.wait_archived(&world.server);
    for _ in 0..2 {
        session.run("checkpoint");
    }
    assert_eq!(world.daemon.stop(), 0);
    for key in world.keys() {
        world.delete(&key);
    }
    for (key, body) in snapshot {
        world.write(&key, body);
    }

    world.daemon.start();
    world.daemon.wait_streaming(&world.server);
    world.server.pgbench(2, 50);
    world.daemon.wait_archived(&world.server);
    let daemon = &world.daemon;
    wait_until("the daemon to say it", PATIENCE, || {
        daemon.log().contains("a gap in the log")
    });
    let status = daemon.tool().status();
    assert_eq!(status["gaps"].as_array().unwrap().len(), 1, "{status}");
    let target = early.lsn_target();
    let restored = daemon.tool().restored(V17, &[&target], "before");
    early
        .content
        .assert_restored_in(&restored, "before the bucket was rolled back");
    drop(restored);
    daemon
        .tool()
        .run(&["plan", "--to", "latest"])
        .exits(3, "a plan across the gap");
    daemon.tool().backup(&[]);
    let last = Fingerprint::take(&world.server);
    daemon.wait_archived(&world.server);
    let restored = daemon.tool().restored(V17, &["latest"], "after");
    last.assert_restored_in(&restored, "after a new base backup");
    assert_eq!(world.daemon.stop(), 0);
}

#[test]
fn damage_in_a_bucket_is_named_and_refused_and_what_is_mended_is_restored() {
    let mut world = World::new("s3damage");
    let before = world.segments().len();
    for _ in 0..3 {
        world.server.pgbench(2, 50);
        world.daemon.wait_archived(&world.server);
    }
    let last = Fingerprint::take(&world.server);
    world.daemon.wait_archived(&world.server);
    assert_eq!(world.daemon.stop(), 0);
    // What follows the base: every way to the latest transaction leads over it.
    let segments = world.segments();
    let (key, next) = (&segments[before], &segments[before + 1]);
    let sound = world.read(key);
    let half = sound.len() / 2;
    let mut flipped = sound.to_vec();
    flipped[half] ^= 1;
    let bin = V17.bin().display().to_string();
    for (what, damaged) in [
        ("a flipped bit", Some(flipped.into())),
        ("half of an object", Some(sound.slice(..half))),
        ("another object", Some(world.read(next))),
        ("an object that is gone", None),
    ] {
        match damaged {
            Some(body) => world.write(key, body),
            None => world.delete(key),
        }
        let tool = world.daemon.tool();
        let said = tool.run(&["verify", "--deep"]).exits(1, what).said();
        let number = key.rsplit('/').next().expect("a key has parts");
        let number = number.trim_start_matches('0');
        assert!(said.contains(number), "{what} at {key}:\n{said}");
        let into = world.site.path("refused");
        let restore = tool.restore(&["latest", "--start", "--pg-bin", &bin], &into);
        assert!(
            [3, 6, 7].contains(&restore.code),
            "{what}: {}",
            restore.said()
        );
        let _ = std::fs::remove_dir_all(&into);
        world.write(key, sound.clone());
    }
    let restored = world.daemon.tool().restored(V17, &["latest"], "restored");
    last.assert_restored_in(&restored, "with the bucket mended");
}
