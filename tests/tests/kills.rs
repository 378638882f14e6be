//! A daemon's process is killed again and again while it writes into a directory: what it has said is durable is there.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use pitr_archive::store::DirectoryStore;
use pitr_tests::check::check_whole;
use pitr_tests::known_source::KnownSource;
use pitr_tests::life::{FIRST_POSITION, Keys, Random};

const LENGTH: usize = 60_000_000;
const KILLS: u32 = 40;

fn start(directory: &Path, acknowledged: u64) -> Child {
    Command::new(env!("CARGO_BIN_EXE_known_daemon"))
        .arg(directory)
        .args([acknowledged.to_string(), LENGTH.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The last position that it said; `acknowledged` if none. What it wrote only a part of counts as not said.
fn last_said(child: &mut Child, acknowledged: u64) -> u64 {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = lines
        .map_while(Result::ok)
        .filter_map(|line| line.parse().ok());
    said.fold(acknowledged, u64::max)
}

#[test]
fn of_what_a_killed_daemon_acknowledged_nothing_is_lost() {
    let directory = tempfile::tempdir().unwrap();
    Keys::share(&directory.path().join("keys"));
    let seed = u64::from(std::process::id());
    let mut random = Random(seed);
    let (mut acknowledged, mut killed, mut advanced) = (FIRST_POSITION, 0, 0);
    let mut longest_ms = 100;
    while killed < KILLS {
        let mut child = start(directory.path(), acknowledged);
        let alive = Duration::from_millis(5 + random.below(longest_ms));
        std::thread::sleep(alive);
        child.kill().unwrap();
        let said = last_said(&mut child, acknowledged);
        let ended = child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&ended.stderr);
        assert!(text.is_empty(), "seed {seed}, start {killed}: {text}");
        if said > acknowledged {
            advanced += 1;
        } else {
            // On a slow machine a life has to be longer to come to anything.
            longest_ms += longest_ms / 8;
        }
        acknowledged = said;
        killed += 1;
        if ended.status.success() {
            break;
        }
    }
    assert!(
        advanced > 2,
        "seed {seed}: it acknowledged in {advanced} of {killed} lives"
    );
    let mut last = start(directory.path(), acknowledged);
    let end = last_said(&mut last, acknowledged);
    let ended = last.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success(), "seed {seed}: {text}");
    let source = KnownSource::new(FIRST_POSITION, LENGTH);
    assert_eq!(end, source.end(), "seed {seed}");
    let store = Arc::new(DirectoryStore::new(directory.path().join("archive")));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(check_whole(store, &source, end));
}
