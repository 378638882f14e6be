//! Fixtures for tests, demo and benchmarks on real servers.
//!
//! A [`Site`] is one test's world: a scratch directory, the account that servers run as, and copies of `pitrd` and
//! `pitr-tool` which that account may execute. Everything started in a site is stopped by its own process id.

mod archive_files;
mod bench_store;
mod compare;
mod daemon;
mod fault_proxy;
mod history;
mod http_message;
mod load;
mod mongo;
mod mongo_load;
mod object_server;
mod port;
mod postgres;
mod process;
mod service_manager;
mod session;
mod site;
mod small_disk;
mod standby;
mod story;
mod strict;
mod tool;

pub use archive_files::ArchiveFiles;
pub use bench_store::BenchStore;
pub use compare::{Fingerprint, amcheck};
pub use daemon::{Daemon, Settings};
pub use fault_proxy::{Call, Fault, FaultProxy};
pub use history::{History, Mark};
pub use load::{Acknowledged, Load, ledger};
pub use mongo::{Mongo, Release};
pub use mongo_load::MongoLoad;
pub use object_server::{ACCESS_KEY, Answer, BUCKET, Dialect, ObjectServer, SECRET_KEY};
pub use port::Port;
pub use postgres::{Postgres, Stop, V15, V17, V18, Version};
pub use process::{Finished, Process, Signal};
pub use service_manager::ServiceManager;
pub use session::Session;
pub use site::{Program, Site};
pub use small_disk::SmallDisk;
pub use story::Story;
pub use strict::{Authority, PASSWORD, StrictServer, Validity};
pub use tool::Tool;

use std::time::{Duration, Instant};

/// Polls `done` until it is true; panics with `what` after `limit`.
#[track_caller]
pub fn wait_until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < limit, "waited {limit:?} for: {what}");
        std::thread::sleep(Duration::from_millis(25));
    }
}
