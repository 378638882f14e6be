//! What a configuration names, opened: the connection with its password, the keys, the archive, its writer. Between
//! [`crate::config`], which reads text, and whoever does the work; used by the daemon and by `pitr-tool`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use pitr_archive::Archive;
use pitr_archive::keys::{KeyError, KeyFile, Wrapper, WriterKey, read_password_file};
use pitr_archive::store::{DirectoryStore, S3Store, SharedStore};
use pitr_archive::writer::Writer;
use pitr_postgres::connect::ConnInfo;

use crate::config::{ArchiveUrl, Config, Encryption, MongodbSource, PostgresSource, SourceConfig};
use crate::copies::{self, Follower};
use crate::exit::{Exit, Refusal};

/// How to connect to the source. The application name, by which `synchronous_standby_names` knows us, is the slot's
/// unless the connection string gives another.
pub fn connection(source: &PostgresSource) -> anyhow::Result<ConnInfo> {
    let mut info =
        ConnInfo::parse(&source.connection).context("read connection in [source.postgres]")?;
    info.default_application_name(&source.slot);
    if let Some(path) = &source.password_file {
        require_password(path)?;
        info.set_password_file(path.clone());
    }
    Ok(info)
}

/// How to connect to a MongoDB source.
pub async fn mongodb(source: &MongodbSource) -> anyhow::Result<pitr_mongodb::Connection> {
    let connection = deployment(&source.uri, source.password_file.as_deref()).await;
    connection.context("read uri in [source.mongodb]")
}

/// How to connect to any deployment of MongoDB.
pub async fn deployment(
    uri: &str,
    password_file: Option<&Path>,
) -> anyhow::Result<pitr_mongodb::Connection> {
    password_file.map(require_password).transpose()?;
    Ok(pitr_mongodb::Connection::parse(uri, password_file).await?)
}

/// The PostgreSQL source of a configuration, for what only PostgreSQL has.
pub fn postgres(config: &Config) -> anyhow::Result<&PostgresSource> {
    match &config.source {
        SourceConfig::Postgres(source) => Ok(source),
        SourceConfig::Mongodb(_) => {
            let message =
                "the archive is PostgreSQL's and the configuration names a MongoDB source";
            Err(Refusal::new(Exit::Usage, message).into())
        }
    }
}

/// Looks whether a password file can be used. Who connects reads it again, so that the password can be changed meanwhile.
pub fn require_password(path: &Path) -> anyhow::Result<()> {
    read_password_file(path)
        .map(drop)
        .map_err(|error| Refusal::new(Exit::Keys, error.to_string()).into())
}

/// What data keys are wrapped with.
pub fn wrappers(encryption: &Encryption) -> anyhow::Result<Vec<Wrapper>> {
    match encryption {
        Encryption::Recipients(recipients) => {
            Ok(recipients.iter().cloned().map(Wrapper::Recipient).collect())
        }
        Encryption::KeyFile(path) => Ok(vec![Wrapper::KeyFile(KeyFile::load(path)?)]),
    }
}

/// The store of an archive. Nothing is asked of it yet.
pub async fn archive_store(url: &ArchiveUrl) -> anyhow::Result<SharedStore> {
    Ok(match url {
        ArchiveUrl::File(path) => Arc::new(DirectoryStore::new(path.clone())),
        ArchiveUrl::S3(settings) => {
            let store = S3Store::connect(settings.as_ref().clone()).await;
            Arc::new(store.context("open the archive's store")?)
        }
    })
}

/// The archive at `url`, which must exist.
pub async fn archive(url: &ArchiveUrl) -> anyhow::Result<Arc<Archive>> {
    let archive = Archive::open(archive_store(url).await?, &url.place()).await;
    archive.context("open the archive")
}

/// The signing key, which `pitr-tool init` makes: that it has not run yet is the first thing that goes wrong.
fn signing_key(path: &Path) -> anyhow::Result<WriterKey> {
    match WriterKey::load(path) {
        Err(KeyError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            let message = format!("there is no signing key: {} does not exist", path.display());
            let hint = "pitr-tool init --config FILE makes it with the archive; with --identity FILE it brings a lost one back";
            Err(Refusal::new(Exit::Keys, message).hint(hint).into())
        }
        loaded => loaded.context("load the signing key"),
    }
}

/// The writer of the configuration's archive: whoever puts anything into it.
pub async fn writer(config: &Config) -> anyhow::Result<Arc<Writer>> {
    Ok(writer_and_copies(config).await?.0)
}

/// The writer, and the copies of the archive that follow on their own, not started yet.
pub async fn writer_and_copies(config: &Config) -> anyhow::Result<(Arc<Writer>, Vec<Follower>)> {
    let key = signing_key(&config.archive.signing_key_file)?;
    let wrappers = wrappers(&config.encryption)?;
    let (store, followers) = copies::writing(&config.archive).await?;
    let archive = Archive::open(store, &config.archive.url.place()).await;
    let archive = archive.context("open the archive")?;
    let writer = Writer::new(archive, key, wrappers).context("open the archive for writing")?;
    Ok((writer, followers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_that_cannot_be_used_is_a_matter_of_keys() {
        let error = require_password(Path::new("/nonexistent/password")).unwrap_err();
        assert_eq!(crate::exit::classify(&error).0, Exit::Keys);
    }

    #[test]
    fn the_application_name_is_the_slot_unless_the_connection_names_one() {
        let source = |connection: &str| PostgresSource {
            connection: connection.into(),
            slot: "orders".into(),
            password_file: None,
            allow_standby: false,
            create_slot: true,
            wal_directory: None,
        };
        let name = |text: &str| connection(&source(text)).unwrap().application_name;
        assert_eq!(name("host=/run user=u").as_deref(), Some("orders"));
        assert_eq!(
            name("host=/run user=u application_name=a").as_deref(),
            Some("a")
        );
    }
}
