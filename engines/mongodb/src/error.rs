//! What can go wrong with a source, by what the caller does next.

use mongodb::error::ErrorKind;
use pitr_archive::ArchiveError;

use crate::server_error::{ServerError, without_command};
use crate::source::SourceError;

const UNAUTHORIZED: [i32; 2] = [13, 8000];
const AUTHENTICATION_FAILED: i32 = 18;

/// An end of work with a source.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The connection string cannot be used.
    #[error("uri in [source.mongodb]: {0}")]
    Uri(String),
    /// The password file cannot be used.
    #[error("{0}")]
    PasswordFile(String),
    /// The server does not let us do what we need.
    #[error("the server refuses {what}: {message}")]
    Refused {
        /// What was asked.
        what: &'static str,
        /// What it says.
        message: String,
    },
    /// The server shows a certificate that proves nothing to us.
    #[error(
        "the server's certificate is not one that we can trust: {0}; tlsCAFile in the uri names the authority that vouches for it, and the \
         certificate has to be made for the host that the uri names"
    )]
    Certificate(String),
    /// The server or the way to it failed.
    #[error("the server: {0}")]
    Server(ServerError),
    /// The server said something that it never says.
    #[error("the server's answer has no {0}")]
    Answer(&'static str),
    /// The server is not the archive's source, or none that we can read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The archive failed.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// A member that has less than what is archived: one that lags, or a set that was restored from an older copy.
    #[error(
        "the server's majority has only reached {majority}, and {durable} is archived; waiting for it"
    )]
    Behind {
        /// The server's.
        majority: crate::ClusterTime,
        /// Ours.
        durable: crate::ClusterTime,
    },
    /// The source no longer has what was asked for.
    #[error("the server no longer has the changes that were asked for: its oplog has rolled over")]
    HistoryLost,
    /// An event that the server cannot send: all of it, and what it tells beside the change, has to fit into one reply.
    #[error(
        "the server cannot send an event of the change stream, which is too large: {name} (code {code})"
    )]
    Unsendable {
        /// The server's code.
        code: i32,
        /// Its name.
        name: String,
    },
    /// More events of one transaction than are taken.
    #[error("a transaction's events are more than {0} bytes")]
    TooLarge(usize),
    /// A change stream ended. What servers say then can hold a resume token, and so a document's `_id`: only the code is passed on.
    #[error("the change stream ended with {name} (code {code})")]
    Stream {
        /// The server's code.
        code: i32,
        /// Its name.
        name: String,
    },
    /// The server sent entries that do not continue what it sent before.
    #[error("the source's log jumped: {0}")]
    Jumped(String),
    /// What is archived is not restorable by the way it would be taken.
    #[error("{0}")]
    Unsupported(String),
}

impl From<mongodb::error::Error> for EngineError {
    fn from(error: mongodb::error::Error) -> Self {
        match &*error.kind {
            ErrorKind::Authentication { message, .. } => Self::login(message),
            ErrorKind::Command(command) if command.code == AUTHENTICATION_FAILED => {
                Self::login(&command.message)
            }
            ErrorKind::Command(command) if UNAUTHORIZED.contains(&command.code) => Self::Refused {
                what: "a command",
                message: without_command(&command.message).to_owned(),
            },
            ErrorKind::ServerSelection { message, .. } => certificate(message)
                .map_or_else(|| Self::Server(error.clone().into()), Self::Certificate),
            _ => Self::Server(error.into()),
        }
    }
}

/// What TLS says of a certificate that it refused, out of the driver's description of all members.
fn certificate(message: &str) -> Option<String> {
    let (_, after) = message.split_once("invalid peer certificate: ")?;
    let end = after.find([',', '}']).unwrap_or(after.len());
    Some(after[..end].trim().to_owned())
}

impl EngineError {
    fn login(message: &str) -> Self {
        let remedy =
            "give the account's present password; password_file is read again for every session";
        Self::Refused {
            what: "the login",
            message: format!("{message}; {remedy}"),
        }
    }

    /// True if waiting cannot help. A server that let us in once is waited for whatever it says: passwords expire and are renewed.
    #[must_use]
    pub fn is_permanent(&self, streamed_once: bool) -> bool {
        match self {
            // The position is read back from the store, and the server sends the entries again.
            Self::Archive(ArchiveError::Discontinuous { .. }) => false,
            Self::Archive(error) => error.is_permanent(),
            Self::Source(SourceError::NotInitiated) => false,
            Self::Source(_) => true,
            Self::Uri(_)
            | Self::PasswordFile(_)
            | Self::Refused { .. }
            | Self::Certificate(_)
            | Self::Unsupported(_) => !streamed_once,
            Self::Server(_)
            | Self::Answer(_)
            | Self::Behind { .. }
            | Self::HistoryLost
            | Self::Unsendable { .. }
            | Self::TooLarge(_)
            | Self::Stream { .. }
            | Self::Jumped(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_a_certificate_is_found_in_the_driver_s_words() {
        let said = "Server selection timeout: No available servers. Topology: { Type: ReplicaSetNoPrimary, Servers: [ { Address: \
                    127.0.0.1:27017, Type: Unknown, Error: Kind: I/O error: invalid peer certificate: UnknownIssuer, labels: {} } ] }";
        assert_eq!(certificate(said).as_deref(), Some("UnknownIssuer"));
        assert_eq!(certificate("Connection refused (os error 111)"), None);
    }
}
