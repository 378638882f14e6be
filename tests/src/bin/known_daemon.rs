#![forbid(unsafe_code)]
//! A daemon as a process of its own, for tests that kill it: archives a known source into a directory, and says on standard
//! output, a line each, up to where it has acknowledged.
//!
//! `known_daemon DIRECTORY ACKNOWLEDGED LENGTH`

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pitr_archive::store::DirectoryStore;
use pitr_tests::known_source::KnownSource;
use pitr_tests::life::{FIRST_POSITION, Keys, Pace, archive_all};

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().expect("three arguments");
    let (directory, acknowledged, length) = (next(), next(), next());
    let directory = Path::new(&directory);
    Keys::share(&directory.join("keys"));
    let length = length.parse().expect("a number");
    let source = KnownSource::new(FIRST_POSITION, length);
    source.acknowledge(acknowledged.parse().expect("a number"));
    let store = Arc::new(DirectoryStore::new(directory.join("archive")));
    let pace = Pace {
        segment_bytes: 40_000,
        piece_bytes: 9_000,
        in_flight: 16,
        linger: Duration::from_millis(5),
        ..Pace::SMALL
    };
    let said = tokio::spawn(say(Arc::clone(&source)));
    let ended = archive_all(store, &source, pace).await;
    said.abort();
    match ended {
        Ok(end) => writeln!(std::io::stdout(), "{end}").expect("somebody listens"),
        Err(error) => {
            writeln!(std::io::stderr(), "{error}").expect("somebody listens");
            std::process::exit(1);
        }
    }
}

async fn say(source: Arc<KnownSource>) {
    let mut last = 0;
    loop {
        let now = source.acknowledged();
        if now != last {
            writeln!(std::io::stdout(), "{now}").expect("somebody listens");
            last = now;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
