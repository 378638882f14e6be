//! The ways into a real server: every method, every strength of TLS, and the words for each refusal. Replication and SQL
//! take the same way, so each case is tried with both.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pitr_integration::{Finished, Postgres, Site, Stop, V15, V17, V18, Version};
use pitr_postgres::connect::{ConnInfo, ConnectError, connect_sql};
use pitr_postgres::replication::{Mode, ReplicationClient, ReplicationError, Start};
use pitr_postgres::{Lsn, TimelineId};

fn wait<T>(future: impl Future<Output = T>) -> T {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build().expect("build a runtime");
    runtime.block_on(future)
}

/// A server and the authorities and certificates of its world.
struct World {
    server: Postgres,
    certificates: PathBuf,
}

const HBA: &str = "
local all,replication postgres trust
host all postgres 127.0.0.1/32 trust
host replication postgres 127.0.0.1/32 trust
local all scram scram-sha-256
local replication scram scram-sha-256
host all,replication scram 127.0.0.1/32 scram-sha-256
host replication scram 127.0.0.1/32 scram-sha-256
host all md5 127.0.0.1/32 md5
host replication md5 127.0.0.1/32 md5
host all clear 127.0.0.1/32 password
host replication clear 127.0.0.1/32 password
hostnossl all plain 127.0.0.1/32 scram-sha-256
hostnossl replication plain 127.0.0.1/32 scram-sha-256
hostssl all tls 127.0.0.1/32 scram-sha-256
hostssl replication tls 127.0.0.1/32 scram-sha-256
hostssl all certificate 127.0.0.1/32 cert
hostssl replication certificate 127.0.0.1/32 cert
";

impl World {
    fn new(site: &Arc<Site>, version: Version) -> World {
        let certificates = certificates(site);
        let settings = format!(
            "ssl = on\nssl_ca_file = '{0}/ca.crt'\nssl_cert_file = '{0}/server.crt'\nssl_key_file = '{0}/server.key'",
            certificates.display()
        );
        let server = Postgres::start_new(site, version, "server", &settings);
        let session = server.session();
        for role in ["scram", "clear", "plain", "tls", "certificate"] {
            session.run(&format!(
                "create role {role} login replication password 'pass:\\word'"
            ));
            session.run(&format!("create database {role}"));
        }
        session.run("set password_encryption = md5; create role md5 login replication password 'pass:\\word'");
        session.run("create database md5");
        site.write(&server.data().join("pg_hba.conf"), HBA, 0o600);
        server.reload();
        World {
            server,
            certificates,
        }
    }

    /// `text` with `@` for the directory of certificates, on this server.
    fn info(&self, text: &str) -> ConnInfo {
        let certificates = self.certificates.display().to_string();
        let text = format!(
            "port={} {}",
            self.server.port(),
            text.replace('@', &certificates)
        );
        ConnInfo::parse_with(&text, &|_| None).expect("read the connection string")
    }

    /// Both kinds of session, and whether they are encrypted.
    fn enter(&self, text: &str) -> Result<bool, ConnectError> {
        let info = self.info(text);
        wait(async {
            let mut replication = ReplicationClient::connect(&info, Mode::Physical).await;
            if let Ok(client) = &mut replication {
                let identity = client
                    .identify_system()
                    .await
                    .expect("ask who the server is");
                assert!(identity.system_id > 0 && identity.timeline == TimelineId(1));
            }
            match (replication, connect_sql(&info, None).await) {
                (Ok(client), Ok(sql)) => {
                    let ssl = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";
                    let row = sql.query_one(ssl, &[]).await.expect("ask about TLS");
                    assert_eq!(row.get::<_, bool>(0), client.is_encrypted(), "{text}");
                    client.close().await;
                    Ok(row.get(0))
                }
                (Err(error), Err(same)) => {
                    assert_eq!(
                        error.is_permanent(),
                        same.is_permanent(),
                        "{error} / {same}"
                    );
                    assert_eq!(
                        std::mem::discriminant(&error),
                        std::mem::discriminant(&same),
                        "{error} / {same}"
                    );
                    Err(error)
                }
                (replication, sql) => panic!(
                    "{text}: {:?} but {:?}",
                    replication.map(drop),
                    sql.map(drop)
                ),
            }
        })
    }

