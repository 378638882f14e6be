//! Writers that remember what the server has acknowledged.

use crate::{Postgres, Session};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// The ids whose COMMIT has returned to the client.
pub type Acknowledged = BTreeSet<i64>;

/// Concurrent sessions, each inserting one row a transaction into `ledger`.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<Acknowledged>>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    /// Makes the table that the writers fill.
    pub fn prepare(server: &Postgres) {
        server
            .session()
            .run("create table ledger (id bigint primary key, writer int, filler text, at timestamptz default now())");
    }

    /// Starts writers against whichever of the servers takes writes. Their ids begin at `first`, apart by writer.
    pub fn start(connections: Vec<String>, writers: u32, first: i64) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(Acknowledged::new()));
        let writers = (0..writers)
            .map(|writer| {
                let (stop, acknowledged) = (stop.clone(), acknowledged.clone());
                let connections = connections.clone();
                let start = first + i64::from(writer) * 10_000_000;
                std::thread::spawn(move || write(&connections, writer, start, &stop, &acknowledged))
            })
            .collect();
        Load {
            stop,
            acknowledged,
            writers,
        }
    }

    /// How many commits have been acknowledged so far.
    pub fn count(&self) -> usize {
        self.acknowledged.lock().expect("no writer panicked").len()
    }

    /// What has been acknowledged so far.
    pub fn snapshot(&self) -> Acknowledged {
        self.acknowledged
            .lock()
            .expect("no writer panicked")
            .clone()
    }

    /// Stops the writers and returns everything that was acknowledged.
    pub fn finish(self) -> Acknowledged {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.join().expect("a writer does not panic");
        }
        self.acknowledged
            .lock()
            .expect("no writer panicked")
            .clone()
    }
}

/// The ids that a server holds.
pub fn ledger(server: &Postgres) -> Acknowledged {
    let rows = server.session().run("select id from ledger");
    rows.iter()
        .map(|row| row[0].parse().expect("an id"))
        .collect()
}

fn write(
    connections: &[String],
    writer: u32,
    start: i64,
    stop: &AtomicBool,
    acknowledged: &Mutex<Acknowledged>,
) {
    let mut id = start;
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        let connection = &connections[turn % connections.len()];
        turn += 1;
        let Some(session) = writable(connection) else {
            std::thread::sleep(Duration::from_millis(20));
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            id += 1;
            let sql = format!("insert into ledger values ({id}, {writer}, repeat(md5('{id}'), 4))");
            // Without an answer the commit was not acknowledged; whether it happened is unknown, the id is not used again.
            match session.try_run_for(&sql, Duration::from_secs(60)) {
                Ok(_) => acknowledged.lock().expect("no writer panicked").insert(id),
                Err(_) => break,
            };
        }
    }
}

fn writable(connection: &str) -> Option<Session> {
    let session = Session::connect(&format!("{connection} connect_timeout=2")).ok()?;
    let rows = session.try_run("select pg_is_in_recovery()").ok()?;
    (rows == [["f"]]).then_some(session)
}
