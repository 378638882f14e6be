//! Damage in the archive is found, named and never restored as if nothing had happened.

use pitr_integration::{Finished, History, V17, wait_until};
use std::time::Duration;

/// `verify` answers no with 1, what wanted to use the object fails with 7, a server that wanted to replay it with 6; all name it.
#[track_caller]
fn names(finished: Finished, codes: &[i32], key: &str, what: &str) {
    let said = finished.said();
    assert!(
        codes.contains(&finished.code),
        "{what}: exit {}\n{said}",
        finished.code
    );
    let last = key.rsplit('/').next().expect("a key has parts");
    assert!(
        said.contains(key) || said.contains(last),
        "{what} does not name {key}:\n{said}"
    );
}

#[test]
fn a_flipped_bit_is_found_and_named_wherever_it_is() {
    let history = History::new("flip", V17);
    let archive = history.daemon.archive();
    let tool = history.daemon.tool();
    let bin = V17.bin().display().to_string();
    // The first segment of what follows: there are transactions behind it, so every way to the latest one leads over it.
    let before = archive.segments().len();
    history.server.pgbench(2, 50);
    history.daemon.wait_archived(&history.server);
    history.server.pgbench(2, 50);
    history.daemon.wait_archived(&history.server);
    let segment = archive.segments()[before].clone();
    let length = std::fs::metadata(archive.path(&segment))
        .expect("the segment exists")
        .len() as i64;
    // In the header, in the body, in the trailer.
    for position in [20, length / 2, -10] {
        archive.flip_bit(&segment, position);
        names(
            tool.run(&["verify"]),
            &[1],
            &segment,
            &format!("verify, bit at {position}"),
        );
        names(
            tool.run(&["verify", "--deep"]),
            &[1],
            &segment,
            &format!("verify --deep, bit at {position}"),
        );
        let into = history.site.path("refused");
        // The plan meets it where it looks for the last transaction; otherwise the server does, on its way there.
        let finished = tool.restore(&["latest", "--start", "--pg-bin", &bin], &into);
        names(
            finished,
            &[6, 7],
            &segment,
            &format!("restore, bit at {position}"),
        );
        let _ = std::fs::remove_dir_all(&into);
        archive.flip_bit(&segment, position);
    }
    tool.run(&["verify", "--deep"])
        .success("verify after the repair");

    let part = archive
        .base()
        .into_iter()
        .find(|key| !key.ends_with("manifest"))
        .expect("a backup has parts");
    archive.flip_bit(&part, 1000);
    names(
        tool.run(&["verify"]),
        &[1],
        &part,
        "verify with a damaged part",
    );
    names(
        tool.restore(&["latest"], &history.site.path("refused")),
        &[7],
        &part,
        "restore with a damaged part",
    );
}

#[test]
fn a_segment_missing_in_the_middle_is_named_and_only_what_lies_before_it_is_offered() {
    let mut history = History::new("hole", V17);
    // The head is renewed every minute and at the end of the daemon: it proves that the segment was durable.
    assert_eq!(history.daemon.stop(), 0);
    let archive = history.daemon.archive();
    let segments = archive.segments();
    let segment = &segments[segments.len() - 2];
    archive.remove(segment);
    names(
        history.daemon.tool().run(&["verify"]),
        &[1],
        segment,
        "verify with a hole",
    );
    let finished = history
        .daemon
        .tool()
        .restore(&["latest"], &history.site.path("refused"));
    let said = finished.exits(3, "restore across a hole").said();
    assert!(said.contains("existed and are gone"), "{said}");
}

#[test]
fn two_swapped_segments_are_found() {
    let history = History::new("swap", V17);
    let archive = history.daemon.archive();
    let segments = archive.segments();
    let (one, two) = (&segments[segments.len() - 3], &segments[segments.len() - 2]);
    let aside = archive.root().join("aside");
    std::fs::rename(archive.path(one), &aside).expect("rename");
    std::fs::rename(archive.path(two), archive.path(one)).expect("rename");
    std::fs::rename(&aside, archive.path(two)).expect("rename");
    let verified = history.daemon.tool().run(&["verify"]);
    let said = verified.exits(1, "verify with swapped segments").said();
    assert!(
        said.contains(one) && said.contains(two),
        "not both of {one} and {two} are named:\n{said}"
    );
}

#[test]
fn a_deleted_tail_is_detected_by_tool_and_daemon() {
    let mut history = History::new("tail", V17);
    // The head is renewed every minute and at the end of the daemon.
    assert_eq!(history.daemon.stop(), 0);
    let archive = history.daemon.archive();
    let segments = archive.segments();
    for segment in &segments[segments.len() - 3..] {
        archive.remove(segment);
    }
    let said = history
        .daemon
        .tool()
        .run(&["verify"])
        .exits(1, "verify without the tail")
        .said();
    assert!(!said.is_empty());
    // The daemon must neither go on over the hole in silence nor fill the numbers with other bytes.
    history.daemon.start();
    wait_until("the daemon to say it", Duration::from_secs(30), || {
        let log = history.daemon.log().to_lowercase();
        ["missing", "deleted", "rolled back", "gap", "behind"]
            .iter()
            .any(|word| log.contains(word))
    });
}
