//! Which of a source's two logs an archive holds. The oplog is complete; a change stream passes through what hosted deployments
//! allow, and what it cannot see is said here, once.

use std::sync::Arc;

use bson::raw::RawDocument;
use pitr_archive::Archive;
use pitr_archive::catalogue::Catalogue;
use pitr_archive::object::StreamName;
use pitr_archive::reader::LogReader;

use crate::entry::{EntryError, Head, split_documents};
use crate::{EVENTS_STREAM, EngineError, OPLOG_STREAM, SourceError};

/// A log of a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogKind {
    /// `local.oplog.rs`, entry by entry.
    #[default]
    Oplog,
    /// A change stream over the whole deployment, event by event.
    Events,
}

impl LogKind {
    /// The stream that holds it.
    ///
    /// # Panics
    /// Never: both names are ones of streams.
    #[must_use]
    pub fn stream(self) -> StreamName {
        let name = match self {
            Self::Oplog => OPLOG_STREAM,
            Self::Events => EVENTS_STREAM,
        };
        StreamName::new(name).expect("letters are the name of a stream")
    }

    /// Whose log `stream` holds.
    #[must_use]
    pub fn of(stream: &StreamName) -> Self {
        if stream.as_str() == EVENTS_STREAM {
            Self::Events
        } else {
            Self::Oplog
        }
    }

    /// What an archive holds. One that is empty may become either.
    #[must_use]
    pub fn archived(catalogue: &Catalogue) -> Self {
        match catalogue.stream(EVENTS_STREAM) {
            Some(_) => Self::Events,
            None => Self::Oplog,
        }
    }

    /// As the configuration calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Oplog => "oplog",
            Self::Events => "change-stream",
        }
    }

    /// What happens on a source and does not stand in this log.
    #[must_use]
    pub const fn cannot_see(self) -> &'static [&'static str] {
        match self {
            Self::Oplog => &[],
            Self::Events => &[
                "users and roles, and whatever else lies in the database admin: a restore brings what the base copy found",
                "a change of the feature compatibility version: noticed by asking every ten seconds, where the account may ask",
            ],
        }
    }

    /// The head of an entry; `None` of what the daemon wrote itself.
    pub fn head(self, entry: &RawDocument) -> Result<Option<Head<'_>>, EntryError> {
        match self {
            Self::Oplog => Head::read(entry).map(Some),
            Self::Events => Head::read_event(entry),
        }
    }

    /// The source's entries that lie end to end in `bytes`, each with its head.
    pub fn entries(
        self,
        bytes: &[u8],
    ) -> impl Iterator<Item = Result<(Head<'_>, &RawDocument), EntryError>> {
        split_documents(bytes).filter_map(move |document| {
            let read = document.and_then(|document| Ok((self.head(document)?, document)));
            match read {
                Ok((head, document)) => head.map(|head| Ok((head, document))),
                Err(error) => Some(Err(error)),
            }
        })
    }

    /// Refuses an archive that holds the other log: an archive has one, and no moment between the two could be restored.
    pub(crate) async fn check(self, archive: &Arc<Archive>) -> Result<(), EngineError> {
        let other = match self {
            Self::Oplog => Self::Events,
            Self::Events => Self::Oplog,
        };
        let reader = LogReader::new(Arc::clone(archive), other.stream());
        if reader.end().await?.last.is_none() {
            return Ok(());
        }
        Err(SourceError::OtherLog {
            archived: other.name(),
            wanted: self.name(),
        }
        .into())
    }
}