    #[track_caller]
    fn admits(&self, text: &str, encrypted: bool) {
        match self.enter(text) {
            Ok(found) => assert_eq!(found, encrypted, "{text}"),
            Err(error) => panic!("{text}: {error}"),
        }
    }

    #[track_caller]
    fn refuses(&self, text: &str, permanent: bool, why: &str) {
        let error = self.enter(text).expect_err(text);
        assert!(error.to_string().contains(why), "{text}: {error}");
        assert_eq!(error.is_permanent(), permanent, "{text}: {error}");
        assert!(!format!("{error} {error:?}").contains("\\word"), "{error}");
    }
}

/// Two authorities, a server's and a client's certificate of the first. The server's names 127.0.0.1 and db.example.
fn certificates(site: &Arc<Site>) -> PathBuf {
    let directory = site.directory("certificates");
    let openssl = |arguments: &str| {
        let mut command = Command::new("openssl");
        command.args(arguments.split(' ')).current_dir(&directory);
        Finished::run(&mut command).success("openssl (run `make deps` if it is missing)");
    };
    for authority in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN={authority} -keyout {authority}.key -out {authority}.crt"
        ));
    }
    let names = "subjectAltName=IP:127.0.0.1,DNS:db.example\n";
    site.write(&directory.join("server.ext"), names, 0o600);
    site.write(
        &directory.join("certificate.ext"),
        "basicConstraints=CA:FALSE\n",
        0o600,
    );
    for name in ["server", "certificate"] {
        openssl(&format!(
            "req -newkey rsa:2048 -nodes -subj /CN={name} -keyout {name}.key -out {name}.csr"
        ));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -sha384 -extfile {name}.ext -out {name}.crt"
        ));
    }
    for file in std::fs::read_dir(&directory).expect("list the certificates") {
        site.own(&file.expect("list the certificates").path());
    }
    directory
}

const TCP: &str = "host=127.0.0.1 password='pass:\\\\word'";

fn every_way_in(version: Version, name: &str) {
    let site = Site::new(name);
    let world = World::new(&site, version);
    let socket = format!("host={} password='pass:\\\\word'", site.root().display());

    world.admits("host=127.0.0.1 user=postgres sslmode=disable", false);
    world.admits(
        &format!("host={} user=postgres", site.root().display()),
        false,
    );
    world.admits(&format!("{socket} user=scram"), false);
    for user in ["scram", "md5", "clear"] {
        world.admits(&format!("{TCP} user={user} sslmode=disable"), false);
        world.admits(&format!("{TCP} user={user}"), true);
    }
    world.admits(&format!("{TCP} user=scram channel_binding=require"), true);
    world.admits(&format!("{TCP} user=scram channel_binding=disable"), true);
    world.admits(&format!("{TCP} user=plain"), false);
    world.admits(&format!("{TCP} user=tls sslmode=allow"), true);
    world.admits("host=127.0.0.1 user=certificate sslmode=verify-full sslrootcert=@/ca.crt sslcert=@/certificate.crt sslkey=@/certificate.key", true);

    let full = format!("{TCP} user=scram channel_binding=require sslmode=verify-full");
    world.admits(&format!("{full} sslrootcert=@/ca.crt"), true);
    world.admits(&format!("{full} sslrootcert=@/server.crt"), true);
    let elsewhere = "host=elsewhere.example hostaddr=127.0.0.1 password='pass:\\\\word' user=scram sslrootcert=@/ca.crt";
    world.refuses(
        &format!("{elsewhere} sslmode=verify-full"),
        true,
        "does not name elsewhere.example",
    );
    world.admits(&format!("{elsewhere} sslmode=verify-ca"), true);
    for mode in ["require", "verify-ca", "verify-full"] {
        world.refuses(
            &format!("{TCP} user=scram sslmode={mode} sslrootcert=@/other.crt"),
            true,
            "no authority in",
        );
    }

    world.refuses("host=127.0.0.1 user=scram password=wrong", true, "28P01");
    world.refuses("host=127.0.0.1 user=scram", true, "none is set");
    world.refuses(&format!("{TCP} user=nobody"), true, "28000");
    world.refuses(&format!("{TCP} user=plain sslmode=require"), true, "28000");
    world.refuses(&format!("{TCP} user=tls sslmode=disable"), true, "28000");
    world.refuses(
        &format!("{TCP} user=md5 channel_binding=require"),
        true,
        "channel_binding=require",
    );
    world.refuses(
        &format!("{TCP} user=scram channel_binding=require sslmode=disable"),
        true,
        "needs TLS",
    );
    world.refuses(
        "host=127.0.0.1 user=certificate sslmode=require",
        true,
        "client certificate",
    );
    world.refuses(
        "host=127.0.0.1 user=certificate sslmode=require sslcert=@/other.crt sslkey=@/other.key",
        true,
        "alert",
    );
    world.refuses(
        "host=/nonexistent user=postgres",
        false,
        "cannot be reached",
    );
}

