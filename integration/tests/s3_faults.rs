//! Everything that an object store and the way to it can do wrong, while sessions commit synchronously: no commit that returned is
//! lost, and the restore that checks it suffers as well.

use std::collections::BTreeSet;
use std::time::Duration;

use pitr_integration::{
    ACCESS_KEY, Call, Daemon, Dialect, Fault, FaultProxy, Fingerprint, Load, ObjectServer,
    Postgres, SECRET_KEY, Settings, Site, V17, amcheck, ledger, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(600);

/// A server under synchronous load, its daemon, and the proxy on the way to the store.
struct World {
    proxy: FaultProxy,
    load: Load,
    daemon: Daemon,
    server: Postgres,
    store: ObjectServer,
    site: std::sync::Arc<Site>,
}

impl World {
    fn new(name: &str, dialect: Dialect) -> World {
        let site = Site::new(name);
        let store = ObjectServer::start(&site, dialect);
        let proxy = FaultProxy::start(store.number());
        let server = Postgres::start_new(&site, V17, "primary", "");
        Load::prepare(&server);
        let mut settings = Settings::new(&server, "pitrd");
        settings.url = Some(store.url_through(proxy.port(), "prod/orders"));
        settings.linger = "20ms".to_owned();
        settings.bytes_max = "256 KiB".to_owned();
        let mut daemon = Daemon::prepare(&site, settings);
        daemon.start();
        daemon.wait_streaming(&server);
        daemon.tool().backup(&[]);
        server.configure("synchronous_standby_names = 'pitrd'");
        server.reload();
        let load = Load::start(vec![server.connection()], 4, 0);
        World {
            proxy,
            load,
            daemon,
            server,
            store,
            site,
        }
    }

    /// Lets `rule` act until it has acted `faults` times; then all is well, and commits return again.
    fn suffer(
        &mut self,
        what: &str,
        faults: u64,
        rule: impl FnMut(&Call) -> Option<Fault> + Send + 'static,
    ) {
        let before = self.proxy.faults();
        self.proxy.script(rule);
        let proxy = &self.proxy;
        wait_until(&format!("{faults} times {what}"), PATIENCE, || {
            proxy.faults() >= before + faults
        });
        self.proxy.heal();
        let committed = self.load.count();
        let (daemon, load) = (&mut self.daemon, &self.load);
        wait_until(&format!("commits after {what}"), PATIENCE, || {
            assert!(daemon.runs(), "{what}: the daemon ended:\n{}", daemon.log());
            load.count() > committed + 4
        });
    }

    /// Kills the daemon; the first read of each object by the next one goes wrong, and commits return again.
    fn read_back_badly(&mut self) {
        self.daemon.kill();
        let before = self.proxy.faults();
        self.proxy.script(first_reads(&[
            Fault::Truncate,
            Fault::BreakAnswer,
            Fault::LoseAnswer,
            Fault::Drip,
        ]));
        let committed = self.load.count();
        self.daemon.start();
        let (daemon, load) = (&mut self.daemon, &self.load);
        wait_until("commits after bad reads", PATIENCE, || {
            assert!(daemon.runs(), "the daemon ended:\n{}", daemon.log());
            load.count() > committed + 4
        });
        assert!(self.proxy.faults() >= before + 4, "too little was read");
        self.proxy.heal();
    }

    /// Restores while the first read of each object goes wrong, and compares.
    fn end(mut self) {
        let acknowledged = self.load.finish();
        assert!(
            acknowledged.len() > 20,
            "only {} commits",
            acknowledged.len()
        );
        let last = Fingerprint::take(&self.server);
        self.daemon.wait_archived(&self.server);
        let before = self.proxy.faults();
        self.proxy.script(first_reads(&[
            Fault::BreakAnswer,
            Fault::Refuse(500, "InternalError"),
            Fault::Truncate,
            Fault::LoseAnswer,
            Fault::Refuse(503, "SlowDown"),
        ]));
        let restored = self.daemon.tool().restored(V17, &["latest"], "restored");
        assert!(self.proxy.faults() > before, "the restore suffered nothing");
        last.assert_restored_in(&restored, "after all faults");
        let lost: Vec<_> = acknowledged
            .difference(&ledger(&restored))
            .copied()
            .collect();
        assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
        amcheck(&restored);
        self.proxy.heal();
        let deep = self.daemon.tool().run(&["verify", "--deep"]);
        deep.success("verify --deep");
        assert_eq!(self.daemon.stop(), 0);
    }
}

/// Every second put of a segment.
fn every_second(fault: Fault) -> impl FnMut(&Call) -> Option<Fault> + Send {
    let mut turn = 0_u32;
    move |call| {
        turn += u32::from(call.puts("/log/"));
        (call.puts("/log/") && turn.is_multiple_of(2)).then_some(fault)
    }
}

/// Every object, the first time it is asked for.
fn first_reads(faults: &[Fault]) -> impl FnMut(&Call) -> Option<Fault> + Send + 'static {
    let faults = faults.to_vec();
    let mut asked = BTreeSet::new();
    move |call| {
        let first = call.method == "GET" && asked.insert(call.path.clone());
        let fault = faults[asked.len() % faults.len()];
        // A whole object that is cut, and says so nowhere, is damage for a store that tells no checksum.
        let told = fault != Fault::Truncate || call.ranged || call.path.contains("list-type");
        (first && told).then_some(fault)
    }
}

