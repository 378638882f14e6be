//! What an object is given besides its bytes: lock, legal hold, storage class and encryption, as the server has them afterwards.
//!
//! Neither emulator encrypts anything or keeps a class anywhere else: that both are told with each object is all that shows here.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pitr_archive::store::{Lock, LockMode, S3Settings, S3Store, Store};
use pitr_integration::{
    BUCKET, Daemon, Dialect, Fingerprint, ObjectServer, Postgres, Settings, Site, V17,
};
use tokio::runtime::Runtime;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// moto lets nobody in who does not claim to be somebody; neither emulator checks the signature.
const CLAIM: &str = "Authorization: AWS4-HMAC-SHA256 Credential=pitrd-test/20260101/us-east-1/s3/aws4_request, \
                     SignedHeaders=host, Signature=0\r\n";
const BYPASS: &str = "x-amz-bypass-governance-retention: true\r\n";

/// What the server tells of an object.
struct Told(String);

impl Told {
    fn of(server: &ObjectServer, path: &str) -> Told {
        let head = server.ask("HEAD", path, CLAIM);
        assert_eq!(head.status, 200, "{path}: {}", head.text);
        Told(head.text)
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(": "));
        let found = lines.find(|(found, _)| found.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }

    /// When its retention ends, in seconds from now.
    fn retained_seconds(&self) -> Option<i64> {
        let text = self.header("x-amz-object-lock-retain-until-date")?;
        let until: jiff::Timestamp = text.parse().expect("a moment");
        let now = jiff::Timestamp::try_from(SystemTime::now()).expect("a moment");
        Some(until.as_second() - now.as_second())
    }
}

fn put(runtime: &Runtime, settings: S3Settings, key: &str, hint: bool) {
    runtime.block_on(async {
        let store = S3Store::connect(settings).await.unwrap();
        let body = Bytes::from_static(b"locked");
        let put = if hint {
            store.put_replacing(key, body).await
        } else {
            store.put_if_absent(key, body).await
        };
        put.unwrap();
    });
}

fn locks_hold(dialect: Dialect, name: &str) {
    let site = Site::new(name);
    let server = ObjectServer::start_locking(&site, dialect);
    let runtime = Runtime::new().unwrap();
    let (compliance, governance) = (Some(LockMode::Compliance), Some(LockMode::Governance));
    for (number, (mode, legal_hold, plain, bypassing)) in [
        (compliance, false, 403, 403),
        (governance, false, 403, 204),
        (governance, true, 403, 403),
        (None, true, 403, 403),
    ]
    .into_iter()
    .enumerate()
    {
        let mut settings: S3Settings = server.url(&format!("lock{number}")).parse().unwrap();
        settings.lock = Some(Lock {
            immutable_for: mode.map(|_| DAY),
            mode: mode.unwrap_or(LockMode::Compliance),
            legal_hold,
        });
        put(&runtime, settings.clone(), "log/a/0", false);
        put(&runtime, settings, "log/a/head", true);
        let path = format!("/{BUCKET}/lock{number}/log/a/0");
        let told = Told::of(&server, &path);
        let case = format!("{mode:?}, hold {legal_hold}: {}", told.0);
        let wanted = mode.map(|mode| match mode {
            LockMode::Compliance => "COMPLIANCE",
            LockMode::Governance => "GOVERNANCE",
        });
        assert_eq!(told.header("x-amz-object-lock-mode"), wanted, "{case}");
        let hold = told.header("x-amz-object-lock-legal-hold");
        assert_eq!(hold == Some("ON"), legal_hold, "{case}");
        let seconds = told.retained_seconds();
        assert_eq!(seconds.is_some(), mode.is_some(), "{case}");
        let day = DAY.as_secs() as i64;
        assert!(
            seconds.is_none_or(|s| (day - 600..=day + 1).contains(&s)),
            "{case}"
        );

        let version = told.header("x-amz-version-id").expect("a version");
        let version = format!("{path}?versionId={version}");
        let delete = |headers: &str| server.ask("DELETE", &version, headers).status;
        assert_eq!(delete(CLAIM), plain, "{case}");
        let bypass = format!("{CLAIM}{BYPASS}");
        assert_eq!(delete(&bypass), bypassing, "{case}");

        let hint = Told::of(&server, &format!("/{BUCKET}/lock{number}/log/a/head"));
        assert_eq!(hint.header("x-amz-object-lock-mode"), None, "{}", hint.0);
        assert_ne!(
            hint.header("x-amz-object-lock-legal-hold"),
            Some("ON"),
            "{}",
            hint.0
        );
    }
}