#[test]
fn every_way_into_15_works_and_every_refusal_has_its_words() {
    every_way_in(V15, "way15");
}

#[test]
fn every_way_into_17_works_and_every_refusal_has_its_words() {
    every_way_in(V17, "way17");
}

#[test]
fn the_password_file_is_used_unless_others_can_read_it() {
    let site = Site::new("pgpass");
    let world = World::new(&site, V15);
    let path = world.certificates.join("pgpass");
    let text =
        "127.0.0.1:*:replication:scram:pass\\:\\\\word\n127.0.0.1:*:scram:scram:pass\\:\\\\word\n";
    site.write(&path, text, 0o600);
    world.admits("host=127.0.0.1 user=scram passfile=@/pgpass", true);
    site.write(&path, text, 0o640);
    world.refuses(
        "host=127.0.0.1 user=scram passfile=@/pgpass",
        true,
        "chmod 0600",
    );
}

#[test]
fn a_server_that_is_away_or_frozen_is_worth_another_try() {
    let site = Site::new("away");
    let mut world = World::new(&site, V15);
    let quick = "host=127.0.0.1 user=postgres sslmode=require connect_timeout=1";
    let freeze = |signal: &str| {
        let mut kill = Command::new("kill");
        kill.args([signal, &world.server.id().to_string()]);
        Finished::run(&mut kill).success("kill");
    };
    freeze("-STOP");
    let began = Instant::now();
    world.refuses(quick, false, "gave no session within 1s");
    assert!(began.elapsed() < Duration::from_secs(20));
    freeze("-CONT");
    world.admits(quick, true);
    world.server.stop(Stop::Fast);
    world.refuses(quick, false, "cannot be reached");
}

#[test]
fn the_first_host_that_fits_is_taken() {
    let site = Site::new("hosts");
    let primary = Postgres::start_new(&site, V17, "primary", "");
    let standby = primary.standby("standby");
    let ports = format!("1,{},{}", primary.port(), standby.port());
    let connect = |attributes: &str| {
        let hosts = "host=127.0.0.1,127.0.0.1,127.0.0.1 user=postgres";
        let text = format!("{hosts} port={ports} {attributes}");
        let info = ConnInfo::parse_with(&text, &|_| None).expect("read the connection string");
        wait(async {
            let client = ReplicationClient::connect(&info, Mode::Physical).await?;
            Ok::<_, ConnectError>(client.in_recovery())
        })
    };
    for (attributes, in_recovery) in [
        ("", false),
        ("target_session_attrs=primary", false),
        ("target_session_attrs=read-write", false),
        ("target_session_attrs=standby", true),
        ("target_session_attrs=read-only", true),
        ("target_session_attrs=prefer-standby", true),
    ] {
        assert_eq!(
            connect(attributes).expect(attributes),
            in_recovery,
            "{attributes}"
        );
    }
    drop(standby);
    let error = connect("target_session_attrs=standby").expect_err("no standby is left");
    assert!(
        !error.is_permanent() && error.to_string().contains("target_session_attrs=standby"),
        "{error}"
    );
    assert!(!connect("target_session_attrs=prefer-standby").expect("the primary will do"));
}

