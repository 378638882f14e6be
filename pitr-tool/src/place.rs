//! Which archive a command means and what opens it: `--config` or `--archive`, `--identity` or `--key-file`, before or
//! after the subcommand. Every subcommand that touches an archive starts here.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context;
use pitr_archive::keys::{Identity, KeyFile, Opener};
use pitr_archive::{Archive, Reading};
use pitrd::config::{ArchiveUrl, Config, Encryption};
use pitrd::exit::{Exit, Refusal};
use pitrd::{copies, open};

/// The environment variable that names the configuration when nothing on the command line does.
const CONFIG_VARIABLE: &str = "PITRD_CONFIG";

/// The options that name an archive.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// Configuration file of the daemon; PITRD_CONFIG names it as well
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "archive")]
    pub config: Option<PathBuf>,
    /// The archive itself, where there is no configuration: file:///absolute/path or s3://bucket/prefix; again for each copy
    #[arg(long, global = true, value_name = "URL")]
    pub archive: Vec<ArchiveUrl>,
    /// Identity that opens the archive, as keygen made it
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "key_file")]
    pub identity: Option<PathBuf>,
    /// Key file that opens the archive
    #[arg(long, global = true, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
}

impl Place {
    /// The configuration, where one is named; `Ok(None)` with `--archive`.
    pub fn config(&self) -> anyhow::Result<Option<Config>> {
        if !self.archive.is_empty() {
            return Ok(None);
        }
        let variable = std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty());
        let path = self.config.clone().or(variable.map(PathBuf::from));
        Ok(path.as_deref().map(Config::load).transpose()?)
    }

    /// The configuration, for a command that cannot do without.
    pub fn require_config(&self) -> anyhow::Result<Config> {
        let missing = || {
            let hint = "the file names the server and the keys, the archive alone does not";
            Refusal::new(Exit::Usage, "this command needs --config FILE").hint(hint)
        };
        Ok(self.config()?.ok_or_else(missing)?)
    }

    /// Where the archive and its copies lie, the archive first; `config` is what [`Self::config`] returned.
    pub fn urls(&self, config: Option<&Config>) -> anyhow::Result<Vec<ArchiveUrl>> {
        let mut urls = vec![self.url(config)?];
        let copies = config.map_or(&[][..], |config| &config.archive.copies);
        urls.extend(self.archive.iter().skip(1).cloned());
        urls.extend(copies.iter().map(|copy| copy.url.clone()));
        Ok(urls)
    }

    /// Where the archive lies; `config` is what [`Self::config`] returned.
    pub fn url(&self, config: Option<&Config>) -> anyhow::Result<ArchiveUrl> {
        let configured = || config.map(|config| config.archive.url.clone());
        let missing = || {
            let hint = "for example --archive s3://bucket/orders, or --archive file:///var/lib/pitrd/orders";
            Refusal::new(
                Exit::Usage,
                "no archive is named; give --config FILE or --archive URL",
            )
            .hint(hint)
        };
        Ok(self
            .archive
            .first()
            .cloned()
            .or_else(configured)
            .ok_or_else(missing)?)
    }

    /// What the caller opens with, if anything: an option first, then the configuration's key file.
    pub fn opener(&self, config: Option<&Config>) -> anyhow::Result<Option<Opener>> {
        if let Some(path) = &self.identity {
            return Ok(Some(Opener::Identity(Identity::load(path)?)));
        }
        let configured = config.and_then(|config| match &config.encryption {
            Encryption::KeyFile(path) => Some(path.as_path()),
            Encryption::Recipients(_) => None,
        });
        let path: Option<&Path> = self.key_file.as_deref().or(configured);
        let opener = path.map(|path| KeyFile::load(path).map(Opener::KeyFile));
        Ok(opener.transpose()?)
    }

    /// What the caller opens with, for a command that reads what is sealed.
    pub fn require_opener(&self, config: Option<&Config>) -> anyhow::Result<Opener> {
        let missing = || {
            let hint = "the archive is encrypted; give --identity FILE, the file that pitr-tool keygen wrote";
            Refusal::new(Exit::Keys, "no key was given").hint(hint)
        };
        Ok(self.opener(config)?.ok_or_else(missing)?)
    }

    /// The archive, for a command that reads its catalogue; `config` is what [`Self::config`] returned.
    pub async fn open(&self, config: Option<&Config>) -> anyhow::Result<Arc<Archive>> {
        let urls = self.urls(config)?;
        let store = copies::reading(&urls).await?;
        let archive = Archive::open_listed(store, &urls[0].place()).await;
        archive.context("open the archive")
    }

    /// The archive without its copies, for a command that looks for damage in it.
    pub async fn open_alone(&self, config: Option<&Config>) -> anyhow::Result<Arc<Archive>> {
        open::archive(&self.url(config)?).await
    }

    /// The archive and what opens it, for a command that reads its log and lists nothing.
    pub async fn reading_log(&self, config: Option<&Config>) -> anyhow::Result<Reading> {
        let opener = self.require_opener(config)?;
        let urls = self.urls(config)?;
        let store = copies::reading(&urls).await?;
        let archive = Archive::open(store, &urls[0].place()).await;
        Ok(Reading::new(archive.context("open the archive")?, opener))
    }

    /// The archive and what opens it, for a command that reads what is sealed.
    pub async fn reading(&self, config: Option<&Config>) -> anyhow::Result<Reading> {
        let opener = self.require_opener(config)?;
        Ok(Reading::new(self.open(config).await?, opener))
    }
}
