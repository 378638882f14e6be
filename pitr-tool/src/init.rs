//! `pitr-tool init`: creates the archive and its signing key, once. A later call finds them, and seals the signing key anew where the
//! configuration names other recipients.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use pitr_archive::keys::WriterKey;
use pitr_archive::{Archive, ArchiveError};
use pitr_postgres::replication::{Mode, ReplicationClient};
use pitr_postgres::{ENGINE, Source};
use pitrd::config::{Config, MongodbSource, PostgresSource, SourceConfig};
use pitrd::exit::{Exit, Refusal};
use pitrd::open;

use crate::output;
use crate::place::Place;

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool init --config /etc/pitrd/orders.toml
  pitr-tool init --config orders.toml --identity orders.identity    on a new host: brings the signing key back

The signing key is made beside the configuration (mode 0600) and, sealed for the recipients, put into the archive.")]
pub struct Args {}

/// Runs it.
pub async fn run(place: &Place) -> anyhow::Result<Exit> {
    let config = place.require_config()?;
    let source = ask_source(&config).await?;
    let url = config.archive.url.place();
    let key_file = &config.archive.signing_key_file;
    let wrappers = open::wrappers(&config.encryption)?;
    let store = open::archive_store(&config.archive.url).await?;
    let existing = match Archive::open(store.clone(), &url).await {
        Ok(archive) => Some(archive),
        Err(ArchiveError::Absent { .. }) => None,
        Err(error) => return Err(error).context("open the archive"),
    };
    let key = match (&existing, key_file.exists()) {
        (_, true) => WriterKey::load(key_file).context("load the signing key")?,
        (None, false) => save(WriterKey::generate(), key_file)?,
        (Some(archive), false) => {
            let Some(opener) = place.opener(Some(&config))? else {
                return Err(Refusal::new(
                    Exit::Keys,
                    format!(
                        "the archive exists and its signing key is not in {}",
                        key_file.display()
                    ),
                )
                .hint("give --identity FILE: the key is brought back from the archive")
                .into());
            };
            save(
                archive
                    .recover_writer_key(&opener)
                    .await
                    .context("bring the signing key back")?,
                key_file,
            )?
        }
    };
    let archive = Archive::create(
        store,
        &url,
        source.engine,
        source.properties,
        &key,
        &wrappers,
    )
    .await;
    let archive = archive.context("create the archive")?;
    let resealed = archive.seal_writer_key(&key, &wrappers).await;
    let resealed = resealed.context("seal the signing key for the recipients")?;
    let state = if existing.is_some() {
        "was there already"
    } else {
        "created"
    };
    output::line(&format!(
        "archive {} at {url} {state}, for {}",
        archive.id(),
        source.name
    ))?;
    if resealed {
        output::line(
            "the signing key in the archive is now sealed for the recipients of this configuration, and for no others",
        )?;
    }
    Ok(Exit::Done)
}

fn save(key: WriterKey, path: &Path) -> anyhow::Result<WriterKey> {
    key.save(path).context("save the signing key")?;
    Ok(key)
}

/// Whose archive it will be.
struct Owner {
    engine: &'static str,
    properties: BTreeMap<String, String>,
    /// For people.
    name: String,
}

async fn ask_source(config: &Config) -> anyhow::Result<Owner> {
    match &config.source {
        SourceConfig::Postgres(source) => ask_postgres(source).await,
        SourceConfig::Mongodb(source) => ask_mongodb(source).await,
    }
}

async fn ask_postgres(source: &PostgresSource) -> anyhow::Result<Owner> {
    let connection = open::connection(source)?;
    let mut client = ReplicationClient::connect(&connection, Mode::Physical)
        .await
        .context("connect to the server")?;
    let source = Source::ask(&mut client)
        .await
        .context("ask the server who it is")?;
    client.close().await;
    Ok(Owner {
        engine: ENGINE,
        properties: source.properties(),
        name: format!("cluster {}", source.system_id),
    })
}

async fn ask_mongodb(source: &MongodbSource) -> anyhow::Result<Owner> {
    let client = open::mongodb(source).await?.client()?;
    let server = pitr_mongodb::Server::ask(&client).await;
    client.shutdown().immediate(true).await;
    let server = server.context("ask the server who it is")?;
    Ok(Owner {
        engine: pitr_mongodb::ENGINE,
        properties: server.source.properties(),
        name: format!("replica set {}", server.source),
    })
}
