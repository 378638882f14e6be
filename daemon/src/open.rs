//! What a configuration names, opened: the connection with its password, the keys, the archive, its writer. Between
//! [`crate::config`], which reads text, and whoever does the work; used by the daemon and by `pitr-tool`.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use pitr_archive::Archive;
use pitr_archive::keys::{KeyError, KeyFile, Wrapper, WriterKey, is_private};
use pitr_archive::store::{DirectoryStore, S3Store, SharedStore};
use pitr_archive::writer::Writer;
use pitr_postgres::connect::{ConnInfo, Secret};

use crate::config::{ArchiveUrl, Config, Encryption, MongodbSource, PostgresSource, SourceConfig};
use crate::copies::{self, Follower};
use crate::exit::{Exit, Refusal};

/// A password longer than this is a wrong file.
const PASSWORD_BYTES_MAX: usize = 4096;

/// How to connect to the source. The application name, by which `synchronous_standby_names` knows us, is the slot's
/// unless the connection string gives another.
pub fn connection(source: &PostgresSource) -> anyhow::Result<ConnInfo> {
    let mut info =
        ConnInfo::parse(&source.connection).context("read connection in [source.postgres]")?;
    info.default_application_name(&source.slot);
    if let Some(path) = &source.password_file {
        info.set_password(password(path)?);
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
    let password = password_file.map(password_line).transpose()?;
    let password = password.map(|line| {
        let text = String::from_utf8(line);
        text.map_err(|_| Refusal::new(Exit::Keys, "the password file does not hold text"))
    });
    Ok(pitr_mongodb::Connection::parse(uri, password.transpose()?).await?)
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

/// Reads a password file: one line, readable by its owner only.
pub fn password(path: &Path) -> anyhow::Result<Secret> {
    Ok(Secret::new(password_line(path)?))
}

fn password_line(path: &Path) -> anyhow::Result<Vec<u8>> {
    let name = path.display();
    let refuse = |message: String| Refusal::new(Exit::Keys, message);
    let mode = std::fs::metadata(path)
        .map_err(|error| refuse(format!("password file {name}: {error}")))?
        .permissions()
        .mode();
    if !is_private(path, mode) {
        let message = format!(
            "password file {name} can be read by others (mode {:03o})",
            mode & 0o777
        );
        return Err(refuse(message)
            .hint(format!("run: chmod 600 {name}"))
            .into());
    }
    let bytes =
        std::fs::read(path).map_err(|error| refuse(format!("password file {name}: {error}")))?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty()
        || line.len() > PASSWORD_BYTES_MAX
        || line.contains(&b'\n')
        || line.contains(&0)
    {
        let hint = "write the password, and nothing else, into it";
        return Err(refuse(format!(
            "password file {name} does not hold one line with a password"
        ))
        .hint(hint)
        .into());
    }
    Ok(line.to_vec())
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

    fn file(name: &str, text: &[u8], mode: u32) -> (std::path::PathBuf, Temporary) {
        let directory =
            std::env::temp_dir().join(format!("pitrd-open-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("password");
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        (path, Temporary(directory))
    }

    struct Temporary(std::path::PathBuf);

    impl Drop for Temporary {
        fn drop(&mut self) {
            std::fs::remove_dir_all(&self.0).unwrap();
        }
    }

    #[test]
    fn a_password_is_the_one_line_of_its_file() {
        let (path, _kept) = file("line", b"p w\r\n", 0o600);
        assert_eq!(password(&path).unwrap(), Secret::new(b"p w".to_vec()));
    }

    #[test]
    fn a_password_file_that_others_can_read_is_refused() {
        let (path, _kept) = file("mode", b"p\n", 0o640);
        let error = password(&path).unwrap_err();
        let (exit, hint) = crate::exit::classify(&error);
        assert_eq!(exit, Exit::Keys);
        assert!(hint.unwrap().starts_with("run: chmod 600 "));
    }

    #[test]
    fn a_file_that_is_no_password_is_refused_without_quoting_it() {
        for (at, text) in [b"".as_slice(), b"\n", b"canary\ntwo", b"canary\0"]
            .iter()
            .enumerate()
        {
            let (path, _kept) = file(&format!("wrong{at}"), text, 0o600);
            let error = password(&path).unwrap_err();
            assert!(!format!("{error:#}").contains("canary"), "{error:#}");
        }
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
