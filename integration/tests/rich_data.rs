//! Everything a cluster can hold, not only plain tables.

use pitr_integration::{
    Daemon, Fingerprint, Finished, Postgres, Settings, Site, V15, V17, V18, Version, amcheck,
};

fn fill_before_the_backup(server: &Postgres, tablespace: &std::path::Path) {
    let session = server.session();
    session.run(&format!(
        "create tablespace far location '{}'",
        tablespace.display()
    ));
    session.run(
        "create table far_away (id int primary key using index tablespace far, body text) tablespace far;
         insert into far_away select i, repeat(md5(i::text), 20) from generate_series(1, 2000) i;
         create unlogged table fleeting (id int primary key);
         insert into fleeting select generate_series(1, 1000);
         create sequence counter; select nextval('counter');
         select lo_from_bytea(1001, decode(repeat('00ff10', 50000), 'hex'));
         create role reader; grant select on far_away to reader",
    );
}

fn change_after_the_backup(server: &Postgres) {
    let session = server.session();
    session.run("create database tenants");
    session.run(
        "insert into far_away select i, md5(i::text) from generate_series(2001, 3000) i;
         insert into fleeting select generate_series(1001, 2000);
         select lo_put(1001, 100000, 'changed');
         select lo_from_bytea(1002, 'a second one');
         select setval('counter', 500);
         create type mood as enum ('sad', 'glad');
         create table measured (at timestamptz, mood mood, value double precision, doc jsonb, range int4range,
                                wide text) partition by range (at);
         create table measured_2026 partition of measured for values from ('2026-01-01') to ('2027-01-01');
         alter table measured_2026 alter column wide set storage external;
         insert into measured select '2026-01-01'::timestamptz + i * interval '1 hour', 'glad', random(),
                jsonb_build_object('n', i), int4range(i, i + 5), repeat('x', 10000) from generate_series(1, 200) i;
         create index on measured using gin (doc); create index on measured using gist (range);
         create materialized view totals as select mood, count(*) from measured group by mood;
         create view gladness as select * from totals; alter table far_away add column more int default 7;
         create table gone (id int); insert into gone values (1)",
    );
    for statement in [
        "drop table gone",
        "vacuum full far_away",
        "truncate pgbench_tellers",
    ] {
        session.run(statement);
    }
    let tenants = server.session_in("tenants");
    tenants.run("create schema a; create table a.orders (id int primary key); insert into a.orders values (1), (2)");
    session.run(
        "begin; insert into far_away values (9000, 'pending'); prepare transaction 'order-9000'",
    );
}

fn rich_data_comes_back(version: Version, name: &str) {
    let site = Site::new(name);
    let server = Postgres::start_new(&site, version, "primary", "");
    let daemon = Daemon::start_new(&server, "pitrd");
    let near = site.directory("far-tablespace");
    let mapped = site.path("mapped-tablespace");
    server.pgbench_init(1);
    fill_before_the_backup(&server, &near);
    daemon.tool().backup(&[]);
    change_after_the_backup(&server);
    let before = Fingerprint::take(&server);
    daemon.wait_archived(&server);

    let mapping = format!("{}={}", near.display(), mapped.display());
    let restored =
        daemon
            .tool()
            .restored(version, &["latest", "--tablespace", &mapping], "restored");
    before.assert_restored_in(&restored, &format!("rich data on {version}"));
    assert!(
        mapped
            .read_dir()
            .expect("the mapped tablespace exists")
            .next()
            .is_some()
    );
    if restored.session().value("select pg_is_in_recovery()") == "t" {
        restored.promote();
    }
    let session = restored.session();
    assert_eq!(
        session.value("select count(*) from fleeting"),
        "0",
        "unlogged tables come back empty"
    );
    assert_eq!(
        session.value("select count(*) from far_away where id = 9000"),
        "0",
        "prepared, not committed"
    );
    session.run("commit prepared 'order-9000'");
    assert_eq!(
        session.value("select body from far_away where id = 9000"),
        "pending"
    );
    amcheck(&restored);
}

#[test]
fn rich_data_comes_back_on_15() {
    rich_data_comes_back(V15, "rich15");
}

#[test]
fn rich_data_comes_back_on_18() {
    rich_data_comes_back(V18, "rich18");
}

/// `PITRD_BIG_TABLE_MB` sets its size.
#[test]
fn a_table_of_a_gigabyte_comes_back() {
    let megabytes: u64 =
        std::env::var("PITRD_BIG_TABLE_MB").map_or(1024, |size| size.parse().expect("a number"));
    let site = Site::new("big");
    let server = Postgres::start_new(
        &site,
        V17,
        "primary",
        "max_wal_size = '4GB'\nautovacuum = off",
    );
    let mut settings = Settings::new(&server, "pitrd");
    settings.linger = "1s".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    let session = server.session();
    session.run("create table big (id bigint primary key, body text)");
    // Half of it travels in the base backup, half in the log. A row takes about 1 KiB.
    let half = megabytes * 1024 / 2;
    let insert = "insert into big select i, md5(i::text) || repeat(md5((i * 7)::text), 30) from generate_series";
    session.run(&format!("{insert}(1, {half}) i"));
    daemon.tool().backup(&[]);
    session.run(&format!("{insert}({half} + 1, 2 * {half}) i"));
    let size: u64 = session
        .value("select pg_table_size('big') >> 20")
        .parse()
        .expect("a number");
    assert!(size >= megabytes, "the table has {size} MiB");
    let before = Fingerprint::take(&server);
    server.wait_archived("pitrd", std::time::Duration::from_secs(300));
    let restored = daemon.tool().restored(V17, &["latest"], "restored");
    before.assert_restored_in(&restored, "a big table");
    let mut check = restored.client("pg_amcheck");
    check.args(["--table", "big", "--no-dependent-toast"]);
    Finished::run(&mut check).success("pg_amcheck");
}
