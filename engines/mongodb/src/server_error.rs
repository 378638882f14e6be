//! What is told of an error of the driver. It may carry the server's whole reply, and servers quote keys, documents and commands in their
//! messages: such words are left out, whoever looks at the error and however. The server's own log has them.

use std::fmt;

use mongodb::error::{CommandError, Error, ErrorKind};

/// An error of the driver that can be shown: nothing of a document is in its text.
#[derive(Clone)]
pub struct ServerError(Error);

impl ServerError {
    pub(crate) fn command(&self) -> Option<&CommandError> {
        match &*self.0.kind {
            ErrorKind::Command(command) => Some(command),
            _ => None,
        }
    }
}

impl From<Error> for ServerError {
    fn from(error: Error) -> Self {
        Self(error)
    }
}

// Not what the driver's own error is made of: that is what must not be seen.
impl std::error::Error for ServerError {}

impl fmt::Debug for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerError({self})")
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0.kind {
            ErrorKind::Command(command) => refused(f, command.code, Some(&command.code_name)),
            ErrorKind::InsertMany(failed) => {
                let first = failed.write_errors.iter().flatten().next();
                let concern = failed.write_concern_error.as_ref();
                match (first, concern) {
                    (Some(first), _) => refused(f, first.code, first.code_name.as_deref()),
                    (None, Some(concern)) => refused(f, concern.code, Some(&concern.code_name)),
                    (None, None) => f.write_str("documents were not inserted"),
                }
            }
            ErrorKind::Write(mongodb::error::WriteFailure::WriteError(error)) => {
                refused(f, error.code, error.code_name.as_deref())
            }
            ErrorKind::Write(mongodb::error::WriteFailure::WriteConcernError(error)) => {
                refused(f, error.code, Some(&error.code_name))
            }
            ErrorKind::ServerSelection { message, .. }
            | ErrorKind::ConnectionPoolCleared { message, .. } => {
                f.write_str(&without_replies(message))
            }
            // About the way to the server, and about what was asked for.
            kind @ (ErrorKind::Authentication { .. }
            | ErrorKind::DnsResolve { .. }
            | ErrorKind::Io(_)
            | ErrorKind::InvalidTlsConfig { .. }
            | ErrorKind::IncompatibleServer { .. }
            | ErrorKind::SessionsNotSupported
            | ErrorKind::Shutdown) => write!(f, "{kind}"),
            ErrorKind::InvalidResponse { .. } | ErrorKind::Bson(_) => {
                f.write_str("it sent a reply that cannot be read")
            }
            _ => f.write_str("the driver failed"),
        }
    }
}

fn refused(f: &mut fmt::Formatter<'_>, code: i32, name: Option<&str>) -> fmt::Result {
    match name.filter(|name| !name.is_empty()) {
        Some(name) => write!(f, "it answers {name} (code {code})"),
        None => write!(f, "it answers code {code}"),
    }
}

/// The driver's description of all members, without the replies that are quoted in it as hexadecimal digits.
fn without_replies(message: &str) -> String {
    let mut parts = message.split("server response: Some(");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        text.push_str("server response: left out");
        text.push_str(part.split_once(')').map_or("", |(_, rest)| rest));
    }
    text
}

/// A server's words on what an account may not do, without the command that it quotes: that can hold a document's key.
pub(crate) fn without_command(message: &str) -> &str {
    message.split('{').next().unwrap_or_default().trim_end()
}

#[cfg(test)]
mod tests {
    use bson::rawdoc;

    use super::*;

    #[test]
    fn replies_in_a_description_of_members_are_left_out() {
        let reply = Some(rawdoc! { "keyValue": { "email": "canary" } });
        let said = |reply: &dyn fmt::Debug| {
            format!(
                "Topology: {{ [ {{ Error: Kind: I/O error: refused, source: None, server response: {reply:?} }}, {{ Address: b }} ] }}"
            )
        };
        let shown = without_replies(&said(&reply));
        assert_eq!(
            shown,
            "Topology: { [ { Error: Kind: I/O error: refused, source: None, server response: left out }, { Address: b } ] }"
        );
        let none: Option<()> = None;
        assert_eq!(without_replies(&said(&none)), said(&none));
        assert_eq!(
            without_replies("server response: Some(cut short"),
            "server response: left out"
        );
    }

    #[test]
    fn a_command_that_is_not_allowed_is_not_quoted() {
        let said = "not authorized on shop to execute command { find: \"orders\", min: { _id: \"canary\" } }";
        assert_eq!(
            without_command(said),
            "not authorized on shop to execute command"
        );
    }

    #[test]
    fn what_reading_an_answer_fails_with_is_not_quoted() {
        let reply = rawdoc! { "_id": "canary" };
        let wrong = reply.get_i32("_id").unwrap_err();
        let error = Error::from(wrong);
        for shown in [
            ServerError(error.clone()).to_string(),
            format!("{:?}", ServerError(error)),
        ] {
            assert!(shown.contains("cannot be read"), "{shown}");
        }
    }
}
