//! What cannot or must not be done is refused early, with the documented exit code and the reason.

use pitr_integration::{Daemon, History, Postgres, Settings, Site, Tool, V17};

#[test]
fn a_target_outside_the_archive_is_refused_with_the_range_that_exists() {
    let history = History::new("range", V17);
    let tool = history.daemon.tool();
    let year = &history.end.time[..4];
    let early = [
        history.before_base.time.clone(),
        "2001-01-01T00:00:00+00:00".to_owned(),
    ];
    let late = [
        history.end.time.replace(year, "2199"),
        "lsn:FF/FF000028".to_owned(),
    ];
    let never = ["xid:3999999999".to_owned(), "name:never-made".to_owned()];
    for target in early.iter().chain(&late).chain(&never) {
        for command in ["plan", "restore"] {
            let into = history.site.path("refused");
            let finished = match command {
                "plan" => tool.run(&["plan", "--to", target]),
                _ => tool.restore(&[target], &into),
            };
            let said = finished
                .exits(3, &format!("{command} --to {target}"))
                .said();
            // The moments that can be reached are named: the end of the window shows the year or an LSN.
            assert!(
                said.contains(year) || said.contains("0/"),
                "{command} --to {target} names no range:\n{said}"
            );
            assert!(
                !into.join("PG_VERSION").exists(),
                "{command} --to {target} wrote something"
            );
        }
    }
    for target in [&history.middle.time, &history.middle.lsn_target(), "latest"] {
        tool.run(&["plan", "--to", target])
            .success(&format!("plan --to {target}"));
    }
}

#[test]
fn a_time_without_an_offset_is_asked_for() {
    let history = History::new("offset", V17);
    let local = history.middle.time.trim_end_matches("+00:00");
    let said = history
        .daemon
        .tool()
        .run(&["plan", "--to", local])
        .exits(2, "a local time")
        .said();
    assert!(said.contains("+00:00"), "it shows what to write: {said}");
}

#[test]
fn a_destination_that_is_not_empty_is_refused_and_untouched() {
    let history = History::new("notempty", V17);
    let into = history.site.directory("precious");
    history.site.write(&into.join("keep-me"), "precious", 0o600);
    let finished = history.daemon.tool().restore(&["latest"], &into);
    assert_ne!(finished.code, 0, "{}", finished.said());
    assert!(finished.said().contains("not empty"), "{}", finished.said());
    let left: Vec<_> = into.read_dir().expect("it exists").collect();
    assert_eq!(left.len(), 1, "{left:?}");
}

#[test]
fn a_wrong_key_is_called_a_wrong_key() {
    let history = History::new("wrongkey", V17);
    let other = history.site.path("other-identity");
    Tool::keygen(&history.site, &other);
    let tool = history.daemon.tool().with_identity(&other);
    for arguments in [vec!["plan", "--to", "latest"], vec!["verify", "--deep"]] {
        let said = tool
            .run(&arguments)
            .exits(4, &format!("{arguments:?}"))
            .said();
        assert!(said.contains("wrong key"), "{arguments:?}: {said}");
        assert!(
            !said.contains("damaged") && !said.contains("corrupt"),
            "{said}"
        );
    }
    let into = history.site.path("refused");
    tool.restore(&["latest"], &into)
        .exits(4, "restore with a wrong key");
    assert!(!into.join("PG_VERSION").exists());
}

#[test]
fn an_identity_that_others_can_read_is_refused() {
    let site = Site::new("exposed");
    let server = Postgres::start_new(&site, V17, "primary", "");
    let daemon = Daemon::start_new(&server, "pitrd");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(daemon.identity(), mode).expect("change the mode");
    let said = daemon
        .tool()
        .run(&["plan", "--to", "latest"])
        .exits(4, "an exposed identity")
        .said();
    assert!(said.contains("0600") || said.contains("others"), "{said}");
}

#[test]
fn an_unknown_configuration_key_is_refused_with_the_nearest_known() {
    let site = Site::new("unknown");
    let server = Postgres::start_new(&site, V17, "primary", "");
    let daemon = Daemon::prepare(&site, Settings::new(&server, "pitrd"));
    let text = std::fs::read_to_string(daemon.configuration()).expect("read the configuration");
    site.write(
        daemon.configuration(),
        &text.replace("linger", "lingre"),
        0o600,
    );
    let mut command = site.command(&site.program(pitr_integration::Program::Pitrd));
    command.arg("--config").arg(daemon.configuration());
    let said = pitr_integration::Finished::run(&mut command)
        .exits(2, "an unknown key")
        .said();
    assert!(
        said.contains("lingre") && said.contains("\"linger\""),
        "{said}"
    );
}

#[test]
fn the_check_before_the_start_finds_what_would_fail_later() {
    let site = Site::new("check");
    let mut server = Postgres::start_new(&site, V17, "primary", "");
    let daemon = Daemon::prepare(&site, Settings::new(&server, "pitrd"));
    daemon.check().success("pitrd --check on a good server");
    server.configure("wal_level = minimal\nmax_wal_senders = 0");
    server.restart(pitr_integration::Stop::Fast);
    let said = daemon
        .check()
        .exits(1, "pitrd --check with wal_level = minimal")
        .said();
    assert!(
        said.contains("wal_level") || said.contains("max_wal_senders"),
        "{said}"
    );
}

#[test]
fn no_secret_and_no_row_value_reaches_a_log() {
    const CANARY: &str = "canary-6f1d2b";
    let site = Site::new("secrets");
    let server = Postgres::start_new(&site, V17, "primary", "");
    let mut settings = Settings::new(&server, "pitrd");
    settings.connection.push_str(&format!(" password={CANARY}"));
    settings.more = "[log]\nlevel = \"trace\"".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_streaming(&server);
    server.session().run(&format!(
        "create table {} (t text)",
        CANARY.replace('-', "_")
    ));
    server.session().run(&format!(
        "insert into {} values ('{CANARY}')",
        CANARY.replace('-', "_")
    ));
    daemon.tool().backup(&[]);
    daemon.wait_archived(&server);
    let status = daemon.tool().run(&["status"]).success("status").said();
    let plan = daemon
        .tool()
        .run(&["plan", "--to", "latest"])
        .success("plan")
        .said();
    let identity = std::fs::read_to_string(daemon.identity()).expect("read the identity");
    let secret = identity
        .lines()
        .last()
        .expect("the identity has a line")
        .trim()
        .to_owned();
    for (name, said) in [("log", daemon.log()), ("status", status), ("plan", plan)] {
        assert!(
            !said.to_lowercase().contains("canary"),
            "{name} shows a secret or a value"
        );
        assert!(!said.contains(&secret), "{name} shows the identity");
    }
    // Neither the names of objects nor their bytes show what is inside.
    let archive = daemon.archive();
    for key in archive.keys() {
        let bytes = std::fs::read(archive.path(&key)).expect("read an object");
        let shown = bytes
            .windows(6)
            .any(|window| window.eq_ignore_ascii_case(b"canary"));
        assert!(
            !shown && !key.contains("canary"),
            "{key} shows a value in the clear"
        );
    }
}
