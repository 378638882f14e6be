//! Blocking SQL for tests: one connection, one single-threaded runtime.

use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// A connection to a server.
pub struct Session {
    runtime: Runtime,
    client: Client,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    /// Connects; the error is the server's text.
    pub fn connect(connection: &str) -> Result<Session, String> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("build a runtime");
        let client = runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(connection, NoTls)
                .await
                .map_err(|error| text(&error))?;
            tokio::spawn(async move {
                // Its error reaches every pending query as well.
                let _ = connection.await;
            });
            Ok::<_, String>(client)
        })?;
        Ok(Session { runtime, client })
    }

    /// Runs statements; the error is the server's text.
    pub fn try_run(&self, sql: &str) -> Result<Vec<Vec<String>>, String> {
        let messages = self
            .runtime
            .block_on(self.client.simple_query(sql))
            .map_err(|error| text(&error))?;
        let mut rows = Vec::new();
        for message in messages {
            if let SimpleQueryMessage::Row(row) = message {
                rows.push(
                    (0..row.len())
                        .map(|i| row.get(i).unwrap_or("").to_owned())
                        .collect(),
                );
            }
        }
        Ok(rows)
    }

    /// As [`Session::try_run`], and gives up after `limit` with the statement cancelled.
    pub fn try_run_for(&self, sql: &str, limit: Duration) -> Result<Vec<Vec<String>>, String> {
        let answer = self
            .runtime
            .block_on(async { tokio::time::timeout(limit, self.client.simple_query(sql)).await });
        match answer {
            Err(_) => {
                let token = self.client.cancel_token();
                let _ = self.runtime.block_on(token.cancel_query(NoTls));
                Err(format!("no answer within {limit:?}"))
            }
            Ok(Err(error)) => Err(text(&error)),
            Ok(Ok(_)) => Ok(Vec::new()),
        }
    }

    /// Runs statements and panics on an error. Rows come as text; NULL is the empty string.
    #[track_caller]
    pub fn run(&self, sql: &str) -> Vec<Vec<String>> {
        match self.try_run(sql) {
            Ok(rows) => rows,
            Err(error) => panic!("{sql}: {error}"),
        }
    }

    /// Ends a recovery that is paused at its target: the server is promoted, and what was in progress there is rolled back.
    ///
    /// A paused server still holds the locks of transactions in progress at the target; a query for a table that one of
    /// them was dropping would wait for ever.
    pub fn end_recovery(&self) {
        if self.value("select pg_is_in_recovery()") == "t" {
            self.run("select pg_wal_replay_resume()");
            crate::wait_until("the end of recovery", Duration::from_secs(60), || {
                self.value("select pg_is_in_recovery()") == "f"
            });
        }
    }

    /// The single value of a query with one row and one column.
    #[track_caller]
    pub fn value(&self, sql: &str) -> String {
        let rows = self.run(sql);
        assert!(
            rows.len() == 1 && rows[0].len() == 1,
            "{sql}: wanted one value, got {rows:?}"
        );
        rows[0][0].clone()
    }
}

fn text(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(database) => format!("{} {}", database.code().code(), database.message()),
        None => error.to_string(),
    }
}