fn always(fault: Fault) -> impl FnMut(&Call) -> Option<Fault> + Send {
    move |_| Some(fault)
}

fn answers_and_connections(dialect: Dialect, name: &str) {
    let mut world = World::new(name, dialect);
    for (what, fault) in [
        ("internal error", Fault::Refuse(500, "InternalError")),
        ("conflict", Fault::Refuse(409, "ConditionalRequestConflict")),
        (
            "precondition failed, and nothing there",
            Fault::Refuse(412, "PreconditionFailed"),
        ),
        ("stored, and the answer lost", Fault::LoseAnswer),
        ("connection broken while it is sent", Fault::BreakRequest),
        ("bad digest", Fault::Refuse(400, "BadDigest")),
    ] {
        world.suffer(what, 6, every_second(fault));
    }
    world.read_back_badly();
    world.end();
}

#[test]
fn wrong_answers_and_broken_connections_lose_no_commit_on_ministack() {
    answers_and_connections(Dialect::Ministack, "s3f-mini");
}

#[test]
fn wrong_answers_and_broken_connections_lose_no_commit_on_moto() {
    answers_and_connections(Dialect::Moto, "s3f-moto");
}

#[test]
fn storms_clocks_silence_and_expired_credentials_lose_no_commit() {
    let mut world = World::new("s3f-storm", Dialect::Ministack);
    world.suffer("slow down", 20, always(Fault::Refuse(503, "SlowDown")));
    world.suffer(
        "too many requests",
        10,
        always(Fault::Refuse(429, "TooManyRequests")),
    );
    world.suffer(
        "clock skew",
        6,
        always(Fault::Refuse(403, "RequestTimeTooSkewed")),
    );
    world.suffer("forbidden", 6, always(Fault::Refuse(403, "AccessDenied")));
    let mut left = 2;
    world.suffer("stored, and no answer ever", 2, move |call| {
        let now = call.puts("/log/") && left > 0;
        left -= u32::from(now);
        now.then_some(Fault::Silence)
    });

    // The key expires, and an operator, or what renews keys, writes a new one into the file.
    let old = |call: &Call| call.access_key == ACCESS_KEY;
    let expired = move |call: &Call| old(call).then_some(Fault::Refuse(400, "ExpiredToken"));
    let before = world.proxy.faults();
    world.proxy.script(expired);
    let proxy = &world.proxy;
    wait_until("the key to be refused", PATIENCE, || {
        proxy.faults() > before + 2
    });
    let renewed =
        format!("[default]\naws_access_key_id = renewed\naws_secret_access_key = {SECRET_KEY}\n");
    world
        .site
        .write(&world.store.credentials(), &renewed, 0o600);
    let committed = world.load.count();
    wait_until("commits with the new key", PATIENCE, || {
        world.load.count() > committed + 4
    });
    world.end();
}
