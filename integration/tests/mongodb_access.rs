//! How the daemon and the tool may reach a replica set: SCRAM with the least roles, TLS with an authority of our own.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use bson::doc;
use pitr_integration::{Daemon, Finished, Mongo, ServiceManager, Settings, Site};

const CANARY: &str = "canary-in-no-log";

/// A user of `admin`.
fn user(set: &Mongo, name: &str, roles: &[&str]) {
    let create = doc! { "createUser": name, "pwd": CANARY, "roles": roles };
    set.run("admin", create);
}

/// Settings of a daemon that logs in as `name`.
fn settings(set: &Mongo, name: &str, password: &str) -> Settings {
    let file = set.site().path(&format!("{name}.password"));
    set.site().write(&file, &format!("{password}\n"), 0o600);
    let mut settings = Settings::mongodb(set, name);
    settings.connection = set.uri_of(&format!("{name}@"));
    settings.source = format!("password_file = \"{}\"", file.display());
    settings
}

/// The server's hash of every collection of a database.
fn hashes(set: &Mongo, db: &str) -> bson::Document {
    let hash = set.run(db, doc! { "dbHash": 1 });
    hash.get_document("collections").expect("hashes").clone()
}

/// What `listCollections` shows of a database, but for UUIDs.
fn shown(set: &Mongo, db: &str) -> Vec<bson::Document> {
    let listed = set.run(db, doc! { "listCollections": 1 });
    let listed = listed
        .get_document("cursor")
        .and_then(|cursor| cursor.get_array("firstBatch"));
    let strip = |info: &bson::Bson| {
        let mut info = info.as_document().expect("a document").clone();
        if let Ok(info) = info.get_document_mut("info") {
            info.remove("uuid");
        }
        info
    };
    let mut shown: Vec<_> = listed.expect("a batch").iter().map(strip).collect();
    shown.sort_by_key(|info| info.get_str("name").expect("a name").to_owned());
    shown
}

/// Collections that servers keep under names of their own: views, a time series, functions.
fn special(set: &Mongo) {
    let of_tenant = vec![doc! { "$match": { "tenant": 1 } }];
    let collation = doc! { "locale": "fr", "strength": 2 };
    for (name, on) in [("early", "orders"), ("nested", "early"), ("gone", "orders")] {
        let view = doc! { "create": name, "viewOn": on, "pipeline": of_tenant.clone(), "collation": collation.clone() };
        set.run("shop", view);
    }
    let series = doc! { "timeField": "t", "metaField": "m" };
    set.run("shop", doc! { "create": "times", "timeseries": series });
    let function = doc! { "insert": "system.js", "documents": [{ "_id": "f", "value": 1 }] };
    set.run("shop", function);
    // A database that has had a view.
    set.run(
        "past",
        doc! { "create": "v", "viewOn": "any", "pipeline": [] },
    );
    set.run("past", doc! { "drop": "v" });
}

/// Changes of them behind the base copy.
fn special_later(set: &Mongo) {
    set.run("shop", doc! { "drop": "gone" });
    set.run(
        "shop",
        doc! { "create": "late", "viewOn": "orders", "pipeline": [] },
    );
    let other = vec![doc! { "$match": { "tenant": 2 } }];
    set.run(
        "shop",
        doc! { "collMod": "early", "viewOn": "orders", "pipeline": other },
    );
    let point = doc! { "t": bson::DateTime::from_millis(1_790_000_000_000), "m": 1, "v": 7 };
    set.run("shop", doc! { "insert": "times", "documents": [point] });
}

#[test]
fn the_role_backup_is_enough_to_archive_and_three_roles_to_restore() {
    let site = Site::new("mauth");
    let set = Mongo::guarded(&site, "rs0", "root-of-the-source");
    user(&set, "archiver", &["backup"]);
    let orders = set.collection("shop.orders");
    let rows = |first: i32| (first..first + 500).map(|id| doc! { "_id": id, "tenant": id % 7 });
    set.block_on(async { orders.insert_many(rows(0)).await })
        .expect("insert");
    special(&set);

    let mut daemon = Daemon::prepare(&site, settings(&set, "archiver", CANARY));
    let check = daemon.check().success("pitrd --check");
    assert!(!check.stdout.contains("fail"), "{}", check.stdout);
    assert!(check.stdout.contains("as archiver"), "{}", check.stdout);
    daemon.start();
    daemon.wait_following(1);
    daemon.tool().backup(&[]);
    set.block_on(async { orders.insert_many(rows(500)).await })
        .expect("insert");
    special_later(&set);
    daemon.wait_covered(&set);

    let mut target = Mongo::guarded(&site, "rs1", "root-of-the-target");
    let roles = ["restore", "readWriteAnyDatabase", "dbAdminAnyDatabase"];
    user(&target, "loader", &roles);
    let password = site.path("loader.password");
    site.write(&password, CANARY, 0o600);
    let file = password.to_string_lossy();
    let into = target.uri_of("loader@");
    let arguments = ["latest", "--into-password-file", &file, "--only", "shop"];
    let restored = daemon.tool().restore(&arguments, Path::new(&into));
    restored.success("restore of a database");
    assert_eq!(hashes(&set, "shop"), hashes(&target, "shop"));
    assert_eq!(shown(&set, "shop"), shown(&target, "shop"));
    // Everything, users included: the source's are there, and the target's own stay.
    let arguments = ["latest", "--into-password-file", &file, "--drop"];
    let restored = daemon.tool().restore(&arguments, Path::new(&into));
    let said = restored.success("restore of everything");
    assert!(!said.said().contains(CANARY));
    // One of them has the name of one that was there.
    target.log_in("root-of-the-source");
    assert_eq!(hashes(&set, "shop"), hashes(&target, "shop"));
    let there = Mongo::connects(&target.uri_of(&format!("archiver:{CANARY}@")));
    there.expect("the source's user came with its password");
    let there = Mongo::connects(&target.uri_of(&format!("loader:{CANARY}@")));
    there.expect("the target's own user is still there");
    assert!(!daemon.log().contains(CANARY));
}

