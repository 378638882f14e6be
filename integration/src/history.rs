//! A small finished history: a server, its archive with one base backup, and marks in between to restore to.

use crate::{Daemon, Fingerprint, Postgres, Site, Version};
use std::sync::Arc;

/// A moment of a quiet server.
#[derive(Debug, Clone)]
pub struct Mark {
    /// The server's clock, after every commit before the mark and before every commit after it.
    pub time: String,
    /// Where the WAL ended.
    pub lsn: String,
    /// What the server held.
    pub content: Fingerprint,
}

impl Mark {
    /// Takes a mark. Nothing else may write meanwhile.
    pub fn take(server: &Postgres) -> Mark {
        let content = Fingerprint::take(server);
        let lsn = server.session().value("select pg_current_wal_insert_lsn()");
        std::thread::sleep(std::time::Duration::from_millis(20));
        let time = server.now();
        std::thread::sleep(std::time::Duration::from_millis(20));
        Mark { time, lsn, content }
    }

    /// The mark as a target by position.
    pub fn lsn_target(&self) -> String {
        format!("lsn:{}", self.lsn)
    }
}

/// A server with an archive that holds a base backup and some log.
#[derive(Debug)]
pub struct History {
    /// The daemon, running.
    pub daemon: Daemon,
    /// The server, running.
    pub server: Postgres,
    /// The site.
    pub site: Arc<Site>,
    /// Before the base backup.
    pub before_base: Mark,
    /// After the base backup and some transactions.
    pub middle: Mark,
    /// After more transactions; everything up to here is archived.
    pub end: Mark,
}

impl History {
    /// Makes it: pgbench's tables at scale 1 and 100 transactions between the marks.
    pub fn new(name: &str, version: Version) -> History {
        let site = Site::new(name);
        let server = Postgres::start_new(&site, version, "primary", "");
        let daemon = Daemon::start_new(&server, "pitrd");
        server.pgbench_init(1);
        let before_base = Mark::take(&server);
        server.pgbench(2, 10);
        daemon.tool().backup(&[]);
        server.pgbench(2, 50);
        let middle = Mark::take(&server);
        server.pgbench(2, 50);
        let end = Mark::take(&server);
        daemon.wait_archived(&server);
        History {
            daemon,
            server,
            site,
            before_base,
            middle,
            end,
        }
    }
}
