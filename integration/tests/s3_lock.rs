//! Object Lock: what is archived cannot be deleted while its lock lasts, and a store that does not lock is refused.

use pitr_integration::{
    BUCKET, Daemon, Dialect, Fingerprint, ObjectServer, Postgres, Settings, Site, V17,
};

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

    // Hiding it is all that is left to do, and it hides nothing from a reader.
    assert_eq!(store.ask("DELETE", &path(FIRST_SEGMENT), "").status, 204);
    assert_eq!(store.ask("GET", &path(FIRST_SEGMENT), "").status, 404);
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
    last.assert_restored_in(&restored, "with a hidden segment");
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