#[test]
fn a_password_that_changes_while_the_daemon_runs_is_waited_for_and_read_again() {
    const RENEWED: &str = "renewed-in-no-log";
    let site = Site::new("mexpiry");
    let mut set = Mongo::guarded(&site, "rs0", "root-of-the-source");
    user(&set, "archiver", &["backup"]);
    let manager = ServiceManager::listen(&site);
    let mut daemon = Daemon::prepare(&site, settings(&set, "archiver", CANARY));
    daemon.tells(&manager);
    daemon.start();
    daemon.wait_following(1);
    set.run("admin", doc! { "updateUser": "archiver", "pwd": RENEWED });
    // Whoever is in stays in until the server restarts.
    set.stop(0);
    set.start(0);
    set.wait_primary();
    let words = [
        "NOT ARCHIVING for ",
        "refuses the login",
        "present password",
    ];
    manager.wait("STATUS", |line| {
        words.iter().all(|word| line.contains(word))
    });
    set.run(
        "shop",
        doc! { "insert": "orders", "documents": [{ "_id": 1 }] },
    );
    settings(&set, "archiver", RENEWED);
    manager.wait("STATUS", |line| line.starts_with("streaming, "));
    daemon.wait_covered(&set);
    assert_eq!(manager.count("READY=1"), 1);
    assert!(!daemon.log().contains(CANARY) && !daemon.log().contains(RENEWED));
}

fn change_streams_with(name: &str, roles: &[&str], has_users: bool) {
    let site = Site::new(name);
    let set = Mongo::guarded(&site, "rs0", "root-of-the-source");
    let by_uuid = doc! { "resource": { "cluster": true }, "actions": ["useUUID"] };
    let role = doc! { "createRole": "copies", "privileges": [by_uuid], "roles": [] };
    set.run("admin", role);
    user(&set, "follower", roles);
    let orders = set.collection("shop.orders");
    let rows = |first: i32| (first..first + 500).map(|id| doc! { "_id": id, "tenant": id % 7 });
    set.block_on(async { orders.insert_many(rows(0)).await })
        .expect("insert");
    special(&set);
    let mut settings = settings(&set, "follower", CANARY);
    settings.source += "\ncapture = \"change-stream\"";
    let mut daemon = Daemon::prepare(&site, settings);
    let check = daemon.check().success("pitrd --check");
    for said in [
        "as follower",
        "may read the whole deployment's change stream",
    ] {
        assert!(check.stdout.contains(said), "{said}: {}", check.stdout);
    }
    let without = check
        .stdout
        .contains("base copies go without users and roles");
    assert_eq!(without, !has_users, "{}", check.stdout);
    daemon.start();
    daemon.wait_following(1);
    daemon.tool().backup(&[]);
    set.block_on(async { orders.insert_many(rows(500)).await })
        .expect("insert");
    special_later(&set);
    daemon.wait_covered(&set);

    let target = Mongo::single(&site, "rs1");
    let into = target.uri();
    let restored = daemon
        .tool()
        .restore(&["latest", "--json"], Path::new(&into));
    let report = restored.success("restore").stdout;
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(hashes(&set, "shop"), hashes(&target, "shop"));
    assert_eq!(shown(&set, "shop"), shown(&target, "shop"));
    // The follower and root, if it may read them.
    assert_eq!(report["users"], if has_users { 2 } else { 0 }, "{report}");
    assert!(!daemon.log().contains(CANARY));
}

#[test]
fn who_may_read_any_database_and_by_uuid_archives_a_change_stream() {
    change_streams_with("mread", &["readAnyDatabase", "copies"], false);
}

#[test]
fn with_the_role_backup_a_change_stream_s_base_copies_have_accounts() {
    change_streams_with("mreadb", &["readAnyDatabase", "backup"], true);
}