fn every_question(version: Version, name: &str) {
    let site = Site::new(name);
    let server = Postgres::start_new(&site, version, "server", "");
    let info =
        ConnInfo::parse_with(&server.connection(), &|_| None).expect("read the connection string");
    wait(async {
        let connect = async || {
            ReplicationClient::connect(&info, Mode::Physical)
                .await
                .expect("connect")
        };
        let mut client = connect().await;
        assert_eq!(client.show("wal_segment_size").await.expect("show"), "16MB");
        assert!(
            client
                .show("no_such")
                .await
                .expect_err("unknown")
                .to_string()
                .contains("42704")
        );
        assert_eq!(client.read_replication_slot("s").await.expect("read"), None);
        client
            .create_physical_slot("s", true, false)
            .await
            .expect("create");
        let again = client
            .create_physical_slot("s", true, false)
            .await
            .expect_err("there is one");
        assert!(again.to_string().contains("42710"), "{again}");
        let slot = client
            .read_replication_slot("s")
            .await
            .expect("read")
            .expect("it was created");
        assert_eq!(
            (slot.kind.as_str(), slot.restart_timeline),
            ("physical", Some(TimelineId(1)))
        );
        let start = slot
            .restart_lsn
            .expect("WAL is reserved")
            .segment_start(16 << 20);
        client
            .create_physical_slot("idle", false, true)
            .await
            .expect("create");
        let idle = client
            .read_replication_slot("idle")
            .await
            .expect("read")
            .expect("it was created");
        assert_eq!(idle.restart_lsn, None);

        let Ok(Start::Streaming(stream)) =
            client.start_physical(Some("s"), start, TimelineId(1)).await
        else {
            panic!("the slot streams");
        };
        let active = connect()
            .await
            .start_physical(Some("s"), start, TimelineId(1))
            .await;
        let active = active.expect_err("the slot is in use");
        assert!(matches!(active, ReplicationError::SlotActive(_)) && !active.is_permanent());
        let missing = connect()
            .await
            .start_physical(Some("x"), start, TimelineId(1))
            .await;
        let missing = missing.expect_err("there is no such slot");
        assert!(matches!(missing, ReplicationError::SlotMissing(_)) && missing.is_permanent());
        let other = connect()
            .await
            .start_physical(None, start, TimelineId(9))
            .await;
        assert!(matches!(other, Err(ReplicationError::Server(_))));
        if let Ok(Start::Streaming(mut ahead)) = connect()
            .await
            .start_physical(None, Lsn(1 << 50), TimelineId(1))
            .await
        {
            assert!(matches!(
                ahead.next().await,
                Err(ReplicationError::Server(_))
            ));
        }

        let (mut client, next) = stream.finish().await.expect("stop");
        assert_eq!(next, None);
        client
            .drop_slot("s")
            .await
            .expect("the connection is as good as new");
        let gone = client.drop_slot("s").await.expect_err("it is gone");
        assert!(matches!(gone, ReplicationError::SlotMissing(_)));
        assert!(client.simple_query("a\0b").await.is_err());
        let identity = client.identify_system().await.expect("still alive");
        assert_eq!(identity.dbname, None);

        let mode = Mode::Database("postgres".into());
        let mut sql = ReplicationClient::connect(&info, mode)
            .await
            .expect("connect");
        let sets = sql
            .simple_query("select 'é' as a, null as b; select 1 where false")
            .await
            .expect("SQL");
        assert_eq!(sets[0].columns, ["a", "b"]);
        assert_eq!(sets[0].rows, [[Some("é".as_bytes().to_vec().into()), None]]);
        assert_eq!((sets.len(), sets[1].rows.len()), (2, 0));
    });
}

#[test]
fn every_question_has_its_answer_on_15() {
    every_question(V15, "ask15");
}

#[test]
fn every_question_has_its_answer_on_17() {
    every_question(V17, "ask17");
}

#[test]
fn every_question_has_its_answer_on_18() {
    every_question(V18, "ask18");
}
