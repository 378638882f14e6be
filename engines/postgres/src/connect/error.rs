//! What goes wrong before a session exists, sorted by what the caller does next: wait and retry, or tell an operator.

use std::fmt;
use std::io;
use std::time::Duration;

use super::verify::explain;

/// An error that a PostgreSQL server reported, with the fields an operator can act on.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ServerError {
    /// `ERROR`, `FATAL` or `PANIC`, not localised.
    pub severity: String,
    /// The five characters of the SQLSTATE.
    pub code: String,
    /// The primary message, in the server's language.
    pub message: String,
    /// The detail, if the server gave one.
    pub detail: Option<String>,
    /// The hint, if the server gave one.
    pub hint: Option<String>,
}

impl ServerError {
    /// True when the same request will be refused again until somebody changes something.
    ///
    /// Passing states are: connection trouble (08), shortage such as too many connections (53), a slot in use (55006), an
    /// operator or a starting server in between (57), conflicts (40), input and output errors and internal errors
    /// (58030, XX).
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        let passing_classes = ["08", "40", "53", "57", "XX"];
        let passing_codes = ["55006", "58030"];
        let class = self.code.get(..2).unwrap_or_default();
        !(self.code.len() != 5
            || passing_classes.contains(&class)
            || passing_codes.contains(&self.code.as_str()))
    }

    /// The server refuses connections for now: it is starting up, shutting down, recovering or full.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.code.starts_with("57P") || self.code.starts_with("53")
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.message, self.code)?;
        if let Some(detail) = &self.detail {
            write!(f, "; detail: {detail}")?;
        }
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

/// Why no session came to be. `place` names the host and port, or the socket, that was tried.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The connection string, an environment variable or a file it names is wrong. The text says which and what to do.
    #[error("{0}")]
    Settings(String),
    /// Nobody answers there, or the connection broke before the session began.
    #[error("{place} cannot be reached: {source}")]
    Unreachable {
        /// Where.
        place: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// No session within `connect_timeout`.
    #[error(
        "{place} gave no session within {after:?}; if it is merely slow, raise connect_timeout"
    )]
    TimedOut {
        /// Where.
        place: String,
        /// The limit.
        after: Duration,
    },
    /// TLS is impossible as it was asked for: the server has none, or its certificate is not the right one.
    #[error("no TLS with {place}: {reason}")]
    Tls {
        /// Where.
        place: String,
        /// Why, and what to change.
        reason: String,
    },
    /// We cannot or will not authenticate in the way the server wants.
    #[error("cannot authenticate to {place}: {reason}")]
    Authentication {
        /// Where.
        place: String,
        /// Why, and what to change.
        reason: String,
    },
    /// The server refused, in its own words.
    #[error("{place} refused the connection: {error}{}", remedy(error))]
    Refused {
        /// Where.
        place: String,
        /// Its words.
        error: Box<ServerError>,
    },
    /// A session was possible, but not of the kind that `target_session_attrs` asks for.
    #[error("{place} is not what target_session_attrs={wanted} asks for")]
    WrongKind {
        /// Where.
        place: String,
        /// The setting.
        wanted: &'static str,
    },
    /// What answers does not speak PostgreSQL's protocol.
    #[error("{place} does not speak PostgreSQL's protocol: {what}")]
    Protocol {
        /// Where.
        place: String,
        /// What was seen.
        what: String,
    },
    /// Every host of the list failed.
    #[error("none of the {} hosts can be used: {}", .0.len(), join(.0))]
    AllHosts(Vec<ConnectError>),
}

/// What somebody can do about a refusal.
fn remedy(error: &ServerError) -> &'static str {
    match error.code.as_str() {
        "28P01" => {
            "; give the role's present password (password_file and passfile are read again for every connection), or renew its VALID UNTIL"
        }
        "28000" => "; see that the role exists and that pg_hba.conf lets it in from here",
        _ => "",
    }
}

fn join(errors: &[ConnectError]) -> String {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    texts.join("; ")
}

impl ConnectError {
    /// A server says that it is starting up or shutting down (SQLSTATE 57P03), and no other one let us in.
    #[must_use]
    pub fn is_not_now(&self) -> bool {
        match self {
            Self::Refused { error, .. } => error.code == "57P03",
            Self::AllHosts(errors) => errors.iter().any(Self::is_not_now),
            _ => false,
        }
    }

    /// The stream to `place` broke. In TLS 1.3 a server says only after the handshake that it does not like our certificate.
    pub(crate) fn broke(place: &str, error: &io::Error) -> Self {
        let place = place.to_owned();
        let tls = error
            .get_ref()
            .and_then(|e| e.downcast_ref::<rustls::Error>());
        match tls {
            Some(error) => Self::Tls {
                place,
                reason: explain(error, "", ""),
            },
            None => {
                let source = match error.raw_os_error() {
                    Some(code) => io::Error::from_raw_os_error(code),
                    None => io::Error::new(error.kind(), error.to_string()),
                };
                Self::Unreachable { place, source }
            }
        }
    }

    /// True when trying again changes nothing until somebody changes a setting, a certificate or a grant.
    #[must_use]
    pub fn is_permanent(&self) -> bool {
        match self {
            Self::Settings(_) | Self::Tls { .. } | Self::Authentication { .. } => true,
            Self::Refused { error, .. } => error.is_permanent(),
            Self::AllHosts(errors) => errors.iter().all(Self::is_permanent),
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::WrongKind { .. }
            | Self::Protocol { .. } => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str) -> ServerError {
        ServerError {
            code: code.into(),
            ..ServerError::default()
        }
    }

    #[test]
    fn passing_states_are_retried_and_refusals_are_not() {
        for code in [
            "57P03", "57P01", "53300", "55006", "08006", "XX000", "", "é",
        ] {
            assert!(!server(code).is_permanent(), "{code}");
        }
        for code in [
            "28P01", "28000", "3D000", "42501", "42704", "58P01", "55000",
        ] {
            assert!(server(code).is_permanent(), "{code}");
        }
    }

    #[test]
    fn a_password_that_is_no_longer_right_comes_with_the_remedy() {
        let refused = |code: &str| ConnectError::Refused {
            place: "db:5432".into(),
            error: Box::new(server(code)),
        };
        assert!(refused("28P01").to_string().contains("password_file"));
        assert!(refused("28000").to_string().contains("pg_hba.conf"));
        assert!(refused("57P03").to_string().ends_with("(SQLSTATE 57P03)"));
    }

    #[test]
    fn a_list_of_hosts_is_permanent_only_if_every_host_is() {
        let wrong = || ConnectError::Settings("x".into());
        let away = || ConnectError::TimedOut {
            place: "x".into(),
            after: Duration::from_secs(1),
        };
        assert!(ConnectError::AllHosts(vec![wrong(), wrong()]).is_permanent());
        assert!(!ConnectError::AllHosts(vec![wrong(), away()]).is_permanent());
    }

    #[test]
    fn the_server_s_hint_reaches_the_reader() {
        let error = ServerError {
            hint: Some("Free one.".into()),
            message: "all replication slots are in use".into(),
            code: "53400".into(),
            ..ServerError::default()
        };
        assert_eq!(
            error.to_string(),
            "all replication slots are in use (SQLSTATE 53400); hint: Free one."
        );
    }
}