#[test]
fn a_role_that_is_too_small_and_a_wrong_password_are_named_before_anything_runs() {
    let site = Site::new("mroles");
    let set = Mongo::guarded(&site, "rs0", "root-of-the-source");
    user(&set, "reader", &["readAnyDatabase"]);
    set.run(
        "shop",
        doc! { "insert": "orders", "documents": [{ "_id": 1 }] },
    );
    let mut daemon = Daemon::prepare(&site, settings(&set, "reader", CANARY));
    let check = daemon.check().exits(1, "pitrd --check");
    for said in ["fail", "local.oplog.rs", "backup"] {
        assert!(check.stdout.contains(said), "{}", check.stdout);
    }
    daemon.start();
    assert_ne!(daemon.wait_end(), 0, "{}", daemon.log());
    let log = daemon.log();
    assert!(log.contains("refuses reading local.oplog.rs"), "{log}");

    // A change stream it may follow, but take no base copies.
    let mut follower = settings(&set, "reader", CANARY);
    follower.name = "follower".to_owned();
    follower.archive = site.path("follower-archive");
    follower.source += "\ncapture = \"change-stream\"";
    let follower = Daemon::prepare(&site, follower);
    let check = follower.check().exits(1, "pitrd --check");
    for said in [
        "may read the whole deployment",
        "may not read collections by UUID",
        "useUUID",
    ] {
        assert!(check.stdout.contains(said), "{said}: {}", check.stdout);
    }
    let refused = follower.tool().run(&["backup"]);
    assert_eq!(refused.code, 6, "{}", refused.said());

    let stranger = Daemon::configured(&site, settings(&set, "stranger", "not-it"));
    let check = stranger.check().exits(1, "pitrd --check");
    assert!(
        check.stdout.contains("refuses the login"),
        "{}",
        check.stdout
    );
    assert!(!check.said().contains("not-it"), "{}", check.said());
}

/// An authority, a certificate of it for 127.0.0.1, and another authority, in PEM.
fn certificates(site: &Site, directory: &Path) {
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        let arguments = arguments.split_whitespace();
        command.args(arguments).current_dir(directory);
        Finished::run(&mut command).success("openssl (run `make deps`)");
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for name in ["ca", "other"] {
        openssl(&format!(
            "req -x509 {key} -days 2 -subj /CN={name} -addext basicConstraints=critical,CA:TRUE \
             -addext keyUsage=critical,keyCertSign -keyout {name}.key -out {name}.crt"
        ));
    }
    openssl(&format!(
        "req -new {key} -subj /CN=member -keyout server.key -out server.csr"
    ));
    let names = "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n";
    std::fs::write(directory.join("san"), names).expect("write");
    openssl(
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile san -out server.crt",
    );
    let read = |name| std::fs::read_to_string(directory.join(name)).expect("read");
    let both = read("server.key") + &read("server.crt");
    site.write(&directory.join("server.pem"), &both, 0o600);
    for name in ["ca.crt", "other.crt"] {
        site.own(&directory.join(name));
    }
}

fn over_tls(site: &Arc<Site>, name: &str, pki: &Path) -> Mongo {
    let pem = pki.join("server.pem");
    let pem = pem.to_string_lossy();
    let arguments = ["--tlsMode", "requireTLS", "--tlsCertificateKeyFile", &pem];
    let ca = pki.join("ca.crt");
    let options = format!("&tls=true&tlsCAFile={}", ca.display());
    Mongo::start_with(site, name, 1, &arguments, &options)
}

#[test]
fn a_server_is_trusted_by_our_own_authority_and_by_no_other() {
    let site = Site::new("mtls");
    let pki = site.directory("pki");
    certificates(&site, &pki);
    let set = over_tls(&site, "rs0", &pki);
    let orders = set.collection("shop.orders");
    set.block_on(async { orders.insert_one(doc! { "_id": 1 }).await })
        .expect("insert");
    let daemon = Daemon::follow(&set, "pitrd");
    daemon.check().success("pitrd --check");
    daemon.tool().backup(&[]);
    set.mark();
    daemon.wait_covered(&set);
    let target = over_tls(&site, "rs1", &pki);
    let into = target.uri();
    let restored = daemon.tool().restore(&["latest"], Path::new(&into));
    restored.success("restore over TLS");
    assert_eq!(hashes(&set, "shop"), hashes(&target, "shop"));

    let mut settings = Settings::mongodb(&set, "other");
    settings.connection = set.uri().replace("ca.crt", "other.crt");
    let other = Daemon::configured(&site, settings);
    let check = other
        .check()
        .exits(1, "pitrd --check with another authority");
    let said = "certificate is not one that we can trust";
    assert!(check.stdout.contains(said), "{}", check.stdout);
    assert!(check.stdout.contains("tlsCAFile"), "{}", check.stdout);
    let other = into.replace("ca.crt", "other.crt");
    let refused = daemon.tool().restore(&["latest"], Path::new(&other));
    assert_eq!(refused.code, 6, "{}", refused.said());
    assert!(refused.stderr.contains(said), "{}", refused.stderr);
}
