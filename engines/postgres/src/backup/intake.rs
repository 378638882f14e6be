//! The messages of BASE_BACKUP → contents appended to the archive, entries noted for the manifest.
//!
//! One pass: contents go into the archive as windows of what was received, and each file's checksum is taken on the way, so
//! that at the end all of it is held against PostgreSQL's manifest.

use std::collections::HashMap;
use std::path::PathBuf;

use pitr_archive::writer::BackupWriter;

use super::check::{Arrived, check};
use super::error::BackupError;
use super::manifest::{Contents, Entry, EntryKind, Tablespace};
use crate::replication::BackupMessage;
use crate::tar::{TarEntry, TarEvent, TarKind, TarReader};

const TABLESPACES: &str = "pg_tblspc";
const MAIN_ARCHIVE: &str = "base.tar";

/// The tar archive that is being received.
struct Tar {
    name: String,
    reader: TarReader,
    place: Place,
}

/// Where the names of an archive belong.
struct Place {
    tablespace: Option<u32>,
    /// In front of them in our manifest.
    prefix: String,
    /// In front of them in PostgreSQL's manifest.
    postgres_prefix: String,
}

enum Receiving {
    Nothing,
    Archive(Box<Tar>),
    Manifest(Vec<u8>),
}

/// Takes in a base backup.
pub(super) struct Intake {
    writer: BackupWriter,
    receiving: Receiving,
    tablespaces: Vec<Tablespace>,
    main_seen: bool,
    noted: Noted,
    /// The contents in one message.
    contents: Vec<u8>,
}

/// What is known of the names so far.
#[derive(Default)]
struct Noted {
    entries: Vec<Entry>,
    arrived: HashMap<PathBuf, Arrived>,
    /// The file whose contents are arriving, as PostgreSQL's manifest names it.
    open: Option<(PathBuf, Arrived)>,
    /// A name that our manifest cannot hold.
    unfit: Option<PathBuf>,
}

/// All that arrived, checked.
pub(super) struct Whole {
    pub(super) writer: BackupWriter,
    pub(super) entries: Vec<Entry>,
    pub(super) tablespaces: Vec<Tablespace>,
    pub(super) postgres_manifest: Vec<u8>,
    pub(super) postgres_manifest_at: Contents,
}

impl Intake {
    pub(super) fn new(writer: BackupWriter) -> Self {
        Self {
            writer,
            receiving: Receiving::Nothing,
            tablespaces: Vec::new(),
            main_seen: false,
            noted: Noted::default(),
            contents: Vec::new(),
        }
    }

    /// Bytes of contents so far.
    pub(super) fn position(&self) -> u64 {
        self.writer.position()
    }

    /// Takes the next message.
    pub(super) async fn take(&mut self, message: BackupMessage) -> Result<(), BackupError> {
        match message {
            BackupMessage::Archive { name, location } => {
                self.close()?;
                let tar = self.open_archive(name, location)?;
                self.receiving = Receiving::Archive(Box::new(tar));
            }
            BackupMessage::Manifest => {
                self.close()?;
                self.receiving = Receiving::Manifest(Vec::new());
            }
            BackupMessage::Data(bytes) => match &mut self.receiving {
                Receiving::Archive(_) => self.contents(&bytes).await?,
                Receiving::Manifest(manifest) => manifest.extend_from_slice(&bytes),
                Receiving::Nothing => {
                    return Err(BackupError::Stream("bytes before any archive".into()));
                }
            },
            BackupMessage::Progress(_) => {}
        }
        Ok(())
    }

    /// The server has sent everything: refuses it unless all that PostgreSQL's manifest lists has arrived as it says.
    pub(super) async fn finish(mut self) -> Result<Whole, BackupError> {
        let Receiving::Manifest(manifest) =
            std::mem::replace(&mut self.receiving, Receiving::Nothing)
        else {
            return Err(BackupError::Stream("it ended without a manifest".into()));
        };
        if !self.main_seen {
            return Err(BackupError::Stream(
                "the data directory was not sent".into(),
            ));
        }
        let Noted {
            entries, arrived, ..
        } = self.noted;
        let checked =
            tokio::task::spawn_blocking(move || check(&manifest, &arrived).map(|()| manifest));
        let manifest = checked
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        let postgres_manifest_at = Contents {
            offset: self.writer.position(),
            bytes: manifest.len() as u64,
        };
        self.writer.append(&manifest).await?;
        Ok(Whole {
            writer: self.writer,
            entries,
            tablespaces: self.tablespaces,
            postgres_manifest: manifest,
            postgres_manifest_at,
        })
    }

