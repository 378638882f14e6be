//! What a source lets us do, asked before the first entry is archived. Changes nothing.

use std::time::Duration;

use bson::{Bson, RawDocumentBuf, doc};
use mongodb::Client;

use crate::capture::{Asking, ChangeStream};
use crate::connect::Connection;
use crate::source::Server;
use crate::{ClusterTime, EngineError, LogKind};

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Probe {
    /// Why `local.oplog.rs` cannot be read; `None` if it can.
    pub oplog_refused: Option<String>,
    /// Why no change stream over the whole deployment can be followed; `None` if it can, or was not asked for.
    pub stream_refused: Option<String>,
    /// Why `config.transactions` cannot be read.
    pub transactions_refused: Option<String>,
    /// The account may not read collections by UUID, which base copies do: a rename or a drop while they are read is noticed.
    pub uuids_refused: bool,
    /// Why users and roles cannot be read.
    pub users_refused: Option<String>,
    /// How far the oplog reaches back.
    pub window: Option<Duration>,
}

/// Asks the source who it is and what the account may read of what the log `kind` needs.
pub async fn look(connection: &Connection, kind: LogKind) -> Result<(Server, Probe), EngineError> {
    let client = connection.client()?;
    let found = probe(&client, kind).await;
    client.shutdown().immediate(true).await;
    found
}

async fn probe(client: &Client, kind: LogKind) -> Result<(Server, Probe), EngineError> {
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
    probe.uuids_refused = !may_use_uuids(client).await?;
    if kind == LogKind::Events {
        probe.stream_refused = stream(client, &server).await?.err();
    }
    Ok((server, probe))
}

/// Whether the account's privileges on the deployment have `useUUID`. Without authentication there are none, and everything is allowed.
async fn may_use_uuids(client: &Client) -> Result<bool, EngineError> {
    let ask = doc! { "connectionStatus": 1, "showPrivileges": true };
    let answer = client.database("admin").run_command(ask).await?;
    let auth = answer.get_document("authInfo");
    let auth = auth.map_err(|_| EngineError::Answer("privileges"))?;
    let list = |name| auth.get_array(name).map_or(&[][..], Vec::as_slice);
    let allows = |privilege: &Bson| {
        let privilege = privilege.as_document()?;
        let resource = privilege.get_document("resource").ok()?;
        let holds = |name| resource.get_bool(name).unwrap_or(false);
        let mut actions = privilege.get_array("actions").ok()?.iter();
        let named = actions.any(|action| matches!(action.as_str(), Some("useUUID" | "anyAction")));
        Some(named && (holds("cluster") || holds("anyResource")))
    };
    let mut privileges = list("authenticatedUserPrivileges").iter();
    Ok(list("authenticatedUsers").is_empty()
        || privileges.any(|privilege| allows(privilege).unwrap_or(false)))
}

/// Begins a change stream as the capture does, or says why it is refused.
async fn stream(client: &Client, server: &Server) -> Result<Result<(), String>, EngineError> {
    let begun = match ChangeStream::new(client, server, Asking::PreImages) {
        Ok(stream) => stream.look(server.majority.ts).await.map(drop),
        Err(error) => Err(error),
    };
    match begun {
        Ok(()) => Ok(Ok(())),
        Err(EngineError::Refused { message, .. } | EngineError::Unsupported(message)) => {
            Ok(Err(message))
        }
        Err(error) => Err(error),
    }
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
