//! The fixtures themselves: a comparison that cannot fail would prove nothing.

use std::time::Duration;

use pitr_integration::{
    Fingerprint, Load, Postgres, Process, Site, SmallDisk, Stop, V15, V17, V18, Version, amcheck,
    ledger, wait_until,
};

const LIMIT: Duration = Duration::from_secs(60);

fn server_starts_and_is_compared(version: Version, name: &str) {
    let site = Site::new(name);
    let mut server = Postgres::start_new(&site, version, "primary", "");
    server.pgbench_init(1);
    server.session().run("create database other");
    server.session().run(
        "create sequence counter; select nextval('counter'); select lo_from_bytea(0, 'large')",
    );
    let before = Fingerprint::take(&server);
    assert!(before.tables["postgres public.pgbench_accounts"].starts_with("100000 "));
    assert_eq!(before.large_objects.len(), 1);

    server.restart(Stop::Immediate);
    server.restart(Stop::Kill);
    before.assert_restored_in(&server, "after a crash");
    amcheck(&server);

    let standby = server.standby("standby");
    server.wait_standby(&standby);
    before.assert_restored_in(&standby, "on a standby");

    server
        .session()
        .run("update pgbench_accounts set abalance = 1 where aid = 77777");
    let after = Fingerprint::take(&server);
    assert_ne!(before.tables, after.tables, "one changed row is seen");
    server
        .session()
        .run("alter table pgbench_branches add column more int");
    assert_ne!(
        before.schema,
        Fingerprint::take(&server).schema,
        "a new column is seen"
    );
    server.fail_over_to(&standby);
    assert_eq!(standby.session().value("select pg_is_in_recovery()"), "f");
}

#[test]
fn a_server_of_15_starts_and_is_compared() {
    server_starts_and_is_compared(V15, "fx15");
}

#[test]
fn a_server_of_17_starts_and_is_compared() {
    server_starts_and_is_compared(V17, "fx17");
}

#[test]
fn a_server_of_18_starts_and_is_compared() {
    server_starts_and_is_compared(V18, "fx18");
}

#[test]
fn acknowledged_commits_survive_a_crash_of_the_server() {
    let site = Site::new("fxload");
    let mut server = Postgres::start_new(&site, V17, "primary", "");
    Load::prepare(&server);
    let load = Load::start(vec![server.connection()], 4, 0);
    std::thread::sleep(Duration::from_millis(500));
    server.restart(Stop::Kill);
    std::thread::sleep(Duration::from_millis(500));
    let acknowledged = load.finish();
    assert!(
        acknowledged.len() > 100,
        "the writers went on: {}",
        acknowledged.len()
    );
    assert!(acknowledged.is_subset(&ledger(&server)));
}

#[test]
fn a_missing_program_names_the_remedy() {
    let missing = std::panic::catch_unwind(|| V17.program("no-such-program"));
    let text = *missing
        .expect_err("it panics")
        .downcast::<String>()
        .expect("with a text");
    assert!(text.contains("make deps"), "{text}");
}

#[test]
fn a_child_does_not_outlive_the_thread_that_started_it() {
    let site = Site::new("fxdeath");
    let path = site.clone();
    let id = std::thread::spawn(move || {
        let mut command = path.command(std::path::Path::new("sleep"));
        command.arg("600");
        let process = Process::spawn(command, &path.path("sleep.log"));
        let id = process.id();
        std::mem::forget(process);
        // From then on it is bound to this thread: before, setpriv has not asked for the signal yet.
        wait_until("setpriv to become it", LIMIT, || {
            of_process(id, "comm") == "sleep\n"
        });
        id
    })
    .join()
    .expect("the thread ends");
    wait_until("the child to die", LIMIT, || {
        of_process(id, "status").contains("State:\tZ")
    });
}

fn of_process(id: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{id}/{file}")).expect("nobody has waited for it")
}

#[test]
fn a_small_disk_fills_and_grows() {
    let site = Site::new("fxdisk");
    let disk = SmallDisk::mount(&site, "disk", 1);
    let megabytes = vec![7; 2 << 20];
    assert!(std::fs::write(disk.path().join("a"), &megabytes).is_err());
    assert_eq!(disk.free_bytes(), 0);
    disk.resize(8);
    std::fs::write(disk.path().join("a"), &megabytes).expect("there is room now");
    assert!(disk.free_bytes() > 4 << 20);
}