    /// Ends the archive that is being received.
    fn close(&mut self) -> Result<(), BackupError> {
        match std::mem::replace(&mut self.receiving, Receiving::Nothing) {
            Receiving::Nothing => Ok(()),
            Receiving::Archive(tar) => {
                let archive = tar.name;
                let ended = tar.reader.finish();
                ended.map_err(|error| BackupError::Tar { archive, error })
            }
            Receiving::Manifest(_) => {
                Err(BackupError::Stream("it goes on behind its manifest".into()))
            }
        }
    }

    fn open_archive(&mut self, name: String, location: String) -> Result<Tar, BackupError> {
        let place = if name == MAIN_ARCHIVE && location.is_empty() && !self.main_seen {
            self.main_seen = true;
            Place {
                tablespace: None,
                prefix: String::new(),
                postgres_prefix: String::new(),
            }
        } else {
            let oid = name.strip_suffix(".tar").and_then(|oid| oid.parse().ok());
            let oid: u32 = oid.filter(|_| !location.is_empty()).ok_or_else(|| {
                BackupError::Stream(format!("an archive of an unknown name: {name:?}"))
            })?;
            let below = format!("{TABLESPACES}/{oid}/");
            if location.starts_with('/') {
                self.tablespaces.push(Tablespace { oid, location });
                Place {
                    tablespace: Some(oid),
                    prefix: String::new(),
                    postgres_prefix: below,
                }
            } else {
                // A tablespace inside the data directory is a part of it: it has no place of its own that could be mapped.
                Place {
                    tablespace: None,
                    prefix: below.clone(),
                    postgres_prefix: below,
                }
            }
        };
        let reader = TarReader::new();
        Ok(Tar {
            name,
            reader,
            place,
        })
    }

    async fn contents(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        let Receiving::Archive(tar) = &mut self.receiving else {
            return Ok(());
        };
        let Tar {
            name,
            reader,
            place,
        } = &mut **tar;
        let (noted, contents) = (&mut self.noted, &mut self.contents);
        contents.clear();
        let position = self.writer.position();
        let read = reader.feed(bytes, &mut |event| match event {
            TarEvent::Entry(entry) => noted.begin(entry, place, position + contents.len() as u64),
            TarEvent::Data(data) => {
                if let Some((_, file)) = &mut noted.open {
                    file.add(data);
                }
                contents.extend_from_slice(data);
            }
            TarEvent::EndOfEntry => noted.arrived.extend(noted.open.take()),
            TarEvent::EndOfArchive => {}
        });
        read.map_err(|error| BackupError::Tar {
            archive: name.clone(),
            error,
        })?;
        if let Some(path) = noted.unfit.take() {
            return Err(BackupError::Name(path));
        }
        Ok(self.writer.append(&self.contents).await?)
    }
}

impl Noted {
    /// A name begins, its contents lie at `offset`.
    fn begin(&mut self, entry: TarEntry, place: &Place, offset: u64) {
        let Some(path) = entry.path.to_str() else {
            self.unfit = Some(entry.path);
            return;
        };
        let kind = match entry.kind {
            TarKind::File => {
                let name = format!("{}{path}", place.postgres_prefix).into();
                self.open = Some((name, Arrived::default()));
                let bytes = entry.size;
                EntryKind::File(Contents { offset, bytes })
            }
            TarKind::Directory => EntryKind::Directory,
            TarKind::Symlink { target } => match target.into_os_string().into_string() {
                Ok(target) => EntryKind::Symlink(target),
                Err(target) => {
                    self.unfit = Some(target.into());
                    return;
                }
            },
        };
        self.entries.push(Entry {
            tablespace: place.tablespace,
            path: format!("{}{path}", place.prefix),
            kind,
            mode: entry.mode,
            mtime: i64::try_from(entry.mtime).unwrap_or(i64::MAX),
        });
    }
}

#[cfg(test)]
pub(super) mod synthetic;
#[cfg(test)]
mod tests;
