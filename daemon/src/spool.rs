//! The spool of the configuration, opened for the one daemon that uses it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::sync::Arc;

use anyhow::Context;
use pitr_archive::store::DirectoryStore;
use pitr_archive::writer::{Spool, SpoolFill, Writer};

use crate::config::{SpoolConfig, show_bytes};
use crate::exit::{Exit, Refusal};

/// Held while this process uses the spool.
#[derive(Debug)]
pub struct Using {
    _lock: File,
}

/// Lets `writer` use the spool that `config` names.
///
/// # Errors
/// If the directory cannot be used, another process uses it, or it is another archive's.
pub async fn attach(config: &SpoolConfig, writer: &Arc<Writer>) -> anyhow::Result<Using> {
    let id = writer.archive().id();
    let root = config.directory.join(id.to_string());
    let name = root.display();
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&root)
        .with_context(|| format!("make the spool {name}"))?;
    let mut options = fs::OpenOptions::new();
    let options = options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options
        .open(root.join(".lock"))
        .with_context(|| format!("open the spool {name}"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let message = format!("another pitrd uses the spool {name}");
            return Err(Refusal::new(Exit::Fenced, message).into());
        }
        Err(TryLockError::Error(error)) => {
            return Err(error).with_context(|| format!("lock the spool {name}"));
        }
    }
    let medium = Arc::new(DirectoryStore::new(root.clone()));
    let spool = Spool::open(medium, config.bytes_max, id).await;
    writer.use_spool(spool.with_context(|| format!("read the spool {name}"))?);
    Ok(Using { _lock: lock })
}

/// What an operator should know of it, if anything.
#[must_use]
pub fn remark(fill: SpoolFill) -> Option<String> {
    let SpoolFill {
        objects,
        bytes,
        aside_bytes,
        bytes_max,
    } = fill;
    let all = show_bytes(bytes_max);
    let held = (objects > 0).then(|| format!("{} of {all} in the spool", show_bytes(bytes)));
    let aside = (aside_bytes > 0).then(|| {
        let bytes = show_bytes(aside_bytes);
        format!("{bytes} were SET ASIDE in the spool: see docs/operations.md")
    });
    match (held, aside) {
        (Some(held), Some(aside)) => Some(format!("{held}; {aside}")),
        (held, aside) => held.or(aside),
    }
}
