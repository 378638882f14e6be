//! `pitr-tool init`: creates the archive, its copies and its signing key, once; nothing else does, so that an empty mount point is taken
//! for none of them. A later call finds them, makes copies that are new, and seals the signing key anew where the configuration names
//! other recipients.

use std::collections::BTreeMap;

use anyhow::Context;
use pitr_archive::keys::{Wrapper, WriterKey};
use pitr_archive::store::{Standing, Store, begin_copy, standing};
use pitr_archive::{Archive, ArchiveError};
use pitr_postgres::replication::{Mode, ReplicationClient};
use pitr_postgres::{ENGINE, Source};
use pitrd::config::{ArchiveUrl, Config, MongodbSource, PostgresSource, SourceConfig};
use pitrd::exit::{Exit, Refusal, classify};
use pitrd::{copies, open};

use crate::output;
use crate::place::Place;

/// Arguments of `init`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool init --config /etc/pitrd/orders.toml
  pitr-tool init --config orders.toml --identity orders.identity    on a new host: brings the signing key back

The signing key is made beside the configuration (mode 0600) and, sealed for the recipients, put into the archive. Run it again after
a copy was added to the configuration. On an archive that exists it does its work also while the server is down.")]
pub struct Args {}

/// Runs it.
pub async fn run(place: &Place) -> anyhow::Result<Exit> {
    let config = place.require_config()?;
    let url = config.archive.url.place();
    let wrappers = open::wrappers(&config.encryption)?;
    let store = open::archive_store(&config.archive.url).await?;
    let existing = match Archive::open(store.clone(), &url).await {
        Ok(archive) => Some(archive),
        Err(ArchiveError::Absent { .. }) => None,
        Err(error) => return Err(error).context("open the archive"),
    };
    let owner = match &existing {
        Some(archive) => ask_again(&config, archive).await?,
        None => {
            refuse_beside_a_copy(&config).await?;
            ask_source(&config).await?
        }
    };
    let key = signing_key(place, &config, existing.as_deref()).await?;
    let archive = Archive::create(
        store.clone(),
        &url,
        &owner.engine,
        owner.properties,
        &key,
        &wrappers,
    );
    let archive = archive.await.context("create the archive")?;
    let mut resealed = archive.seal_writer_key(&key, &wrappers).await;
    let state = if existing.is_some() {
        "was there already"
    } else {
        "created"
    };
    output::line(&format!(
        "archive {} at {url} {state}, for {}",
        archive.id(),
        owner.name
    ))?;
    for copy in &config.archive.copies {
        let made = make_copy(&*store, &copy.url, &key, &wrappers);
        let made = made.await;
        let (text, sealed) = made.with_context(|| format!("make the copy {}", copy.url.place()))?;
        output::line(&text)?;
        resealed = resealed.map(|one| one || sealed);
    }
    if resealed.context("seal the signing key for the recipients")? {
        output::line(
            "the signing key in the archive is now sealed for the recipients of this configuration, and for no others",
        )?;
    }
    Ok(Exit::Done)
}

/// Makes an empty place a copy. What was done, and whether the signing key that lay in it was sealed for others.
async fn make_copy(
    primary: &dyn Store,
    copy: &ArchiveUrl,
    key: &WriterKey,
    wrappers: &[Wrapper],
) -> anyhow::Result<(String, bool)> {
    let (store, url) = (open::archive_store(copy).await?, copy.place());
    let made = standing(primary, &*store).await? == Standing::Empty;
    if made {
        begin_copy(primary, &*store).await?;
    }
    copies::require(primary, &*store, copy).await?;
    let sealed = Archive::open(store, &url).await?;
    let sealed = sealed.seal_writer_key(key, wrappers).await?;
    let state = if made { "made" } else { "was there already" };
    Ok((format!("copy at {url} {state}"), sealed && !made))
}

/// An archive that is gone while a copy of it is there was not mounted, or lost: a new one would be another one.
async fn refuse_beside_a_copy(config: &Config) -> anyhow::Result<()> {
    for copy in &config.archive.copies {
        let url = copy.url.place();
        let store = open::archive_store(&copy.url).await?;
        match Archive::open(store, &url).await {
            Err(ArchiveError::Absent { .. }) => {}
            Err(error) => return Err(error).context("look at a copy"),
            Ok(archive) => {
                let message = format!(
                    "{} holds no archive, and its copy {url} holds archive {}",
                    config.archive.url.place(),
                    archive.id()
                );
                let hint = "mount the file system that it lies on; an archive that is lost comes back with pitr-tool sync --back";
                return Err(Refusal::new(Exit::Unavailable, message).hint(hint).into());
            }
        }
    }
    Ok(())
}

/// The signing key: the one in its file, a new one for a new archive, otherwise the archive's own, brought back.
async fn signing_key(
    place: &Place,
    config: &Config,
    existing: Option<&Archive>,
) -> anyhow::Result<WriterKey> {
    let file = &config.archive.signing_key_file;
    if file.exists() {
        return WriterKey::load(file).context("load the signing key");
    }
    let key = match existing {
        None => WriterKey::generate(),
        Some(archive) => {
            let Some(opener) = place.opener(Some(config))? else {
                let message = format!(
                    "the archive exists and its signing key is not in {}",
                    file.display()
                );
                let hint = "give --identity FILE: the key is brought back from the archive";
                return Err(Refusal::new(Exit::Keys, message).hint(hint).into());
            };
            let key = archive.recover_writer_key(&opener).await;
            key.context("bring the signing key back")?
        }
    };
    key.save(file).context("save the signing key")?;
    Ok(key)
}

/// Whose archive it will be.
struct Owner {
    engine: String,
    properties: BTreeMap<String, String>,
    /// For people.
    name: String,
}

/// Whose archive it is. The server is compared with it where it answers; the keys come back also while it is down.
async fn ask_again(config: &Config, archive: &Archive) -> anyhow::Result<Owner> {
    match ask_source(config).await {
        Ok(owner) => {
            archive.check_source(&owner.engine, &owner.properties)?;
            Ok(owner)
        }
        Err(error) if classify(&error).0 == Exit::Unavailable => {
            output::note(&format!(
                "the server does not answer, so whether this archive is its own was not looked at: {error:#}"
            ));
            Ok(Owner {
                engine: archive.engine().into(),
                properties: archive.source().clone(),
                name: "the server that made it".into(),
            })
        }
        Err(error) => Err(error),
    }
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
        engine: ENGINE.into(),
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
        engine: pitr_mongodb::ENGINE.into(),
        properties: server.source.properties(),
        name: format!("replica set {}", server.source),
    })
}
