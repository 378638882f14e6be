//! What goes wrong on a replication connection, sorted by what the caller does next.

use std::io;
use std::time::Duration;

use super::decode::DecodeError;
use crate::connect::ServerError;

/// After any of these the connection is gone, unless the method says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplicationError {
    /// The connection broke: reconnect.
    #[error("the connection to the server was lost: {0}")]
    Lost(#[source] io::Error),
    /// The server did not answer, or took none of our bytes, for this long: reconnect.
    #[error("the server did not {what} within {after:?}")]
    TimedOut {
        /// What it should have done.
        what: &'static str,
        /// The limit.
        after: Duration,
    },
    /// The server has sent all of its WAL and is shutting down: reconnect.
    #[error("the server ended the stream because it is shutting down")]
    ShuttingDown,
    /// Another process streams from the slot, perhaps our own previous connection: wait, reconnect.
    #[error("the replication slot is in use: {0}")]
    SlotActive(Box<ServerError>),
    /// There is no such slot: create one, and find out what was lost.
    #[error("the replication slot does not exist: {0}")]
    SlotMissing(Box<ServerError>),
    /// The server no longer has the WAL that was asked for: a gap.
    #[error("the server no longer has this WAL: {0}")]
    WalRemoved(Box<ServerError>),
    /// Anything else the server said.
    #[error("the server refused: {0}")]
    Server(Box<ServerError>),
    /// The request cannot be made of this server, or has no form on the wire.
    #[error("{0}")]
    Unsupported(String),
    /// The server broke the protocol: reconnect, and tell somebody.
    #[error("the server broke the replication protocol: {0}")]
    Protocol(String),
}

impl ReplicationError {
    /// True when trying again changes nothing until somebody acts.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::SlotMissing(_) | Self::WalRemoved(_) | Self::Unsupported(_) => true,
            Self::Server(error) => error.is_permanent(),
            Self::Lost(_)
            | Self::TimedOut { .. }
            | Self::ShuttingDown
            | Self::SlotActive(_)
            | Self::Protocol(_) => false,
        }
    }

    /// An error in answer to a command.
    pub(super) fn from_server(error: ServerError) -> Self {
        let error = Box::new(error);
        match error.code.as_str() {
            "55006" => Self::SlotActive(error),
            _ => Self::Server(error),
        }
    }

    /// An error in answer to a command that uses a slot.
    pub(super) fn about_slot(self) -> Self {
        match self {
            Self::Server(error) if error.code == "42704" => Self::SlotMissing(error),
            other => other,
        }
    }

    /// An error while WAL is asked for or sent: a file that is not there is a WAL segment.
    pub(super) fn about_wal(self) -> Self {
        match self {
            Self::Server(error) if error.code == "58P01" => Self::WalRemoved(error),
            other => other.about_slot(),
        }
    }

    pub(super) fn unexpected(tag: u8, when: &str) -> Self {
        Self::Protocol(format!("a message of type 0x{tag:02X} {when}"))
    }
}

impl From<DecodeError> for ReplicationError {
    fn from(error: DecodeError) -> Self {
        Self::Protocol(error.0)
    }
}