#[test]
fn every_lock_is_on_the_object_and_holds_on_ministack() {
    locks_hold(Dialect::Ministack, "s3modes-mini");
}

#[test]
fn every_lock_is_on_the_object_and_holds_on_moto() {
    locks_hold(Dialect::Moto, "s3modes-moto");
}

#[test]
fn everything_that_is_archived_has_the_lock_the_class_and_the_encryption_that_were_asked_for() {
    let site = Site::new("s3props");
    let store = ObjectServer::start_locking(&site, Dialect::Ministack);
    let server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    settings.url = Some(format!(
        "{}&storage_class=STANDARD_IA&sse=aes256",
        store.url("orders")
    ));
    settings.archive_lines = "immutable_for = \"24h\"\nimmutable_mode = \"governance\"".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.check().success("pitrd --check");
    daemon.start();
    daemon.wait_streaming(&server);
    server.pgbench_init(1);
    daemon.tool().backup(&[]);
    let last = Fingerprint::take(&server);
    daemon.wait_archived(&server);

    let listing = store
        .ask("GET", &format!("/{BUCKET}?list-type=2&prefix=orders/"), "")
        .text;
    let keys = listing.split("<Key>").skip(1);
    let keys: Vec<&str> = keys
        .filter_map(|rest| rest.split("</Key>").next())
        .collect();
    for room in ["archive.json", "keys/", "log/", "base/"] {
        assert!(
            keys.iter().any(|key| key.contains(room)),
            "no {room} in {keys:?}"
        );
    }
    for key in keys {
        let told = Told::of(&store, &format!("/{BUCKET}/{key}"));
        let case = format!("{key}: {}", told.0);
        assert_eq!(
            told.header("x-amz-storage-class"),
            Some("STANDARD_IA"),
            "{case}"
        );
        assert_eq!(
            told.header("x-amz-server-side-encryption"),
            Some("AES256"),
            "{case}"
        );
        let is_hint = key.ends_with("/head")
            || ["probe/hint", "probe/clock"]
                .iter()
                .any(|hint| key.ends_with(hint));
        let mode = told.header("x-amz-object-lock-mode");
        assert_eq!(mode, (!is_hint).then_some("GOVERNANCE"), "{case}");
    }
    let restored = daemon.tool().restored(V17, &["latest"], "restored");
    last.assert_restored_in(&restored, "from another class");
    assert_eq!(daemon.stop(), 0);
}

#[test]
fn a_class_from_which_objects_must_be_thawed_is_refused_before_a_byte_is_archived() {
    let site = Site::new("s3thaw");
    let store = ObjectServer::start(&site, Dialect::Ministack);
    let server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    settings.url = Some(store.url("orders"));
    // The archive is there before anybody asks for the class.
    let daemon = Daemon::prepare(&site, settings);
    let text = std::fs::read_to_string(daemon.configuration()).unwrap();
    let mut frozen = daemon.beside(
        "frozen",
        &text.replace("region=us-east-1", "region=us-east-1&storage_class=GLACIER"),
    );
    let checked = frozen.check().exits(1, "pitrd --check");
    assert!(
        checked.stdout.contains("fail  store:"),
        "{}",
        checked.stdout
    );
    frozen.start();
    assert_ne!(frozen.wait_end(), 0);
    let slots = server
        .session()
        .value("select count(*) from pg_replication_slots");
    assert_eq!(slots, "0", "it had begun to stream");
}
