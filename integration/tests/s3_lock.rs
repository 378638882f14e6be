//! Object Lock: what is archived cannot be deleted while its lock lasts, and a store that does not lock is refused.

use std::time::Duration;

use pitr_integration::{
    BUCKET, Daemon, Dialect, Fault, FaultProxy, Fingerprint, ObjectServer, Postgres, Settings,
    Site, V17, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(120);

const PREFIX: &str = "prod/orders";
const FIRST_SEGMENT: &str = "log/00000001/0000000000000000";

fn settings(server: &Postgres, store: &ObjectServer, lines: &str) -> Settings {
    let mut settings = Settings::new(server, "pitrd");
    settings.url = Some(store.url(PREFIX));
    settings.archive_lines = lines.to_owned();
    settings
}

fn path(key: &str) -> String {
    format!("/{BUCKET}/{PREFIX}/{key}")
}

#[test]
fn what_is_archived_cannot_be_deleted_and_what_is_hidden_is_still_read() {
    let site = Site::new("s3lock");
    let store = ObjectServer::start_locking(&site, Dialect::Ministack);
    let server = Postgres::start_new(&site, V17, "primary", "");
    let lines = "immutable_for = \"24h\"\nlegal_hold = true";
    let mut daemon = Daemon::prepare(&site, settings(&server, &store, lines));
    let checked = daemon.check().success("pitrd --check");
    assert!(
        checked
            .stdout
            .contains("cannot be deleted while its lock lasts"),
        "{}",
        checked.stdout
    );
    daemon.start();
    daemon.wait_streaming(&server);
    server.pgbench_init(1);
    daemon.tool().backup(&[]);
    let last = Fingerprint::take(&server);
    daemon.wait_archived(&server);

    // Nobody can delete what is locked: however often the store is tried out, one locked object tells.
    daemon.check().success("pitrd --check, again");
    let versions = format!("/{BUCKET}?versions&prefix={PREFIX}/probe/lock");
    let listed = store.ask("GET", &versions, "").text;
    assert_eq!(listed.matches("<VersionId>").count(), 1, "{listed}");

    let head = store
        .ask("HEAD", &path(FIRST_SEGMENT), "")
        .text
        .to_lowercase();
    assert!(
        head.contains("x-amz-object-lock-mode: compliance"),
        "{head}"
    );
    assert!(head.contains("x-amz-object-lock-legal-hold: on"), "{head}");
    let version = head
        .split("x-amz-version-id: ")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let version = format!(
        "{}?versionId={}",
        path(FIRST_SEGMENT),
        version.expect("a version")
    );
    assert_eq!(
        store.ask("DELETE", &version, "").status,
        403,
        "the lock does not hold"
    );

    // Hiding it is all that is left to do, and it hides nothing from a reader: neither WAL nor a part of the base.
    let listing = format!("/{BUCKET}?list-type=2&prefix={PREFIX}/base/");
    let listed = store.ask("GET", &listing, "").text;
    let part = listed
        .split("<Key>")
        .nth(1)
        .and_then(|rest| rest.split("</Key>").next());
    let part = format!("/{BUCKET}/{}", part.expect("a part of the base"));
    for hidden in [path(FIRST_SEGMENT), part] {
        assert_eq!(store.ask("DELETE", &hidden, "").status, 204);
        assert_eq!(store.ask("GET", &hidden, "").status, 404);
    }
    let verified = daemon
        .tool()
        .run(&["verify", "--deep"])
        .success("verify --deep");
    assert!(
        verified.stderr.contains("a delete marker hides the object"),
        "{}",
        verified.stderr
    );
    let restored = daemon.tool().restored(V17, &["latest"], "restored");
    last.assert_restored_in(&restored, "with a hidden segment and a hidden part");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_lock_that_is_refused_later_acknowledges_nothing_until_it_is_taken_again() {
    let site = Site::new("s3relock");
    let store = ObjectServer::start_locking(&site, Dialect::Ministack);
    let proxy = FaultProxy::start(store.number());
    let server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = settings(&server, &store, "immutable_for = \"24h\"");
    settings.url = Some(store.url_through(proxy.port(), PREFIX));
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    server.pgbench_init(1);
    daemon.tool().backup(&[]);
    daemon.wait_archived(&server);

    // As S3 answers when the bucket's lock is gone, or the permission to place one.
    let refusal = Fault::Refuse(400, "InvalidRequest");
    proxy.script(move |call| call.puts("/log/").then_some(refusal));
    server.pgbench(2, 100);
    let written = server.flushed();
    wait_until("the lock to be refused", PATIENCE, || proxy.faults() > 3);
    let session = server.session();
    let told = session.value(&format!(
        "select restart_lsn >= '{written}' from pg_replication_slots"
    ));
    assert_eq!(told, "f", "something was acknowledged that was not stored");
    assert!(daemon.runs(), "{}", daemon.log());
    assert!(daemon.log().contains("InvalidRequest"), "{}", daemon.log());

    proxy.heal();
    let last = Fingerprint::take(&server);
    daemon.wait_archived(&server);
    let restored = daemon.tool().restored(V17, &["latest"], "restored");
    last.assert_restored_in(&restored, "after a lock was refused");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_bucket_that_does_not_lock_is_refused() {
    let site = Site::new("s3nolock");
    let store = ObjectServer::start(&site, Dialect::Ministack);
    let server = Postgres::start_new(&site, V17, "primary", "");
    // The archive is there before anybody asks for a lock.
    let daemon = Daemon::prepare(&site, settings(&server, &store, ""));
    let text = std::fs::read_to_string(daemon.configuration()).unwrap();
    let locked = text.replace("[archive]\n", "[archive]\nimmutable_for = \"24h\"\n");
    let mut locked = daemon.beside("locked", &locked);
    let checked = locked.check().exits(1, "pitrd --check");
    assert!(
        checked.stdout.contains("fail  store:"),
        "{}",
        checked.stdout
    );
    locked.start();
    assert_ne!(locked.wait_end(), 0);
    let slots = server
        .session()
        .value("select count(*) from pg_replication_slots");
    assert_eq!(slots, "0", "it had begun to stream");
}

#[test]
fn a_directory_is_said_not_to_enforce_the_lock() {
    let site = Site::new("dirlock");
    let server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    settings.archive_lines = "immutable_for = \"24h\"".to_owned();
    let daemon = Daemon::prepare(&site, settings);
    let checked = daemon.check().success("pitrd --check");
    assert!(
        checked
            .stdout
            .contains("warn  immutability: a directory does not enforce"),
        "{}",
        checked.stdout
    );
}
