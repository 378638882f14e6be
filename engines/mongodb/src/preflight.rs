//! What a source lets us do, asked before the first entry is archived. Changes nothing.

use std::time::Duration;

use bson::{RawDocumentBuf, doc};
use mongodb::Client;

use crate::connect::Connection;
use crate::source::Server;
use crate::{ClusterTime, EngineError};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// Why `local.oplog.rs` cannot be read; `None` if it can.
    pub oplog_refused: Option<String>,
    /// Why `config.transactions` cannot be read.
    pub transactions_refused: Option<String>,
    /// Why users and roles cannot be read.
    pub users_refused: Option<String>,
    /// How far the oplog reaches back.
    pub window: Option<Duration>,
}

/// Asks the source who it is and what the account may read.
pub async fn look(connection: &Connection) -> Result<(Server, Probe), EngineError> {
    let client = connection.client()?;
    let found = probe(&client).await;
    client.shutdown().immediate(true).await;
    found
}

async fn probe(client: &Client) -> Result<(Server, Probe), EngineError> {
    let server = Server::ask(client).await?;
    let mut probe = Probe::default();
    match first(client, "local", "oplog.rs").await? {
        Ok(oldest) => {
            let oldest =
                oldest.and_then(|entry| entry.get_timestamp("ts").ok().map(ClusterTime::from));
            probe.window = oldest.map(|oldest| {
                let seconds = server
                    .majority
                    .ts
                    .seconds()
                    .saturating_sub(oldest.seconds());
                Duration::from_secs(seconds.into())
            });
        }
        Err(message) => probe.oplog_refused = Some(message),
    }
    probe.transactions_refused = first(client, "config", "transactions").await?.err();
    probe.users_refused = first(client, "admin", "system.users").await?.err();
    if probe.users_refused.is_none() {
        probe.users_refused = first(client, "admin", "system.roles").await?.err();
    }
    Ok((server, probe))
}

/// The first document of a collection, or why it is refused.
async fn first(
    client: &Client,
    db: &str,
    name: &str,
) -> Result<Result<Option<RawDocumentBuf>, String>, EngineError> {
    let collection = client.database(db).collection::<RawDocumentBuf>(name);
    match collection
        .find_one(doc! {})
        .sort(doc! { "$natural": 1 })
        .await
        .map_err(EngineError::from)
    {
        Ok(found) => Ok(Ok(found)),
        Err(EngineError::Refused { message, .. }) => Ok(Err(message)),
        Err(error) => Err(error),
    }
}
