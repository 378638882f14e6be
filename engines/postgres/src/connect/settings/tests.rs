//! Tests of `settings`.

use super::*;
use proptest::prelude::*;

fn parse(text: &str) -> Result<ConnInfo, String> {
    with_environment(text, &[])
}

fn with_environment(text: &str, environment: &[(&str, &str)]) -> Result<ConnInfo, String> {
    let find = |name: &str| {
        let found = environment.iter().find(|(n, _)| *n == name);
        found.map(|(_, v)| (*v).to_owned())
    };
    ConnInfo::parse_with(text, &find).map_err(|e| e.to_string())
}

#[test]
fn hosts_take_their_ports_and_addresses_in_order() {
    let info = parse("host=a,/run/pg,b hostaddr=,,10.0.0.1 port=1,,3 user=u").unwrap();
    let host = |name: &str, addr: Option<&str>, port| Host {
        name: Some(name.into()),
        addr: addr.map(|a| a.parse().unwrap()),
        port,
    };
    assert_eq!(
        info.hosts,
        [
            host("a", None, 1),
            host("/run/pg", None, 5432),
            host("b", Some("10.0.0.1"), 3)
        ]
    );
    let one_port = parse("host=a,b port=7 user=u").unwrap();
    assert!(one_port.hosts.iter().all(|h| h.port == 7));
    assert_eq!(parse("hostaddr=::1 user=u").unwrap().hosts[0].name, None);
    assert!(
        parse("user=u").unwrap().hosts[0]
            .name
            .as_ref()
            .is_some_and(|n| n.starts_with('/'))
    );
    for wrong in [
        "host=a,b port=1,2,3",
        "host=a hostaddr=1.1.1.1,2.2.2.2",
        "port=0",
        "port=x",
        "port=65536",
        "hostaddr=db",
        "host=@x",
    ] {
        assert!(parse(&format!("user=u {wrong}")).is_err(), "{wrong}");
    }
}

#[test]
fn the_environment_fills_what_the_string_leaves_open() {
    let environment = [
        ("PGHOST", "env"),
        ("PGUSER", "u"),
        ("PGSSLMODE", "verify-full"),
        ("HOME", "/h"),
    ];
    let info = with_environment("host=string", &environment).unwrap();
    assert_eq!(info.hosts[0].name.as_deref(), Some("string"));
    assert_eq!((info.user.as_str(), info.dbname.as_str()), ("u", "u"));
    assert_eq!(info.sslmode, SslMode::VerifyFull);
    assert_eq!(info.passfile, Some("/h/.pgpass".into()));
    let refused = with_environment("user=u", &[("PGSERVICE", "prod")]).unwrap_err();
    assert!(refused.contains("PGSERVICE"), "{refused}");
}

#[test]
fn what_is_not_understood_is_refused_with_the_nearest_keyword() {
    let error = parse("user=u sslmod=require").unwrap_err();
    assert_eq!(
        error,
        "unknown connection keyword \"sslmod\"; did you mean \"sslmode\"?"
    );
    assert_eq!(
        parse("user=u zzzzzzzz=1").unwrap_err(),
        "unknown connection keyword \"zzzzzzzz\""
    );
    for refused in [
        "require_auth=scram-sha-256",
        "sslcrl=x",
        "gssencmode=require",
        "service=x",
        "sslmode=on",
        "replication=true",
    ] {
        assert!(parse(&format!("user=u {refused}")).is_err(), "{refused}");
    }
    assert!(parse("user=u gssencmode=prefer client_encoding=UTF8").is_ok());
}

#[test]
fn system_roots_insist_on_the_host_name() {
    assert_eq!(
        parse("user=u sslrootcert=system").unwrap().sslmode,
        SslMode::VerifyFull
    );
    assert!(parse("user=u sslrootcert=system sslmode=verify-ca").is_err());
}

#[test]
fn zero_waits_for_ever_and_silence_means_thirty_seconds() {
    assert_eq!(
        parse("user=u connect_timeout=0").unwrap().connect_timeout,
        None
    );
    assert_eq!(
        parse("user=u").unwrap().connect_timeout,
        Some(Duration::from_secs(30))
    );
    assert_eq!(
        parse("user=u connect_timeout=5").unwrap().connect_timeout,
        Some(Duration::from_secs(5))
    );
    assert!(parse("user=u connect_timeout=5s").is_err());
}

#[test]
fn a_lost_network_is_noticed_unless_the_system_is_asked_to() {
    let unset = parse("user=u").unwrap().keepalives;
    assert_eq!(
        (unset.enabled, unset.idle, unset.count),
        (true, Some(Duration::from_secs(60)), Some(6))
    );
    let system = parse("user=u keepalives_idle=0 tcp_user_timeout=0")
        .unwrap()
        .keepalives;
    assert_eq!((system.idle, system.user_timeout), (None, None));
    let own = parse("user=u keepalives_idle=5 tcp_user_timeout=1500")
        .unwrap()
        .keepalives;
    assert_eq!(
        (own.idle, own.user_timeout),
        (
            Some(Duration::from_secs(5)),
            Some(Duration::from_millis(1500))
        )
    );
}

#[test]
fn the_string_s_own_name_beats_the_program_s() {
    let mut info = parse("user=u application_name=mine").unwrap();
    info.default_application_name("pitrd");
    assert_eq!(info.application_name.as_deref(), Some("mine"));
}

proptest! {
    #[test]
    fn no_password_is_ever_shown(password in "[a-zA-Z0-9]{12,30}") {
        let mut info = parse(&format!("user=u password={password}")).unwrap();
        let shown = format!("{info:?}");
        prop_assert!(!shown.contains(&password));
        info.password = Some(Secret::new(password.clone().into_bytes()));
        let shown = format!("{info:?}");
        prop_assert!(!shown.contains(&password));
    }

    #[test]
    fn no_text_panics(text in "(host|port|hostaddr|keepalives|sslmode)?=?\\PC*") {
        let _ = parse(&text);
    }
}
