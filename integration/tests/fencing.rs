//! Two daemons, one archive: only one of them writes.

use pitr_integration::{Daemon, History, Mark, Signal, Site, V17, wait_until};
use std::time::Duration;

/// A second daemon over the same archive and server, with a slot of its own.
fn second(history: &History) -> Daemon {
    let text =
        std::fs::read_to_string(history.daemon.configuration()).expect("read the configuration");
    history.daemon.beside(
        "second",
        &text.replace("slot = \"pitrd\"", "slot = \"second\""),
    )
}

#[test]
fn the_second_daemon_on_an_archive_is_fenced() {
    let mut history = History::new("fence", V17);
    let mut other = second(&history);
    other.start();
    // Both run until one of them loses a number; load makes that soon.
    let mut loser = None;
    wait_until(
        "one of the two to be fenced",
        Duration::from_secs(60),
        || {
            history.server.pgbench(2, 20);
            loser = match (history.daemon.runs(), other.runs()) {
                (false, _) => Some("first"),
                (_, false) => Some("second"),
                _ => None,
            };
            loser.is_some()
        },
    );
    let (code, log) = match loser {
        Some("first") => (history.daemon.wait_end(), history.daemon.log()),
        _ => (other.wait_end(), other.log()),
    };
    assert_eq!(code, 5, "fenced: {log}");
    assert!(log.contains("fenced"), "{log}");

    // The winner goes on and the archive is whole.
    let (slot, mut winner) = match loser {
        Some("first") => ("second", other),
        _ => ("pitrd", history.daemon),
    };
    history.server.pgbench(2, 50);
    let end = Mark::take(&history.server);
    history.server.wait_archived(slot, Duration::from_secs(60));
    assert!(winner.runs());
    winner
        .tool()
        .run(&["verify", "--deep"])
        .success("verify --deep");
    let restored = winner.tool().restored(V17, &["latest"], "restored");
    end.content
        .assert_restored_in(&restored, "after a fight over the archive");
}

#[test]
fn a_daemon_that_was_frozen_while_another_took_over_writes_nothing_more() {
    let mut history = History::new("fencefrozen", V17);
    history.daemon.signal(Signal::Stop);
    let mut other = second(&history);
    other.start();
    other.wait_streaming(&history.server);
    history.server.pgbench(2, 100);
    history
        .server
        .wait_archived("second", Duration::from_secs(60));
    history.daemon.signal(Signal::Cont);
    wait_until(
        "the frozen daemon to notice",
        Duration::from_secs(60),
        || {
            history.server.pgbench(2, 20);
            !history.daemon.runs() || !other.runs()
        },
    );
    assert!(
        other.runs(),
        "the one that took over goes on:\n{}",
        other.log()
    );
    assert_eq!(history.daemon.wait_end(), 5, "{}", history.daemon.log());
    let end = Mark::take(&history.server);
    history
        .server
        .wait_archived("second", Duration::from_secs(60));
    let restored = other.tool().restored(V17, &["latest"], "restored");
    end.content
        .assert_restored_in(&restored, "after the takeover");
}

#[test]
fn a_site_removes_what_it_made() {
    let site = Site::new("gone");
    let root = site.root().to_owned();
    drop(site);
    assert!(!root.exists());
}
